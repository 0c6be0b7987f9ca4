"""How the catalogue is served: the store's files in part, packed pages, slow clients."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from neuromirror.model import LEAF_SIZE
from neuromirror.store.block_digests import (
    BlockDigestsFolder,
    block_digests_name,
    check_encoded,
)
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.server.idle_timeout import IdleTimeoutProtocol
from neuromirror.web.server.response_cache import ResponseCache, cache_key
from support.block_digests import digests_of
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedHarness, files

LARGE = 40 << 20


@pytest.fixture(scope="module")
def pack_path(demo_harness: MirrorHarness) -> str:
    """The address of a pack in the store."""
    found = next(
        (demo_harness.folder / "alias" / "demo--000001").resolve().glob("objects/pack/*.pack")
    )
    return "/" + found.relative_to(demo_harness.folder.resolve()).as_posix()


@pytest.fixture
def large(demo_harness: MirrorHarness) -> Iterator[tuple[str, bytes]]:
    """A file of 40 MiB that the store serves, and its content."""
    content = os.urandom(1 << 20) * (LARGE >> 20)
    path = demo_harness.folder / "manifests" / "00" / "large"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        yield "/manifests/00/large", content
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def connected(site: RunningCatalogue, *lines: str) -> Iterator[socket.socket]:
    """Open a connection and send some lines of a request."""
    where = urlsplit(site.address)
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port or 80), timeout=60) as made:
        made.sendall("".join(f"{line}\r\n" for line in lines).encode())
        yield made


# --- the store's files


def test_a_part_of_a_file_is_given_to_who_asks_for_it(
    site: RunningCatalogue, demo_harness: MirrorHarness, pack_path: str
) -> None:
    whole = (demo_harness.folder / pack_path[1:]).read_bytes()
    size = len(whole)
    for byte_range, first, end in (
        ("bytes=0-3", 0, 4),
        ("bytes=5-", 5, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=2-{size + 5}", 2, size),
    ):
        reply = site.get(pack_path, headers={"Range": byte_range})
        assert reply.status_code == 206
        assert reply.content == whole[first:end]
        assert reply.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"


def test_what_is_no_range_gets_the_whole_file_and_what_is_beyond_it_none(
    site: RunningCatalogue, demo_harness: MirrorHarness, pack_path: str
) -> None:
    whole = (demo_harness.folder / pack_path[1:]).read_bytes()
    for byte_range in ("bytes=3-1", "bytes=0-1,4-5", "lines=1-2", "bytes=-"):
        reply = site.get(pack_path, headers={"Range": byte_range})
        assert (reply.status_code, reply.content) == (200, whole), byte_range
    beyond = site.get(pack_path, headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(whole)}"


def test_an_etag_holds_no_inode_number(site: RunningCatalogue, demo_harness: MirrorHarness) -> None:
    path = demo_harness.folder / "manifests" / "00" / "tagged"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(b"content")
        parts = site.get("/manifests/00/tagged").headers["etag"].strip('"').split("-")
        inode = path.stat().st_ino
        assert not {f"{inode:x}", str(inode)}.intersection(parts)
    finally:
        path.unlink(missing_ok=True)


def test_a_file_that_changed_meanwhile_is_not_put_together_from_two(
    site: RunningCatalogue, demo_harness: MirrorHarness
) -> None:
    path = demo_harness.folder / "manifests" / "00" / "changing"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(b"the old content")
        before = site.get("/manifests/00/changing").headers["etag"]
        path.with_suffix(".new").write_bytes(b"the new content")
        path.with_suffix(".new").replace(path)
        rest = {"Range": "bytes=8-", "If-Range": before}
        assert site.get("/manifests/00/changing", headers=rest).content == b"the new content"
        now = site.get("/manifests/00/changing").headers["etag"]
        rest = {"Range": "bytes=8-", "If-Range": now}
        assert site.get("/manifests/00/changing", headers=rest).content == b"content"
    finally:
        path.unlink(missing_ok=True)


def test_conditional_file_request_gets_304(site: RunningCatalogue, pack_path: str) -> None:
    first = site.get(pack_path)
    for condition in (
        {"If-None-Match": first.headers["etag"]},
        {"If-None-Match": f'"other", {first.headers["etag"]}'},
        {"If-Modified-Since": first.headers["last-modified"]},
    ):
        second = site.get(pack_path, headers=condition)
        assert (second.status_code, second.content) == (304, b""), condition
        assert second.headers["etag"] == first.headers["etag"]
    for other in ('"other"', '"o*r"', first.headers["etag"].strip('"')):
        assert site.get(pack_path, headers={"If-None-Match": other}).status_code == 200, other


def test_head_of_a_file_has_its_length(site: RunningCatalogue, pack_path: str) -> None:
    response = requests.head(site.address + pack_path, timeout=300)
    assert response.content == b""
    assert response.headers["content-length"] == str(len(site.get(pack_path).content))
    assert response.headers["accept-ranges"] == "bytes"


def test_a_file_is_not_packed_and_an_empty_one_is_given(
    site: RunningCatalogue, demo_harness: MirrorHarness
) -> None:
    path = demo_harness.folder / "manifests" / "00" / "empty"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        reply = site.get("/manifests/00/empty")
        assert (reply.status_code, reply.content) == (200, b"")
    finally:
        path.unlink()
    refs = site.get("/alias/demo--000001/info/refs", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in refs.headers


def test_pipe_or_folder_in_the_store_does_not_block(
    site: RunningCatalogue, demo_harness: MirrorHarness
) -> None:
    path = demo_harness.folder / "manifests" / "00" / "pipe"
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    try:
        assert site.get("/manifests/00/pipe").status_code == 404
        assert site.get("/alias/demo--000001/objects").status_code == 404
    finally:
        path.unlink()


def test_a_file_that_vanishes_while_it_is_sent_is_sent_whole(
    site: RunningCatalogue, demo_harness: MirrorHarness, large: tuple[str, bytes]
) -> None:
    address, content = large
    with requests.get(site.address + address, stream=True, timeout=300) as reply:
        (demo_harness.folder / address[1:]).unlink()
        assert hashlib.sha256(reply.raw.read()).digest() == hashlib.sha256(content).digest()


def test_a_file_that_is_cut_off_while_it_is_sent_is_seen_to_be(
    site: RunningCatalogue, demo_harness: MirrorHarness, large: tuple[str, bytes]
) -> None:
    address, _ = large
    with connected(site, f"GET {address} HTTP/1.1", "Host: x", "") as made:
        got = len(made.recv(1000))
        os.truncate(demo_harness.folder / address[1:], 1 << 20)
        while block := made.recv(1 << 20):
            got += len(block)
    assert got < LARGE


def test_disconnect_during_a_download_leaves_no_open_file(
    demo_harness: MirrorHarness, large: tuple[str, bytes]
) -> None:
    with run_catalogue(demo_harness.store) as site:
        site.page("/")
        before = descriptors(site)
        for _ in range(5):
            with connected(site, f"GET {large[0]} HTTP/1.1", "Host: x", "") as made:
                made.recv(1000)
                # a reset, not a close in good order
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        site.page("/")
        eventually(lambda: descriptors(site) <= before)


def test_a_clone_goes_through_beside_pages(
    site: RunningCatalogue, demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    command = ["git", "clone", "-q", f"{site.address}/alias/demo--000001", str(clone)]
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            site.page("/dataset/demo:000001")
    assert process.returncode == 0
    assert (clone / ".datalad" / "config").exists()


# --- pages


def test_page_is_compressed_only_if_accepted(site: RunningCatalogue) -> None:
    page = "/dataset/demo:000001"
    packed = requests.get(
        site.address + page, headers={"Accept-Encoding": "gzip"}, stream=True, timeout=30
    )
    raw = packed.raw.read(decode_content=False)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["content-length"] == str(len(raw))
    for refusing in ("identity", "gzip;q=0", "br"):
        plain = site.get(page, headers={"Accept-Encoding": refusing})
        assert "content-encoding" not in plain.headers, refusing
        assert "Accept-Encoding" in plain.headers["vary"]
        assert plain.content == gzip.decompress(raw)
        assert plain.headers["etag"] == packed.headers["etag"]


def test_conditional_page_request_gets_304_compressed_or_not(site: RunningCatalogue) -> None:
    page = "/dataset/demo:000001"
    tag = site.get(page).headers["etag"]
    for accepted in ("gzip", "identity"):
        known = {"If-None-Match": tag, "Accept-Encoding": accepted}
        second = site.get(page, headers=known)
        assert (second.status_code, second.content) == (304, b"")


def test_a_page_is_another_one_as_soon_as_the_index_is(box: ScriptedHarness) -> None:
    box.datasets["one"] = ScriptedDataset(files("a.txt"))
    box.sync("box")
    with run_catalogue(box.store) as site:
        assert "2 versions" not in site.text("/dataset/box:one")
        assert "b.txt" not in site.page("/dataset/box:one@latest")
        box.datasets["one"] = ScriptedDataset(files("a.txt", "b.txt"))
        box.sync("box")
        assert "b.txt" in site.page("/dataset/box:one@latest")


def test_cached_page_depends_on_the_host(site: RunningCatalogue) -> None:
    page = "/dataset/demo:000001"
    for host in ("one.example.org", "two.example.org"):
        assert f"ria+http://{host}" in site.get(page, headers={"Host": host}).text


# --- response cache


def reply(kept: ResponseCache, key: str, body: bytes, **start: Any) -> list[bytes]:
    """Return the response for a key if ``body`` would be produced."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def ask(to: Any) -> None:
        headers = [(b"content-type", b"text/html")]
        await to({"type": "http.response.start", "status": 200, "headers": headers, **start})
        await to({"type": "http.response.body", "body": body})

    asyncio.run(kept.send_response((key,), send, ask))
    return sent


def test_response_is_cached_for_a_moment() -> None:
    clock = [0.0]
    kept = ResponseCache(now=lambda: clock[0])
    assert reply(kept, "a", b"first")[-1] == b"first"
    assert reply(kept, "a", b"second")[-1] == b"first"
    assert reply(kept, "b", b"other")[-1] == b"other"
    clock[0] = 60
    assert reply(kept, "a", b"third")[-1] == b"third"


def test_what_many_ask_for_at_once_is_made_once() -> None:
    kept, made = ResponseCache(), []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def ask(to: Any) -> None:
        made.append(1)
        await asyncio.sleep(0.05)
        headers = [(b"content-type", b"text/html")]
        await to({"type": "http.response.start", "status": 200, "headers": headers})
        await to({"type": "http.response.body", "body": b"page"})

    async def many() -> None:
        await asyncio.gather(*(kept.send_response(("a",), send, ask) for _ in range(8)))

    sent: list[bytes] = []
    asyncio.run(many())
    assert (sent.count(b"page"), len(made)) == (8, 1)


def test_waiting_client_gets_its_own_error() -> None:
    kept, made = ResponseCache(), []

    async def send(message: Any) -> None:
        pass

    async def ask(to: Any) -> None:
        made.append(1)
        await asyncio.sleep(0.05)
        raise OSError("a defect")

    async def many() -> list[Any]:
        waiting = (kept.send_response(("a",), send, ask) for _ in range(3))
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(one) for one in asyncio.run(many())] == [OSError] * 3
    assert len(made) == 3


def test_errors_and_images_are_not_cached() -> None:
    kept = ResponseCache()
    reply(kept, "a", b"wrong", status=503)
    assert reply(kept, "a", b"right")[-1] == b"right"
    reply(kept, "b", b"picture", headers=[(b"content-type", b"image/png")])
    assert reply(kept, "b", b"text")[-1] == b"text"


def test_what_is_kept_is_bounded_however_small_or_large_it_is() -> None:
    kept = ResponseCache(max_bytes=1 << 20)
    for size in (0, 10_000, 2 << 20):
        for number in range(500):
            reply(kept, f"{size} {number}", b"x" * size)
            assert kept.bytes <= 1 << 20
    assert reply(kept, "10000 0", b"new")[-1] == b"new"


def test_requests_with_credentials_or_etags_are_not_cached() -> None:
    scope: dict[str, Any] = {"path": "/", "query_string": b"", "scheme": "http"}
    scope["headers"] = [(b"host", b"x")]
    assert cache_key(scope, 1) is not None
    assert cache_key(scope, 1) != cache_key(scope, 2)
    for name in (b"if-none-match", b"cookie", b"authorization"):
        assert cache_key({**scope, "headers": [(name, b"x")]}, 1) is None


# --- slow questions


def test_questions_that_take_long_keep_neither_others_nor_files_waiting(
    demo_harness: MirrorHarness,
) -> None:
    reader, done = AsyncIndexReader(demo_harness.store.index_path), Event()

    async def run_queries() -> tuple[int, bytes, list[bool]]:
        slow = [asyncio.ensure_future(reader.long_query(lambda _: done.wait())) for _ in "1234"]
        busy = [asyncio.ensure_future(reader.run_in_thread(done.wait)) for _ in "12345678"]
        try:
            position = await asyncio.wait_for(reader.query(lambda index: index.position), 30)
            read = await asyncio.wait_for(reader.run_file_read(lambda: b"read"), 30)
        finally:
            done.set()
        return position, read, await asyncio.gather(*slow, *busy)

    position, read, others = asyncio.run(run_queries())
    assert position > 0
    assert read == b"read"
    assert others == [True] * 12


# --- slow clients


def descriptors(site: RunningCatalogue) -> int:
    """The files that the server has open."""
    return len(os.listdir(f"/proc/{site.pid}/fd"))


def eventually(holds: Any) -> None:
    """Waits until something holds."""
    until = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_pages_are_given_beside_two_hundred_connections_that_say_nothing(
    site: RunningCatalogue,
) -> None:
    with ExitStack() as stack:
        for number in range(200):
            lines = ["GET / HTTP/1.1", "Host: x"] if number % 2 else []
            stack.enter_context(connected(site, *lines))
        assert "demo:000001" in site.page("/search?archive=demo")
    site.page("/")


def test_pages_are_given_beside_more_silent_connections_than_there_may_be(
    site: RunningCatalogue,
) -> None:
    with ExitStack() as stack:
        for number in range(600):
            lines = ["GET / HTTP/1.1", "Host: x"] if number % 2 else []
            stack.enter_context(connected(site, *lines))
        assert "demo:000001" in site.page("/search?archive=demo")


@contextmanager
def short_timeouts() -> Iterator[RunningCatalogue]:
    """A server in this process that answers with 50 MB, and has little patience."""
    import uvicorn

    class ShortTimeoutProtocol(IdleTimeoutProtocol):
        request_timeout = read_timeout = 0.3

    async def much(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            block = b"x" * (1 << 18)
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    server = uvicorn.Server(
        uvicorn.Config(
            much, log_config=None, http=ShortTimeoutProtocol, lifespan="off", timeout_keep_alive=60
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as listens:
        thread = Thread(target=server.run, args=([listens],))
        thread.start()
        try:
            yield RunningCatalogue(f"http://127.0.0.1:{listens.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()


def read_to_the_end(made: socket.socket) -> int:
    """How many bytes come before the other side closes."""
    got = 0
    with suppress(ConnectionResetError):
        while block := made.recv(1 << 18):
            got += len(block)
    return got


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["GET / HTTP/1.1", "Host: x"],
        ["GET / HTTP/1.1", "Host: x", "Content-Length: 9", "", "half"],
    ],
)
def test_half_a_request_is_not_waited_for(lines: list[str]) -> None:
    with short_timeouts() as site, connected(site, *lines) as made:
        for sign in b"X-Slow: 1":
            # occasional bytes are not enough
            with suppress(ConnectionError):
                made.sendall(bytes([sign]))
            time.sleep(0.1)
        read_to_the_end(made)


def test_half_of_a_second_request_is_not_waited_for() -> None:
    with short_timeouts() as site, connected(site, "GET / HTTP/1.1", "Host: x", "") as made:
        end = b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            block = made.recv(1 << 20)
            assert block
            end = (end + block)[-7:]
        made.sendall(b"GET / HT")
        assert read_to_the_end(made) == 0


def test_who_reads_no_more_of_a_reply_is_not_waited_for() -> None:
    with short_timeouts() as site, connected(site, "GET / HTTP/1.1", "Host: x", "") as made:
        made.recv(1000)
        time.sleep(1)
        assert read_to_the_end(made) < 200 << 18


def test_who_reads_slowly_gets_all_of_a_reply() -> None:
    with short_timeouts() as site, connected(site, "GET / HTTP/1.1", "Host: x", "") as made:
        got = 0
        while got < 200 << 18:
            block = made.recv(1 << 18)
            assert block
            got += len(block)
            time.sleep(0.002)


def test_block_digests_are_served_by_the_name_of_their_key(
    site: RunningCatalogue, demo_harness: MirrorHarness
) -> None:
    folder = BlockDigestsFolder.of_store(demo_harness.store)
    content = bytes(range(256)) * 200
    key = f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}.nwb"
    digests = digests_of(content, LEAF_SIZE)
    name = block_digests_name(key)
    address = f"/block-digests/{name[:2]}/{name[2:]}"
    assert site.get(address).status_code == 404
    folder.write(key, digests)
    try:
        reply = site.get(address)
        assert check_encoded(reply.content, address, key) == (key, digests)
        assert (
            site.get(address, headers={"if-none-match": reply.headers["etag"]}).status_code == 304
        )
    finally:
        folder.path(key).unlink()
