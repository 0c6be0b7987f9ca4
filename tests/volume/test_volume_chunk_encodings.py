"""Chunks of every encoding, written by TensorStore, decode to the same voxels."""

import gzip
import json
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore

from neuromirror.sources.volumes.content_codings import unpack
from neuromirror.sources.volumes.grid import Volume
from neuromirror.volume import BlockUnavailableError
from neuromirror.volume.chunk_encodings import Sharding, ShardReader, decode_voxels, parse_sharding
from neuromirror.volume.description import VolumeDescription, describe
from neuromirror.volume.precomputed_files import PrecomputedFiles

SIZE = (70, 45, 37)
CHUNK = (32, 16, 8)


@dataclass
class LayerFolder:
    """A layer in a folder, which is also its own version."""

    folder: Path
    where: str = "folder"
    dataset_name: str = "m:layer"
    local_id: str = "layer"
    name: str = "m:layer@latest"
    source_uri: str = "precomputed://x"
    state: str = "sha256:0"
    commit: str = ""
    form: str = "files"
    exceptions: int = 0

    def git_document(self, path: str) -> bytes | None:
        return (self.folder / path).read_bytes() if path == "info" else None

    def has(self, path: str) -> bool:
        return (self.folder / path).exists()

    def read_object(self, path: str, max_bytes: int) -> bytes | None:
        if not self.has(path):
            return None
        content = (self.folder / path).read_bytes()
        assert len(content) <= max_bytes
        return content

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        return (self.folder / path).read_bytes()[start:stop] if self.has(path) else None

    def first_with_prefix(self, prefix: str) -> str | None:
        found = self.folder.glob(f"{prefix}*")
        return next((str(one.relative_to(self.folder)) for one in sorted(found)), None)

    def close(self) -> None:
        pass


def _write(folder: Path, voxels: np.ndarray[Any, Any], scale: dict[str, Any]) -> LayerFolder:
    """Write a layer with TensorStore, whose axes are x, y, z, channel."""
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {"type": "image", "data_type": str(voxels.dtype), "num_channels": 1},
        "scale_metadata": {
            "size": list(voxels.shape[::-1]),
            "resolution": [4, 4, 40],
            "voxel_offset": [5, -3, 0],
            "chunk_size": list(CHUNK),
            **scale,
        },
    }
    store = tensorstore.open(spec, create=True).result()
    store[..., 0].write(voxels.transpose()).result()
    return LayerFolder(folder)


def _read(layer: LayerFolder) -> tuple[VolumeDescription, np.ndarray[Any, Any]]:
    found = describe(layer, layer, reads_shards=True)
    described, storage = found.level("0")
    assert storage.unreadable_reason == ""
    files = PrecomputedFiles(layer, described.volume, [storage])
    made = np.zeros(SIZE[::-1], described.volume.dtype)
    volume: Volume = described.volume
    width, height, depth = CHUNK
    columns, rows, planes = volume.levels[0].grid
    for z in range(planes):
        for y in range(rows):
            for x in range(columns):
                block = np.frombuffer(files.block(f"0/c/{z}/{y}/{x}"), made.dtype)
                part = made[
                    z * depth : (z + 1) * depth,
                    y * height : (y + 1) * height,
                    x * width : (x + 1) * width,
                ]
                part[...] = block.reshape(CHUNK[::-1])[tuple(map(slice, part.shape))]
    return found, made


def _labels(dtype: str, most: int) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(3)
    coarse = drawn.integers(0, most, tuple(-(-size // 3) for size in SIZE[::-1]))
    whole = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    return whole[: SIZE[2], : SIZE[1], : SIZE[0]].astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("uint8", {"encoding": "raw"}),
        ("float32", {"encoding": "raw"}),
        ("uint8", {"encoding": "png"}),
        ("uint16", {"encoding": "png"}),
        ("uint32", {"encoding": "compressed_segmentation"}),
        ("uint64", {"encoding": "compressed_segmentation"}),
    ],
)
@pytest.mark.parametrize("is_sharded", [False, True])
def test_voxels_are_those_that_were_written(
    tmp_path: Path, dtype: str, scale: dict[str, Any], is_sharded: bool
) -> None:
    scale = dict(scale)
    if scale["encoding"] == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    if is_sharded:
        scale["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1",
            "preshift_bits": 2,
            "hash": "identity",
            "minishard_bits": 2,
            "shard_bits": 1,
            "minishard_index_encoding": "gzip",
            "data_encoding": "gzip" if dtype != "uint16" else "raw",
        }
    voxels = _labels(dtype, 200 if dtype == "uint8" else 60_000)
    voxels[:8, :16, :32] = 0
    described, found = _read(_write(tmp_path, voxels, scale))
    assert described.volume.levels[0].start == (5, -3, 0)
    assert np.array_equal(found, voxels)


def test_jpeg_decodes_as_in_tensorstore(tmp_path: Path) -> None:
    layer = _write(tmp_path, _labels("uint8", 200), {"encoding": "jpeg", "jpeg_quality": 90})
    _, found = _read(layer)
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{tmp_path}/"},
        }
    ).result()
    expected = store[..., 0].read().result().transpose()
    # decoders of JPEG may differ by rounding
    assert int(np.abs(found.astype(int) - expected.astype(int)).max()) <= 2


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_damaged_segmentation_is_an_error_or_other_labels(tmp_path: Path, dtype: str) -> None:
    scale = {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
    _write(tmp_path, _labels(dtype, 60_000), scale)
    content = (tmp_path / "4_4_40" / "5-37_-3-13_0-8").read_bytes()
    drawn, refused = np.random.default_rng(5), 0
    for number in range(300):
        damaged = np.frombuffer(content, "u1").copy()
        damaged[drawn.integers(0, len(damaged) if number % 2 else 80, 4)] = drawn.integers(
            0, 256, 4
        )
        cut = len(damaged) if number % 3 else int(drawn.integers(0, len(damaged)))
        try:
            made = decode_voxels(
                damaged.tobytes()[:cut], "compressed_segmentation", CHUNK, dtype, (8, 8, 8)
            )
        except ValueError:
            refused += 1
        else:
            assert len(made) == 32 * 16 * 8 * np.dtype(dtype).itemsize
    assert refused > 100


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_damaged_chunk_is_an_error_that_names_it(tmp_path: Path, encoding: str) -> None:
    layer = _write(tmp_path, _labels("uint8", 200) + 1, {"encoding": encoding})
    info = json.loads((tmp_path / "info").read_bytes())
    key = f"{info['scales'][0]['key']}/5-37_-3-13_0-8"
    content = (tmp_path / key).read_bytes()
    (tmp_path / key).write_bytes(content[: len(content) // 2])
    with pytest.raises(BlockUnavailableError) as caught:
        _read(layer)
    assert caught.value.block == key


@pytest.mark.parametrize("cut", [8, 40, -1])
def test_a_short_shard_is_an_error(tmp_path: Path, cut: int) -> None:
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 2,
        "hash": "identity",
        "minishard_bits": 1,
        "shard_bits": 0,
        "minishard_index_encoding": "raw",
        "data_encoding": "raw",
    }
    layer = _write(tmp_path, _labels("uint8", 200) + 1, {"encoding": "raw", "sharding": sharding})
    (shard,) = tmp_path.glob("*/*.shard")
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(BlockUnavailableError):
        _read(layer)


def _index_of(count: int) -> bytes:
    """Return a shard whose minishards share an index that expands to 24 bytes per entry."""
    table = np.zeros((3, count), "<u8")
    table[0, 1:] = 1
    index = gzip.compress(table.tobytes(), 9)
    return np.array([0, len(index)] * 8, "<u8").tobytes() + index


def test_an_index_has_at_most_the_entries_of_its_minishard_and_bounded_memory() -> None:
    sharding = Sharding(0, 3, 0, index_coding="gzip")
    shard = _index_of(100_000)
    assert len(shard) < 10_000
    reader = ShardReader("s", sharding, lambda path, start, stop: shard[start:stop], (1 << 20,) * 3)
    tracemalloc.start()
    for minishard in range(8):
        assert reader.find(minishard) == ("s/0.shard", 128, 128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20
    reader = ShardReader("s", sharding, lambda path, start, stop: shard[start:stop], (64, 32, 16))
    with pytest.raises(ValueError, match="more than 4096 entries"):
        reader.find(0)


@pytest.mark.parametrize(
    "given",
    [
        {"@type": "neuroglancer_uint64_sharded_v2"},
        {"hash": "murmurhash3_x86_128"},
        {"minishard_bits": 60},
        {"shard_bits": -1},
        {"shard_bits": "2"},
        {"data_encoding": "zstd"},
    ],
)
def test_unsupported_sharding_is_refused(given: dict[str, Any]) -> None:
    valid = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": 0,
        "minishard_bits": 0,
        "shard_bits": 0,
    }
    parse_sharding(valid)
    with pytest.raises(ValueError, match=r"."):
        parse_sharding(valid | given)


def test_truncated_streams_are_refused() -> None:
    import brotli

    content = bytes(range(256)) * 40
    for coding, packed in (("gzip", gzip.compress(content)), ("br", brotli.compress(content))):
        assert unpack(packed, coding, len(content)) == content
        with pytest.raises(ValueError, match="truncated"):
            unpack(packed[:-12], coding, len(content))


def test_blocks_far_larger_than_the_chunk_are_refused_before_memory_is_allocated() -> None:
    headers = np.zeros(1 + 2 * 40_000, "<u4")
    headers[0] = 1
    with pytest.raises(ValueError, match="too large"):
        decode_voxels(
            headers.tobytes(), "compressed_segmentation", (40_000, 1, 1), "uint32", (1, 256, 256)
        )
