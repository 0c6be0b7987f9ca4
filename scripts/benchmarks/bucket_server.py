"""A public S3 bucket on loopback whose replies take as long as if it were far away.

It lists (ListObjectsV2) the files of a folder, with their MD5 as ETag, and answers HEAD, GET and
single byte ranges as S3 does. ``/bench/<file>/<number>`` is a copy of a file whose first 16 bytes
are that number. The first reply on a connection waits twice as long as the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET: Final = "bench"
_HEAD: Final = 16
_RANGE: Final = re.compile(rb"(?im)^range:\s*bytes=(\d*)-(\d*)\s*$")
_PAGE: Final = 1000


def first_bytes(number: int) -> bytes:
    """Return the first bytes of a numbered copy of a file."""
    return b"%0*d" % (_HEAD, number)


def digest_of(number: int, path: Path) -> str:
    """Return the sha256 of a numbered copy of a file."""
    digest = hashlib.sha256(first_bytes(number))
    with path.open("rb") as file:
        file.seek(_HEAD)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class Bucket:
    """The bucket; a context manager that serves it from a thread, with counters of requests."""

    def __init__(self, folder: Path, milliseconds: float) -> None:
        self.files = {
            str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()
        }
        self.etags = {key: _md5(path) for key, path in self.files.items()}
        self.delay = milliseconds / 1000
        self.requests = self.bytes = 0

    def __enter__(self) -> Bucket:
        self._loop = asyncio.new_event_loop()
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=512)
        )
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def clear(self) -> None:
        """Reset the counters."""
        self.requests = self.bytes = 0

    def page(self, query: dict[str, list[str]]) -> bytes:
        """Return a page of a listing."""
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        most = min(int(query.get("max-keys", [str(_PAGE)])[0]), _PAGE)
        names = sorted(set(self._listed(prefix, delimiter)), key=str.encode)
        names = [name for name in names if name.encode() > after.encode()]
        rows = [self._row(name) for name in names[:most]]
        is_truncated = len(names) > most
        token = escape(names[most - 1]) if is_truncated else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(rows)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<Delimiter>{escape(delimiter)}</Delimiter>"
            f"<IsTruncated>{'true' if is_truncated else 'false'}</IsTruncated>"
            + (f"<NextContinuationToken>{token}</NextContinuationToken>" if token else "")
            + f"{''.join(rows)}</ListBucketResult>"
        ).encode()

    def _listed(self, prefix: str, delimiter: str) -> Iterator[str]:
        for key in self.files:
            if key.startswith(prefix):
                folder, found, _ = key[len(prefix) :].partition(delimiter or "\0")
                yield f"{prefix}{folder}{delimiter}" if found else key

    def _row(self, name: str) -> str:
        if name not in self.files:
            return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        return (
            f"<Contents><Key>{escape(name)}</Key>"
            "<LastModified>2024-03-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{self.etags[name]}&quot;</ETag>"
            f"<Size>{self.files[name].stat().st_size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )


class _Connection(asyncio.Protocol):
    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._received = b""
        self._is_first = True
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._answer_all())

    def connection_lost(self, _: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _answer_all(self) -> None:
        while True:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._received = rest
            if self._bucket.delay:
                await asyncio.sleep(self._bucket.delay * (1 + self._is_first))
                self._is_first = False
            await self._answer(head)

    async def _answer(self, head: bytes) -> None:
        method, target = head.split(b" ", 2)[:2]
        parts = urlsplit(target.decode("latin-1"))
        bucket = self._bucket
        bucket.requests += 1
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        folder, _, number = key.rpartition("/")
        if not key and "versioning" in query:
            self._reply(b"200 OK", b"<VersioningConfiguration/>")
        elif not key and "versions" in query:
            self._reply(b"403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>")
        elif not key:
            self._reply(b"200 OK", bucket.page(query))
        elif key in bucket.files:
            await self._object(method, key, b"", head)
        elif folder in bucket.files:
            await self._object(method, folder, first_bytes(int(number)), head)
        else:
            self._reply(
                b"404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>" * (method == b"GET")
            )

    def _reply(self, status: bytes, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s"
            % (status, len(body), body)
        )

    async def _object(self, method: bytes, key: str, first: bytes, head: bytes) -> None:
        bucket, path = self._bucket, self._bucket.files[key]
        size = path.stat().st_size
        start, stop, status, stated = 0, size, b"200 OK", b""
        if found := _RANGE.search(head):
            begin, end = found.groups()
            start = int(begin) if begin else max(0, size - int(end))
            stop = min(size, int(end) + 1) if begin and end else size
            if start >= size:
                self._reply(b"416 Range Not Satisfiable", b"")
                return
            status = b"206 Partial Content"
            stated = b"Content-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, size)
        etag = hashlib.md5(first, usedforsecurity=False).hexdigest() if first else bucket.etags[key]
        modified = formatdate(1709251200, usegmt=True)
        answer = (
            b'HTTP/1.1 %s\r\nETag: "%s"\r\nLast-Modified: %s\r\nAccept-Ranges: bytes\r\n'
            b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n%s\r\n"
            % (status, etag.encode(), modified.encode(), stop - start, stated)
        )
        if method != b"GET":
            self._transport.write(answer)
            return
        first = first[start:stop]
        start += len(first)
        with path.open("rb") as file:
            file.seek(start)
            try:
                if stop - start <= 1 << 16:
                    self._transport.write(answer + first + file.read(stop - start))
                else:
                    self._transport.write(answer + first)
                    loop = asyncio.get_running_loop()
                    await loop.sendfile(self._transport, file, start, stop - start)
            except (ConnectionError, RuntimeError):
                self._transport.close()  # the client disconnected
            finally:
                bucket.bytes += file.tell() - start + len(first)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
