"""From a question to the bytes and their other homes, by mouse, by keyboard, without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser_pages import labels
from browser_site import RELEASED, SHARING, Shown
from browser_walk import PHONE, Walk, Walker
from playwright.sync_api import Locator

from neuromirror_demo import SHARED

FOLDER = SHARED.rpartition("/")[0]
TITLE = "Sharp-wave ripples during rest and sleep (demo)"


def way(walk: Walk, site: Shown) -> Iterator[Locator]:
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
    [{}, {"viewport": PHONE, "has_touch": True}, {"java_script_enabled": False}],
    ids=["desk", "phone", "without-scripts"],
)
def test_words_lead_to_a_dataset_a_version_a_file_and_its_other_homes(
    walker: Walker, site: Shown, how: dict[str, Any]
) -> None:
    walk, headings = walker(site, **how), []
    walk.open("/")
    search = walk.page.get_by_role("searchbox").first
    search.fill("ripples sleep")
    with walk.page.expect_navigation():
        search.press("Enter")
    for link in way(walk, site):
        walk.follow(link)
        headings.append(walk.heading)
    assert headings[0] == TITLE
    assert "sub-101_ses-01_ecephys.nwb" in headings[-2]
    assert walk.path.startswith(f"/file/{SHARING}@")
    walk.page.go_back()
    assert walk.path.startswith(f"/file/{RELEASED}@")
    assert "sha256" in walk.text.lower()


def test_the_whole_way_is_gone_with_the_keyboard_alone(walk: Walk, site: Shown) -> None:
    walk.open("/")
    walk.tab_to(walk.page.get_by_role("searchbox").first)
    walk.page.keyboard.type("ripples sleep")
    walk.enter()
    for link in way(walk, site):
        walk.tab_to(link)
        walk.enter()
    assert walk.path.startswith(f"/file/{SHARING}@")


def test_a_checksum_is_searched_for_like_words(walk: Walk, site: Shown) -> None:
    told = site.site.api(f"/datasets/{RELEASED}@draft/files")["files"]
    (digest,) = [one["digests"]["sha256"] for one in told if one["path"] == SHARED]
    walk.open("/")
    walk.page.get_by_role("searchbox").first.fill(digest)
    with walk.page.expect_navigation():
        walk.page.get_by_role("searchbox").first.press("Enter")
    for one in ("demo:000001", RELEASED, SHARING):
        assert one in walk.text


def test_what_two_versions_differ_by_is_asked_for_on_the_page(walk: Walk, site: Shown) -> None:
    first, second, *_ = labels(site, RELEASED)
    walk.open(f"/dataset/{RELEASED}")
    walk.follow(
        walk.page.locator(f'main a[href*="/diff?a="][href*="{first}"][href*="{second}"]').first
    )
    assert first in walk.text
    assert second in walk.text
    for path in ("sub-201_ses-02", "sub-203_ses-01", "sub-202_ses-01"):
        assert path in walk.text


def test_a_citation_is_there_in_every_format(walk: Walk, site: Shown) -> None:
    newest = labels(site, RELEASED)[-1]
    walk.open(f"/dataset/{RELEASED}@{newest}")
    summary = walk.page.locator("summary", has_text="BibTeX")
    shown = walk.page.get_by_text("@dataset{").or_(walk.page.get_by_text("@misc{")).first
    assert not shown.is_visible()
    summary.click()
    assert shown.is_visible()
    for word in ("cff-version", '"type"', "swh:1:rev:"):
        assert walk.page.get_by_text(word).first.is_visible(), word


def test_nobody_is_followed(walk: Walk) -> None:
    for path in ("/", f"/dataset/{RELEASED}", "/mirrors"):
        walk.open(path)
    assert walk.context.cookies() == []
    assert walk.page.evaluate("localStorage.length + sessionStorage.length") == 0
