"""The tables and queries of the index, served by Datasette."""

from __future__ import annotations

import json

from datasette.utils.asgi import Response

from neuromirror.web.request import BadRequestError, CatalogueRequest, view

_THROUGH = frozenset({"table", "column", "value"})


@view
async def tables(request: CatalogueRequest) -> Response:
    """Return a page of tables or queries below ``/index``, from a Datasette process."""
    for name, values in request.query_parameters().items():
        if name == "_through" or name.startswith("_facet"):
            for value in values:
                _check_filter(name, value)
    reply = await request.site.tables.respond(request.scope)
    # Datasette states none for CSV and for some errors
    headers = {"cache-control": "no-cache"} | {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reply.headers
    }
    kind = headers.pop("content-type", "text/plain; charset=utf-8")
    return Response(reply.body, reply.status, headers, kind)


def _check_filter(name: str, value: str) -> None:
    """Raise BadRequestError for a JSON filter or facet that would make Datasette fail."""
    if name != "_through" and not value.startswith("{"):
        return
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    sound = isinstance(found, dict) and all(isinstance(one, str) for one in found.values())
    if name == "_through":
        if not (sound and found.keys() == _THROUGH):
            raise BadRequestError(
                f"_through must be a JSON object of strings: {', '.join(sorted(_THROUGH))}"
            )
    elif not (sound and found.keys() & {"column", "simple"}):
        raise BadRequestError(
            f"{name} must be the name of a column, or a JSON object with a string 'column'"
        )
