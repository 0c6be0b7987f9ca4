"""Folders and files of a version: their pages, viewers and previews."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from msgspec import Struct
from starlette.responses import Response

from neuromirror.index import (
    FileRow,
    FolderEntryRow,
    Index,
    LocationRow,
    SubdatasetRow,
    UnknownFileError,
    UnknownVersionError,
    VersionRow,
    shapes,
)
from neuromirror.model import ZARR_MARKERS, alias_of
from neuromirror.model.records import BUCKET_VOLUMES, has_downloads, is_volume
from neuromirror.previews import Preview
from neuromirror.web.addresses import gateway_address
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.gateway.modes import GatewayMode
from neuromirror.web.lookups import other_occurrences
from neuromirror.web.pages.downloads import (
    MAX_LOCATIONS,
    DownloadPlan,
    plan_download,
    plan_with_copy,
)
from neuromirror.web.previews import PreviewSource, ZarrFolder, find_zarr
from neuromirror.web.request import CatalogueRequest, view

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

    ``base_url`` is that of the catalogue; ``mode`` returns how a version's files are delivered.
    """

    base_url: str
    mode: Callable[[VersionRow], GatewayMode]

    def url(self, row: VersionRow, path: str = "") -> str:
        """Return the URL of a file or folder; empty if viewers cannot read it."""
        if self.mode(row) == "off" or not is_public(self.base_url):
            return ""
        return self.base_url + gateway_address(row.dataset_name, row.label, path)

    def volume_viewers(self, index: Index, row: VersionRow) -> list[Viewer]:
        """Return viewers of a version that is a volume; empty if it is none."""
        links = index.datasets.links(row.dataset_name)
        root = self.url(row).rstrip("/")
        if not root or not is_volume(row.source_uri, links):
            return []
        scheme = "zarr"
        if has_downloads(row.source_uri):
            scheme = next(kind for kind, _ in links if kind in BUCKET_VOLUMES)
        return [("Neuroglancer", _neuroglancer(row.local_id, f"{scheme}://{root}", "auto"))]


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
    index: Index, row: VersionRow, under: str = "", *, name: str = "", gateway: GatewayLinks
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
    for marker in sorted(zarr_marker.decode() for zarr_marker in ZARR_MARKERS):
        with suppress(UnknownFileError):
            yield marker, index.files.get(row, f"{under}/{marker}" if under else marker)


def _zarr_urls(index: Index, row: VersionRow, under: str) -> Iterator[str]:
    """Yield public URLs of the folder with the file that marks it as a Zarr."""
    for marker, file in _markers(index, row, under):
        for location in index.locations.of(file.content, limit=_MAX_LOCATIONS):
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


PAGE_SIZE = 200
_MAX_COUNTED = 20_000
"""Number of files below the subfolders of a folder that are counted."""
_TREE_SIZE = 40
"""Entries of the top folder in a tree …"""
_TREE_FOLDERS = 8
"""… the number of folders that are shown with their entries …"""
_TREE_FOLDER_SIZE = 10
"""… and the number of these entries per folder."""
_TREE_COUNTED = 2_000


def file_tree(index: Index, row: VersionRow, gateway: GatewayLinks) -> dict[str, Any]:
    """Return the top folder of a version as :func:`folder_entries` does, with two levels.

    The first subfolders have their own entries in ``entries``, and in ``more`` whether there are
    others.
    """
    top = folder_entries(index, row, limit=_TREE_SIZE, gateway=gateway)
    folders = [one for one in top["rows"] if one["type"] == "folder"]
    for folder in folders[:_TREE_FOLDERS]:
        inner = folder_entries(
            index,
            row,
            folder["path"],
            limit=_TREE_FOLDER_SIZE,
            max_counted=_TREE_COUNTED,
            gateway=gateway,
        )
        folder["entries"], folder["more"] = inner["rows"], bool(inner["next"])
    return top


def folder_entries(
    index: Index,
    row: VersionRow,
    under: str = "",
    start: str = "",
    *,
    limit: int = PAGE_SIZE,
    max_counted: int = _MAX_COUNTED,
    gateway: GatewayLinks,
) -> dict[str, Any]:
    """Return the entries of a folder for a template, sorted by the bytes of their paths.

    Parameters
    ----------
    index, row
        The index and the version.
    under
        The path of the folder; empty for the top folder.
    start
        The first entry; empty for the first page.
    limit
        Maximum number of entries.
    max_counted
        Maximum number of files to count for the totals of a subfolder.
    gateway
        URLs of pinned files for viewers.

    Returns
    -------
    dict
        ``rows`` with the files, subfolders and subdatasets, ``next`` with the start of the next
        page, and ``indexed``, which is False if the files of the version are not in the index.
    """
    if not row.indexed:
        return {"indexed": False, "rows": [], "next": "", "complete": True}
    within = f"{under}/" if under else ""
    found: list[tuple[str, dict[str, Any], str]] = [
        (one.path, _entry(one), one.next)
        for one in islice(index.files.folder_entries(row, under, start, max_counted), limit + 1)
    ]
    subdatasets = [
        subdataset
        for subdataset in index.versions.subdatasets(row)
        if subdataset.path.startswith(within)
        and "/" not in subdataset.path[len(within) :]
        and subdataset.path >= max(start, within)
    ]
    found += [
        (one.path, _subdataset_entry(one), f"{one.path}\0") for one in subdatasets[: limit + 1]
    ]
    found.sort(key=lambda one: one[0])
    shown = found[:limit]
    for _, entry, _ in shown:
        if entry["type"] == "subdataset":
            entry["viewers"] = _subdataset_viewers(index, entry, gateway)
        elif entry["type"] == "folder" and entry["path"].lower().endswith(".zarr"):
            entry["viewers"] = zarr_viewers(index, row, entry["path"], gateway=gateway)
    return {
        "indexed": True,
        "rows": [entry for _, entry, _ in shown],
        "next": shown[-1][2] if len(found) > limit else "",
        "complete": True,
    }


def _entry(row: FolderEntryRow) -> dict[str, Any]:
    """Return what templates show of a file or folder; the shapes of the API take much longer."""
    if row.file is None:
        return {"type": "folder", "path": row.path, "files": row.files, "bytes": row.bytes}
    file = row.file
    return {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "evidence": file.evidence.value,
        "checked": file.checked,
    }


def _subdataset_entry(row: SubdatasetRow) -> dict[str, Any]:
    return {
        "type": "subdataset",
        "path": row.path,
        "dataset": row.dataset,
        "label": row.label,
        "files": row.files,
        "bytes": row.bytes,
    }


def _subdataset_viewers(index: Index, entry: dict[str, Any], gateway: GatewayLinks) -> list[Viewer]:
    if entry["label"] is None:
        return []
    try:
        inner = index.versions.resolve(entry["dataset"], entry["label"])
    except UnknownVersionError:
        return []
    # its name is its path here; as a dataset it has an id only
    return zarr_viewers(index, inner, name=entry["path"], gateway=gateway)


def matching_files(index: Index, row: VersionRow, terms: str, start: str) -> dict[str, Any]:
    """Return the files of a version whose paths contain all search terms, for a template.

    The result has the form of that of :func:`folder_entries`; ``complete`` is False if the search
    stopped at its limit.
    """
    if not row.indexed:
        return {"indexed": False, "rows": [], "next": "", "complete": True}
    found = index.search.files(row, terms, start)
    return {
        "indexed": True,
        "rows": [shapes.FolderFile.of(one).plain() for one in found.files],
        "next": found.next,
        "complete": found.is_complete,
    }


_CACHE_CONTROL = "public, max-age=3600"


@view
async def preview(request: CatalogueRequest) -> Response:
    """Show the preview of a file, or why there is none."""
    shown, row, file = await _file(request)
    found, message, status = await _outcome(request, row, file)
    if request.query_parameter("embedded"):
        status = 200  # for the script of the file's page, which shows the message
    reply = await request.render_page(
        "preview",
        status,
        version=shapes.Version.of(shown).plain(),
        file={"path": file.path},
        is_zarr=isinstance(file, ZarrFolder),
        preview=found,
        preview_message=message,
    )
    if status == 503:
        reply.headers["retry-after"] = "30"
    return reply


@view
async def thumbnail(request: CatalogueRequest) -> Response:
    """Return the image of a file's preview; without a preview, an image that is neutral."""
    _, row, file = await _file(request)
    found, _, _ = await _outcome(request, row, file)
    if found is None or found.picture is None:
        text = await request.render_template("no_picture.svg")
        return Response(text, 200, {"cache-control": "no-store"}, "image/svg+xml")
    headers = {"cache-control": _CACHE_CONTROL, "content-length": str(len(found.picture.data))}
    return Response(found.picture.data, 200, headers, found.picture.media_type)


async def _file(request: CatalogueRequest) -> tuple[VersionRow, VersionRow, PreviewSource]:
    """Return the version of the page, the one with the file, and the file or Zarr."""
    (name, label), path = request.version_name, request.query_parameter("path")

    def look(index: Index) -> tuple[VersionRow, VersionRow, PreviewSource]:
        row = index.versions.resolve(name, label)
        zarr = find_zarr(index, row, path)
        return (row, *zarr) if zarr is not None else (row, row, index.files.get(row, path))

    return await request.query_index(look)


async def _outcome(
    request: CatalogueRequest, row: VersionRow, file: PreviewSource
) -> tuple[Preview | None, str, int]:
    """Return a preview, or a message and the HTTP status."""
    try:
        return await request.site.previews.preview(row, file), "", 200
    except UnavailableError as error:
        return None, str(error), error.status


_MAX_OTHER_LOCATIONS = 100


@view
async def file(request: CatalogueRequest) -> Response:
    """Show a file with its checksums, locations, history and other occurrences."""
    (name, label), path = request.version_name, request.query_parameter("path")

    previews, gateway = request.site.previews, request.site.gateway
    links = GatewayLinks(request.site_url, gateway.mode)

    def look(index: Index) -> tuple[VersionRow, FileRow, bool, DownloadPlan, dict[str, Any]]:
        row = index.versions.resolve(name, label)
        found = index.files.get(row, path)
        others, more = other_occurrences(index, row, found, _MAX_OTHER_LOCATIONS)
        locations = index.locations.of(found.content, limit=MAX_LOCATIONS + 1)
        spans = index.files.content_spans(row, path)
        plan = plan_download(gateway, row, found, locations, spans)
        is_delivered = gateway.can_deliver(row, found, locations)
        is_proxied = is_delivered and gateway.mode(row) == "proxy"
        own = request.site_url + gateway_address(row.dataset_name, row.label, path)
        return (
            row,
            found,
            is_delivered,
            plan,
            {
                "version": shapes.Version.of(row).plain(),
                "file": shapes.File.of(found).plain(),
                "part_size": found.part_size,
                "locations": locations[:MAX_LOCATIONS],
                "has_more_locations": len(locations) > MAX_LOCATIONS,
                "has_preview": previews.is_possible(found),
                "has_picture": previews.has_picture(found),
                "is_volume": is_volume(row.source_uri, index.datasets.links(row.dataset_name)),
                "download": own
                if is_proxied
                else next(iter(gateway.visitor_urls(row, locations)), ""),
                "spans": list(reversed(spans)),
                "other_occurrences": [shapes.Occurrence.of(other).plain() for other in others],
                "has_more_occurrences": more,
            },
        )

    row, found, is_delivered, plan, context = await request.query_index(look)
    plan = await plan_with_copy(gateway, row, found, plan)
    if plan.is_copy:
        context["download"] = plan.urls[0]
        is_delivered = is_delivered or gateway.mode(row) == "redirect"
    pinned_url = links.url(row, path) if is_delivered else ""
    context |= {
        "viewers": file_viewers(row, path, context["locations"], pinned_url),
        "is_verified": plan.is_relayed,
        "is_copy": plan.is_copy,
        "saved_name": plan.saved_name(path),
        "may_open": plan.may_open(path),
    }
    return await request.render_page("file", alias=alias_of(name), **context)
