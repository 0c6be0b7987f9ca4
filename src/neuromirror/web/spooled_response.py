"""Responses whose body was written to a temporary file."""

from __future__ import annotations

from typing import IO, Any, Final

from datasette.utils.asgi import Response

from neuromirror.web.request import CatalogueRequest

SPOOLED_BYTES: Final = 1 << 20
"""Size up to which a body is kept in memory."""
_CHUNK_SIZE: Final = 1 << 18


def spooled_response(
    request: CatalogueRequest, body: IO[bytes], name: str, media_type: str
) -> Response:
    """Return a response that sends and closes a file, which browsers save under a name."""
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "no-cache",
        "access-control-allow-origin": "*",
    }
    return _SpooledResponse(request, body, headers, media_type)


class _SpooledResponse(Response):  # type: ignore[misc,unused-ignore]
    def __init__(
        self, request: CatalogueRequest, body: IO[bytes], headers: dict[str, str], media_type: str
    ) -> None:
        super().__init__("", 200, headers, media_type)
        self._reader, self._body = request.site.reader, body

    async def asgi_send(self, send: Any) -> None:
        """Send the file."""
        named = {**self.headers, "content-type": self.content_type}
        raw = [[name.encode(), value.encode()] for name, value in named.items()]
        with self._body:
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            while piece := await self._reader.run_file_read(lambda: self._body.read(_CHUNK_SIZE)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
