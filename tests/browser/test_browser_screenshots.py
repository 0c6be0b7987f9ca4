"""Pictures of the pages, for the documentation; ``PICTURES=docs/pictures`` says where to keep them.

Where that is set the archives have fixed ports, so that equal pages give equal pictures.
"""

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.browser_page_kinds import KINDS
from support.browser_session import DESKTOP, PHONE_DEVICE, BrowserSession, SessionFactory
from support.browser_site import BrowserSite

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "reference" / "catalogue.md"

_COLOURS = 40
_MOST_BYTES = 700_000

_HOURS = """() => {
    const today = new Date().toISOString().slice(0, 10);
    const found = new RegExp(`${today}(?:([ T])\\\\d\\\\d(:?)\\\\d\\\\d(\\\\2\\\\d\\\\d)?)?`, 'g');
    const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (all.nextNode())
        all.currentNode.data = all.currentNode.data.replace(
            found, (_, gap, colon, seconds) => '2024-06-03'
                + (gap ? `${gap}09${colon}30` : '') + (seconds ? `${colon}00` : ''));
}"""
"""Replace times of today by a fixed time."""

_COMPLETE = """() => Promise.all([document.fonts.ready, ...[...document.images].map(one => {
    one.loading = 'eager';
    return one.decode();
})])"""
"""Waits for all that comes after the page."""


@dataclass(frozen=True)
class Picture:
    """A picture: its name, the kind of page, and how it is looked at.

    It is at most so many pixels ``tall``.
    """

    name: str
    kind: str
    screen: str = "desktop"
    scheme: str = "light"
    tall: int = 1400

    @property
    def how(self) -> dict[str, Any]:
        """The browser's settings."""
        if self.screen == "phone":
            return PHONE_DEVICE
        return {"viewport": DESKTOP, "color_scheme": self.scheme}


PICTURES = (
    *(Picture(one, one) for one in ("front", "dataset", "version", "file", "diff", "lock")),
    Picture("search", "search", tall=900),
    Picture("volume-dark", "volume", scheme="dark"),
    Picture("version-phone", "version", screen="phone"),
)


def drawn(walk: BrowserSession, picture: Picture) -> bytes:
    """The page as a PNG of few colours."""
    page = walk.page
    page.evaluate(_HOURS)
    page.evaluate(_COMPLETE)
    whole = page.evaluate("document.documentElement.scrollHeight")
    wide = page.evaluate("document.documentElement.clientWidth")
    clip = {"x": 0, "y": 0, "width": wide, "height": min(whole, picture.tall)}
    shot = page.screenshot(full_page=True, clip=clip)
    small = _of_few_colours(Image.open(io.BytesIO(shot)).convert("RGB"))
    kept = io.BytesIO()
    small.save(kept, "PNG", optimize=True)
    return kept.getvalue()


def _of_few_colours(shown: Image.Image) -> Image.Image:
    """The commonest colours as they are, of the others those farthest from each other."""
    red, green, blue = np.moveaxis(np.asarray(shown).astype(np.int32), 2, 0)
    values, where, counts = np.unique(
        red << 16 | green << 8 | blue, return_inverse=True, return_counts=True
    )
    common = values[np.argsort(-counts)[:_COLOURS]]
    colours = np.stack([common >> 16, common >> 8 & 255, common & 255], axis=1)
    farthest = shown.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = np.concatenate([colours, np.reshape(farthest, (-1, 3))])
    found = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1)
    nearest = ((found[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1)
    made = Image.fromarray(nearest[where].reshape(red.shape).astype(np.uint8), "P")
    made.putpalette(palette.astype(np.uint8).tobytes())
    return made


_LOOKED_AT = ("front", "volume-dark", "version-phone")
"""Pictures that are drawn although none are kept."""


@pytest.mark.parametrize(
    "picture",
    [one for one in PICTURES if "PICTURES" in os.environ or one.name in _LOOKED_AT],
    ids=lambda one: one.name,
)
def test_a_picture_shows_its_page(
    start_session: SessionFactory, site: BrowserSite, tmp_path: Path, picture: Picture
) -> None:
    (kind,) = [one for one in KINDS if one.name == picture.kind]
    walk = start_session(site, **picture.how)
    walk.open(kind.path(site), kind.status)
    # an own folder, or the one of this test
    folder = ROOT / os.environ["PICTURES"] if "PICTURES" in os.environ else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{picture.name}.png"
    target.write_bytes(drawn(walk, picture))
    with Image.open(target) as shown:
        assert shown.width == picture.how["viewport"]["width"]
        assert shown.height > 300
        pixels = shown.convert("L").histogram()
        assert max(pixels) < 0.995 * sum(pixels), "nothing is on it"


def named() -> Iterator[tuple[str, str]]:
    """Of each picture that the documentation shows: its name, and what it says to who sees none."""
    yield from (
        (name, text)
        for text, name in re.findall(
            r"!\[([^\]]*)\]\(\.\./pictures/([^)]+)\.png\)", PAGE.read_text()
        )
    )


def test_the_documentation_shows_and_describes_every_picture() -> None:
    alt_texts = dict(named())
    assert alt_texts.keys() == {picture.name for picture in PICTURES}
    assert all(len(text) > 30 for text in alt_texts.values())
    assert len(set(alt_texts.values())) == len(alt_texts)


def test_every_picture_is_kept_and_none_is_large() -> None:
    kept = {one.stem: one for one in KEPT.iterdir()}
    assert kept.keys() == {one.name for one in PICTURES}, "PICTURES=docs/pictures scripts/test …"
    assert sum(one.stat().st_size for one in kept.values()) < _MOST_BYTES
    for picture in PICTURES:
        with Image.open(kept[picture.name]) as shown:
            assert shown.format == "PNG"
            assert shown.width == picture.how["viewport"]["width"]
