"""Serves a folder as a public S3 bucket until it is ended: arguments are ``FOLDER MILLISECONDS``.

Lists (ListObjectsV2), HEAD, GET and single byte ranges as S3 does, with the MD5 as ETag. Each reply
waits, the first on a connection twice as long, as if that were the time to the server and back.
``/-/clear`` resets the counters that ``/-/counts`` returns. The port is printed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import sys
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET: Final = "bench"
_RANGE: Final = re.compile(rb"(?im)^range:\s*bytes=(\d*)-(\d*)\s*$")
_PAGE: Final = 1000


class StreamBucket:
    """The objects of a folder, and what clients requested."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.keys = sorted(self.files, key=str.encode)
        self.etags = {key: _md5(path) for key, path in self.files.items()}
        self.requests = self.bytes = 0

    def counts(self) -> bytes:
        """Return the number of requests and of bytes of objects sent, as JSON."""
        return json.dumps({"requests": self.requests, "bytes": self.bytes}).encode()

    def page(self, query: dict[str, list[str]]) -> bytes:
        """Return a page of a listing."""
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        most = min(int(query.get("max-keys", [str(_PAGE)])[0]), _PAGE)
        entries: list[str] = []
        names: set[str] = set()
        last = ""
        is_truncated = False
        for key in self.keys:
            if not key.startswith(prefix) or key <= after:
                continue
            name = key[len(prefix) :]
            folder = ""
            if delimiter and delimiter in name:
                folder = prefix + name.partition(delimiter)[0] + delimiter
                if folder in names or after.startswith(folder):
                    continue
            if len(entries) == most:
                is_truncated = True
                break
            last = key
            if folder:
                names.add(folder)
                entries.append(
                    f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
                )
            else:
                entries.append(
                    f"<Contents><Key>{escape(key)}</Key>"
                    "<LastModified>2024-03-01T00:00:00.000Z</LastModified>"
                    f"<ETag>&quot;{self.etags[key]}&quot;</ETag>"
                    f"<Size>{self.files[key].stat().st_size}</Size>"
                    "<StorageClass>STANDARD</StorageClass></Contents>"
                )
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(entries)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<Delimiter>{escape(delimiter)}</Delimiter>"
            f"<IsTruncated>{'true' if is_truncated else 'false'}</IsTruncated>"
            f"{token if is_truncated else ''}{''.join(entries)}</ListBucketResult>"
        ).encode()


class _Connection(asyncio.Protocol):
    def __init__(self, bucket: StreamBucket, delay: float) -> None:
        self._bucket = bucket
        self._delay = delay
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
            if self._delay and not head.partition(b" ")[2].startswith(b"/-/"):
                await asyncio.sleep(self._delay * (1 + self._is_first))
                self._is_first = False
            await self._answer(head)

    async def _answer(self, head: bytes) -> None:
        method, target = head.split(b" ", 2)[:2]
        parts = urlsplit(target.decode("latin-1"))
        path = unquote(parts.path)
        bucket = self._bucket
        if path.startswith("/-/"):
            counts = bucket.counts()
            if path == "/-/clear":
                bucket.requests = bucket.bytes = 0
            self._reply(b"200 OK", counts, "application/json")
            return
        bucket.requests += 1
        key = path.removeprefix(f"/{BUCKET}").removeprefix("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        if not key and "versioning" in query:
            self._reply(b"200 OK", b"<VersioningConfiguration/>")
        elif not key and "versions" in query:
            self._reply(b"403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>")
        elif not key:
            self._reply(b"200 OK", bucket.page(query), with_body=method == b"GET")
        elif key not in bucket.files:
            missing = b"<Error><Code>NoSuchKey</Code></Error>"
            self._reply(b"404 Not Found", missing, with_body=method == b"GET")
        else:
            await self._object(method, key, head)

    def _reply(
        self, status: bytes, body: bytes, kind: str = "application/xml", *, with_body: bool = True
    ) -> None:
        self._transport.write(
            b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (status, kind.encode(), len(body), body if with_body else b"")
        )

    async def _object(self, method: bytes, key: str, head: bytes) -> None:
        bucket = self._bucket
        path = bucket.files[key]
        size = path.stat().st_size
        start, stop, status, stated = 0, size, b"200 OK", b""
        if found := _RANGE.search(head):
            first, last = found.groups()
            start = int(first) if first else max(0, size - int(last))
            stop = min(size, int(last) + 1) if first and last else size
            if start >= size:
                self._reply(b"416 Range Not Satisfiable", b"", with_body=False)
                return
            status = b"206 Partial Content"
            stated = b"Content-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, size)
        self._transport.write(
            b'HTTP/1.1 %s\r\nETag: "%s"\r\nLast-Modified: %s\r\nAccept-Ranges: bytes\r\n'
            b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n%s\r\n"
            % (
                status,
                bucket.etags[key].encode(),
                formatdate(1709251200, usegmt=True).encode(),
                stop - start,
                stated,
            )
        )
        if method != b"GET":
            return
        with path.open("rb") as file:
            file.seek(start)
            try:
                loop = asyncio.get_running_loop()
                await loop.sendfile(self._transport, file, start, stop - start)
            except (ConnectionError, RuntimeError):
                self._transport.close()  # the client disconnected
            finally:
                bucket.bytes += file.tell() - start


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


async def _serve(folder: Path, delay: float) -> None:
    bucket = StreamBucket(folder)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(bucket, delay), "127.0.0.1", 0, backlog=512
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2]) / 1000))
