"""From a question to the bytes and their other homes, by mouse, by keyboard, without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator

from neuromirror_demo import SHARED
from support.browser_page_kinds import labels
from support.browser_session import PHONE_DEVICE, BrowserSession, SessionFactory
from support.browser_site import RELEASED, SHARING, BrowserSite

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
