"""Limits on expensive requests: per client, and of all clients together."""

import asyncio
import shutil
import socket
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from neuromirror.index import Index, QueryStoppedError
from neuromirror.model import ConfigurationError
from neuromirror.web import async_index as reading
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.rate_limits import (
    REQUEST_KINDS,
    RequestLimiter,
    RequestLimitError,
    client_key,
    parse_limits,
    parse_proxies,
    request_kind,
)
from support.gateway_site import mirror_contents
from support.mirror_harness import MirrorHarness
from support.range_server import RangeServer
from support.running_catalogue import RunningCatalogue, peak_memory, run_catalogue
from support.store_states import wait_until
from support.volume_archives import EM, VolumeArchives, cutout_path

PROXY = "--trusted-proxy=127.0.0.1"
MANY = " ".join(f"a{number}*" for number in range(60))
DATASETS = 20_000
BOMBS = [
    " ".join(f"{letter}{digit}*" for letter in "abcdefghijklmnopqrstuvwxyz" for digit in "0"),
    " ".join("abcdefghijklmnopqrstuvwxyz0123"),
    "NEAR(a b c d e f g h, 1000000) " + " ".join("ijklmnopqrstuvwxyz"),
]


def forwarded(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


# --- of one client

REQUESTS = {
    "diff": "/diff?a=demo:000001&b=demo:000001&page={}",
    "search": "/search?q=word{}",
    "cutout": "/cutout/demo:000001@latest?level={}",
}


def test_a_client_beyond_its_rate_is_refused_and_others_are_not(
    demo_harness: MirrorHarness,
) -> None:
    options = [f"--limit={kind}=1" for kind in REQUESTS]
    with run_catalogue(demo_harness.store, *options, PROXY) as site:

        def get(page: str, number: int, address: str) -> requests.Response:
            return site.get(page.format(number), headers=forwarded(address))

        for page in REQUESTS.values():
            assert get(page, 1, "198.51.100.1").status_code != 429
            refused = get(page, 2, "198.51.100.1")
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-content-type-options"] == "nosniff"
            assert get(page, 3, "198.51.100.2").status_code != 429
            # one that sends the addresses of others itself is known by what the proxy added
            assert get(page, 4, "203.0.113.7, 198.51.100.2").status_code == 429
        assert get("/dataset/demo:000001", 0, "198.51.100.1").ok
        # a program gets a problem; cached responses do not count
        page = "/api/v1/search?q={}"
        assert get(page, 1, "198.51.100.3").status_code == 200
        refused = get(page, 2, "198.51.100.3")
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.json()["status"], refused.json()["type"]) == (429, "about:blank")
        assert get(page, 1, "198.51.100.3").status_code == 200


def test_only_a_trusted_proxy_sets_the_client_address(demo_harness: MirrorHarness) -> None:
    for options in ([], ["--trusted-proxy=192.0.2.0/24"]):
        with run_catalogue(demo_harness.store, "--limit=search=1", *options) as site:
            found = [
                site.get(f"/search?q=word{one}", headers=forwarded(f"198.51.100.{one}")).status_code
                for one in range(3)
            ]
            assert found == [200, 429, 429], options


def scope_of(host: str) -> dict[str, Any]:
    return {"client": (host, 1)}


def test_a_client_of_ipv6_is_its_network_and_a_mapped_address_is_that_of_ipv4() -> None:
    assert client_key(scope_of("2001:db8:1:2::1")) == client_key(scope_of("2001:db8:1:2:ffff::9"))
    assert client_key(scope_of("2001:db8:1:2::1")) != client_key(scope_of("2001:db8:1:3::1"))
    assert client_key(scope_of("fe80::1%eth0")) == client_key(scope_of("fe80::2%eth1"))
    assert client_key(scope_of("::ffff:198.51.100.1")) == client_key(scope_of("198.51.100.1"))
    # a value from a proxy that is no address counts as one client
    assert client_key(scope_of("x" * 60_000)) == client_key(scope_of("unix:")) == "unknown"


def request(address: str) -> dict[str, Any]:
    path, _, query = address.partition("?")
    return {"path": path, "raw_path": address.encode(), "query_string": query.encode()}


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/", None),
        ("/?archive=demo", None),
        ("/?q=a", "search"),
        ("/search", "search"),
        ("/?%71=a", "search"),
        ("/search?archive=demo&page=20000", "search"),
        (f"/?{'a=b&' * 500}q=c", "search"),
        ("/find?checksum=00", "search"),
        ("/dataset/demo:1", None),
        ("/dataset/demo:1@latest?match=a", "search"),
        ("/api/v1/datasets", None),
        ("/api/v1/datasets?q=a", "search"),
        ("/api/v1/datasets/demo:1", None),
        ("/api/v1/datasets/demo:1@latest/paths?q=a", "search"),
        ("/api/v1/search?q=a", "search"),
        ("/diff?a=b", "diff"),
        ("/search?q=a&format=csv", "diff"),
        ("/changes?%66ormat=csv", "diff"),
        ("/changes", None),
        ("/api/v1/diff?a=b&b=c", "diff"),
        ("/index", None),
        ("/cutout/b:c@d", "cutout"),
        ("/slice/b:c@d.png", "cutout"),
        ("/volume/b:c@d", None),
    ],
)
def test_expensive_requests_are_recognized(address: str, kind: str | None) -> None:
    assert request_kind(request(address)) == kind


# --- the limiter


async def admitted(limiter: RequestLimiter, kind: str, client: str) -> int:
    try:
        async with limiter.admit(kind, client):
            return 200
    except RequestLimitError as error:
        return error.status if error.retry_after >= 1 else 0


def test_bytes_of_the_gateway_are_limited_per_client() -> None:
    clock = [0.0]
    limiter = RequestLimiter(parse_limits(["gateway-mb=60"]), now=lambda: clock[0])

    def get(client: str, kind: str = "gateway") -> int:
        return asyncio.run(admitted(limiter, kind, client))

    for _ in range(60):
        limiter.add_bytes("a", 1_000_000)
    assert get("a") == 200
    limiter.add_bytes("a", 10_000_000)
    assert (get("a"), get("b"), get("a", "search")) == (429, 200, 200)
    clock[0] = 11
    assert get("a") == 200
    limiter = RequestLimiter(parse_limits(["gateway-mb=0"]))
    limiter.add_bytes("a", 1 << 40)
    assert get("a") == 200


def test_client_beyond_the_bytes_of_the_gateway_is_refused(tmp_path: Path) -> None:
    with RangeServer() as server:
        store = mirror_contents(tmp_path / "box", server, {"a.bin": b"a" * 3_000_000}).store
        with run_catalogue(store, "--gateway=proxy", "--limit=gateway-mb=1", PROXY) as site:

            def get(client: str) -> requests.Response:
                return site.get("/at/box:data@latest/a.bin", headers=forwarded(client))

            assert len(get("198.51.100.1").content) == 3_000_000
            refused = get("198.51.100.1")
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 60
            assert get("198.51.100.2").status_code == 200


@pytest.mark.parametrize("kind", REQUEST_KINDS)
def test_those_in_progress_are_bounded_for_a_client_and_for_all(kind: str) -> None:
    limits = REQUEST_KINDS[kind]
    limiter = RequestLimiter(parse_limits([f"{kind}=999999"]))

    async def several() -> None:
        async with AsyncExitStack() as stack:
            waiting = []
            for number in range(limits.max_admitted):
                client = f"client {number // limits.max_per_client}"
                entered = stack.enter_async_context(limiter.admit(kind, client))
                waiting.append(asyncio.ensure_future(entered))
                await asyncio.sleep(0)
            clients = limits.max_admitted / limits.max_per_client
            running = min(limits.max_running, int(clients * limits.max_running_per_client))
            assert sum(one.done() for one in waiting) == running
            assert await admitted(limiter, kind, "client 0") == 429
            assert await admitted(limiter, kind, "another") == 503
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert await admitted(limiter, kind, "another") == 200

    asyncio.run(several())


def test_a_client_leaves_slots_of_the_gateway_to_others() -> None:
    limits = REQUEST_KINDS["gateway"]
    limiter = RequestLimiter(parse_limits(()))

    async def several() -> None:
        async with AsyncExitStack() as stack:

            async def enter(client: str) -> None:
                await stack.enter_async_context(limiter.admit("gateway", client))

            greedy = [
                asyncio.ensure_future(enter(client))
                for client in "ab"
                for _ in range(limits.max_per_client)
            ]
            await asyncio.sleep(0)
            assert sum(one.done() for one in greedy) == 2 * limits.max_running_per_client
            await asyncio.wait_for(enter("c"), 30)
            for one in greedy:
                one.cancel()
            await asyncio.gather(*greedy, return_exceptions=True)

    asyncio.run(several())


def test_settings_are_checked() -> None:
    assert parse_limits(["diff=7"])["diff"] == 7
    for wrong in ("diff", "diff=", "diff=x", "diff=-1", "diff=1.5", "all=1", "diff=1000000000", ""):
        with pytest.raises(ConfigurationError):
            parse_limits([wrong])
    assert parse_proxies(["127.0.0.1"]) == ["127.0.0.1/32", "::ffff:127.0.0.1/128"]
    for wrong in ("*", "proxy.example.org", "127.0.0.1/40", ""):
        with pytest.raises(ConfigurationError):
            parse_proxies([wrong])


# --- pages beside it


@pytest.fixture(scope="module")
def large(demo_harness: MirrorHarness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index in which each letter begins a word of many datasets."""
    path = tmp_path_factory.mktemp("large") / "index.sqlite"
    shutil.copy(demo_harness.store.index_path, path)
    title = " ".join(f"{letter}0word" for letter in "abcdefghijklmnopqrstuvwxyz0123")
    with closing(sqlite3.connect(path)) as index:
        (first,) = index.execute("SELECT max(id) + 1 FROM datasets").fetchone()
        numbers = range(first, first + DATASETS)
        index.executemany(
            "INSERT INTO datasets (id, mirror, local_id, title) VALUES (?, 1, ?, ?)",
            ((one, f"many{one}", title) for one in numbers),
        )
        index.executemany(
            "INSERT INTO dataset_text (rowid, name, title, license, doi, attributes) "
            "VALUES (?, ?, ?, '', '', '')",
            ((one, f"demo:many{one}", title) for one in numbers),
        )
        index.commit()
        index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def test_a_page_is_answered_while_many_clients_send_costly_searches(
    demo_harness: MirrorHarness, large: Path
) -> None:
    with (
        run_catalogue(demo_harness.store, "--index", str(large), PROXY) as site,
        ThreadPoolExecutor(32) as pool,
    ):
        site.page("/mirrors")
        before = peak_memory(site.pid)

        def bomb(number: int) -> int:
            terms = f"{BOMBS[number % len(BOMBS)]} {number}x"
            address = f"/api/v1/search?q={quote(terms)}"
            client = forwarded(f"198.51.100.{number}")
            return requests.get(site.address + address, headers=client, timeout=250).status_code

        sent = [pool.submit(bomb, number) for number in range(32)]
        # those beyond what is admitted are refused at once
        wait_until(
            lambda: sum(one.done() for one in sent) >= 32 - REQUEST_KINDS["search"].max_admitted
        )
        site.page("/dataset/demo:000001")
        # the page did not wait for them; on a busy machine, some end while it is made
        assert not all(one.done() for one in sent)
        statuses = [one.result() for one in sent]
        assert set(statuses) <= {200, 400, 503}
        assert 0 < peak_memory(site.pid) < before + (300 << 20)


def test_overlong_search_is_refused_before_it_runs(site: RunningCatalogue) -> None:
    for terms in (MANY, "a " * 3000, "x" * 5000, "NEAR(" * 200):
        assert site.get(f"/api/v1/search?q={quote(terms)}").status_code == 400
        assert site.get(f"/?q={quote(terms)}").status_code == 400


def test_a_page_is_answered_while_many_clients_send_cut_outs(quiet_volumes: VolumeArchives) -> None:
    fault = quiet_volumes.boss.fault("hang", path="/cutout/", seconds=3600)
    with (
        run_catalogue(quiet_volumes.mirror_harness.store, PROXY) as site,
        ThreadPoolExecutor(40) as pool,
    ):

        def abuse(number: int) -> int:
            address = cutout_path(EM, 2, f"0:{number + 1},0:10,12:13")
            return site.get(address, headers=forwarded(f"198.51.100.{number}")).status_code

        sent: list[Future[int]] = [pool.submit(abuse, number) for number in range(40)]
        wait_until(lambda: sum(one.done() for one in sent) >= 38)
        assert site.get(f"/volume/{EM}@latest").ok
        assert site.get("/mirrors").ok
        wait_until(lambda: quiet_volumes.count_voxel_requests() == 2)
        fault.clear()
        assert sorted(one.result() for one in sent) == [200, 200] + [503] * 38


# --- clients that leave


def endless(index: Index) -> Any:
    """A query without an end."""
    sql = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    return next(index.reader.rows(sql))


@pytest.mark.parametrize("ask", [AsyncIndexReader.query, AsyncIndexReader.long_query])
def test_query_stops_when_its_client_disconnects(demo_harness: MirrorHarness, ask: Any) -> None:
    async def several() -> int:
        reader = AsyncIndexReader(demo_harness.store.index_path)
        begun = [Event() for _ in range(12)]

        def question(one: Event) -> Callable[[Index], Any]:
            def endless_query(index: Index) -> Any:
                one.set()
                return endless(index)

            return endless_query

        asking = [asyncio.ensure_future(ask(reader, question(one))) for one in begun]
        while not begun[0].is_set():
            await asyncio.sleep(0.01)
        for one in reversed(asking):  # those that wait leave before a thread is free
            one.cancel()
        answer = ask(reader, lambda index: index.position)
        found: int = await asyncio.wait_for(answer, 60)
        assert not begun[-1].is_set()
        return found

    assert asyncio.run(several()) > 0


def test_a_query_that_takes_too_long_stops(
    demo_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_QUERY_SECONDS", 0.2)

    async def run_query() -> None:
        reader = AsyncIndexReader(demo_harness.store.index_path)
        with pytest.raises(QueryStoppedError):
            await reader.query(endless)
        # the connection can be used again
        assert await reader.query(lambda index: index.position) > 0

    asyncio.run(run_query())


def test_client_rate_refills_over_time() -> None:
    clock = [0.0]
    limiter = RequestLimiter(parse_limits(["diff=3"]), now=lambda: clock[0])

    def get(count: int) -> list[int]:
        async def several() -> list[int]:
            return [await admitted(limiter, "diff", "a") for _ in range(count)]

        return asyncio.run(several())

    assert get(5) == [200, 200, 200, 429, 429]
    clock[0] = 20
    assert get(2) == [200, 429]
    clock[0] = 10_000
    assert get(4) == [200, 200, 200, 429]
    assert limiter.refused == {"diff": 4}


def requested(site: RunningCatalogue, address: str) -> socket.socket:
    """A connection over which a page is requested, and nothing is read."""
    where = urlsplit(site.address)
    made = socket.create_connection((where.hostname or "", where.port or 80), timeout=60)
    made.sendall(f"GET {address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return made


def test_cutout_stops_when_its_client_disconnects(quiet_volumes: VolumeArchives) -> None:
    with (
        run_catalogue(quiet_volumes.mirror_harness.store) as site,
        quiet_volumes.boss.fault("slow", path="/cutout/", delay=0.5, chunk=1 << 16),
    ):
        with ExitStack() as stack:
            for columns in (290, 291):
                box = f"0:{columns},0:260,12:82"
                stack.enter_context(requested(site, cutout_path(EM, 0, box)))
            wait_until(lambda: quiet_volumes.count_voxel_requests() >= 2)
        wait_until(lambda: site.get(cutout_path(EM, 2, "0:10,0:10,70:71")).ok)
        # each has 27 blocks, or more; none had all of them when the next one started
        assert quiet_volumes.count_voxel_requests() < 27
