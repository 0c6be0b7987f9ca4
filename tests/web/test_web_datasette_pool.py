"""A request for tables whose client has left holds its process no longer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from neuromirror.web.server import datasette_pool
from neuromirror.web.server.datasette_pool import DatasettePool, DatasetteTimeoutError
from support.mirror_harness import MirrorHarness


def scope(sql: str) -> dict[str, Any]:
    return {
        "method": "GET",
        "path": "/index.json",
        "raw_path": b"/index.json",
        "query_string": f"sql={quote(sql)}".encode(),
        "scheme": "http",
        "headers": [(b"host", b"localhost")],
    }


async def _settle(pool: DatasettePool) -> None:
    """Wait until no request is in progress, and until a new one is answered."""
    async with asyncio.timeout(600):
        while pool.busy:
            await asyncio.sleep(0.01)
    assert (await pool.respond(scope("select 1"))).status == 200


@pytest.fixture(scope="module")
def pool(runner: asyncio.Runner, demo_harness: MirrorHarness) -> Iterator[DatasettePool]:
    """A pool, whose processes are those of all tests here unless they end."""
    store = demo_harness.store
    made = DatasettePool(store.root, store.index_path, title="", address="", sql=True)

    async def close() -> None:
        made.close()

    yield made
    runner.run(close())


def test_the_process_of_a_client_that_left_is_ended(
    runner: asyncio.Runner, pool: DatasettePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasette_pool, "TIMEOUT_SECONDS", 36_000.0)

    async def leave() -> None:
        assert (await pool.respond(scope("select 1"))).status == 200
        process = pool.idle[-1]
        # it answers nothing any more, as in a function that nothing interrupts
        os.kill(process.pid, signal.SIGSTOP)
        replying = asyncio.ensure_future(pool.respond(scope("select 1")))
        while not process.pending:
            await asyncio.sleep(0.01)
        replying.cancel()
        await _settle(pool)

    runner.run(leave())


def test_a_function_that_nothing_interrupts_is_ended_with_its_process(
    runner: asyncio.Runner, pool: DatasettePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "with recursive n(i) as (select 1 union all select i+1 from n limit 40)"
    long, half = (f"printf('%.*c',{length},'a')" for length in (900_000, 400_000))

    async def block() -> None:
        assert (await pool.respond(scope("select 1"))).status == 200
        monkeypatch.setattr(datasette_pool, "TIMEOUT_SECONDS", 1.5)
        with pytest.raises(DatasetteTimeoutError):
            await pool.respond(scope(f"{rows} select sum(instr({long}, {half}||i)) from n"))
        monkeypatch.setattr(datasette_pool, "TIMEOUT_SECONDS", 600.0)
        await _settle(pool)

    runner.run(block())


def test_cancelled_request_frees_its_slot(runner: asyncio.Runner, pool: DatasettePool) -> None:
    async def cancel_at_once() -> None:
        for _ in range(20):
            replying = asyncio.ensure_future(pool.respond(scope("select 1")))
            await asyncio.sleep(0)
            replying.cancel()
            await asyncio.gather(replying, return_exceptions=True)
        await _settle(pool)

    runner.run(cancel_at_once())
