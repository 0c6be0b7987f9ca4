"""The page of a version: what it is, and its files folder by folder or by words of their paths."""

from __future__ import annotations

from itertools import islice
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, PartRow, UnknownVersion, VersionRow
from neuromirror.model import alias_of
from neuromirror.store.manifests import manifest_file
from neuromirror.web.asked import Asked, view
from neuromirror.web.pages.viewers import Viewer, zarr_viewers
from neuromirror.web.records import is_volume, told_dataset, told_file, told_level, told_version
from neuromirror.web.works import cited

ON_A_PAGE = 200
_VOUCHED = 50_000
"""Files above which how long upstream keeps each is not counted for a page."""
_ANSWERS = 20_000
"""Files above which what their places said is not counted for a page."""
_EXCEPTIONS = 200


@view
async def version(asked: Asked) -> Response:
    """A version, and its files folder by folder."""
    name, label = asked.part("name"), asked.part("label")
    under, start = asked.value("under").strip("/"), asked.value("start")
    words = asked.value("match").strip()

    def look(index: Index) -> dict[str, Any]:
        row = index.resolve(name, label)
        exceptions = index.exceptions(row)
        earlier = [one for one in index.versions(row.dataset_name) if one.seq < row.seq]
        return {
            "version": told_version(row),
            "row": row,
            "seq": row.seq,
            "left_out": row.only_files,
            "latest": index.resolve(name).seq == row.seq,
            "files": _matching(index, row, words, start)
            if words
            else _folder(index, row, under, start),
            "viewers": zarr_viewers(index, row, under),
            "is_volume": is_volume(row.source_uri, index.links(row.dataset_name)),
            "exceptions": exceptions[:_EXCEPTIONS],
            "vouched": index.vouched(row) if row.files <= _VOUCHED else None,
            "copies": index.copies(row) if row.files <= _VOUCHED else [],
            "answers": index.answers(row) if row.indexed and row.files <= _ANSWERS else None,
            "dataset": told_dataset(index.dataset(name)),
            "before": earlier[-1].name if earlier else None,
        }

    told = await asked.ask(look)
    row = told.pop("row")
    store = asked.site.store
    return await asked.page(
        "version",
        under=under,
        words=words,
        folders=_folders(under),
        start=start,
        cited=await asked.site.reader.do(lambda: cited(store, row)),
        has_manifest=manifest_file(store.root, row.state).is_file(),
        alias=alias_of(name),
        **told,
    )


def _folders(under: str) -> list[tuple[str, str]]:
    """Name and path of each folder on the way."""
    parts = under.split("/") if under else []
    return [(part, "/".join(parts[: place + 1])) for place, part in enumerate(parts)]


def _folder(index: Index, row: VersionRow, under: str, start: str) -> dict[str, Any]:
    """What stands in a folder: files, folders and sub-datasets by the bytes of their paths."""
    if not row.indexed:
        return {"indexed": False, "rows": [], "next": "", "whole": True}
    within = f"{under}/" if under else ""
    found: list[tuple[str, dict[str, Any], str]] = [
        (one.path, dict(told_level(one)), one.next)
        for one in islice(index.level(row, under, start), ON_A_PAGE + 1)
    ]
    parts = [
        one
        for one in index.parts(row)
        if one.path.startswith(within)
        and "/" not in one.path[len(within) :]
        and one.path >= max(start, within)
    ]
    found += [(one.path, _told_part(one), f"{one.path}\0") for one in parts[: ON_A_PAGE + 1]]
    found.sort(key=lambda one: one[0])
    shown = found[:ON_A_PAGE]
    for _, told, _ in shown:
        if told["type"] == "part":
            told["viewers"] = _viewers_of_part(index, told)
        elif told["type"] == "folder" and told["path"].lower().endswith(".zarr"):
            told["viewers"] = zarr_viewers(index, row, told["path"])
    return {
        "indexed": True,
        "rows": [told for _, told, _ in shown],
        "next": shown[-1][2] if len(found) > ON_A_PAGE else "",
        "whole": True,
    }


def _told_part(part: PartRow) -> dict[str, Any]:
    return {
        "type": "part",
        "path": part.path,
        "dataset": part.dataset,
        "label": part.label,
        "files": part.files,
        "bytes": part.bytes,
    }


def _viewers_of_part(index: Index, told: dict[str, Any]) -> list[Viewer]:
    if told["label"] is None:
        return []
    try:
        inner = index.resolve(told["dataset"], told["label"])
    except UnknownVersion:
        return []
    # it is named where it stands, and has but an id of its own
    return zarr_viewers(index, inner, name=told["path"])


def _matching(index: Index, row: VersionRow, words: str, start: str) -> dict[str, Any]:
    """The files whose paths have all the words."""
    if not row.indexed:
        return {"indexed": False, "rows": [], "next": "", "whole": True}
    found = index.matching_paths(row, words, start)
    return {
        "indexed": True,
        "rows": [{"type": "file", **told_file(one)} for one in found.files],
        "next": found.next,
        "whole": found.whole,
    }
