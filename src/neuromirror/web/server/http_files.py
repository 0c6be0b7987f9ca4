"""Files of the store for git and DataLad, and files that pages load, with ranges and ETags."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    MutableMapping,
)
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from hashlib import blake2b
from mimetypes import guess_type
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from neuromirror.model import NeuromirrorError
from neuromirror.web.gateway.content_response import content_response

if TYPE_CHECKING:
    from neuromirror.web.site import Site

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

_CHUNK_SIZE = 1 << 18
_REPOSITORY_FILES = re.compile(
    r"HEAD|config|packed-refs|ria-layout-version|info/refs|refs/.+(?<!\.lock)"
    r"|objects/(?:info/(?:packs|alternates|http-alternates)|[0-9a-f]{2}/[0-9a-f]{38,62}"
    r"|pack/pack-[0-9a-f]{40,64}\.[a-z]{1,20})"
)
"""Files that git and DataLad need; no quarantined objects, locks, hooks or other files."""


_STATIC_PATH = b"/-/static-plugins/neuromirror/"
_STATIC_FOLDER = Path(__file__).parents[1] / "static"
"""The files that pages load."""


class _OpenFile(Struct, frozen=True):
    """An open file with its size, its modification time in HTTP format, and its ETag."""

    file: BinaryIO
    size: int
    modified: str
    etag: str


async def serve_store_file(
    scope: Mapping[str, Any], receive: Receive, send: Send, site: Site
) -> None:
    """Serve a public file of the store; never one outside of it, not even through a symlink."""
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
    root = site.store.root
    found = await site.reader.run_file_read(lambda: _open_file(root, path[1:], _is_public))
    await _send_file(scope, receive, send, site, found, "application/octet-stream")


async def serve_static_file(
    scope: Mapping[str, Any], receive: Receive, send: Send, site: Site
) -> None:
    """Serve a file that pages load."""
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
    if path == b"/favicon.ico":
        path = _STATIC_PATH + b"icon.svg"
    found = None
    if path.startswith(_STATIC_PATH):
        name = path.removeprefix(_STATIC_PATH)
        found = await site.reader.run_file_read(lambda: _open_file(_STATIC_FOLDER, name))
    kind = guess_type(path.decode("latin-1"))[0] or "application/octet-stream"
    await _send_file(scope, receive, send, site, found, kind)


async def _send_file(
    scope: Mapping[str, Any],
    receive: Receive,
    send: Send,
    site: Site,
    found: _OpenFile | None,
    kind: str,
) -> None:
    if found is None:
        await send_text(send, 404, "File not found.")
        return

    async def read(start: int, stop: int) -> AsyncIterator[bytes]:
        while start < stop:
            size = min(_CHUNK_SIZE, stop - start)
            block = await site.reader.run_file_read(partial(os.pread, descriptor, size, start))
            if not block:  # the client notices that the body is too short
                raise _TruncatedFileError("the file was truncated while it was sent")
            start += len(block)
            yield block

    with found.file:
        descriptor = found.file.fileno()
        headers = {
            "etag": found.etag,
            "last-modified": found.modified,
            "accept-ranges": "bytes",
            "cache-control": "no-cache",
            "content-type": kind,
            "content-length": str(found.size),
        }
        reply = content_response(
            _request_headers(scope, found),
            headers,
            found.size,
            read,
            is_head=scope["method"] == "HEAD",
            name=scope["path"],
        )
        await run_while_connected(receive, reply.asgi_send(send))


class _TruncatedFileError(NeuromirrorError):
    """A file has fewer bytes than it had when its response started."""


def _request_headers(scope: Mapping[str, Any], found: _OpenFile) -> dict[str, str]:
    """Return the headers of a request, with the ETag of the file where they have its time."""
    headers = {name.decode("latin-1"): one.decode("latin-1") for name, one in scope["headers"]}
    if "," in headers.get("range", ""):
        del headers["range"]  # several ranges get the whole file
    if headers.get("if-range") == found.modified:
        headers["if-range"] = found.etag
    if headers.get("if-modified-since") == found.modified:
        headers.setdefault("if-none-match", found.etag)
    return headers


def _open_file(
    root: Path, path: bytes, is_public: Callable[[Path], bool] = lambda inside: True
) -> _OpenFile | None:
    """Open the file that a quoted path names; None if it does not exist or is not public."""
    try:
        resolved = (root / unquote_to_bytes(path).decode()).resolve(strict=True)
        inside = resolved.relative_to(root.resolve())
        # non-blocking: opening a pipe would block this thread
        descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError, RuntimeError):
        return None
    stats = os.fstat(descriptor)
    if not S_ISREG(stats.st_mode) or not is_public(inside):
        os.close(descriptor)
        return None
    # the inode distinguishes files replaced within one clock tick; it is hashed, not published
    same = blake2b(f"{stats.st_ino} {stats.st_mtime_ns}".encode(), digest_size=8).hexdigest()
    etag = f'"{same}-{stats.st_size:x}"'
    modified = formatdate(stats.st_mtime, usegmt=True)
    return _OpenFile(os.fdopen(descriptor, "rb"), stats.st_size, modified, etag)


def _is_public(inside: Path) -> bool:
    """Whether a file is public, by its path in the store."""
    first, *rest = inside.parts
    if first in ("manifests", "block-digests", "tombstones", "ria-layout-version"):
        return True
    return first != "neuromirror" and bool(_REPOSITORY_FILES.fullmatch("/".join(rest[1:])))


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it finishes; cancel it if the client disconnects."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
        with suppress(asyncio.CancelledError):
            await doing
    finally:
        doing.cancel()
        gone.cancel()


async def send_text(send: Send, status: int, text: str, *more: Header) -> None:
    """Send a response with one line of text."""
    body = text.encode() + b"\n"
    headers = [
        *more,
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
