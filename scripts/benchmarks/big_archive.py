"""A synthetic DANDI archive of any size, for measurements; nothing in it can be downloaded.

It answers what a crawl asks: the list of dandisets, versions, asset lists with metadata, Zarrs
with their true checksums; and of its bucket the lists of objects and versions and HEAD. All of it
is made when it is asked for, from numbers alone, so that it takes little memory at any scale.
Run alone it prints one JSON line, with its addresses and a mirror file, and serves until it is
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote_to_bytes

from benchmarks.big_bucket import Keyspace, bucket_page
from benchmarks.big_documents import LABEL, BigDocuments
from benchmarks.big_keys import BUCKET, LAST_MODIFIED
from benchmarks.big_plan import ArchivePlan, DandisetPlan
from benchmarks.big_zarrs import BigZarr, ReadableZarr
from benchmarks.raw_server import RawServer

_MAX_PAGE_SIZE: Final = 1000
_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_RANGE: Final = re.compile(rb"(?im)^range:\s*bytes=(\d+)-(\d+)\s*$")
_STATUS: Final = {
    200: "OK",
    206: "Partial Content",
    302: "Found",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    501: "Not Implemented",
}

Query = dict[str, str]


class BigArchive:
    """The archive on two loopback ports, API and bucket, within a ``with`` block.

    With ``readable``, the Zarrs have contents. ``asked`` counts requests by kind, such as
    ``api versions`` or ``s3 head``.
    """

    def __init__(
        self, plan: ArchivePlan, *, port: int = 0, s3_port: int = 0, readable: bool = False
    ) -> None:
        self.plan = plan
        self.request_counts: Counter[str] = Counter()
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._keys = Keyspace(self.plan, ReadableZarr if readable else BigZarr)
        self._api = RawServer(self._answer_api, port)
        self._s3 = RawServer(self._answer_s3, s3_port)
        dandiset = r"/api/dandisets/([0-9]{6})"
        version = dandiset + rf"/versions/(draft|{re.escape(LABEL)})"
        self._routes: list[tuple[re.Pattern[str], str, Callable[..., bytes]]] = [
            (re.compile(pattern), kind, answer)
            for pattern, kind, answer in (
                (r"/api/info/", "info", self._info),
                (r"/api/dandisets/", "dandisets", self._dandisets),
                (dandiset + "/", "dandiset", self._dandiset),
                (dandiset + "/versions/", "versions", self._versions),
                (version + "/", "metadata", self._metadata),
                (version + "/info/", "version", self._version),
                (version + "/assets/", "assets", self._assets),
                (rf"/api/zarr/({_UUID})/", "zarr", self._zarr),
                (rf"/api/zarr/({_UUID})/files/", "zarr files", self._zarr_files),
            )
        ]

    def __enter__(self) -> BigArchive:
        self._stack.enter_context(self._api)
        self._stack.enter_context(self._s3)
        self._documents = BigDocuments(self.plan, self._keys, self._api.url, self._s3.url)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def api_url(self) -> str:
        """``http://127.0.0.1:<port>/api``."""
        return f"{self._api.url}/api"

    def about(self) -> dict[str, Any]:
        """Return addresses and sizes."""
        plan = self.plan
        return {
            "dandi": {"api": self.api_url},
            "s3": {"endpoint": self._s3.url, "bucket": BUCKET},
            "control": f"{self._api.url}/_demo",
            "scale": plan.scale,
            "dandisets": len(plan.dandisets),
            "assets": plan.assets,
            "largest": max(one.assets for one in plan.dandisets),
            "versions": sum(1 + one.published for one in plan.dandisets),
            "listed": sum(one.assets * (1 + one.published) for one in plan.dandisets),
            "zarrs": len(plan.entries),
            "entries": sum(plan.entries),
        }

    def requests(self) -> dict[str, Any]:
        """Return ``GET /_demo/requests``: counts, and the cost of serving (seconds, bytes)."""
        with self._lock:
            counts = dict(self.request_counts)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"asked": counts, "cpu_s": round(time.process_time(), 3), "peak_bytes": peak}

    def warm(self) -> None:
        """Compute checksums and sizes now instead of on first use."""
        for one in self.plan.dandisets:
            self._documents.size(one)
        for number in range(len(self.plan.entries)):
            self._documents.checksum(number)

    # -- the API

    def _answer_api(self, method: bytes, target: bytes, head: bytes) -> bytes:
        path, _, text = target.decode("latin-1").partition("?")
        if path == "/_demo/requests":
            return _json(self.requests())
        if path == "/_demo/clear_requests":
            with self._lock:
                self.request_counts.clear()
            return _json({"result": None})
        query = {name: values[-1] for name, values in parse_qs(text).items()}
        for pattern, kind, answer in self._routes:
            found = pattern.fullmatch(path)
            if found is not None:
                self._count("api", kind)
                if kind == "zarr files":
                    return answer(*found.groups(), query, method)
                reply = answer(*found.groups(), query)
                return reply if method == b"GET" else reply.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        self._count("api", "other")
        return _reply(404, b"<h1>Not Found</h1>", "text/html; charset=utf-8")

    def _count(self, server: str, kind: str) -> None:
        with self._lock:
            self.request_counts[f"{server} {kind}"] += 1

    def _info(self, query: Query) -> bytes:
        return _json(self._documents.info())

    def _dandisets(self, query: Query) -> bytes:
        number, size = _page(query)
        every = self.plan.dandisets
        shown = every[(number - 1) * size : number * size]
        if not shown and number > 1:
            return _json({"detail": "Invalid page."}, 404)
        rows = ",".join(map(_compact, map(self._documents.dandiset, shown)))
        return self._page_response(f"{self.api_url}/dandisets/", query, len(every), rows)

    def _find_dandiset(self, identifier: str) -> DandisetPlan | None:
        number = int(identifier) - 1
        return self.plan.dandisets[number] if 0 <= number < len(self.plan.dandisets) else None

    def _dandiset(self, identifier: str, query: Query) -> bytes:
        one = self._find_dandiset(identifier)
        return _not_found() if one is None else _json(self._documents.dandiset(one))

    def _versions(self, identifier: str, query: Query) -> bytes:
        one = self._find_dandiset(identifier)
        if one is None:
            return _not_found()
        rows = self._documents.versions(one)
        url = f"{self.api_url}/dandisets/{identifier}/versions/"
        return self._page_response(url, query, len(rows), ",".join(map(_compact, rows)))

    def _find_version(self, identifier: str, label: str) -> DandisetPlan | None:
        one = self._find_dandiset(identifier)
        return one if one is not None and (one.published or label == "draft") else None

    def _metadata(self, identifier: str, label: str, query: Query) -> bytes:
        one = self._find_version(identifier, label)
        return _not_found() if one is None else _json(self._documents.metadata(one, label))

    def _version(self, identifier: str, label: str, query: Query) -> bytes:
        one = self._find_version(identifier, label)
        return _not_found() if one is None else _json(self._documents.version_info(one, label))

    def _assets(self, identifier: str, label: str, query: Query) -> bytes:
        one = self._find_version(identifier, label)
        if one is None:
            return _not_found()
        number, size = _page(query)
        metadata = query.get("metadata", "").lower() in {"true", "1"}
        rows = self._documents.asset_rows(
            one, (number - 1) * size, number * size, metadata=metadata
        )
        url = f"{self.api_url}/dandisets/{identifier}/versions/{label}/assets/"
        return self._page_response(url, query, one.assets, rows, lazy=True)

    def _page_response(
        self, url: str, query: Query, count: int, rows: str, *, lazy: bool = False
    ) -> bytes:
        number, size = _page(query)

        def link(page: int) -> str | None:
            parameters = sorted({**query, "page": str(page)}.items())
            return f"{url}?{'&'.join(f'{name}={quote(value)}' for name, value in parameters)}"

        envelope = {
            "count": None if lazy and number > 1 else count,
            "next": link(number + 1) if number * size < count else None,
            "previous": link(number - 1) if number > 1 else None,
        }
        return _reply(200, f'{_compact(envelope)[:-1]},"results":[{rows}]}}'.encode())

    def _zarr(self, zarr_id: str, query: Query) -> bytes:
        row = self._documents.zarr(zarr_id)
        return _not_found() if row is None else _json(row)

    def _zarr_files(self, zarr_id: str, query: Query, method: bytes) -> bytes:
        if self.plan.zarrs.find(zarr_id) is None:
            return _not_found()
        if method != b"HEAD":
            return _json({"detail": "Only the bucket lists Zarrs here."}, 501)
        key = quote(f"zarr/{zarr_id}/{query.get('prefix', '')}".rstrip("/"))
        url = f"{self._s3.url}/{BUCKET}/{key}?X-Amz-Signature={'0' * 64}"
        return _reply(302, b"", "text/html; charset=utf-8", f"Location: {url}\r\n")

    # -- the bucket

    def _answer_s3(self, method: bytes, target: bytes, head: bytes) -> bytes:
        path, _, text = target.partition(b"?")
        bucket, _, key = unquote_to_bytes(path)[1:].partition(b"/")
        if bucket != BUCKET.encode():
            return _s3_error(404, "NoSuchBucket", method)
        query = {
            name: values[-1].encode("latin-1")
            for name, values in parse_qs(
                text.decode("latin-1"), keep_blank_values=True, encoding="latin-1"
            ).items()
        }
        if key:
            self._count("s3", "head" if method == b"HEAD" else "object")
            return self._object(method, key, query, head)
        versions = "versions" in query
        self._count("s3", "versions" if versions else "objects")
        page = bucket_page(self._keys, query, versions=versions)
        if page is None or method != b"GET":
            return _s3_error(501, "NotImplemented", method)
        return _reply(200, f'<?xml version="1.0" encoding="UTF-8"?>\n{page}'.encode(), _XML)

    def _object(self, method: bytes, key: bytes, query: dict[str, bytes], head: bytes) -> bytes:
        keys = self._keys.below(key)
        at = None if keys is None else keys.find(key)
        if keys is None or at is None:
            return _s3_error(404, "NoSuchKey", method)
        size, etag, version_id = keys.facts(at)
        if query.get("versionId", version_id.encode()) != version_id.encode():
            return _s3_error(404, "NoSuchVersion", method)
        if method == b"GET" and isinstance(keys, ReadableZarr):
            return _part(keys.content(at), head, f'ETag: "{etag}"\r\n')
        if method != b"HEAD":
            return _s3_error(501, "NotImplemented", method)
        parts = int(etag.partition("-")[2] or 0)
        status, more = 200, ""
        if "partNumber" in query:
            if query["partNumber"] != b"1":
                return _s3_error(501, "NotImplemented", method)
            status = 206
            more = f"x-amz-mp-parts-count: {parts}\r\n" if parts else ""
            size = min(size, 64 * 2**20) if parts else size
        headers = (
            f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Length: {size}\r\n"
            f'ETag: "{etag}"\r\nx-amz-version-id: {version_id}\r\n'
            f"Last-Modified: {LAST_MODIFIED}\r\n"
            "Content-Type: binary/octet-stream\r\nx-amz-server-side-encryption: AES256\r\n"
        )
        return f"{headers}{more}\r\n".encode()


_XML: Final = "application/xml"


def _compact(body: object) -> str:
    return json.dumps(body, separators=(",", ":"))


def _json(body: object, status: int = 200) -> bytes:
    return _reply(status, _compact(body).encode())


def _not_found() -> bytes:
    return _json({"detail": "Not found."}, 404)


def _reply(status: int, body: bytes, kind: str = "application/json", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


def _s3_error(status: int, code: str, method: bytes) -> bytes:
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return _reply(status, b"" if method == b"HEAD" else text, _XML)


def _part(content: bytes, head: bytes, more: str) -> bytes:
    """Return an object, or the requested range of it."""
    found = _RANGE.search(head)
    start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, len(content))
    body = content[start:stop]
    status = 206 if found else 200
    if found:
        more += f"Content-Range: bytes {start}-{start + len(body) - 1}/{len(content)}\r\n"
    top = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return top.encode() + body


def _page(query: Query) -> tuple[int, int]:
    """Return number and size of the requested page."""
    number, size = query.get("page", "1"), query.get("page_size", "100")
    return max(1, int(number) if number.isdecimal() else 1), min(
        _MAX_PAGE_SIZE, max(1, int(size) if size.isdecimal() else 100)
    )


def write_mirror(folder: Path, api: str, *, zarrs: bool) -> Path:
    """Write a mirror file of the archive, ``big.toml``."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "big.toml"
    target.write_text(
        f'source = "dandi"\ntitle = "Synthetic archive (loopback)"\n\n[options]\napi = "{api}"\n'
        f"zarrs = {'true' if zarrs else 'false'}\n"
    )
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.01, help="1 is the size of DANDI")
    parser.add_argument(
        "--two",
        type=int,
        nargs=2,
        metavar=("BLOBS", "ENTRIES"),
        help="instead, a dandiset of so many blobs and one of a Zarr with so many entries",
    )
    parser.add_argument("--readable", action="store_true", help="chunks have contents")
    parser.add_argument("--port", type=int, default=0, help="of the API; the bucket has the next")
    parser.add_argument("--dir", type=Path, help="folder for the mirror file (default: a new one)")
    parser.add_argument("--zarrs", action="store_true", help="let the mirror file take Zarrs too")
    parser.add_argument(
        "--warm", action="store_true", help="compute all checksums first (150 s at scale 1)"
    )
    given = parser.parse_args(arguments)
    plan = ArchivePlan.of_two(*given.two) if given.two else ArchivePlan.at_scale(given.scale)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        archive = stack.enter_context(
            BigArchive(
                plan,
                port=given.port,
                s3_port=given.port and given.port + 1,
                readable=given.readable,
            )
        )
        if given.warm:
            archive.warm()
        folder = given.dir
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="big-archive-")))
        mirror = write_mirror(folder, archive.api_url, zarrs=given.zarrs)
        stack.callback(mirror.unlink, missing_ok=True)
        line = {**archive.about(), "mirror": str(mirror), "pid": os.getpid()}
        print(json.dumps(line), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
