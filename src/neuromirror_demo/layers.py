"""Volumes as objects in Neuroglancer's precomputed format: chunks, shards, meshes, skeletons.

Formats: Neuroglancer's pages "Precomputed: volume", "… sharded", "… meshes" (legacy single
resolution) and "… skeletons". Voxels are stored as they are (encoding ``raw``): x goes fastest, so
they are the bytes of an array in C order with the axes z, y, x.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuromirror_demo.volumes import XYZ

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

CHUNK: Final[XYZ] = (64, 64, 16)
"""The size of a chunk; chunks at the end of a volume are smaller."""

SHARDING: Final[Mapping[str, Any]] = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "identity",
    "minishard_bits": 1,
    "shard_bits": 2,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
_SHARD_DIGITS: Final = 1
_BROTLI_BLOCK: Final = 1 << 16

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class EncodedObject:
    """The stored bytes of an object, and its Content-Encoding."""

    data: bytes
    encoding: str = ""


@dataclass(frozen=True, slots=True)
class LayerScale:
    """One resolution: its voxels (axes z, y, x), position of the first, and voxel size (nm)."""

    voxels: Voxels
    start: XYZ
    voxel: XYZ

    @property
    def key(self) -> str:
        """The folder of the scale."""
        return "_".join(map(str, self.voxel))

    @property
    def size(self) -> XYZ:
        """The number of voxels along x, y, z."""
        depth, height, width = self.voxels.shape
        return width, height, depth


def encode_object(data: bytes, encoding: str) -> EncodedObject:
    """Return an object stored as ``gzip``, ``br`` or unencoded (""); equal input gives equal bytes.

    For brotli, only the container is written, with uncompressed content. No library is needed,
    whose next version could compress differently.
    """
    if encoding == "gzip":
        return EncodedObject(gzip.compress(data, 6, mtime=0), encoding)
    return EncodedObject(_brotli(data), encoding) if encoding == "br" else EncodedObject(data)


def _brotli(data: bytes) -> bytes:
    """Return a brotli stream of uncompressed meta-blocks (RFC 7932, section 9.2)."""
    made = bytearray()
    for start in range(0, len(data), _BROTLI_BLOCK):
        block = data[start : start + _BROTLI_BLOCK]
        # not last, four nibbles of the length minus one, uncompressed; before the first block the
        # window size, a bit that is 0 for 64 KiB
        head = (len(block) - 1) << 3 | 1 << 19
        made += (head if start else head << 1).to_bytes(3, "little") + block
    return bytes(made) + (b"\x03" if data else b"\x06")


def layer_objects(
    scales: Sequence[LayerScale],
    *,
    kind: str = "image",
    encoding: str = "",
    sharded: bool = False,
    about: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, EncodedObject]:
    """Return the objects of a layer by name; chunks of zeros have none.

    ``about`` is its provenance, ``more`` further members of its ``info``.
    """
    info = {
        "@type": "neuroglancer_multiscale_volume",
        "type": kind,
        "data_type": str(scales[0].voxels.dtype),
        "num_channels": 1,
        "scales": [_scale_json(scale, sharded=sharded) for scale in scales],
        **(more or {}),
    }
    made = {"info": EncodedObject(_json(info))}
    provenance = {"description": "", "owners": [], "processing": [], "sources": [], **(about or {})}
    made["provenance"] = EncodedObject(_json(provenance))
    for scale in scales:
        if sharded:
            shards = _shards(scale)
            made |= {f"{scale.key}/{name}": EncodedObject(data) for name, data in shards.items()}
        else:
            for (x, y, z), data in _chunks(scale):
                name = "_".join(f"{start}-{stop}" for start, stop in (x, y, z))
                made[f"{scale.key}/{name}"] = encode_object(data, encoding)
    return made


def _scale_json(scale: LayerScale, *, sharded: bool) -> dict[str, Any]:
    made = {
        "key": scale.key,
        "size": list(scale.size),
        "voxel_offset": list(scale.start),
        "resolution": list(scale.voxel),
        "chunk_sizes": [list(CHUNK)],
        "encoding": "raw",
    }
    return {**made, "sharding": dict(SHARDING)} if sharded else made


def _chunks(scale: LayerScale) -> Iterator[tuple[tuple[tuple[int, int], ...], bytes]]:
    """Yield box (in the layer's coordinates) and voxels of each chunk that is not all zeros."""
    width, height, depth = scale.size
    for z in range(0, depth, CHUNK[2]):
        for y in range(0, height, CHUNK[1]):
            for x in range(0, width, CHUNK[0]):
                part = scale.voxels[z : z + CHUNK[2], y : y + CHUNK[1], x : x + CHUNK[0]]
                if part.any():
                    box = zip(scale.start, (x, y, z), part.shape[::-1], strict=True)
                    spans = tuple((start + at, start + at + long) for start, at, long in box)
                    yield spans, part.tobytes()


def _shards(scale: LayerScale) -> dict[str, bytes]:
    """Return the shard files of a scale, by name."""
    grid = [-(-size // chunk) for size, chunk in zip(scale.size, CHUNK, strict=True)]
    minishards: dict[int, dict[int, dict[int, bytes]]] = {}
    for spans, data in _chunks(scale):
        grid_position = [
            (first - start) // chunk
            for (first, _), start, chunk in zip(spans, scale.start, CHUNK, strict=True)
        ]
        number = _morton(grid_position, grid)
        hashed = number >> SHARDING["preshift_bits"]
        minishard = hashed & (1 << SHARDING["minishard_bits"]) - 1
        shard = hashed >> SHARDING["minishard_bits"] & (1 << SHARDING["shard_bits"]) - 1
        minishards.setdefault(shard, {}).setdefault(minishard, {})[number] = data
    return {
        f"{shard:0{_SHARD_DIGITS}x}.shard": _shard(found) for shard, found in minishards.items()
    }


def _morton(grid_position: Sequence[int], grid: Sequence[int]) -> int:
    """Return the compressed Morton code of a chunk: interleaved bits of x, y and z."""
    code = at = 0
    for bit in range(max(grid).bit_length()):
        for one, size in zip(grid_position, grid, strict=True):
            if 1 << bit < size:
                code |= (one >> bit & 1) << at
                at += 1
    return code


def _shard(minishards: Mapping[int, Mapping[int, bytes]]) -> bytes:
    """Return one shard file: the positions of the minishard indexes, the chunks, the indexes."""
    data = bytearray()
    rows: list[tuple[int, list[int], list[int], list[int]]] = []
    for minishard in sorted(minishards):
        numbers, gaps, sizes = [], [], []
        before, end = 0, 0
        for number in sorted(minishards[minishard]):
            chunk = encode_object(minishards[minishard][number], SHARDING["data_encoding"]).data
            numbers.append(number - before)
            gaps.append(len(data) - end)
            sizes.append(len(chunk))
            data += chunk
            before, end = number, len(data)
        rows.append((minishard, numbers, gaps, sizes))
    spans = {}
    for minishard, numbers, gaps, sizes in rows:
        table = struct.pack(f"<{3 * len(numbers)}Q", *numbers, *gaps, *sizes)
        index = encode_object(table, SHARDING["minishard_index_encoding"]).data
        spans[minishard] = (len(data), len(data) + len(index))
        data += index
    count = 1 << SHARDING["minishard_bits"]
    head = b"".join(struct.pack("<2Q", *spans.get(one, (0, 0))) for one in range(count))
    return head + bytes(data)


def meshes(boxes: Mapping[int, tuple[Point, Point]]) -> dict[str, EncodedObject]:
    """Return meshes of boxes (two corners, nm) by label; only fragments are compressed."""
    made = {"info": EncodedObject(_json({"@type": "neuroglancer_legacy_mesh"}))}
    for label, (low, high) in boxes.items():
        piece = f"{label}:0:0-1_0-1_0-1"
        corners = [
            tuple(high[axis] if corner >> axis & 1 else low[axis] for axis in range(3))
            for corner in range(8)
        ]
        made[f"{label}:0"] = EncodedObject(_json({"fragments": [piece]}))
        points = b"".join(struct.pack("<3f", *corner) for corner in corners)
        faces = struct.pack(f"<{len(_FACES)}I", *_FACES)
        made[piece] = encode_object(struct.pack("<I", len(corners)) + points + faces, "gzip")
    return made


_FACES: Final = (
    *(0, 2, 1, 1, 2, 3, 4, 5, 6, 5, 7, 6, 0, 1, 4, 1, 5, 4),
    *(2, 6, 3, 3, 6, 7, 0, 4, 2, 2, 4, 6, 1, 3, 5, 3, 7, 5),
)
"""The twelve triangles of a box, whose corners are numbered by their bits x, y, z."""


def skeletons(paths: Mapping[int, Sequence[Point]]) -> dict[str, EncodedObject]:
    """Return skeletons by label: points (nm), each connected to the next one, compressed."""
    same = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    info = {"@type": "neuroglancer_skeletons", "transform": same, "vertex_attributes": []}
    made = {"info": EncodedObject(_json(info))}
    for label, points in paths.items():
        edges = [(at, at + 1) for at in range(len(points) - 1)]
        head = struct.pack("<2I", len(points), len(edges))
        vertices = b"".join(struct.pack("<3f", *point) for point in points)
        made[str(label)] = encode_object(
            head + vertices + b"".join(struct.pack("<2I", *edge) for edge in edges), "gzip"
        )
    return made


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
