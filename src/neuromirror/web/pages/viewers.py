"""Links to browser-based viewers of files and Zarrs.

Viewers download the data themselves, so that they get public URLs only. URL formats:
Neurosift's ``/nwb?url=…&dandisetId=…&dandisetVersion=…``; Neuroglancer's state in a URL, whose
sources are plain URLs; Vol-E's ``/viewer?url=…`` and the OME-NGFF validator's ``?source=…``.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote, urlencode, urlsplit

from neuromirror.index import Index, LocationRow, UnknownFileError, VersionRow
from neuromirror.model import ZARR_MARKERS

_NEUROSIFT = "https://neurosift.app/nwb?"
_NEUROGLANCER = "https://neuroglancer-demo.appspot.com/#!"
_VOLE = "https://volumeviewer.allencell.org/viewer?"
_VALIDATOR = "https://ome.github.io/ome-ngff-validator/?"
_DANDI = "https://api.dandiarchive.org/"
_MAX_LOCATIONS = 20

Viewer = tuple[str, str]
"""The name and the URL of a viewer."""


def file_viewers(row: VersionRow, path: str, locations: Iterable[LocationRow]) -> list[Viewer]:
    """Return viewers of a file, for the first of its locations that is public."""
    name = path.lower()
    if not name.endswith((".nwb", ".nii", ".nii.gz")):
        return []
    urls = [one.url for one in locations if one.result in (None, "ok") and is_public(one.url)]
    if not urls:
        return []
    if name.endswith(".nwb"):
        # with the archive's own URL Neurosift can query it, for example for a preprocessed copy
        url = next((one for one in urls if one.startswith(_DANDI)), urls[0])
        query = {"url": url}
        if url.startswith(_DANDI):
            query |= {"dandisetId": row.local_id, "dandisetVersion": row.upstream}
        return [("Neurosift", _NEUROSIFT + urlencode(query))]
    return [("Neuroglancer", _neuroglancer(path, urls[0]))]


def zarr_viewers(index: Index, row: VersionRow, under: str = "", *, name: str = "") -> list[Viewer]:
    """Return viewers of the Zarr in a folder of a version; empty without a public Zarr.

    ``name`` is its name if that differs from the folder's. The viewers show the current state at
    the archive, which may differ from this version.
    """
    if not row.indexed:
        return []
    for root in _zarr_urls(index, row, under):
        label = name or under or row.local_id
        found = [("Neuroglancer", _neuroglancer(label, root))]
        if label.lower().endswith(".ome.zarr"):
            found.append(("Vol-E", _VOLE + urlencode({"url": root})))
            found.append(("OME-NGFF validator", _VALIDATOR + urlencode({"source": root})))
        return found
    return []


def _zarr_urls(index: Index, row: VersionRow, under: str) -> Iterator[str]:
    """Yield public URLs of the folder with the file that marks it as a Zarr."""
    for marker in sorted(one.decode() for one in ZARR_MARKERS):
        try:
            file = index.file(row, f"{under}/{marker}" if under else marker)
        except UnknownFileError:
            continue
        for location in index.locations(file.content, limit=_MAX_LOCATIONS):
            url = location.url.partition("?")[0]
            if is_public(url) and url.endswith(f"/{marker}"):
                yield url.removesuffix(f"/{marker}")


def _neuroglancer(name: str, url: str) -> str:
    layer = {"name": name.rpartition("/")[2], "source": url, "type": "image"}
    return _NEUROGLANCER + quote(json.dumps({"layers": [layer]}, separators=(",", ":")), safe=":/,")


def is_web(url: str) -> bool:
    """Return whether a URL is http or https."""
    return url.startswith(("https://", "http://"))


def is_public(url: str) -> bool:
    """Return whether a page on the web may fetch a URL: it is https and its host is not private."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False  # not a URL
    host = parts.hostname or ""
    if parts.scheme != "https" or "." not in host:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return not host.endswith((".local", ".localhost", ".internal"))
