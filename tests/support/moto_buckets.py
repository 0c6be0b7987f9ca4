"""Buckets in moto's server on loopback, filled with boto3."""

from __future__ import annotations

import hashlib
import http.client
import io
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from neuromirror.net import RequestLimits, ResponseHead, Session
from neuromirror.sources import UnreliableListingError
from neuromirror.sources.s3 import S3Options, S3Source
from support.visit_context import EMPTY_CONTEXT

MIB = 2**20


class Buckets:
    """A running server that creates buckets."""

    def __init__(self, endpoint: str) -> None:
        import boto3
        from botocore.config import Config

        self.endpoint = endpoint
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def make(self, *, versioned: bool = False) -> Bucket:
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name, ACL="public-read")
        if versioned:
            self.client.put_bucket_versioning(
                Bucket=name, VersioningConfiguration={"Status": "Enabled"}
            )
        return Bucket(self, name)


class Bucket:
    def __init__(self, buckets: Buckets, name: str) -> None:
        self.buckets = buckets
        self.name = name
        self.client = buckets.client

    def put(self, key: str, data: bytes = b"data", **more: Any) -> dict[str, Any]:
        return self.client.put_object(
            Bucket=self.name, Key=key, Body=data, ACL="public-read", **more
        )

    def put_all(self, *keys: str) -> None:
        for key in keys:
            self.put(key, key.encode())

    def put_without_http(self, key: str, data: bytes) -> None:
        """Write an object directly into moto's backend: requests with line breaks in keys fail."""
        from moto.s3.models import get_canned_acl, s3_backends

        backend = s3_backends["123456789012"]["aws"]
        backend.put_object(self.name, key, data).acl = get_canned_acl("public-read")

    def upload(self, key: str, data: bytes, part_size: int, **more: Any) -> None:
        """Upload in parts of equal size, like boto3 does for large files."""
        from boto3.s3.transfer import TransferConfig

        self.client.upload_fileobj(
            io.BytesIO(data),
            self.name,
            key,
            ExtraArgs={"ACL": "public-read", **more},
            Config=TransferConfig(
                multipart_threshold=part_size, multipart_chunksize=part_size, use_threads=False
            ),
        )

    def upload_parts(self, key: str, parts: list[bytes]) -> None:
        """Upload in parts of different sizes."""
        target = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**target, ACL="public-read")["UploadId"]
        done = [
            {
                "PartNumber": number,
                "ETag": self.client.upload_part(
                    **target, UploadId=upload, PartNumber=number, Body=part
                )["ETag"],
            }
            for number, part in enumerate(parts, 1)
        ]
        self.client.complete_multipart_upload(
            **target, UploadId=upload, MultipartUpload={"Parts": done}
        )

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def set_time(self, key: str, moment: datetime, version_id: str | None = None) -> None:
        """Set the time of an object version, the newest by default, in this process's server."""
        from moto.s3.models import s3_backends

        kept = s3_backends["123456789012"]["aws"].get_bucket(self.name).keys.getlist(key)
        chosen = [one for one in kept if version_id in (None, one.version_id)][-1]
        chosen.last_modified = moment.replace(tzinfo=None)

    def source(self, mirror: str = "test", **options: object) -> S3Source:
        """Return a source with short waits; keywords are options."""
        checked = S3Options.model_validate(
            {"bucket": self.name, "endpoint": self.buckets.endpoint, **options}
        )
        limits = RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
        return S3Source(mirror, checked, Session(allow_private=True, limits=limits))


@contextmanager
def moto_server() -> Iterator[Buckets]:
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Buckets(f"http://{host}:{port}")
    finally:
        server.stop()


def listing_of(source, name, known=EMPTY_CONTEXT):
    return source.listing(source.versions(source.dataset(name))[0], known)


def read(listing):
    """Return all entries by path, and confirm the version like the crawler."""
    entries = list(listing.entries())
    assert listing.confirm_version() == listing.version
    found = {entry.path: entry for entry in entries}
    assert len(found) == len(entries)
    return found


def files_of(source, name, known=EMPTY_CONTEXT):
    for _ in range(2):
        try:
            return read(listing_of(source, name, known))
        except UnreliableListingError as error:
            last = error
    raise last


def get_body(url: str) -> bytes:
    """Return the body at a URL, which is requested unchanged."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
        reply = connection.getresponse()
        assert reply.status == 200, (reply.status, url)
        return reply.read()
    finally:
        connection.close()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def record_part_heads(source) -> list[bytes]:
    requests: list[bytes] = []
    head = source.bucket.head

    def counting(key, **more):
        if "part_number" in more:
            requests.append(key)
        return head(key, **more)

    source.bucket.head = counting
    return requests


def refuse_heads(source, *keys: bytes) -> None:
    head = source.bucket.head
    source.bucket.head = lambda key, **more: (
        ResponseHead(403, {}) if key in keys else head(key, **more)
    )
