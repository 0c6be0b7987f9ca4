"""Backups of the index: made during writes, verified, restored and brought up to date."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from neuromirror.crawl import open_recorder
from neuromirror.index import IndexUnusableError, Schedule, TaskRow
from neuromirror.index.backup import integrity_errors, read_position
from neuromirror.model import EventRaised, MirrorSeen
from neuromirror.service.backup import (
    BackupError,
    BackupNotFoundError,
    ForeignBackupError,
    back_up,
    generations,
    restore_from_backup,
)
from support.forked_commands import fork_command
from support.index_dump import dump_index
from support.mirror_harness import MirrorHarness
from support.synced_mirror import copy_mirror

EVENT = EventRaised("demo", "000001", "unavailable", "a test", "2026-01-01T00:00:00+00:00")


def test_an_old_backup_is_caught_up_by_the_journal_to_equal_tables(
    copied_harness: MirrorHarness, tmp_path: Path
) -> None:
    store = copied_harness.store
    made = back_up(store, store.index_path, tmp_path / "kept")
    assert made.position == store.journal.size()
    with open_recorder(store, store.index_path) as recorder:
        recorder.record(EVENT, EVENT)
    expected = dump_index(store.index_path)
    store.index_path.unlink()
    done = restore_from_backup(store, store.index_path, tmp_path / "kept")
    assert (done.generation, done.entries, done.skipped) == (made, 2, ())
    assert dump_index(store.index_path) == expected


def test_a_backup_made_while_the_index_is_open_and_written_is_whole(
    copied_harness: MirrorHarness, tmp_path: Path
) -> None:
    store = copied_harness.store
    with open_recorder(store, store.index_path) as recorder:
        # the entry is in the write-ahead log, and not yet in the database file
        recorder.record(EVENT)
        made = back_up(store, store.index_path, tmp_path / "kept")
        recorder.record(EVENT)
    assert [path.name for path in sorted(made.folder.iterdir())] == ["backup.json", "index.sqlite"]
    assert integrity_errors(made.folder / "index.sqlite", deep=True) == []
    assert read_position(made.folder / "index.sqlite") == made.position < store.journal.size()


def test_only_the_newest_copies_are_kept_and_the_schedule_is_among_them(
    copied_harness: MirrorHarness, tmp_path: Path
) -> None:
    store, kept = copied_harness.store, tmp_path / "kept"
    with Schedule.open(store.schedule_path) as schedule:
        schedule.put([TaskRow("demo:000001", "demo", "000001", due=5.0)])
        made = [back_up(store, store.index_path, kept, keep=2) for _ in range(4)]
    assert [one.folder for one in generations(kept)] == [made[3].folder, made[2].folder]
    assert sorted(path.name for path in kept.iterdir()) == [
        ".lock",
        made[2].folder.name,
        made[3].folder.name,
    ]
    assert kept.stat().st_mode & 0o077 == 0
    with Schedule.open(made[3].folder / "schedule.sqlite") as schedule:
        assert [row.due for row in schedule.tasks()] == [5.0]


def test_a_damaged_index_makes_no_backup_and_drops_none(
    copied_harness: MirrorHarness, tmp_path: Path
) -> None:
    store, kept = copied_harness.store, tmp_path / "kept"
    made = back_up(store, store.index_path, kept, keep=1)
    content = bytearray(store.index_path.read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[page * 3 : page * 3 + 8] = b"\xff" * 8  # the head of a page
    store.index_path.write_bytes(content)
    with pytest.raises((BackupError, IndexUnusableError)):
        back_up(store, store.index_path, kept, keep=1)
    assert [generation.folder for generation in generations(kept)] == [made.folder]


def test_a_damaged_copy_is_passed_over_for_an_older_one(
    copied_harness: MirrorHarness, tmp_path: Path
) -> None:
    store, kept = copied_harness.store, tmp_path / "kept"
    expected = dump_index(store.index_path)
    older = back_up(store, store.index_path, kept)
    newer = back_up(store, store.index_path, kept)
    content = bytearray((newer.folder / "index.sqlite").read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[page * 3 : page * 3 + 8] = b"\xff" * 8
    (newer.folder / "index.sqlite").write_bytes(content)
    done = restore_from_backup(store, store.index_path, kept)
    assert done.generation.folder == older.folder
    assert len(done.skipped) == 1
    assert newer.folder.name in done.skipped[0]
    assert dump_index(store.index_path) == expected
    assert not list(store.index_path.parent.glob("*.restore*"))


@pytest.mark.parametrize("name", ["index.sqlite", "index.sqlite-journal", "backup.json"])
def test_a_pipe_in_a_backup_does_not_block(
    copied_harness: MirrorHarness, tmp_path: Path, name: str
) -> None:
    store, kept = copied_harness.store, tmp_path / "kept"
    made = back_up(store, store.index_path, kept)
    before = dump_index(store.index_path)
    (made.folder / name).unlink(missing_ok=True)
    os.mkfifo(made.folder / name)
    with pytest.raises((BackupNotFoundError, ForeignBackupError)):
        restore_from_backup(store, store.index_path, kept)
    assert dump_index(store.index_path) == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM holds; END",
        "CREATE VIEW more AS SELECT * FROM files",
        "CREATE TABLE more (x)",
        "DROP INDEX files_content",
        "CREATE INDEX more ON files (path)",
        "PRAGMA user_version = 99",
        "PRAGMA user_version = 3",
    ],
)
def test_a_copy_with_another_schema_is_refused(
    copied_harness: MirrorHarness, tmp_path: Path, statement: str
) -> None:
    store, kept = copied_harness.store, tmp_path / "kept"
    made = back_up(store, store.index_path, kept)
    before = dump_index(store.index_path)
    with closing(sqlite3.connect(made.folder / "index.sqlite")) as connection:
        connection.execute(statement)
        if statement.endswith("= 3"):
            connection.execute("CREATE TRIGGER t AFTER UPDATE ON holds BEGIN SELECT 1; END")
        connection.commit()
    with pytest.raises(ForeignBackupError):
        restore_from_backup(store, store.index_path, kept)
    assert dump_index(store.index_path) == before
    assert not list(store.index_path.parent.glob("*.restore*"))


def test_a_copy_of_another_store_is_refused_and_the_index_stays(
    copied_harness: MirrorHarness, demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    store, kept = copied_harness.store, tmp_path / "kept"
    other = copy_mirror(demo_harness, tmp_path / "other").store
    with open_recorder(other, other.index_path) as recorder:
        recorder.record(EVENT)
    with open_recorder(store, store.index_path) as recorder:
        recorder.record(MirrorSeen("else", "dandi", "https://else.invalid/", "2026"), EVENT)
    back_up(other, other.index_path, kept)
    before = dump_index(store.index_path)
    with pytest.raises(ForeignBackupError, match="rebuild-index"):
        restore_from_backup(store, store.index_path, kept)
    assert dump_index(store.index_path) == before
    with pytest.raises(BackupNotFoundError, match="rebuild-index"):
        restore_from_backup(store, store.index_path, tmp_path / "nothing")


def test_a_copy_older_than_a_setting_that_holds_for_all_versions_is_refused(
    copied_harness: MirrorHarness, tmp_path: Path
) -> None:
    store = copied_harness.store
    back_up(store, store.index_path, tmp_path / "kept")
    with open_recorder(store, store.index_path) as recorder:
        recorder.record(MirrorSeen("demo", "dandi", "", "2026", index_entries=3))
    with pytest.raises(ForeignBackupError, match="index_entries"):
        restore_from_backup(store, store.index_path, tmp_path / "kept")


_KILLED = """
import os, signal
from pathlib import Path
from neuromirror.service import backup
from neuromirror.store import Store
real = getattr(backup.os, "rename")
left = int(arguments[2])
def rename(source, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    real(source, target)
backup.os.rename = rename
store = Store.open(Path(arguments[0]))
backup.back_up(store, store.index_path, Path(arguments[1]), keep=1)
"""


@pytest.mark.parametrize("renames", [0, 1])
def test_a_backup_killed_at_any_step_leaves_a_sound_copy_and_the_next_one_cleans_up(
    copied_harness: MirrorHarness, tmp_path: Path, renames: int
) -> None:
    store, kept = copied_harness.store, tmp_path / "kept"
    back_up(store, store.index_path, kept, keep=1)
    arguments = [str(store.root), str(kept), str(renames)]
    killed = fork_command([], 1, 2, first=f"arguments = {arguments}\n{_KILLED}")
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert len(generations(kept)) == 1 + renames
    assert integrity_errors(generations(kept)[0].folder / "index.sqlite") == []
    last = back_up(store, store.index_path, kept, keep=1)
    assert sorted(path.name for path in kept.iterdir()) == [".lock", last.folder.name]


def test_too_little_disk_space_is_reported_before_anything_is_written(
    copied_harness: MirrorHarness, mount_disk: object
) -> None:
    kept = mount_disk("64k") / "kept"  # type: ignore[operator]
    store = copied_harness.store
    with pytest.raises(BackupError, match=r"[0-9,]+ bytes"):
        back_up(store, store.index_path, kept)
    assert [path.name for path in kept.iterdir()] == [".lock"]
