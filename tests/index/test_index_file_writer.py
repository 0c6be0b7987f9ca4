"""Recording changes leaves the same rows as recording the whole version, at lower cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_index_replay import FILES, FileSpec, file_of_spec

from neuromirror.index import Index
from neuromirror.index import file_writer as recording_module
from neuromirror.model import Change, Digest, Location, Retention, SnapshotEntry
from support.disk_journal import DiskJournal, dump_content, placed_file, skipped_version_message
from support.index_dump import dump_index

_ETAG = "3" * 32 + "-2"
_VERSIONS = st.lists(
    st.tuples(
        st.sampled_from(["000001", "000002"]),
        FILES,
        st.sets(st.sampled_from(["a", "a/b", "b", "é"])),  # kept as they were
        st.sampled_from(["last", "older", "whole"]),
    ),
    max_size=8,
)


class _ChangesOnlyJournal(DiskJournal):
    """Refuses to read a version whole that is kept as its changes."""

    def record_lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        assert commit not in self.bases, "read whole, though its changes were enough"
        return super().record_lines(dataset_id, commit)


def _dump(folder: Path, name: str, journal: DiskJournal) -> list[str]:
    with Index.open(folder / name) as index:
        index.catch_up(journal)
        assert index._db.execute("PRAGMA foreign_key_check").fetchall() == []
        return dump_index(index)


def _etag(part_size: int | None, digest: Digest) -> FileSpec:
    return (0, (digest,), part_size, Retention.DRAFT, False, 0)


@given(_VERSIONS, st.integers(1, 4))
@example(
    # the etag's part size is learnt, then another etag that was checked displaces both
    [
        (
            "000001",
            {
                "a": _etag(None, Digest("etag", _ETAG, "s3")),
                "a-b": _etag(64, Digest("etag", _ETAG, "s3")),
                "b": _etag(64, Digest("etag", f"{'4' * 32}-9", "dandi", True)),
            },
            set(),
            "whole",
        ),
        ("000001", {"z": _etag(None, Digest("etag", _ETAG, "s3"))}, {"a", "b"}, "last"),
    ],
    4,
)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_changes_leave_the_rows_that_whole_versions_leave(
    versions: list[tuple[str, dict[str, FileSpec], set[str], str]], batch: int
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_module, "_BATCH", batch)
        folder = Path(name)
        journal = DiskJournal(folder)
        commits: dict[str, list[str]] = {}
        before: dict[str, dict[str, SnapshotEntry]] = {}
        bases: dict[str, str] = {}
        for local_id, specs, kept, how in versions:
            files = {path: file_of_spec(path, spec) for path, spec in specs.items()}
            known = before.get(local_id, {})
            files.update((path, known[path]) for path in sorted(kept & known.keys()))
            entry = journal.mint(files.values(), local_id)
            earlier = commits.setdefault(local_id, [])
            if earlier and how != "whole":
                bases[entry.commit] = earlier[-1 if how == "last" else 0]
            earlier.append(entry.commit)
            before[local_id] = files
        whole = _dump(folder, "whole", journal)
        changing = DiskJournal(folder)
        changing.bases = bases
        assert _dump(folder, "changes", changing) == whole


def test_changes_since_the_last_version_are_all_that_is_read(
    journal: DiskJournal, path: Path
) -> None:
    changing = _ChangesOnlyJournal(journal.root)
    files = [placed_file(f"{n:04d}", n) for n in range(3000)]
    first = changing.mint(files)
    with Index.open(path) as index:
        index.catch_up(changing)
        files[7] = placed_file("0007", "other")
        last = changing.mint([*files[:100], *files[101:], placed_file("new", 1)])
        changing.bases[last.commit] = first.commit
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        index._db.set_progress_handler(count, 100)
        index.catch_up(changing)
        index._db.set_progress_handler(None, 0)
        assert steps < 100  # 10,000 steps of SQLite's machine; a pass over the rows takes more
        version = index.resolve("dandi:000001")
        assert [row.path for row in index.files(version) if row.since == 2] == ["0007", "new"]
        assert sum(1 for _ in index.files(version)) == 3000


def test_changes_since_another_version_are_left_for_the_records(
    journal: DiskJournal, index: Index
) -> None:
    first = journal.mint([placed_file("a", 1), placed_file("b", 1)])
    journal.mint([placed_file("c", 1)])
    third = journal.mint([placed_file("a", 1), placed_file("b", 2)])
    journal.bases[third.commit] = first.commit
    index.catch_up(journal)
    rows = index.files(index.resolve("dandi:000001"))
    assert [(row.path, row.since) for row in rows] == [("a", 3), ("b", 3)]


def test_change_of_locations_only_opens_no_row(journal: DiskJournal, index: Index) -> None:
    old = placed_file("a", 1)
    moved = placed_file("a", 1, locations=(Location("https://other.invalid/a", "api"),))
    first = journal.mint([old])
    second = journal.mint([moved])
    journal.bases[second.commit] = first.commit
    index.catch_up(journal)
    [row] = index.files(index.resolve("dandi:000001"))
    assert row.since == 1
    assert "https://other.invalid/a" in {location.url for location in index.locations(row.content)}


class FixedChangesJournal(DiskJournal):
    """Yield the given changes, whatever the versions contain."""

    fixed_changes: tuple[str, list[Change]]

    def record_changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[Change]] | None:
        if commit == self.fixed_changes[0]:
            return None
        return self.fixed_changes[0], iter(self.fixed_changes[1])


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ([(placed_file("x", 1), None)], 1, "'x' was absent"),
        ([(None, placed_file("a", 2))], 2, "'a' was present"),
        ([(placed_file("a", 1), None)], 2, "have 1 files, the journal 2"),
        ([(placed_file("b", 1), None), (placed_file("a", 1), None)], 0, "not sorted"),
        ([(placed_file("a", 1), placed_file("b", 1))], 2, "not sorted pairs"),
        ([(None, None)], 2, "not sorted pairs"),
    ],
)
def test_changes_that_do_not_fit_change_nothing(
    journal: DiskJournal, index: Index, changes: Any, files: int, message: str
) -> None:
    given = FixedChangesJournal(journal.root)
    first = given.mint([placed_file("a", 1), placed_file("b", 1)])
    given.fixed_changes = (first.commit, changes)
    index.catch_up(given)
    before = dump_content(index)
    given.mint([placed_file(f"{n}", n) for n in range(files)])
    assert index.catch_up(given) == 1
    assert message in skipped_version_message(index)
    assert dump_content(index) == before
