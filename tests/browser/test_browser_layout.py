"""Any screen: a phone, a page made large, the dark, no motion."""

from __future__ import annotations

from support.browser_session import SessionFactory
from support.browser_site import RELEASED, BrowserSite

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
