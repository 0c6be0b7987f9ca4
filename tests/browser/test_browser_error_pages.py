"""Unusual, missing, held and removed datasets have useful pages; upstream text never runs."""

from __future__ import annotations

import pytest

from support.browser_page_kinds import EVERY_KIND
from support.browser_session import BrowserSession, SessionFactory
from support.browser_site import HOSTILE, RELEASED, BrowserSite

_FETCH_LINKS = """() => Promise.all([...document.querySelectorAll('main a[href^="/file/"]')].map(
    async one => {
        const response = await fetch(one.href);
        const page = new DOMParser().parseFromString(await response.text(), 'text/html');
        return [one.href, response.status, page.querySelector('main').textContent];
    }))"""


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
    session.open(f"/dataset/{HOSTILE}@latest")
    found = session.page.evaluate(_FETCH_LINKS)
    assert len(found) >= 20
    for address, status, text in found:
        assert status == 200, address
        assert "sha256" in text.lower() or "md5" in text.lower(), address


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
