"""The page of a file: its checksums, its places, its past, and where else its bytes are."""

from __future__ import annotations

from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index
from neuromirror.model import alias_of
from neuromirror.web.asked import Asked, view
from neuromirror.web.pages.viewers import file_viewers, is_web
from neuromirror.web.records import told_file, told_others, told_version

_PLACES = 100
_OTHERS = 100


@view
async def file(asked: Asked) -> Response:
    """A file: its checksums, its places, its past, and where else its bytes are."""
    name, label, path = asked.part("name"), asked.part("label"), asked.value("path")

    def look(index: Index) -> dict[str, Any]:
        row = index.resolve(name, label)
        found = index.file(row, path)
        others, more = told_others(index, row, found, _OTHERS)
        places = index.locations(found.content, limit=_PLACES + 1)
        return {
            "version": told_version(row),
            "file": told_file(found),
            "places": places[:_PLACES],
            "more_places": len(places) > _PLACES,
            "viewers": file_viewers(row, path, places),
            "download": next(
                (one.url for one in places if is_web(one.url) and one.result in (None, "ok")), ""
            ),
            "spans": list(reversed(index.spans(row, path))),
            "others": others,
            "more_others": more,
        }

    return await asked.page("file", alias=alias_of(name), **await asked.ask(look))
