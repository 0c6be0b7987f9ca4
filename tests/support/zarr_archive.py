"""A loopback archive with Zarrs: recorded replies, and a real versioned bucket."""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from zarr_checksum.tree import ZarrChecksumTree

from neuromirror.net import RequestLimits, Session
from support.dandi_replay import DandiReplayServer
from support.loopback_http import QuietHandler, send_reply, serving
from support.moto_buckets import Bucket

DENIED = {"detail": "Authentication credentials were not provided."}


class ZarrArchive:
    """``rows`` are the replies of ``/zarr/<id>/`` by id; ``requests`` the requests below it."""

    def __init__(self, replay: DandiReplayServer, bucket: Bucket) -> None:
        self.replay = replay
        self.bucket = bucket
        self.api = replay.api
        self.rows: dict[str, dict[str, Any] | tuple[int, Any]] = {}
        self.requests: list[str] = []
        self.on_request: Callable[[str], None] = lambda _zarr_id: None
        replay.on_request = self._answer

    def session(self) -> Session:
        return Session(
            allow_private=True, limits=RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
        )

    def make(self, entries: Mapping[str, bytes], *, name: str = "img.ome.zarr") -> str:
        """Upload and finalize a Zarr; return its id."""
        zarr_id = str(uuid.uuid4())
        self.rows[zarr_id] = {"name": name, "dandiset": "000003", "zarr_id": zarr_id}
        self.put(zarr_id, entries)
        self.finalize(zarr_id)
        return zarr_id

    def key(self, zarr_id: str, path: str = "") -> str:
        return f"zarr/{zarr_id}/{path}"

    def put(
        self, zarr_id: str, entries: Mapping[str, bytes | None], at: datetime | None = None
    ) -> None:
        """Write entries, and delete those that are None; the state stays."""
        for path, data in entries.items():
            key = self.key(zarr_id, path)
            if data is None:
                self.bucket.delete(key)
            else:
                self.bucket.put(key, data)
            if at is not None:
                self.bucket.set_time(key, at)

    def library_checksum(self, zarr_id: str) -> str:
        """Return the zarr-checksum library's checksum of the objects."""
        tree = ZarrChecksumTree()
        prefix = self.key(zarr_id)
        pages = self.bucket.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket.name, Prefix=prefix):
            for one in page.get("Contents", ()):
                from pathlib import Path

                tree.add_leaf(
                    Path(one["Key"].removeprefix(prefix)), one["Size"], one["ETag"].strip('"')
                )
        return str(tree.process())

    def finalize(self, zarr_id: str) -> str:
        checksum = self.library_checksum(zarr_id)
        self.set_state(zarr_id, checksum)
        return checksum

    def set_state(self, zarr_id: str, checksum: str | None, status: str = "Pending") -> None:
        """Set the archive's state of a Zarr."""
        row = self.rows[zarr_id]
        assert isinstance(row, dict)
        count, size = (0, 0) if checksum is None else map(int, checksum[33:].split("--"))
        row.update(
            checksum=checksum,
            status=status if checksum is None else "Complete",
            file_count=count,
            size=size,
        )

    def url(self, zarr_id: str) -> str:
        return f"{self.bucket.buckets.endpoint}/{self.bucket.name}/{self.key(zarr_id)}"

    def metadata(self, zarr_id: str) -> dict[str, Any]:
        row = self.rows[zarr_id]
        assert isinstance(row, dict)
        return {
            "schemaKey": "Asset",
            "access": [{"schemaKey": "AccessRequirements", "status": "dandi:OpenAccess"}],
            "digest": {"dandi:dandi-zarr-checksum": row["checksum"]},
            "contentUrl": [f"{self.api}/assets/{zarr_id}/download/", self.url(zarr_id)],
        }

    def _answer(self, handler: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> bool:
        parts = path.removeprefix("/api/").split("/")
        if parts[0] != "zarr":
            return False
        self.requests.append(f"{handler.command} {path}")
        self.on_request(parts[1])
        row = self.rows.get(parts[1])
        if row is None:
            return send_reply(handler, 404, b'{"detail":"Not found."}')
        if parts[2:] == ["files", ""]:
            # like the real archive, also for an embargoed Zarr
            assert handler.command == "HEAD", "the archive's own list is never asked"
            object_url = f"{self.url(parts[1])}{query['prefix']}?X-Amz-Signature=0123456789abcdef"
            return send_reply(handler, 302, Location=object_url)
        status, document = row if isinstance(row, tuple) else (200, row)
        return send_reply(handler, status, self.replay.with_own_addresses(document))


@contextmanager
def refusing_endpoint(bucket: Bucket) -> Iterator[str]:
    """Serve an endpoint that lists a bucket's objects but refuses to return them."""
    import http.client

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if urlsplit(self.path).path.rstrip("/") != f"/{bucket.name}":
                send_reply(
                    self, 403, b"<Error><Code>AccessDenied</Code></Error>", "application/xml"
                )
                return
            behind = http.client.HTTPConnection(urlsplit(bucket.buckets.endpoint).netloc)
            behind.request(self.command, self.path)
            reply = behind.getresponse()
            body = reply.read()
            behind.close()
            send_reply(self, reply.status, body, kind="application/xml")

    with serving(Handler) as url:
        yield url


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
