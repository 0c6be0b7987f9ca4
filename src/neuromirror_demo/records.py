"""What the demo archives are made of: records, checksums and templates of documents."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

PART_SIZE = 64 * 1024 * 1024
"""Part size of a dandi-etag in bytes; it suffices for files under 10,000 parts, as all here are."""


def part_sizes(size: int, part_size: int | Sequence[int] = PART_SIZE) -> tuple[int, ...]:
    """Return the sizes of the parts of an upload; at least one part.

    The last of several sizes applies to all further parts.
    """
    sizes = [part_size] if isinstance(part_size, int) else list(part_size)
    parts: list[int] = []
    while not parts or size > sum(parts):
        parts.append(min(sizes[min(len(parts), len(sizes) - 1)], size - sum(parts)))
    return tuple(parts)


@lru_cache(maxsize=8)  # the demo's own objects are uploaded to each new bucket
def joined_digest(algorithm: str, data: bytes, parts: tuple[int, ...]) -> bytes:
    """Return the digest of the digests of the parts, as S3 computes it."""
    joined = hashlib.new(algorithm, usedforsecurity=False)
    view, start = memoryview(data), 0
    for size in parts:
        piece = view[start : start + size]
        joined.update(hashlib.new(algorithm, piece, usedforsecurity=False).digest())
        start += size
    return joined.digest()


def multipart_etag(
    data: bytes, part_size: int | Sequence[int] | None
) -> tuple[str, tuple[int, ...]]:
    """Return S3's ETag and the part sizes; for a single-part upload (None) the MD5, and no parts.

    In parts it is ``<md5 of the joined part md5s>-<parts>``.
    """
    if part_size is None:
        return hashlib.md5(data, usedforsecurity=False).hexdigest(), ()
    sizes = part_sizes(len(data), part_size)
    return f"{joined_digest('md5', data, sizes).hex()}-{len(sizes)}", sizes


def dandi_etag(data: bytes) -> str:
    """Return the ETag of an upload in parts of 64 MiB."""
    return multipart_etag(data, PART_SIZE)[0]


def zarr_checksum(entries: Mapping[str, tuple[str, int]]) -> str:
    """Return the dandi-zarr-checksum ``<md5>-<files>--<bytes>`` of path → (md5 hex, bytes).

    The checksum of a folder is the md5 of its compact JSON listing, sorted by name; the format is
    that of the ``compute_zarr_checksum`` package.
    """
    files: list[dict[str, object]] = []
    folders: dict[str, dict[str, tuple[str, int]]] = {}
    for path, (digest, size) in entries.items():
        head, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(head, {})[rest] = (digest, size)
        else:
            files.append({"digest": digest, "name": head, "size": size})
    directories: list[dict[str, object]] = []
    for name in sorted(folders):
        digest = zarr_checksum(folders[name])
        directories.append(
            {"digest": digest, "name": name, "size": int(digest.rpartition("--")[2])}
        )
    listing = {"directories": directories, "files": sorted(files, key=lambda one: str(one["name"]))}
    text = json.dumps(listing, separators=(",", ":"))
    total = sum(size for _, size in entries.values())
    return (
        f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}-{len(entries)}--{total}"
    )


@cache
def read_data(name: str) -> Any:
    """Return the content of a file of ``data``, which must not be changed."""
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text("utf-8"))


def filled(node: Any, values: dict[str, Any]) -> Any:
    """Return a copy in which ``{name}`` in texts, and texts ``$name``, are replaced by values."""
    if isinstance(node, dict):
        return {filled(name, values): filled(one, values) for name, one in node.items()}
    if isinstance(node, list):
        return [filled(one, values) for one in node]
    if isinstance(node, str):
        return values[node[1:]] if node.startswith("$") else node.format(**values)
    return node


_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://neuromirror.invalid/demo")


def fixed_uuid(*names: object) -> str:
    """Return a uuid derived from names, in the form of version 4.

    The archive's URLs accept no other form: any other is a malformed id (HTML 404).
    """
    seed = uuid.uuid5(_NAMESPACE, "/".join(str(name) for name in names))
    return str(uuid.UUID(bytes=seed.bytes, version=4))


@dataclass(slots=True)
class ArchiveClock:
    """The archive's own time (UTC), which advances by one ``step`` per change.

    With a step under a minute two published versions could have the same label.
    """

    now: datetime = datetime(2024, 3, 1, 9, 0, 0, 120457, tzinfo=UTC)
    step: timedelta = timedelta(minutes=7, seconds=13, microseconds=250_131)

    def tick(self) -> datetime:
        """Advance by one step; return the new time."""
        self.now += self.step
        return self.now


@dataclass(slots=True, eq=False)
class Blob:
    """The bytes of one or more assets, stored once.

    ``sha256`` is the true digest; ``sha256_known`` is whether the archive shows it yet (it is
    computed after the upload). ``version_id`` is that of the S3 object, None without an object. A
    blob is ``embargoed`` as long as no open dandiset has it.
    """

    blob_id: str
    data: bytes
    content_type: str
    sha256_known: bool = True
    version_id: str | None = None
    embargoed: bool = False
    sha256: str = ""
    etag: str = ""

    def __post_init__(self) -> None:
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        self.etag = dandi_etag(self.data)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return len(self.data)

    @property
    def key(self) -> str:
        """The S3 key: ``blobs/abc/def/<uuid>``."""
        return f"blobs/{self.blob_id[:3]}/{self.blob_id[3:6]}/{self.blob_id}"


@dataclass(slots=True)
class ZarrEntry:
    """An object of a Zarr."""

    data: bytes
    etag: str
    modified: datetime
    version_id: str


@dataclass(slots=True, eq=False)
class Zarr:
    """A Zarr archive; ``entries`` by their path in it. The id stays when entries change.

    ``checksum``, ``file_count`` and ``size`` (bytes) are those of the last finalization: None
    or 0 before the first one, and while entries are written. ``counted_size`` is the size in the
    totals of a version, which only a finalization changes.
    """

    zarr_id: str
    name: str
    dandiset: str
    entries: dict[str, ZarrEntry] = field(default_factory=dict)
    checksum: str | None = None
    file_count: int = 0
    size: int = 0
    counted_size: int = 0

    @property
    def true_checksum(self) -> str:
        """Return the dandi-zarr-checksum of the current entries."""
        return zarr_checksum(
            {path: (entry.etag, len(entry.data)) for path, entry in self.entries.items()}
        )

    def finalize(self) -> None:
        """Update checksum and totals from the entries."""
        self.checksum = self.true_checksum
        self.file_count = len(self.entries)
        self.size = self.counted_size = sum(len(entry.data) for entry in self.entries.values())

    def mark_pending(self) -> None:
        """Mark the Zarr as pending: it has neither checksum nor totals."""
        self.checksum, self.file_count, self.size = None, 0, 0

    def key(self, path: str = "") -> str:
        """Return the S3 key of an entry, or the prefix of all entries."""
        return f"zarr/{self.zarr_id}/{path}"


@dataclass(slots=True, eq=False)
class Asset:
    """A file of one or more versions; ``published_by`` is set once, by publishing."""

    asset_id: str
    dandiset: str
    path: str
    created: datetime
    modified: datetime
    blob: Blob | None = None
    zarr: Zarr | None = None
    published_by: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """The size in bytes."""
        if self.blob is not None:
            return self.blob.size
        return self.zarr.size if self.zarr is not None else 0


@dataclass(slots=True)
class Description:
    """The metadata of a dandiset, as its authors wrote it."""

    title: str
    text: str = ""
    license: str = "spdx:CC-BY-4.0"
    keywords: tuple[str, ...] = ("demo",)
    contributors: tuple[tuple[str, str], ...] = (("Doe, Jane", "jane.doe@example.org"),)


@dataclass(slots=True, eq=False)
class DandisetVersion:
    """A draft or a published version; ``assets`` by path, in order of creation."""

    label: str
    description: Description
    created: datetime
    modified: datetime
    assets: dict[str, Asset] = field(default_factory=dict)
    status: str = "Valid"
    published_by: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """The size in bytes that the archive's lists report."""
        return sum(
            asset.size if asset.zarr is None else asset.zarr.counted_size
            for asset in self.assets.values()
        )


@dataclass(slots=True, eq=False)
class Dandiset:
    """A dandiset with its draft and its published versions, oldest first."""

    identifier: str
    created: datetime
    modified: datetime
    draft: DandisetVersion
    published: list[DandisetVersion] = field(default_factory=list)
    embargoed: bool = False

    @property
    def versions(self) -> list[DandisetVersion]:
        """Return the draft, then the published versions: the archive's default order."""
        return [self.draft, *self.published]

    def version(self, label: str) -> DandisetVersion | None:
        """Return the version with this label, or None."""
        return next((one for one in self.versions if one.label == label), None)
