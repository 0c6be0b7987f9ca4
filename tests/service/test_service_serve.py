"""``neuromirror serve`` as a process: killed, stopped, started twice, started by cron."""

import os
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from neuromirror.index import Schedule
from neuromirror.model import VersionMinted
from neuromirror_demo import DemoArchive
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.service_process import SHORT_TIMEOUTS, running_service, serve_once
from support.store_states import comparable_states, wait_until

THREAD = ("--workers", "1", "--executor", "threads")


def minted_versions(mirror_harness: MirrorHarness) -> Counter[tuple[str, str, str, str]]:
    """How often each version of each dataset was minted."""
    return Counter(
        (entry.local_id, entry.kind, entry.label, entry.state)
        for entry in mirror_harness.entries(VersionMinted)
    )


def test_a_service_killed_during_a_visit_and_restarted_mints_what_a_sync_mints(
    shared_demo: DemoArchive, demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    other = demo_harness
    mirror_harness = MirrorHarness(shared_demo.mirrors, tmp_path / "store")
    fault = shared_demo.fault(
        "hang", path=r"/dandisets/00000[237]/versions/.*/assets", seconds=3600
    )
    short_leases = (
        "import neuromirror.service.engine as e; e.LEASE_SECONDS, e._RENEW_SECONDS = 2, 1"
    )
    first = f"{SHORT_TIMEOUTS}; {short_leases}"
    with running_service(mirror_harness, "--workers", "3", first=first) as service:
        service.wait_for("visited", outcome="changed")
        service.wait(lambda: fault.struck)
        workers = service.children()
        assert workers
        with Schedule.open(mirror_harness.store.schedule_path) as schedule:
            assert schedule.leases.in_force(0)
        assert service.send_signal(signal.SIGKILL) == -signal.SIGKILL
    fault.clear()
    service.wait_until_gone(workers)
    before = minted_versions(mirror_harness)
    assert before
    assert before < minted_versions(other)

    with Schedule.open(mirror_harness.store.schedule_path) as schedule:
        wait_until(lambda: not schedule.leases.in_force(time.time()))
    results = serve_once(mirror_harness, "--executor", "threads")
    assert {result["status"] for result in results} <= {"ok", "notneeded"}
    assert minted_versions(mirror_harness) == minted_versions(other)
    assert set(minted_versions(mirror_harness).values()) == {1}
    assert comparable_states(mirror_harness) == comparable_states(other)
    with Schedule.open(mirror_harness.store.schedule_path) as schedule:
        assert schedule.leases.in_force(0) == []
        assert all(row.failures == 0 for row in schedule.tasks())
    mirror_harness.fsck(killed=True)


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_sigterm_waits_a_while_and_leaves_what_takes_longer(
    mirror_harness: MirrorHarness, demo: DemoArchive, kind: str
) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=3600)
    with running_service(
        mirror_harness,
        *("--workers", "2", "--executor", kind),
        first=f"{SHORT_TIMEOUTS}; s._EXIT_TIMEOUT = 3.0",
    ) as service:
        service.wait(lambda: fault.struck)
        workers = service.children()
        assert bool(workers) == (kind == "processes")
        assert service.send_signal(signal.SIGTERM, 30) == 0
        assert service.find_events("stopping")[0]["message"].startswith("SIGTERM")
        assert "demo:000002" in service.find_events("stopped")[0]["message"]
        assert service.other_lines == []
    service.wait_until_gone(workers)
    fault.clear()
    with Schedule.open(mirror_harness.store.schedule_path) as schedule:
        assert schedule.leases.in_force(0) == []
        row = schedule.task("demo:000002")
        assert row is not None
        assert (row.failures, row.ended) == (0, None)
    serve_once(mirror_harness, *THREAD)
    assert mirror_harness.index().datasets.get("demo:000002").versions > 0


def test_a_store_has_one_service(mirror_harness: MirrorHarness) -> None:
    with running_service(mirror_harness, *THREAD) as service:
        service.wait_for("started")
        shell = Shell(mirror_harness.mirrors, mirror_harness.folder)
        (result,) = shell.records("serve", "--once", code=1)
        assert str(mirror_harness.folder) in result["message"]
        # and the first one took no notice
        assert service.send_signal(signal.SIGTERM) == 0


def test_it_serves_metrics_and_reloads_mirror_files(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    file = mirror_harness.mirrors / "demo.toml"
    right = file.read_text("utf-8")
    with running_service(
        mirror_harness, "--metrics", "127.0.0.1:0", *THREAD, first=SHORT_TIMEOUTS
    ) as service:
        address = service.wait_for("health server started")["message"].removesuffix("/healthz")
        service.wait_for("started")
        service.wait(lambda: len(service.find_events("visited")) > 2)

        def page(name: str) -> str:
            with urllib.request.urlopen(f"{address}/{name}") as answer:
                return str(answer.read().decode())

        assert page("healthz") == "ok\n"
        assert page("readyz") == "ok\n"
        jobs = r'neuromirror_jobs_total\{kind="visit",mirror="demo",outcome="changed"\} (\d+)\.0'
        found = re.search(jobs, page("metrics"))
        assert found is not None
        assert int(found[1]) == 3

        file.write_text("source = \n", "utf-8")
        assert "not valid TOML" in service.wait_for("mirror file invalid")["message"]
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        file.write_text(f"{right}\n[schedule]\nlist_minutes = 30\n", "utf-8")
        service.wait_for("mirror changed")
        service.wait(lambda: len(service.find_events("visited", dataset="demo:000001")) > 1)
        # the superdatasets follow
        service.wait_for("superdatasets updated", outcome="changed")
        assert service.send_signal(signal.SIGTERM) == 0
    assert service.other_lines == []


def test_once_runs_due_tasks_and_reports_like_sync(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    demo.fault("status", path=r"/dandisets/000002/versions/", status=403)
    first = serve_once(mirror_harness, "--executor", "threads", code=1)
    results = {one["dataset"]: one for one in first}
    assert results["demo:000002"]["status"] == "error"
    assert {one["action"] for one in first} == {"serve"}
    assert results["demo:000001"]["versions"]
    assert "demo refs/heads/main" in mirror_harness.refs()
    # what failed waits for its time
    assert serve_once(mirror_harness, "--executor", "threads") == []


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("apscheduler", "service", ["serve"]),
        ("starlette", "web", ["serve", "--catalogue", "127.0.0.1:0"]),
        ("uvicorn", "web", ["catalogue"]),
    ],
)
def test_a_missing_extra_is_reported_with_the_install_command(
    mirror_harness: MirrorHarness,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    arguments: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    error = Shell(mirror_harness.mirrors, mirror_harness.folder).run(*arguments, code=2).err
    assert f"needs the extra '{extra}'" in error
    assert f"pip install 'neuromirror[{extra}]'" in error
    assert not mirror_harness.folder.exists()


def test_invalid_arguments_are_refused_before_anything_is_created(
    mirror_harness: MirrorHarness,
) -> None:
    shell = Shell(mirror_harness.mirrors, mirror_harness.folder)
    for arguments, expected in (
        (["demo:000001"], "'demo:000001' is a dataset"),
        (["dmeo"], "'dmeo'"),
        (["--metrics", "here"], "'here' is not an address"),
        (["--worker-memory", "lots"], "'lots' is not a size"),
        (["--worker-memory", "1M"], "a worker needs at least 256MiB"),
    ):
        assert expected in shell.run("serve", *arguments, code=2).err
    assert not mirror_harness.folder.exists()


@pytest.mark.parametrize("dandisets", [6])
def test_a_visit_whose_worker_is_killed_is_repeated_at_once(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=99, times=1)
    with running_service(mirror_harness, "--workers", "1", first=SHORT_TIMEOUTS) as service:
        service.wait(lambda: fault.struck)
        (worker,) = service.children()
        os.kill(worker, signal.SIGKILL)
        lost = service.wait_for("repeated", outcome="failed")
        assert lost["dataset"] == "demo:000002"
        assert "the worker process was killed" in lost["message"]
        service.wait_for("visited", dataset="demo:000002", outcome="changed")
        assert service.send_signal(signal.SIGTERM) == 0
    (row,) = mirror_harness.index().crawl.visits("demo:000002")
    assert row.status == "full"


def test_sigterm_lets_a_visit_come_to_its_end(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=1, times=1)
    with running_service(mirror_harness, *THREAD) as service:
        service.wait(lambda: fault.struck)
        assert service.send_signal(signal.SIGTERM, 30) == 0
        assert service.find_events("stopped")[0]["message"] == "all jobs finished"
        # but nothing new is begun
        assert service.find_events("visited")[-1]["dataset"] == "demo:000002"
    assert mirror_harness.index().datasets.get("demo:000002").versions > 0


def test_a_second_signal_ends_it_at_once(mirror_harness: MirrorHarness, demo: DemoArchive) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=3600)
    with running_service(mirror_harness, *THREAD) as service:
        service.wait(lambda: fault.struck)
        os.kill(service.pid, signal.SIGINT)
        service.wait_for("stopping")
        assert service.send_signal(signal.SIGINT, 5) == 130
    fault.clear()
