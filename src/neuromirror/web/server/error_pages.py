"""Error pages for Datasette's errors, without local details.

Datasette's own handler prints the request and all variables; this one prints nothing.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import cast

from datasette.database import QueryInterrupted
from datasette.utils.asgi import Base400, Forbidden, Request, Response
from datasette.views.base import DatasetteError

from neuromirror.index import refusal_message, sqlite_damage_error
from neuromirror.model import NeuromirrorError
from neuromirror.web.request import (
    BadRequestError,
    CatalogueRequest,
    OperationDisabledError,
    PageNotFoundError,
    view,
)
from neuromirror.web.site import Site

_SQL_DISABLED_MESSAGE = (
    "this catalogue does not run SQL of visitors; use the queries on /index, the filters of the "
    "tables, or /api/v1"
)
_TIMEOUT_MESSAGE = "the statement took too long; select fewer rows, or use an indexed column"


class _InternalError(NeuromirrorError):
    """An unexpected error, whose details are not public."""


def error_response(site: Site, request: Request, exception: Exception) -> Awaitable[Response]:
    """Return the response to a request for which Datasette raised ``exception``.

    It shows no local paths and no variables.
    """

    @view
    async def render_error(catalogue_request: CatalogueRequest) -> Response:
        error = _translate_error(exception, request.path)
        if isinstance(error, (BadRequestError, OperationDisabledError)) and request.path.endswith(
            ".json"
        ):
            status = 400 if isinstance(error, BadRequestError) else 403
            document = {"ok": False, "error": str(error), "status": status, "title": None}
            return Response(json.dumps(document), status, {}, "application/json; charset=utf-8")
        raise error from exception

    return cast("Awaitable[Response]", render_error(site, request))


def _translate_error(exception: Exception, path: str) -> NeuromirrorError:
    """Return the corresponding error of this package."""
    if isinstance(exception, NeuromirrorError):
        return exception
    if isinstance(exception, QueryInterrupted):
        return BadRequestError(_TIMEOUT_MESSAGE)
    if isinstance(exception, Forbidden):
        return OperationDisabledError(_SQL_DISABLED_MESSAGE)
    if isinstance(exception, DatasetteError):
        if exception.status == 403:
            return OperationDisabledError(_SQL_DISABLED_MESSAGE)
        if exception.status == 404:
            return PageNotFoundError(str(exception.message))
        return BadRequestError(
            _TIMEOUT_MESSAGE if exception.message_is_html else str(exception.message)
        )
    if isinstance(exception, NotADirectoryError):  # an address below a static file
        return PageNotFoundError(f"page not found: {path[:200]}")
    if isinstance(exception, Base400):
        if exception.status == 404:
            return PageNotFoundError(f"page not found: {path[:200]}")
        return BadRequestError(str(exception))
    damage = sqlite_damage_error(exception)
    if damage is not None:
        return damage
    why = refusal_message(exception)
    return _InternalError(repr(exception)) if why is None else BadRequestError(why)
