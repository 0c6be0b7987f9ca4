"""A release makes its dataset due at once; what upstream refuses is requested again."""

from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import open_recorder, release_hold
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.mirror_harness import MirrorHarness
from support.service_harness import DAY, HOUR, ManualExecutor, ServiceHarness, open_service_harness

NAME, ID = "demo:000001", "000001"
GUARDS = "[guards]\nmax_removed_percent = 0\nmax_removed_files = 0\n"


@pytest.fixture
def guarded(mirror_harness: MirrorHarness, demo: DemoArchive) -> MirrorHarness:
    """A mirror that holds every state that lost a file."""
    demo.add_file(ID, "more.txt", "More notes.\n")
    path = mirror_harness.mirrors / "demo.toml"
    path.write_text(path.read_text("utf-8") + GUARDS)
    return mirror_harness


def hold(harness: ServiceHarness, demo: DemoArchive) -> str:
    """Has the service meet a listing that lost a file, and list once more; gives the hold's id."""
    harness.settle()
    demo.remove_file(ID, demo.paths(ID)[0])
    for _ in range(2):
        harness.clock.now += 2 * HOUR
        harness.settle()
    assert harness.row(NAME).status == "held"
    with harness.job_harness.mirror_harness.index() as index:
        (found,) = index.crawl.open_holds()
    return found.hold


def released(mirror_harness: MirrorHarness, found: str) -> int:
    arguments = [
        "--mirrors",
        str(mirror_harness.mirrors),
        "--store",
        str(mirror_harness.folder),
        "release",
        found,
    ]
    return CliRunner().invoke(main, arguments).exit_code


def test_a_running_service_visits_what_was_released_at_once(
    guarded: MirrorHarness, demo: DemoArchive
) -> None:
    with open_service_harness(guarded) as harness:
        hold(harness, demo)
        harness.take_results()
        assert released(guarded, NAME) == 0
        assert harness.settle().count("visit") == 1
        assert harness.take_results()[NAME].versions


def test_what_is_released_while_it_is_visited_is_visited_once_more(
    guarded: MirrorHarness, demo: DemoArchive
) -> None:
    with open_service_harness(guarded) as harness:
        found = hold(harness, demo)
        clock = harness.clock
    manual_executor = ManualExecutor()
    with open_service_harness(guarded, executor=manual_executor, clock=clock) as harness:
        harness.job_harness.schedule.make_due(NAME, clock.now)
        harness.service.tick()
        future, function, args = manual_executor.take(NAME)
        report = manual_executor.call(function, args)
        clock.now += 1
        # as the command does, with the clock of the service
        release_hold(harness.job_harness.recorder, found)
        harness.job_harness.schedule.make_due(NAME, clock.now)
        clock.now += 1
        future.set_result(report)
        harness.service.tick()
        harness.service.tick()
        assert NAME in manual_executor.names


# --- refused data

WITH_ZARR, ZARR = "demo:000901", "sub-1/small.ome.zarr"


def test_a_refused_zarr_is_requested_every_day(
    tmp_path: Path, demo_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.crawl.listing.LASTING_AFTER", timedelta(0))
    with DemoArchive(tmp_path / "archive", cache=demo_files, empty=True) as archive:
        archive.create_dandiset(Description("Zarrs"), identifier="000901")
        archive.add_file("000901", "README.md", b"a Zarr")
        archive.add_zarr("000901", ZARR, {".zgroup": b"{}", "0/0": b"chunk"})
        zarr = archive.find_zarr("000901", ZARR).zarr_id
        fault = archive.fault("status", server="s3", path=f"/zarr/{zarr}/.", status=403)
        mirror_harness = MirrorHarness(archive.mirrors, tmp_path / "store")
        with open_service_harness(mirror_harness) as harness:
            for _ in range(10):  # longer than it takes to be disabled
                struck = fault.struck
                harness.settle()
                assert fault.struck > struck
                assert harness.take_results()[WITH_ZARR].visit == "partial"
                harness.clock.now += 1.2 * DAY
            archive.clear_faults()
            harness.settle()
            result = harness.take_results()[WITH_ZARR]
            assert (result.exit_code, result.visit) == (0, "full")
            assert not harness.row(WITH_ZARR).disabled


def test_a_service_that_starts_later_visits_what_was_released_at_once(
    guarded: MirrorHarness, demo: DemoArchive
) -> None:
    with open_service_harness(guarded) as harness:
        found = hold(harness, demo)
        clock = harness.clock
    with open_recorder(guarded.store, guarded.store.index_path) as recorder:
        release_hold(recorder, found)
    with open_service_harness(guarded, clock=clock) as harness:
        harness.settle()
        assert harness.take_results()[NAME].versions
