"""axe-core finds nothing on any page, on any screen: a phone, a page made large, the dark."""

from functools import partial

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import ViewportSize

from support.browser_page_kinds import EVERY_KIND, PageKind
from support.browser_session import DESKTOP, BrowserSession, SessionFactory
from support.browser_site import RELEASED, BrowserSite

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


_COLOURS = """() => ['body', 'h1', 'main a', 'pre', 'button', 'footer'].map(where => {
    const one = document.querySelector(where), style = getComputedStyle(one);
    let ground = one;
    while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
        ground = ground.parentElement;
    return [where, style.color, ground ? getComputedStyle(ground).backgroundColor : 'rgb(0, 0, 0)'];
})"""

_MOVES = """() => [...document.querySelectorAll('*')].filter(one => {
    const style = getComputedStyle(one);
    return [style.animationDuration, style.transitionDuration].some(
        time => time.split(',').some(part => parseFloat(part) > 0.01))
        || style.scrollBehavior === 'smooth';
}).map(one => one.outerHTML.slice(0, 100))"""


def test_text_may_be_twice_as_large(start_session: SessionFactory, site: BrowserSite) -> None:
    walk = start_session(site)
    for path in ("/", f"/dataset/{RELEASED}", f"/dataset/{RELEASED}@latest"):
        walk.open(path)
        walk.page.evaluate("document.documentElement.style.fontSize = '200%'")
        assert walk.elements_beyond_width() == []


def test_a_zoomed_page_has_everything_that_the_page_has(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    path, texts = f"/dataset/{RELEASED}", []
    for how in ({}, {"viewport": {"width": 600, "height": 400}}):
        walk = start_session(site, **how)
        walk.open(path)
        texts.append({one for one in walk.page.locator("a:visible").all_inner_texts() if one})
    assert texts[0] == texts[1]


def test_the_dark_is_dark_and_the_light_is_light(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        walk = start_session(site, color_scheme=scheme)
        walk.open(f"/dataset/{RELEASED}")
        brightness[scheme] = {
            where: (_light(ink), _light(ground))
            for where, ink, ground in walk.page.evaluate(_COLOURS)
        }
    assert brightness["light"].keys() == brightness["dark"].keys()
    for where, (ink, ground) in brightness["light"].items():
        assert ground - ink > 0.4, ("light", where)
    for where, (ink, ground) in brightness["dark"].items():
        assert ink - ground > 0.4, ("dark", where)


def _light(colour: str) -> float:
    """How light ``rgb(1, 2, 3)`` is, 0 to 1."""
    red, green, blue = (float(one) for one in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def test_reduced_motion_is_respected(start_session: SessionFactory, site: BrowserSite) -> None:
    walk = start_session(site, reduced_motion="reduce")
    for path in ("/", f"/dataset/{RELEASED}", f"/dataset/{RELEASED}@latest"):
        walk.open(path)
        assert walk.page.evaluate(_MOVES) == []
