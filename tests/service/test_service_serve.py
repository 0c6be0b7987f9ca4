"""``neuromirror serve`` as a process: killed, told to end, started twice, started by cron."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from crawl_place import Place
from served import environment, once, serving

from neuromirror.index import Schedule
from neuromirror.model import VersionMinted
from neuromirror_demo import DemoArchive

HASTY = "import neuromirror.service.serve as s; s._PATIENCE, s._LAST, s._REREAD = 1.0, 6.0, 1"


def published(place: Place) -> dict[str, str]:
    return {name: sha for name, sha in place.refs().items() if "/published" in name}


def minted(place: Place) -> Counter[tuple[str, str, str, str]]:
    """How often each version of each dataset was minted."""
    return Counter(
        (one.local_id, one.kind, one.label, one.state) for one in place.entries(VersionMinted)
    )


def test_killed_mid_visit_and_started_again_it_makes_what_a_sync_makes(
    place: Place, demo: DemoArchive
) -> None:
    other = Place(place.mirrors, place.folder.with_name("by-sync"))
    other.sync()
    fault = demo.fault("hang", path=r"/dandisets/00000[237]/versions/.*/assets", seconds=3600)
    with serving(place, "--workers", "3") as served:
        served.wait_for("visited", outcome="changed")
        served.wait(lambda: fault.struck)
        workers = served.children()
        assert workers
        with Schedule.open(place.store.schedule_path) as schedule:
            assert schedule.leases(0)
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
    fault.clear()
    served.wait_gone(workers)
    before = minted(place)
    assert before
    assert before < minted(other)

    results = once(place)
    assert {one["status"] for one in results} <= {"ok", "notneeded"}
    assert minted(place) == minted(other)
    assert set(minted(place).values()) == {1}
    assert published(place) == published(other)
    with Schedule.open(place.store.schedule_path) as schedule:
        assert schedule.leases(0) == []
        assert all(row.failures == 0 for row in schedule.tasks())
    place.fsck(killed=True)


def test_a_worker_that_is_killed_costs_one_visit(place: Place, demo: DemoArchive) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=3600)
    with serving(place, "--workers", "1", first=HASTY) as served:
        served.wait(lambda: fault.struck)
        (worker,) = served.children()
        os.kill(worker, signal.SIGKILL)
        failed = served.wait_for("visited", outcome="failed")
        assert failed["dataset"] == "demo:000002"
        assert "demo:000002" in failed["message"]
        assert failed["visit"]
        # a new one takes its place
        served.wait(lambda: len(served.told("visited", outcome="changed")) > 3)
        assert served.end(signal.SIGTERM) == 0
    fault.clear()
    (row,) = place.index().visits("demo:000002")
    assert (row.status, row.message) == ("failed", failed["message"])
    place.sync()
    assert place.index().dataset("demo:000002").versions > 0


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_sigterm_waits_a_while_and_leaves_what_takes_longer(
    place: Place, demo: DemoArchive, kind: str
) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=3600)
    with serving(place, "--workers", "2", "--executor", kind, first=HASTY) as served:
        served.wait(lambda: fault.struck)
        workers = served.children()
        assert bool(workers) == (kind == "processes")
        assert served.end(signal.SIGTERM, 30) == 0
        assert served.told("stopping")[0]["message"].startswith("SIGTERM")
        assert "demo:000002" in served.told("stopped")[0]["message"]
        assert served.other == []
    served.wait_gone(workers)
    fault.clear()
    with Schedule.open(place.store.schedule_path) as schedule:
        assert schedule.leases(0) == []
        row = schedule.task("demo:000002")
        assert row is not None
        assert (row.failures, row.ended) == (0, None)
    once(place)
    assert place.index().dataset("demo:000002").versions > 0


def test_sigterm_lets_a_visit_come_to_its_end(place: Place, demo: DemoArchive) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=2, times=1)
    with serving(place, "--workers", "1") as served:
        served.wait(lambda: fault.struck)
        assert served.end(signal.SIGTERM, 30) == 0
        assert served.told("stopped")[0]["message"] == "nothing was left"
        # but nothing new is begun
        assert served.told("visited")[-1]["dataset"] == "demo:000002"
    assert place.index().dataset("demo:000002").versions > 0


def test_a_second_signal_ends_it_at_once(place: Place, demo: DemoArchive) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=3600)
    with serving(place, "--workers", "1") as served:
        served.wait(lambda: fault.struck)
        served.process.send_signal(signal.SIGINT)
        served.wait_for("stopping")
        assert served.end(signal.SIGINT, 5) == 130
    fault.clear()


def test_a_store_has_one_service(place: Place) -> None:
    with serving(place) as served:
        served.wait_for("started")
        (said,) = once(place, code=1)
        assert said["message"].startswith("another 'neuromirror serve' works on the store")
        assert "stop that one first" in said["message"]
        # and the first one took no notice
        assert served.end(signal.SIGTERM) == 0


def test_it_serves_figures_and_reads_its_files_again(place: Place, demo: DemoArchive) -> None:
    file = place.mirrors / "demo.toml"
    right = file.read_text("utf-8")
    with serving(place, "--metrics", "127.0.0.1:0", first=HASTY) as served:
        address = served.wait_for("health")["message"].removesuffix("/healthz")
        served.wait_for("started")
        served.wait(lambda: len(served.told("visited")) > 5)

        def page(name: str) -> str:
            with urllib.request.urlopen(f"{address}/{name}") as answer:
                return str(answer.read().decode())

        assert page("healthz") == "ok\n"
        assert page("readyz") == "ok\n"
        jobs = r'neuromirror_jobs_total\{kind="visit",mirror="demo",outcome="changed"\} (\d+)\.0'
        found = re.search(jobs, page("metrics"))
        assert found is not None
        assert int(found[1]) > 3

        file.write_text("source = \n", "utf-8")
        assert "not valid TOML" in served.wait_for("mirror file wrong")["message"]
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        file.write_text(f"{right}\n[schedule]\nlist_minutes = 30\n", "utf-8")
        served.wait_for("mirror changed")
        served.wait(lambda: len(served.told("visited", dataset="demo:000001")) > 1)
        # the super-datasets follow
        served.wait_for("grouped", outcome="changed")
        assert served.end(signal.SIGTERM) == 0
    assert served.other == []


def test_once_does_what_is_due_and_says_it_as_a_sync_does(place: Place, demo: DemoArchive) -> None:
    demo.fault("status", path=r"/dandisets/000002/versions/", status=403)
    first = once(place, "--executor", "threads", code=1)
    told = {one["dataset"]: one for one in first}
    assert told["demo:000002"]["status"] == "error"
    assert {one["action"] for one in first} == {"serve"}
    assert told["demo:000001"]["versions"]
    assert "demo refs/heads/main" in place.refs()
    # what failed waits for its time
    assert once(place, "--executor", "threads") == []


def test_without_its_extra_it_says_what_to_install(place: Place) -> None:
    program = (
        "import sys; sys.modules['apscheduler'] = None; from neuromirror.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve"],
        env=environment(place),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "needs the extra 'service'" in done.stderr
    assert "pip install 'neuromirror[service]'" in done.stderr
    assert not place.folder.exists()


def test_wrong_words_are_refused_before_anything_is_made(place: Place, tmp_path: Path) -> None:
    for words, said in (
        (["demo:000001"], "'demo:000001' is a dataset, and mirrors are served"),
        (["dmeo"], "there is no mirror 'dmeo'"),
        (["--metrics", "here"], "'here' is not an address"),
        (["--worker-memory", "lots"], "'lots' is not a size"),
        (["--worker-memory", "1M"], "a worker needs 256M at the least"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "neuromirror", "serve", *words],
            env=environment(place),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not place.folder.exists()
