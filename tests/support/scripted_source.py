"""A source that returns what a test defines, shaped like a bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from neuromirror.crawl import Mirror
from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    Digest,
    Document,
    ExcludedEntry,
    FileRecord,
    FileTotals,
    Location,
    NeuromirrorError,
    Retention,
    VersionKind,
    VersionRef,
)
from neuromirror.sources import (
    ComponentEntry,
    DatasetNotFoundError,
    Estimate,
    Listing,
    ListingEntry,
    Source,
    VisitContext,
)
from support.mirror_harness import MirrorHarness

START = datetime(2024, 3, 1, 12, 0, 0, tzinfo=UTC)


class ScriptedListing(Listing):
    """A listing whose results are given to the constructor."""

    def __init__(
        self,
        version: VersionRef,
        facts: DatasetFacts,
        *,
        read_entries: Callable[[ScriptedListing], Iterator[ListingEntry]],
        own_memo: bytes | None,
        unchanged: bool,
        find: Callable[[Sequence[bytes]], list[bytes]] = lambda _paths: [],
        late_sha256: bool = False,
        can_find_present: bool = False,
    ) -> None:
        super().__init__(version, facts, late_sha256=late_sha256, can_find_present=can_find_present)
        self._read_entries = read_entries
        self._own_memo = own_memo
        self._unchanged = unchanged
        self._find = find

    def entries(self) -> Iterator[ListingEntry]:
        return self._read_entries(self)

    def confirm_version(self) -> VersionRef:
        return self.version

    def is_unchanged(self) -> bool:
        return self._unchanged

    def memo(self) -> bytes | None:
        return self._own_memo

    def find_present(self, paths: Sequence[bytes]) -> list[bytes]:
        return self._find(paths)


def at(minutes: float) -> datetime:
    """Return a time after the start of all tests."""
    return START + timedelta(minutes=minutes)


@dataclass
class ScriptedFile:
    """An object: its bytes, its time, its upstream id, whether upstream lists its sha256."""

    content: bytes
    modified: datetime | None = START
    upstream_id: str | None = None
    sha256: bool = False
    host: str = "bucket.example.invalid"

    def record(self, path: str) -> FileRecord:
        md5 = hashlib.md5(self.content, usedforsecurity=False).hexdigest()
        digests = [Digest("md5", md5, "bucket")]
        if self.sha256:
            digests.append(Digest("sha256", hashlib.sha256(self.content).hexdigest(), "bucket"))
        return FileRecord(
            path.encode(),
            len(self.content),
            tuple(digests),
            (Location(f"https://{self.host}/{path}?versionId={md5}", "s3", md5),),
            modified=self.modified,
            upstream_id=self.upstream_id,
            retention=Retention.VERSIONED_BUCKET,
        )


def files(
    *paths: str, modified: datetime | None = START, sha256: bool = False
) -> dict[str, ScriptedFile]:
    """Return files whose content and upstream id are their names."""
    return {path: ScriptedFile(path.encode(), modified, path, sha256) for path in paths}


@dataclass
class ScriptedZarr:
    """A Zarr upstream, which datasets may have as an asset.

    ``error`` is raised when its files are read; ``stated_checksum`` is the checksum in a dataset's
    row, if it differs from the real one; ``earlier_states`` can be listed.
    """

    files: dict[str, ScriptedFile]
    is_finalized: bool = True
    error: Exception | None = None
    stated_checksum: str | None = None
    earlier_states: dict[datetime, dict[str, ScriptedFile]] = field(default_factory=dict)
    on_read: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        return sum(len(file.content) for file in self.files.values())

    @property
    def checksum(self) -> str:
        listed = sorted((path, one.content) for path, one in self.files.items())
        md5 = hashlib.md5(repr(listed).encode(), usedforsecurity=False).hexdigest()
        return f"{md5}-{len(self.files)}--{self.size}"

    def version(self, dataset: DatasetRef, checksum: str | None = None) -> VersionRef:
        checksum = checksum or self.checksum
        if not self.is_finalized:
            return VersionRef(dataset, "current", VersionKind.OBSERVED, None)
        count, size = map(int, checksum[33:].split("--"))
        return VersionRef(dataset, checksum, VersionKind.OBSERVED, None, FileTotals(count, size))


@dataclass
class ScriptedDataset:
    """A dataset upstream, with earlier states and published versions that it can list."""

    files: dict[str, ScriptedFile]
    documents: list[Document] = field(default_factory=list)
    facts: DatasetFacts = field(default_factory=lambda: DatasetFacts(title="Scripted"))
    exceptions: list[str] = field(default_factory=list)
    earlier_states: dict[datetime, dict[str, ScriptedFile]] = field(default_factory=dict)
    published_versions: dict[str, dict[str, ScriptedFile]] = field(default_factory=dict)
    zarrs: dict[str, str] = field(default_factory=dict)  # the Zarrs among its assets, by path
    error: NeuromirrorError | None = None  # raised instead of a listing
    has_summary: bool = False  # upstream states the numbers of files and bytes
    dropped_from_listing: set[str] = field(default_factory=set)  # files that listings lack
    present_unlisted: set[str] = field(default_factory=set)  # other paths that exist


class Options(BaseModel):
    """A source without options."""


@dataclass
class ScriptedSource:
    """The source; ``read_listings`` has the versions whose entries were read to the end."""

    scripted_datasets: dict[str, ScriptedDataset] = field(default_factory=dict)
    zarrs: dict[str, ScriptedZarr] = field(default_factory=dict)
    read_listings: list[str] = field(default_factory=list)
    known_memos: list[tuple[str, bytes | None]] = field(default_factory=list)
    probe_result: dict[str, str] | Exception = field(default_factory=dict)
    fingerprint: str | None = None
    unavailable: dict[str, str] = field(default_factory=dict)  # reasons by local id
    late_sha256: bool = False
    memos: bool = True
    can_check_paths: bool = True
    history_requests: list[datetime | None] = field(default_factory=list)
    checked_paths: list[bytes] = field(default_factory=list)
    on_listing: Callable[[VisitContext], None] = lambda context: None
    on_entries: Callable[[], None] = lambda: None
    Options: Any = Options
    mirror: str = "box"
    uri: str = "https://bucket.example.invalid/"

    def dataset(self, local_id: str) -> DatasetRef:
        return DatasetRef(self.mirror, local_id, f"{self.uri}{local_id}/")

    def datasets(self) -> Iterator[DatasetHint]:
        return iter([self.hint(self.dataset(one)) for one in sorted(self.scripted_datasets)])

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        if dataset.local_id not in self.scripted_datasets:
            raise DatasetNotFoundError(f"{dataset.name}: nothing below its prefix")
        reason = self.unavailable.get(dataset.local_id)
        return DatasetHint(dataset, self.fingerprint, "Scripted", unavailable=reason)

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        scripted_dataset = self.scripted_datasets[dataset.local_id]
        return [
            *(
                VersionRef(
                    dataset,
                    one,
                    VersionKind.PUBLISHED,
                    START,
                    self._summary(scripted_dataset, content),
                )
                for one, content in scripted_dataset.published_versions.items()
            ),
            VersionRef(
                dataset,
                "current",
                VersionKind.OBSERVED,
                None,
                self._summary(scripted_dataset, scripted_dataset.files),
            ),
        ]

    def _summary(
        self, scripted_dataset: ScriptedDataset, content: dict[str, ScriptedFile]
    ) -> FileTotals | None:
        zarrs = [self.zarrs[zarr].size for zarr in scripted_dataset.zarrs.values()]
        sizes = [len(one.content) for one in content.values()] + zarrs
        return FileTotals(len(sizes), sum(sizes)) if scripted_dataset.has_summary else None

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        self.history_requests.append(since)
        return [
            VersionRef(dataset, f"at {time.isoformat()}", VersionKind.OBSERVED, time)
            for time in sorted(self._earlier_states(dataset))
            if since is None or time > since
        ]

    def _earlier_states(self, dataset: DatasetRef) -> dict[datetime, dict[str, ScriptedFile]]:
        zarr = self.zarrs.get(dataset.local_id.removeprefix("zarr/"))
        return (
            self.scripted_datasets[dataset.local_id].earlier_states
            if zarr is None
            else zarr.earlier_states
        )

    def capabilities(self) -> Mapping[str, str]:
        if isinstance(self.probe_result, Exception):
            raise self.probe_result
        return self.probe_result

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        return None

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        return None

    def part(self, path: str, name: str) -> ComponentEntry:
        zarr, dataset = self.zarrs[name], self.dataset(f"zarr/{name}")
        size = zarr.size if zarr.is_finalized else 0
        return ComponentEntry(
            path.encode(),
            size,
            zarr.version(dataset, zarr.stated_checksum),
            lambda context: self.zarr_listing(name, None, context),
        )

    def zarr_listing(self, name: str, moment: datetime | None, context: VisitContext) -> Listing:
        zarr, dataset = self.zarrs[name], self.dataset(f"zarr/{name}")
        version = zarr.version(dataset)
        content = zarr.files
        if moment is not None:
            upstream_name = f"at {moment.isoformat()}"
            version = VersionRef(dataset, upstream_name, VersionKind.OBSERVED, moment)
            content = zarr.earlier_states[moment]
        memo = repr(sorted(content.items())).encode()

        def entries(_listing: ScriptedListing) -> Iterator[ListingEntry]:
            zarr.on_read()
            if zarr.error is not None:
                raise zarr.error
            for path, one in content.items():
                yield one.record(path)
            self.read_listings.append(f"{dataset.local_id} {version.upstream}")

        return ScriptedListing(
            version,
            DatasetFacts(title=name),
            read_entries=entries,
            own_memo=memo,
            unchanged=zarr.error is None and context.memo == memo,
        )

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        if version.dataset.local_id.startswith("zarr/"):
            moment = datetime.fromisoformat(version.upstream.removeprefix("at "))
            return self.zarr_listing(version.dataset.local_id[5:], moment, context)
        scripted_dataset, upstream_name = (
            self.scripted_datasets[version.dataset.local_id],
            version.upstream,
        )
        self.known_memos.append((upstream_name, context.memo))
        if scripted_dataset.error is not None:
            raise scripted_dataset.error
        self.on_listing(context)
        if version.kind is VersionKind.PUBLISHED:
            content = scripted_dataset.published_versions[upstream_name]
        elif upstream_name == "current":
            content = scripted_dataset.files
        else:
            content = scripted_dataset.earlier_states[
                datetime.fromisoformat(upstream_name.removeprefix("at "))
            ]
        listed = {
            path: one
            for path, one in content.items()
            if path not in scripted_dataset.dropped_from_listing
        }
        parts = [self.part(path, name) for path, name in scripted_dataset.zarrs.items()]
        component_versions = [(part.path, part.version) for part in parts]
        memo = repr(
            (sorted(listed.items()), scripted_dataset.documents, component_versions)
        ).encode()

        def entries(listing: ScriptedListing) -> Iterator[ListingEntry]:
            for path, one in listed.items():
                yield one.record(path)
            yield from parts
            self.on_entries()
            for path in scripted_dataset.exceptions:
                yield ExcludedEntry(path.encode(), "folder-marker", "a marker of a folder")
            self.read_listings.append(f"{version.dataset.local_id} {upstream_name}")
            # a bucket's listing has these only at its end
            if version.kind is not VersionKind.PUBLISHED:
                listing.documents = tuple(scripted_dataset.documents)
            listing.facts = scripted_dataset.facts

        def find_present(paths: Sequence[bytes]) -> list[bytes]:
            self.checked_paths += paths
            there = (
                content.keys() | scripted_dataset.present_unlisted | scripted_dataset.zarrs.keys()
            )
            return [path for path in paths if path.decode() in there]

        return ScriptedListing(
            version,
            DatasetFacts(),
            read_entries=entries,
            own_memo=memo if self.memos else None,
            unchanged=context.memo == memo,
            find=find_present,
            late_sha256=self.late_sha256,
            can_find_present=self.can_check_paths and not scripted_dataset.has_summary,
        )


class ScriptedMirror(Mirror, frozen=True):
    """A mirror of the test's scripted source."""

    source: ScriptedSource | None = None

    def open(self) -> Source:
        return self.source  # type: ignore[return-value]


class ScriptedHarness(MirrorHarness):
    """A store that mirrors a scripted source as ``box``."""

    def __init__(self, folder: Path, source: ScriptedSource, settings: str = "") -> None:
        mirrors = folder / "mirrors"
        mirrors.mkdir(parents=True)
        (mirrors / "box.toml").write_text(f'source = "scripted"\n{settings}')
        super().__init__(mirrors, folder / "store", self._open_mirror)
        self.source = source

    @property
    def datasets(self) -> dict[str, ScriptedDataset]:
        """The datasets upstream, by local id, which a test may change."""
        return self.source.scripted_datasets

    def _open_mirror(self, mirror: Mirror) -> Mirror:
        return ScriptedMirror(mirror.name, mirror.path, mirror.settings, self.source)

    def file_stamps(self) -> dict[str, tuple[int, int]]:
        """Return time and inode of each file except locks and files that SQLite keeps open."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not {"locks", "listed"} & set(path.parts)
            if not path.name.endswith(("-shm", "-wal", ".lock"))
        }
