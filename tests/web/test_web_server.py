"""How the catalogue is served: the store's files in part, packed pages, slow clients."""

import asyncio
import gzip
import hashlib
import os
import socket
import struct
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
from neuromirror.store.block_digests import BlockDigestsFolder, block_digests_name, check_encoded
from neuromirror.web.app import ResponseCache, cache_key
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.serve import IdleTimeoutProtocol
from support.block_digests import digests_of
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.store_states import wait_until

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
    head = requests.head(site.address + pack_path, timeout=300)
    assert (head.content, head.headers["content-length"]) == (b"", str(size))
    assert head.headers["accept-ranges"] == "bytes"
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
    for byte_range in ("bytes=3-1", "bytes=0-1,4-5", "lines=1-2", "bytes=-"):
        reply = site.get(pack_path, headers={"Range": byte_range, "Accept-Encoding": "gzip"})
        assert (reply.status_code, reply.content) == (200, whole), byte_range
        assert "content-encoding" not in reply.headers
    beyond = site.get(pack_path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")


@pytest.fixture
def file(demo_harness: MirrorHarness) -> Iterator[Path]:
    """A file that the store serves as ``/manifests/00/file``, without content."""
    path = demo_harness.folder / "manifests" / "00" / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    yield path
    path.unlink(missing_ok=True)


def test_an_etag_holds_no_inode_number(site: RunningCatalogue, file: Path) -> None:
    reply = site.get("/manifests/00/file")
    assert (reply.status_code, reply.content) == (200, b"")
    parts = reply.headers["etag"].strip('"').split("-")
    inode = file.stat().st_ino
    assert not {f"{inode:x}", str(inode)}.intersection(parts)


def test_a_file_that_changed_meanwhile_is_not_put_together_from_two(
    site: RunningCatalogue, file: Path
) -> None:
    file.write_bytes(b"the old content")
    before = site.get("/manifests/00/file").headers["etag"]
    file.with_suffix(".new").write_bytes(b"the new content")
    file.with_suffix(".new").replace(file)
    now = site.get("/manifests/00/file").headers["etag"]
    for etag, content in ((before, b"the new content"), (now, b"content")):
        rest = {"Range": "bytes=8-", "If-Range": etag}
        assert site.get("/manifests/00/file", headers=rest).content == content


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


def test_pipe_or_folder_in_the_store_does_not_block(site: RunningCatalogue, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    assert site.get("/manifests/00/file").status_code == 404
    assert site.get("/alias/demo--000001/objects").status_code == 404


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
        wait_until(lambda: descriptors(site) <= before)


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
    for accepted in ("gzip", "identity"):
        known = {"If-None-Match": packed.headers["etag"], "Accept-Encoding": accepted}
        second = site.get(page, headers=known)
        assert (second.status_code, second.content) == (304, b"")


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


@pytest.mark.parametrize(("error", "count"), [(None, 1), (OSError("a defect"), 8)])
def test_what_many_ask_for_at_once_is_made_once_but_each_gets_its_own_error(
    error: OSError | None, count: int
) -> None:
    kept, made, sent = ResponseCache(), [], list[bytes]()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def ask(to: Any) -> None:
        made.append(1)
        await asyncio.sleep(0.05)
        if error is not None:
            raise error
        headers = [(b"content-type", b"text/html")]
        await to({"type": "http.response.start", "status": 200, "headers": headers})
        await to({"type": "http.response.body", "body": b"page"})

    async def many() -> list[Any]:
        waiting = (kept.send_response(("a",), send, ask) for _ in range(8))
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert asyncio.run(many()) == [error] * 8
    assert (sent.count(b"page"), len(made)) == (0 if error else 8, count)


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
    """A server in this process that answers with 25 MB, and has little patience."""
    import uvicorn

    class ShortTimeoutProtocol(IdleTimeoutProtocol):
        request_timeout = read_timeout = 0.2

    async def much(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            block = b"x" * (1 << 17)
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
    ("first", "lines"),
    [
        ("", []),
        ("", ["GET / HTTP/1.1", "Host: x"]),
        ("", ["GET / HTTP/1.1", "Host: x", "Content-Length: 9", "", "half"]),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", ["GET / HT"]),
    ],
)
def test_half_a_request_is_not_waited_for(first: str, lines: list[str]) -> None:
    with short_timeouts() as site, connected(site) as made:
        end = b"" if first else b"\r\n0\r\n\r\n"
        made.sendall(first.encode())
        while not end.endswith(b"\r\n0\r\n\r\n"):  # the whole reply
            block = made.recv(1 << 20)
            assert block
            end = (end + block)[-7:]
        made.sendall("".join(f"{line}\r\n" for line in lines).encode())
        for sign in b"X-Slow: 1":
            # occasional bytes are not enough
            with suppress(ConnectionError):
                made.sendall(bytes([sign]))
            time.sleep(0.05)
        read_to_the_end(made)


def test_who_reads_no_more_of_a_reply_is_not_waited_for() -> None:
    with short_timeouts() as site, connected(site, "GET / HTTP/1.1", "Host: x", "") as made:
        made.recv(1000)
        time.sleep(1)
        assert read_to_the_end(made) < 200 << 17


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


def test_a_file_that_vanishes_while_it_is_sent_is_sent_whole(
    site: RunningCatalogue, demo_harness: MirrorHarness, large: tuple[str, bytes]
) -> None:
    address, content = large
    with requests.get(site.address + address, stream=True, timeout=300) as reply:
        (demo_harness.folder / address[1:]).unlink()
        assert hashlib.sha256(reply.raw.read()).digest() == hashlib.sha256(content).digest()
