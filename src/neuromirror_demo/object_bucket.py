"""Objects of a public bucket, stored by moto: single-part and multipart uploads, versions, markers.

moto has one store per process, in which bucket names are unique, so each bucket has a unique name
there. Objects are written directly to this store, so that the demo chooses version ids and times.
Responses are created in ``s3_object_responses`` and ``s3_listing_responses``, because moto does not
support keys with a newline, the second part of an object, or encoded names of versions.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from neuromirror_demo.archive import DemoError
from neuromirror_demo.records import ArchiveClock

_ACCOUNT = "123456789012"
_SHORTEST_PART = 5 * 1024**2


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object, or a delete marker; ``etag`` without quotes, times in UTC.

    ``version_id`` is None in a bucket without versions. ``parts`` are the sizes of the uploaded
    parts, empty for a single-part upload. ``checksum`` is (algorithm, type, base64 value),
    ``encoding`` the Content-Encoding, empty for none. ``listed`` is the size and ETag in listings,
    if they differ from the object's own.
    """

    key: bytes
    size: int
    etag: str
    modified: datetime
    version_id: str | None
    content_type: str = "binary/octet-stream"
    parts: tuple[int, ...] = ()
    checksum: tuple[str, str, str] | None = None
    encryption: str = "AES256"
    encoding: str = ""
    deleted: bool = False
    latest: bool = True
    listed: tuple[int, str] | None = None
    kept: Any = field(default=None, repr=False, compare=False)

    @property
    def data(self) -> bytes:
        """The bytes of the version."""
        return bytes(self.kept.value)


class ObjectBucket:
    """A bucket whose objects are public.

    ``list_versions`` and ``read_versions`` are the additional public permissions; S3 grants them
    separately. A bucket without versions may still allow them to be listed.
    """

    def __init__(
        self,
        name: str,
        clock: ArchiveClock,
        *,
        versioned: bool,
        list_versions: bool,
        read_versions: bool,
    ) -> None:
        from moto.s3.models import get_canned_acl, s3_backends

        self.name = name
        self.versioned = versioned
        self.list_versions = list_versions
        self.read_versions = read_versions
        self._clock = clock
        self._backend = s3_backends[_ACCOUNT]["aws"]
        self._inner = f"{name}-{uuid.uuid4().hex[:12]}"
        self._backend.create_bucket(self._inner, "us-east-1")
        self._acl = get_canned_acl("public-read")
        if versioned:
            self._backend.put_bucket_versioning(self._inner, "Enabled")
        self._changes = 0
        self._sorted: list[bytes] | None = None

    # -- writing

    def put(
        self,
        key: bytes,
        data: bytes,
        *,
        part_size: int | Sequence[int] | None = None,
        content_type: str = "binary/octet-stream",
        encoding: str = "",
        checksum: str | None = None,
        kms: bool = False,
        modified: datetime | None = None,
        etag: str | None = None,
        parts: tuple[int, ...] = (),
        listed: tuple[int, str] | None = None,
    ) -> ObjectVersion:
        """Upload an object, in parts of ``part_size`` bytes if given.

        A list of sizes gives parts of these sizes, the last of which applies to all further parts.

        ``checksum`` (``SHA256``, ``CRC32``) is stored with the object: of its content for a
        single-part upload, else of the parts' checksums. With ``kms`` the ETag is not an MD5, as
        for objects encrypted with a key of AWS KMS. ``etag``, ``parts`` (their sizes) and
        ``modified`` override the computed values. With ``listed``, listings state this size and
        ETag instead of the object's own.
        """
        name = key.decode("utf-8", "surrogateescape")
        if part_size is None:
            kept = self._put_whole(name, data, checksum, kms, etag)
            kept.stated_parts = parts
        else:
            kept = self._put_parts(name, data, part_size, checksum)
        kept._version_id = self._version_id(key) if self.versioned else None
        kept.acl = self._acl
        modified = self._clock.tick() if modified is None else modified
        kept.last_modified = modified.replace(microsecond=0, tzinfo=None)
        kept.set_metadata({"Content-Type": content_type})
        kept.stated_encoding = encoding
        kept.stated_listing = listed
        self._sorted = None
        return self._read(key, kept, latest=True)

    def _put_whole(
        self, name: str, data: bytes, checksum: str | None, kms: bool, etag: str | None
    ) -> Any:
        kept = self._backend.put_object(
            self._inner,
            name,
            data,
            etag=hashlib.md5(b"kms" + data, usedforsecurity=False).hexdigest() if kms else etag,
            encryption="aws:kms" if kms else None,
            disable_notification=True,
        )
        if checksum is not None:
            kept.checksum_algorithm = checksum
            kept.checksum_type = "FULL_OBJECT"
            digest = hashlib.new(checksum.lower(), data, usedforsecurity=False).digest()
            kept.checksum_value = base64.b64encode(digest).decode()
        return kept

    def _put_parts(
        self, name: str, data: bytes, part_size: int | Sequence[int], checksum: str | None
    ) -> Any:
        sizes = [part_size] if isinstance(part_size, int) else list(part_size)
        metadata: Any = {}
        if checksum is not None:
            metadata = {
                "x-amz-checksum-algorithm": checksum,
                "x-amz-checksum-type": "COMPOSITE",
            }
        upload = self._backend.create_multipart_upload(
            self._inner,
            name,
            metadata,
            "STANDARD",
            {},
            self._acl,
            "AES256",
            "",
        )
        done: list[tuple[int, str]] = []
        start = 0
        while not done or start < len(data):
            size = sizes[min(len(done), len(sizes) - 1)]
            if size < min(_SHORTEST_PART, len(data) - start):
                raise DemoError(f"S3 takes no part of {size} bytes before the last: give 5 MiB")
            piece = data[start : start + size]
            part = self._backend.upload_part(self._inner, upload.id, len(done) + 1, piece)
            done.append((len(done) + 1, part.etag))
            start += size
        kept: Any = self._backend.complete_multipart_upload(self._inner, upload.id, iter(done))
        if checksum is None:
            kept.checksum_algorithm = None
        return kept

    def delete(self, key: bytes, modified: datetime | None = None) -> None:
        """Delete an object; where versions are kept, a delete marker hides it."""
        name = key.decode("utf-8", "surrogateescape")
        if self.current(key) is None:
            raise DemoError(f"the bucket {self.name} holds no {name!r}")
        now = self._clock.tick() if modified is None else modified
        self._backend.delete_object(self._inner, name)
        if self.versioned:
            marker = self._backend.get_bucket(self._inner).keys.getlist(name)[-1]
            marker._version_id = self._version_id(key)
            marker.last_modified = now.replace(microsecond=0, tzinfo=None)
        self._sorted = None

    def expire(self, key: bytes) -> None:
        """Delete all versions of an object permanently."""
        keys = self._backend.get_bucket(self._inner).keys
        name = key.decode("utf-8", "surrogateescape")
        keys.setlist(name, [])
        keys.pop(name)
        self._sorted = None

    def _version_id(self, key: bytes) -> str:
        self._changes += 1
        return hashlib.sha256(b"%d %s" % (self._changes, key)).hexdigest()[:32]

    def close(self) -> None:
        """Drop all objects."""
        bucket = self._backend.get_bucket(self._inner)
        every: list[Any] = [one for versions in bucket.keys.lists() for one in versions]
        for one in every:
            if hasattr(one, "dispose"):
                one.dispose()
            if getattr(one, "multipart", None) is not None:
                one.multipart.dispose()
        bucket.keys.clear()
        self._backend.delete_bucket(self._inner)

    # -- reading

    def overwrite(self, version: ObjectVersion, data: bytes) -> None:
        """Replace the bytes of a version; its ETag, id and time stay the same."""
        version.kept.value = data

    def names(self) -> list[bytes]:
        """Return the names of all objects in the order of their bytes, including deleted ones."""
        if self._sorted is None:
            names = self._backend.get_bucket(self._inner).keys.keys()
            self._sorted = sorted(name.encode("utf-8", "surrogateescape") for name in names)
        return self._sorted

    def versions(self, key: bytes) -> Iterator[ObjectVersion]:
        """Return the versions of an object and its delete markers, newest first."""
        name = key.decode("utf-8", "surrogateescape")
        kept = self._backend.get_bucket(self._inner).keys.getlist(name, [])
        for number, one in enumerate(reversed(kept)):
            yield self._read(key, one, latest=number == 0)

    def current(self, key: bytes) -> ObjectVersion | None:
        """Return the current object, or None if it does not exist or is deleted."""
        newest = next(self.versions(key), None)
        return None if newest is None or newest.deleted else newest

    def _read(self, key: bytes, kept: Any, *, latest: bool) -> ObjectVersion:
        modified = kept.last_modified.replace(tzinfo=UTC)
        version = kept._version_id if self.versioned else None
        if not hasattr(kept, "value"):
            return ObjectVersion(key, 0, "", modified, version, deleted=True, latest=latest)
        checksum = None
        if kept.checksum_algorithm:
            value = kept.checksum_value
            if isinstance(value, bytes):
                value = value.decode()
            checksum = (kept.checksum_algorithm, kept.checksum_type, value)
        uploaded = kept.multipart
        return ObjectVersion(
            key,
            kept.contentsize,
            kept.etag.strip('"'),
            modified,
            version,
            content_type=kept.metadata["Content-Type"],
            parts=getattr(kept, "stated_parts", ())
            if uploaded is None
            else tuple(uploaded.parts[number].contentsize for number in uploaded.partlist),
            checksum=checksum,
            encryption=kept.encryption or "AES256",
            encoding=kept.stated_encoding,
            latest=latest,
            listed=kept.stated_listing,
            kept=kept,
        )
