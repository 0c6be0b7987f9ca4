"""Responses whose body was written to a temporary file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

from datasette.utils.asgi import Response

from neuromirror.model import NeuromirrorError
from neuromirror.web.request import CatalogueRequest

SPOOLED_BYTES: Final = 1 << 20
"""Size up to which a body is kept in memory."""
_CHUNK_SIZE: Final = 1 << 18


class SlowClientError(NeuromirrorError):
    """A client reads a response too slowly."""


class FileResponse(Response):  # type: ignore[misc,unused-ignore]
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
        super().__init__("", 200, dict(headers), media_type)
        self._reader, self._file = request.site.reader, file
        self._seconds, self._on_sent = seconds, on_sent

    async def asgi_send(self, send: Any) -> None:
        """Send the file; raises SlowClientError."""
        named = {**self.headers, "content-type": self.content_type}
        raw = [[name.encode(), value.encode()] for name, value in named.items()]
        try:
            async with asyncio.timeout(self._seconds):
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                while piece := await self._reader.run_file_read(
                    lambda: self._file.read(_CHUNK_SIZE)
                ):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
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
    return FileResponse(request, body, headers, media_type)
