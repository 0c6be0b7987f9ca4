"""The JSON of the catalogue, version 1: mirrors, datasets, and what happened.

What is said here is what the pages and ``--json`` say, in the shapes of
:mod:`neuromirror.web.shapes`. Versions and files are in :mod:`neuromirror.web.api.versions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

import msgspec

from neuromirror.index import Index
from neuromirror.web import shapes
from neuromirror.web.addresses import dataset_address
from neuromirror.web.api import replies
from neuromirror.web.api import versions as of_versions
from neuromirror.web.api.openapi import description
from neuromirror.web.api.operations import ROOT, Given, Operation, Parameter, following, routes
from neuromirror.web.api.versions import AFTER, CHECKSUM, LIMIT, MOST, dataset_path
from neuromirror.web.asked import Asked, view
from neuromirror.web.records import (
    told_dataset,
    told_event,
    told_failure,
    told_found,
    told_hold,
    told_match,
    told_mirror,
    told_tombstone,
    told_version,
)

_WORDS = Parameter(
    "q", "words that the name, title, license, DOIs or attributes have, all of them", "mouse"
)
_SEARCHED = Parameter(
    "q", "the words; each may be the beginning of one, or a part of a path", "mouse", needed=True
)
_MIRROR = Parameter("mirror", "the mirror to stay in", "dandi", names=True)
_KIND = Parameter("kind", "a kind of event: tombstone, return, incident, takedown, …", "tombstone")
_DATASET = Parameter("dataset", "a dataset's name", "dandi:000027", names=True)

_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Start = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


async def start(asked: Asked, given: Given) -> replies.Start:
    """Where everything is."""
    base = asked.address + ROOT
    return {
        "version": 1,
        "title": asked.site.title,
        "description": f"{base}/openapi.json",
        "addresses": {
            one.answer.__name__: base + one.path + _template(one.parameters)
            for one in OPERATIONS
            if one.answer is not start
        },
    }


def _template(parameters: Sequence[Parameter]) -> str:
    return f"{{?{','.join(one.name for one in parameters)}}}" if parameters else ""


async def datasets(asked: Asked, given: Given) -> replies.Datasets:
    """Datasets, by name: all, those of a mirror, or those that have some words.

    Parts of other datasets are not among them.
    """
    words, mirror, limit = given["q"].strip(), given["mirror"], given.whole("limit")
    last = given.place(str, "")

    def look(index: Index) -> list[shapes.Dataset]:
        rows = index.datasets(mirror or None, words=words or None, parts=False, after=last)
        return [told_dataset(one) for one in islice(rows, limit + 1)]

    found = await asked.ask(look)
    more = None
    if len(found) > limit:
        place = found[limit - 1]["name"]
        more = following(asked, "/datasets", place, q=words, mirror=mirror, limit=limit)
    return {"datasets": found[:limit], "next": more}


async def search(asked: Asked, given: Given) -> replies.Search:
    """Datasets that have all the words, best first: in what is said of them, or in paths.

    The order is that of today; `datasets` gives the same in one that stays.
    """
    words, mirror, limit = given["q"].strip(), given["mirror"], given.whole("limit")
    start = given.place(_Start, 0)
    found = await asked.ask(
        lambda index: index.find_datasets(words, mirror or None, start=start, limit=limit)
    )
    more = None
    if found.next is not None:
        more = following(asked, "/search", found.next, q=words, mirror=mirror, limit=limit)
    return {
        "found": [told_match(one) for one in found.rows],
        "mirrors": found.mirrors,
        "total": found.total,
        "exact": found.exact,
        "next": more,
    }


async def dataset(asked: Asked, given: Given) -> replies.WholeDataset:
    """One dataset with its versions."""
    name = given["name"]

    def look(index: Index) -> replies.WholeDataset:
        row = index.dataset(name)
        versions = list(index.versions(name, limit=MOST + 1))
        more = None
        if len(versions) > MOST:
            more = following(asked, f"{dataset_path(name)}/versions", versions[MOST - 1].seq)
        return {
            **told_dataset(row),
            "all_versions": [told_version(one) for one in versions[:MOST]],
            "more_versions": more,
            "links": [{"kind": kind, "url": url} for kind, url in index.links(name)],
            "within": index.holders(name),
            "page": asked.address + dataset_address(name),
        }

    return await asked.ask(look)


async def versions(asked: Asked, given: Given) -> replies.Versions:
    """The versions of a dataset, in the order they were minted."""
    name, limit = given["name"], given.whole("limit")
    last = given.place(_Number, 0)
    found = await asked.ask(lambda index: list(index.versions(name, last, limit + 1)))
    more = None
    if len(found) > limit:
        path = f"{dataset_path(name)}/versions"
        more = following(asked, path, found[limit - 1].seq, limit=limit)
    return {"versions": [told_version(one) for one in found[:limit]], "next": more}


async def find(asked: Asked, given: Given) -> replies.FoundPlaces:
    """Every place where some bytes are or were."""
    checksum, limit = given["checksum"].strip(), given.whole("limit")
    last = given.place(tuple[_Number, _Number, str, _Number], (0, 0, "", 0))
    found = await asked.ask(lambda index: list(islice(index.find(checksum, last), limit + 1)))
    more = None
    if len(found) > limit:
        place = found[limit - 1].position
        more = following(asked, "/find", place, checksum=checksum, limit=limit)
    return {"found": [told_found(one) for one in found[:limit]], "next": more}


async def events(asked: Asked, given: Given) -> replies.Events:
    """What people should know, the last first: tombstones, returns, incidents, takedowns."""
    kind, name, mirror = given["kind"], given["dataset"], given["mirror"]
    limit, last = given.whole("limit"), given.place(_Number, 1 << 62)
    found = await asked.ask(
        lambda index: list(
            index.events(name or None, kind or None, limit + 1, mirror=mirror or None, before=last)
        )
    )
    more = None
    if len(found) > limit:
        place, told = found[limit - 1].id, {"kind": kind, "dataset": name, "mirror": mirror}
        more = following(asked, "/events", place, **told, limit=limit)
    return {"events": [told_event(one) for one in found[:limit]], "next": more}


async def mirrors(asked: Asked, given: Given) -> replies.Mirrors:
    """How each mirror stands."""
    found, failures = await asked.ask(lambda index: (list(index.mirror_status()), index.failures()))
    return {
        "mirrors": [told_mirror(one) for one in found],
        "failures": [told_failure(one) for one in failures],
    }


async def holds(asked: Asked, given: Given) -> replies.Holds:
    """The listings that wait for an operator, the oldest first."""
    name = given["dataset"] or None
    found = await asked.ask(lambda index: list(index.open_holds(name)))
    return {"holds": [told_hold(one) for one in found]}


async def tombstones(asked: Asked, given: Given) -> replies.Tombstones:
    """Datasets that were taken down, by name: when, and why.

    Those that upstream no longer has are kept and shown; `events` tells of them.
    """
    mirror, limit = given["mirror"], given.whole("limit")
    last = given.place(tuple[str, str], ("", ""))
    rows = await asked.ask(lambda index: index.withheld(mirror or None))
    places = [tuple(one.dataset.split(":", 1)) for one in rows]
    found = [one for one, place in zip(rows, places, strict=True) if place > last][: limit + 1]
    more = None
    if len(found) > limit:
        place = found[limit - 1].dataset.split(":", 1)
        more = following(asked, "/tombstones", place, mirror=mirror, limit=limit)
    return {"tombstones": [told_tombstone(one) for one in found[:limit]], "next": more}


_LIST = (LIMIT, AFTER)

# The more particular ones first.
OPERATIONS: Sequence[Operation] = (
    Operation("/", replies.Start, start),
    Operation("/mirrors", replies.Mirrors, mirrors),
    Operation("/datasets", replies.Datasets, datasets, (_WORDS, _MIRROR, *_LIST)),
    Operation("/search", replies.Search, search, (_SEARCHED, _MIRROR, *_LIST)),
    *of_versions.OPERATIONS,
    Operation("/datasets/{name}/versions", replies.Versions, versions, _LIST),
    Operation("/datasets/{name}", replies.WholeDataset, dataset),
    Operation("/find", replies.FoundPlaces, find, (CHECKSUM, *_LIST)),
    Operation("/events", replies.Events, events, (_KIND, _DATASET, _MIRROR, *_LIST)),
    Operation("/holds", replies.Holds, holds, (_DATASET,)),
    Operation("/tombstones", replies.Tombstones, tombstones, (_MIRROR, *_LIST)),
)


@view
async def described(asked: Asked) -> Any:
    """The API's OpenAPI description."""
    title, address = asked.site.title, asked.address
    told = await asked.site.reader.do(lambda: description(OPERATIONS, title, address))
    return asked.json(told)


ROUTES: Sequence[tuple[str, Any]] = (
    (rf"{ROOT}/openapi\.json$", described),
    (rf"{ROOT}$", OPERATIONS[0].route()),
    *routes(OPERATIONS),
)
