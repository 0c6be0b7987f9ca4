"""URLs of objects with and without their version."""

from __future__ import annotations

import re
from urllib.parse import unquote

_VERSION = "versionId="
_ASSET_DOWNLOAD = re.compile(r"https?://[^?#]+/assets/[^/?#]+/download/?")


def plain_url(url: str) -> str:
    """Return a URL without its ``versionId`` parameter: the current object.

    Parameters
    ----------
    url
        The URL of an object.

    Returns
    -------
    str
        The URL without the parameter.
    """
    if _VERSION not in url:
        return url
    # not urlsplit, which takes longer than all else in recording a file
    address, _, query = url.partition("?")
    if "&" not in query and query.startswith(_VERSION):
        return address
    kept = [pair for pair in query.split("&") if not pair.startswith(_VERSION)]
    return f"{address}?{'&'.join(kept)}" if kept else address


def url_version_id(url: str) -> str | None:
    """Return the decoded ``versionId`` of a URL, or None."""
    if _VERSION not in url:
        return None
    for pair in url.partition("#")[0].partition("?")[2].split("&"):
        if pair.startswith(_VERSION):
            return unquote(pair[len(_VERSION) :]) or None
    return None


def is_asset_download(url: str) -> bool:
    """Return whether a URL is the download of an asset in the API of a DANDI archive.

    The response names the file, so that browsers save it under its name.

    Parameters
    ----------
    url
        The URL of a file.

    Returns
    -------
    bool
        Whether it is such a URL.
    """
    return bool(_ASSET_DOWNLOAD.fullmatch(url))


def url_rank(url: str) -> tuple[bool, bool]:
    """Return a sort key for the URLs of a file: object versions first, API URLs last.

    Parameters
    ----------
    url
        A URL of a file.

    Returns
    -------
    tuple of (bool, bool)
        The sort key.
    """
    return _VERSION not in url, url.endswith("/")
