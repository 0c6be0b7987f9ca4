"""The page of a dataset: what it is, its versions, how to get and to cite it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, VersionRow
from neuromirror.model import alias_of
from neuromirror.web.citations import CitationData, read_citation
from neuromirror.web.json_records import dataset_json, event_json, is_volume, version_json
from neuromirror.web.pages.growth_chart import growth_chart
from neuromirror.web.pages.schema_org import linked_data
from neuromirror.web.pages.viewers import Viewer, is_web, zarr_viewers
from neuromirror.web.request import CatalogueRequest, view

_DETAILED_VERSIONS = 20
"""Versions of the timeline that are told at length."""
_MAX_VERSIONS = 100
"""Versions of a page in all."""
_MAX_COUNTED_FILES = 200_000
"""Files of a dataset above which what each version changed is not counted for its page."""
_MAX_RETENTION_FILES = 20_000
"""Files that are looked at for the words on how long upstream keeps them, in all versions shown."""


@view
async def dataset(request: CatalogueRequest) -> Response:
    """A dataset: what it is, its versions, how to get and to cite it."""
    name = request.path_parameter("name")
    older = request.query_parameter("older")
    first = request.integer_parameter("older", 1, 999_999_999) if older else None

    def look(index: Index) -> dict[str, Any]:
        row = index.dataset(name)
        versions = list(index.versions(name))
        newest = index.resolve(name) if versions else None
        events = list(index.events(name, limit=20))
        return {
            "dataset": dataset_json(row),
            "timeline": _timeline(index, name, versions, first),
            "newest": None if newest is None else version_json(newest),
            "row": newest,
            "attributes": {} if newest is None else index.attributes(newest),
            "links": index.links(name),
            "is_volume": newest is not None and is_volume(row.source_uri, index.links(name)),
            "viewers": [] if newest is None else zarr_viewers(index, newest),
            "superdatasets": index.superdatasets(name),
            "holds": list(index.open_holds(name)),
            "events": [event_json(one) for one in events[:5]],
            "gone_since": next((one.at for one in events if one.kind == "tombstone"), None),
            "ancestors": () if newest is None else index.ancestors(newest, 1),
            "descendants": () if newest is None else index.descendants(newest, 1),
            "growth": growth_chart([(one.time, one.bytes, _is_published(one)) for one in versions]),
        }

    context = await request.query_index(look)
    row = context.pop("row")
    store = request.site.store
    found = (
        None
        if row is None
        else await request.site.reader.run_in_thread(lambda: read_citation(store, row))
    )
    alias = alias_of(name)
    data = ""
    if found is not None and row is not None:
        data = linked_data(
            found.work,
            alias,
            context["attributes"],
            site=request.base_url,
            title=request.site.title,
            has_checksums=row.indexed,
        )
    return await request.render_page(
        "dataset",
        citation=found,
        data=data,
        alias=alias,
        upstream=_upstream(found, context["links"], context["dataset"]["source"]),
        viewer_links=_viewer_links(context.pop("links"), context.pop("viewers")),
        **context,
    )


def _is_published(row: VersionRow) -> bool:
    return row.kind == "published"


def _timeline(
    index: Index, name: str, versions: Sequence[VersionRow], first: int | None
) -> dict[str, Any]:
    """The versions from the newest on, or from the ``first`` one, an ordinal, backwards."""
    counted = max((one.files for one in versions), default=0) <= _MAX_COUNTED_FILES
    changes = index.change_counts(name) if counted else {}
    newest = index.resolve(name).seq if versions else 0
    rows = [one for one in reversed(versions) if first is None or one.seq <= first]
    before = {after.seq: one for one, after in pairwise(versions)}
    looked = _within_file_limit(rows[:_DETAILED_VERSIONS])
    kept = dict(zip((one.seq for one in looked), index.evidence_counts_each(looked), strict=True))
    entries = []
    for number, one in enumerate(rows[:_MAX_VERSIONS]):
        vouched = kept.get(one.seq)
        earlier = before.get(one.seq)
        known = counted and one.indexed and (earlier is None or earlier.indexed)
        entries.append(
            {
                **version_json(one),
                "latest": one.seq == newest,
                "before": None if earlier is None else earlier.name,
                "changes": changes.get(one.seq, (0, 0, 0)) if known else None,
                "changed_subdatasets": _changed_subdatasets(index, earlier, one)
                if earlier and number < _DETAILED_VERSIONS
                else 0,
                "retention": None if vouched is None else vouched.retention,
                "checked": None if vouched is None else sum(vouched.checked.values()),
            }
        )
    older = rows[_MAX_VERSIONS].seq if len(rows) > _MAX_VERSIONS else None
    return {
        "total": len(versions),
        "published": sum(map(_is_published, versions)),
        "shown": entries[:_DETAILED_VERSIONS],
        "rest": entries[_DETAILED_VERSIONS:],
        "older": older,
        "later": first is not None,
    }


def _changed_subdatasets(index: Index, earlier: VersionRow, one: VersionRow) -> int:
    """How many sub-datasets are in another state than in the version before, or in one alone."""
    if one.metadata_only:
        return 0
    before, now = ({(p.path, p.state) for p in index.subdatasets(row)} for row in (earlier, one))
    return len({path for path, _ in before ^ now})


def _within_file_limit(rows: Sequence[VersionRow]) -> list[VersionRow]:
    """The versions whose files may all be looked at for a page."""
    few, looked = [], 0
    for one in rows:
        if one.indexed and looked + one.files <= _MAX_RETENTION_FILES:
            looked += one.files
            few.append(one)
    return few


def _upstream(found: CitationData | None, links: Sequence[Viewer], source: str) -> str:
    """The archive's own page of a dataset, empty where none is known."""
    known = [found.work.address] if found is not None else []
    known += [address for kind, address in links if kind == "upstream"]
    return next((one for one in (*known, source) if is_web(one)), "")


def _viewer_links(
    links: Sequence[Viewer], viewers: Sequence[Viewer]
) -> list[tuple[str, str, bool]]:
    """Kind and address of what shows a dataset, and whether a browser can follow it."""
    return [(kind, address, is_web(address)) for kind, address in (*links, *viewers)]
