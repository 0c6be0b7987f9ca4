"""Files of the store for git and DataLad, and files that pages load, with ranges and ETags."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from hashlib import blake2b
from mimetypes import guess_type
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final
from urllib.parse import unquote_to_bytes

from anyio.to_thread import run_sync
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Receive, Scope, Send

from neuromirror.store import Store
from neuromirror.web.gateway.content import is_precondition_failed

_STATIC: Final = Path(__file__).with_name("static")
_REPOSITORY_FILES: Final = re.compile(
    r"HEAD|config|packed-refs|ria-layout-version|info/refs|refs/.+(?<!\.lock)"
    r"|objects/(?:info/(?:packs|alternates|http-alternates)|[0-9a-f]{2}/[0-9a-f]{38,62}"
    r"|pack/pack-[0-9a-f]{40,64}\.[a-z]{1,20})"
)
"""Files that git and DataLad need; no quarantined objects, locks, hooks or other files."""
_CHUNK_SIZE: Final = 1 << 18
_RANGE: Final = re.compile(rb"bytes=(?:(\d{1,18})-(\d{0,18})|-\d{1,18})")


class OpenFiles(StaticFiles):
    """Files of a folder; never one outside of it, not even through a symlink.

    Starlette's class opens a file by its path after it has looked at it; here the file is opened
    first, since it may be replaced or removed while it is sent.

    Parameters
    ----------
    folder
        The folder.
    media_type
        The media type of all files; by default that of their names.
    only
        The name of the one file to serve; by default the path of each request names one.
    is_public
        Whether a file is served, by its path in the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        media_type: str = "",
        only: str = "",
        is_public: Callable[[Path], bool] = lambda inside: True,
    ) -> None:
        super().__init__(directory=folder)
        self._folder, self._media_type, self._only = folder, media_type, only
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file that the quoted path of a request names."""
        name = self._only or get_route_path(scope).lstrip("/")
        opened = await run_sync(_open_file, self._folder, name, self._is_public)
        if opened is None:
            raise HTTPException(404)
        file, small = opened
        with file:
            scope = {**scope, "headers": list(filter(_has_no_other_range(scope), scope["headers"]))}
            reply = self._response(file, small, name, Headers(scope=scope))
            await reply(scope, receive, send)

    def _response(self, file: BinaryIO, small: bytes | None, name: str, known: Headers) -> Response:
        stats = os.fstat(file.fileno())
        # the inode distinguishes files replaced within one clock tick; it is hashed, not published
        same = blake2b(f"{stats.st_ino} {stats.st_mtime_ns}".encode(), digest_size=8).hexdigest()
        headers = {
            "etag": f'"{same}-{stats.st_size:x}"',
            "cache-control": "no-cache",
            "content-type": self._media_type or guess_type(name)[0] or "application/octet-stream",
        }
        if is_precondition_failed(known, headers["etag"]):
            return Response(None, 412, headers)
        reply = _FileResponse(f"/dev/fd/{file.fileno()}", headers=headers, stat_result=stats)
        if self.is_not_modified(reply.headers, known):
            return NotModifiedResponse(reply.headers)
        return reply if small is None or "range" in known else Response(small, 200, reply.headers)


class _FileResponse(FileResponse):
    chunk_size = _CHUNK_SIZE


def store_files(store: Store) -> OpenFiles:
    """Return the public files of a store."""
    return OpenFiles(store.root, media_type="application/octet-stream", is_public=_is_public)


def page_files(only: str = "") -> OpenFiles:
    """Return the files that pages load, or one of them."""
    return OpenFiles(_STATIC, only=only)


def _is_public(inside: Path) -> bool:
    """Return whether a file is public, by its path in the store."""
    first, *rest = inside.parts
    if first in ("manifests", "block-digests", "tombstones", "ria-layout-version"):
        return True
    return first != "neuromirror" and bool(_REPOSITORY_FILES.fullmatch("/".join(rest[1:])))


def _has_no_other_range(scope: Scope) -> Callable[[tuple[bytes, bytes]], bool]:
    """Return a filter of headers that drops a range that gets the whole file.

    That is one that is malformed, several of them, and that of a HEAD request.
    """

    def is_kept(header: tuple[bytes, bytes]) -> bool:
        name, value = header
        if name != b"range":
            return True
        found = _RANGE.fullmatch(value)
        if found is None or scope["method"] == "HEAD":
            return False
        first, last = found.groups()
        return not last or int(first) <= int(last)

    return is_kept


def _open_file(
    root: Path, name: str, is_public: Callable[[Path], bool]
) -> tuple[BinaryIO, bytes | None] | None:
    """Open the file that a quoted path names, and read it if it is small.

    None if it does not exist or is not public.
    """
    try:
        resolved = (root / unquote_to_bytes(name).decode()).resolve(strict=True)
        inside = resolved.relative_to(root.resolve())
        # non-blocking: opening a pipe would block this thread
        descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError, RuntimeError):
        return None
    stats = os.fstat(descriptor)
    if not S_ISREG(stats.st_mode) or not is_public(inside):
        os.close(descriptor)
        return None
    file = os.fdopen(descriptor, "rb")
    return file, file.read(stats.st_size) if stats.st_size <= _CHUNK_SIZE else None
