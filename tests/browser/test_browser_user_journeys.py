"""From a question to the bytes and their other homes, by mouse, by keyboard, without scripts."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

from neuromirror_demo import SHARED
from support.browser_page_kinds import labels
from support.browser_session import PHONE, PHONE_DEVICE, BrowserSession, SessionFactory
from support.browser_site import IMAGES, RELEASED, SHARING, VOLUME, BrowserSite

FOLDER = SHARED.rpartition("/")[0]
TITLE = "Sharp-wave ripples during rest and sleep (demo)"


def journey_links(walk: BrowserSession, site: BrowserSite) -> Iterator[Locator]:
    """What leads on from page to page, from what was found to another dataset's file."""
    version = f"/dataset/{RELEASED}@{labels(site, RELEASED)[-1]}"
    for address in (
        f'="/dataset/{RELEASED}"',
        f'="{version}"',
        f'="{version}?under={FOLDER}"',
        f'^="/file/{RELEASED}@"',
        f'^="/file/{SHARING}@"',
    ):
        yield walk.page.locator(f"main a[href{address}]").first


@pytest.mark.parametrize(
    "how",
    [{}, PHONE_DEVICE, {"java_script_enabled": False}],
    ids=["desktop", "phone", "without-scripts"],
)
def test_search_leads_to_dataset_version_file_and_occurrences(
    start_session: SessionFactory, site: BrowserSite, how: dict[str, Any]
) -> None:
    walk, headings = start_session(site, **how), []
    walk.open("/")
    search = walk.page.get_by_role("searchbox").first
    search.fill("ripples sleep")
    with walk.page.expect_navigation():
        search.press("Enter")
    for link in journey_links(walk, site):
        walk.follow(link)
        headings.append(walk.heading)
    assert headings[0] == TITLE
    assert "sub-101_ses-01_ecephys.nwb" in headings[-2]
    assert walk.path.startswith(f"/file/{SHARING}@")
    walk.page.go_back()
    assert walk.path.startswith(f"/file/{RELEASED}@")
    assert "sha256" in walk.text.lower()


def test_walk_works_with_the_keyboard_only(session: BrowserSession, site: BrowserSite) -> None:
    session.open("/")
    session.tab_to(session.page.get_by_role("searchbox").first)
    session.page.keyboard.type("ripples sleep")
    session.enter()
    for link in journey_links(session, site):
        session.tab_to(link)
        session.enter()
    assert session.path.startswith(f"/file/{SHARING}@")


def test_a_citation_is_there_in_every_format(session: BrowserSession, site: BrowserSite) -> None:
    newest = labels(site, RELEASED)[-1]
    session.open(f"/dataset/{RELEASED}@{newest}")
    summary = session.page.locator("summary", has_text="BibTeX")
    shown = session.page.get_by_text("@dataset{").or_(session.page.get_by_text("@misc{")).first
    assert not shown.is_visible()
    summary.click()
    assert shown.is_visible()
    for fragment in ("cff-version", '"type"', "swh:1:rev:"):
        assert session.page.get_by_text(fragment).first.is_visible(), fragment


def test_pages_send_no_tracking_requests(session: BrowserSession) -> None:
    for path in ("/", f"/dataset/{RELEASED}", "/mirrors"):
        session.open(path)
    assert session.context.cookies() == []
    assert session.page.evaluate("localStorage.length + sessionStorage.length") == 0


_LOADED = "one => one.decode().then(() => one.naturalWidth)"
_PREVIEWED = f"/file/{RELEASED}@latest?path={SHARED}"


def _count(page: Page) -> int:
    return page.locator("ol.results > li").count()


def test_a_facet_narrows_and_widens_without_scripts(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    walk = start_session(site, java_script_enabled=False)
    page = walk.open("/search?q=ecephys")
    every = _count(page)
    row = page.get_by_role("navigation", name="Filter").locator("li", has_text="Published").first
    expected = int(row.locator(".soft").inner_text())
    walk.follow(row.get_by_role("link"))
    assert _count(page) == expected < every
    # the address is enough to see the same results
    page = walk.open(walk.path)
    assert _count(page) == expected
    walk.follow(page.get_by_role("list", name="Selected").get_by_role("link"))
    assert _count(page) == every


def test_facets_of_a_phone_are_reached_by_a_link(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    walk = start_session(site, **PHONE_DEVICE)
    page = walk.open("/search?q=ecephys")
    page.get_by_role("link", name="Filter").click()
    top = page.locator("#facets").bounding_box()
    assert top is not None
    assert 0 <= top["y"] < PHONE["height"]


@pytest.mark.parametrize("scripts", [True, False])
def test_a_preview_is_on_the_page_of_its_file(
    start_session: SessionFactory, site: BrowserSite, scripts: bool
) -> None:
    walk = start_session(site, java_script_enabled=scripts)
    page = walk.open(_PREVIEWED)
    if not scripts:
        walk.follow(page.get_by_role("link", name="Show the preview"))
    picture = page.locator("#preview img")
    picture.wait_for()
    assert picture.get_attribute("alt")
    assert "NWB version" in page.locator("#preview").inner_text()
    if scripts:
        assert picture.evaluate(_LOADED) > 0


@pytest.mark.parametrize("dataset", [RELEASED, IMAGES, VOLUME])
def test_a_dataset_has_a_picture(session: BrowserSession, dataset: str) -> None:
    page = session.open(f"/dataset/{dataset}")
    assert page.locator("figure img").first.evaluate(_LOADED) > 0
