"""The index's tables and queries, as Datasette shows them."""

from __future__ import annotations

from datasette.utils.asgi import Response

from neuromirror.web.asked import Asked, view


@view
async def tables(asked: Asked) -> Response:
    """What is below ``/index``."""
    return await asked.from_tables()
