"""The work of the gateway in threads: clients that disconnect, versions that open, the end."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
import requests

from neuromirror.net import RequestLimits
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.gateway.modes import GatewayModes
from neuromirror.web.gateway.service import GatewayService, StoredFile
from support.gateway_site import mirror_contents, serve_gateway
from support.range_server import RangeHandler, RangeRequest, RangeServer
from support.volume_archives import EM, VolumeArchives

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
            file = await gateway.find_file(row, path)
            assert file is not None
            content = [part async for part in gateway.read(row, file.file, 0, 5)]
            return b"".join(content)

        async def run() -> None:
            server.fault = wait
            clients = [asyncio.create_task(read(path)) for path in PATHS]
            while len(server.requests) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)  # the others are queued
            for client in clients:
                client.cancel()
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
                file = await gateway.find_file(row, path)
                assert isinstance(file, StoredFile)
                bodies.append(gateway.read(row, file.file, 0, 17 << 20))
            received = [b"", b""]
            for _ in range(17):
                for number, body in enumerate(bodies):
                    received[number] += await anext(body)
            assert received == [*contents.values()]

        asyncio.run(run())
        gateway.close()
        assert server.bytes_requested == 2 * (17 << 20)


def test_a_block_of_a_volume_is_read_whole_whatever_its_size(
    volumes: VolumeArchives, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("file", "pieces"):
        monkeypatch.setattr(f"neuromirror.stream.{module}.MAX_WHOLE", 1 << 10)
    store = volumes.mirror_harness.store
    gateway = GatewayService(store, AsyncIndexReader(store.index_path), GatewayModes(), relays=True)

    async def run() -> bytes:
        row = (await gateway.version(EM, "latest")).row
        file = await gateway.find_file(row, "0/c/0/0/0")
        assert isinstance(file, StoredFile)
        return b"".join([one async for one in gateway.read(row, file.file, 0, 128 * 128 * 32)])

    block = np.frombuffer(asyncio.run(run()), "u1").reshape(32, 128, 128)
    gateway.close()
    assert np.array_equal(block, volumes.voxels(EM, 0)[0][:32, :128, :128])


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
