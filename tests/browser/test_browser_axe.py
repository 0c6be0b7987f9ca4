"""axe-core finds nothing on any page: by day, by night, on a small screen."""

from __future__ import annotations

from functools import partial

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import ViewportSize

from support.browser_page_kinds import EVERY_KIND, PageKind
from support.browser_session import DESKTOP, BrowserSession, SessionFactory
from support.browser_site import BrowserSite

_RUN_AXE = """async options => {
    const found = await axe.run({
        resultTypes: ['violations'], iframes: false, preload: false, selectors: false,
        ...options,
    });
    return found.violations.map(one => `${one.impact} ${one.id}: `
        + one.nodes.slice(0, 3).map(node => node.html.slice(0, 200)).join(' | '));
}"""

_CHECKED = (
    *("front", "archive", "dataset", "derived", "version", "zarr", "file", "bytes", "diff", "lock"),
    *("volume", "mirrors", "held", "taken-down", "malformed", "help", "api", "nothing-found"),
    *("odd-version", "wide-version", "gateway-odd", "no-page"),
)
"""Pages that together have every element; others differ from them by their text only."""

ZOOMED: ViewportSize = {"width": 320, "height": 256}
"""A screen of 1280 pixels where the page is made four times as large, or a small phone."""


def violations(session: BrowserSession) -> list[str]:
    """Return what axe-core finds by night on a small screen and by day on a large one.

    All sections are open. Nothing may be wider than the screen.
    """
    session.unfold()
    page, found = session.page, []
    for viewport, color_scheme in ((ZOOMED, "dark"), (DESKTOP, "light")):
        page.emulate_media(color_scheme=color_scheme)
        page.set_viewport_size(viewport)
        found += session.elements_beyond_width()
        wrong = page.evaluate(_RUN_AXE, {"rules": {"target-size": {"enabled": True}}})
        found += [f"{session.path} {color_scheme} {viewport['width']}: {one}" for one in wrong]
    return found


@pytest.fixture(name="start_axe")
def fixture_start_axe(start_session: SessionFactory) -> SessionFactory:
    """Starts sessions whose pages have axe-core, which the driver adds whatever the policy."""
    return partial(start_session, script=AXE_SCRIPT)


@pytest.mark.parametrize(
    "kind", [one for one in EVERY_KIND if one.name in _CHECKED], ids=lambda kind: kind.name
)
def test_axe_finds_nothing_on_any_page_and_none_is_wider_than_the_screen(
    start_axe: SessionFactory, site: BrowserSite, kind: PageKind
) -> None:
    session = start_axe(site)
    session.open(kind.path(site), kind.status)
    assert violations(session) == []


def test_axe_finds_nothing_in_an_empty_catalogue(
    start_axe: SessionFactory, empty_site: BrowserSite
) -> None:
    session = start_axe(empty_site)
    session.open("/")
    assert violations(session) == []
