"""A server of a bucket with many small objects whose listing is served as fast as possible.

For tests and benchmarks of listings: it supports ListObjectsV2, and GET and HEAD of its objects,
and nothing more. Keys and contents are functions of their numbers, so that a million objects take
no memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final, overload
from urllib.parse import parse_qs, quote_plus, unquote_to_bytes

from benchmarks.raw_server import LAST, RawServer

_MODIFIED: Final = "2023-04-05T06:07:08.000Z"
_HTTP_DATE: Final = "Wed, 05 Apr 2023 06:07:08 GMT"
_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_MAX_KEYS: Final = 1000
_CACHED: Final = 1000
"""Default number of cached pages, of about 250 kB each."""


class NumberedKeys(Sequence[bytes]):
    """``objects`` keys in the order of their bytes, spread evenly over ``prefixes`` folders.

    With ``zarrs`` each folder is a Zarr: its first key is the metadata of a group.
    """

    def __init__(self, objects: int, prefixes: int, *, zarrs: bool = False) -> None:
        self._objects = objects
        self._each = -(-objects // prefixes) or 1
        self._zarrs = zarrs

    def __len__(self) -> int:
        return self._objects

    @overload
    def __getitem__(self, at: int) -> bytes: ...

    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...

    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(self._objects))]
        at += self._objects if at < 0 else 0
        if not 0 <= at < self._objects:
            raise IndexError(at)
        asset, chunk = divmod(at, self._each)
        if self._zarrs and not chunk:
            return b"asset_%04d/data.zarr/.zgroup" % asset
        return b"asset_%04d/data.zarr/%05d/%04d" % (asset, chunk // 1000, chunk % 1000)


class BigBucket:
    """A public bucket on loopback with path-style URLs; a context manager that runs the server.

    The object keys are numbered, in the layout of Zarrs if ``zarrs``, unless ``keys`` (non-empty
    bytes) are given. With ``ready``, each page is encoded once. ``multipart`` is the share of
    objects with the ETag of a multipart upload (of one part). ``delay`` is the time in seconds
    before each response, and ``slow_down`` the number of next requests that get a 503; both may be
    set at any time. ``asked`` has the start key of each requested page, in order, and
    ``max_concurrent`` the maximum number of pages that were delayed at the same time.
    """

    def __init__(
        self,
        objects: int = 200_000,
        *,
        prefixes: int = 8,
        zarrs: bool = False,
        keys: Iterable[bytes] | None = None,
        ready: int = _CACHED,
        name: str = "big-bucket",
        multipart: float = 0.0,
        page: int = _MAX_KEYS,
        port: int = 0,
    ) -> None:
        self.name = name
        self.keys: Sequence[bytes] = (
            NumberedKeys(objects, prefixes, zarrs=zarrs) if keys is None else sorted(set(keys))
        )
        self.delay = 0.0
        self.slow_down = 0
        self.requested_starts: list[bytes] = []
        self.max_concurrent = 0
        self._at_once = 0
        self._page = page
        self._multipart_interval = round(1 / multipart) if multipart else 0
        self._revisions: dict[bytes, int] = {}
        self._dropped: set[bytes] = set()
        self._cut: dict[bytes, bool] = {}
        self._ready: dict[bytes, tuple[bytes, bytes]] = {}
        self._most_ready = ready
        self._lock = threading.Lock()
        self._server = RawServer(self._answer, port)

    def __enter__(self) -> BigBucket:
        self._server.__enter__()
        self.endpoint = self._server.url
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def change_number(self, number: int) -> None:
        """Change the content of the object with this number."""
        self.change(self.keys[number])

    def change(self, key: bytes) -> None:
        """Change the content of an object (and thereby its size or ETag)."""
        self._revisions[key] = self._revisions.get(key, 0) + 1
        self._ready.clear()

    def drop(self, key: bytes) -> None:
        """Omit a key from every page, although the object exists."""
        self._dropped.add(key)
        self._ready.clear()

    def cut(self, start: bytes, *, whole: bool = True) -> None:
        """Send only half of the page that starts after this key.

        The Content-Length matches the half page if ``whole``; else it is that of the full page.
        """
        self._cut[start] = whole
        self._ready.clear()

    def restore(self) -> None:
        """Serve complete pages again."""
        self._dropped.clear()
        self._cut.clear()
        self._ready.clear()

    def content(self, key: bytes) -> bytes:
        """Return the current content of an object."""
        return b"content %d of %s\n" % (self._revisions.get(key, 0), key)

    def etag(self, at: int) -> str:
        """The ETag, without quotes, of the object with this number."""
        digest = hashlib.md5(self.content(self.keys[at]), usedforsecurity=False)
        if self._multipart_interval and at % self._multipart_interval == 0:
            joined = hashlib.md5(digest.digest(), usedforsecurity=False)
            return f"{joined.hexdigest()}-1"
        return digest.hexdigest()

    def _answer(self, method: bytes, target: bytes, head: bytes) -> bytes:
        path, _, query = target.partition(b"?")
        bucket, slash, key = path[1:].partition(b"/")
        if bucket != self.name.encode():
            return _error(404, "NoSuchBucket")
        if method not in (b"GET", b"HEAD"):
            return _error(405, "MethodNotAllowed")
        if slash and key:
            return self._object(method, unquote_to_bytes(key), query, head)
        ready = self._ready.get(query)
        if ready is None:
            ready = self._listing(query)
            if len(self._ready) < self._most_ready:
                self._ready[query] = ready
        self.requested_starts.append(ready[0])
        if self.slow_down > 0:
            self.slow_down -= 1
            return _error(503, "SlowDown")
        if self.delay:
            with self._lock:
                self._at_once += 1
                self.max_concurrent = max(self.max_concurrent, self._at_once)
            time.sleep(self.delay)
            with self._lock:
                self._at_once -= 1
        return ready[1]

    def _object(self, method: bytes, key: bytes, query: bytes, head: bytes) -> bytes:
        at = bisect_left(self.keys, key)
        if at == len(self.keys) or self.keys[at] != key:
            return _error(404, "NoSuchKey", body=method == b"GET")
        content, etag = self.content(key), self.etag(at)
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"if-match" and value.strip(b' "').decode() != etag:
                return _error(412, "PreconditionFailed", body=method == b"GET")
        parts = b"" if b"partNumber=" not in query else b"x-amz-mp-parts-count: 1\r\n"
        return (
            b'HTTP/1.1 %s\r\nContent-Length: %d\r\nETag: "%s"\r\nLast-Modified: %s\r\n%s\r\n%s'
            % (
                b"206 Partial Content" if parts else b"200 OK",
                len(content),
                etag.encode(),
                _HTTP_DATE.encode(),
                parts if "-" in etag else b"",
                content if method == b"GET" else b"",
            )
        )

    def _listing(self, query: bytes) -> tuple[bytes, bytes]:
        """Return the start key of a page, and the page as a complete HTTP reply."""
        parameters = {
            name: values[0].encode("latin-1")
            for name, values in parse_qs(query.decode("latin-1"), encoding="latin-1").items()
        }
        if parameters.get("list-type") != b"2":
            return b"", _error(501, "NotImplemented")
        prefix, delimiter = parameters.get("prefix", b""), parameters.get("delimiter", b"")
        after, past = parameters.get("start-after", b""), False
        if "continuation-token" in parameters:
            try:
                token = base64.urlsafe_b64decode(parameters["continuation-token"])
            except binascii.Error:
                return b"", _error(400, "InvalidArgument")
            past, after = token[:1] == b"p", token[1:]
        most = min(int(parameters.get("max-keys", b"1000")), self._page)
        encoded = parameters.get("encoding-type") == b"url"
        body = self._render(prefix, delimiter, after, past, most, encoded)
        stated = len(body)
        last = b""
        if after in self._cut:
            body = body[: stated // 2]
            if self._cut[after]:
                stated = len(body)
            else:
                last = LAST
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n" % stated
        )
        return after, head + last + b"\r\n" + body

    def _render(
        self, prefix: bytes, delimiter: bytes, after: bytes, past: bool, most: int, encoded: bool
    ) -> bytes:
        keys = self.keys
        end = bisect_left(keys, _prefix_end(prefix)) if prefix else len(keys)
        at = bisect_left(keys, _prefix_end(after)) if past else bisect_right(keys, after)
        at = max(at, bisect_left(keys, prefix))
        rows: list[str] = []
        folders: list[bytes] = []
        last = b""
        while at < end and len(rows) + len(folders) < most:
            key = keys[at]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                folder = key[: cut + len(delimiter)]
                folders.append(folder)
                at, last = bisect_left(keys, _prefix_end(folder), at), b"p" + folder
                continue
            if key not in self._dropped:
                rows.append(self._row(at, key, encoded))
            at, last = at + 1, b"k" + key
        shown = _encode_names(encoded)
        more = at < end
        token = base64.urlsafe_b64encode(last).decode() if more else ""
        head = (
            f"<Name>{self.name}</Name><Prefix>{shown(prefix)}</Prefix>"
            + (f"<StartAfter>{shown(after)}</StartAfter>" if after else "")
            + (f"<NextContinuationToken>{token}</NextContinuationToken>" if more else "")
            + f"<KeyCount>{len(rows) + len(folders)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            + (f"<Delimiter>{shown(delimiter)}</Delimiter>" if delimiter else "")
            + ("<EncodingType>url</EncodingType>" if encoded else "")
            + f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        )
        tail = "".join(
            f"<CommonPrefixes><Prefix>{shown(one)}</Prefix></CommonPrefixes>" for one in folders
        )
        space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        page = f"{_XML}<ListBucketResult{space}>{head}{''.join(rows)}{tail}</ListBucketResult>"
        return page.encode()

    def _row(self, at: int, key: bytes, encoded: bool) -> str:
        return (
            f"<Contents><Key>{_encode_names(encoded)(key)}</Key><LastModified>{_MODIFIED}</LastModified>"
            f"<ETag>&quot;{self.etag(at)}&quot;</ETag><Size>{len(self.content(key))}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )


def _url(name: bytes) -> str:
    return quote_plus(name, safe="/*-_.")


def _raw(name: bytes) -> str:
    text = name.decode()
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _encode_names(encoded: bool) -> Callable[[bytes], str]:
    return _url if encoded else _raw


def _prefix_end(prefix: bytes) -> bytes:
    """Return the first name that is greater than all names with this prefix."""
    bare = prefix.rstrip(b"\xff")
    return bare[:-1] + bytes([bare[-1] + 1])


def _error(status: int, code: str, *, body: bool = True) -> bytes:
    text = f"{_XML}<Error><Code>{code}</Code><Message>{code}</Message></Error>" if body else ""
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()


def prepared_bucket(count: int, zarrs: int) -> BigBucket:
    """Return a bucket, in Zarrs if requested, that keeps all pages it was asked for.

    Also those of a lister that requests other pages than the one before it.
    """
    ready = 3 * count // 1000 + 1000
    return BigBucket(count, prefixes=zarrs or 8, zarrs=zarrs > 0, ready=ready)
