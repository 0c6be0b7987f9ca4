"""Services with malformed descriptions of volumes."""

import json
import tracemalloc
import zlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from neuromirror.net import NetError, RequestLimits, Session
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.ndstore import NdstoreOptions, NdstoreSource
from neuromirror.sources.volumes.decode import decode_cutout
from neuromirror.sources.volumes.fetching import cutout_request, fetch_block
from neuromirror.sources.volumes.urls import BlockUrl, MalformedUrlError, parse_url
from neuromirror_demo.boss import DemoBoss
from support.boss_sources import RewritingProxy, documents_of, listing_of, make_source
from support.visit_context import FakeVisitContext
from support.volume_service import VolumeService, npy

EM = "demo_cortex/sections/em"
BLOCK = "boss://lab.example/c/e/ch/0/0:1/0:1/0:1"
HUGE = 10**400
"""An integer that no float can represent, but JSON can."""


@pytest.fixture(scope="module")
def boss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path_factory.mktemp("boss")) as running:
        yield running


def replace_record(boss: DemoBoss, server: HTTPServer, path: str, **changed: Any) -> RewritingProxy:
    """A BOSS with one changed reply."""
    detour = RewritingProxy(server, boss)
    record = make_source(boss.api)._client._object(path) | changed
    detour.replacements[rf"^/v1/{path}/?$"] = Response(
        json.dumps(record), mimetype="application/json"
    )
    return detour


EXPERIMENT = "collection/demo_cortex/experiment/sections"
CHANNEL = f"{EXPERIMENT}/channel/em"
DOWNSAMPLED = f"downsample/{EM}"


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        (EXPERIMENT, {"num_time_samples": 1 << 47}),
        (EXPERIMENT, {"coord_frame": "\ud800"}),
        (DOWNSAMPLED, {"voxel_size": {"0": [HUGE, 4, 4]}}),
        (DOWNSAMPLED, {"voxel_size": {"0": [1e307, 4, 4]}}),
    ],
)
def test_malformed_replies_of_a_boss_are_unexpected(
    boss: DemoBoss, httpserver: HTTPServer, path: str, changed: dict[str, Any]
) -> None:
    detour = replace_record(boss, httpserver, path, **changed)
    with pytest.raises(UnexpectedReplyError):
        listing_of(make_source(detour.api), EM)


def test_a_huge_time_step_is_ignored(boss: DemoBoss, httpserver: HTTPServer) -> None:
    changed = {"num_time_samples": 2, "time_step": HUGE, "time_step_unit": "seconds"}
    detour = replace_record(boss, httpserver, EXPERIMENT, **changed)
    group = json.loads(documents_of(listing_of(make_source(detour.api), EM))["zarr.json"])
    (multiscale,) = group["attributes"]["ome"]["multiscales"]
    assert multiscale["axes"][0] == {"name": "t", "type": "time"}


def test_nan_in_a_record_is_an_error(boss: DemoBoss, httpserver: HTTPServer) -> None:
    detour = replace_record(boss, httpserver, CHANNEL, gain=float("nan"))
    with pytest.raises(UnexpectedReplyError, match="JSON"):
        listing_of(make_source(detour.api), EM)


def test_siblings_with_malformed_names_are_skipped(boss: DemoBoss, httpserver: HTTPServer) -> None:
    detour = replace_record(boss, httpserver, CHANNEL, sources=["\ud800", 7, None, "cells"])
    facts = listing_of(make_source(detour.api), EM).facts
    assert facts.inputs == ("demo_cortex/sections/cells",)


@pytest.mark.parametrize("bucket", ["evil.example/#", "evil/", "a\x1bb", "x"])
def test_a_malformed_bucket_gives_no_link(
    boss: DemoBoss, httpserver: HTTPServer, bucket: str
) -> None:
    changed = {"storage_type": "cloudvol", "bucket": bucket, "cv_path": "/x"}
    detour = replace_record(boss, httpserver, CHANNEL, **changed)
    links = dict(listing_of(make_source(detour.api), EM).facts.links)
    assert "precomputed" not in links
    assert "s3.amazonaws" not in "".join(links.values())


INFO: dict[str, Any] = {
    "project": {"name": "P"},
    "dataset": {
        "imagesize": {"0": [8, 8, 8]},
        "offset": {"0": [0, 0, 1]},
        "voxelres": {"0": [3.0, 3.0, 30.0]},
        "resolutions": [0],
    },
    "channels": {"ch": {"channel_type": "image", "datatype": "uint8", "propagate": 0}},
}


def ndstore(server: HTTPServer, info: dict[str, Any]) -> NdstoreSource:
    server.expect_request("/nd/ca/public_tokens/").respond_with_json(["P"])
    server.expect_request("/nd/ca/P/info/").respond_with_json(info)
    options = NdstoreOptions(api=server.url_for("/nd/ca"))
    return NdstoreSource(
        "nd", options, Session(allow_private=True, limits=RequestLimits(attempts=1))
    )


def test_a_channel_that_cannot_be_read_stops_no_other(httpserver: HTTPServer) -> None:
    plain = INFO["channels"]["ch"]
    odd = {**plain, "propagate": "2"}
    source = ndstore(httpserver, {**INFO, "channels": {"odd": odd, "ch": plain, "\ud800": plain}})
    hints = {hint.dataset.local_id: hint for hint in source.datasets()}
    assert set(hints) == {"P/ch", "P/odd"}
    assert not hints["P/ch"].unavailable
    for local_id, fails in (("P/odd", True), ("P/ch", False)):
        (version,) = source.versions(source.dataset(local_id))
        if fails:
            with pytest.raises(UnexpectedReplyError, match="propagate"):
                source.listing(version, FakeVisitContext())
        else:
            assert len(list(source.listing(version, FakeVisitContext()).entries())) == 1


def test_implausible_voxel_sizes_of_an_ndstore_are_refused(httpserver: HTTPServer) -> None:
    dataset = {**INFO["dataset"], "voxelres": {"0": [HUGE, 3, 3]}}
    source = ndstore(httpserver, {**INFO, "dataset": dataset})
    (version,) = source.versions(source.dataset("P/ch"))
    with pytest.raises(UnexpectedReplyError, match="voxelres"):
        source.listing(version, FakeVisitContext())


@pytest.mark.parametrize(
    "url",
    [
        f"{BLOCK}?chunk=1000000000000,1,1",
        f"{BLOCK}?chunk=1,1,600000000",
        f"{BLOCK}?chunk=1,1,100000000&dtype=float64",
        "boss://lab.example/c/e/ch/0/0:100000000000000/0:1/0:1",
    ],
)
def test_a_block_url_larger_than_a_request_is_refused(url: str) -> None:
    with pytest.raises(MalformedUrlError):
        parse_url(url)


def test_a_file_size_larger_than_a_request_is_refused() -> None:
    url = parse_url(f"{BLOCK}?chunk=1024,1024,512")
    assert url.voxel_type(1 << 29) == "uint8"
    with pytest.raises(MalformedUrlError, match="larger than any"):
        url.voxel_type(1 << 32)


@pytest.mark.parametrize("chunk", [(1 << 26, 1, 1), (1, 1 << 26, 1), (1, 1, 1 << 26)])
def test_padding_is_streamed(chunk: tuple[int, int, int]) -> None:
    body = zlib.compress(npy(np.full((1, 1, 1), 7, "uint8")))
    tracemalloc.start()
    try:
        pieces = decode_cutout([body], "npygz", ((0, 1), (0, 1), (0, 1)), chunk, "uint8")
        assert sum(len(piece) for piece in pieces) == 1 << 26
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_rows_longer_than_a_piece_are_padded_rightly() -> None:
    box, chunk = ((0, 3), (0, 2), (0, 2)), (1 << 20, 3, 2)
    voxels = np.arange(1, 13, dtype="<u2").reshape(2, 2, 3)
    made = b"".join(decode_cutout([zlib.compress(npy(voxels))], "npygz", box, chunk, "uint16"))
    expected = np.zeros((2, 3, 1 << 20), "<u2")
    expected[:, :2, :3] = voxels
    assert made == expected.tobytes()


def test_a_slow_service_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    voxels = rng.integers(0, 256, (1, 512, 1024), "uint8")
    with VolumeService({"0": voxels}, {"0": (0, 0, 0)}) as service:
        url = parse_url(f"boss://{service.host}/c/e/ch/0/0:1024/0:512/0:1")
        monkeypatch.setattr(import_module(fetch_block.__module__), "_SLOWEST", 1 << 30)
        service.replacements["*"] = [0.5]
        limits = RequestLimits(attempts=1, read=1.0, total=0.2)
        with Session(allow_private=True, limits=limits) as session, pytest.raises(NetError):
            b"".join(fetch_block(session, url, size=voxels.size))


def of_host(host: str, *, secure: bool) -> BlockUrl:
    return BlockUrl("boss", host, "c/e/ch", "0", ((0, 1),) * 3, (1, 1, 1), secure=secure)


@pytest.mark.parametrize(
    ("host", "secure", "goes"),
    [
        ("lab.example", True, True),
        ("lab.example", False, False),
        ("lab.example:8000", False, True),
        ("127.0.0.1:8000", False, True),
        ("10.0.0.7", False, True),
    ],
)
def test_a_token_is_not_sent_over_plain_http(host: str, secure: bool, goes: bool) -> None:
    request = cutout_request(of_host(host, secure=secure), "mine")
    assert request.secret == goes
    assert ("mine" in request.headers["Authorization"]) == goes
