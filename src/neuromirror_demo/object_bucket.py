"""Objects of a public bucket: single-part and multipart uploads, versions, delete markers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from neuromirror_demo.archive import DemoError
from neuromirror_demo.records import ArchiveClock

_SHORTEST_PART = 5 * 1024**2


@dataclass(slots=True)
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
    data: bytes = field(default=b"", repr=False, compare=False)


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
        self.name = name
        self.versioned = versioned
        self.list_versions = list_versions
        self.read_versions = read_versions
        self._clock = clock
        self._versions: dict[bytes, list[ObjectVersion]] = {}
        self._changes = 0
        self._sorted: list[bytes] | None = None

    # -- writing

    def put(
        self,
        key: bytes | str,
        data: bytes | str,
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

        ``checksum`` (``SHA256``) is stored with the object: of its content for a single-part
        upload, else of the parts' checksums. With ``kms`` the ETag is not an MD5, as for objects
        encrypted with a key of AWS KMS. ``etag``, ``parts`` (their sizes) and ``modified`` override
        the computed values. With ``listed``, listings state this size and ETag instead of the
        object's own.
        """
        key = key_bytes(key)
        data = data.encode() if isinstance(data, str) else data
        if part_size is not None:
            parts = _part_sizes(len(data), part_size)
            etag = f"{_joined_digest('md5', data, parts).hex()}-{len(parts)}"
        elif etag is None:
            etag = hashlib.md5(b"kms" * kms + data, usedforsecurity=False).hexdigest()
        made = ObjectVersion(
            key,
            len(data),
            etag,
            (modified or self._clock.tick()).replace(microsecond=0),
            self._version_id(key),
            content_type=content_type,
            parts=parts,
            encryption="aws:kms" if kms else "AES256",
            encoding=encoding,
            listed=listed,
            data=data,
        )
        if checksum is not None:
            whole = part_size is None
            digest = (
                hashlib.new(checksum, data).digest()
                if whole
                else _joined_digest(checksum, data, parts)
            )
            kind = "FULL_OBJECT" if whole else "COMPOSITE"
            made.checksum = checksum, kind, base64.b64encode(digest).decode()
        self._add(made)
        return made

    def delete(self, key: bytes | str, modified: datetime | None = None) -> None:
        """Delete an object; where versions are kept, a delete marker hides it."""
        key = self.head(key).key
        now = (modified or self._clock.tick()).replace(microsecond=0)
        if self.versioned:
            self._add(ObjectVersion(key, 0, "", now, self._version_id(key), deleted=True))
        else:
            self.expire(key)

    def expire(self, key: bytes | str, version_id: str | None = None) -> None:
        """Delete a version of an object permanently, by default all of them."""
        gone = self._versions.pop(key_bytes(key))
        for one in reversed(gone):
            if version_id not in (None, one.version_id):
                self._add(one)
        self._sorted = None

    def _add(self, version: ObjectVersion) -> None:
        version.latest = True
        kept = self._versions.get(version.key, []) if self.versioned else []
        for one in kept[:1]:
            one.latest = False
        self._versions[version.key] = [version, *kept]
        self._sorted = None

    def _version_id(self, key: bytes) -> str | None:
        if not self.versioned:
            return None
        self._changes += 1
        return hashlib.sha256(b"%d %s" % (self._changes, key)).hexdigest()[:32]

    # -- reading

    def names(self) -> list[bytes]:
        """Return the names of all objects in the order of their bytes, including deleted ones."""
        if self._sorted is None:
            self._sorted = sorted(self._versions)
        return self._sorted

    def versions(self, key: bytes | str) -> list[ObjectVersion]:
        """Return the versions of an object and its delete markers, newest first."""
        return self._versions.get(key_bytes(key), [])

    def current(self, key: bytes | str) -> ObjectVersion | None:
        """Return the current object, or None if it does not exist or is deleted."""
        newest = next(iter(self.versions(key)), None)
        return None if newest is None or newest.deleted else newest

    def head(self, key: bytes | str) -> ObjectVersion:
        """Return the current object."""
        found = self.current(key)
        if found is None:
            raise DemoError(f"the bucket {self.name} holds no {key_bytes(key)!r}")
        return found


def key_bytes(key: bytes | str) -> bytes:
    """Return a key as stored by S3; text may contain surrogates for bytes that are not UTF-8."""
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key


def _part_sizes(size: int, part_size: int | Sequence[int]) -> tuple[int, ...]:
    sizes = [part_size] if isinstance(part_size, int) else list(part_size)
    parts: list[int] = []
    rest = size
    while not parts or rest > 0:
        part = sizes[min(len(parts), len(sizes) - 1)]
        if part < min(_SHORTEST_PART, rest):
            raise DemoError(f"S3 takes no part of {part} bytes before the last: give 5 MiB")
        parts.append(min(part, rest))
        rest -= part
    return tuple(parts)


@lru_cache(maxsize=8)  # the demo's own objects are uploaded to each new bucket
def _joined_digest(algorithm: str, data: bytes, parts: tuple[int, ...]) -> bytes:
    """Return the digest of the digests of the parts, as S3 computes it."""
    joined = hashlib.new(algorithm, usedforsecurity=False)
    view, start = memoryview(data), 0
    for size in parts:
        piece = view[start : start + size]
        joined.update(hashlib.new(algorithm, piece, usedforsecurity=False).digest())
        start += size
    return joined.digest()
