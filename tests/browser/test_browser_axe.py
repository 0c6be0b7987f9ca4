"""axe-core finds nothing on any page: by day, by night, on a phone."""

from __future__ import annotations

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from support.browser_page_kinds import EVERY_KIND, PageKind
from support.browser_session import DESKTOP, PHONE, BrowserSession, SessionFactory
from support.browser_site import BrowserSite

_RUN_AXE = """async rules => {
    const found = await axe.run({
        resultTypes: ['violations'],
        rules: {'target-size': {enabled: true}},
        ...(rules ? {runOnly: {type: 'rule', values: rules}} : {}),
    });
    return found.violations.map(one => `${one.impact} ${one.id}: `
        + one.nodes.slice(0, 3).map(node => node.html.slice(0, 200)).join(' | '));
}"""

COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules that a page can break by night and not by day."""


def violations(walk: BrowserSession, rules: list[str] | None = None) -> list[str]:
    """What axe-core finds on a page; it is put there by the driver, whatever the policy."""
    found: list[str] = walk.page.evaluate(_RUN_AXE, rules)
    return [f"{walk.path}: {one}" for one in found]


def in_every_light(walk: BrowserSession) -> list[str]:
    """What axe-core finds by day, by night and on a phone, with all that is folded open."""
    walk.unfold()
    walk.page.evaluate(AXE_SCRIPT)
    found = violations(walk)
    walk.page.emulate_media(color_scheme="dark")
    found += [f"by night: {one}" for one in violations(walk, COLOURS)]
    walk.page.emulate_media(color_scheme="light")
    walk.page.set_viewport_size(PHONE)
    found += [f"on a phone: {one}" for one in violations(walk)]
    walk.page.set_viewport_size(DESKTOP)
    return found


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_axe_finds_nothing_on_any_page_and_none_is_wider_than_the_screen(
    shared_session: BrowserSession, site: BrowserSite, kind: PageKind
) -> None:
    page = shared_session.page
    # a phone, and a screen of 1280 pixels where the page is made four times as large
    for size in (PHONE, {"width": 320, "height": 256}, DESKTOP):
        page.set_viewport_size(size)
        if size == PHONE:
            shared_session.open(kind.path(site), kind.status)
        assert shared_session.elements_beyond_width() == []
    assert in_every_light(shared_session) == []


@pytest.mark.parametrize("path", ["/", "/mirrors", "/events"])
def test_axe_finds_nothing_in_an_empty_catalogue(
    start_session: SessionFactory, empty_site: BrowserSite, path: str
) -> None:
    walk = start_session(empty_site)
    walk.open(path)
    assert in_every_light(walk) == []
