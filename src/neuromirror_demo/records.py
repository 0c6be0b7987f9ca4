"""Records of the demo archive: dandisets, versions, assets, blobs, Zarrs, and its clock."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from neuromirror_demo.checksums import dandi_etag, zarr_checksum

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://neuromirror.invalid/demo")


def fixed_uuid(*names: object) -> str:
    """A uuid made of names alone, in the form of a version 4 one.

    The archive's addresses accept no other form: anything else is a malformed id (HTML 404).
    """
    seed = uuid.uuid5(_NAMESPACE, "/".join(str(name) for name in names))
    return str(uuid.UUID(bytes=seed.bytes, version=4))


@dataclass(slots=True)
class ArchiveClock:
    """The archive's own time (UTC): it stands still but for one ``step`` at every change.

    A step under a minute could give two published versions one label.
    """

    now: datetime = datetime(2024, 3, 1, 9, 0, 0, 120457, tzinfo=UTC)
    step: timedelta = timedelta(minutes=7, seconds=13, microseconds=250_131)

    def tick(self) -> datetime:
        """One step on; the new time."""
        self.now += self.step
        return self.now


@dataclass(slots=True, eq=False)
class Blob:
    """The bytes of one or more assets, stored once.

    ``sha256`` is the true one; ``sha256_known`` says whether the archive shows it yet (it is
    computed after the upload). ``version_id`` is the S3 object's, None where no object was put.
    One is ``embargoed`` as long as no open dandiset has it.
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
        """Bytes."""
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
    """A Zarr archive; ``entries`` by their path within it. The id stays while entries change.

    ``checksum``, ``file_count`` and ``size`` (bytes) are what the archive saw when it last looked:
    None and nothing before, and again while entries are written. ``removed`` are entries that
    were deleted.
    """

    zarr_id: str
    name: str
    dandiset: str
    entries: dict[str, ZarrEntry] = field(default_factory=dict)
    removed: dict[str, ZarrEntry] = field(default_factory=dict)
    checksum: str | None = None
    file_count: int = 0
    size: int = 0

    @property
    def true_checksum(self) -> str:
        """The dandi-zarr-checksum of what it holds now."""
        return zarr_checksum(
            {path: (entry.etag, len(entry.data)) for path, entry in self.entries.items()}
        )

    def finalize(self) -> None:
        """The archive looks at all files."""
        self.checksum = self.true_checksum
        self.file_count = len(self.entries)
        self.size = sum(len(entry.data) for entry in self.entries.values())

    def mark_pending(self) -> None:
        """The archive knows that files may change, and nothing else."""
        self.checksum, self.file_count, self.size = None, 0, 0

    def key(self, path: str = "") -> str:
        """The S3 key of an entry, or the prefix of them all."""
        return f"zarr/{self.zarr_id}/{path}"


@dataclass(slots=True, eq=False)
class Asset:
    """A file of one or more versions; ``published_by`` is set once and for all by publishing."""

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
        """Bytes."""
        if self.blob is not None:
            return self.blob.size
        return self.zarr.size if self.zarr is not None else 0


@dataclass(slots=True)
class Description:
    """What people wrote about a dandiset."""

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
    def summary(self) -> VersionSummary:
        """Return what the archive's lists report for it now."""
        size = sum(asset.size for asset in self.assets.values())
        return VersionSummary(len(self.assets), size, self.status, self.modified)


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """Count, bytes, status and time of a version."""

    asset_count: int
    size: int
    status: str
    modified: datetime


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
        """The draft, then the published ones: the archive's default order."""
        return [self.draft, *self.published]

    def version(self, label: str) -> DandisetVersion | None:
        """The version of this label, or None."""
        return next((one for one in self.versions if one.label == label), None)
