"""The pages: each asks the index what it shows, and a template shows it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, VersionRow, is_checksum
from neuromirror.model import alias_of
from neuromirror.store import Store
from neuromirror.web.addresses import dataset_address, find_address
from neuromirror.web.asked import Asked, NoSuchPage, Wrong, view
from neuromirror.web.drawing import growth
from neuromirror.web.records import (
    told_dataset,
    told_event,
    told_file,
    told_found,
    told_level,
    told_mirror,
    told_version,
)
from neuromirror.web.works import FORMATS, Cited, cited, linked_data

_LISTED = 50
_RECENT = 10
_ON_A_PAGE = 200
_DIFFERENT = 2000
_COUNTED = 200_000
"""Files of a dataset above which what each version changed is not counted for its page."""


@view
async def front(asked: Asked) -> Response:
    """The search, the mirrors, and what is new; or what was found."""
    words = asked.value("q").strip()
    if words and is_checksum(words):
        return Response.redirect(find_address(words))
    mirror = asked.value("mirror") or None
    page = asked.whole("page", 1, 1_000_000)
    first = (page - 1) * _LISTED

    def look(index: Index) -> dict[str, Any]:
        mirrors = [told_mirror(one) for one in index.mirror_status()]
        listed = words or mirror is not None
        found: list[dict[str, Any]] = []
        if listed:
            rows = index.datasets(mirror, parts=False) if not words else index.search(words)
            found = [told_dataset(row) for row in islice(rows, first, first + _LISTED + 1)]
        return {
            "mirrors": mirrors,
            "listed": listed,
            "datasets": found[:_LISTED],
            "more": len(found) > _LISTED,
            "recent": [] if listed else [told_version(v) for v in index.recent_versions(_RECENT)],
            "holds": len(list(index.open_holds())),
        }

    told = await asked.ask(look)
    return await asked.page("front", words=words, mirror=mirror, page=page, **told)


@view
async def find(asked: Asked) -> Response:
    """Every place of some bytes."""
    checksum = asked.value("checksum").strip()
    if not checksum:
        raise Wrong("say which bytes: /find?checksum=sha256:…, md5:…, etag:… or a git-annex key")
    found = await asked.ask(lambda index: [told_found(one) for one in _some(index.find(checksum))])
    return await asked.page("find", checksum=checksum, found=found[:_LISTED], most=_LISTED)


def _some(rows: Iterator[Any]) -> list[Any]:
    return list(islice(rows, _LISTED + 1))


@view
async def dataset(asked: Asked) -> Response:
    """A dataset: what it is, its versions, how to get and to cite it."""
    name = asked.part("name")

    def look(index: Index) -> dict[str, Any]:
        row = index.dataset(name)
        versions = list(index.versions(name))
        largest = max((one.files for one in versions), default=0)
        changes = index.comings(name) if largest <= _COUNTED else {}
        told = [{**told_version(one), "changes": changes.get(one.seq)} for one in versions]
        newest = index.resolve(name) if versions else None
        return {
            "dataset": told_dataset(row),
            "versions": list(reversed(told)),
            "newest": None if newest is None else told_version(newest),
            "row": newest,
            "attributes": {} if newest is None else index.attributes(newest),
            "links": index.links(name),
            "holders": index.holders(name),
            "holds": list(index.open_holds(name)),
            "events": [told_event(one) for one in index.events(name, limit=5)],
            "ancestors": () if newest is None else index.ancestors(newest, 1),
            "descendants": () if newest is None else index.descendants(newest, 1),
            "growth": growth([(one.time, one.bytes) for one in versions]),
        }

    told = await asked.ask(look)
    row = told.pop("row")
    found = None if row is None else await _cited(asked, row)
    data = "" if found is None else linked_data(found, asked.address + dataset_address(name))
    return await asked.page("dataset", cited=found, data=data, alias=alias_of(name), **told)


@view
async def version(asked: Asked) -> Response:
    """A version, and its files folder by folder."""
    name, label = asked.part("name"), asked.part("label")
    under, start = asked.value("under").strip("/"), asked.value("start")

    def look(index: Index) -> dict[str, Any]:
        row = index.resolve(name, label)
        level = []
        if row.indexed:
            level = list(islice(index.level(row, under, start), _ON_A_PAGE + 1))
        within = f"{under}/" if under else ""
        parts = [
            one
            for one in index.parts(row)
            if one.path.startswith(within) and "/" not in one.path[len(within) :]
        ]
        return {
            "version": told_version(row),
            "row": row,
            "indexed": row.indexed,
            "level": [told_level(one) for one in level[:_ON_A_PAGE]],
            "next": level[_ON_A_PAGE - 1].next if len(level) > _ON_A_PAGE else "",
            "parts": [] if start else parts,
            "exceptions": index.exceptions(row),
            "vouched": index.vouched(row) if row.files <= _COUNTED else None,
            "dataset": told_dataset(index.dataset(name)),
            "before": _before(index, row),
        }

    told = await asked.ask(look)
    row = told.pop("row")
    return await asked.page(
        "version",
        under=under,
        folders=_folders(under),
        start=start,
        cited=await _cited(asked, row),
        alias=alias_of(name),
        **told,
    )


def _before(index: Index, row: VersionRow) -> str | None:
    """The name of the version that was recorded before."""
    earlier = [one for one in index.versions(row.dataset_name) if one.seq < row.seq]
    return earlier[-1].name if earlier else None


def _folders(under: str) -> list[tuple[str, str]]:
    """Name and path of each folder on the way."""
    parts = under.split("/") if under else []
    return [(part, "/".join(parts[: place + 1])) for place, part in enumerate(parts)]


@view
async def file(asked: Asked) -> Response:
    """A file: its checksums, its places, its past, and where else its bytes are."""
    name, label, path = asked.part("name"), asked.part("label"), asked.value("path")

    def look(index: Index) -> dict[str, Any]:
        row = index.resolve(name, label)
        found = index.file(row, path)
        others = [
            told_found(one)
            for one in _some(index.find(found.key))
            if (one.dataset, one.path) != (name, path)
        ]
        return {
            "version": told_version(row),
            "file": told_file(found),
            "places": index.locations(found.content, limit=20),
            "spans": index.spans(row, path),
            "others": others,
        }

    return await asked.page("file", **await asked.ask(look))


@view
async def sums(asked: Asked) -> Response:
    """The sha256 of all files, as ``sha256sum -c`` takes them."""
    name, label = asked.part("name"), asked.part("label")

    def look(index: Index) -> str:
        row = index.resolve(name, label)
        lines, without = [], 0
        for one in index.files(row):
            told = {digest.algorithm: digest.value for digest in one.digests}
            if "sha256" in told:
                lines.append(f"{told['sha256']}  {one.path}\n")
            else:
                without += 1
        if without:
            lines.append(f"# not in the list: {without} files of which no sha256 is known\n")
        return "".join(lines)

    return asked.tagged(await asked.ask(look), "text/plain; charset=utf-8")


@view
async def citation(asked: Asked) -> Response:
    """A citation as a file."""
    name, label, form = asked.part("name"), asked.part("label"), asked.value("format", "text")
    if form not in FORMATS:
        raise Wrong(f"a citation is written as {', '.join(FORMATS)}, not as {form[:40]!r}")
    row = await asked.ask(lambda index: index.resolve(name, label))
    text = (await _cited(asked, row)).formats[form]
    return asked.tagged(text, "text/plain; charset=utf-8")


async def _cited(asked: Asked, row: VersionRow) -> Cited:
    store = asked.site.store
    return await asked.site.reader.do(lambda: cited(store, row))


@view
async def badge(asked: Asked) -> Response:
    """A picture that says which state a paper stands on."""
    name, label = asked.part("name"), asked.part("label")
    row = await asked.ask(lambda index: index.resolve(name, label))
    digest = row.state.removeprefix("sha256:")[:12]
    text = await asked.rendered("badge.svg", left="pinned", right=f"{row.name} · {digest}")
    return asked.tagged(text, "image/svg+xml; charset=utf-8")


@view
async def diff(asked: Asked) -> Response:
    """What is different between two versions."""
    one, other = asked.value("a"), asked.value("b")
    if not one or not other:
        raise Wrong("say which versions: /diff?a=dandi:000027@0.1.0&b=dandi:000027@0.2.0")
    told = await asked.ask(lambda index: _different(asked.site.store, index, one, other))
    return await asked.page("diff", most=_DIFFERENT, **told)


def _different(store: Store, index: Index, one: str, other: str) -> dict[str, Any]:
    from neuromirror.lab import Counts
    from neuromirror.lab import diff as compare
    from neuromirror.lab.diff import FileChange, version_side

    rows = [index.resolve(*_split(name)) for name in (one, other)]
    counts = Counts()
    changes: list[FileChange] = []
    with TemporaryDirectory(prefix="neuromirror-") as scratch:
        sides = [version_side(store, index, row) for row in rows]
        for change in compare(sides[0], sides[1], Path(scratch)):
            counts.add(change)
            if len(changes) < _DIFFERENT:
                changes.append(change)
    return {
        "old": told_version(rows[0]),
        "new": told_version(rows[1]),
        "changes": changes,
        "counts": counts,
    }


def _split(name: str) -> tuple[str, str]:
    found, _, label = name.partition("@")
    return found, label or "latest"


@view
async def events(asked: Asked) -> Response:
    """What people should know."""
    kind = asked.value("kind") or None
    found = await asked.ask(
        lambda index: [told_event(one) for one in index.events(kind=kind, limit=_ON_A_PAGE)]
    )
    return await asked.page("events", events=found, kind=kind)


@view
async def unknown(asked: Asked) -> Response:
    """No page has this address."""
    raise NoSuchPage(f"there is no page /{asked.part('rest')[:200]}")


@view
async def mirrors(asked: Asked) -> Response:
    """How each mirror stands."""

    def look(index: Index) -> dict[str, Any]:
        return {
            "mirrors": [told_mirror(one) for one in index.mirror_status()],
            "holds": list(index.open_holds()),
        }

    told = await asked.ask(look)
    store = asked.site.store
    checked = {one["mirror"]: store.last_checked(one["mirror"]) for one in told["mirrors"]}
    return await asked.page("mirrors", checked=checked, **told)
