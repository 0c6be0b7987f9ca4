"""A journal and records on disk as in a store, with real lines and byte positions."""

import hashlib
import os
import signal
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from neuromirror.index import Index
from neuromirror.model import (
    Change,
    Digest,
    FileRecord,
    JournalEntry,
    Location,
    Retention,
    SnapshotEntry,
    Subdataset,
    VersionMinted,
    VisitEnded,
    diff_lines,
    dump_entry,
    dump_snapshot_entry,
    load_changes,
    load_entry,
)
from support.index_dump import dump_index

URI = "https://api.example.invalid/dandisets/{}/"
BUCKET = "https://bucket.example.invalid/blobs"


def placed_file(path: str, content: object, /, **changes: Any) -> SnapshotEntry:
    """Return a file with a sha256, an etag, an exact location and a URL, made from ``content``."""
    data = repr(content).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    md5 = hashlib.md5(data).hexdigest()
    record = FileRecord(
        path=path.encode(),
        size=len(data),
        digests=(Digest("sha256", sha256, "dandi"), Digest("etag", f"{md5}-2", "dandi")),
        locations=(
            Location(f"{BUCKET}/{md5}?versionId=v1{md5[:6]}", "s3", f"v1{md5[:6]}"),
            Location(f"https://api.example.invalid/assets/{md5}/download/", "api"),
        ),
        part_size=64,
    )
    key = f"SHA256E-s{len(data)}--{sha256}.nwb"
    return SnapshotEntry(
        path.encode(), changes.pop("key", key), msgspec.structs.replace(record, **changes)
    )


def subdataset(
    path: str, local_id: str, commit: str = "c" * 40, /, **changes: Any
) -> SnapshotEntry:
    """Return a subdataset at a path."""
    values = {"state": f"sha256:{commit}", "files": 7, "bytes": 70, **changes}
    return SnapshotEntry(
        path.encode(),
        "",
        FileRecord(values.pop("path", path.encode()), None),
        Subdataset(f"id of {local_id}", local_id, commit, **values),
    )


class DiskJournal:
    """Appends entries and records below a folder; the index reads them as those of a store."""

    def __init__(self, root: Path, die_in: str = "", die_after: int = 0) -> None:
        self.root = root
        self.journal = self.records = self.repositories = self
        self.file = root / "journal"
        self.file.touch()
        self.die_in = die_in
        self.die_after = die_after
        self.bases: dict[str, str] = {}
        """The base of each version that is kept as its changes."""
        self.documents: dict[str, dict[str, bytes]] = {}
        """The archive's documents by commit and path."""
        self.minted = sum(b'"type":"version"' in line for line in self.file.open("rb"))

    def append(self, entry: JournalEntry) -> None:
        with self.file.open("ab") as out:
            out.write(dump_entry(entry))

    def mint(
        self, files: Iterable[SnapshotEntry], local_id: str = "000001", **changes: Any
    ) -> VersionMinted:
        """Return a version with these files and default values for the other fields."""
        self.minted += 1
        records = sorted(files, key=lambda file: file.git_path)
        commit = hashlib.sha1(b"%d" % self.minted).hexdigest()
        state = hashlib.sha256(
            b"\n".join(dump_snapshot_entry(file) for file in records)
        ).hexdigest()
        at = f"2024-01-01T00:00:{self.minted:02d}+00:00"
        values: dict[str, Any] = {
            "mirror": "dandi",
            "local_id": local_id,
            "source_uri": URI.format(local_id),
            "label": f"2024-{self.minted}",
            "upstream": "draft",
            "kind": "observed",
            "state": f"sha256:{state}",
            "commit": commit,
            "tree": commit[::-1],
            "annex_commit": commit,
            "time": at,
            "files": sum(file.subdataset is None for file in records),
            "bytes": sum(file.record.size or 0 for file in records),
            "exceptions": [],
            "evidence": {"sha256": len(records)},
            "title": f"Dataset {local_id}",
            "license": ["spdx:CC-BY-4.0"],
            "doi": None,
            "metadata_only": False,
            "at": at,
        }
        entry = VersionMinted(**{**values, **changes})
        (self.root / entry.commit).write_bytes(
            b"".join(dump_snapshot_entry(f) + b"\n" for f in records)
        )
        self.append(entry)
        return entry

    def visit(self, local_id: str = "000001", status: str = "full", **changes: Any) -> None:
        values: dict[str, Any] = {
            "visit": "v",
            "mirror": "dandi",
            "local_id": local_id,
            "source_uri": URI.format(local_id),
            "title": "",
            "started": "2024-02-01T00:00:00+00:00",
            "ended": "2024-02-01T00:01:00+00:00",
            "status": status,
            "fingerprint": "f1",
            "pending": 0,
            "message": "",
        }
        self.append(VisitEnded(**{**values, **changes}))

    def read(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        with self.file.open("rb") as lines:
            lines.seek(position)
            for line in lines:
                position += len(line)
                yield position, load_entry(line)

    def describing_documents(self, dataset_id: str, commit: str) -> dict[str, bytes]:
        return self.documents.get(commit, {})

    def changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[Change]] | None:
        base = self.bases.get(commit)
        if base is None:
            return None
        before, after = ((self.root / name).read_bytes().splitlines() for name in (base, commit))
        return base, load_changes(diff_lines(before, after))

    def lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        with (self.root / commit).open("rb") as lines:
            for number, line in enumerate(lines):
                if commit == self.die_in and number == self.die_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield line[:-1]


def read_path_terms(index: Path) -> list[str]:
    """Return the search terms of paths with the number of their block, which no table contains."""
    connection = sqlite3.connect(index)
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.v USING fts5vocab(main, path_text, instance)")
        return [f"{term} {doc}" for term, doc in connection.execute("SELECT term, doc FROM v")]
    finally:
        connection.close()


def published_fields(label: str, **more: Any) -> dict[str, Any]:
    return {"label": label, "upstream": label, "kind": "published", **more}


STRONGEST_RETENTION = Retention.PUBLISHED


def dump_content(index: Index) -> list[str]:
    """Return all rows except the position in the journal and the failures."""
    return [line for line in dump_index(index) if not line.startswith(("progress ", "failures "))]


def skipped_version_message(index: Index) -> str:
    """Return the message about the version that is missing in the index."""
    (failure,) = [one for one in index.crawl.failed_tasks() if one.task == "index"]
    return failure.message
