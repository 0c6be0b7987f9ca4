"""The demo's precomputed layers: as they are stored, and as anybody gets them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import CELLS, EM, LAYERS, layer_scales
from neuromirror_demo.volumes import encode_object


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBuckets]:
    with DemoBuckets(tmp_path_factory.mktemp("layers"), layers=True) as running:
        yield running


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 65_537, 200_000])
def test_what_is_stored_as_brotli_is_brotli(size: int) -> None:
    import brotli  # it comes with cloud-volume

    data = bytes(number * 7 % 251 for number in range(size))
    stored = encode_object(data, "br")
    assert stored.encoding == "br"
    assert brotli.decompress(stored.data) == data
    assert size == 0 or stored.data != data


def test_encoding_is_declared_and_bytes_are_served_as_stored(still: DemoBuckets) -> None:
    scale = layer_scales(CELLS)[0]
    key = f"{CELLS}/4_4_40/0-64_0-64_12-28"
    with requests.get(still.url(key, bucket=still.precomputed), stream=True, timeout=300) as reply:
        stored = reply.raw.read(decode_content=False)
        assert reply.headers["Content-Encoding"] == "gzip"
        assert reply.headers["Content-Length"] == str(len(stored))
    assert stored == still.data(key, bucket=still.precomputed)
    assert gzip.decompress(stored) == scale.voxels[:16, :64, :64].tobytes()
    info = requests.get(still.url(f"{EM}/info", bucket=still.precomputed), timeout=300)
    assert "Content-Encoding" not in info.headers
    assert json.loads(info.content)["scales"][0]["voxel_offset"] == [0, 0, 12]


def test_equal_starts_give_equal_objects(still: DemoBuckets, tmp_path: Path) -> None:
    with DemoBuckets(tmp_path, layers=True) as other:
        for layer in LAYERS:
            for key in still.present(f"{layer}/", bucket=still.precomputed):
                one, two = (demo.head(key, bucket=demo.precomputed) for demo in (still, other))
                assert (one, one.encoding) == (two, two.encoding)
