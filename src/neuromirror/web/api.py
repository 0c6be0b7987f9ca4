"""The JSON of the catalogue, version 1: the same words as the pages and as ``--json``.

Lists come in pages: ``next`` is the address of the following one, null at the end.
"""

from __future__ import annotations

from itertools import islice
from typing import Any
from urllib.parse import urlencode

from datasette.utils.asgi import Response

from neuromirror.index import Index
from neuromirror.model import alias_of
from neuromirror.web.addresses import dataset_address, version_address
from neuromirror.web.asked import Asked, Wrong, view
from neuromirror.web.records import (
    told_dataset,
    told_event,
    told_file,
    told_found,
    told_mirror,
    told_version,
)

_MOST = 1000


@view
async def start(asked: Asked) -> Response:
    """Where everything is."""
    base = f"{asked.address}/api/v1"
    return asked.json(
        {
            "version": 1,
            "title": asked.site.title,
            "datasets": f"{base}/datasets{{?q,mirror,limit,page}}",
            "dataset": f"{base}/datasets/{{name}}",
            "one_version": f"{base}/datasets/{{name}}@{{version}}",
            "files": f"{base}/datasets/{{name}}@{{version}}/files{{?under,after,limit}}",
            "find": f"{base}/find{{?checksum,limit}}",
            "events": f"{base}/events{{?kind,dataset,limit}}",
            "mirrors": f"{base}/mirrors",
        }
    )


@view
async def datasets(asked: Asked) -> Response:
    """Datasets by words, of a mirror, or all."""
    words, mirror = asked.value("q").strip(), asked.value("mirror") or None
    limit, page = asked.whole("limit", 100, _MOST), asked.whole("page", 1, 1_000_000)
    first = (page - 1) * limit

    def look(index: Index) -> list[dict[str, Any]]:
        rows = index.datasets(mirror, words=words or None, parts=False)
        return [told_dataset(one) for one in islice(rows, first, first + limit + 1)]

    found = await asked.ask(look)
    more = {"q": words, "mirror": mirror or "", "limit": limit, "page": page + 1}
    following = f"{asked.address}/api/v1/datasets?{urlencode(more)}"
    return asked.json(
        {"datasets": found[:limit], "next": following if len(found) > limit else None}
    )


@view
async def dataset(asked: Asked) -> Response:
    """One dataset with its versions."""
    name = asked.part("name")

    def look(index: Index) -> dict[str, Any]:
        return {
            **told_dataset(index.dataset(name)),
            "all_versions": [told_version(one) for one in index.versions(name)],
            "links": [{"kind": kind, "url": url} for kind, url in index.links(name)],
            "page": asked.address + dataset_address(name),
        }

    return asked.json(await asked.ask(look))


@view
async def version(asked: Asked) -> Response:
    """One version."""
    name, label = asked.part("name"), asked.part("label")

    def look(index: Index) -> dict[str, Any]:
        row = index.resolve(name, label)
        alias = alias_of(name)
        return {
            **told_version(row),
            "attributes": index.attributes(row),
            "left_out": index.exceptions(row),
            "clone": f"ria+{asked.address}/#~{alias}@{row.label}",
            "page": asked.address + version_address(name, row.label),
        }

    return asked.json(await asked.ask(look))


@view
async def files(asked: Asked) -> Response:
    """The files of a version by path; ``after`` is the last path of the page before."""
    name, label = asked.part("name"), asked.part("label")
    under, after = asked.value("under"), asked.value("after")
    limit = asked.whole("limit", _MOST, _MOST)

    def look(index: Index) -> list[dict[str, Any]]:
        row = index.resolve(name, label)
        return [told_file(one) for one in index.files(row, under, after, limit + 1)]

    found = await asked.ask(look)
    following = None
    if len(found) > limit:
        query = urlencode({"under": under, "after": found[limit - 1]["path"], "limit": limit})
        following = f"{asked.address}/api/v1{_plural(version_address(name, label))}/files?{query}"
    return asked.json({"files": found[:limit], "next": following})


def _plural(address: str) -> str:
    return address.replace("/dataset/", "/datasets/", 1)


@view
async def find(asked: Asked) -> Response:
    """Every place of some bytes."""
    checksum, limit = asked.value("checksum").strip(), asked.whole("limit", 100, _MOST)
    if not checksum:
        raise Wrong("say which bytes: ?checksum=sha256:…, md5:…, etag:… or a git-annex key")
    found = await asked.ask(lambda index: list(islice(index.find(checksum), limit + 1)))
    return asked.json(
        {"found": [told_found(one) for one in found[:limit]], "more": len(found) > limit}
    )


@view
async def events(asked: Asked) -> Response:
    """What people should know, the last first."""
    kind, name = asked.value("kind") or None, asked.value("dataset") or None
    limit = asked.whole("limit", 100, _MOST)
    found = await asked.ask(lambda index: list(index.events(name, kind, limit)))
    return asked.json({"events": [told_event(one) for one in found]})


@view
async def mirrors(asked: Asked) -> Response:
    """How each mirror stands."""
    found = await asked.ask(lambda index: list(index.mirror_status()))
    return asked.json({"mirrors": [told_mirror(one) for one in found]})
