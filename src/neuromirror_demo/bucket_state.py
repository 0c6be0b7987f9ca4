"""The state of the demo buckets, and all operations that change it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from neuromirror_demo.archive import DemoError
from neuromirror_demo.object_bucket import ObjectBucket, ObjectVersion, key_bytes
from neuromirror_demo.records import ArchiveClock
from neuromirror_demo.sidecars import AssetDescription, record, sidecars

OPEN_DATA = "demo-aind-open-data"
BENCHMARK = "demo-aind-benchmark-data"
HOSTILE = "demo-hostile"
PRECOMPUTED = "demo-precomputed"
MD5_OF_NOTHING = hashlib.md5(b"", usedforsecurity=False).hexdigest()


class BucketState:
    """Buckets in memory, the document database of one, and the operations that change them.

    There are three buckets, and with ``layers`` a fourth. Keys are text or bytes; the default
    bucket is ``demo-aind-open-data``. Each change happens one hour after the previous one, by the
    demo's own clock. All operations raise :class:`~neuromirror_demo.DemoError` for a missing
    bucket, asset or object.
    """

    open_data = OPEN_DATA
    benchmark = BENCHMARK
    hostile = HOSTILE
    precomputed = PRECOMPUTED

    def __init__(self, clock: ArchiveClock | None = None, *, layers: bool = False) -> None:
        first = datetime(2025, 6, 10, 8, 0, 0, tzinfo=UTC)
        self.clock = ArchiveClock(first, timedelta(seconds=1)) if clock is None else clock
        self.lock = threading.RLock()
        self.records: dict[str, dict[str, Any]] = {}
        """Documents of the document database, by asset."""
        self._descriptions: dict[str, AssetDescription] = {}
        self._removed: dict[tuple[str, str], list[ObjectVersion]] = {}
        self._buckets = {
            name: ObjectBucket(
                name,
                self.clock,
                versioned=name == BENCHMARK,
                list_versions=name not in (OPEN_DATA, PRECOMPUTED),
                read_versions=name not in (OPEN_DATA, PRECOMPUTED),
            )
            for name in (OPEN_DATA, BENCHMARK, HOSTILE, *([PRECOMPUTED] if layers else []))
        }

    # -- queries

    def present(self, prefix: bytes | str = "", *, bucket: str = OPEN_DATA) -> list[bytes]:
        """Return the current keys, in the order of their bytes."""
        kept, start = self.bucket(bucket), key_bytes(prefix)
        return [
            key for key in kept.names() if key.startswith(start) and kept.current(key) is not None
        ]

    def head(self, key: bytes | str, *, bucket: str = OPEN_DATA) -> ObjectVersion:
        """Return the current version of an object."""
        return self.bucket(bucket).head(key)

    def data(self, key: bytes | str, *, bucket: str = OPEN_DATA) -> bytes:
        """Return the bytes of an object."""
        return self.head(key, bucket=bucket).data

    def sha256(self, key: str, *, bucket: str = OPEN_DATA) -> str:
        """Return the SHA-256 of an object's bytes, in hex."""
        return hashlib.sha256(self.data(key, bucket=bucket)).hexdigest()

    def versions(self, key: bytes | str, *, bucket: str = OPEN_DATA) -> list[ObjectVersion]:
        """Return all versions of an object and its delete markers, newest first."""
        return list(self.bucket(bucket).versions(key))

    def assets(self) -> list[str]:
        """Return the first components of the open-data bucket's keys."""
        return sorted({key.partition(b"/")[0].decode() for key in self.present()})

    # -- changes of objects

    def put(
        self,
        key: bytes | str,
        content: bytes | str,
        *,
        bucket: str = OPEN_DATA,
        **about: Any,
    ) -> ObjectVersion:
        """Upload an object; ``about`` are the options of :meth:`ObjectBucket.put`."""
        with self.lock:
            return self.bucket(bucket).put(key, content, **about)

    def put_large_swift(
        self,
        key: bytes | str,
        content: bytes,
        *,
        dynamic: bool = False,
        etag: str | None = None,
        bucket: str = OPEN_DATA,
    ) -> ObjectVersion:
        """Upload a large Swift object, as Ceph's gateway shows it to S3 clients.

        Listings state the size of the stored manifest (173 bytes for a static one, 0 for a
        ``dynamic`` one) and the MD5 of empty input. ``HEAD`` and ``GET`` return the whole object,
        by default with the same ETag.
        """
        listed = 0 if dynamic else 173, MD5_OF_NOTHING
        return self.put(key, content, bucket=bucket, etag=etag or MD5_OF_NOTHING, listed=listed)

    def put_tree(
        self,
        folder: str,
        files: Mapping[str, bytes],
        part_sizes: Mapping[str, int] | None = None,
        *,
        bucket: str = OPEN_DATA,
    ) -> None:
        """Upload files below a folder, in the order of their names."""
        sizes = part_sizes or {}
        for path in sorted(files):
            self.put(f"{folder}/{path}", files[path], bucket=bucket, part_size=sizes.get(path))

    def add_file(
        self,
        asset: str,
        path: str,
        content: bytes | str = "added\n",
        *,
        bucket: str = OPEN_DATA,
        part_size: int | None = None,
    ) -> ObjectVersion:
        """Add a file to an asset."""
        self._later()
        return self.put(f"{asset}/{path}", content, bucket=bucket, part_size=part_size)

    def overwrite(
        self, key: bytes | str, content: bytes | str | None = None, *, bucket: str = OPEN_DATA
    ) -> ObjectVersion:
        """Replace the bytes of a key (by default as many), in parts of the same size."""
        self._later()
        before = self.head(key, bucket=bucket)
        if content is None:
            content = bytes(byte ^ 0x5A for byte in before.data[:64]) + before.data[64:]
        return self._put_like(before, content, bucket)

    def delete_object(self, key: bytes | str, *, bucket: str = OPEN_DATA) -> None:
        """Delete an object; in the benchmark bucket a delete marker hides it."""
        with self.lock:
            self._later()
            self.bucket(bucket).delete(key)

    def make_many(self, asset: str, count: int, *, bucket: str = OPEN_DATA) -> None:
        """Add ``count`` small objects to an asset: ``many/000/000000`` and so on."""
        for number in range(count):
            path = f"{asset}/many/{number // 1000:03d}/{number:06d}"
            self.put(path, f"{number}\n", bucket=bucket)

    # -- changes of assets

    def describe(self, asset: AssetDescription, *, docdb: bool = True) -> None:
        """Write an asset's documents, also to the document database unless ``docdb`` is false."""
        documents = sidecars(asset)
        for name, body in documents.items():
            self.put(f"{asset.name}/{name}", _text(body), content_type="application/json")
            if asset.generation:
                stem, dot, suffix = name.rpartition(".")
                copy = f"{asset.name}/original_metadata/{stem}.20250301{dot}{suffix}"
                self.put(copy, _text(body), content_type="application/json")
        self._descriptions[asset.name] = asset
        self._index(asset.name, documents, docdb=docdb)

    def edit_sidecar(
        self,
        asset: str,
        sidecar: str = "data_description.json",
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Edit one document of an asset, by default its ``notes``; then run the indexer."""
        key = f"{asset}/{sidecar}"
        body = json.loads(self.data(key))
        body.update({"notes": f"edited at {self.clock.now:%H:%M}"} if changes is None else changes)
        self._later()
        self.put(key, _text(body), content_type="application/json")
        if asset in self._descriptions:
            self.reindex(asset)

    def reindex(self, asset: str) -> None:
        """Rewrite ``metadata.nd.json`` as the indexer does; at least ``last_modified`` changes."""
        self._later()
        names = [key.decode().removeprefix(f"{asset}/") for key in self.present(f"{asset}/")]
        documents = {
            name: json.loads(self.data(f"{asset}/{name}"))
            for name in names
            if "/" not in name and name.endswith(".json") and name != "metadata.nd.json"
        }
        self._index(asset, documents, docdb=asset in self.records)

    def remove_asset(self, asset: str, *, bucket: str = OPEN_DATA) -> int:
        """Delete all objects of an asset, but not its record; return their number."""
        with self.lock:
            kept = self.bucket(bucket)
            gone = [kept.head(key) for key in self.present(f"{asset}/", bucket=bucket)]
            if not gone:
                raise DemoError(f"the bucket {bucket} holds nothing of {asset}")
            self._later()
            self._removed[bucket, asset] = gone
            for one in gone:
                kept.delete(one.key)
            return len(gone)

    def return_asset(self, asset: str, *, bucket: str = OPEN_DATA) -> int:
        """Upload a removed asset again, with a later time; return the number of objects."""
        self._later()
        gone = self._removed.pop((bucket, asset), None)
        if gone is None:
            raise DemoError(f"nothing of {asset} was removed from {bucket}")
        for one in gone:
            self._put_like(one, one.data, bucket)
        return len(gone)

    def grant(
        self, bucket: str, *, list_versions: bool | None = None, read_versions: bool | None = None
    ) -> None:
        """Change the public permissions on object versions."""
        kept = self.bucket(bucket)
        if list_versions is not None:
            kept.list_versions = list_versions
        if read_versions is not None:
            kept.read_versions = read_versions

    # -- helpers

    def bucket(self, name: str) -> ObjectBucket:
        """Return the bucket with this name."""
        if name not in self._buckets:
            raise DemoError(f"no bucket {name!r}: there are {', '.join(self._buckets)}")
        return self._buckets[name]

    def _put_like(self, before: ObjectVersion, content: bytes | str, bucket: str) -> ObjectVersion:
        """Upload other content with the properties of an earlier version."""
        return self.put(
            before.key,
            content,
            bucket=bucket,
            part_size=before.parts[:-1] or before.parts or None,
            content_type=before.content_type,
            encoding=before.encoding,
        )

    def _later(self) -> None:
        self.clock.now += timedelta(hours=1)

    def _index(self, asset: str, documents: Mapping[str, Any], *, docdb: bool) -> None:
        if asset not in self._descriptions:
            raise DemoError(f"{asset} has no documents that the indexer would know")
        body = record(
            self._descriptions[asset], f"s3://{OPEN_DATA}/{asset}", self.clock.now, dict(documents)
        )
        key = f"{asset}/metadata.nd.json"
        self.put(key, _text(body), content_type="application/json")
        if docdb:
            self.records[asset] = body


def _text(body: object) -> bytes:
    return json.dumps(body, indent=3).encode()
