"""The state of the demo buckets, and the operations on it.

The metadata documents of AIND assets are in the formats of several versions of aind-data-schema:
``0`` stands for versions up to 0.3 (2022), ``1`` for 0.5 to 1.4 (2023 to early 2025), ``2`` for
2.x. Their values are invented.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from neuromirror_demo.archive import DemoError
from neuromirror_demo.records import (
    ArchiveClock,
    filled,
    fixed_uuid,
    joined_digest,
    multipart_etag,
    read_data,
)


@dataclass(slots=True)
class ObjectVersion:
    """One version of an object, or a delete marker; ``etag`` without quotes, times in UTC.

    ``version_id`` is None in a bucket without versions. ``parts`` are the sizes of the uploaded
    parts, empty for a single-part upload. ``checksum`` is (algorithm, type, base64 value),
    ``encoding`` the Content-Encoding, empty for none. ``listed`` is the size and ETag in listings,
    if they differ from the object's own. ``archive_status`` is the tier of an archived object of
    ``INTELLIGENT_TIERING``, ``restore`` the header ``x-amz-restore`` of an archived object; only
    headers are returned while it has none.
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
    storage_class: str = "STANDARD"
    archive_status: str = ""
    restore: str = ""
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
            etag, parts = multipart_etag(data, part_size)
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
                else joined_digest(checksum, data, parts)
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


Json = dict[str, Any]

_SOURCE = "https://raw.githubusercontent.com/AllenNeuralDynamics/aind-data-schema/main/src"
_MODALITIES = {
    "ecephys": "Extracellular electrophysiology",
    "behavior": "Behavior",
    "behavior-videos": "Behavior videos",
    "SPIM": "Selective plane illumination microscopy",
}
_PLATFORMS = {
    "ecephys": "Electrophysiology platform",
    "behavior": "Behavior platform",
    "exaSPIM": "ExaSPIM platform",
    "HCR": "Hybridization chain reaction platform",
}


@dataclass(frozen=True, slots=True)
class AssetDescription:
    """An asset as its documents describe it.

    ``generation`` is 0, 1 or 2; ``inputs`` and ``process`` are the input assets and the process of
    a derived asset.
    """

    name: str
    generation: int
    subject: str
    created: datetime
    modalities: tuple[str, ...] = ("ecephys",)
    platform: str | None = "ecephys"
    project: str = "Demo of Brain Wide Circuit Dynamics"
    investigators: tuple[str, ...] = ("Jane Doe",)
    funder: str = "Allen Institute"
    inputs: tuple[str, ...] = ()
    process: str = ""
    links: bool = True
    """Whether the documents name the inputs; otherwise only the asset's name does."""

    @property
    def derived(self) -> bool:
        """Whether the asset was derived from other assets."""
        return bool(self.process)


def sidecars(asset: AssetDescription) -> dict[str, Json]:
    """Return all root documents except ``metadata.nd.json``, by file name."""
    created = asset.created
    modalities = [{"name": _MODALITIES[one], "abbreviation": one} for one in asset.modalities]
    values = {
        "name": asset.name,
        "subject": asset.subject,
        "project": asset.project,
        "funder": asset.funder,
        "created": created,
        "month_before": created - timedelta(days=30),
        "started": created - timedelta(hours=3),
        "level": "derived" if asset.derived else "raw",
        "process": asset.process,
        "kind": "Spike sorting" if "sorted" in asset.process else "Other",
        "input": asset.inputs[0] if asset.inputs else "",
        "inputs": list(asset.inputs) if asset.links and asset.inputs else None,
        "modality": asset.modalities[0],
        "modalities": modalities,
        "first": modalities[0],
        "platform": {"name": _PLATFORMS.get(asset.platform or ""), "abbreviation": asset.platform},
    }
    documents: dict[str, Json] = filled(read_data("sidecars")[asset.generation], values)
    description = documents["data_description.json"]
    if asset.generation:
        (one,) = description["investigators"]
        description["investigators"] = [{**one, "name": name} for name in asset.investigators]
    if not (asset.inputs and asset.links):
        for name in ("input_data", "input_data_name"):
            description.pop(name, None)
    unused = ("session", "rig", "acquisition", "instrument") if asset.derived else ("processing",)
    for name in unused:
        documents.pop(f"{name}.json", None)
    if not asset.derived:
        description.pop("process_name", None)
    return documents


def record(asset: AssetDescription, location: str, modified: datetime, documents: Json) -> Json:
    """Return ``metadata.nd.json``, which is also the record in the document database."""
    stem = {name.removesuffix(".json"): body for name, body in documents.items()}
    common = {
        "_id": fixed_uuid("aind", asset.name),
        "name": asset.name,
        "location": location,
        "describedBy": f"{_SOURCE}/aind_data_schema/core/metadata.py",
        "schema_version": "2.0.41" if asset.generation == 2 else "1.1.1",
    }
    if asset.generation == 2:
        return {
            **common,
            "object_type": "Metadata",
            "_created": _moment(asset.created),
            "_last_modified": _moment(modified),
            "other_identifiers": {"Code Ocean": [fixed_uuid("code ocean", asset.name)]},
            **stem,
        }
    return {
        **common,
        "created": _moment(asset.created),
        "last_modified": _moment(modified),
        "metadata_status": "Valid",
        "external_links": {"Code Ocean": [fixed_uuid("code ocean", asset.name)]},
        **stem,
    }


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond:06d}Z"


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

    def __init__(self, *, layers: bool = False) -> None:
        first = datetime(2025, 6, 10, 8, 0, 0, tzinfo=UTC)
        self.clock = ArchiveClock(first, timedelta(seconds=1))
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
        self, key: bytes | str, content: bytes | str, *, bucket: str = OPEN_DATA, **about: Any
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
            self._later()
            self._removed[bucket, asset] = gone
            for one in gone:
                kept.delete(one.key)
            return len(gone)

    def return_asset(self, asset: str, *, bucket: str = OPEN_DATA) -> int:
        """Upload a removed asset again, with a later time; return the number of objects."""
        self._later()
        gone = self._removed.pop((bucket, asset))
        for one in gone:
            self._put_like(one, one.data, bucket)
        return len(gone)

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
        body = record(
            self._descriptions[asset], f"s3://{OPEN_DATA}/{asset}", self.clock.now, dict(documents)
        )
        key = f"{asset}/metadata.nd.json"
        self.put(key, _text(body), content_type="application/json")
        if docdb:
            self.records[asset] = body


def _text(body: object) -> bytes:
    return json.dumps(body, indent=3).encode()
