"""A request for tables whose client has left holds its process no longer."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any
from urllib.parse import quote

import pytest
from crawl_place import Place

from neuromirror.web.server import tables
from neuromirror.web.server.tables import Tables


def scope(sql: str) -> dict[str, Any]:
    return {
        "method": "GET",
        "path": "/index.json",
        "raw_path": b"/index.json",
        "query_string": f"sql={quote(sql)}".encode(),
        "scheme": "http",
        "headers": [(b"host", b"localhost")],
    }


async def _abandon(asked: Tables) -> None:
    assert (await asked.reply(scope("select 1"))).status == 200
    (process,) = asked._idle
    # it answers nothing any more, as in a function that nothing interrupts
    os.kill(process._process.pid, signal.SIGSTOP)
    replying = asyncio.ensure_future(asked.reply(scope("select 1")))
    while not asked._busy or asked._idle:
        await asyncio.sleep(0.01)
    replying.cancel()
    async with asyncio.timeout(600):
        while asked._busy:
            await asyncio.sleep(0.05)
    assert (await asked.reply(scope("select 1"))).status == 200


def test_the_process_of_a_client_that_left_is_ended(
    shown: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SECONDS", 36_000.0)
    store = shown.store
    asked = Tables(store.root, store.index_path, title="", address="", sql=True)
    try:
        asyncio.run(_abandon(asked))
    finally:
        asked.close()


async def _cancel_at_once(asked: Tables) -> None:
    for _ in range(20):
        replying = asyncio.ensure_future(asked.reply(scope("select 1")))
        await asyncio.sleep(0)
        replying.cancel()
        async with asyncio.timeout(600):
            while asked._busy:
                await asyncio.sleep(0.01)


def test_a_client_that_leaves_at_once_takes_no_place_for_good(shown: Place) -> None:
    store = shown.store
    asked = Tables(store.root, store.index_path, title="", address="", sql=True)
    try:
        asyncio.run(_cancel_at_once(asked))
    finally:
        asked.close()
