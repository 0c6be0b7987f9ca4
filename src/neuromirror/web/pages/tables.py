"""The index's tables and queries, as Datasette shows them."""

from __future__ import annotations

import json

from datasette.utils.asgi import Response

from neuromirror.web.request import BadRequestError, CatalogueRequest, view

_THROUGH = frozenset({"table", "column", "value"})


@view
async def tables(request: CatalogueRequest) -> Response:
    """What is below ``/index``."""
    for name, values in request.query_parameters().items():
        if name == "_through" or name.startswith("_facet"):
            for value in values:
                _check_filter(name, value)
    return await request.datasette_response()


def _check_filter(name: str, value: str) -> None:
    """Raise Wrong for a filter or a facet in JSON that Datasette takes for granted."""
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
                f"_through is a JSON object of texts: {', '.join(sorted(_THROUGH))}"
            )
    elif not (sound and found.keys() & {"column", "simple"}):
        raise BadRequestError(
            f"{name} is a column's name, or a JSON object of texts that has it as 'column'"
        )
