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

_RUN_COLOURS = """async ([checked, rules]) => {
    const known = new Set(checked), added = {}, layers = new Map([[null, []]]);
    const layersOf = element => {
        if (!layers.has(element)) {
            const {color, backgroundColor, backgroundImage, opacity} = getComputedStyle(element);
            const own = [color, backgroundColor, backgroundImage, opacity].join();
            const outer = layersOf(element.parentElement);
            layers.set(element, own === outer[0] ? outer : [own, ...outer]);
        }
        return layers.get(element);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const elements = [...document.querySelectorAll('input, select, textarea')];
    while (texts.nextNode())
        if (texts.currentNode.data.trim()) elements.push(texts.currentNode.parentElement);
    for (const one of elements.filter(element => element.checkVisibility())) {
        const {fontSize, fontWeight, textDecorationLine, textShadow} = getComputedStyle(one);
        const name = [one.tagName === 'A', fontSize, fontWeight, textDecorationLine, textShadow,
            ...layersOf(one)].join(';');
        if (!known.has(name)) added[name] = one;
    }
    const include = Object.values(added);
    if (!include.length) return [[], []];
    const found = await axe.run({include}, {
        resultTypes: ['violations'], iframes: false, preload: false, selectors: false,
        runOnly: {type: 'rule', values: rules},
    });
    return [Object.keys(added), found.violations.map(one => `${one.impact} ${one.id}: `
        + one.nodes.slice(0, 3).map(node => node.html.slice(0, 200)).join(' | '))];
}"""
"""Check the colours of texts with styles that are not among the checked ones, and return them."""

COLOUR_RULES = ("color-contrast", "link-in-text-block")
"""These take most of the time, and depend only on the styles of a text."""

_NOT_COLOURS = {
    "rules": {"target-size": {"enabled": True}, **{one: {"enabled": False} for one in COLOUR_RULES}}
}
ZOOMED: ViewportSize = {"width": 320, "height": 256}
"""A screen of 1280 pixels where the page is made four times as large, or a small phone."""

_SIZES = ("target-size", "scrollable-region-focusable", "link-name", "region")
"""Rules that depend on the width: sizes, and links that are hidden on a desktop."""


def violations(session: BrowserSession, checked_styles: set[str]) -> list[str]:
    """Return what axe-core finds by day, by night and on a small screen, and what is too wide.

    All sections are open. Texts with one of the checked styles are not checked for their colours
    again.
    """
    session.unfold()
    page, found = session.page, []
    for viewport, color_scheme, options in (
        (ZOOMED, "dark", None),
        (ZOOMED, "light", {"runOnly": _SIZES}),
        (DESKTOP, "light", _NOT_COLOURS),
    ):
        page.emulate_media(color_scheme=color_scheme)
        if page.viewport_size != viewport:
            page.set_viewport_size(viewport)
            found += session.elements_beyond_width()
        added, wrong = page.evaluate(_RUN_COLOURS, [[*checked_styles], COLOUR_RULES])
        checked_styles.update([] if wrong else added)
        if options:
            wrong += page.evaluate(_RUN_AXE, options)
        found += [f"{session.path} {color_scheme} {viewport['width']}: {one}" for one in wrong]
    return found


@pytest.fixture(scope="module")
def checked_styles() -> set[str]:
    """The styles of texts that were checked on a page before."""
    return set()


@pytest.fixture(name="start_axe")
def fixture_start_axe(start_session: SessionFactory) -> SessionFactory:
    """Starts sessions whose pages have axe-core, which the driver adds whatever the policy."""
    return partial(start_session, script=AXE_SCRIPT)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_axe_finds_nothing_on_any_page_and_none_is_wider_than_the_screen(
    start_axe: SessionFactory, site: BrowserSite, checked_styles: set[str], kind: PageKind
) -> None:
    session = start_axe(site)
    session.open(kind.path(site), kind.status)
    assert violations(session, checked_styles) == []


def test_axe_finds_nothing_in_an_empty_catalogue(
    start_axe: SessionFactory, empty_site: BrowserSite, checked_styles: set[str]
) -> None:
    session = start_axe(empty_site)
    for path in ("/", "/mirrors", "/events"):
        session.open(path)
        assert violations(session, checked_styles) == []
