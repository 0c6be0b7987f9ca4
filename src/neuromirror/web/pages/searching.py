"""Where people look: the front page, what a search found, and the places of some bytes."""

from __future__ import annotations

from itertools import groupby, islice
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import (
    FoundDataset,
    Index,
    MalformedQuery,
    Named,
    VersionRow,
    is_checksum,
)
from neuromirror.web.addresses import (
    dataset_address,
    file_address,
    find_address,
    version_address,
)
from neuromirror.web.asked import Asked, view
from neuromirror.web.records import told_dataset, told_found, told_mirror, told_version

_LISTED = 50
_FOUND = 20
_RECENT = 10
_LOOKED = 60
"""Versions among which those of the front page are chosen, one of each dataset."""
_SCANNED = 200_000
"""Files of a version that its page looks through at once: of a larger one, it starts behind."""
_SHOWN = 120


@view
async def front(asked: Asked) -> Response:
    """The search, the archives, and what is new; or what was found."""
    # signs that nobody sees are no part of a word, and must not come back in the page
    plain = (sign if sign.isprintable() else " " for sign in asked.value("q"))
    words, mirror = "".join(plain).strip(), asked.value("mirror") or None
    page = asked.whole("page", 1, 20_000)
    if words and mirror is None and page == 1:
        address = await _straight(asked, words)
        if address:
            return Response.redirect(address)
    if words:
        return await _searched(asked, words, mirror, page)
    if mirror is not None:
        return await _listed(asked, mirror, page)

    def look(index: Index) -> dict[str, Any]:
        mirrors, tasks = list(index.mirror_status()), index.failed_tasks()
        failing = {one.mirror for one in tasks}
        return {
            "mirrors": [told_mirror(one) for one in mirrors],
            "amiss": sum(
                bool(one.failing or one.open_holds or one.mirror in failing) for one in mirrors
            ),
            "tasks": len(tasks),
            "failing": sum(one.failing for one in mirrors),
            "holds": sum(one.open_holds for one in mirrors),
            "last": max((one.last_visit for one in mirrors if one.last_visit), default=None),
            "recent": _recent(index.recent_versions(_LOOKED)),
        }

    return await asked.page("front", **await asked.ask(look))


async def _straight(asked: Asked, words: str) -> str:
    """Where a name, an id or a checksum leads to; empty for words to search for."""
    if is_checksum(words):
        return find_address(words)
    found = await asked.ask(lambda index: index.named(words))
    return _address(found) if found is not None else ""


def _address(named: Named) -> str:
    if named.key:
        return find_address(named.key)
    if named.label:
        return version_address(named.dataset, named.label)
    return dataset_address(named.dataset)


def _recent(rows: list[VersionRow]) -> list[dict[str, Any]]:
    """The last version of each dataset, and how many before it were recorded lately, too."""
    newest: dict[str, VersionRow] = {}
    more: dict[str, int] = {}
    for row in rows:
        newest.setdefault(row.dataset_name, row)
        more[row.dataset_name] = more.get(row.dataset_name, -1) + 1
    return [
        {**told_version(row), "recorded": row.minted, "more": more[name]}
        for name, row in islice(newest.items(), _RECENT)
    ]


async def _listed(asked: Asked, mirror: str, page: int) -> Response:
    """The datasets of a mirror by name."""
    first = (page - 1) * _LISTED

    def look(index: Index) -> dict[str, Any]:
        rows = index.datasets(mirror, parts=False)
        found = [told_dataset(row) for row in islice(rows, first, first + _LISTED + 1)]
        return {"datasets": found[:_LISTED], "more": len(found) > _LISTED}

    return await asked.page("listed", mirror=mirror, page=page, **await asked.ask(look))


async def _searched(asked: Asked, words: str, mirror: str | None, page: int) -> Response:
    """What has the words, by mirror; where nothing has, what could help."""

    def look(index: Index) -> dict[str, Any]:
        try:
            found = index.find_datasets(words, mirror, start=(page - 1) * _FOUND, limit=_FOUND)
        except MalformedQuery as error:
            return {"wrong": str(error), "status": 400}
        told: dict[str, Any] = {
            "found": [_told(one) for one in found.rows],
            "mirrors": found.mirrors,
            "total": found.total,
            "exact": found.exact,
            "every": sum(found.mirrors.values()),
            "more": found.next is not None,
        }
        if not found.rows and page == 1:
            told["each"] = index.each_word(words)
            told["alike"] = index.alike(told["each"])
        return told

    told = await asked.ask(look)
    status = told.pop("status", 200)
    return await asked.page(
        "found", status, words=words[: _SHOWN * 5], mirror=mirror, page=page, **told
    )


def _told(one: FoundDataset) -> dict[str, Any]:
    """A dataset, what of it has the words, and where its files are that have them."""
    row = one.dataset
    files = path = ""
    if one.version is not None:
        # a larger version's page would have to be looked through from its beginning
        start = one.path if one.path and row.files > _SCANNED else ""
        files = version_address(row.name, one.version, start=start, match=" ".join(one.in_paths))
        if one.path:
            path = file_address(row.name, one.version, one.path)
    return {
        **told_dataset(row),
        "said": [(name, _shortened(value)) for name, value in one.said if name != "name"],
        "in_paths": one.in_paths,
        "found_in": one.version,
        "files_address": files,
        "path": one.path,
        "path_address": path,
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@view
async def find(asked: Asked) -> Response:
    """Every place of some bytes, content by content."""
    checksum, page = asked.value("checksum").strip(), asked.whole("page", 1, 20_000)
    first = (page - 1) * _LISTED

    def look(index: Index) -> dict[str, Any]:
        rows = index.find(checksum)
        found = [told_found(one) for one in islice(rows, first, first + _LISTED + 1)]
        shown = found[:_LISTED]
        return {
            "contents": [list(some) for _, some in groupby(shown, key=lambda one: one["key"])],
            "more": len(found) > _LISTED,
            "not_indexed": [] if shown else index.not_indexed(),
        }

    told = await asked.ask(look) if checksum else {}
    return await asked.page("find", checksum=checksum, page=page, **told)
