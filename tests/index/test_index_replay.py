"""The index is a cache: any way of applying the journal gives the same tables (I8)."""

import os
import signal
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromirror.index import Index, JournalDamagedError, rebuild_from_journal
from neuromirror.index import file_writer as recording_module
from neuromirror.index.rows import RETENTION
from neuromirror.model import (
    Digest,
    EventRaised,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    Location,
    MirrorSeen,
    Retention,
    SnapshotEntry,
)
from support.disk_journal import (
    DiskJournal,
    dump_content,
    placed_file,
    published_fields,
    read_path_terms,
    skipped_version_message,
)
from support.index_dump import dump_index
from support.store_publisher import exit_code, fork_child

_PATHS = ["a", "a-b", "a/b", "a/c", "b", "B/x y", "é", "e\u0301", "\ue000", "\U0001f9e0/z"]

_DIGESTS = [
    (),
    (Digest("md5", "0" * 32, "s3"),),
    (Digest("md5", "1" * 32, "here", True),),
    (Digest("sha256", "2" * 64, "dandi"), Digest("md5", "0" * 32, "dandi", True)),
    (Digest("etag", f"{'3' * 32}-2", "s3"),),
    (Digest("etag", f"{'4' * 32}-9", "dandi", True), Digest("crc64nvme", "AAAA", "s3")),
    (Digest("sha256", "not hex", "s3"),),
]

FileSpec = tuple[int, tuple[Digest, ...], int | None, Retention, bool, int]

FILES = st.dictionaries(
    st.sampled_from(_PATHS),
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(_DIGESTS),
        st.sampled_from([None, 64, 128]),
        st.sampled_from([one for one in Retention if one is not Retention.ARCHIVED]),
        st.booleans(),
        st.integers(0, 2),
    ),
)


def file_of_spec(path: str, spec: FileSpec) -> SnapshotEntry:
    content, digests, part_size, retention, renamed, url_name = spec
    url = f"https://x.invalid/{content}"
    return placed_file(
        path,
        content,
        key=f"XTEST-s7--{content}",
        size=7,
        path=b"\xff" + path.encode() if renamed else path.encode(),
        digests=digests,
        part_size=part_size,
        retention=retention,
        locations=(
            Location(f"{url}?versionId={url_name}", "s3", str(url_name)),
            Location(url, "s3"),
        ),
    )


@given(
    st.lists(st.tuples(st.sampled_from(["000001", "000002"]), FILES, st.booleans()), max_size=8),
    st.integers(1, 5),
)
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_every_version_returns_its_records_and_a_rebuild_has_the_same_rows(
    versions: list[tuple[str, dict[str, FileSpec], bool]], batch: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_module, "_BATCH", batch)
        journal = DiskJournal(Path(folder))
        minted = []
        with Index.open(Path(folder, "live")) as index:
            for local_id, specs, wait in versions:
                files = [file_of_spec(name, spec) for name, spec in specs.items()]
                minted.append((journal.mint(files, local_id), files))
                if not wait:
                    index.catch_up(journal)
            index.catch_up(journal)
            for entry, files in minted:
                version = index.versions.resolve(f"dandi:{entry.local_id}", entry.commit)
                got = list(index.files.of(version))
                expected = sorted(files, key=lambda file: file.git_path)
                assert [(row.path.encode(), row.source_path, row.key, row.size) for row in got] == [
                    (file.git_path, file.record.path, file.key, 7) for file in expected
                ]
                for row, file in zip(got, expected, strict=True):
                    promised = RETENTION.index(file.record.retention)
                    assert RETENTION.index(row.retention) >= promised
                    proofs = {d.algorithm for d in file.record.digests if d.value != "not hex"}
                    assert proofs - {"crc64nvme"} <= {digest.algorithm for digest in row.digests}
                    urls = {location.url for location in index.locations.of(row.content)}
                    assert {location.url for location in file.record.locations} <= urls
            live = _dump(Path(folder, "live"))
        patch.setattr(recording_module, "_BATCH", 1000)  # must not matter
        rebuild_from_journal(Path(folder, "again"), journal)
        assert _dump(Path(folder, "again")) == live


def _busy_journal(journal: DiskJournal) -> None:
    """Every kind of entry, twice over where it may come twice."""
    journal.append(MirrorSeen("dandi", "dandi", "https://api.example.invalid/", "2024"))
    journal.append(EventRaised("dandi", "000009", "unavailable", "embargoed", "2024"))
    journal.visit(title="A title of the visit")
    first = [placed_file(f"sub-{n:03d}/x.nwb", n) for n in range(300)]
    entry = journal.mint(first, **published_fields("0.1", doi="10.48324/dandi.000001/0.1"))
    journal.append(entry)
    journal.visit()
    journal.append(HoldPlaced("h1", "dandi", "000001", "draft", "sha256:a", "lost", 9, 300, "2024"))
    journal.append(HoldPlaced("h1", "dandi", "000001", "draft", "sha256:a", "lost", 9, 300, "2025"))
    journal.append(HoldLapsed("h1", "2025"))
    journal.append(HoldPlaced("h1", "dandi", "000001", "draft", "sha256:a", "lost", 9, 300, "2026"))
    journal.append(HoldReleased("h1", "ada", "2026"))
    journal.append(HoldReleased("unknown-listing", "ada", "2026"))
    second = first[:100] + [placed_file(f"sub-{n:03d}/x.nwb", n + 7) for n in range(100, 280)]
    journal.mint(second, title="Another title")
    journal.append(EventRaised("dandi", "", "incident", "of the mirror", "2026", {"b": 1, "a": 2}))
    journal.mint(first, "000002")


def _dump(path: Path) -> list[str]:
    with Index.open_readonly(path) as index:
        return [*dump_index(index), *read_path_terms(path)]


def test_a_rebuild_gives_the_same_rows_as_the_live_run(journal: DiskJournal, path: Path) -> None:
    with Index.open(path) as index:
        _busy_journal(journal)
        applied = index.catch_up(journal)
        journal.visit("000002", "failed")
        assert index.catch_up(journal) == 1
        assert index.catch_up(journal) == 0
        assert index.position == journal.file.stat().st_size
    live = _dump(path)
    plain = _iterdump(path)
    assert rebuild_from_journal(path, journal) == applied + 1
    assert _dump(path) == live
    assert _iterdump(path) == plain
    assert len(live) > 600


def _iterdump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_an_entry_appended_twice_changes_nothing(journal: DiskJournal, index: Index) -> None:
    entry = journal.mint([placed_file("a", 1)])
    index.catch_up(journal)
    before = [line for line in dump_index(index) if not line.startswith("progress")]
    journal.append(entry)
    assert index.catch_up(journal) == 1
    assert [line for line in dump_index(index) if not line.startswith("progress")] == before


def test_an_unchanged_file_costs_no_write(journal: DiskJournal, index: Index) -> None:
    files = [placed_file(f"{n:04d}", n) for n in range(50)]
    journal.mint(files)
    index.catch_up(journal)
    tables = ("files ", "contents ", "locations ", "other_digests ", "claimants ")
    before = [line for line in dump_index(index) if line.startswith(tables)]
    changes = index.reader.connection.total_changes
    journal.mint(files)
    index.catch_up(journal)
    assert [line for line in dump_index(index) if line.startswith(tables)] == before
    # the version, its dataset, its mirror, the position; all far fewer than the files
    assert index.reader.connection.total_changes - changes < 10


def _apply(journal: DiskJournal, path: Path, what: str, commit: str, after: int) -> int:
    """Catch up or rebuild in a child process that is killed while it reads a version."""

    def work() -> None:
        recording_module._BATCH = 50
        killing = DiskJournal(journal.root, commit, after)
        if what == "rebuild":
            rebuild_from_journal(path, killing)
        else:
            with Index.open(path) as index:
                index.catch_up(killing)

    return exit_code(fork_child(work))


def test_killed_anywhere_and_repeated_the_tables_are_the_same(
    journal: DiskJournal, path: Path, tmp_path: Path
) -> None:
    _busy_journal(journal)
    rebuild_from_journal(tmp_path / "clean", journal)
    clean = _dump(tmp_path / "clean")
    commits = [entry.commit for _, entry in journal.read(0) if hasattr(entry, "annex_commit")]
    for commit, after in ((commits[0], 120), (commits[-2], 0), (commits[-1], 299)):
        assert _apply(journal, path, "catch_up", commit, after) == -signal.SIGKILL
        with Index.open(path) as index:
            assert index.position < journal.file.stat().st_size
            for mirror in index.crawl.mirrors():
                assert mirror.versions <= commits.index(commit)
    assert _apply(journal, path, "catch_up", "", 0) == 0
    assert _dump(path) == clean


def test_a_killed_rebuild_leaves_the_old_index_and_the_next_one_works(
    journal: DiskJournal, path: Path
) -> None:
    _busy_journal(journal)
    with Index.open(path) as index:
        index.catch_up(journal)
    before = _dump(path)
    last = journal.mint([placed_file(f"{n}", n) for n in range(200)], "000003")
    assert _apply(journal, path, "rebuild", last.commit, 150) == -signal.SIGKILL
    assert _dump(path) == before
    rebuild_from_journal(path, journal)
    assert len(_dump(path)) > len(before)
    assert not list(path.parent.glob("*.rebuild*"))


def test_records_that_stop_short_never_delete_files(journal: DiskJournal, index: Index) -> None:
    files = [placed_file(f"{n}", n) for n in range(9)]
    journal.mint(files)
    index.catch_up(journal)
    before = dump_content(index)
    torn = journal.mint(files)
    lines = (journal.root / torn.commit).read_bytes().splitlines(keepends=True)
    for damaged, message in (
        (lines[:4], "have 4 files, the journal 9"),
        (lines[::-1], "not sorted"),
    ):
        (journal.root / torn.commit).write_bytes(b"".join(damaged))
        assert index.catch_up(journal) == 1
        assert dump_content(index) == before
        assert message in skipped_version_message(index)
        journal.append(torn)
    (journal.root / torn.commit).write_bytes(b"".join(lines))
    assert index.catch_up(journal) == 1
    assert index.crawl.failed_tasks() == []
    assert index.datasets.get("dandi:000001").versions == 2


def test_a_version_whose_records_are_damaged_stops_no_other(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1)], "000001")
    damaged = journal.mint([placed_file("a", 2)], "000001")
    (journal.root / damaged.commit).write_bytes(b"")
    journal.mint([placed_file("b", 1)], "000002")
    assert index.catch_up(journal) == 3
    assert index.datasets.get("dandi:000002").versions == 1
    (failure,) = index.crawl.failures()
    assert (failure.task, failure.dataset) == ("index", "dandi:000001")
    assert damaged.commit in failure.message
    # a version on top of it is complete, and the one that is missing is still named
    journal.mint([placed_file("a", 3)], "000001")
    assert index.catch_up(journal) == 1
    assert damaged.commit in skipped_version_message(index)
    assert [row.commit for row in index.versions.of("dandi:000001")].count(damaged.commit) == 0


def test_a_rebuild_that_fails_keeps_the_old_index(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed_file("a", 1)])
    with Index.open(path) as index:
        index.catch_up(journal)
    before = _dump(path)
    broken = journal.mint([placed_file("a", 2)])
    os.truncate(journal.root / broken.commit, 0)
    with pytest.raises(JournalDamagedError):
        rebuild_from_journal(path, journal)
    assert _dump(path) == before
    assert not list(path.parent.glob("*.rebuild*"))


def test_writer_continues_in_the_rebuilt_file(journal: DiskJournal, path: Path) -> None:
    with Index.open(path) as index, Index.open(path) as reader:
        journal.mint([placed_file("a", 1)])
        index.catch_up(journal)
        rebuild_from_journal(path, journal)
        assert reader.is_replaced
        assert reader.versions.resolve("dandi:000001").files == 1
        journal.mint([placed_file("a", 1), placed_file("b", 2)])
        assert index.catch_up(journal) == 1
        assert not index.is_replaced
    with Index.open_readonly(path) as fresh:
        assert fresh.versions.resolve("dandi:000001").files == 2


def test_index_deleted_under_its_writer_is_recreated(journal: DiskJournal, path: Path) -> None:
    with Index.open(path) as index:
        journal.mint([placed_file("a", 1)])
        index.catch_up(journal)
        for file in path.parent.glob("index.sqlite*"):
            file.unlink()
        journal.mint([placed_file("a", 2)])
        assert index.catch_up(journal) == 2
        assert index.versions.resolve("dandi:000001").seq == 2
