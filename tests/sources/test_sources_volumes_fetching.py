import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from neuromirror.net import (
    HttpError,
    IncompleteResponseError,
    NetError,
    RequestLimits,
    Session,
    UnsafeAddressError,
)
from neuromirror.sources.volumes.fetching import cutout_request, fetch_block
from neuromirror.sources.volumes.grid import Block, Level, Volume, blocks
from neuromirror.sources.volumes.urls import (
    BlockUrl,
    CutoutRefusedError,
    MalformedUrlError,
    TokenRefusedError,
    WrongVoxelsError,
    parse_url,
    token_variable,
)
from support.volume_service import VolumeService

_LEVEL = Level("1", (2, 0, 1), (12, 9, 8), (1.0, 1.0, 1.0), (8, 8, 8))


@pytest.fixture
def service() -> Iterator[VolumeService]:
    rng = np.random.default_rng(5)
    array = rng.integers(1, 1 << 16, (2, 7, 9, 10), "uint16")
    with VolumeService({"1": array}, {"1": (2, 0, 1)}) as running:
        yield running


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(
        allow_private=True, limits=RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
    ) as one:
        yield one


def volume(service: VolumeService, scheme: str = "boss") -> Volume:
    path = "c/e/ch" if scheme == "boss" else "nd/ca/token/ch"
    return Volume(scheme, service.host, path, "uint16", "nanometer", (_LEVEL,), times=(0, 1))


def expected(service: VolumeService, block: Block) -> bytes:
    padded = np.zeros((8, 8, 8), "<u2")
    part = service.cutout("1", [n for side in block.box for n in side], block.time)[0]
    padded[tuple(slice(size) for size in part.shape)] = part
    return padded.tobytes()


@pytest.mark.parametrize("scheme", ["boss", "ndstore"])
def test_a_url_and_a_size_are_enough_for_the_chunk_file(
    scheme: str, service: VolumeService, session: Session
) -> None:
    every = list(blocks(volume(service, scheme)))
    assert len(every) == 2 * 2 * 2
    for block in every:
        progress: list[int] = []
        found = b"".join(
            fetch_block(session, parse_url(block.url), size=block.size, progress=progress.append)
        )
        assert found == expected(service, block)
        assert progress[-1] == block.size == len(found)
    # without the key's size, the type is the one that the service states
    assert b"".join(fetch_block(session, parse_url(block.url))) == expected(service, block)


def test_boss_requests_name_decodable_types_and_carry_a_token(
    service: VolumeService, session: Session
) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    b"".join(fetch_block(session, url, size=1024))
    b"".join(fetch_block(session, url, token="mine"))
    public, mine = service.headers
    assert public["Accept"] == "application/blosc, application/npygz;q=0.9"
    assert mine["Accept"] == "application/npygz"  # a block of unknown size is not held in memory
    assert public["Authorization"] == "Token public"
    assert mine["Authorization"] == "Token mine"


def test_the_sessions_token_takes_precedence_over_the_public_one(
    service: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "MY_TOKEN", "secret-token")
    url = parse_url(next(blocks(volume(service))).url)
    with Session(allow_private=True, tokens={service.url: "MY_TOKEN"}) as session:
        b"".join(fetch_block(session, url))
    assert service.headers[0]["Authorization"] == "token secret-token"


def test_requests_follow_the_services_apis() -> None:
    boss = parse_url("boss://lab.example/boss/c/e/ch/3/0:4/5:6/7:9/2?chunk=8,8,8")
    assert cutout_request(boss).address == (
        "https://lab.example/boss/v1/cutout/c/e/ch/3/0:4/5:6/7:9/2:3/?access-mode=no-cache"
    )
    assert not cutout_request(boss, "public").secret
    assert cutout_request(boss, "mine").secret
    ndstore = parse_url("ndstore://openconnecto.me/nd/ca/tok/ch/3/0:4/5:6/7:9?scheme=http")
    request = cutout_request(ndstore)
    assert request.address == "http://openconnecto.me/nd/ca/tok/ch/npz/3/0,4/5,6/7,9/"
    assert dict(request.headers) == {}
    with pytest.raises(MalformedUrlError, match="names no channel"):
        cutout_request(parse_url("boss://lab.example/c/e/3/0:4/5:6/7:9"))


def test_a_token_never_follows_a_redirect(service: VolumeService, session: Session) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    with VolumeService(service.levels, service.starts) as elsewhere:
        target = cutout_request(replace(url, host=elsewhere.host)).address
        service.replacements["*"] = [(302, {"Location": target}, b"")] * 2
        assert len(b"".join(fetch_block(session, url))) == 1024
        assert elsewhere.headers[0]["Authorization"] == "Token public"
        with pytest.raises(CutoutRefusedError) as caught:
            b"".join(fetch_block(session, url, token="mine"))
        assert caught.value.status == 302
        assert len(elsewhere.headers) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "outside"),
        (404, "deletion"),
        (413, "set a smaller block"),
        (500, "the token is wrong"),
    ],
)
def test_a_refusal_names_the_block_and_what_it_may_mean(
    status: int, message: str, service: VolumeService, session: Session
) -> None:
    block = next(blocks(volume(service)))
    service.replacements["*"] = [(status, {}, b"{}")] * 2
    with pytest.raises(CutoutRefusedError, match=message) as caught:
        b"".join(fetch_block(session, parse_url(block.url), size=block.size))
    assert block.url in str(caught.value)
    assert caught.value.status == status
    assert caught.value.transient == (status == 500)
    assert isinstance(caught.value, HttpError)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_named_by_where_it_comes_from(
    status: int, service: VolumeService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    service.replacements["*"] = [(status, {}, b"{}")] * 4
    with pytest.raises(TokenRefusedError) as caught:
        b"".join(fetch_block(session, url, token="mine"))
    assert (caught.value.name, caught.value.host) == (token_variable(service.host), service.host)
    assert caught.value.status == status
    with pytest.raises(TokenRefusedError) as caught:
        b"".join(fetch_block(session, url, token="mine", token_name="the credentials"))
    assert caught.value.name == "the credentials"
    with pytest.raises(CutoutRefusedError) as refused:
        b"".join(fetch_block(session, url, token_name=token_variable(service.host)))
    assert token_variable(service.host) in str(refused.value)
    # a mirror's token has its own variable
    monkeypatch.setitem(os.environ, "MY_TOKEN", "secret-token")
    with (
        Session(allow_private=True, tokens={service.url: "MY_TOKEN"}) as other,
        pytest.raises(CutoutRefusedError) as refused,
    ):
        b"".join(fetch_block(other, url))
    assert "MY_TOKEN" in str(refused.value)
    assert token_variable(service.host) not in str(refused.value)


def test_transient_errors_are_retried(service: VolumeService, session: Session) -> None:
    block = next(blocks(volume(service)))
    for status in (429, 503):
        service.replacements["*"] = [(status, {}, b"")]
        assert b"".join(fetch_block(session, parse_url(block.url))) == expected(service, block)


def test_a_truncated_reply_is_an_error(service: VolumeService, session: Session) -> None:
    block = next(blocks(volume(service)))
    service.replacements["*"] = [100]
    with pytest.raises(IncompleteResponseError):
        b"".join(fetch_block(session, parse_url(block.url)))


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("text/html; charset=utf-8", b"<html>log in</html>", "'text/html' instead of voxels"),
        ("application/json", b"{}", "'application/json' instead of voxels"),
        ("application/blosc", b"\x02\x01", "'application/blosc' instead of voxels"),
        ("application/octet-stream", b"\x80\x04\x95pickled", "zlib"),
    ],
)
def test_a_reply_without_voxels_is_refused(
    kind: str, body: bytes, message: str, service: VolumeService, session: Session
) -> None:
    block = next(blocks(volume(service)))
    service.replacements["*"] = [(200, {"Content-Type": kind}, body)]
    with pytest.raises(WrongVoxelsError, match=message) as caught:
        b"".join(fetch_block(session, parse_url(block.url)))
    assert block.url in str(caught.value)


def test_a_host_on_a_private_network_is_requested_only_when_allowed(service: VolumeService) -> None:
    url: Any = parse_url(next(blocks(volume(service))).url)
    with Session() as session, pytest.raises((UnsafeAddressError, NetError), match="this machine"):
        b"".join(fetch_block(session, url))
    assert not service.requests


def test_a_wrong_size_is_refused_without_requests(service: VolumeService, session: Session) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    with pytest.raises(MalformedUrlError, match="1025 bytes"):
        b"".join(fetch_block(session, url, size=1025))
    assert not service.requests


# --- large blocks


_LARGE = (12, 500, 2), (44, 1524, 1026)
"""Start and end of the large block along z, y, x, not on a cuboid's edge."""

_PARTS = ["2:1026/500:1024/12:16", "2:1026/1024:1524/12:16"]
_PARTS += ["2:1026/500:1024/16:32", "2:1026/1024:1524/16:32"]
_PARTS += ["2:1026/500:1024/32:44", "2:1026/1024:1524/32:44"]


@pytest.fixture(scope="module")
def large_array() -> Any:
    """32 MiB of voxels whose values depend on their position."""
    (z0, y0, x0), (z1, y1, x1) = _LARGE
    shape = z1 - z0, y1 - y0, x1 - x0
    array = np.arange(np.prod(shape), dtype="uint32").reshape(shape) % 65521
    return array.astype("uint8")


@pytest.fixture
def large(large_array: Any) -> Iterator[VolumeService]:
    """A service with a large array."""
    z0, y0, x0 = _LARGE[0]
    with VolumeService({"0": large_array}, {"0": (x0, y0, z0)}) as running:
        running.speaks_blosc = True
        yield running


def large_url(service: VolumeService, chunk: str = "") -> BlockUrl:
    return parse_url(f"boss://{service.host}/c/e/ch/0/2:1026/500:1524/12:44{chunk}")


def whole(service: VolumeService) -> bytes:
    return bytes(service.levels["0"].tobytes())


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("speaks_blosc", [True, False])
def test_a_large_block_is_fetched_in_parts_along_cuboids(
    large: VolumeService, session: Session, parallel: int, speaks_blosc: bool
) -> None:
    large.speaks_blosc = speaks_blosc
    progress: list[int] = []
    url, size = large_url(large), 32 << 20
    pieces = fetch_block(session, url, size=size, progress=progress.append, parallel=parallel)
    assert b"".join(pieces) == whole(large)
    assert progress[-1] == size
    assert sorted(large.requests) == sorted(f"0/{part}" for part in _PARTS)
    assert set(large.requests.values()) == {1}
    assert large.peak_requests <= parallel


def test_a_large_block_is_padded_where_the_volume_ends(
    large: VolumeService, session: Session
) -> None:
    found = b"".join(
        fetch_block(session, large_url(large, "?chunk=1030,1025,34"), size=1030 * 1025 * 34)
    )
    padded = np.zeros((34, 1025, 1030), "uint8")
    padded[:32, :1024, :1024] = large.levels["0"]
    assert found == padded.tobytes()


def test_only_the_interrupted_subrequest_is_retried(large: VolumeService, session: Session) -> None:
    large.replacements[f"0/{_PARTS[3]}"] = [100, 5000]
    found = b"".join(fetch_block(session, large_url(large), size=32 << 20, parallel=3))
    assert found == whole(large)
    assert large.requests.pop(f"0/{_PARTS[3]}") == 3
    assert set(large.requests.values()) == {1}


def test_a_part_that_is_always_truncated_is_an_error(
    large: VolumeService, session: Session
) -> None:
    large.replacements[f"0/{_PARTS[3]}"] = [100] * 9
    with pytest.raises(IncompleteResponseError) as caught:
        b"".join(fetch_block(session, large_url(large), size=32 << 20, parallel=3))
    assert not caught.value.transient
    assert large.requests[f"0/{_PARTS[3]}"] == 3


def test_a_service_that_is_down_gets_a_single_subrequest(
    large: VolumeService, session: Session
) -> None:
    large.replacements["*"] = [(503, {}, b"")] * 99
    with pytest.raises(NetError):
        b"".join(fetch_block(session, large_url(large), size=32 << 20, parallel=3))
    large.wait()
    assert sum(large.requests.values()) == session.limits.attempts


def test_a_service_that_refuses_blosc_gets_a_request_for_npygz(
    service: VolumeService, session: Session
) -> None:
    block = next(blocks(volume(service)))
    service.replacements["*"] = [(406, {}, b"")]
    found = b"".join(fetch_block(session, parse_url(block.url), size=block.size))
    assert found == expected(service, block)
    assert [headers["Accept"] for headers in service.headers][1:] == ["application/npygz"]


def test_an_abandoned_block_is_not_read_to_its_end(large: VolumeService, session: Session) -> None:
    large.replacements["*"] = [0.01] * 6
    pieces = fetch_block(session, large_url(large), size=32 << 20, parallel=3)
    next(pieces)
    pieces.close()
    large.wait()
    assert sum(large.requests.values()) < len(_PARTS)
