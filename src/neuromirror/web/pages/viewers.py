"""Links to browser-based viewers of files and Zarrs.

Viewers download the data themselves, so that they get public URLs only: of the catalogue's gateway
where it is on, which show the version, else of the archive. URL formats:
Neurosift's ``/nwb?url=…&dandisetId=…&dandisetVersion=…``; Neuroglancer's state in a URL, whose
sources are plain URLs; Vol-E's ``/viewer?url=…`` and the OME-NGFF validator's ``?source=…``.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote, urlencode, urlsplit

from msgspec import Struct

from neuromirror.index import FileRow, Index, LocationRow, UnknownFileError, VersionRow
from neuromirror.model import ZARR_MARKERS
from neuromirror.model.records import has_downloads, is_volume
from neuromirror.web.addresses import gateway_address
from neuromirror.web.gateway.modes import GatewayModes

_NEUROSIFT = "https://neurosift.app/nwb?"
_NEUROGLANCER = "https://neuroglancer-demo.appspot.com/#!"
_VOLE = "https://volumeviewer.allencell.org/viewer?"
_VALIDATOR = "https://ome.github.io/ome-ngff-validator/?"
_DANDI = "https://api.dandiarchive.org/"
_MAX_LOCATIONS = 20

Viewer = tuple[str, str]
"""The name and the URL of a viewer."""


class GatewayLinks(Struct, frozen=True):
    """URLs of pinned files and folders for viewers, which are on other sites.

    ``base_url`` is that of the catalogue.
    """

    base_url: str
    modes: GatewayModes

    def url(self, row: VersionRow, path: str = "") -> str:
        """Return the URL of a file or folder; empty if viewers cannot read it."""
        if self.modes.of(row.mirror) == "off" or not is_public(self.base_url):
            return ""
        return self.base_url + gateway_address(row.dataset_name, row.label, path)

    def volume_viewers(self, index: Index, row: VersionRow) -> list[Viewer]:
        """Return viewers of a version that is a volume; empty if it is none."""
        links = index.links(row.dataset_name)
        root = self.url(row).rstrip("/")
        if not root or not is_volume(row.source_uri, links):
            return []
        if has_downloads(row.source_uri):
            return [("Neuroglancer", _neuroglancer(row.local_id, f"precomputed://{root}", "auto"))]
        if self.modes.of(row.mirror) != "proxy":
            return []  # blocks of a volume service have no URLs to which browsers can be redirected
        return [("Neuroglancer", _neuroglancer(row.local_id, f"zarr://{root}", "auto"))]


def file_viewers(
    row: VersionRow, path: str, locations: Iterable[LocationRow], pinned: str = ""
) -> list[Viewer]:
    """Return viewers of a file, for the first of its locations that is public.

    ``pinned`` is its URL in the gateway, empty without one.
    """
    name = path.lower()
    if not name.endswith((".nwb", ".nii", ".nii.gz")):
        return []
    urls = [one.url for one in locations if one.result in (None, "ok") and is_public(one.url)]
    if pinned:
        urls.insert(0, pinned)
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


def zarr_viewers(
    index: Index,
    row: VersionRow,
    under: str = "",
    *,
    name: str = "",
    gateway: GatewayLinks,
) -> list[Viewer]:
    """Return viewers of the Zarr in a folder of a version; empty without a public Zarr.

    ``name`` is its name if that differs from the folder's. With a gateway the viewers show this
    version, else the current state at the archive, which may differ from it.
    """
    label = name or under or row.local_id
    pinned = gateway.url(row, under).rstrip("/")
    if pinned:
        roots = iter([pinned] if _is_zarr(index, row, under, label) else [])
    else:
        roots = _zarr_urls(index, row, under) if row.indexed else iter(())
    for root in roots:
        source = f"zarr://{root}" if pinned else root
        found = [("Neuroglancer", _neuroglancer(label, source))]
        if label.lower().endswith(".ome.zarr"):
            found.append(("Vol-E", _VOLE + urlencode({"url": root})))
            found.append(("OME-NGFF validator", _VALIDATOR + urlencode({"source": root})))
        return found
    return []


def _is_zarr(index: Index, row: VersionRow, under: str, label: str) -> bool:
    """Whether a folder is a Zarr: by its files, or by its name if they are not in the index."""
    if not row.indexed:
        return label.lower().endswith(".zarr")
    return any(True for _ in _markers(index, row, under))


def _markers(index: Index, row: VersionRow, under: str) -> Iterator[tuple[str, FileRow]]:
    """Yield the files of a folder that mark it as a Zarr, with their names."""
    for marker in sorted(one.decode() for one in ZARR_MARKERS):
        with suppress(UnknownFileError):
            yield marker, index.file(row, f"{under}/{marker}" if under else marker)


def _zarr_urls(index: Index, row: VersionRow, under: str) -> Iterator[str]:
    """Yield public URLs of the folder with the file that marks it as a Zarr."""
    for marker, file in _markers(index, row, under):
        for location in index.locations(file.content, limit=_MAX_LOCATIONS):
            url = location.url.partition("?")[0]
            if is_public(url) and url.endswith(f"/{marker}"):
                yield url.removesuffix(f"/{marker}")


def _neuroglancer(name: str, url: str, kind: str = "image") -> str:
    layer = {"name": name.rpartition("/")[2], "source": url, "type": kind}
    return _NEUROGLANCER + quote(
        json.dumps({"layers": [layer]}, separators=(",", ":")), safe=":/,@"
    )


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
