"""The work of the gateway in threads: clients that disconnect, versions that open, the end."""

from __future__ import annotations

import asyncio
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from neuromirror.index import VersionRow
from neuromirror.net import RequestLimits
from neuromirror.store import Store
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.gateway.modes import GatewayModes
from neuromirror.web.gateway.service import GatewayService, OpenVersion, OpenVersions, StoredFile
from support.gateway_site import SHORT_LIMITS, mirror_contents, serve_gateway
from support.range_server import RangeHandler, RangeRequest, RangeServer
from support.scripted_source import ScriptedFile, ScriptedHarness

pytestmark = pytest.mark.usefixtures("no_cache")

PATHS = [f"{number}.bin" for number in range(12)]
CONTENTS = {path: path.encode() * 100 for path in PATHS}


def gateway_threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("gateway")}


def test_work_of_clients_that_disconnect_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.web.gateway.service._THREADS", 2)
    may_answer = threading.Event()

    def wait(handler: RangeHandler, request: RangeRequest) -> bool:
        may_answer.wait(30)
        return False

    with RangeServer() as server:
        store = mirror_contents(tmp_path / "box", server, CONTENTS).store
        gateway = GatewayService(
            store,
            AsyncIndexReader(store.index_path),
            GatewayModes("proxy"),
            limits=RequestLimits(attempts=1),
        )

        async def read(path: str) -> bytes:
            row = (await gateway.version("box:data", "latest")).row
            found = await gateway.find_file(row, path)
            assert found is not None
            content = [part async for part in gateway.read(row, found.file, 0, 5)]
            return b"".join(content)

        async def run() -> None:
            server.fault = wait
            clients = [asyncio.create_task(read(path)) for path in PATHS]
            while len(server.requests) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)  # the others are queued
            for one in clients:
                one.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            may_answer.set()
            assert await read(PATHS[-1]) == CONTENTS[PATHS[-1]][:5]

        asyncio.run(run())
        gateway.close()
        assert len({one.path for one in server.requests}) <= 3


def test_the_limit_of_large_reads_counts_work_without_a_client(tmp_path: Path) -> None:
    with RangeServer() as server:
        store = mirror_contents(tmp_path / "box", server, {"a": b"a"}).store
    gateway = GatewayService(store, AsyncIndexReader(store.index_path), GatewayModes())
    running, may_end = threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        may_end.wait(30)

    async def run() -> None:
        limit = asyncio.Semaphore(1)
        client = asyncio.create_task(gateway._run(work, limit))
        await asyncio.to_thread(running.wait)
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        assert limit.locked()
        may_end.set()
        async with asyncio.timeout(30):
            await limit.acquire()

    asyncio.run(run())
    gateway.close()


def test_downloads_of_different_large_files_fetch_each_once(tmp_path: Path) -> None:
    # neither fits beside the other in the memory of the version, and no part can be verified alone
    contents = {path: path.encode() * (17 << 20) for path in "ab"}
    with RangeServer() as server:
        store = mirror_contents(tmp_path / "box", server, contents).store
        gateway = GatewayService(store, AsyncIndexReader(store.index_path), GatewayModes("proxy"))

        async def run() -> None:
            row = (await gateway.version("box:data", "latest")).row
            bodies = []
            for path in contents:
                found = await gateway.find_file(row, path)
                assert isinstance(found, StoredFile)
                bodies.append(gateway.read(row, found.file, 0, 17 << 20))
            received = [b"", b""]
            for _ in range(17):
                for number, body in enumerate(bodies):
                    received[number] += await anext(body)
            assert received == [*contents.values()]

        asyncio.run(run())
        gateway.close()
        assert server.bytes_requested == 2 * (17 << 20)


def test_a_version_that_opens_slowly_delays_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {"a.txt": b"a"})
        harness.datasets["data"].files["b.txt"] = ScriptedFile(b"b", sha256=True)
        harness.sync()
    with harness.index() as index:
        slow, fast = index.versions("box:data")
    opening, may_open = threading.Event(), threading.Event()

    class SlowVersion(OpenVersion):
        def __init__(self, store: Store, row: VersionRow, limits: RequestLimits) -> None:
            if row.commit == slow.commit:
                opening.set()
                assert may_open.wait(30)
            super().__init__(store, row, limits)

    monkeypatch.setattr("neuromirror.web.gateway.service.OpenVersion", SlowVersion)
    versions = OpenVersions(harness.store, SHORT_LIMITS)

    def use(row: VersionRow) -> str:
        with versions.use(row) as version:
            return version.tree.name

    with ThreadPoolExecutor(2) as threads:
        late = threads.submit(use, slow)
        assert opening.wait(30)
        try:
            assert threads.submit(use, fast).result(20) == fast.name
        finally:
            may_open.set()
        assert late.result(20) == slow.name
    versions.close()


def test_the_gateway_ends_with_the_catalogue(tmp_path: Path) -> None:
    before = gateway_threads()
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {"a.txt": b"a"})
        with serve_gateway(harness) as at:
            assert requests.get(f"{at}/a.txt", timeout=60).content == b"a"
            started = gateway_threads() - before
            assert started
    for one in started:
        one.join(30)
    assert not any(one.is_alive() for one in started)


def test_a_missing_part_of_a_store_is_an_error_with_a_reason(tmp_path: Path) -> None:
    names = (".zarray", *map(str, range(8)))
    contents = {f"small.zarr/{name}": name.encode() for name in names}
    with RangeServer() as server:
        harness = mirror_contents(
            tmp_path / "box", server, contents, settings="[zarr]\ninline = 4\nmanifest = 12\n"
        )
        lose_subdataset(harness)
        with serve_gateway(harness) as at:
            for path in ("small.zarr/1", "small.zarr/?format=json"):
                reply = requests.get(f"{at}/{path}", timeout=60)
                assert reply.status_code == 502, path
                assert "subdataset" in reply.text
                assert str(harness.folder) not in reply.text


def lose_subdataset(harness: ScriptedHarness) -> None:
    """Remove the repository of the Zarr, as a disk failure could."""
    shutil.rmtree(harness.repository("box:data/small.zarr"))
