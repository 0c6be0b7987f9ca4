"""Jobs that use the writer make the same store as a sync; a lost lease or index loses nothing."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import msgspec
import pytest

from neuromirror.crawl import RefMove, rebuild_index
from neuromirror.crawl.recorder import LeaseLostError
from neuromirror.index import (
    Index,
    IndexBusyError,
    IndexMissingError,
    MalformedQueryError,
    RemoteIndex,
    Schedule,
    UnknownMirrorError,
    connection,
)
from neuromirror.model import DatasetRef, EventRaised, NeuromirrorError
from neuromirror.service.jobs import JobRecorder
from neuromirror.service.writer import JobWriter
from neuromirror.store import MAIN_BRANCH, RefsMovedError
from neuromirror_demo import DemoArchive
from support.job_harness import JobHarness
from support.mirror_harness import MirrorHarness
from support.store_states import comparable_states


@pytest.fixture
def demo(full_demo: DemoArchive) -> DemoArchive:
    return full_demo


def _all_visited(job_harness: JobHarness) -> list[str]:
    """Read the list, visit due datasets, update the superdatasets; return the visited names."""
    listed = job_harness.run_job("listing", "demo", far=True)
    names = [task.hint.dataset.local_id for task in listed.due]
    for task in listed.due:
        local_id = task.hint.dataset.local_id
        done = job_harness.run_job("visit", f"demo:{local_id}", hint=task.hint, far=True)
        assert [result.exit_code for result in done.results] == [0], done.results
    report = job_harness.run_job("superdatasets", "demo", far=True)
    assert [result for result in report.results if result.exit_code] == []
    return names


def test_jobs_of_workers_make_what_a_sync_makes(
    job_harness: JobHarness, mirror_harness: MirrorHarness
) -> None:
    names = _all_visited(job_harness)
    assert len(names) > 3

    other = MirrorHarness(mirror_harness.mirrors, mirror_harness.folder.with_name("by-sync"))
    other.sync()
    assert comparable_states(mirror_harness) == comparable_states(other)
    # one file has no sha256 yet, which needs another visit
    assert _all_visited(job_harness) == ["000004"]
    mirror_harness.fsck()


def test_an_expired_lease_holds_until_another_owner_takes_it(job_harness: JobHarness) -> None:
    lease = job_harness.lease("demo:000001", seconds=-1)
    assert job_harness.run_job("visit", "demo:000001", lease=lease).results[0].status == "ok"


@contextmanager
def far_recorder(job_harness: JobHarness, name: str = "demo") -> Iterator[JobRecorder]:
    """The recorder of a job on another machine."""
    with (
        closing(job_harness.writer.open(job_harness.job("listing", name))) as channel,
        closing(JobRecorder(channel, job_harness.mirror_harness.store, None)) as recorder,
    ):
        yield recorder


QUERIES: dict[str, Callable[[Index | RemoteIndex], Any]] = {
    "capabilities": lambda index: index.crawl.capabilities("demo"),
    "dataset": lambda index: index.datasets.get("demo:000001"),
    "datasets": lambda index: list(index.datasets.select("demo")),
    "events": lambda index: list(index.crawl.events("demo:000001", limit=3)),
    "exceptions": lambda index: index.versions.exceptions(index.versions.resolve("demo:000004")),
    "exclusive_subdatasets": lambda index: index.datasets.exclusive_subdatasets("demo:000005"),
    "failed_tasks": lambda index: index.crawl.failed_tasks(),
    "has_failures": lambda index: index.crawl.has_failures("demo"),
    "known_contents": lambda index: index.files.known_contents(["0" * 32, f"{'0' * 32}-2"]),
    "known_locations": lambda index: index.locations.known(["https://example.org/a"]),
    "last_version": lambda index: index.versions.last("demo:000001", kind="published"),
    "last_visits": lambda index: index.crawl.last_visits("demo"),
    "links": lambda index: index.datasets.links("demo:000001"),
    "local_ids_with_versions": lambda index: index.datasets.local_ids_with_versions(
        "demo", [one.dataset_id for one in index.datasets.select("demo")]
    ),
    "mirror_status": lambda index: list(index.crawl.mirrors()),
    "names_in_other_mirrors": lambda index: index.datasets.names_in_other_mirrors("other"),
    "open_holds": lambda index: list(index.crawl.open_holds()),
    "published_version": lambda index: index.versions.published("demo:000001", "draft"),
    "released_datasets": lambda index: index.crawl.released_datasets(),
    "released_states": lambda index: index.crawl.released_states("demo:000001"),
    "resolve": lambda index: index.versions.resolve("demo:000001"),
    "subdatasets": lambda index: [
        subdataset
        for row in index.datasets.select("demo")
        if row.versions
        for subdataset in index.versions.subdatasets(index.versions.resolve(row.name))
    ],
    "superdatasets": lambda index: index.datasets.superdatasets("demo:000001"),
    "tombstone": lambda index: index.datasets.tombstone("demo:000001"),
    "tombstones": lambda index: index.datasets.tombstones(),
    "versions": lambda index: list(index.versions.of("demo:000001")),
    "visits": lambda index: list(index.crawl.visits("demo:000001")),
}


def test_every_query_of_a_remote_job_has_the_answer_of_the_index(
    job_harness: JobHarness, mirror_harness: MirrorHarness
) -> None:
    mirror_harness.sync()
    with far_recorder(job_harness) as far:
        for name, query in QUERIES.items():
            assert far.ask(query) == job_harness.recorder.ask(query), name
        assert far.ask(QUERIES["versions"])


def test_errors_of_the_writer_keep_their_type(job_harness: JobHarness) -> None:
    with far_recorder(job_harness) as far:
        with pytest.raises(UnknownMirrorError):
            far.ask(lambda index: index.datasets.get("demo:000001"))
        for name in ("reader.rows", "crawl._db", "datasets", "datasets.dump", "search.datasets"):
            with pytest.raises(MalformedQueryError):
                far.query(name, {})
        with pytest.raises(MalformedQueryError):
            far.query("datasets.tombstone", {"name": 7})
        dataset = DatasetRef("demo", "000001", "https://example.org/")
        store = job_harness.mirror_harness.store
        store.repositories.of(dataset).create()
        with pytest.raises(RefsMovedError):
            far.publish(dataset, RefMove({MAIN_BRANCH: "0" * 40}, {MAIN_BRANCH: "1" * 40}))
        store.journal.path.unlink(missing_ok=True)
        store.journal.path.mkdir()
        with pytest.raises(IsADirectoryError):
            far.record(EventRaised("demo", "000001", "incident", "none", "2024-03-01T00:00:00Z"))


@pytest.mark.parametrize("method", ["move_refs", "append"])
def test_no_lease_is_taken_between_its_check_and_the_write(
    job_harness: JobHarness, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The lease has expired, and another process claims it while the request is applied."""
    store = job_harness.mirror_harness.store
    dataset = DatasetRef("demo", "000001", "https://example.org/")
    store.repositories.of(dataset).create()
    monkeypatch.setattr(connection, "READ_TIMEOUT", 0.0)
    lease = job_harness.lease("demo:000001", seconds=-1)
    taken = []
    write = getattr(job_harness.recorder, method)

    def raced(*arguments: Any) -> None:
        with Schedule.open(store.schedule_path) as other, suppress(IndexBusyError):
            taken.append(other.leases.claim("demo:000001", "another process", time.time(), 60))
        write(*arguments)

    monkeypatch.setattr(job_harness.recorder, method, raced)
    entry = EventRaised("demo", "000001", "incident", "none", "2024-03-01T00:00:00+00:00")
    job = job_harness.job("visit", "demo:000001", lease=lease)
    with (
        closing(job_harness.writer.open(job)) as channel,
        closing(JobRecorder(channel, store, None)) as recorder,
    ):
        if method == "append":
            recorder.record(entry)
        else:
            recorder.publish(dataset, RefMove({}, {}), entry)
        assert taken == []
        with Schedule.open(store.schedule_path) as other:
            assert other.leases.claim("demo:000001", "another process", time.time(), 60)
        with pytest.raises(LeaseLostError):
            recorder.record(entry)
    assert job_harness.recorder.ask(lambda index: len(list(index.crawl.events("demo:000001")))) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("a defect"), NeuromirrorError),
        (OSError(errno.ENOSPC, "full", "/store/\udcff"), OSError),
        (RefsMovedError("\udcff"), RefsMovedError),
    ],
)
def test_every_error_of_the_writer_is_a_reply(
    job_harness: JobHarness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    expected: type[Exception],
) -> None:
    def fail(*entries: Any) -> None:
        raise error

    monkeypatch.setattr(job_harness.recorder, "append", fail)
    with far_recorder(job_harness) as far, pytest.raises(expected) as caught:
        far.record()
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)
    # a defect is logged
    logged = [record.levelname for record in caplog.records]
    assert logged == ["ERROR"] * isinstance(error, RuntimeError)


def test_a_writer_that_was_closed_writes_nothing(job_harness: JobHarness) -> None:
    entry = EventRaised("demo", "000001", "incident", "none", "2024-03-01T00:00:00+00:00")
    size = job_harness.mirror_harness.store.journal.size()
    with far_recorder(job_harness) as far:
        job_harness.writer.close()
        with pytest.raises(LeaseLostError):
            far.record(entry)
    with far_recorder(job_harness, "demo:000001") as far, pytest.raises(LeaseLostError):
        far.record(entry)
    assert job_harness.mirror_harness.store.journal.size() == size


def test_neither_refs_nor_entries_are_written_for_a_lost_lease(job_harness: JobHarness) -> None:
    store = job_harness.mirror_harness.store
    dataset = DatasetRef("demo", "000001", "https://example.org/")
    store.repositories.of(dataset).create()
    entry = EventRaised("demo", "000001", "incident", "none", "2024-03-01T00:00:00+00:00")
    with far_recorder(job_harness) as far:
        far.record(entry)
        before = store.journal.size()
        (lease,) = job_harness.schedule.leases.in_force(0)
        job_harness.schedule.leases.release(lease.name, lease.token)
        with pytest.raises(LeaseLostError):
            far.record(entry)
        with pytest.raises(LeaseLostError):
            far.publish(dataset, RefMove({MAIN_BRANCH: None}, {MAIN_BRANCH: "1" * 40}), entry)
        # it may still read
        assert far.ask(lambda index: index.datasets.tombstones()) == []
    assert store.repositories.of(dataset).refs() == {}
    assert store.journal.size() == before


@pytest.mark.parametrize("whole", [False, True])
def test_closing_waits_for_the_request_in_progress_and_refuses_the_next(
    job_harness: JobHarness, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    entered, go = threading.Event(), threading.Event()
    append = job_harness.recorder.append

    def slow(*entries: Any) -> None:
        entered.set()
        assert go.wait(600)
        append(*entries)

    monkeypatch.setattr(job_harness.recorder, "append", slow)
    other = job_harness.writer.open(job_harness.job("listing", "demo"))
    with far_recorder(job_harness, "demo:000001") as far:
        channel = far._channel
        assert isinstance(channel, JobWriter)
        entry = EventRaised("demo", "000001", "incident", "none", "2024-03-01T00:00:00+00:00")
        recording = threading.Thread(target=far.record, args=(entry,))
        recording.start()
        assert entered.wait(600)
        # another job is closed, and reads, while this one is in progress
        assert b"Done" in other.request(
            msgspec.msgpack.encode(
                {"type": "Query", "name": "datasets.tombstones", "arguments": {}}
            )
        )
        other.close()
        closer = job_harness.writer if whole else channel
        closing_it = threading.Thread(target=closer.close)
        closing_it.start()
        assert closing_it.is_alive()
        go.set()
        closing_it.join(600)
        recording.join(600)
        with pytest.raises(LeaseLostError):
            far.record(entry)
    assert job_harness.recorder.ask(lambda index: len(list(index.crawl.events("demo:000001")))) == 1


def test_a_local_job_finds_an_index_that_was_deleted(job_harness: JobHarness) -> None:
    store = job_harness.mirror_harness.store
    store.index_path.unlink()
    with pytest.raises(IndexMissingError):
        Index.open_readonly(store.index_path)
    with (
        closing(job_harness.writer.open(job_harness.job("listing", "demo"))) as channel,
        closing(JobRecorder(channel, store, store.index_path)) as near,
    ):
        assert near.ask(lambda index: index.datasets.tombstones()) == []


# --- an index that is deleted or damaged under a service


def _names(mirror_harness: MirrorHarness) -> list[str]:
    with mirror_harness.index() as index:
        return sorted(one.name for one in index.datasets.select("demo"))


def test_an_index_deleted_under_the_service_is_rebuilt_from_the_journal(
    job_harness: JobHarness, mirror_harness: MirrorHarness
) -> None:
    assert job_harness.run_job("visit", "demo:000001").results[0].status == "ok"
    path = mirror_harness.store.index_path
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    (result,) = job_harness.run_job("visit", "demo:000002").results
    assert result.status == "ok", result.message
    assert _names(mirror_harness) == ["demo:000001", "demo:000002"]
    mirror_harness.fsck()


def test_a_corrupt_index_is_reported_and_the_service_continues_with_a_rebuilt_one(
    job_harness: JobHarness, mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    assert job_harness.run_job("visit", "demo:000001").results[0].status == "ok"
    path = mirror_harness.store.index_path
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (os.fstat(file.fileno()).st_size - 100))
    (result,) = job_harness.run_job("visit", "demo:000002").results
    if result.exit_code:
        assert "rebuild-index" in result.message
    rebuild_index(mirror_harness.store, path)
    demo.add_file("000002", "new.txt", b"new")
    assert job_harness.run_job("visit", "demo:000002").results[0].exit_code == 0
    assert _names(mirror_harness) == ["demo:000001", "demo:000002"]
    with mirror_harness.index() as index:
        paths = {one.path for one in index.files.of(index.versions.resolve("demo:000002", "draft"))}
    assert "new.txt" in paths
    mirror_harness.fsck(killed=True)
