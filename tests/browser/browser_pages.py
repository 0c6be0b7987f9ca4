"""Every kind of page, with an address of each; the pictures are of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from browser_site import (
    ASSET,
    GONE,
    GROWING,
    HELD,
    HOSTILE,
    IMAGES,
    LONG,
    ODD,
    RELEASED,
    SECRET,
    VOLUME,
    WIDE,
    Shown,
)

from neuromirror_demo import SHARED


@dataclass(frozen=True)
class Kind:
    """A kind of page: its name, where one is at a site, its status."""

    name: str
    path: Callable[[Shown], str]
    status: int = 200


def _at(path: str) -> Callable[[Shown], str]:
    return lambda shown: path


def labels(shown: Shown, dataset: str) -> list[str]:
    """The labels of a dataset's versions, the first one first."""
    told = shown.site.api(f"/datasets/{dataset}")["all_versions"]
    return [one["version"] for one in told]


def diff_path(shown: Shown) -> str:
    """What differs between the released versions of a dandiset."""
    first, second, *_ = labels(shown, RELEASED)
    return f"/diff?a={RELEASED}@{first}&b={RELEASED}@{second}"


def bytes_path(shown: Shown) -> str:
    """Every place of the file that three dandisets share."""
    told = shown.site.api(f"/datasets/{RELEASED}@draft/files")["files"]
    (one,) = [one for one in told if one["path"] == SHARED]
    return f"/find?checksum=sha256:{one['digests']['sha256']}"


def _file(name: str, path: str) -> Callable[[Shown], str]:
    return _at(f"/file/{name}@latest?path={quote(path)}")


def _odd_file(shown: Shown) -> str:
    (one,) = shown.site.api(f"/datasets/{ODD}@latest/files")["files"]
    return f"/file/{ODD}@latest?path={quote(one['path'])}"


KINDS = (
    Kind("front", _at("/")),
    Kind("search", _at("/?q=ecephys")),
    Kind("archive", _at("/?mirror=demo")),
    Kind("dataset", _at(f"/dataset/{RELEASED}")),
    Kind("growing", _at(f"/dataset/{GROWING}")),
    Kind("derived", _at(f"/dataset/{ASSET}")),
    Kind("version", _at(f"/dataset/{RELEASED}@latest")),
    Kind("folder", _at(f"/dataset/{RELEASED}@latest?under=sub-201")),
    Kind("zarr", _at(f"/dataset/{IMAGES}@latest?under=sub-501")),
    Kind("file", _file(RELEASED, SHARED)),
    Kind("bytes", bytes_path),
    Kind("diff", diff_path),
    Kind("volume", _at(f"/volume/{VOLUME}@latest")),
    Kind("mirrors", _at("/mirrors")),
    Kind("events", _at("/events")),
    Kind("held", _at(f"/dataset/{HELD}")),
    Kind("gone", _at(f"/dataset/{GONE}")),
    Kind("taken-down", _at(f"/dataset/{SECRET}"), 410),
    Kind("unknown", _at("/dataset/demo:999999"), 404),
    Kind("malformed", _at("/find?checksum=xyz"), 400),
)
"""Those of which there are pictures."""

ODD_KINDS = (
    Kind("nothing-found", _at("/?q=hippocampus")),
    Kind("volume-dataset", _at(f"/dataset/{VOLUME}")),
    Kind("odd-found", _at("/?q=onerror")),
    Kind("odd-title", _at(f"/dataset/{ODD}")),
    Kind("odd-version", _at(f"/dataset/{ODD}@latest")),
    Kind("odd-file", _odd_file),
    Kind("odd-names", _at(f"/dataset/{HOSTILE}@latest")),
    Kind("wide", _at(f"/dataset/{WIDE}")),
    Kind(
        "wide-version",
        _at(f"/dataset/{WIDE}@latest?under={LONG}"),
    ),
    Kind("no-page", _at("/no/such/page"), 404),
    Kind("no-version", _at(f"/dataset/{RELEASED}@9.9.9"), 404),
)
"""Those that are hard to show."""

EVERY_KIND = (*KINDS, *ODD_KINDS)
