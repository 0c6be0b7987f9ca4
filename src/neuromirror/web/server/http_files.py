"""Static serving of the store's public files to git and DataLad, with ranges and ETags."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from neuromirror.web.gateway.byte_ranges import RangeNotSatisfiableError, has_etag, parse_ranges

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


class _OpenFile(Struct, frozen=True):
    """An open file with its size, its modification time in HTTP format, and its ETag."""

    file: BinaryIO
    size: int
    modified: bytes
    etag: bytes


async def serve_file(scope: Mapping[str, Any], receive: Receive, send: Send, site: Site) -> None:
    """Serve a public file of the store; never one outside of it, not even through a symlink."""
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
    found = await site.reader.run_file_read(lambda: _open_file(site.store.root, path))
    if found is None:
        await send_text(send, 404, "The store has no such file.")
        return
    with found.file:
        headers = dict(scope["headers"])
        response_headers: list[Header] = [
            (b"etag", found.etag),
            (b"last-modified", found.modified),
            (b"accept-ranges", b"bytes"),
            (b"cache-control", b"no-cache"),
        ]
        if _is_not_modified(headers, found):
            await send({"type": "http.response.start", "status": 304, "headers": response_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        first, last, status = _requested_range(headers, found)
        if status == 416:
            of_all = (b"content-range", b"bytes */%d" % found.size)
            await send_text(send, 416, "Range beyond the end of the file.", of_all)
            return
        if status == 206:
            response_headers.append(
                (b"content-range", b"bytes %d-%d/%d" % (first, last, found.size))
            )
        response_headers.append((b"content-type", b"application/octet-stream"))
        response_headers.append((b"content-length", b"%d" % (last + 1 - first)))
        await send({"type": "http.response.start", "status": status, "headers": response_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
        else:
            await _send_range(receive, send, site, found.file, first, last + 1)


def _open_file(root: Path, path: bytes) -> _OpenFile | None:
    """Open the file that a path names; None if it does not exist or is not public."""
    try:
        named = unquote_to_bytes(path[1:]).decode()
        resolved = (root / named).resolve(strict=True)
        inside = resolved.relative_to(root.resolve())
        # non-blocking: opening a pipe would block this thread
        descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError, RuntimeError):
        return None
    stats = os.fstat(descriptor)
    if not _is_public(inside) or not S_ISREG(stats.st_mode):
        os.close(descriptor)
        return None
    # the inode distinguishes files replaced within one clock tick; it is hashed, not published
    same = blake2b(f"{stats.st_ino} {stats.st_mtime_ns}".encode(), digest_size=8).hexdigest()
    etag = f'"{same}-{stats.st_size:x}"'
    modified = formatdate(stats.st_mtime, usegmt=True)
    return _OpenFile(os.fdopen(descriptor, "rb"), stats.st_size, modified.encode(), etag.encode())


def _is_public(inside: Path) -> bool:
    """Whether a file is public, by its path in the store."""
    first, *rest = inside.parts
    if first in ("manifests", "block-digests", "tombstones", "ria-layout-version"):
        return True
    return first != "neuromirror" and bool(_REPOSITORY_FILES.fullmatch("/".join(rest[1:])))


def _is_not_modified(headers: Mapping[bytes, bytes], found: _OpenFile) -> bool:
    """Whether the client has the current file (RFC 9110, section 13.2.2)."""
    tags = headers.get(b"if-none-match")
    if tags is not None:
        return has_etag(tags.decode("latin-1"), found.etag.decode())
    return headers.get(b"if-modified-since") == found.modified


def _requested_range(headers: Mapping[bytes, bytes], found: _OpenFile) -> tuple[int, int, int]:
    """Return first and last byte and the status; multiple ranges get the whole file."""
    whole = 0, found.size - 1, 200
    header = headers.get(b"range", b"").replace(b" ", b"").decode("latin-1")
    if "," in header or headers.get(b"if-range", found.etag) not in (found.etag, found.modified):
        return whole
    try:
        spans = parse_ranges(header, found.size)
    except RangeNotSatisfiableError:
        return 0, 0, 416
    return whole if spans is None else (spans[0][0], spans[0][1] - 1, 206)


async def _send_range(
    receive: Receive, send: Send, site: Site, file: BinaryIO, first: int, end: int
) -> None:
    """Send a byte range until it is complete or the client disconnects.

    If the file is truncated meanwhile, the body is too short, which the client notices.
    """
    gone = asyncio.ensure_future(_wait_for_disconnect(receive))
    block = b"."
    try:
        while first < end and block and not gone.done():
            read = partial(os.pread, file.fileno(), min(_CHUNK_SIZE, end - first), first)
            block = await site.reader.run_file_read(read)
            first += len(block)
            await send({"type": "http.response.body", "body": block, "more_body": True})
        if first >= end:
            await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


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
