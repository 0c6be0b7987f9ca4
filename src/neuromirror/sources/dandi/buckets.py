"""The buckets behind an archive's object URLs, each opened once."""

from __future__ import annotations

import re
import threading
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.net import S3Bucket, S3Capabilities, Session, origin, parse_aws_host, probe_bucket

_USUAL_REGION: Final = "us-east-1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z")


class ObjectAddress(Struct, frozen=True):
    """The address of an object or prefix in a bucket.

    Attributes
    ----------
    bucket
        The name of the bucket.
    region
        The AWS region; None if unknown.
    endpoint
        The URL of another S3 service; None for AWS.
    key
        The key or prefix.
    """

    bucket: str
    region: str | None
    endpoint: str | None
    key: bytes


def parse_object_url(url: str) -> ObjectAddress:
    """Return the address in an object's URL; raise ValueError if it names no bucket.

    Supported are AWS's virtual-hosted and path-style URLs, with and without a region, and the
    path-style URLs of other stores (``<endpoint>/<bucket>/<key>``). The query is ignored.
    """
    scheme, host, port = origin(url)
    path = urlsplit(url).path.removeprefix("/")
    aws = parse_aws_host(host)
    bucket = aws.bucket if aws else None
    if bucket is None:
        bucket, _, path = path.partition("/")
    if not _NAME.match(bucket):
        raise ValueError(f"{url[:200]!r} names no bucket")
    key = unquote_to_bytes(path)
    if aws:
        return ObjectAddress(bucket, aws.region, None, key)
    usual = port == (443 if scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    return ObjectAddress(bucket, None, f"{scheme}://{shown}{'' if usual else f':{port}'}", key)


class _OpenBucket(Struct):
    bucket: S3Bucket
    lock: threading.Lock = field(default_factory=threading.Lock)
    capabilities: S3Capabilities | None = None


class BucketCache:
    """The buckets that a source has used. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, str | None], _OpenBucket] = {}

    def bucket(self, address: ObjectAddress) -> S3Bucket:
        """Return the bucket of an address; send one request if the region is unknown."""
        return self._of(address).bucket

    def capabilities(self, address: ObjectAddress) -> S3Capabilities:
        """Return the bucket's capabilities for anonymous clients, probed below the address's key.

        A bucket whose versions can be read is probed once. ``sample_version`` is only in the result
        of that call, because the object may be unreadable later.
        """
        opened = self._of(address)
        with opened.lock:
            if opened.capabilities is not None:
                return opened.capabilities
            found = probe_bucket(opened.bucket, address.key, checksums=False)
            if found.version_readable:
                # a refusal may apply to the probed objects only, so it is not kept
                opened.capabilities = replace(found, sample_version=None)
            return found

    def _of(self, address: ObjectAddress) -> _OpenBucket:
        name = (address.bucket, address.endpoint)
        with self._lock:
            opened = self._opened.get(name)
            if opened is None:
                opened = self._opened[name] = _OpenBucket(self._open(address))
            return opened

    def _open(self, address: ObjectAddress) -> S3Bucket:
        if address.endpoint is not None:
            return S3Bucket(self._session, address.bucket, endpoint=address.endpoint)
        region = address.region
        if region is None:
            # every reply of AWS names the bucket's region, from whichever endpoint
            reply = S3Bucket(self._session, address.bucket, region=_USUAL_REGION).head(b"")
            region = reply.headers.get("x-amz-bucket-region") or _USUAL_REGION
        return S3Bucket(self._session, address.bucket, region=region)
