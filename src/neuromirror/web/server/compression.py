"""Compression of text responses for clients that accept gzip."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from typing import Any

from neuromirror.web.server.http_files import Header, Message, Send
from neuromirror.web.site import Site

_TEXT = re.compile(rb"text/|image/svg\+xml|application/(?:[a-z.]+\+)?(?:json|xml|javascript)")
_REPLACED_HEADERS = (b"content-length", b"vary")
_MIN_COMPRESSED_SIZE = 1000
"""Minimum size of a compressed response; a smaller one fits a packet in any case."""
_LEVEL = 4
"""Level of gzip: twice as fast as level 6, with 5 % larger pages."""


def compressing_send(send: Send, scope: Mapping[str, Any], site: Site) -> Send:
    """Return an ASGI ``send`` that compresses the body of a text response, and sets Content-Length.

    A body of several messages, as of a list of checksums, is sent unchanged.

    Parameters
    ----------
    send
        The ``send`` of the server.
    scope
        The request, which states whether the client accepts gzip.
    site
        The site, whose threads compress.
    """
    accepted = accepts_gzip(scope)
    start: Message | None = None

    async def sending(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            if is_text(message) and not _is_exact(message):
                start = message
                return
            await send(message)
            return
        if start is not None:
            headers = _without(start, *_REPLACED_HEADERS)
            body = message.get("body", b"")
            vary = [value for name, value in start["headers"] if name.lower() == b"vary"]
            # a page of another process has it
            varies = vary if b"Accept-Encoding" in vary else [*vary, b"Accept-Encoding"]
            headers.append((b"vary", b", ".join(varies)))
            if not message.get("more_body", False):
                if accepted and len(body) >= _MIN_COMPRESSED_SIZE and _is_uncompressed(start):
                    whole = bytes(body)
                    body = await site.reader.run_in_thread(
                        lambda: gzip.compress(whole, _LEVEL, mtime=0)
                    )
                    headers.append((b"content-encoding", b"gzip"))
                if start["status"] != 304:
                    headers.append((b"content-length", b"%d" % len(body)))
            message = {**message, "body": body}
            await send({**start, "headers": headers})
            start = None
        await send(message)

    return sending


def accepts_gzip(scope: Mapping[str, Any]) -> bool:
    """Return whether the client accepts gzip (RFC 9110, section 12.5.3)."""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            for one in value.lower().split(b","):
                coding, _, weight = one.partition(b";")
                if coding.strip() in (b"gzip", b"x-gzip"):
                    return not re.fullmatch(rb"\s*q\s*=\s*0(\.0*)?\s*", weight)
    return False


def is_text(start: Message) -> bool:
    """Return whether the headers in an ASGI start message are those of a text response."""
    headers = {name.lower(): value for name, value in start["headers"]}
    return _TEXT.match(headers.get(b"content-type", b"")) is not None


def _is_exact(start: Message) -> bool:
    """Whether a response must not be transformed: its ranges and its ETag are those of a file."""
    return any(
        name.lower() == b"cache-control" and b"no-transform" in value
        for name, value in start["headers"]
    )


def _is_uncompressed(start: Message) -> bool:
    names = {name.lower() for name, _ in start["headers"]}
    return start["status"] == 200 and b"content-encoding" not in names


def _without(start: Message, *names: bytes) -> list[Header]:
    return [(name, value) for name, value in start["headers"] if name.lower() not in names]
