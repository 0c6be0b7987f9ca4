"""A source that says what a test wants it to say, shaped like a bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from crawl_place import Place
from pydantic import BaseModel

from neuromirror.crawl import Mirror
from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    Digest,
    Document,
    FileRecord,
    Location,
    NamedException,
    Retention,
    Summary,
    VersionKind,
    VersionRef,
)
from neuromirror.sources import DatasetNotFound, Estimate, Known, Listing, Part, Source

START = datetime(2024, 3, 1, 12, 0, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """A time after the beginning of all tests."""
    return START + timedelta(minutes=minutes)


@dataclass
class File:
    """An object: its bytes, its time, upstream's id of it, whether its sha256 is told."""

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


def files(*paths: str, modified: datetime | None = START, sha256: bool = False) -> dict[str, File]:
    """Files whose bytes are their names; the name is upstream's id, too."""
    return {path: File(path.encode(), modified, path, sha256) for path in paths}


@dataclass
class Zarr:
    """A Zarr upstream, which datasets may hold as an asset.

    ``broken`` is raised when its files are read; ``word`` is what a dataset's row calls its state,
    where that is not its checksum; ``past`` are earlier states that upstream can list.
    """

    files: dict[str, File]
    finalized: bool = True
    broken: Exception | None = None
    word: str | None = None
    past: dict[datetime, dict[str, File]] = field(default_factory=dict)
    on_read: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        return sum(len(one.content) for one in self.files.values())

    @property
    def checksum(self) -> str:
        listed = sorted((path, one.content) for path, one in self.files.items())
        md5 = hashlib.md5(repr(listed).encode(), usedforsecurity=False).hexdigest()
        return f"{md5}-{len(self.files)}--{self.size}"

    def version(self, dataset: DatasetRef, word: str | None = None) -> VersionRef:
        word = word or self.checksum
        if not self.finalized:
            return VersionRef(dataset, "current", VersionKind.OBSERVED, None)
        count, size = map(int, word[33:].split("--"))
        return VersionRef(dataset, word, VersionKind.OBSERVED, None, Summary(count, size))


@dataclass
class Thing:
    """A dataset upstream; ``past`` are earlier states that it can list, ``published`` others."""

    files: dict[str, File]
    documents: list[Document] = field(default_factory=list)
    facts: DatasetFacts = field(default_factory=lambda: DatasetFacts(title="Scripted"))
    exceptions: list[str] = field(default_factory=list)
    past: dict[datetime, dict[str, File]] = field(default_factory=dict)
    published: dict[str, dict[str, File]] = field(default_factory=dict)
    zarrs: dict[str, str] = field(default_factory=dict)  # the Zarrs among its assets, by path
    counted: bool = False  # upstream says how many files and bytes it holds
    lost: set[str] = field(default_factory=set)  # files that listings lack
    unlisted: set[str] = field(default_factory=set)  # other paths that are there all the same


class Options(BaseModel):
    """None."""


@dataclass
class Scripted:
    """The source; ``read`` names the versions whose entries were read to the end."""

    things: dict[str, Thing] = field(default_factory=dict)
    zarrs: dict[str, Zarr] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    known: list[tuple[str, bytes | None]] = field(default_factory=list)
    probed: dict[str, str] | Exception = field(default_factory=dict)
    fingerprint: str | None = None
    unavailable: dict[str, str] = field(default_factory=dict)  # why, by local id
    late_sha256: bool = False
    memos: bool = True
    checks: bool = True
    since: list[datetime | None] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    on_listing: Callable[[Known], None] = lambda known: None
    on_entries: Callable[[], None] = lambda: None
    Options: Any = Options
    mirror: str = "box"
    uri: str = "https://bucket.example.invalid/"

    def dataset(self, local_id: str) -> DatasetRef:
        return DatasetRef(self.mirror, local_id, f"{self.uri}{local_id}/")

    def datasets(self) -> Iterator[DatasetHint]:
        return iter([self.hint(self.dataset(one)) for one in sorted(self.things)])

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        if dataset.local_id not in self.things:
            raise DatasetNotFound(f"{dataset.name}: there is nothing below its prefix")
        why = self.unavailable.get(dataset.local_id)
        return DatasetHint(dataset, self.fingerprint, "Scripted", unavailable=why)

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        thing = self.things[dataset.local_id]
        return [
            *(
                VersionRef(
                    dataset, one, VersionKind.PUBLISHED, START, self._summary(thing, content)
                )
                for one, content in thing.published.items()
            ),
            VersionRef(
                dataset, "current", VersionKind.OBSERVED, None, self._summary(thing, thing.files)
            ),
        ]

    def _summary(self, thing: Thing, content: dict[str, File]) -> Summary | None:
        zarrs = [self.zarrs[one].size for one in thing.zarrs.values()]
        sizes = [len(one.content) for one in content.values()] + zarrs
        return Summary(len(sizes), sum(sizes)) if thing.counted else None

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        self.since.append(since)
        return [
            VersionRef(dataset, f"at {time.isoformat()}", VersionKind.OBSERVED, time)
            for time in sorted(self._past(dataset))
            if since is None or time > since
        ]

    def _past(self, dataset: DatasetRef) -> dict[datetime, dict[str, File]]:
        zarr = self.zarrs.get(dataset.local_id.removeprefix("zarr/"))
        return self.things[dataset.local_id].past if zarr is None else zarr.past

    def capabilities(self) -> Mapping[str, str]:
        if isinstance(self.probed, Exception):
            raise self.probed
        return self.probed

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        return None

    def group(self, local_ids: str) -> DatasetRef | None:
        return None

    def part(self, path: str, name: str) -> Part:
        zarr, dataset = self.zarrs[name], self.dataset(f"zarr/{name}")
        size = zarr.size if zarr.finalized else 0
        return Part(
            path.encode(),
            size,
            zarr.version(dataset, zarr.word),
            lambda known: self.zarr_listing(name, None, known),
        )

    def zarr_listing(self, name: str, moment: datetime | None, known: Known) -> Listing:
        zarr, dataset = self.zarrs[name], self.dataset(f"zarr/{name}")
        version = zarr.version(dataset)
        content = zarr.files
        if moment is not None:
            word = f"at {moment.isoformat()}"
            version = VersionRef(dataset, word, VersionKind.OBSERVED, moment)
            content = zarr.past[moment]
        memo = repr(sorted(content.items())).encode()

        def entries() -> Iterator[FileRecord | NamedException | Part]:
            zarr.on_read()
            if zarr.broken is not None:
                raise zarr.broken
            for path, one in content.items():
                yield one.record(path)
            self.read.append(f"{dataset.local_id} {version.upstream}")

        return Listing(
            version=version,
            facts=DatasetFacts(title=name),
            documents=(),
            entries=entries(),
            closing=lambda: version,
            unchanged=lambda: zarr.broken is None and known.memo == memo,
            memo=lambda: memo,
        )

    def listing(self, version: VersionRef, known: Known) -> Listing:
        if version.dataset.local_id.startswith("zarr/"):
            moment = datetime.fromisoformat(version.upstream.removeprefix("at "))
            return self.zarr_listing(version.dataset.local_id[5:], moment, known)
        thing, word = self.things[version.dataset.local_id], version.upstream
        self.known.append((word, known.memo))
        self.on_listing(known)
        if version.kind is VersionKind.PUBLISHED:
            content = thing.published[word]
        elif word == "current":
            content = thing.files
        else:
            content = thing.past[datetime.fromisoformat(word.removeprefix("at "))]
        listed = {path: one for path, one in content.items() if path not in thing.lost}
        parts = [self.part(path, name) for path, name in thing.zarrs.items()]
        words = [(one.path, one.version) for one in parts]
        memo = repr((sorted(listed.items()), thing.documents, words)).encode()

        def entries() -> Iterator[FileRecord | NamedException | Part]:
            for path, one in listed.items():
                yield one.record(path)
            yield from parts
            self.on_entries()
            for path in thing.exceptions:
                yield NamedException(path.encode(), "folder-marker", "a marker of a folder")
            self.read.append(f"{version.dataset.local_id} {word}")
            # what a bucket's listing knows only at its end
            if version.kind is not VersionKind.PUBLISHED:
                listing.documents = tuple(thing.documents)
            listing.facts = thing.facts

        def still_there(paths: Sequence[bytes]) -> list[bytes]:
            self.asked += paths
            there = content.keys() | thing.unlisted | thing.zarrs.keys()
            return [path for path in paths if path.decode() in there]

        listing = Listing(
            version=version,
            facts=DatasetFacts(),
            documents=(),
            entries=entries(),
            closing=lambda: version,
            late_sha256=self.late_sha256,
            unchanged=lambda: known.memo == memo,
            memo=lambda: memo if self.memos else None,
            still_there=still_there if self.checks and not thing.counted else None,
        )
        return listing


class ScriptedMirror(Mirror):
    """A mirror of the scripted source that the test holds."""

    source: Scripted

    def open(self) -> Source:
        return self.source  # type: ignore[return-value]


class Box(Place):
    """A store that mirrors a scripted source as ``box``."""

    def __init__(self, folder: Path, source: Scripted, settings: str = "") -> None:
        mirrors = folder / "mirrors"
        mirrors.mkdir(parents=True)
        (mirrors / "box.toml").write_text(f'source = "scripted"\n{settings}')
        super().__init__(mirrors, folder / "store", self._open)
        self._source = source

    def _open(self, mirror: Mirror) -> Mirror:
        made = ScriptedMirror(mirror.name, mirror.path, mirror.settings)
        object.__setattr__(made, "source", self._source)
        return made

    def written(self) -> dict[str, tuple[int, int]]:
        """Time and node of all that is in the store but locks and what SQLite has open."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not {"locks", "checked"} & set(path.parts)
            if not path.name.endswith(("-shm", "-wal", ".lock"))
        }
