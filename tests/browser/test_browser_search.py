"""Facets of a search, and the previews of what it finds."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from neuromirror_demo import SHARED
from support.browser_session import PHONE, PHONE_DEVICE, BrowserSession, SessionFactory
from support.browser_site import IMAGES, RELEASED, VOLUME, BrowserSite

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
