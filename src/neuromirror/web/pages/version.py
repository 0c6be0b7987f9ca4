"""The page of a version: metadata, and its files by folder or by search terms."""

from __future__ import annotations

from itertools import islice
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, SubdatasetRow, UnknownVersionError, VersionRow, shapes
from neuromirror.model import alias_of
from neuromirror.model.volumes import is_volume
from neuromirror.store.manifests import manifest_file
from neuromirror.web.citations import read_citation
from neuromirror.web.pages.viewers import Viewer, zarr_viewers
from neuromirror.web.request import CatalogueRequest, view

PAGE_SIZE = 200
_MAX_RETENTION_FILES = 50_000
"""Number of files above which retention is not counted."""
_MAX_PROBED_FILES = 20_000
"""Number of files above which probe results are not counted."""
_MAX_EXCEPTIONS = 200


@view
async def version(request: CatalogueRequest) -> Response:
    """Show a version and the files of one folder."""
    name, label = request.path_parameter("name"), request.path_parameter("label")
    under, start = request.query_parameter("under").strip("/"), request.query_parameter("start")
    terms = request.query_parameter("match").strip()

    def look(index: Index) -> dict[str, Any]:
        row = index.resolve(name, label)
        exceptions = index.exceptions(row)
        earlier = [one for one in index.versions(row.dataset_name) if one.seq < row.seq]
        return {
            "version": shapes.Version.of(row).plain(),
            "row": row,
            "seq": row.seq,
            "manifest_only": row.manifest_only_files,
            "latest": index.resolve(name).seq == row.seq,
            "files": _matching_files(index, row, terms, start)
            if terms
            else _folder_entries(index, row, under, start),
            "viewers": zarr_viewers(index, row, under),
            "is_volume": is_volume(row.source_uri, index.links(row.dataset_name)),
            "exceptions": exceptions[:_MAX_EXCEPTIONS],
            "evidence_counts": index.evidence_counts(row)
            if row.files <= _MAX_RETENTION_FILES
            else None,
            "copies": index.copies(row) if row.files <= _MAX_RETENTION_FILES else [],
            "probe_summary": index.probe_summary(row)
            if row.indexed and row.files <= _MAX_PROBED_FILES
            else None,
            "dataset": shapes.Dataset.of(index.dataset(name)).plain(),
            "before": earlier[-1].name if earlier else None,
        }

    context = await request.query_index(look)
    row = context.pop("row")
    store = request.site.store
    return await request.render_page(
        "version",
        under=under,
        terms=terms,
        folders=_breadcrumbs(under),
        start=start,
        citation=await request.site.reader.run_in_thread(lambda: read_citation(store, row)),
        has_manifest=manifest_file(store.root, row.state).is_file(),
        alias=alias_of(name),
        **context,
    )


def _breadcrumbs(under: str) -> list[tuple[str, str]]:
    """Return name and path of each parent folder."""
    parts = under.split("/") if under else []
    return [(part, "/".join(parts[: depth + 1])) for depth, part in enumerate(parts)]


def _folder_entries(index: Index, row: VersionRow, under: str, start: str) -> dict[str, Any]:
    """Return the files, folders and subdatasets of a folder, sorted by the bytes of their paths."""
    if not row.indexed:
        return {"indexed": False, "rows": [], "next": "", "complete": True}
    within = f"{under}/" if under else ""
    found: list[tuple[str, dict[str, Any], str]] = [
        (one.path, shapes.folder_entry(one).plain(), one.next)
        for one in islice(index.folder_entries(row, under, start), PAGE_SIZE + 1)
    ]
    subdatasets = [
        one
        for one in index.subdatasets(row)
        if one.path.startswith(within)
        and "/" not in one.path[len(within) :]
        and one.path >= max(start, within)
    ]
    found += [
        (one.path, _subdataset_entry(one), f"{one.path}\0") for one in subdatasets[: PAGE_SIZE + 1]
    ]
    found.sort(key=lambda one: one[0])
    shown = found[:PAGE_SIZE]
    for _, entry, _ in shown:
        if entry["type"] == "subdataset":
            entry["viewers"] = _subdataset_viewers(index, entry)
        elif entry["type"] == "folder" and entry["path"].lower().endswith(".zarr"):
            entry["viewers"] = zarr_viewers(index, row, entry["path"])
    return {
        "indexed": True,
        "rows": [entry for _, entry, _ in shown],
        "next": shown[-1][2] if len(found) > PAGE_SIZE else "",
        "complete": True,
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


def _subdataset_viewers(index: Index, entry: dict[str, Any]) -> list[Viewer]:
    if entry["label"] is None:
        return []
    try:
        inner = index.resolve(entry["dataset"], entry["label"])
    except UnknownVersionError:
        return []
    # its name is its path here; as a dataset it has an id only
    return zarr_viewers(index, inner, name=entry["path"])


def _matching_files(index: Index, row: VersionRow, terms: str, start: str) -> dict[str, Any]:
    """Return the files whose paths match all search terms."""
    if not row.indexed:
        return {"indexed": False, "rows": [], "next": "", "complete": True}
    found = index.matching_files(row, terms, start)
    return {
        "indexed": True,
        "rows": [shapes.FolderFile.of(one).plain() for one in found.files],
        "next": found.next,
        "complete": found.is_complete,
    }
