"""Housekeeping tasks of a service: integrity, repacking, backup and audit, and when they run."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from neuromirror.crawl import FailureLog, open_recorder, rebuild_index
from neuromirror.index import Schedule
from neuromirror.lab.audit import AuditSettings
from neuromirror.model import EventRaised, LocationsChecked, NeuromirrorError, VersionMinted
from neuromirror.service import housekeeping
from neuromirror.service.housekeeping import (
    HousekeepingError,
    HousekeepingScheduler,
    HousekeepingSettings,
    HousekeepingTask,
    housekeeping_tasks,
)
from neuromirror.service.integrity import CheckResult, IntegrityState, check_integrity
from neuromirror.store import StoreBusyError
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror_demo import DemoArchive
from support.block_digests import claimed_digests
from support.embargo_harness import ID, NAME, EmbargoHarness
from support.index_dump import dump_index
from support.mirror_harness import MirrorHarness, run_git
from support.service_harness import DAY, HOUR, ManualClock, RecordingObserver
from support.synced_mirror import flip_bit

LOCAL = AuditSettings(allowed=("127.0.0.1",), per_second=1000.0)


def check_results(mirror_harness: MirrorHarness, **options: object) -> list[CheckResult]:
    store = mirror_harness.store
    return list(check_integrity(store, store.index_path, **options))  # type: ignore[arg-type]


def broken(mirror_harness: MirrorHarness, *aliases: str) -> dict[tuple[str, str], str]:
    """Return messages of failed checks by subject and name; of the whole store without aliases."""
    return {
        (one.subject, one.name): one.message
        for one in check_results(mirror_harness, selected=aliases or None)
        if one.status != "ok"
    }


def version(mirror_harness: MirrorHarness, local_id: str = "000002") -> VersionMinted:
    """The version of a dataset that was minted last."""
    return [one for one in mirror_harness.entries(VersionMinted) if one.local_id == local_id][-1]


def run_task(mirror_harness: MirrorHarness, name: str, **settings: object) -> str:
    store = mirror_harness.store
    with (
        open_recorder(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
    ):
        task_settings = HousekeepingSettings(**{"audit_settings": LOCAL, **settings})  # type: ignore[arg-type]
        every = {
            one.name: one
            for one in housekeeping_tasks(
                store, store.index_path, recorder, schedule, task_settings
            )
        }
        return every[name].run()


# --- integrity


def test_an_intact_store_passes_and_only_the_task_progress_is_written(
    copied_harness: MirrorHarness,
) -> None:
    before = copied_harness.file_digests()
    assert broken(copied_harness) == {}
    after = copied_harness.file_digests()
    assert {name for name in after if after[name] != before.get(name)} <= {
        "neuromirror/tasks/integrity.json",
        "neuromirror/locks/integrity.lock",
    }


def records_folder(mirror_harness: MirrorHarness, entry: VersionMinted) -> Path:
    name = entry.dataset_ref.dataset_id
    return mirror_harness.folder / "neuromirror" / "records" / name[:3] / name[3:]


def test_a_bit_that_turned_in_a_pack_is_found_and_named(copied_harness: MirrorHarness) -> None:
    packs = copied_harness.repository("demo:000002") / "objects" / "pack"
    flip_bit(next(packs.glob("*.pack")))
    ((subject, message),) = broken(copied_harness, "demo--000002").items()
    assert subject == ("git", "demo:000002")
    assert "git fsck: " in message
    assert "'neuromirror repair demo:000002'" in message


def test_a_bit_that_turned_in_the_records_or_a_manifest_is_found_and_named(
    copied_harness: MirrorHarness,
) -> None:
    last = version(copied_harness)
    name = f"demo:000002@{last.label}"
    manifest = copied_harness.store.manifest_path(last.state)
    records = next(records_folder(copied_harness, last).glob(f"{last.commit}.*"))
    for subject, path, named in (
        ("manifest", manifest, last.state.removeprefix("sha256:")[2:]),
        ("records", records, "restore"),
    ):
        before = path.read_bytes()
        flip_bit(path)
        found = broken(copied_harness, "demo--000002")
        assert {what for what, _ in found} == {subject}
        assert named in found[subject, name]
        path.write_bytes(before)


def test_records_of_another_state_are_found_though_they_can_be_read(
    copied_harness: MirrorHarness,
) -> None:
    first, last = (
        entry
        for entry in copied_harness.entries(VersionMinted)
        if entry.local_id == "000002" and entry.kind == "published"
    )
    assert first.files == last.files
    name = last.dataset_ref.dataset_id
    lines = list(copied_harness.store.records.lines(name, first.commit))
    for path in records_folder(copied_harness, last).glob(f"{last.commit}.*"):
        path.unlink()
    copied_harness.store.records.write(name, last.commit, lines)
    found = broken(copied_harness)
    assert f"{last.files} and {last.state}" in found["records", f"demo:000002@{last.label}"]


def test_a_lost_path_token_of_the_index_is_detected(copied_harness: MirrorHarness) -> None:
    with closing(sqlite3.connect(copied_harness.store.index_path)) as db, db:
        rows = db.execute(
            "SELECT rowid FROM path_text WHERE path_text MATCH 'ecephys' ORDER BY rowid"
        ).fetchall()
        db.execute(
            "INSERT INTO path_text (path_text, rowid, terms) VALUES ('delete', ?, 'ecephys')",
            rows[0],
        )
    found = broken(copied_harness)
    assert {one for one, _ in found} == {"index"}
    assert all("paths" in message for message in found.values())


def test_a_bit_that_turned_in_the_index_is_found_and_named(copied_harness: MirrorHarness) -> None:
    path = copied_harness.store.index_path
    content = path.read_bytes()
    for what in (b"SHA256E-s", b"_ses-01_ecephys.nwb", version(copied_harness).commit.encode()):
        damaged = bytearray(content)
        damaged[content.rindex(what) + len(what) - 2] ^= 1
        path.write_bytes(damaged)
        found = broken(copied_harness)
        assert {one for one, _ in found} == {"index"}, (what, found)
        assert all("rebuild-index" in message for message in found.values())
    page = int.from_bytes(content[16:18], "big")
    path.write_bytes(content[: page * 3] + b"\xff" * 8 + content[page * 3 + 8 :])
    assert ("index", "index") in broken(copied_harness)
    path.unlink()
    assert "rebuild-index" in broken(copied_harness)["index", "index"]


def test_a_bit_that_turned_in_the_journal_is_found_and_named(copied_harness: MirrorHarness) -> None:
    path, content = (
        copied_harness.store.journal.path,
        copied_harness.store.journal.path.read_bytes(),
    )
    commit = version(copied_harness).commit.encode()
    path.write_bytes(content.replace(b'{"annex_commit"', b'{"annex_commiu"', 1))
    assert list(broken(copied_harness)) == [("journal", "journal")]
    # valid JSON with other content is detected by comparison with git and the index
    path.write_bytes(content.replace(commit, commit[:-1] + (b"1" if commit[-1:] == b"0" else b"0")))
    assert {("git", "demo:000002"), ("index", "demo:000002")} <= set(broken(copied_harness))
    path.write_bytes(content[:-5])
    assert "rebuild-index" in broken(copied_harness)["index", "index"]


def test_a_lost_alias_ref_or_repository_is_found_and_named(copied_harness: MirrorHarness) -> None:
    alias = copied_harness.folder / "alias" / "demo--000001"
    repository = copied_harness.repository("demo:000001")
    alias.unlink()
    message = broken(copied_harness, "demo--000001")["alias", "demo:000001"]
    assert "'neuromirror repair demo:000001'" in message
    alias.symlink_to("../wrong/place")
    assert "../wrong/place" in broken(copied_harness, "demo--000001")["alias", "demo:000001"]
    alias.unlink()
    alias.symlink_to(f"../{repository.parent.name}/{repository.name}")
    last = version(copied_harness, "000001")
    run_git(repository, "update-ref", "-d", "refs/heads/main")
    assert ("refs", "demo:000001") in broken(copied_harness, "demo--000001")
    run_git(repository, "update-ref", "-d", "refs/heads/draft")
    run_git(repository, "tag", "-d", last.label)
    assert last.commit in broken(copied_harness, "demo--000001")["git", "demo:000001"]
    shutil.rmtree(repository)
    message = broken(copied_harness, "demo--000001")["git", "demo:000001"]
    assert "'neuromirror repair demo:000001'" in message


def test_damaged_block_digests_are_named_until_they_are_intact(
    copied_harness: MirrorHarness,
) -> None:
    store = copied_harness.store
    folder = BlockDigestsFolder.of_store(store)
    keys = sorted(
        placed.key
        for placed in store.records.read(
            version(copied_harness).dataset_ref.dataset_id, version(copied_harness).commit
        )
        if placed.key.startswith("SHA256E")
    )[:3]
    for key in keys:
        folder.write(key, claimed_digests(key))
    intact = [one for one in check_results(copied_harness) if one.subject == "block-digests"]
    assert sorted(one.message for one in intact) == keys

    damaged = folder.path(keys[0])
    content = damaged.read_bytes()
    damaged.write_bytes(folder.path(keys[1]).read_bytes())
    name = damaged.relative_to(store.root).as_posix()
    assert set(broken(copied_harness)) == {("block-digests", name)}
    assert set(IntegrityState.load(store).damage) == {"block-digests"}
    # a check of one dataset does not look at them
    list(check_integrity(store, store.index_path, {"demo--000001"}))
    assert set(IntegrityState.load(store).damage) == {"block-digests"}
    # slices reach each file, one after the other
    met = {
        one.name
        for _ in keys
        for one in check_results(copied_harness, seconds=1e-9)
        if one.subject == "block-digests"
    }
    assert len(met) == len(keys)

    damaged.write_bytes(content)
    assert broken(copied_harness) == {}
    assert IntegrityState.load(store).damage == {}


def test_versions_minted_during_a_check_are_no_damage(copied_harness: MirrorHarness) -> None:
    store = copied_harness.store
    looking = check_integrity(store, store.index_path)
    found = [next(looking)]
    with open_recorder(store, store.index_path) as recorder:
        recorder.record(
            EventRaised("demo", "000001", "unavailable", "a test", "2026-01-01T00:00:00+00:00")
        )
    found += looking
    assert [one for one in found if one.status != "ok"] == []


def test_slices_cover_the_store_in_rounds_and_two_checks_never_overlap(
    copied_harness: MirrorHarness,
) -> None:
    store = copied_harness.store
    whole = [(one.subject, one.name) for one in check_results(copied_harness) if one.position.alias]
    met: list[tuple[str, str]] = []
    for _ in whole:
        met += [
            (one.subject, one.name)
            for one in check_results(copied_harness, seconds=1e-6)
            if one.position.alias
        ]
    assert met == whole
    assert IntegrityState.load(store).position.alias == whole[-1][1]
    summary = run_task(copied_harness, "integrity", seconds=30)
    assert summary.endswith("pass complete")
    assert "pass complete" not in run_task(copied_harness, "integrity", seconds=1e-6)
    with store.lock("integrity", "a test"), pytest.raises(StoreBusyError, match="integrity"):
        check_results(copied_harness)


def test_damage_found_in_a_slice_fails_the_task_until_it_is_repaired(
    copied_harness: MirrorHarness,
) -> None:
    path = copied_harness.store.manifest_path(version(copied_harness).state)
    whole = path.read_bytes()
    flip_bit(path)
    with pytest.raises(HousekeepingError, match="demo:000002"):
        run_task(copied_harness, "integrity", seconds=30)
    # a slice that looks elsewhere does not forget it
    with pytest.raises(HousekeepingError, match="demo:000002"):
        run_task(copied_harness, "integrity", seconds=1e-6)
    path.write_bytes(whole)
    assert check_results(copied_harness, selected={"demo--000002"})
    assert "items intact" in run_task(copied_harness, "integrity", seconds=1e-6)


def test_a_git_timeout_is_reported_and_the_slice_continues(copied_harness: MirrorHarness) -> None:
    found = check_results(copied_harness, git_seconds=1e-4)
    late = [one for one in found if one.status == "impossible"]
    assert {one.subject for one in late} == {"git"}
    assert "neuromirror fsck demo:000001" in " ".join(one.message for one in late)
    assert [one for one in found if one.subject == "records"]
    assert IntegrityState.load(copied_harness.store).damage == {}


# --- other tasks


def test_the_audit_task_checks_each_location_once_per_interval(
    copied_harness: MirrorHarness,
) -> None:
    with copied_harness.index() as index:
        count = len(index.locations.due(10_000, "2000"))
    assert count > 20
    assert (
        run_task(copied_harness, "audit", seconds=60)
        == f"{count} locations probed, 0 without the bytes"
    )
    assert run_task(copied_harness, "audit", seconds=60).startswith("0 locations probed")
    with copied_harness.index() as index:
        assert index.locations.probe_coverage()[0] is True
        assert index.locations.due(10, "2000") == []
    checked = sum(
        len(urls) for one in copied_harness.entries(LocationsChecked) for urls in one.found.values()
    )
    assert checked == count
    # a rebuilt index has it too
    store = copied_harness.store
    before = dump_index(store.index_path)
    rebuild_index(store, store.index_path)
    assert dump_index(store.index_path) == before


def test_a_service_that_ends_does_not_wait_for_a_slice(copied_harness: MirrorHarness) -> None:
    store = copied_harness.store
    with (
        open_recorder(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
    ):
        settings = HousekeepingSettings(audit_settings=LOCAL)
        found = housekeeping_tasks(
            store, store.index_path, recorder, schedule, settings, lambda: True
        )
        summaries = {one.name: one.run() for one in found}
    assert summaries["integrity"].startswith("1 items intact")
    assert summaries["housekeeping"].startswith("1 repositories")
    assert summaries["audit"].startswith("1 locations probed")
    # probes before the end are recorded
    assert copied_harness.entries(LocationsChecked)


# --- the scheduler


@pytest.fixture
def schedule(mirror_harness: MirrorHarness) -> Iterator[Schedule]:
    with Schedule.open(mirror_harness.store.schedule_path) as opened:
        yield opened


@pytest.fixture
def log(mirror_harness: MirrorHarness) -> Iterator[FailureLog]:
    store = mirror_harness.store
    with open_recorder(store, store.index_path) as recorder:
        yield FailureLog(recorder)


class RecordedTasks:
    """Return tasks that count their runs and fail on request."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: set[str] = set()

    def task(self, name: str, every: float) -> HousekeepingTask:
        def run() -> str:
            self.done.append(name)
            if name in self.fails:
                raise NeuromirrorError(f"{name} is broken")
            return f"{name} is done"

        return HousekeepingTask(name, every, run)


def test_housekeeping_tasks_run_when_due_and_are_recorded(
    schedule: Schedule, log: FailureLog
) -> None:
    work, clock = RecordedTasks(), ManualClock()
    tasks = [work.task("hourly", HOUR), work.task("daily", DAY)]
    assert (
        HousekeepingScheduler(tasks, schedule, RecordingObserver(), log, clock=clock).run_due() == 0
    )
    assert work.done == ["hourly", "daily"]
    # another service knows of it
    times = HousekeepingScheduler(tasks, schedule, RecordingObserver(), log, clock=clock)
    clock.now += HOUR / 2
    times.run_due()
    assert work.done == ["hourly", "daily"]
    clock.now += HOUR
    times.run_due()
    assert work.done == ["hourly", "daily", "hourly"]
    # once, however long it was away
    clock.now += 100 * DAY
    times.run_due()
    assert work.done[3:] == ["hourly", "daily"]
    row = schedule.task("housekeeping daily")
    assert row is not None
    assert (row.status, row.message, row.failures) == ("ok", "daily is done", 0)


def test_a_failed_housekeeping_task_is_logged_and_stops_no_other(
    schedule: Schedule, log: FailureLog
) -> None:
    work, clock = RecordedTasks(), ManualClock()
    work.fails.add("one")
    times = HousekeepingScheduler(
        [work.task("one", HOUR), work.task("two", HOUR)],
        schedule,
        RecordingObserver(),
        log,
        clock=clock,
    )
    assert times.run_due() == 1
    clock.now += 2 * HOUR
    assert times.run_due() == 1
    assert work.done == ["one", "two"] * 2
    row = schedule.task("housekeeping one")
    assert row is not None
    assert (row.status, row.message, row.failures) == ("failed", "one is broken", 2)


def test_what_is_under_embargo_goes_to_the_private_store_and_nowhere_else(
    full_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_settings = AuditSettings(allowed=("127.0.0.1",), per_second=1000.0)
    monkeypatch.setattr(housekeeping, "audit_settings_of", lambda *_: audit_settings)
    embargo = EmbargoHarness(full_demo, tmp_path / "stores")
    embargo.write_mirror_file()
    private = str(embargo.private)
    printed = embargo.run(
        *("serve", "--once", "--executor", "threads"), NEUROMIRROR_PRIVATE_STORE=private
    )
    assert embargo.embargoed_line(printed) == f"ok {NAME} embargoed: new state in the private store"
    assert embargo.commits(embargo.private)
    with Schedule.open(embargo.public / "neuromirror" / "schedule.sqlite") as opened:
        assert opened.task(NAME) is None
    embargo.assert_no_canary_outside()

    full_demo.unembargo(ID)
    with Schedule.open(embargo.public / "neuromirror" / "schedule.sqlite") as opened:
        row = opened.task("demo")
        assert row is not None
        opened.drop(["demo"])
    embargo.run("serve", "--once", "--executor", "threads", NEUROMIRROR_PRIVATE_STORE=private)
    assert embargo.commits(embargo.public)


def test_without_its_private_store_such_a_mirror_is_not_served(
    full_demo: DemoArchive, tmp_path: Path
) -> None:
    embargo = EmbargoHarness(full_demo, tmp_path / "stores")
    embargo.write_mirror_file()
    result = embargo.run("serve", "--once", code=2)
    assert "with --private-store or NEUROMIRROR_PRIVATE_STORE" in result
    assert not embargo.public.exists()


def test_a_failed_housekeeping_task_stays_recorded_until_it_succeeds(
    schedule: Schedule, log: FailureLog, mirror_harness: MirrorHarness
) -> None:
    work, clock = RecordedTasks(), ManualClock()
    work.fails.add("backup")
    times = HousekeepingScheduler(
        [work.task("backup", HOUR)], schedule, RecordingObserver(), log, clock=clock
    )
    assert times.run_due() == 1
    with mirror_harness.index() as index:
        (failure,) = index.crawl.failures()
    assert (failure.task, failure.mirror, failure.dataset) == ("backup", "", None)
    rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
    with mirror_harness.index() as index:
        assert index.crawl.failures() == [failure]
    work.fails.clear()
    clock.now += 2 * HOUR
    assert times.run_due() == 0
    with mirror_harness.index() as index:
        assert index.crawl.failures() == []
