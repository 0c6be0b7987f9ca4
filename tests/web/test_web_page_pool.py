"""Processes that make pages: the same pages, current data, and one set of limits."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from neuromirror.crawl import load_mirrors, open_recorder, rebuild_index
from neuromirror.crawl.takedown import take_down
from neuromirror.web.server import page_pool
from neuromirror.web.server.child_processes import Cancellation, encode
from neuromirror.web.server.page_pool import PagePool, PageProcessError, default_processes
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue

NAME = "demo:000002"
PATHS = (
    "/",
    "/search?q=mouse",
    "/search?q=nothing+has+this",
    "/search?species=Mus+musculus&sort=size",
    "/find?checksum=sha256:00000000",
    "/dataset/demo:000001",
    "/dataset/demo:000001@latest",
    "/dataset/demo:000001?add=demo:000001@latest",
    "/dataset/demo:999999",
    "/dataset/demo:0000%ff",
    "/events",
    "/mirrors",
    "/changes",
    "/feed.atom",
    "/sitemap.xml",
    "/badge/demo:000001@latest.svg",
    "/api/v1",
    "/api/v1/datasets",
    "/api/v1/datasets?nonsense=1",
    "/api/v1/datasets/demo:000001@latest/files",
    "/api/v1/datasets/demo:999999",
)


def options_of(harness: MirrorHarness, **changed: Any) -> dict[str, Any]:
    return {
        "store": str(harness.store.root),
        "index": str(harness.store.index_path),
        "settings": {"cutouts": False, "processes": 2, **changed},
    }


def scope(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    parts = urlsplit(path)
    given = {"host": "localhost", **{name.replace("_", "-"): v for name, v in headers.items()}}
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }


Reply = tuple[int, dict[str, str], bytes]


async def answer(pool: PagePool, request: Mapping[str, Any]) -> Reply:
    """Return the reply of one of the processes; fail if none made it."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def own_process() -> None:
        raise AssertionError

    await pool.respond(request, send, own_process)
    start, body = messages
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, body["body"]


async def all_ready(pool: PagePool) -> None:
    """Wait until both processes have started."""
    async with asyncio.timeout(120):
        while not all(one is not None and one.is_ready for one in pool._processes):
            await asyncio.sleep(0.02)


async def start_all(pool: PagePool) -> None:
    """Start the processes that do not run."""
    pool._start_missing()
    await all_ready(pool)


@contextmanager
def pool_of(runner: asyncio.Runner, harness: MirrorHarness) -> Iterator[PagePool]:
    """Provide a pool of two processes."""
    pool = PagePool(2, options_of(harness))

    async def close() -> None:
        pool.close()

    try:
        yield pool
    finally:
        runner.run(close())


@pytest.fixture(scope="module")
def shared_pool(runner: asyncio.Runner, demo_harness: MirrorHarness) -> Iterator[PagePool]:
    with pool_of(runner, demo_harness) as pool:
        yield pool


@pytest.fixture
def pool(
    runner: asyncio.Runner, shared_pool: PagePool, monkeypatch: pytest.MonkeyPatch
) -> PagePool:
    """A pool whose processes have started, and are replaced at once."""
    monkeypatch.setattr(page_pool, "_RESTART_SECONDS", 0.0)
    runner.run(start_all(shared_pool))
    return shared_pool


@pytest.fixture(scope="module")
def single_process(demo_harness: MirrorHarness) -> Iterator[RunningCatalogue]:
    """A catalogue that makes all pages itself."""
    with run_catalogue(demo_harness.store, "--processes", "1", "--no-cutouts") as found:
        yield found


def test_pages_are_those_of_a_single_process(
    runner: asyncio.Runner, pool: PagePool, single_process: RunningCatalogue
) -> None:
    host = urlsplit(single_process.address).netloc

    async def compare() -> None:
        for path in PATHS:
            expected = single_process.get(
                path, allow_redirects=False, headers={"Accept-Encoding": "gzip"}
            )
            status, headers, body = await answer(
                pool, scope(path, host=host, accept_encoding="gzip")
            )
            assert status == expected.status_code, path
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert body == expected.content, path
            for name in ("etag", "content-type", "content-encoding", "vary", "link", "location"):
                assert headers.get(name) == expected.headers.get(name), (path, name)
            if status == 200:
                unchanged = scope(path, host=host, if_none_match=headers["etag"])
                assert (await answer(pool, unchanged))[::2] == (304, b"")

    runner.run(compare())


def test_a_withdrawn_dataset_is_gone_at_once(
    runner: asyncio.Runner, copied_harness: MirrorHarness
) -> None:
    harness = copied_harness
    with harness.index() as index:
        title = index.dataset(NAME).title.encode()
    paths = (
        *("/", "/search", "/search?q=000002", f"/dataset/{NAME}", f"/dataset/{NAME}@latest"),
        *("/feed.atom", "/changes", "/api/v1/datasets", f"/api/v1/datasets/{NAME}"),
    )

    async def check(pool: PagePool) -> None:
        async def shown(times: int = 4) -> set[str]:
            found = set()
            for path in paths:
                replies = await asyncio.gather(*(answer(pool, scope(path)) for _ in range(times)))
                found |= {path for _, _, body in replies if title in body}
            return found

        await start_all(pool)
        # so often that every thread of both processes has a connection
        assert len(await shown(times=8)) > 5
        with open_recorder(harness.store, harness.store.index_path) as recorder:
            mirrors = load_mirrors(harness.mirrors)
            list(take_down(harness.store, recorder, NAME, "asked for", "me", mirrors))
        assert await shown() == set()
        assert (await answer(pool, scope(f"/dataset/{NAME}")))[0] == 410
        rebuild_index(harness.store, harness.store.index_path)
        assert await shown() == set()

    with pool_of(runner, harness) as pool:
        runner.run(check(pool))


def test_a_killed_process_fails_its_request_and_is_replaced(
    runner: asyncio.Runner, pool: PagePool
) -> None:
    async def check() -> None:
        for pause in (0.0, 0.001, 0.01):  # clients that leave are forgotten
            leaving = asyncio.ensure_future(answer(pool, scope("/dataset/demo:000001")))
            await asyncio.sleep(pause)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        assert [len(one.pending) for one in pool._processes if one is not None] == [0, 0]
        assert pool._in_progress == 0
        assert (await answer(pool, scope("/dataset/demo:000001")))[0] == 200
        first, second = pool._processes
        assert first is not None
        assert second is not None
        os.kill(first.pid, signal.SIGSTOP)  # it answers nothing any more
        stuck = asyncio.ensure_future(answer(pool, scope("/mirrors")))
        while not first.pending:
            await asyncio.sleep(0.01)
        assert (await answer(pool, scope("/mirrors")))[0] == 200  # by the other one
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(PageProcessError):
            await stuck
        assert (await answer(pool, scope("/mirrors")))[0] == 200
        await asyncio.gather(*(answer(pool, scope("/mirrors")) for _ in range(4)))
        await all_ready(pool)
        assert pool._processes[0] is not first

    runner.run(check())


def test_a_page_that_takes_too_long_leaves_the_others_and_a_hanging_process_is_stopped(
    runner: asyncio.Runner, pool: PagePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        first = pool._processes[0]
        assert first is not None
        os.kill(first.pid, signal.SIGSTOP)  # until it has two messages to read
        monkeypatch.setattr(page_pool, "_TIMEOUT_SECONDS", 2.0)
        slow = asyncio.ensure_future(pool._request(first, scope("/mirrors")))
        while not first.pending:
            await asyncio.sleep(0)
        # the process does not reply to it
        assert first._writer is not None
        first._writer.write(encode(Cancellation(*first.pending)))
        os.kill(first.pid, signal.SIGCONT)
        monkeypatch.setattr(page_pool, "_TIMEOUT_SECONDS", 60.0)
        assert (await pool._request(first, scope("/mirrors"))).status == 200
        with pytest.raises(PageProcessError):
            await slow
        assert first.pending == {}
        assert first.is_running
        assert (await pool._request(first, scope("/mirrors"))).status == 200
        os.kill(first.pid, signal.SIGSTOP)
        monkeypatch.setattr(page_pool, "_TIMEOUT_SECONDS", 0.2)
        with pytest.raises(PageProcessError):
            await pool._request(first, scope("/mirrors"))
        assert not first.is_running

    runner.run(check())


def test_the_number_of_processors_is_known_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert 1 <= default_processes() <= page_pool.MAX_PROCESSES


# --- the whole catalogue


def page_processes(site: RunningCatalogue) -> set[int]:
    """Return the ids of the processes that make pages."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == site.pid and "page_process" in command:
            found.add(int(folder.name))
    return found


@contextmanager
def busy(site: RunningCatalogue) -> Iterator[set[int]]:
    """Request pages at the same time until the catalogue has started its processes."""
    deadline = time.monotonic() + 120
    with ThreadPoolExecutor(4) as threads:
        while len(found := page_processes(site)) < 2 and time.monotonic() < deadline:
            list(threads.map(lambda one: site.get(f"/mirrors?{one}"), range(8)))
    yield found


def test_processes_start_with_the_second_page_at_a_time(
    demo_harness: MirrorHarness,
) -> None:
    with run_catalogue(demo_harness.store, "--processes", "2") as site:
        for path in PATHS:
            site.get(path)
        assert page_processes(site) == set()
        with busy(site) as found:
            assert len(found) == 2
            for path in PATHS:
                assert site.get(path).status_code in (200, 400, 404), path
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in found):
        assert time.monotonic() < deadline, "the processes outlive the catalogue"
        time.sleep(0.05)


def test_limits_hold_over_all_processes(demo_harness: MirrorHarness) -> None:
    with (
        run_catalogue(demo_harness.store, "--processes", "2", "--limit=search=3") as site,
        busy(site),
        ThreadPoolExecutor(8) as threads,
    ):
        started = time.monotonic()
        replies = threads.map(lambda one: site.get(f"/search?q=word{one}"), range(24))
        statuses = Counter(one.status_code for one in replies)
        # on a busy machine, the client may send another one after 20 seconds
        later = int((time.monotonic() - started) / 20)
        assert 3 <= statuses[200] <= 3 + later
        assert statuses[200] + statuses[429] == 24
