"""Faults around a whole sync: clocks, credentials, proxies, disks, an index gone bad under it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from crawl_place import Place
from scripted import Box, File, Scripted, Thing, at, files

from neuromirror.crawl import Sync, load_mirrors, parse_requests, rebuild_index, recording
from neuromirror.model import EventRaised, NeuromirrorError, VersionMinted
from neuromirror_demo import DemoArchive

SHIFTED = Path(__file__).with_name("shifted_sync.py")
DAY = 24 * 60 * 60


def shifted(place: Place, seconds: float, zone: str = "UTC") -> datetime:
    """Runs a sync whose clock is wrong; gives the time that it took for now."""
    done = subprocess.run(
        [sys.executable, str(SHIFTED), str(seconds), str(place.mirrors), str(place.folder)],
        env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return datetime.fromisoformat(done.stdout)


# --- clocks


@pytest.mark.parametrize("days", [(1, -1, 0), (-1, 1, 0)], ids=["ahead-back", "back-ahead"])
def test_a_clock_off_by_a_day_changes_no_id_and_hides_no_change(
    place: Place, another: Place, demo: DemoArchive, days: tuple[int, ...]
) -> None:
    told = shifted(place, days[0] * DAY)
    assert abs(told - datetime.now(UTC) - timedelta(days=days[0])) < timedelta(hours=1)
    another.sync()
    for day, name in zip(days[1:], ("first.txt", "second.txt"), strict=True):
        demo.add_file("000001", name, name.encode())
        shifted(place, day * DAY)
        another.sync()
        assert place.refs() == another.refs()
        with place.index() as index:
            listed = {one.path for one in index.files(index.resolve("demo:000001", "draft"))}
        assert name in listed
    place.fsck()
    assert {one.status for one in place.sync().values()} == {"notneeded"}


def test_summer_time_and_zones_make_no_difference(place: Place, another: Place) -> None:
    # the nights in which an hour comes twice, and is left out
    now = datetime.now(UTC).timestamp()
    twice = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp() - now
    left_out = datetime(2027, 3, 28, 1, 30, tzinfo=UTC).timestamp() - now
    shifted(place, twice, "Europe/Berlin")
    shifted(place, twice + 3600, "Europe/Berlin")
    shifted(another, left_out, "America/St_Johns")
    assert place.refs() == another.refs()
    assert {one.status for one in place.sync().values()} == {"notneeded"}


# --- who answers instead of the archive


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("status", {"status": 403}),
        ("status", {"status": 401}),
        ("html", {}),
        ("status", {"status": 404, "path": "/dandisets/"}),
        ("empty_list", {"path": r"/dandisets/$"}),
    ],
    ids=["403", "401", "login-page", "404", "empty-list"],
)
def test_who_answers_everything_alike_deletes_nothing_however_often(
    place: Place, demo: DemoArchive, fault: str, options: dict[str, object]
) -> None:
    place.sync()
    refs, versions = place.refs(), len(place.entries(VersionMinted))
    with demo.fault(fault, **options) as struck:
        for _ in range(3):
            results = place.sync()
            assert {one.exit_code for one in results.values()} == {1}, results
            assert not [one for one in results.values() if one.visit == "not_found"]
    assert struck.struck
    assert place.refs() == refs
    assert len(place.entries(VersionMinted)) == versions
    assert place.entries(EventRaised) == []
    assert {one.status for one in place.sync().values()} == {"notneeded"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_one_dataset_that_is_refused_however_often_keeps_all_that_was_mirrored(
    place: Place, demo: DemoArchive, status: int
) -> None:
    place.sync()
    refs = place.refs()
    with demo.fault("status", status=status, path="/dandisets/000001/"):
        for _ in range(3):
            place.sync("demo:000001")
        assert place.refs() == refs
    demo.add_file("000001", "new.txt", b"new")
    assert place.sync()["demo:000001"].exit_code == 0
    with place.index() as index:
        assert index.resolve("demo:000001", "draft").files == len(demo.paths("000001"))
    tags = {name: sha for name, sha in refs.items() if "refs/tags/" in name}
    assert tags.items() <= place.refs().items()
    place.fsck()


def test_a_refused_credential_is_told_as_that(place: Place, demo: DemoArchive) -> None:
    place.sync()
    with demo.fault("status", status=403):
        results = place.sync()
    assert [one.dataset for one in results.values()] == ["demo"]
    assert "refuses access (HTTP 403)" in results["demo"].message


def test_what_the_archive_itself_says_is_gone_gets_one_tombstone_and_stays(
    place: Place, demo: DemoArchive
) -> None:
    place.sync()
    refs = place.refs()
    demo.delete_dandiset("000003")
    assert place.sync()["demo:000003"].visit == "not_found"
    for _ in range(3):
        assert {one.status for one in place.sync().values()} == {"notneeded"}
    assert place.refs() == refs
    assert [one.local_id for one in place.entries(EventRaised)] == ["000003"]
    place.fsck()


# --- times and states that go back


def test_a_modified_time_that_goes_back_hides_no_change(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing({"f": File(b"new", at(60))})
    source.fingerprint = "2"
    assert box.sync()["box:a"].status == "ok"
    source.things["a"].files = {"f": File(b"older, and other", at(0), "x")}
    source.fingerprint = "1"
    result = box.sync()["box:a"]
    assert (result.status, len(result.versions)) == ("ok", 1)
    with box.index() as index:
        labels = [row.label for row in index.versions("box:a")]
        assert index.resolve("box:a", "latest").label == result.versions[0]
    # in the order in which they were seen
    assert labels == ["2024-03-01T130000Z", "2024-03-01T120000Z"]
    box.fsck()


def test_an_old_state_that_is_played_back_is_told_again_and_moves_no_tag(
    box: Box, source: Scripted
) -> None:
    old, new = files("a", "b"), files("a", "b", "c", modified=at(5))
    source.things["a"] = Thing(old)
    box.sync()
    source.things["a"].files = new
    box.sync()
    tags = {name: sha for name, sha in box.refs().items() if "refs/tags/" in name}
    for _ in range(2):
        source.things["a"].files = old
        assert box.sync()["box:a"].exit_code == 0
        source.things["a"].files = new
        assert box.sync()["box:a"].exit_code == 0
    now = {name: sha for name, sha in box.refs().items() if "refs/tags/" in name}
    assert tags.items() <= now.items()
    box.fsck()
    store = box.store
    with box.index() as index:
        before = [(row.label, row.commit) for row in index.versions("box:a")]
    rebuild_index(store, store.index_path)
    with box.index() as index:
        assert [(row.label, row.commit) for row in index.versions("box:a")] == before


def test_an_old_index_that_was_put_back_catches_up(place: Place, demo: DemoArchive) -> None:
    place.sync()
    path = place.store.index_path
    old = path.read_bytes()
    demo.add_file("000001", "new.txt", b"new")
    place.sync()
    refs = place.refs()
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    path.write_bytes(old)
    assert {one.status for one in place.sync().values()} == {"notneeded"}
    assert place.refs() == refs
    with place.index() as index:
        paths = {one.path for one in index.files(index.resolve("demo:000001", "draft"))}
    assert "new.txt" in paths


# --- disks


@pytest.mark.parametrize("size", ["200k", "700k", "1500k"])
def test_a_sync_on_a_full_disk_leaves_what_is_whole_and_goes_on_with_more_room(
    place: Place, another: Place, disk_of: Callable[[str], Path], size: str
) -> None:
    small = disk_of(size)
    full = Place(place.mirrors, small / "store")
    try:
        results = full.sync()
    except (OSError, NeuromirrorError) as error:
        results, said = {}, str(error)
    else:
        said = " ".join(one.message for one in results.values() if one.exit_code)
    assert "disk" in said or "No space" in said, results
    if (full.folder / "alias").exists():
        full.fsck(killed=True)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    assert {one.exit_code for one in full.sync().values()} == {0}
    another.sync()
    assert full.refs() == another.refs()
    full.fsck(killed=True)


def test_an_index_on_a_full_disk_loses_nothing(
    place: Place, another: Place, demo: DemoArchive, disk_of: Callable[[str], Path]
) -> None:
    small = disk_of("400k")
    loaded, store = load_mirrors(place.mirrors), place.store

    def sync() -> list[int]:
        run = Sync(store, small / "index.sqlite")
        return [one.exit_code for one in run.results(parse_requests([], loaded))]

    assert 1 in sync()
    place.fsck(killed=True)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    assert set(sync()) == {0}
    another.sync()
    assert place.refs() == another.refs()


def test_what_the_disk_cannot_read_is_told_and_what_git_has_is_read_instead(
    box: Box, source: Scripted
) -> None:
    """Linux answers EIO for the first bytes of a process's own memory, which is as real as any."""
    source.things["a"] = Thing(files("a", "b"))
    box.sync()
    broken = [
        path
        for kept in ("records", "memos")
        for path in (box.folder / "neuromirror" / kept).rglob("*")
        if path.is_file()
    ]
    for path in broken:
        path.unlink()
        path.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        broken[0].read_bytes()
    source.things["a"].files = files("a", "b", "c")
    result = box.sync()["box:a"]
    assert result.status in ("ok", "error")
    assert "unexpected" not in result.message
    box.fsck(killed=True)
    for path in broken:
        if path.is_symlink():
            path.unlink()
    assert box.sync()["box:a"].exit_code == 0
    with box.index() as index:
        assert index.resolve("box:a", "latest").files == 3


# --- an index that goes bad under a run


def test_an_index_that_goes_bad_under_a_run_is_told_and_made_anew_from_the_rest(
    place: Place, another: Place, demo: DemoArchive
) -> None:
    place.sync("demo:000001")
    store = place.store
    loaded = load_mirrors(place.mirrors)
    with recording(store, store.index_path) as recorder:
        with store.index_path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(100)
            file.write(b"\xa5" * (size - 100))
        run = Sync(store, store.index_path, recorder=recorder)
        try:
            said = [one.message for one in run.results(parse_requests([], loaded)) if one.exit_code]
        except NeuromirrorError as error:
            said = [str(error)]
    assert said
    assert not [one for one in said if "unexpected" in one], said
    assert any("rebuild-index" in one for one in said), said
    rebuild_index(store, store.index_path)
    assert {one.exit_code for one in place.sync().values()} == {0}
    another.sync("demo:000001")
    another.sync()
    assert place.refs() == another.refs()
    place.fsck(killed=True)
