"""Addresses of dandisets: identifiers, DOIs, and URLs of the API, of the web pages and of dandi.

The parser of the dandi package is not used, because it sends requests to the archive for most
addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from neuromirror.sources.dandi_client import archive_at
from neuromirror.sources.protocol import LocatedDataset

_ID: Final = r"(?P<id>[0-9]{6})"
_IDENTIFIER: Final = re.compile(
    rf"(?P<instance>[A-Za-z][A-Za-z-]*):{_ID}(?:[/@](?P<version>[^/@]+))?/?\Z"
)
_CLIENT_URL: Final = re.compile(
    rf"dandi://(?P<instance>[^/]+)/{_ID}(?:@(?P<version>[^/]+))?(?:/(?P<path>.*))?\Z"
)
_DOI: Final = re.compile(
    r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?10\.[0-9]{4,9}/"
    rf"(?P<instance>[a-z-]+)\.{_ID}(?:/(?P<version>[^/]+))?/?\Z",
    re.IGNORECASE,
)
_API_PATH: Final = re.compile(rf"/dandisets/{_ID}(?:/versions/(?P<version>[^/]+))?(?:/.*)?\Z")
_PAGE_PATH: Final = re.compile(rf"/dandiset/{_ID}(?:/(?P<version>[^/]+))?(?:/files)?/?\Z")


def locate(
    api: str, mirror: str, address: str, fetch_gui: Callable[[], str]
) -> LocatedDataset | None:
    """Parse an address of a dandiset; None if it is not in this archive.

    Parameters
    ----------
    api
        The URL of the archive's API.
    mirror
        The name of the mirror.
    address
        An identifier (``DANDI:000027``), a DOI, or a URL of the API, of a web page or of ``dandi``.
    fetch_gui
        Requests the URL of the web pages, for the page of an archive that is not built in.
    """
    for form in (_IDENTIFIER, _CLIENT_URL, _DOI):
        if (found := form.match(address)) is not None:
            if not _is_archive(found["instance"], api, mirror):
                return None
            path = unquote(found.groupdict().get("path") or "", errors="surrogateescape")
            return LocatedDataset(found["id"], found["version"], path.strip("/") or None)
    if not address.startswith(("https://", "http://")):
        return None
    if address.startswith(f"{api}/"):
        return _locate_page(address.removeprefix(api), _API_PATH, "path")
    page = urlsplit(address)
    if "/dandiset/" not in f"{page.path}{page.fragment}":
        return None
    archive = archive_at(api)
    host = urlsplit(archive.gui if archive else fetch_gui()).netloc.lower()
    if page.netloc.lower() not in {host, f"gui.{host}"}:
        return None
    # older pages have their path after the #
    rest = page.fragment or f"{page.path}?{page.query}"
    return _locate_page(rest, _PAGE_PATH, "location")


def _locate_page(rest: str, form: re.Pattern[str], parameter: str) -> LocatedDataset | None:
    path, _, query = rest.partition("?")
    found = form.match(path)
    if found is None:
        return None
    values = parse_qs(query, errors="surrogateescape").get(parameter, [""])
    return LocatedDataset(found["id"], found["version"], values[0].strip("/") or None)


def _is_archive(name: str, api: str, mirror: str) -> bool:
    """Return whether a name in an address is that of the mirror or of its archive."""
    lowered = name.lower()
    if lowered == mirror:
        return True
    archive = archive_at(api)
    known = archive.name if archive else ""
    return lowered in (known, known.removesuffix("-dandi"), known.removeprefix("ember-")) and (
        lowered != "dandi" or known == "dandi"
    )
