"""The file itself: schema, locks, readers beside a writer, damage, and files that are no index."""

import contextlib
import fcntl
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neuromirror.index import (
    Index,
    IndexBusyError,
    IndexDamagedError,
    IndexMissingError,
    IndexUnusableError,
    Schedule,
    raise_if_damaged,
    rebuild_from_journal,
    schedule,
    schema,
)
from neuromirror.index import file_writer as recording_module
from neuromirror.index.backup import copy_database
from neuromirror.model import NeuromirrorError
from support.disk_journal import DiskJournal, placed_file
from support.index_dump import dump_index
from support.store_publisher import exit_code, fork_child


class _WatchingJournal(DiskJournal):
    """Looks at the index through another connection while a version is being written."""

    watched: Path
    versions_seen: list[tuple[str, int]]

    def lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        for number, line in enumerate(super().lines(dataset_id, commit)):
            if number == 40:
                with Index.open_readonly(self.watched) as reader:
                    version = reader.versions.resolve("dandi:000001")
                    self.versions_seen.append(
                        (version.label, sum(1 for _ in reader.files.of(version)))
                    )
            yield line


def test_readers_see_the_old_state_whole_while_a_version_is_written(
    journal: DiskJournal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_module, "_BATCH", 10)
    watching = _WatchingJournal(journal.root)
    watching.watched, watching.versions_seen = path, []
    with Index.open(path) as index:
        watching.mint([placed_file(f"{n:03d}", n) for n in range(30)])
        index.catch_up(watching)
        watching.mint([placed_file(f"{n:03d}", n + 1) for n in range(60)])
        index.catch_up(watching)
        assert index.versions.resolve("dandi:000001").files == 60
    assert watching.versions_seen == [("2024-1", 30)]


def test_second_writer_error_names_the_first_process(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed_file("a", 1)])
    with Index.open(path, lock_wait=0.3) as index:
        with Path(f"{path}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("4711\n")
            lock.flush()
            with pytest.raises(IndexBusyError, match=r"4711.*0\.3 seconds"):
                index.catch_up(journal)
            with pytest.raises(IndexBusyError):
                rebuild_from_journal(path, journal, lock_wait=0)
        assert index.catch_up(journal) == 1


def test_two_writers_at_once_apply_each_entry_once(
    journal: DiskJournal, path: Path, tmp_path: Path
) -> None:
    for number in range(12):
        journal.mint([placed_file("a", number)])

    def catch_up(result: Path) -> None:
        with Index.open(path) as index:
            result.write_text(str(index.catch_up(DiskJournal(journal.root))))

    results = [tmp_path / f"applied-{number}" for number in range(3)]
    children = [fork_child(partial(catch_up, result)) for result in results]
    assert [exit_code(child) for child in children] == [0, 0, 0]
    applied = [int(result.read_text()) for result in results]
    assert sum(applied) == 12
    with Index.open_readonly(path) as index:
        assert [row.seq for row in index.versions.of("dandi:000001")] == list(range(1, 13))


def test_a_missing_index_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(IndexMissingError, match=r"neuromirror sync.*neuromirror rebuild-index"):
        Index.open_readonly(path)
    assert not path.exists()
    with pytest.raises(IndexUnusableError, match="folder"):
        Index.open(path / "no" / "index")


@pytest.mark.parametrize("how", [Index.open, Index.open_readonly])
def test_file_that_is_not_an_index_is_named_in_the_error_and_unchanged(
    how: object, path: Path
) -> None:
    assert callable(how)
    path.write_bytes(b"not a database, but long enough to look like one\n" * 400)
    with pytest.raises(IndexUnusableError, match="rebuild-index"):
        how(path)
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE foreign_table (id)")
    before = path.read_bytes()
    with pytest.raises(IndexUnusableError, match="not an index of neuromirror"):
        how(path)
    assert path.read_bytes() == before


def test_a_rebuild_heals_a_corrupt_index(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed_file(f"{n:04d}", n) for n in range(500)])
    with Index.open(path) as index:
        index.catch_up(journal)
        whole = dump_index(index)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(content)
    Path(f"{path}-wal").write_bytes(b"left over from another life" * 999)
    with pytest.raises(IndexUnusableError, match="rebuild-index"), Index.open(path) as index:
        index.catch_up(journal)
    rebuild_from_journal(path, journal)
    with Index.open_readonly(path) as index:
        assert dump_index(index) == whole


def test_a_stale_log_is_not_read_into_a_rebuilt_index(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed_file("a", 1)])
    with Index.open(path) as index:
        index.catch_up(journal)
        # a copy as a killed writer leaves it: the log still holds everything
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", f"{path}.copy{ending}")
    copy = Path(f"{path}.copy")
    assert Path(f"{copy}-wal").stat().st_size > 0
    journal.mint([placed_file("a", 2), placed_file("b", 2)])
    rebuild_from_journal(copy, journal)
    with Index.open_readonly(copy) as index:
        assert [row.files for row in index.versions.of("dandi:000001")] == [1, 2]
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@contextlib.contextmanager
def _unprivileged() -> Iterator[None]:
    """Drop root's permissions for a while: root may write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("has_log_files", [False, True])
def test_an_index_in_a_read_only_folder_can_be_read(
    journal: DiskJournal, has_log_files: bool
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "index.sqlite"
        journal.mint([placed_file("a", 1)])
        with Index.open(path) as index:
            index.catch_up(journal)
        for ending in ("-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)
        if has_log_files:
            # one that only reads cannot clear the log's files away
            Index.open_readonly(path).close()
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        with _unprivileged():
            with Index.open_readonly(path) as reader:
                assert [
                    row.path for row in reader.files.of(reader.versions.resolve("dandi:000001"))
                ] == ["a"]
            with pytest.raises(IndexUnusableError), Index.open(path) as writer:
                writer.catch_up(journal)
            with pytest.raises(IndexUnusableError):
                Index.open(folder / "another")
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_one_opened_to_read_does_not_write(journal: DiskJournal, path: Path) -> None:
    Index.open(path).close()
    journal.mint([placed_file("a", 1)])
    with Index.open_readonly(path) as reader, pytest.raises(IndexUnusableError):
        reader.catch_up(journal)


def test_memory_does_not_grow_with_the_listing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_module, "_BATCH", 250)

    def peak(count: int) -> int:
        root = tmp_path / str(count)
        root.mkdir()
        journal = DiskJournal(root)
        for shift in (0, 1):
            journal.mint(placed_file(f"{n:06d}", n + shift * (n % 2)) for n in range(count))
        with Index.open(root / "index") as index:
            index.catch_up(journal)  # the caches of this process
        (root / "index").unlink()
        tracemalloc.start()
        with Index.open(root / "index2") as index:
            index.catch_up(journal)
            version = index.versions.resolve("dandi:000001")
            assert sum(1 for _ in index.files.of(version)) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(2000) < 1.5 * peak(500)


def test_progress_reports_the_bytes_applied(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1)])
    journal.visit()
    reported: list[int] = []
    rebuild_from_journal(index.path, journal, reported.append)
    assert reported == [position for position, _ in journal.read(0)]


OTHER_VERSIONS = (schema.SCHEMA - 1, schema.SCHEMA + 1)


def _set_version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_new_index_has_strict_tables_and_the_current_version(path: Path) -> None:
    Index.open(path).close()
    database = sqlite3.connect(path)
    strict = {
        name: bool(is_strict)
        for _, name, kind, _, _, is_strict in database.execute("PRAGMA main.table_list")
        if kind == "table" and not name.startswith("sqlite_")
    }
    assert strict.keys() >= {"datasets", "versions", "files", "subdatasets"}
    assert all(strict.values())
    assert database.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA,)
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_index_of_another_version_is_refused_and_unchanged(path: Path, version: int) -> None:
    Index.open(path).close()
    _set_version(path, version)
    before = path.read_bytes()
    for opened in (Index.open, Index.open_readonly):
        with pytest.raises(
            IndexUnusableError, match=rf"\b{version}\b.*`neuromirror rebuild-index`"
        ):
            opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_rebuild_replaces_an_index_of_another_version(
    journal: DiskJournal, path: Path, version: int
) -> None:
    journal.mint([placed_file("a", 1)])
    with Index.open(path) as index:
        index.catch_up(journal)
        expected = dump_index(index)
    _set_version(path, version)
    assert rebuild_from_journal(path, journal) == 1
    with Index.open(path) as index:
        assert dump_index(index) == expected


def test_failed_creation_leaves_an_empty_file_for_the_next_attempt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_FILES", f"{schema._FILES} CREATE TABLE files (x);")
        with pytest.raises(IndexDamagedError):
            Index.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
    with pytest.raises(IndexUnusableError):
        Index.open_readonly(path)
    with Index.open(path) as index:
        assert index.position == 0


def test_schedule_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schedule.sqlite"
    Schedule.open(path).close()
    for version in (schedule.SCHEMA - 1, schedule.SCHEMA + 1):
        _set_version(path, version)
        with pytest.raises(IndexUnusableError, match=rf"\b{version}\b"):
            Schedule.open(path)


NAME = "dandi:000001"

QUESTIONS: dict[str, Callable[[Index], Any]] = {
    "datasets": lambda index: list(index.datasets.select()),
    "dataset": lambda index: index.datasets.get(NAME),
    "versions": lambda index: list(index.versions.of(NAME)),
    "resolve": lambda index: index.versions.resolve(NAME),
    "files": lambda index: list(index.files.of(index.versions.resolve(NAME))),
    "level": lambda index: list(index.files.folder_entries(index.versions.resolve(NAME))),
    "search": lambda index: list(index.search.all_datasets("a1")),
    "find": lambda index: list(index.files.find("0" * 64)),
    "paths": lambda index: index.search.files(index.versions.resolve(NAME), "a1"),
    "events": lambda index: list(index.crawl.events()),
    "failures": lambda index: index.crawl.failures(),
    "mirrors": lambda index: list(index.crawl.mirrors()),
    "withdrawn": lambda index: list(index.datasets.tombstones()),
    "position": lambda index: index.position,
}


@pytest.fixture(scope="module")
def sound_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a dataset with some versions."""
    root = tmp_path_factory.mktemp("damage")
    journal = DiskJournal(root)
    for shift in range(4):
        journal.mint(placed_file(f"a{n}/b{n}.nwb", n + shift * (n % 2)) for n in range(60))
    journal.visit()
    with Index.open(root / "live.sqlite") as index:
        index.catch_up(journal)
    copy_database(root / "live.sqlite", root / "sound.sqlite")
    return root / "sound.sqlite"


def outcomes(path: Path) -> Iterator[BaseException]:
    """What questions to an index raise."""
    for question in QUESTIONS.values():
        try:
            with Index.open_readonly(path) as index:
                question(index)
        except Exception as error:  # noqa: BLE001
            yield error


@pytest.mark.parametrize("count", [1, 8, 64])
@pytest.mark.parametrize("block", range(4))
def test_changed_bytes_give_results_or_one_kind_of_error(
    sound_index: Path, tmp_path: Path, count: int, block: int
) -> None:
    content = sound_index.read_bytes()
    path = tmp_path / "index.sqlite"
    for seed in range(block * 8, block * 8 + 8):
        drawn = random.Random(seed * 1000 + count)
        changed = bytearray(content)
        for offset in drawn.choices(range(len(changed)), k=count):
            changed[offset] ^= drawn.randrange(1, 256)
        path.write_bytes(changed)
        for error in outcomes(path):
            assert isinstance(error, NeuromirrorError), (seed, count, repr(error))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"b1.nwb", b"b1.\xff\xfeb"),
        (b"observed", b"obs\xc3rved"),
        (b'{"', b"{{"),
        (b"dandi", b"dan\xffi"),
    ],
)
def test_text_that_is_not_text_is_damage(
    sound_index: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(sound_index.read_bytes().replace(old, new))
    found = list(outcomes(path))
    assert found
    for error in found:
        assert isinstance(error, NeuromirrorError), repr(error)
    assert any(isinstance(error, IndexDamagedError) for error in found)


def test_a_file_that_is_cut_off_is_damage(sound_index: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    shutil.copy(sound_index, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    found = list(outcomes(path))
    assert found
    assert all(isinstance(error, NeuromirrorError) for error in found)


def test_a_value_of_a_wrong_type_is_damage_where_it_is_used(
    sound_index: Path, tmp_path: Path
) -> None:
    path = tmp_path / "index.sqlite"
    shutil.copy(sound_index, path)
    raise_if_damaged(path, TypeError())  # a defect of the program stays one
    with path.open("r+b") as file:
        file.seek(2000)
        file.write(bytes(range(256)) * 20)
    with pytest.raises(IndexDamagedError):
        raise_if_damaged(path, TypeError())


_PROGRAM = """
import threading, time
import msgspec._utils
from neuromirror.index.shapes import Answer

analyse = msgspec._utils._get_class_mro_and_typevar_mappings

def analyse_slowly(kind):
    time.sleep(0.2)  # the other threads run
    return analyse(kind)

msgspec._utils._get_class_mro_and_typevar_mappings = analyse_slowly

class Inner(Answer, frozen=True):
    value: int

class Outer(Answer, frozen=True):
    inner: Inner

def make_shape(number):
    time.sleep(0.05 * number)
    made.append(Outer.of(inner={"value": number}).plain())

made = []
threads = [threading.Thread(target=make_shape, args=(number,)) for number in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
assert sorted(one["inner"]["value"] for one in made) == [*range(8)]
"""


def test_threads_make_the_first_shapes_of_a_kind_at_the_same_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
