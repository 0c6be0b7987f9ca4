"""All kinds of pages with their addresses, as used for the screenshots."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from neuromirror_demo import SHARED
from support.browser_site import (
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
    BrowserSite,
)


@dataclass(frozen=True)
class PageKind:
    """A kind of page: its name, its path at a site, and its HTTP status."""

    name: str
    path: Callable[[BrowserSite], str]
    status: int = 200


def _at(path: str) -> Callable[[BrowserSite], str]:
    return lambda shown: path


def labels(shown: BrowserSite, dataset: str) -> list[str]:
    """Return the labels of a dataset's versions, oldest first."""
    versions = shown.site.api(f"/datasets/{dataset}")["all_versions"]
    return [version["version"] for version in versions]


def diff_path(shown: BrowserSite) -> str:
    """Return the path of a comparison of two published versions."""
    first, second, *_ = labels(shown, RELEASED)
    return f"/diff?a={RELEASED}@{first}&b={RELEASED}@{second}"


def bytes_path(shown: BrowserSite) -> str:
    """Return the path of a search for the file that three dandisets share."""
    files = shown.site.api(f"/datasets/{RELEASED}@draft/files")["files"]
    (one,) = [file for file in files if file["path"] == SHARED]
    return f"/find?checksum=sha256:{one['digests']['sha256']}"


def _file(name: str, path: str) -> Callable[[BrowserSite], str]:
    return _at(f"/file/{name}@latest?path={quote(path)}")


def _odd_file(shown: BrowserSite) -> str:
    (one,) = shown.site.api(f"/datasets/{ODD}@latest/files")["files"]
    return f"/file/{ODD}@latest?path={quote(one['path'])}"


KINDS = (
    PageKind("front", _at("/")),
    PageKind("search", _at("/?q=ecephys")),
    PageKind("archive", _at("/search?archive=demo")),
    PageKind("dataset", _at(f"/dataset/{RELEASED}")),
    PageKind("growing", _at(f"/dataset/{GROWING}")),
    PageKind("derived", _at(f"/dataset/{ASSET}")),
    PageKind("version", _at(f"/dataset/{RELEASED}@latest")),
    PageKind("folder", _at(f"/dataset/{RELEASED}@latest?under=sub-201")),
    PageKind("zarr", _at(f"/dataset/{IMAGES}@latest?under=sub-501")),
    PageKind("file", _file(RELEASED, SHARED)),
    PageKind("bytes", bytes_path),
    PageKind("diff", diff_path),
    PageKind("compare", _at(f"/diff?dataset={RELEASED}")),
    PageKind("lock", _at(f"/lock?add={RELEASED}@latest&add={IMAGES}@latest")),
    PageKind("volume", _at(f"/volume/{VOLUME}@latest")),
    PageKind("mirrors", _at("/mirrors")),
    PageKind("events", _at("/events")),
    PageKind("held", _at(f"/dataset/{HELD}")),
    PageKind("gone", _at(f"/dataset/{GONE}")),
    PageKind("taken-down", _at(f"/dataset/{SECRET}"), 410),
    PageKind("unknown", _at("/dataset/demo:999999"), 404),
    PageKind("malformed", _at("/find?checksum=xyz"), 400),
)
"""Pages of the demo archives, of which the documentation shows some."""

ODD_KINDS = (
    PageKind("help", _at("/help")),
    PageKind("api", _at("/api")),
    PageKind("changes", _at("/changes")),
    PageKind("compare-datasets", _at("/diff")),
    PageKind("lock-empty", _at("/lock?q=ripples")),
    PageKind("lock-odd", _at(f"/lock?add={ODD}@latest&add={WIDE}@latest&q=never")),
    PageKind("nothing-found", _at("/?q=hippocampus")),
    PageKind("volume-dataset", _at(f"/dataset/{VOLUME}")),
    PageKind("odd-found", _at("/?q=onerror")),
    PageKind("odd-title", _at(f"/dataset/{ODD}")),
    PageKind("odd-version", _at(f"/dataset/{ODD}@latest")),
    PageKind("odd-file", _odd_file),
    PageKind("odd-names", _at(f"/dataset/{HOSTILE}@latest")),
    PageKind("wide", _at(f"/dataset/{WIDE}")),
    PageKind("wide-version", _at(f"/dataset/{WIDE}@latest?under={LONG}")),
    PageKind("gateway", _at(f"/at/{RELEASED}@latest/")),
    PageKind("gateway-odd", _at(f"/at/{ODD}@latest/")),
    PageKind("gateway-wide", _at(f"/at/{WIDE}@latest/{LONG}/")),
    PageKind("no-page", _at("/no/such/page"), 404),
    PageKind("no-version", _at(f"/dataset/{RELEASED}@9.9.9"), 404),
)
"""Pages with unusual content."""

EVERY_KIND = (*KINDS, *ODD_KINDS)
