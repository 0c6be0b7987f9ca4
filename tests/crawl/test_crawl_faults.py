"""Faults around a whole sync: clocks, credentials, proxies, disks, a damaged index."""

import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from neuromirror.crawl import Sync, load_mirrors, open_recorder, parse_sync_requests, rebuild_index
from neuromirror.model import EventRaised, NeuromirrorError, VersionMinted
from neuromirror_demo import DemoArchive
from neuromirror_demo.faults import Kind
from support.list_faults import empty_list
from support.mirror_harness import MirrorHarness
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, at, files
from support.shifted_sync import sync_with_shifted_clock

DAY = 24 * 60 * 60


@pytest.fixture
def demo(two_dandisets: DemoArchive) -> DemoArchive:
    """A small archive instead of the demo's."""
    return two_dandisets


# --- clocks


@pytest.mark.parametrize("days", [(1, -1, 0), (-1, 1, 0)], ids=["ahead-back", "back-ahead"])
def test_a_clock_off_by_a_day_changes_no_id_and_hides_no_change(
    mirror_harness: MirrorHarness,
    second_harness: MirrorHarness,
    demo: DemoArchive,
    days: tuple[int, ...],
) -> None:
    shifted_now = sync_with_shifted_clock(mirror_harness, days[0] * DAY)
    assert abs(shifted_now - datetime.now(UTC) - timedelta(days=days[0])) < timedelta(hours=1)
    second_harness.sync()
    for day, name in zip(days[1:], ("first.txt", "second.txt"), strict=True):
        demo.add_file("000001", name, name.encode())
        sync_with_shifted_clock(mirror_harness, day * DAY)
        second_harness.sync()
        assert mirror_harness.refs() == second_harness.refs()
        with mirror_harness.index() as index:
            listed = {
                one.path for one in index.files.of(index.versions.resolve("demo:000001", "draft"))
            }
        assert name in listed
    mirror_harness.fsck()
    assert {one.status for one in mirror_harness.sync().values()} == {"notneeded"}


def test_summer_time_and_zones_make_no_difference(
    mirror_harness: MirrorHarness, second_harness: MirrorHarness
) -> None:
    # the nights in which an hour is repeated or skipped
    now = datetime.now(UTC).timestamp()
    twice = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp() - now
    left_out = datetime(2027, 3, 28, 1, 30, tzinfo=UTC).timestamp() - now
    sync_with_shifted_clock(mirror_harness, twice, "Europe/Berlin")
    sync_with_shifted_clock(mirror_harness, twice + 3600, "Europe/Berlin")
    sync_with_shifted_clock(second_harness, left_out, "America/St_Johns")
    assert mirror_harness.refs() == second_harness.refs()
    assert {one.status for one in mirror_harness.sync().values()} == {"notneeded"}


# --- proxies and logins in place of the archive


ONE_ANSWER: list[tuple[str | Kind, dict[str, Any]]] = [
    ("status", {"status": 403}),
    ("status", {"status": 401}),
    ("html", {}),
    ("status", {"status": 404, "path": "/dandisets/"}),
    (empty_list, {"path": r"/dandisets/$"}),
]


def test_a_server_with_one_answer_for_everything_deletes_nothing(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    refs, versions = mirror_harness.refs(), len(mirror_harness.entries(VersionMinted))
    for fault, options in ONE_ANSWER:
        with demo.fault(fault, **options) as struck:
            for _ in range(3):
                results = mirror_harness.sync()
                assert {result.exit_code for result in results.values()} == {1}, (options, results)
                assert not [result for result in results.values() if result.visit == "not_found"]
        assert struck.struck
        assert mirror_harness.refs() == refs, (fault, options)
        assert len(mirror_harness.entries(VersionMinted)) == versions
        assert mirror_harness.entries(EventRaised) == []
        assert {one.status for one in mirror_harness.sync().values()} == {"notneeded"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_one_dataset_that_is_refused_however_often_keeps_all_that_was_mirrored(
    mirror_harness: MirrorHarness, demo: DemoArchive, status: int
) -> None:
    mirror_harness.sync()
    refs = mirror_harness.refs()
    with demo.fault("status", status=status, path="/dandisets/000001/"):
        for _ in range(3):
            mirror_harness.sync("demo:000001")
        assert mirror_harness.refs() == refs
    demo.add_file("000001", "new.txt", b"new")
    assert mirror_harness.sync()["demo:000001"].exit_code == 0
    with mirror_harness.index() as index:
        assert index.versions.resolve("demo:000001", "draft").files == len(demo.paths("000001"))
    tags = {name: sha for name, sha in refs.items() if "refs/tags/" in name}
    assert tags.items() <= mirror_harness.refs().items()
    mirror_harness.fsck()


def test_a_refused_credential_is_reported_as_such(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    with demo.fault("status", status=403):
        results = mirror_harness.sync()
    assert [result.dataset for result in results.values()] == ["demo"]
    assert "HTTP 403" in results["demo"].message


def test_a_dandiset_that_the_archive_reports_as_deleted_gets_one_tombstone_and_stays(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    refs = mirror_harness.refs()
    demo.delete_dandiset("000002")
    assert mirror_harness.sync()["demo:000002"].visit == "not_found"
    for _ in range(3):
        assert {one.status for one in mirror_harness.sync().values()} == {"notneeded"}
    assert mirror_harness.refs() == refs
    assert [entry.local_id for entry in mirror_harness.entries(EventRaised)] == ["000002"]
    mirror_harness.fsck()


# --- times and states that go back


def test_a_modified_time_that_goes_back_hides_no_change(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset({"f": ScriptedFile(b"new", at(60))})
    harness.source.fingerprint = "2"
    assert harness.sync()["box:a"].status == "ok"
    harness.datasets["a"].files = {"f": ScriptedFile(b"older, and other", at(0), "x")}
    harness.source.fingerprint = "1"
    result = harness.sync()["box:a"]
    assert (result.status, len(result.versions)) == ("ok", 1)
    with harness.index() as index:
        labels = [row.label for row in index.versions.of("box:a")]
        assert index.versions.resolve("box:a", "latest").label == result.versions[0]
    # in the order of observation
    assert labels == ["2024-03-01T130000Z", "2024-03-01T120000Z"]
    harness.fsck()


def test_an_old_state_that_returns_is_recorded_and_moves_no_tag(harness: ScriptedHarness) -> None:
    old, new = files("a", "b"), files("a", "b", "c", modified=at(5))
    harness.datasets["a"] = ScriptedDataset(old)
    harness.sync()
    harness.datasets["a"].files = new
    harness.sync()
    tags = {name: sha for name, sha in harness.refs().items() if "refs/tags/" in name}
    for _ in range(2):
        harness.datasets["a"].files = old
        assert harness.sync()["box:a"].exit_code == 0
        harness.datasets["a"].files = new
        assert harness.sync()["box:a"].exit_code == 0
    now = {name: sha for name, sha in harness.refs().items() if "refs/tags/" in name}
    assert tags.items() <= now.items()
    harness.fsck()
    store = harness.store
    with harness.index() as index:
        before = [(row.label, row.commit) for row in index.versions.of("box:a")]
    rebuild_index(store, store.index_path)
    with harness.index() as index:
        assert [(row.label, row.commit) for row in index.versions.of("box:a")] == before


def test_an_old_index_that_was_restored_catches_up(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    path = mirror_harness.store.index_path
    old = path.read_bytes()
    demo.add_file("000001", "new.txt", b"new")
    mirror_harness.sync()
    refs = mirror_harness.refs()
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    path.write_bytes(old)
    assert {one.status for one in mirror_harness.sync().values()} == {"notneeded"}
    assert mirror_harness.refs() == refs
    with mirror_harness.index() as index:
        paths = {one.path for one in index.files.of(index.versions.resolve("demo:000001", "draft"))}
    assert "new.txt" in paths


# --- disks


@pytest.mark.parametrize("size", ["200k", "450k", "700k"])
def test_a_sync_on_a_full_disk_leaves_a_whole_store_and_resumes_with_more_space(
    mirror_harness: MirrorHarness,
    second_harness: MirrorHarness,
    mount_disk: Callable[[str], Path],
    size: str,
) -> None:
    disk = mount_disk(size)
    full = MirrorHarness(mirror_harness.mirrors, disk / "store")
    try:
        results = full.sync()
    except (OSError, NeuromirrorError) as error:
        results, message = {}, str(error)
    else:
        message = " ".join(result.message for result in results.values() if result.exit_code)
    assert "disk" in message or "No space" in message, results
    if (full.folder / "alias").exists():
        full.fsck(killed=True)
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert {one.exit_code for one in full.sync().values()} == {0}
    second_harness.sync()
    assert full.refs() == second_harness.refs()
    full.fsck(killed=True)


def test_an_index_on_a_full_disk_loses_nothing(
    mirror_harness: MirrorHarness,
    second_harness: MirrorHarness,
    demo: DemoArchive,
    mount_disk: Callable[[str], Path],
) -> None:
    disk = mount_disk("400k")
    loaded, store = load_mirrors(mirror_harness.mirrors), mirror_harness.store

    def sync() -> list[int]:
        run = Sync(store, disk / "index.sqlite")
        return [result.exit_code for result in run.results(parse_sync_requests([], loaded))]

    assert 1 in sync()
    mirror_harness.fsck(killed=True)
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert set(sync()) == {0}
    second_harness.sync()
    assert mirror_harness.refs() == second_harness.refs()


def test_unreadable_records_are_reported_and_read_back_from_git(harness: ScriptedHarness) -> None:
    """Linux returns EIO for the first bytes of a process's own memory, a real read error."""
    harness.datasets["a"] = ScriptedDataset(files("a", "b"))
    harness.sync()
    broken = [
        path
        for kept in ("records", "memos")
        for path in (harness.folder / "neuromirror" / kept).rglob("*")
        if path.is_file()
    ]
    for path in broken:
        path.unlink()
        path.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        broken[0].read_bytes()
    harness.datasets["a"].files = files("a", "b", "c")
    result = harness.sync()["box:a"]
    assert result.status in ("ok", "error")
    assert "unexpected" not in result.message
    harness.fsck(killed=True)
    for path in broken:
        if path.is_symlink():
            path.unlink()
    assert harness.sync()["box:a"].exit_code == 0
    with harness.index() as index:
        assert index.versions.resolve("box:a", "latest").files == 3


# --- an index that is damaged during a run


def test_an_index_that_is_damaged_during_a_run_is_reported_and_rebuilt(
    mirror_harness: MirrorHarness, second_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000001")
    store = mirror_harness.store
    loaded = load_mirrors(mirror_harness.mirrors)
    with open_recorder(store, store.index_path) as recorder:
        with store.index_path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(100)
            file.write(b"\xa5" * (size - 100))
        run = Sync(store, store.index_path, recorder=recorder)
        try:
            messages = [
                one.message for one in run.results(parse_sync_requests([], loaded)) if one.exit_code
            ]
        except NeuromirrorError as error:
            messages = [str(error)]
    assert messages
    assert not [message for message in messages if "unexpected" in message], messages
    assert any("rebuild-index" in message for message in messages), messages
    rebuild_index(store, store.index_path)
    assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
    second_harness.sync("demo:000001")
    second_harness.sync()
    assert mirror_harness.refs() == second_harness.refs()
    mirror_harness.fsck(killed=True)
