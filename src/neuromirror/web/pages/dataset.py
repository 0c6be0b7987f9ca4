"""The page of a dataset: what it is, its versions, how to get and to cite it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, VersionRow
from neuromirror.model import alias_of
from neuromirror.web.asked import Asked, view
from neuromirror.web.pages.drawing import growth
from neuromirror.web.pages.schema_org import linked_data
from neuromirror.web.pages.viewers import Viewer, is_web, zarr_viewers
from neuromirror.web.records import is_volume, told_dataset, told_event, told_version
from neuromirror.web.works import Cited, cited

_SHOWN = 20
"""Versions of the timeline that are told at length."""
_LISTED = 100
"""Versions of a page in all."""
_COUNTED = 200_000
"""Files of a dataset above which what each version changed is not counted for its page."""
_LOOKED = 20_000
"""Files that are looked at for the words on how long upstream keeps them, in all versions shown."""


@view
async def dataset(asked: Asked) -> Response:
    """A dataset: what it is, its versions, how to get and to cite it."""
    name = asked.part("name")
    older = asked.value("older")
    first = asked.whole("older", 1, 999_999_999) if older else None

    def look(index: Index) -> dict[str, Any]:
        row = index.dataset(name)
        versions = list(index.versions(name))
        newest = index.resolve(name) if versions else None
        events = list(index.events(name, limit=20))
        return {
            "dataset": told_dataset(row),
            "timeline": _timeline(index, name, versions, first),
            "newest": None if newest is None else told_version(newest),
            "row": newest,
            "attributes": {} if newest is None else index.attributes(newest),
            "links": index.links(name),
            "is_volume": newest is not None and is_volume(row.source_uri, index.links(name)),
            "viewers": [] if newest is None else zarr_viewers(index, newest),
            "holders": index.holders(name),
            "holds": list(index.open_holds(name)),
            "events": [told_event(one) for one in events[:5]],
            "gone_since": next((one.at for one in events if one.kind == "tombstone"), None),
            "ancestors": () if newest is None else index.ancestors(newest, 1),
            "descendants": () if newest is None else index.descendants(newest, 1),
            "growth": growth([(one.time, one.bytes, _published(one)) for one in versions]),
        }

    told = await asked.ask(look)
    row = told.pop("row")
    store = asked.site.store
    found = None if row is None else await asked.site.reader.do(lambda: cited(store, row))
    alias = alias_of(name)
    data = ""
    if found is not None and row is not None:
        data = linked_data(
            found.work,
            alias,
            told["attributes"],
            site=asked.address,
            title=asked.site.title,
            sums=row.indexed,
        )
    return await asked.page(
        "dataset",
        cited=found,
        data=data,
        alias=alias,
        upstream=_upstream(found, told["links"], told["dataset"]["source"]),
        looks=_looks(told.pop("links"), told.pop("viewers")),
        **told,
    )


def _published(row: VersionRow) -> bool:
    return row.kind == "published"


def _timeline(
    index: Index, name: str, versions: Sequence[VersionRow], first: int | None
) -> dict[str, Any]:
    """The versions from the newest on, or from the ``first`` one, an ordinal, backwards."""
    counted = max((one.files for one in versions), default=0) <= _COUNTED
    changes = index.comings(name) if counted else {}
    newest = index.resolve(name).seq if versions else 0
    rows = [one for one in reversed(versions) if first is None or one.seq <= first]
    before = {after.seq: one for one, after in pairwise(versions)}
    looked = _few(rows[:_SHOWN])
    kept = dict(zip((one.seq for one in looked), index.vouched_each(looked), strict=True))
    told = []
    for place, one in enumerate(rows[:_LISTED]):
        vouched = kept.get(one.seq)
        earlier = before.get(one.seq)
        known = counted and one.indexed and (earlier is None or earlier.indexed)
        told.append(
            {
                **told_version(one),
                "latest": one.seq == newest,
                "before": None if earlier is None else earlier.name,
                "changes": changes.get(one.seq, (0, 0, 0)) if known else None,
                "parts": _parts_differ(index, earlier, one) if earlier and place < _SHOWN else 0,
                "kept": None if vouched is None else vouched.kept,
                "checked": None if vouched is None else sum(vouched.checked.values()),
            }
        )
    older = rows[_LISTED].seq if len(rows) > _LISTED else None
    return {
        "all": len(versions),
        "published": sum(map(_published, versions)),
        "shown": told[:_SHOWN],
        "rest": told[_SHOWN:],
        "older": older,
        "later": first is not None,
    }


def _parts_differ(index: Index, earlier: VersionRow, one: VersionRow) -> int:
    """How many sub-datasets are in another state than in the version before, or in one alone."""
    if one.metadata_only:
        return 0
    before, now = ({(p.path, p.state) for p in index.parts(row)} for row in (earlier, one))
    return len({path for path, _ in before ^ now})


def _few(rows: Sequence[VersionRow]) -> list[VersionRow]:
    """The versions whose files may all be looked at for a page."""
    few, looked = [], 0
    for one in rows:
        if one.indexed and looked + one.files <= _LOOKED:
            looked += one.files
            few.append(one)
    return few


def _upstream(found: Cited | None, links: Sequence[Viewer], source: str) -> str:
    """The archive's own page of a dataset, empty where none is known."""
    known = [found.work.address] if found is not None else []
    known += [address for kind, address in links if kind == "upstream"]
    return next((one for one in (*known, source) if is_web(one)), "")


def _looks(links: Sequence[Viewer], viewers: Sequence[Viewer]) -> list[tuple[str, str, bool]]:
    """Kind and address of what shows a dataset, and whether a browser can follow it."""
    return [(kind, address, is_web(address)) for kind, address in (*links, *viewers)]
