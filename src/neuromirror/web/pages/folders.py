"""The entries of a folder of a version, for its page and for the tree of a dataset's page."""

from __future__ import annotations

from itertools import islice
from typing import Any

from neuromirror.index import (
    FolderEntryRow,
    Index,
    SubdatasetRow,
    UnknownVersionError,
    VersionRow,
    shapes,
)
from neuromirror.web.pages.viewers import GatewayLinks, Viewer, zarr_viewers

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
    for one in folders[:_TREE_FOLDERS]:
        inner = folder_entries(
            index,
            row,
            one["path"],
            limit=_TREE_FOLDER_SIZE,
            max_counted=_TREE_COUNTED,
            gateway=gateway,
        )
        one["entries"], one["more"] = inner["rows"], bool(inner["next"])
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
        for one in islice(index.folder_entries(row, under, start, max_counted), limit + 1)
    ]
    subdatasets = [
        one
        for one in index.subdatasets(row)
        if one.path.startswith(within)
        and "/" not in one.path[len(within) :]
        and one.path >= max(start, within)
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
        inner = index.resolve(entry["dataset"], entry["label"])
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
    found = index.matching_files(row, terms, start)
    return {
        "indexed": True,
        "rows": [shapes.FolderFile.of(one).plain() for one in found.files],
        "next": found.next,
        "complete": found.is_complete,
    }
