"""A catalogue of several processes, which uvicorn starts and replaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue
from support.store_states import wait_until


def workers(pid: int) -> set[int]:
    """Return the processes below a process that serve pages."""
    tasks = Path("/proc", str(pid), "task").glob("*/children")
    found = {int(one) for path in tasks for one in path.read_text().split()}
    return {
        one for one in found if b"spawn_main" in Path("/proc", str(one), "cmdline").read_bytes()
    }


def test_a_worker_that_dies_is_replaced_and_all_end_with_the_catalogue(
    copied_harness: MirrorHarness,
) -> None:
    store = copied_harness.store
    command = [sys.executable, "-m", "neuromirror", "--json", "--store", str(store.root)]
    command += ["catalogue", "--listen", "127.0.0.1:0", "--workers=2", "--log-json"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        site = RunningCatalogue(json.loads(process.stdout.readline())["url"], process.pid)
        assert all(site.get("/mirrors").ok for _ in range(8))
        first = workers(site.pid)
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        wait_until(lambda: len(workers(site.pid) - first) == 1)
        assert all(site.get("/dataset/demo:000002").ok for _ in range(8))
        store.index_path.rename(store.index_path.with_name("away"))
        assert {site.get("/dataset/demo:000001").status_code for _ in range(8)} == {503}
        last = workers(site.pid)
        process.terminate()
        log = process.stderr.read()
        assert process.wait(timeout=600) == 0
    assert len(last) == 2
    assert not any(Path(f"/proc/{one}/cmdline").exists() for one in last)
    # the log of a worker has the form that was asked for
    assert [json.loads(line)["message"] for line in log.splitlines()]
