"""The store of the benchmark ``web``: many datasets, minted by neuromirror.

No archive is simulated: listings are generated here and published as by a visit, so that every
version has a commit and rows in the index. Equal sizes give equal datasets. The store is kept for
the next run in a folder named by a digest of its inputs.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import click
from msgspec.structs import replace

from benchmarks import synthetic_metadata
from benchmarks.synthetic_metadata import documents, study
from neuromirror.annex import key_for
from neuromirror.config.mirror_files import MirrorFile
from neuromirror.crawl import Recorder, RefMove, Visit, publish
from neuromirror.crawl.validate import RecordSpool, SpooledSnapshot
from neuromirror.index import Index, rebuild_from_journal
from neuromirror.mint import MINT_SPEC
from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Digest,
    Document,
    EventRaised,
    FileRecord,
    HoldPlaced,
    JournalEntry,
    LinksFound,
    Location,
    MirrorSeen,
    Retention,
    SnapshotEntry,
    SnapshotHeader,
    Subdataset,
    VersionKind,
    VersionMinted,
    VersionRef,
    VisitEnded,
    dump_snapshot_entry,
)
from neuromirror.store import MAIN_BRANCH, PUBLISHED_BRANCH, Store

_T = TypeVar("_T")
START = datetime(2024, 3, 1, tzinfo=UTC)
MIRRORS = {
    "dandi": ("dandi", "https://api.example.org/api/", 7),
    "aind": ("aind", "s3://open-data.example.org/", 3),
}
"""Source, URI and share (in tenths) of each mirror."""

_FOLDER = 10_000
_PARTS = 2
_ENTRIES = 300
TERMS = (
    *("visual", "cortex", "hippocampus", "behavior", "calcium", "imaging", "neuropixels", "sleep"),
    *("reward", "licking", "motor", "learning", "barrel", "thalamus", "retina", "olfactory"),
    *(
        "spatial",
        "memory",
        "theta",
        "ripples",
        "anesthesia",
        "optogenetics",
        "striatum",
        "navigation",
    ),
)
_LICENSES = ("spdx:CC-BY-4.0", "spdx:CC0-1.0")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes: the number of datasets, of versions of each, and of files in all of them.

    One dataset has a quarter of the files, in folders of ``folder``; one has ``history`` versions.
    """

    datasets: int
    versions: int
    files: int
    history: int
    folder: int = _FOLDER


@dataclass(frozen=True, slots=True)
class Made:
    """A finished store, and the names of its special datasets."""

    store: Path
    index: Path
    seconds: float

    @property
    def large(self) -> str:
        """The dataset with a quarter of all files."""
        return "dandi:000001"

    @property
    def long(self) -> str:
        """The dataset with a long history."""
        return "dandi:000002"


def ready(cache: Path, sizes: Sizes) -> Made:
    """Return the store of these sizes, of an earlier run (``seconds`` is 0) or a new one."""
    begin = time.monotonic()
    of = Path(synthetic_metadata.__file__)
    made_of = [one.read_text() for one in (Path(__file__), of, of.with_name("studies.json"))]
    cache_key = json.dumps([asdict(sizes), MINT_SPEC, *made_of])
    folder = cache / f"web-{hashlib.sha256(cache_key.encode()).hexdigest()[:16]}"
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        click.echo(f"making {sizes.datasets} datasets in {folder} …", err=True)
        _fill(folder, sizes)
    elif done.read_text() == _index_digest():
        return Made(folder / "store", folder / "index.sqlite", 0)
    click.echo("making the index …", err=True)
    rebuild_from_journal(folder / "index.sqlite", Store.open(folder / "store"))
    done.write_text(_index_digest())
    return Made(folder / "store", folder / "index.sqlite", round(time.monotonic() - begin, 1))


def _index_digest() -> str:
    """Return the digest of the code that writes the index; code that reads it may change."""
    import neuromirror.index

    digest = hashlib.sha256()
    import neuromirror.model.archive_metadata

    folder = Path(str(neuromirror.index.__file__)).parent
    for path in [*folder.glob("*.py"), Path(neuromirror.model.archive_metadata.__file__)]:
        if not path.stem.endswith("_queries"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def dataset_ref(number: int) -> DatasetRef:
    """Return the dataset with this number, from 1; seven in ten are DANDI's."""
    if number % 10 < MIRRORS["dandi"][2]:
        return DatasetRef(
            "dandi", f"{number:06d}", f"https://api.example.org/api/dandisets/{number:06d}/"
        )
    local_id = f"ecephys_{600000 + number}_2024-03-{number % 28 + 1:02d}_10-00-00"
    return DatasetRef("aind", local_id, f"s3://open-data.example.org/{local_id}/")


def _fill(folder: Path, sizes: Sizes) -> None:
    begin = time.monotonic()
    store = Store.open(folder / "store", create=True)
    for name, (source, uri, _) in MIRRORS.items():
        store.journal.append(MirrorSeen(name, source, uri, START.isoformat()))
    with get_context("spawn").Pool(os.cpu_count(), _begin) as pool:
        jobs = [(store.root, sizes, number) for number in range(1, sizes.datasets + 1)]
        for done, _ in enumerate(pool.imap_unordered(_publish_one, jobs), 1):
            if done % 100 == 0:
                click.echo(f"{done} datasets after {time.monotonic() - begin:.0f} s", err=True)
    for name in MIRRORS:
        store.mark_listed(name, sizes.datasets)


def _begin() -> None:
    # the store of a benchmark need not survive a power failure
    os.fsync = lambda _: None  # type: ignore[assignment]


def _publish_one(job: tuple[Path, Sizes, int]) -> None:
    root, sizes, number = job
    with TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        recorder = _JournalRecorder(Store.open(root), scratch / "index.sqlite")
        try:
            spools = scratch / "spools"
            spools.mkdir()
            _Upstream(recorder.store, recorder, sizes, number, spools).publish_all()
        finally:
            recorder.close()


class _JournalRecorder:
    """Appends to the journal; has the versions of one dataset, without their files.

    Datasets can then be created in parallel, because the index is built at the end.
    """

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.journal = self.records = self.repositories = self
        self._entries: list[JournalEntry] = []
        self._path = path
        self._index = Index.open(path)

    def record(self, *entries: JournalEntry) -> None:
        """See :class:`~neuromirror.crawl.Recorder`."""
        self.store.journal.append(*entries)
        self._entries += entries
        self._index.catch_up(self)

    def publish(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """See :class:`~neuromirror.crawl.Recorder`."""
        self.store.repositories.of(dataset).publish(move.expected, move.new)
        self.store.repositories.alias(dataset, move.alias)
        self.record(*entries)

    def ask(self, question: Callable[[Index], _T]) -> _T:
        """See :class:`~neuromirror.crawl.Recorder`."""
        return question(self._index)

    def reader(self) -> Index:
        """See :class:`~neuromirror.crawl.Recorder`."""
        return Index.open_readonly(self._path)

    def confirm(self) -> None:
        """Do nothing: each dataset has its own process."""

    def close(self) -> None:
        """Close the index, which is not needed afterwards."""
        self._index.close()

    def read(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the entries; positions count them."""
        for number, entry in enumerate(self._entries[position:], position + 1):
            if isinstance(entry, VersionMinted):
                yield number, replace(entry, indexed=False, in_subdatasets=0)
            else:
                yield number, entry

    def lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        """Return None: files are not indexed here."""
        return iter(())

    def describing_documents(self, dataset_id: str, commit: str) -> dict[str, bytes]:
        """None: they are read when the index is made."""
        return {}

    def record_changes(self, dataset_id: str, commit: str) -> None:
        """Return None."""


def _hex_digest(*seed: object) -> str:
    return hashlib.sha256(repr(seed).encode()).hexdigest()


def _pseudo_random(most: int, *seed: object) -> int:
    """Return a number below ``most`` that depends only on the arguments."""
    return int(_hex_digest(*seed)[:12], 16) % most


class _Upstream:
    """One dataset as it changes upstream, published state by state."""

    def __init__(
        self, store: Store, recorder: Recorder, sizes: Sizes, number: int, scratch: Path
    ) -> None:
        self._recorder, self._scratch = recorder, scratch
        self._number = number
        self._dataset = dataset_ref(number)
        settings = MirrorFile(source="", zarr={"index_entries": 10**6})
        self._visit = Visit(None, store, recorder, settings, self._dataset)
        self._versions = sizes.history if number == 2 else sizes.versions
        self._folder = sizes.folder
        self._large = number == 1
        self._count = _files_of(sizes, number)
        self._study = study(self._dataset.mirror, number)
        self._title = self._study.title
        self._lines: dict[bytes, bytes] = {}
        self._paths: list[bytes] = []

    def publish_all(self) -> None:
        """Publish every version, and write the other journal entries of a visit."""
        for file in range(self._count):
            self._put(file, 0)
        self._paths = sorted(self._lines)
        if self._number % 100 == 10:
            for part in range(_PARTS):
                self._add_part(part)
        for version in range(self._versions):
            if version:
                self._change(version)
            self._publish(version)
        self._record_visit()

    def _put(self, file: int, revision: int) -> bytes:
        path = self._path(file)
        new = path not in self._lines
        self._lines[path] = dump_snapshot_entry(self._placed(file, revision))
        if new and self._paths:
            bisect.insort(self._paths, path)
        return path

    def _path(self, file: int) -> bytes:
        if self._large:
            folder, position = divmod(file, self._folder)
            return b"recordings/day-%03d/trace-%06d.nwb" % (folder, position)
        subject, rest = divmod(file, 40)
        session, run = divmod(rest, 8)
        subject_name = b"sub-%s%03d" % (TERMS[self._number % len(TERMS)].encode(), subject)
        return b"%s/ses-%02d/%s_ses-%02d_run-%02d_ecephys.nwb" % (
            subject_name,
            session,
            subject_name,
            session,
            run,
        )

    def _placed(self, file: int, revision: int) -> SnapshotEntry:
        # some bytes are in several datasets
        whose = 0 if file % 50 == 3 and not self._large else self._number
        sha256 = _hex_digest(whose, file, revision)
        blob = f"{sha256[:8]}-{sha256[8:12]}-{sha256[12:16]}-{sha256[16:20]}-{sha256[20:32]}"
        exact = self._dataset.mirror == "dandi"
        digests = (
            (Digest("sha256", sha256, "bench"),)
            if exact
            else (Digest("md5", sha256[:32], "bench"),)
        )
        record = FileRecord(
            path=self._path(file),
            size=1000 + int(sha256[:6], 16),
            digests=digests,
            locations=(
                Location(
                    f"https://bucket.example.org/blobs/{blob[:3]}/{blob}?versionId={sha256[32:]}",
                    "s3",
                    sha256[32:],
                ),
                *(
                    (Location(f"https://api.example.org/api/assets/{blob}/download/", "api"),)
                    if exact
                    else ()
                ),
            ),
            modified=START + timedelta(days=revision),
            retention=Retention.PUBLISHED if exact else Retention.VERSIONED_BUCKET,
        )
        return SnapshotEntry(record.path, key_for(record, record.path), record)

    def _change(self, version: int) -> None:
        """Change one file in two hundred, add as many, and remove a few."""
        few = max(1, min(self._count // 200, 500))
        for turn in range(few):
            changed = _pseudo_random(self._count, self._number, version, turn)
            if self._path(changed) in self._lines:
                self._put(changed, version)
            self._put(self._count + version * few + turn, version)
        for turn in range(few // 4 + 1):
            gone = self._path(_pseudo_random(self._count, self._number, version, "gone", turn))
            if len(self._lines) > 1 and self._lines.pop(gone, None) is not None:
                del self._paths[bisect.bisect_left(self._paths, gone)]

    def _publish(self, version: int) -> None:
        published = version % 2 == 0 and version < self._versions - 1
        when = START + timedelta(days=version, minutes=self._number)
        label = f"0.{when:%y%m%d.%H%M}"
        version_ref = VersionRef(
            self._dataset,
            label if published else "draft",
            VersionKind.PUBLISHED if published else VersionKind.OBSERVED,
            when,
        )
        header = SnapshotHeader(
            version=version_ref,
            facts=self._facts(label if published else None),
            documents=self._documents(when, label if published else "draft"),
            newest=when,
        )
        spool = RecordSpool(self._scratch / f"records-{self._number}-{version}")
        with spool.path.open("wb", buffering=1 << 20) as file:
            file.writelines(self._lines[path] + b"\n" for path in self._paths)
        proven = SpooledSnapshot(header, spool, len(self._lines), 0)
        branch = PUBLISHED_BRANCH if published else MAIN_BRANCH
        publish(self._visit, proven, branch, self._scratch, label if published else None)
        for left in self._scratch.iterdir():
            left.unlink()

    def _add_part(self, part: int) -> None:
        """Add a Zarr, which is a separate dataset, linked at a path."""
        local_id = f"zarr/{_hex_digest(self._number, part)[:8]}-0000-4000-8000-{part:012d}"
        dataset = DatasetRef("dandi", local_id, f"https://api.example.org/api/{local_id}/")
        visit = replace(self._visit, dataset=dataset, within=self._dataset.local_id)
        lines = {}
        for entry in range(_ENTRIES):
            level, chunk = divmod(entry, 100)
            path = b"%d/0/%d" % (level, chunk)
            md5 = _hex_digest(self._number, part, entry)[:32]
            record = FileRecord(
                path=path,
                size=65536,
                digests=(Digest("md5", md5, "bench"),),
                locations=(Location(f"https://bucket.example.org/{local_id}/{md5}", "s3"),),
                modified=START,
            )
            lines[path] = dump_snapshot_entry(SnapshotEntry(path, key_for(record, path), record))
        spool = RecordSpool(self._scratch / "part")
        spool.path.write_bytes(b"".join(lines[path] + b"\n" for path in sorted(lines)))
        version = VersionRef(dataset, _hex_digest(local_id)[:32], VersionKind.OBSERVED, START)
        header = SnapshotHeader(version=version, facts=DatasetFacts(), newest=START)
        proven = SpooledSnapshot(header, spool, len(lines), 0)
        made, _ = publish(visit, proven, MAIN_BRANCH, self._scratch)
        spool.path.unlink()
        path = b"volumes/stack-%d.ome.zarr" % part
        link = Subdataset(
            dataset.dataset_id, local_id, made.commit, made.state, made.files, made.bytes
        )
        record = FileRecord(path=path, size=None, modified=START)
        self._lines[path] = dump_snapshot_entry(SnapshotEntry(path, "", record, link))
        bisect.insort(self._paths, path)

    def _facts(self, label: str | None) -> DatasetFacts:
        number, dandi = self._number, self._dataset.mirror == "dandi"
        attributes = {
            ("project", f"Project {number % 40}"),
            *(("subject", f"{600000 + number * 10 + one}") for one in range(1 + number % 8)),
        }
        return DatasetFacts(
            title=self._title,
            license=(_LICENSES[number % 2],),
            doi=f"10.48324/dandi.{number:06d}/{label}" if label and dandi else None,
            landing_page=f"https://archive.example.org/{self._dataset.local_id}",
            attributes=tuple(sorted(attributes)),
        )

    def _documents(self, when: datetime, label: str) -> tuple[Document, ...]:
        written = documents(self._dataset.mirror, self._study, label, when.isoformat())
        return tuple(Document(path.encode(), content, when) for path, content in written.items())

    def _record_visit(self) -> None:
        """Record the visit, and what the catalogue shows besides versions."""
        where, number = self._dataset, self._number
        when = (START + timedelta(days=self._versions, minutes=number)).isoformat()
        names = (where.mirror, where.local_id)
        self._recorder.record(
            VisitEnded(
                *(*names, where.source_uri, f"{when}-{number}", self._title),
                *(when, when, "full", f"{number}", 0, ""),
            )
        )
        if number % 5 == 0:
            message = f"3 files of {where.name} are no longer where they were"
            self._recorder.record(EventRaised(*names, "incident", message, when))
        if number % 7 == 0:
            links = [["neuroglancer", f"https://viewer.example.org/#!{number}"]]
            self._recorder.record(LinksFound(*names, where.source_uri, links, when))
        if number % 250 == 0:
            held = HoldPlaced(
                _hex_digest(number)[:8],
                *(*names, "draft", f"sha256:{_hex_digest(number)}", "12 of 13 files are gone"),
                *(12, 13, when),
            )
            self._recorder.record(held)


def _files_of(sizes: Sizes, number: int) -> int:
    """Return the initial number of files; few datasets have many, as in archives."""
    if number == 1:
        return sizes.files // 4
    if number == 2:
        return 40
    share: float = 8.0 ** -((number - 3) / max(1, sizes.datasets - 3))
    # the mean of 8**-x from 0 to 1 is (1 - 1/8) / ln 8
    return max(4, round(0.75 * sizes.files / sizes.datasets * share / 0.4208))
