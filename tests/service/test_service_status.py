"""``neuromirror status`` about the service of a store."""

import json
import os
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from neuromirror.cli import main
from neuromirror.index import Schedule
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.service_harness import DAY, HOUR, ManualClock, ManualExecutor, open_service_harness


def status(mirror_harness: MirrorHarness) -> tuple[int, list[dict[str, Any]]]:
    arguments = ["--mirrors", str(mirror_harness.mirrors), "--store", str(mirror_harness.folder)]
    result = CliRunner().invoke(main, ["--json", *arguments, "status"])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def test_a_service_that_ended_nine_days_ago_is_a_problem(mirror_harness: MirrorHarness) -> None:
    clock = ManualClock()
    clock.now -= 9 * DAY
    with open_service_harness(mirror_harness, clock=clock) as harness:
        harness.settle()
    code, records = status(mirror_harness)
    # the list was read just now, as ``sync`` would have done
    assert (code, [one["is_running"] for one in records if one.get("kind") == "service"]) == (
        0,
        [False],
    )
    os.utime(mirror_harness.folder / "neuromirror/listed/demo", (clock.now, clock.now))
    code, records = status(mirror_harness)
    assert code == 1
    (problem,) = [record["message"] for record in records if record["status"] == "error"]
    assert problem.startswith("no service runs on this store since 20")
    assert "the lists of demo are overdue" in problem

    # neither is a service that runs and reads no list; one that waits for its next turn is none
    store = mirror_harness.store
    with Schedule.open(store.schedule_path) as schedule, store.lock("service", "the service"):
        code, records = status(mirror_harness)
        assert code == 1
        assert "although a service runs" in records[-1]["message"]
        row = schedule.task("demo")
        assert row is not None
        schedule.put([replace(row, due=time.time() - HOUR)])
        assert status(mirror_harness)[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_user_who_may_only_read_the_store_sees_its_status(mirror_harness: MirrorHarness) -> None:
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
    with TemporaryDirectory(prefix="neuromirror-") as folder:
        Path(folder).chmod(0o755)
        shared = MirrorHarness(Path(folder) / "mirrors", Path(folder) / "store")
        shutil.copytree(mirror_harness.mirrors, shared.mirrors)
        shutil.copytree(mirror_harness.folder, shared.folder, symlinks=True)
        expected = status(shared)
        for path in (shared.folder / "neuromirror").glob("*.sqlite-*"):
            path.unlink()
        before = sorted(shared.folder.rglob("*"))
        os.seteuid(65534)
        try:
            assert status(shared) == expected
        finally:
            os.seteuid(0)
        assert sorted(shared.folder.rglob("*")) == before


def test_an_interrupted_first_sync_shows_what_is_missing(mirror_harness: MirrorHarness) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor) as harness:
        harness.read_list()
        datasets = len(manual_executor.names)
        manual_executor.run(manual_executor.names[0])
        harness.service.tick()
    (mirror,) = [one for one in status(mirror_harness)[1] if one.get("uri")]
    assert mirror["unvisited"] == datasets - 1 > 0


def test_an_outage_leaves_an_event_with_its_begin_and_end(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo")
    demo.fault("status", path=r"/dandisets/", status=403)
    mirror_harness.sync("demo")
    demo.clear_faults()
    mirror_harness.sync("demo")
    with mirror_harness.index() as index:
        (event,) = index.crawl.events(kind="outage")
    assert (event.mirror, event.dataset, event.data["task"]) == ("demo", None, "list")
    assert event.data["begin"] <= event.data["end"]
    assert "HTTP 403" in event.message
