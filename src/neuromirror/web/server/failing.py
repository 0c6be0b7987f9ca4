"""What Datasette could not answer: told as a page of ours, with no word of this machine."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, cast

from datasette.utils.asgi import Base400, Request, Response

from neuromirror.index import is_misasked
from neuromirror.model import NeuromirrorError
from neuromirror.web.asked import Asked, NoSuchPage, Wrong, view

if TYPE_CHECKING:
    from datasette.app import Datasette


class _Defect(NeuromirrorError):
    """Something that nobody expected; whoever asked is told no more than that."""


def failed(datasette: Datasette, request: Request, exception: Exception) -> Awaitable[Response]:
    """The reply to somebody whose question made Datasette raise ``exception``."""

    @view
    async def telling(asked: Asked) -> Response:
        if isinstance(exception, Base400) and exception.status != 404:
            raise Wrong(str(exception))
        if isinstance(exception, Base400):
            raise NoSuchPage(f"there is no page {request.path[:200]}")
        if is_misasked(exception):
            raise Wrong("the index's tables cannot be asked for this: a row has other keys")
        raise _Defect(repr(exception)) from exception

    return cast("Awaitable[Response]", telling(datasette, request))
