"""The gateway as a proxy: right bytes or an error, never wrong bytes."""

import http.client
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import zarr
from aiohttp import ClientResponseError

from neuromirror.previews.zarr import preview_zarr
from neuromirror.volume import BlockUnavailableError, open_version_files
from support.gateway_site import DATASET, mirror_contents, serve_gateway
from support.range_server import RangeHandler, RangeRequest, RangeServer
from support.scripted_source import ScriptedHarness

pytestmark = pytest.mark.usefixtures("no_cache")

_PIECE = 1 << 16
_SIZE = 40 * _PIECE + 777
CONTENT = random.Random(22).randbytes(_SIZE)
NEWER = random.Random(23).randbytes(_SIZE)
SMALL = random.Random(24).randbytes(5000)


@dataclass
class Faults:
    """Faults of a server by the number of the piece, each for as many requests as it has."""

    kinds: dict[int, str] = field(default_factory=dict)

    def __call__(self, handler: RangeHandler, request: RangeRequest) -> bool:
        pieces = range(request.start // _PIECE, -(-request.stop // _PIECE))
        hit = next((piece for piece in pieces if piece in self.kinds), None)
        if hit is None:
            return False
        content = handler.web.contents[request.path]
        kind = self.kinds[hit]
        if kind == "corrupted":
            wrong = bytearray(content)
            wrong[min(hit * _PIECE + 5, len(wrong) - 1)] ^= 1
            handler.send_range(bytes(wrong), request)
        elif kind == "truncated":
            handler.send_truncated(content, request, max(0, hit * _PIECE + 9 - request.start))
        elif kind == "replaced":
            handler.send_range(NEWER[: len(content)], request)
        elif kind == "shorter":
            handler.send_range(content[: hit * _PIECE + 3], request)
        elif kind == "gone":
            handler.reply(404, b"gone")
        else:
            handler.web.stopped.wait(30)
        return True


KINDS = ("corrupted", "truncated", "replaced", "shorter", "gone", "delayed")


@pytest.fixture(scope="module")
def archive() -> Iterator[RangeServer]:
    """The archive."""
    with RangeServer() as server:
        yield server


@pytest.fixture(scope="module")
def harness(archive: RangeServer, tmp_path_factory: pytest.TempPathFactory) -> ScriptedHarness:
    """A store of two files, with block digests."""
    contents = {"data.bin": CONTENT, "small.html": SMALL, "empty": b""}
    return mirror_contents(tmp_path_factory.mktemp("box"), archive, contents, piece_size=_PIECE)


@pytest.fixture
def faults(archive: RangeServer) -> Iterator[Faults]:
    """The faults of the archive."""
    found = Faults()
    archive.fault = found
    yield found
    archive.fault = lambda handler, request: False


@pytest.fixture
def at(harness: ScriptedHarness, faults: Faults) -> Iterator[str]:
    """The address of the files."""
    with serve_gateway(harness) as found:
        yield found


def read(address: str, start: int, stop: int) -> tuple[int | None, bytes]:
    """Return the status and the body; the status is None if the body is incomplete."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.request("GET", parts.path, headers={"Range": f"bytes={start}-{stop - 1}"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    except http.client.IncompleteRead as error:
        return None, error.partial
    except ConnectionError:
        return None, b""
    finally:
        connection.close()


def test_right_bytes_are_delivered(at: str, archive: RangeServer) -> None:
    whole = requests.get(f"{at}/data.bin", timeout=60)
    assert whole.content == CONTENT
    assert whole.headers["neuromirror-verified"] == "yes"
    assert read(f"{at}/data.bin", 5, 200_000) == (206, CONTENT[5:200_000])
    page = requests.get(f"{at}/small.html", timeout=60)
    assert page.content == SMALL
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("sandbox;")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["content-disposition"].startswith("attachment;")
    empty = requests.get(f"{at}/empty", timeout=60)
    assert (empty.status_code, empty.content) == (200, b"")
    parts = requests.get(
        f"{at}/data.bin", headers={"Range": f"bytes=0-9,{_PIECE * 9}-{_PIECE * 9 + 9}"}, timeout=60
    )
    assert parts.status_code == 206
    assert CONTENT[:10] in parts.content
    assert CONTENT[_PIECE * 9 : _PIECE * 9 + 10] in parts.content
    assert requests.head(f"{at}/data.bin", timeout=60).headers["content-length"] == str(_SIZE)
    # a part costs its pieces only
    before = archive.bytes_requested
    read(f"{at}/data.bin", 20 * _PIECE, 20 * _PIECE + 10)
    assert archive.bytes_requested - before <= 2 * _PIECE


def test_faults_never_deliver_wrong_bytes(
    harness: ScriptedHarness, archive: RangeServer, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.stream.readers._PAUSE", 0.01)
    chance = random.Random(300)
    outcomes: dict[str, int] = {"right": 0, "error": 0, "aborted": 0}

    def attempt(address: str, start: int, stop: int) -> str:
        status, body = read(address, start, stop)
        if status is None:
            # also what arrived before the abort is right
            assert body == CONTENT[start : start + len(body)]
            return "aborted"
        if status >= 400:
            assert status in (502, 503, 504)
            assert body != CONTENT[start:stop]
            return "error"
        assert body == CONTENT[start:stop], (start, stop, faults.kinds)
        return "right"

    for _round in range(8):
        # a new site has no pieces in memory
        with serve_gateway(harness, seconds=4.0) as at, ThreadPoolExecutor(12) as pool:
            kinds = chance.choices(KINDS, weights=(6, 5, 5, 4, 4, 1), k=2)
            hit = chance.sample(range(_SIZE // _PIECE + 1), 2)
            faults.kinds = dict(zip(hit, kinds, strict=True))
            spans = []
            for piece in chance.choices(hit, k=25):
                start = max(0, piece * _PIECE - chance.randrange(_SIZE))
                spans.append((start, min(_SIZE, piece * _PIECE + chance.randrange(1, 3 * _PIECE))))
            found = pool.map(lambda span: attempt(f"{at}/data.bin", *span), spans)
            for one in found:
                outcomes[one] += 1
    assert sum(outcomes.values()) == 200
    assert outcomes["right"] == 0  # each span has its fault, for all requests
    assert min(outcomes["error"], outcomes["aborted"]) > 10, outcomes


def test_what_was_read_once_is_not_requested_again(
    harness: ScriptedHarness, archive: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROMIRROR_CACHE", str(tmp_path / "pieces"))
    before = -1
    for _attempt in range(20):
        # pieces are written in the background
        before = len(archive.requests)
        with serve_gateway(harness) as at:
            assert requests.get(f"{at}/data.bin", timeout=60).content == CONTENT
        if len(archive.requests) == before:
            break
    assert len(archive.requests) == before
    # wrong bytes in the cache are not delivered either
    for path in (tmp_path / "pieces").rglob("*"):
        if path.is_file() and path.stat().st_size >= _SIZE:
            with path.open("r+b") as file:
                file.seek(_SIZE // 2)
                file.write(b"wrong bytes")
    with serve_gateway(harness) as at:
        assert requests.get(f"{at}/data.bin", timeout=60).content == CONTENT
    assert len(archive.requests) > before


def test_another_location_is_used(tmp_path: Path, faults: Faults, archive: RangeServer) -> None:
    with RangeServer() as other:
        harness = mirror_contents(
            tmp_path / "box", archive, {"copied.bin": CONTENT}, others=(other,), piece_size=_PIECE
        )
        faults.kinds = {3: "corrupted", 7: "truncated", 20: "gone", 30: "delayed"}
        with serve_gateway(harness, seconds=10.0) as at:
            assert requests.get(f"{at}/copied.bin", timeout=60).content == CONTENT


def test_a_chunk_that_cannot_be_fetched_is_no_missing_chunk(
    at: str, faults: Faults, archive: RangeServer
) -> None:
    faults.kinds = {0: "gone"}
    failed = requests.get(f"{at}/small.html", timeout=60)
    assert failed.status_code == 502
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.headers["cache-control"] == "no-store"
    assert failed.headers["access-control-allow-origin"] == "*"
    assert archive.url not in failed.text
    assert requests.get(f"{at}/absent", timeout=60).status_code == 404


def test_zarr_python_does_not_read_an_excluded_chunk_as_the_fill_value(
    tmp_path: Path, archive: RangeServer
) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), chunks=(2, 2), dtype="u1")
    array[:2, 2:] = 1
    files = {one.relative_to(tmp_path): one for one in tmp_path.rglob("*") if one.is_file()}
    contents = {path.as_posix(): file.read_bytes() for path, file in files.items()}
    contents["a.zarr//odd"] = b"a folder without a name"
    excluded = ["a.zarr/c/0/0", "b.zarr"]
    harness = mirror_contents(tmp_path / "box", archive, contents, exceptions=excluded)
    with serve_gateway(harness) as at:
        read = zarr.open_array(f"{at}/a.zarr", mode="r")
        assert read[:2, 2:].all()
        assert not read[2:, :].any()  # the archive has no such chunks
        with pytest.raises(ClientResponseError, match="406"):
            read[:2, :2]
        refused = requests.get(f"{at}/a.zarr/c/0/0", timeout=60)
        assert "excluded from the version (folder-marker)" in refused.json()["detail"]
        for path in ("b.zarr/", "a.zarr//odd"):
            assert requests.get(f"{at}/{path}", timeout=60).status_code == 406
        for path in ("a.zarr//even", "/", "//", "a.zarr/c/", "%2e%2e/a", "a/%2e/b", "a%00b"):
            assert requests.get(f"{at}/{path}", timeout=60).status_code in (200, 404), path
    with harness.index() as index:
        files = open_version_files(harness.store, index.versions.resolve(DATASET))
    with closing(files), pytest.raises(BlockUnavailableError, match="excluded"):
        preview_zarr(files, "a.zarr")


def test_a_file_that_cannot_be_verified_is_refused(
    tmp_path: Path, archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.stream.pieces.MAX_WHOLE", 1000)
    harness = mirror_contents(tmp_path / "box", archive, {"large.bin": CONTENT})
    with serve_gateway(harness) as at:
        reply = requests.get(f"{at}/large.bin", timeout=60)
        assert reply.status_code == 502
        assert "verified" in reply.json()["detail"]


def test_no_credential_is_sent(
    at: str, archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, str]] = []

    def record(handler: RangeHandler, request: RangeRequest) -> bool:
        sent.append({name.lower(): value for name, value in handler.headers.items()})
        return False

    archive.fault = record
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("DANDI_API_KEY", "secret")
    read(f"{at}/data.bin", 0, 10)
    assert sent
    assert all("authorization" not in one and "cookie" not in one for one in sent)
