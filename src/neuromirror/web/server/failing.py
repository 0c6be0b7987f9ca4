"""What Datasette could not answer: told as a page of ours, with no word of this machine.

Nothing of it is printed: Datasette's own handler prints the request and all variables.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import TYPE_CHECKING, cast

from datasette.database import QueryInterrupted
from datasette.utils.asgi import Base400, Forbidden, Request, Response
from datasette.views.base import DatasetteError

from neuromirror.index import as_damage, refusal
from neuromirror.model import NeuromirrorError
from neuromirror.web.asked import Asked, NoSuchPage, Refused, Wrong, view

if TYPE_CHECKING:
    from datasette.app import Datasette

_NO_SQL = (
    "this catalogue runs no SQL of its visitors; the queries that /index lists, the tables with "
    "their filters, and /api/v1 answer"
)
_SLOW = "the statement took too long; ask for less, or for rows by an index"


class _Defect(NeuromirrorError):
    """Something that nobody expected; whoever asked is told no more than that."""


def failed(datasette: Datasette, request: Request, exception: Exception) -> Awaitable[Response]:
    """The reply to somebody whose question made Datasette raise ``exception``."""

    @view
    async def telling(asked: Asked) -> Response:
        error = _as_ours(exception, request.path)
        if isinstance(error, (Wrong, Refused)) and request.path.endswith(".json"):
            status = 400 if isinstance(error, Wrong) else 403
            told = {"ok": False, "error": str(error), "status": status, "title": None}
            return Response(json.dumps(told), status, {}, "application/json; charset=utf-8")
        raise error from exception

    return cast("Awaitable[Response]", telling(datasette, request))


def _as_ours(exception: Exception, path: str) -> NeuromirrorError:
    """Return the error of ours that says the same."""
    if isinstance(exception, NeuromirrorError):
        return exception
    if isinstance(exception, QueryInterrupted):
        return Wrong(_SLOW)
    if isinstance(exception, Forbidden):
        return Refused(_NO_SQL)
    if isinstance(exception, DatasetteError):
        if exception.status == 403:
            return Refused(_NO_SQL)
        if exception.status == 404:
            return NoSuchPage(str(exception.message))
        return Wrong(_SLOW if exception.message_is_html else str(exception.message))
    if isinstance(exception, Base400):
        if exception.status == 404:
            return NoSuchPage(f"there is no page {path[:200]}")
        return Wrong(str(exception))
    damage = as_damage(exception)
    if damage is not None:
        return damage
    why = refusal(exception)
    return _Defect(repr(exception)) if why is None else Wrong(why)
