"""A request for tables whose client has left holds its process no longer."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any
from urllib.parse import quote

import pytest

from neuromirror.web.server import datasette_pool
from neuromirror.web.server.datasette_pool import DatasettePool
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


async def _abandon(pool: DatasettePool) -> None:
    assert (await pool.respond(scope("select 1"))).status == 200
    (process,) = pool._idle
    # it answers nothing any more, as in a function that nothing interrupts
    os.kill(process._process.pid, signal.SIGSTOP)
    replying = asyncio.ensure_future(pool.respond(scope("select 1")))
    while not pool._busy or pool._idle:
        await asyncio.sleep(0.01)
    replying.cancel()
    async with asyncio.timeout(600):
        while pool._busy:
            await asyncio.sleep(0.05)
    assert (await pool.respond(scope("select 1"))).status == 200


def test_the_process_of_a_client_that_left_is_ended(
    demo_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasette_pool, "TIMEOUT_SECONDS", 36_000.0)
    store = demo_harness.store
    pool = DatasettePool(store.root, store.index_path, title="", address="", sql=True)
    try:
        asyncio.run(_abandon(pool))
    finally:
        pool.close()


async def _cancel_at_once(pool: DatasettePool) -> None:
    for _ in range(20):
        replying = asyncio.ensure_future(pool.respond(scope("select 1")))
        await asyncio.sleep(0)
        replying.cancel()
        async with asyncio.timeout(600):
            while pool._busy:
                await asyncio.sleep(0.01)


def test_cancelled_request_frees_its_slot(demo_harness: MirrorHarness) -> None:
    store = demo_harness.store
    pool = DatasettePool(store.root, store.index_path, title="", address="", sql=True)
    try:
        asyncio.run(_cancel_at_once(pool))
    finally:
        pool.close()
