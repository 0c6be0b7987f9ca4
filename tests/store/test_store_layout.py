"""Creating and opening stores; scratch folders, locks, records, manifests, aliases."""

import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuromirror.model import DatasetRef, HoldLapsed, dump_snapshot_entry
from neuromirror.store import (
    ANNEX_BRANCH,
    MAIN_BRANCH,
    NotAStoreError,
    Repository,
    Store,
    StoreBusyError,
    StoreDamagedError,
    file_lock,
    write_atomically,
)
from support.disk_states import disk_states
from support.store_publisher import (
    Publisher,
    bare_repository,
    commits,
    dataset,
    git,
    placed_file,
    read_files,
    run_in_child,
)

ID = "3fbdcba2-ce56-59de-89cf-006b153b0416"
COMMIT = "ab" * 20


# --- creating and opening


def test_an_empty_or_missing_folder_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        store = Store.open(folder, create=True)
        assert (folder / "ria-layout-version").read_text() == "1\n"
        assert list(store.repositories.aliases()) == []
        before = read_files(folder)
        Store.open(folder, create=True)
        Store.open(folder)
        assert read_files(folder) == before


def test_folder_that_is_not_a_store_is_refused_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    other = tmp_path / "other"
    (other / "alias").mkdir(parents=True)
    (other / "ria-layout-version").write_text("1\n")
    mine = tmp_path / "mine"
    (mine / "neuromirror").mkdir(parents=True)
    (mine / "thesis.txt").write_text("x")
    empty = tmp_path / "empty"
    empty.mkdir()
    before = read_files(tmp_path)
    for folder, create in [
        (file, True),
        (other, True),
        (mine, True),
        (empty, False),
        (tmp_path / "missing", False),
    ]:
        with pytest.raises(NotAStoreError, match="--store") as refused:
            Store.open(folder, create=create)
        assert refused.value.exit_code == 2
    assert read_files(tmp_path) == before
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    "marker",
    ["", "{}", "[]", '{"format":1}', '{"format":2}', '{"format":99}', "null", '{"format":'],
)
def test_a_store_of_another_format_is_refused(store: Store, marker: str) -> None:
    (store.root / "neuromirror" / "store.json").write_text(marker)
    with pytest.raises(NotAStoreError) as refused:
        Store.open(store.root, create=True)
    assert refused.value.exit_code == 2


def test_store_creation_killed_at_any_step_is_completed_by_the_next(tmp_path: Path) -> None:
    root = tmp_path / "new"
    for _ in disk_states(root, lambda: Store.open(root, create=True), at_least=8):
        store = Store.open(root, create=True)
        assert list(store.repositories.aliases()) == []
        assert (store.root / "ria-layout-version").read_text() == "1\n"
        store.journal.append(HoldLapsed("a", "b"))
        Store.open(root)


# --- repositories and aliases


def test_repositories_are_in_ria_layout(store: Store) -> None:
    repository = store.repositories.of(dataset())
    assert repository.path == store.root / ID[:3] / ID[3:]
    assert not repository.exists()
    assert repository.refs() == {}
    assert repository.main_tip() is None
    repository.create()
    assert (repository.path / "ria-layout-version").read_text() == "2\n"
    assert git(repository.path, "rev-parse", "--is-bare-repository").strip() == "true"
    assert (repository.path / "HEAD").read_text() == "ref: refs/heads/main\n"
    before = read_files(repository.path)
    repository.create()
    assert read_files(repository.path) == before
    assert not list(repository.path.rglob("*.sample"))


def test_repository_has_sha1_and_files_format_whatever_the_defaults_of_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    monkeypatch.setenv("GIT_DEFAULT_REF_FORMAT", "reftable")
    repository = bare_repository(tmp_path / "r")
    assert git(repository.path, "rev-parse", "--show-object-format").strip() == "sha1"
    assert (repository.path / "refs" / "heads").is_dir()


def test_repository_creation_killed_at_any_step_is_completed_by_the_next(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    for _ in disk_states(tmp_path, repository.create, at_least=6):
        if repository.exists():
            git(repository.path, "fsck", "--strict")
        repository.create()
        (one,) = commits(repository.path, 1)
        repository.publish({MAIN_BRANCH: None}, {MAIN_BRANCH: one})
        assert [path.name for path in repository.path.parent.iterdir()] == ["r"]


def test_a_sync_started_from_a_git_hook_writes_to_the_store_only(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bare_repository(tmp_path / "other").path
    before = read_files(other)
    for name, value in [
        ("DIR", other),
        ("OBJECT_DIRECTORY", other / "objects"),
        ("INDEX_FILE", "i"),
    ]:
        monkeypatch.setenv(f"GIT_{name}", str(value))
    publisher = Publisher(store)
    publisher.publish("one", {"a": 1})
    minted = publisher.publish("two", {"a": 1, "b": 2})
    assert publisher.repository.main_tip() == (minted.commit, 1670927272)
    assert read_files(other) == before
    for name in ("GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name)
    git(publisher.repository.path, "fsck", "--strict", "--full")


def test_aliases_point_at_repositories_and_follow_a_change(store: Store) -> None:
    one, two = dataset(1), dataset(2)
    store.repositories.alias(two)
    store.repositories.alias(one)
    store.repositories.alias(one, "demo")
    store.repositories.alias(DatasetRef("bossdb", "c/e/ch", one.source_uri))
    found = dict(store.repositories.aliases())
    assert list(found) == ["bossdb--c--e--ch", "demo", "demo--000001", "demo--000002"]
    assert found["demo"].path == store.repositories.of(one).path
    assert os.readlink(store.root / "alias" / "demo") == f"../{ID[:3]}/{ID[3:]}"
    inode = (store.root / "alias" / "demo").lstat().st_ino
    store.repositories.alias(one, "demo")
    assert (store.root / "alias" / "demo").lstat().st_ino == inode
    store.repositories.alias(two, "demo")
    assert dict(store.repositories.aliases())["demo"].path == store.repositories.of(two).path


def test_alias_interrupted_by_a_kill_is_complete_or_absent(store: Store) -> None:
    one, two = dataset(1), dataset(2)
    store.repositories.alias(one, "demo")
    for _ in disk_states(store.root, lambda: store.repositories.alias(two, "demo")):
        (name, repository), *more = store.repositories.aliases()
        assert (name, more) == ("demo", [])
        assert repository.path in (store.repositories.of(one).path, store.repositories.of(two).path)
        store.repositories.alias(one, "demo")
        assert os.listdir(store.root / "alias") == ["demo"]


# --- scratch folders and locks


def scratch_names(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "neuromirror" / "tmp").iterdir())


def test_scratch_folders_are_removed_at_the_end_of_the_block_or_after_a_kill(store: Store) -> None:
    def killed() -> None:
        with store.scratch() as scratch:
            (scratch / "big").write_bytes(b"x" * 1000)
            os.kill(os.getpid(), 9)

    assert run_in_child(killed)
    assert len(scratch_names(store)) == 2
    with store.scratch() as scratch:
        assert scratch_names(store) == [scratch.name, f"{scratch.name}.lock"]
        (scratch / "file").write_text("x")
        with store.scratch() as inner:
            assert scratch.exists()
            assert inner != scratch
    assert scratch_names(store) == []


def test_scratch_folders_killed_at_any_step_are_gone_after_the_next(store: Store) -> None:
    def work() -> None:
        with store.scratch() as scratch:
            (scratch / "file").write_text("x")

    for step in disk_states(store.root, work):
        with store.scratch():
            pass
        assert scratch_names(store) == [], f"step {step}"


def test_scratch_folder_in_use_is_not_removed(store: Store) -> None:
    def other() -> None:
        with store.scratch():
            pass

    with store.scratch() as scratch:
        run_in_child(other)
        assert scratch.exists()


def test_many_threads_get_scratch_folders_at_once(store: Store) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for _ in range(25):
            with store.scratch() as scratch:
                (scratch / "file").write_text(f"{number}")
                assert (scratch / "file").read_text() == f"{number}"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert scratch_names(store) == []


def test_lock_is_exclusive_and_released_by_the_death_of_its_holder(store: Store) -> None:
    def held() -> None:
        with store.lock("x", "dataset x"):
            os.kill(os.getpid(), 9)

    assert run_in_child(held)
    with store.lock("x", "dataset x"):
        with (
            pytest.raises(StoreBusyError, match="dataset x is in use") as busy,
            store.lock("x", "dataset x"),
        ):
            pass
        assert busy.value.exit_code == 1
        with store.lock("y", "dataset y"):
            pass
    with store.lock("x", "dataset x"):
        pass


def test_lock_is_taken_within_the_waiting_time(tmp_path: Path) -> None:
    order = []
    inside = threading.Event()

    def first() -> None:
        with file_lock(tmp_path / "l", "it"):
            inside.set()
            order.append("first in")
            threading.Event().wait(0.2)
            order.append("first out")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with file_lock(tmp_path / "l", "it", wait=60):
        order.append("second in")
    thread.join()
    assert order == ["first in", "first out", "second in"]


# --- records, manifests, small files


def test_records_come_back_as_they_were(store: Store) -> None:
    files = [placed_file(f"sub-{number:05}/é.nwb", number) for number in range(20_000)]
    assert not store.records.has(ID, COMMIT)
    store.records.write(ID, COMMIT, map(dump_snapshot_entry, files))
    assert store.records.has(ID, COMMIT)
    assert list(store.records.read(ID, COMMIT)) == files
    assert list(store.records.lines(ID, COMMIT)) == [dump_snapshot_entry(file) for file in files]
    store.records.write(ID, COMMIT, iter([b"never read"]))
    assert next(store.records.read(ID, COMMIT)) == files[0]
    store.records.write(ID, "00", [])
    assert list(store.records.read(ID, "00")) == []


def records_file(store: Store) -> Path:
    (path,) = (store.root / "neuromirror" / "records").rglob("*.zst")
    return path


def test_truncated_missing_or_changed_records_are_detected(store: Store) -> None:
    with pytest.raises(StoreDamagedError, match="neuromirror repair"):
        list(store.records.read(ID, COMMIT))
    lines = [dump_snapshot_entry(placed_file(f"{number:06}", number)) for number in range(3000)]
    store.records.write(ID, COMMIT, lines)
    path = records_file(store)
    whole = path.read_bytes()
    path.chmod(0o644)
    for cut in {*range(0, len(whole), len(whole) // 40), *range(len(whole) - 12, len(whole))}:
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreDamagedError):
            list(store.records.read(ID, COMMIT))
    for offset in range(0, len(whole), len(whole) // 40):
        changed = bytearray(whole)
        changed[offset] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(StoreDamagedError):
            list(store.records.read(ID, COMMIT))
    path.write_bytes(whole + whole)
    with pytest.raises(StoreDamagedError):
        list(store.records.read(ID, COMMIT))
    path.write_bytes(whole)
    assert list(store.records.lines(ID, COMMIT)) == lines


def test_invalid_record_lines_are_reported_as_damage(store: Store) -> None:
    store.records.write(ID, COMMIT, [b"{}"])
    with pytest.raises(StoreDamagedError):
        list(store.records.read(ID, COMMIT))


def test_records_interrupted_by_a_kill_are_complete_or_absent(store: Store) -> None:
    lines = [b"%d" % number for number in range(100)]
    for _ in disk_states(store.root, lambda: store.records.write(ID, COMMIT, lines)):
        if store.records.has(ID, COMMIT):
            assert list(store.records.lines(ID, COMMIT)) == lines
        store.records.write(ID, COMMIT, lines)
        assert list(store.records.lines(ID, COMMIT)) == lines
        assert os.listdir(records_folder(store)) == [f"{COMMIT}.jsonl.zst"]
        assert scratch_names(store) == []


def records_folder(store: Store) -> Path:
    return store.root / "neuromirror" / "records" / ID[:3] / ID[3:]


def test_manifests_are_kept_once_by_their_digest(store: Store, tmp_path: Path) -> None:
    state = "sha256:" + "ab" * 32
    for number in range(2):
        draft = tmp_path / "draft"
        draft.write_text(f"{number}")
        store.add_manifest(state, draft)
        assert not draft.exists()
    path = store.root / "manifests" / "ab" / f"{'ab' * 31}.jsonl.zst"
    assert store.manifest_path(state) == path
    assert path.read_text() == "0"


def test_small_file_is_never_incomplete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    for _ in disk_states(tmp_path, lambda: write_atomically(path, b"new")):
        assert path.read_bytes() in (b"old", b"new")

    def full() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, b"newest")

    before = sorted(tmp_path.iterdir())
    run_in_child(full)
    assert path.read_bytes() == b"new"
    assert sorted(tmp_path.iterdir()) == before


def test_time_of_the_last_listing_is_kept_per_mirror(store: Store) -> None:
    assert (store.last_listed("demo"), store.listed_datasets("demo")) == (None, 0)
    store.mark_listed("demo", 2)
    first = store.last_listed("demo")
    assert first is not None
    store.mark_listed("demo", 3)
    second = store.last_listed("demo")
    assert store.listed_datasets("demo") == 3
    assert second is not None
    assert second >= first


# --- modes, read-only and full disks


def test_everything_served_can_be_read_whatever_the_umask(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "store"

    def work() -> None:
        os.umask(0o077)
        publisher = Publisher(Store.open(root, create=True))
        publisher.publish("one", {"a/b": 1})
        publisher.publish("two", {"a/b": 1, "c": 2})

    run_in_child(work)
    for path in [root.parent, root, *root.rglob("*")]:
        mode = path.stat().st_mode
        if path.is_dir():
            assert stat.S_IMODE(mode) & 0o777 == 0o755, path
        elif "neuromirror" not in path.relative_to(root).parts:
            expected = (0o755,) if path.parent.name == "hooks" else (0o644, 0o444)
            assert stat.S_IMODE(mode) in expected, path
    served = [path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()]
    assert {ID[:3], "manifests", "ria-layout-version"} <= set(served)


def test_store_on_a_read_only_disk_can_be_read(small_disk: Path) -> None:
    publisher = Publisher(Store.open(small_disk / "store", create=True))
    minted = publisher.publish("one", {"a": 1})
    publisher.store.journal.append(HoldLapsed("a", "b"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = Store.open(small_disk / "store", create=True)
    ((name, repository),) = store.repositories.aliases()
    assert name == "demo--000001"
    assert repository.refs()[MAIN_BRANCH] == minted.commit
    assert repository.main_tip() == (minted.commit, 1670926272)
    assert [record.git_path for record in store.records.read(ID, minted.commit)] == [b"a"]
    assert len(list(store.journal.read(0))) == 1
    with pytest.raises(OSError, match="Read-only"), store.lock("x", "x"):
        pass
    with pytest.raises(OSError, match="Read-only"):
        store.journal.append(HoldLapsed("c", "d"))
    with pytest.raises(OSError, match="Read-only"):
        repository.publish({}, {MAIN_BRANCH: minted.annex_commit})


def test_publication_on_a_full_disk_fails_atomically_and_succeeds_later(small_disk: Path) -> None:
    publisher = Publisher(Store.open(small_disk / "store", create=True))
    first = publisher.publish("one", {"a": 1})
    repository = publisher.repository
    refs = repository.refs()
    files = {f"sub-{number}/a": number for number in range(100)}
    ballast = small_disk / "ballast"
    failed = 0
    for free_bytes in (0, 4096, 16384, 65536, 100_000, 130_000, 160_000):
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(max(0, free - free_bytes)))
        try:
            publisher.publish("two", files)
        except (OSError, StoreDamagedError):
            failed += 1
            found = repository.refs()
            assert found == refs or found[MAIN_BRANCH] != first.commit
            git(repository.path, "fsck", "--strict", "--full")
            assert set(scratch_names(publisher.store)) == set()
        ballast.unlink()
        if repository.refs() != refs:
            break
    assert failed > 2
    if repository.refs() == refs:
        publisher.publish("two", files)
    repository.remove_stale_files()
    repository.update_server_info()
    assert set(repository.refs()) == {MAIN_BRANCH, ANNEX_BRANCH, "refs/tags/one", "refs/tags/two"}
    git(small_disk, "clone", "-q", str(repository.path), "clone")
    assert git(repository.path, "ls-tree", "-r", "--name-only", "main").count("sub-") == 100


def test_importing_the_store_is_cheap() -> None:
    heavy = {"boto3", "datalad", "dandi", "numpy", "requests", "pydantic"}
    code = "import sys, neuromirror.store; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
