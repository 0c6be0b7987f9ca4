from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from volume_service import VolumeService

from neuromirror.net import BrokenOff, HttpError, Limits, NetError, Session, UnsafeAddress
from neuromirror.sources.volumes import (
    Block,
    BlockUrl,
    CutoutRefused,
    Level,
    MalformedUrl,
    TokenRefused,
    Volume,
    WrongVoxels,
    blocks,
    cutout_request,
    fetch,
    parse_url,
)
from neuromirror.sources.volumes.tokens import variable

_LEVEL = Level("1", (2, 0, 1), (12, 9, 8), (1.0, 1.0, 1.0), (8, 8, 8))


@pytest.fixture
def service() -> Iterator[VolumeService]:
    rng = np.random.default_rng(5)
    array = rng.integers(1, 1 << 16, (2, 7, 9, 10), "uint16")
    with VolumeService({"1": array}, {"1": (2, 0, 1)}) as running:
        yield running


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(allow_private=True, limits=Limits(attempts=2, wait=0.01, wait_max=0.02)) as one:
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
        told: list[int] = []
        found = b"".join(
            fetch(session, parse_url(block.url), size=block.size, progress=told.append)
        )
        assert found == expected(service, block)
        assert told[-1] == block.size == len(found)
    # a key that does not tell its size still gets what the service says
    assert b"".join(fetch(session, parse_url(block.url))) == expected(service, block)


def test_boss_is_asked_for_what_can_be_decoded_with_a_token(
    service: VolumeService, session: Session
) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    b"".join(fetch(session, url, size=1024))
    b"".join(fetch(session, url, token="mine"))
    public, mine = service.headers
    assert public["Accept"] == "application/blosc, application/npygz;q=0.9"
    assert mine["Accept"] == "application/npygz"  # of unknown size, it is not held in memory
    assert public["Authorization"] == "Token public"
    assert mine["Authorization"] == "Token mine"


def test_a_sessions_own_token_goes_before_the_public_one(
    service: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "MY_TOKEN", "secret-token")
    url = parse_url(next(blocks(volume(service))).url)
    with Session(allow_private=True, tokens={service.api: "MY_TOKEN"}) as session:
        b"".join(fetch(session, url))
    assert service.headers[0]["Authorization"] == "token secret-token"


def test_requests_are_those_that_the_services_know() -> None:
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
    with pytest.raises(MalformedUrl, match="names no channel"):
        cutout_request(parse_url("boss://lab.example/c/e/3/0:4/5:6/7:9"))


def test_a_token_never_follows_a_redirect(service: VolumeService, session: Session) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    with VolumeService(service.levels, service.starts) as elsewhere:
        target = cutout_request(replace(url, host=elsewhere.host)).address
        service.answers["*"] = [(302, {"Location": target}, b"")] * 2
        assert len(b"".join(fetch(session, url))) == 1024
        assert elsewhere.headers[0]["Authorization"] == "Token public"
        with pytest.raises(CutoutRefused) as caught:
            b"".join(fetch(session, url, token="mine"))
        assert caught.value.status == 302
        assert len(elsewhere.headers) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "may lie outside of the channel"),
        (404, "marked as deleted"),
        (413, "set a smaller block"),
        (500, "the token is wrong"),
    ],
)
def test_a_refusal_names_the_block_and_what_it_may_mean(
    status: int, words: str, service: VolumeService, session: Session
) -> None:
    block = next(blocks(volume(service)))
    service.answers["*"] = [(status, {}, b"{}")] * 2
    with pytest.raises(CutoutRefused, match=words) as caught:
        b"".join(fetch(session, parse_url(block.url), size=block.size))
    assert block.url in str(caught.value)
    assert caught.value.status == status
    assert caught.value.passing == (status == 500)
    assert isinstance(caught.value, HttpError)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_named_by_where_it_comes_from(
    status: int, service: VolumeService, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    service.answers["*"] = [(status, {}, b"{}")] * 4
    with pytest.raises(TokenRefused) as caught:
        b"".join(fetch(session, url, token="mine"))
    assert (caught.value.name, caught.value.host) == (variable(service.host), service.host)
    assert caught.value.status == status
    with pytest.raises(TokenRefused) as caught:
        b"".join(fetch(session, url, token="mine", token_name="the credentials"))
    assert caught.value.name == "the credentials"
    with pytest.raises(CutoutRefused) as refused:
        b"".join(fetch(session, url, token_name=variable(service.host)))
    assert variable(service.host) in str(refused.value)
    # a mirror's token has a variable of its own
    monkeypatch.setitem(os.environ, "MY_TOKEN", "secret-token")
    with (
        Session(allow_private=True, tokens={service.api: "MY_TOKEN"}) as other,
        pytest.raises(CutoutRefused) as refused,
    ):
        b"".join(fetch(other, url))
    assert "MY_TOKEN" in str(refused.value)
    assert variable(service.host) not in str(refused.value)


def test_troubles_that_pass_are_tried_again(service: VolumeService, session: Session) -> None:
    block = next(blocks(volume(service)))
    for status in (429, 503):
        service.answers["*"] = [(status, {}, b"")]
        assert b"".join(fetch(session, parse_url(block.url))) == expected(service, block)


def test_a_reply_that_breaks_off_is_an_error(service: VolumeService, session: Session) -> None:
    block = next(blocks(volume(service)))
    service.answers["*"] = [100]
    with pytest.raises(BrokenOff):
        b"".join(fetch(session, parse_url(block.url)))


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("text/html; charset=utf-8", b"<html>log in</html>", "'text/html' instead of voxels"),
        ("application/json", b"{}", "'application/json' instead of voxels"),
        ("application/blosc", b"\x02\x01", "'application/blosc' instead of voxels"),
        ("application/octet-stream", b"\x80\x04\x95pickled", "not zlib's, or damaged"),
    ],
)
def test_a_reply_that_is_no_voxels_is_refused(
    kind: str, body: bytes, words: str, service: VolumeService, session: Session
) -> None:
    block = next(blocks(volume(service)))
    service.answers["*"] = [(200, {"Content-Type": kind}, body)]
    with pytest.raises(WrongVoxels, match=words) as caught:
        b"".join(fetch(session, parse_url(block.url)))
    assert block.url in str(caught.value)


def test_a_host_on_the_own_network_is_asked_only_when_allowed(service: VolumeService) -> None:
    url: Any = parse_url(next(blocks(volume(service))).url)
    with Session() as session, pytest.raises((UnsafeAddress, NetError), match="this machine"):
        b"".join(fetch(session, url))
    assert not service.asked


def test_a_size_that_is_not_the_files_asks_nothing(
    service: VolumeService, session: Session
) -> None:
    url = parse_url(next(blocks(volume(service))).url)
    with pytest.raises(MalformedUrl, match="no file of 1025 bytes"):
        b"".join(fetch(session, url, size=1025))
    assert not service.asked


# --- large blocks


_LARGE = (12, 500, 2), (44, 1524, 1026)
"""Where the large block starts and ends, along z, y, x: on no cuboid's edge."""

_PARTS = ["2:1026/500:1024/12:16", "2:1026/1024:1524/12:16"]
_PARTS += ["2:1026/500:1024/16:32", "2:1026/1024:1524/16:32"]
_PARTS += ["2:1026/500:1024/32:44", "2:1026/1024:1524/32:44"]


@pytest.fixture
def large() -> Iterator[VolumeService]:
    """A service with 32 MiB of voxels that all speak of their place."""
    (z0, y0, x0), (z1, y1, x1) = _LARGE
    shape = z1 - z0, y1 - y0, x1 - x0
    array = np.arange(np.prod(shape), dtype="uint32").reshape(shape) % 65521
    with VolumeService({"0": array.astype("uint8")}, {"0": (x0, y0, z0)}) as running:
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
    told: list[int] = []
    url, size = large_url(large), 32 << 20
    pieces = fetch(session, url, size=size, progress=told.append, parallel=parallel)
    assert b"".join(pieces) == whole(large)
    assert told[-1] == size
    assert sorted(large.asked) == sorted(f"0/{part}" for part in _PARTS)
    assert set(large.asked.values()) == {1}
    assert large.busiest <= parallel


def test_a_large_block_is_padded_where_the_volume_ends(
    large: VolumeService, session: Session
) -> None:
    found = b"".join(fetch(session, large_url(large, "?chunk=1030,1025,34"), size=1030 * 1025 * 34))
    padded = np.zeros((34, 1025, 1030), "uint8")
    padded[:32, :1024, :1024] = large.levels["0"]
    assert found == padded.tobytes()


def test_only_the_part_that_broke_off_is_asked_for_again(
    large: VolumeService, session: Session
) -> None:
    large.answers[f"0/{_PARTS[3]}"] = [100, 5000]
    found = b"".join(fetch(session, large_url(large), size=32 << 20, parallel=3))
    assert found == whole(large)
    assert large.asked.pop(f"0/{_PARTS[3]}") == 3
    assert set(large.asked.values()) == {1}


def test_a_part_that_always_breaks_off_is_an_error(large: VolumeService, session: Session) -> None:
    large.answers[f"0/{_PARTS[3]}"] = [100] * 9
    with pytest.raises(BrokenOff) as caught:
        b"".join(fetch(session, large_url(large), size=32 << 20, parallel=3))
    assert not caught.value.passing
    assert large.asked[f"0/{_PARTS[3]}"] == 3


def test_a_service_that_is_down_is_asked_for_one_part(
    large: VolumeService, session: Session
) -> None:
    large.answers["*"] = [(503, {}, b"")] * 99
    with pytest.raises(NetError):
        b"".join(fetch(session, large_url(large), size=32 << 20, parallel=3))
    large.wait()
    assert sum(large.asked.values()) == session.limits.attempts


def test_a_service_that_refuses_blosc_is_asked_for_npygz(
    service: VolumeService, session: Session
) -> None:
    block = next(blocks(volume(service)))
    service.answers["*"] = [(406, {}, b"")]
    found = b"".join(fetch(session, parse_url(block.url), size=block.size))
    assert found == expected(service, block)
    assert [headers["Accept"] for headers in service.headers][1:] == ["application/npygz"]


def test_a_block_that_nobody_waits_for_is_not_read_to_its_end(
    large: VolumeService, session: Session
) -> None:
    large.answers["*"] = [0.01] * 6
    pieces = fetch(session, large_url(large), size=32 << 20, parallel=3)
    next(pieces)
    pieces.close()
    large.wait()
    assert sum(large.asked.values()) < len(_PARTS)
