"""A catalogue of several processes, which uvicorn starts and replaces."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import requests

from neuromirror.store import Store
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


def connections(pid: int) -> int:
    """Return the number of clients that are connected to a process."""
    found = psutil.Process(pid).net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED for one in found)


@contextmanager
def running(store: Store, *more: str) -> Iterator[tuple[RunningCatalogue, subprocess.Popen[str]]]:
    """Run a catalogue of two processes, and kill it at last if it has not ended."""
    command = [sys.executable, "-m", "neuromirror", "--json", "--store", str(store.root)]
    command += ["catalogue", "--listen", "127.0.0.1:0", "--workers=2", "--log-json", *more]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        site = RunningCatalogue(json.loads(process.stdout.readline())["url"], process.pid)
        wait_until(lambda: len(workers(site.pid)) == 2)
        yield site, process


def test_a_worker_that_dies_is_replaced_and_all_end_with_the_catalogue(
    copied_harness: MirrorHarness,
) -> None:
    store = copied_harness.store
    with running(store) as (site, process):
        assert all(site.get("/mirrors").ok for _ in range(8))
        first = workers(site.pid)
        os.kill(min(first), signal.SIGKILL)
        wait_until(lambda: len(workers(site.pid) - first) == 1)
        assert all(site.get("/dataset/demo:000002").ok for _ in range(8))
        store.index_path.rename(store.index_path.with_name("away"))
        assert {site.get("/dataset/demo:000001").status_code for _ in range(8)} == {503}
        last = workers(site.pid)
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
        assert process.wait(timeout=600) == -signal.SIGTERM
    assert len(last) == 2
    assert not any(Path(f"/proc/{one}/cmdline").exists() for one in last)
    # the log of a worker has the form that was asked for
    assert [json.loads(line)["message"] for line in log.splitlines()]


def test_workers_share_clients_and_their_limits_and_none_outlives_the_catalogue(
    demo_harness: MirrorHarness,
) -> None:
    with running(demo_harness.store, "--limit=search=5") as (site, process):

        def ask(*pages: str) -> tuple[list[int], int]:
            """Return the statuses over as many connections, and how many the idler worker has."""
            with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
                opened = [stack.enter_context(requests.Session()) for _ in pages]
                asking = pool.map(lambda one, page: one.get(site.address + page), opened, pages)
                statuses = [one.status_code for one in asking]
                return statuses, min(map(connections, workers(site.pid)))

        wait_until(lambda: ask(*["/help"] * 8)[1] > 0)  # both have started
        for _ in range(5):
            assert ask(*["/help"] * 8)[1] >= 2
        found = [ask(f"/api/v1/search?q=word{number}")[0][0] for number in range(8)]
        assert found == [200] * 5 + [429] * 3
        left = workers(site.pid)
        process.kill()
        wait_until(lambda: not any(Path(f"/proc/{one}/cmdline").exists() for one in left))
