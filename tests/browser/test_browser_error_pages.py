"""Unusual, missing, held and removed datasets have useful pages; upstream text never runs."""

from __future__ import annotations

import pytest

from support.browser_page_kinds import EVERY_KIND
from support.browser_session import BrowserSession, SessionFactory
from support.browser_site import HOSTILE, RELEASED, BrowserSite


@pytest.mark.parametrize("name", [one.name for one in EVERY_KIND if one.name.startswith("odd")])
def test_a_script_in_upstreams_text_is_read_and_never_run(
    session: BrowserSession, site: BrowserSite, name: str
) -> None:
    (kind,) = [one for one in EVERY_KIND if one.name == name]
    page = session.open(kind.path(site))
    assert page.title() != "run"
    assert page.locator("main script:not([type]), main img[src='x']").count() == 0
    for never in ("7006652", "\u202e", "\x07"):
        assert never not in session.text
        assert never not in page.title()
    if name != "odd-names":
        assert "<script>document.title" in session.text


def test_each_hostile_name_leads_to_its_file(session: BrowserSession) -> None:
    address = f"/dataset/{HOSTILE}@latest"
    session.open(address)
    links = session.page.locator('main a[href^="/file/"]')
    addresses = [one.get_attribute("href") or "" for one in links.all()]
    assert len(addresses) >= 20
    for path in addresses:
        session.open(path)
        assert "sha256" in session.text.lower() or "md5" in session.text.lower(), path


def test_from_an_error_one_can_search_on(session: BrowserSession) -> None:
    session.open("/dataset/demo:999999", 404)
    assert session.page.locator("main code").count() == 0
    assert "`" not in session.text
    search = session.page.get_by_role("searchbox").first
    search.fill("ripples")
    with session.page.expect_navigation():
        search.press("Enter")
    assert RELEASED in session.text


def test_an_empty_catalogue_has_no_empty_values(
    start_session: SessionFactory, empty_site: BrowserSite
) -> None:
    walk = start_session(empty_site)
    for path in ("/", "/?q=anything", "/mirrors", "/changes", "/events"):
        walk.open(path)
        assert walk.heading
        assert "None" not in walk.text
