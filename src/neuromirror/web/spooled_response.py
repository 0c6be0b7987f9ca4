"""Responses whose body was written to a temporary file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import IO, Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from neuromirror.model import NeuromirrorError
from neuromirror.web.request import CatalogueRequest

SPOOLED_BYTES: Final = 1 << 20
"""Size up to which a body is kept in memory."""
_CHUNK_SIZE: Final = 1 << 18


class SlowClientError(NeuromirrorError):
    """A client reads a response too slowly."""


class SpooledResponse(StreamingResponse):
    """Sends and closes a file.

    Parameters
    ----------
    request
        The request.
    file
        The file.
    headers
        The headers, without the type.
    media_type
        The type.
    seconds
        The time in which the client must read the file; unlimited by default.
    on_sent
        Called when the file is closed.
    """

    def __init__(
        self,
        request: CatalogueRequest,
        file: IO[bytes],
        headers: Mapping[str, str],
        media_type: str,
        *,
        seconds: float | None = None,
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(self._pieces(), 200, headers, media_type)
        self._reader, self._file = request.site.reader, file
        self._seconds, self._on_sent = seconds, on_sent

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._reader.run_file_read(lambda: self._file.read(_CHUNK_SIZE)):
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; raises SlowClientError."""
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError as error:
            raise SlowClientError("a client read a file too slowly and was disconnected") from error
        finally:
            self._file.close()
            self._on_sent()


def spooled_response(
    request: CatalogueRequest, body: IO[bytes], name: str, media_type: str
) -> Response:
    """Return a response that sends and closes a file, which browsers save under a name."""
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "no-cache",
        "access-control-allow-origin": "*",
    }
    return SpooledResponse(request, body, headers, media_type)
