"""Voxels of the demo volumes, and objects of precomputed layers, an OME-Zarr and an N5 volume.

The volumes are small, with structure: tissue in sections, its cells as labels, activity over time.
Only integer arithmetic is used, so that every machine computes the same bytes. Arrays are in C
order, axes ``z, y, x`` (a time series ``t, z, y, x``); sizes and starts are ``(x, y, z)``.

Formats: Neuroglancer's pages "Precomputed: volume", "… sharded" and "… meshes" (legacy
single resolution). Voxels are stored as they are (encoding ``raw``): x goes fastest, so
they are the bytes of an array in C order with the axes z, y, x. OME-Zarr 0.5, Zarr format 3 and the
specification of N5.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Voxels = NDArray[Any]

XYZ = tuple[int, int, int]

TISSUE: Final[XYZ] = (300, 260, 70)
"""The default size of :func:`tissue` and :func:`cells`."""

ACTIVITY: Final[XYZ] = (150, 130, 36)
"""The default size of :func:`activity`."""

HALVING: Final[dict[str, XYZ]] = {"anisotropic": (2, 2, 1), "isotropic": (2, 2, 2)}
"""The factors by which the voxels of the next level are larger."""

FIRST_CELL: Final = (1 << 60) + 1
"""The label of the first cell: too large for a float, like the following ones."""

_SECTION: Final = 8
_PITCH: Final = 96
_MEMBRANE: Final = 900


@cache
def tissue(size: XYZ = TISSUE) -> NDArray[np.uint8]:
    """Return an image like electron microscopy: dark membranes, organelles, uneven light.

    The array is shared and read-only.
    """
    return _tissue_and_cells(size)[0]


@cache
def cells(size: XYZ = TISSUE) -> NDArray[np.uint64]:
    """Return the cell label of each voxel of :func:`tissue`; 0 on membranes.

    The array is shared and read-only.
    """
    return _tissue_and_cells(size)[1]


@cache
def _tissue_and_cells(size: XYZ) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    import numpy as np

    width, height, depth = size
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    image, labels = np.empty((depth, height, width), np.uint8), np.empty(size[::-1], np.uint64)
    for z, (owner, gap) in enumerate(_sections(size)):
        light = 150 + x // 10 - y // 13 + z % 7
        grain = ((x * 31) ^ (y * 17) ^ (z * 61)) % 11
        spot = (x % 29 - 14) ** 2 + (y % 31 - 15) ** 2 + (z % 9 - 4) ** 2 * 9
        inside = np.where((spot < 60) & ((x // 29 + y // 31 + z // 9) % 3 == 0), 70, 0)
        image[z] = np.where(gap < _MEMBRANE, 30 + grain, light + owner % 5 * 6 - inside + grain)
        labels[z] = np.where(gap < _MEMBRANE, 0, owner.astype(np.uint64) + np.uint64(FIRST_CELL))
    image.flags.writeable = labels.flags.writeable = False
    return image, labels


@cache
def activity(size: XYZ = ACTIVITY, samples: int = 3) -> NDArray[np.uint16]:
    """Return bright cells on a dim background, whose brightness changes from sample to sample."""
    import numpy as np

    width, height, depth = size
    z, y, x = np.ogrid[:depth, :height, :width]
    ground = 300 + 2 * x + y + 5 * z
    away = (x % 24 - 12) ** 2 + (y % 22 - 11) ** 2 + (z % 12 - 6) ** 2 * 4
    cell = x // 24 + 7 * (y // 22) + 31 * (z // 12)
    made = np.empty((samples, depth, height, width), np.uint16)
    for sample in range(samples):
        glow = 4000 + (cell * 37 + sample * 11) % 23 * 2500
        made[sample] = ground + 17 * sample + np.where(away < 70, glow * (70 - away) // 70, 0)
    return made


def _sections(size: XYZ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield for each z the nearest seed, and how much farther the second one is (squared)."""
    import numpy as np

    width, height, depth = size
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    seeds = _seeds(size)
    for z in range(depth):
        nearest = np.zeros((height, width), np.int32)
        first = np.full((height, width), 1 << 30, np.int32)
        second = first.copy()
        for number, (sx, sy, sz) in enumerate(seeds):
            away = (x - sx) ** 2 + ((y - sy) ** 2 + ((z - sz) * _SECTION) ** 2)
            nearest[away < first] = number
            second = np.minimum(second, np.maximum(first, away))
            first = np.minimum(first, away)
        yield nearest, second - first


def _seeds(size: XYZ) -> list[XYZ]:
    """Return cell centres: a lattice whose points are displaced deterministically."""
    made = []
    for n, z in enumerate(range(_PITCH // 16, size[2] + 1, _PITCH // 3)):
        for m, y in enumerate(range(_PITCH // 2, size[1] + _PITCH // 2, _PITCH)):
            for k, x in enumerate(range(_PITCH // 2, size[0] + _PITCH // 2, _PITCH)):
                push = (k * 37 + m * 53 + n * 71) % 47 - 23
                made.append((x + push, y - push + (k * m * 29) % 31 - 15, z + push // 6))
    return made


def coarser(voxels: Voxels, start: XYZ, factor: XYZ, *, labels: bool = False) -> Voxels:
    """Return the next level of ``voxels``, whose first voxel is at ``start``.

    Voxels are merged on a grid that starts at 0, not at ``start``: the first voxel of the result is
    at ``start // factor``, and those at its ends may cover fewer voxels. Images use the rounded
    mean, labels the most frequent label other than 0 (of equally frequent ones the first).
    """
    import numpy as np

    axes = range(voxels.ndim - 3, voxels.ndim)
    pads, held = [(0, 0)] * voxels.ndim, np.ones((1, 1, 1), np.int64)
    for axis, low, by in zip(axes, start[::-1], factor[::-1], strict=True):
        size = voxels.shape[axis]
        pads[axis] = (low % by, -(low + size) % by)
        there = np.pad(np.ones(size, np.int64), pads[axis]).reshape(-1, by).sum(1)
        held = held * there.reshape([-1 if other == axis else 1 for other in axes])
    whole = np.pad(voxels, pads)
    corners = [
        whole[..., z :: factor[2], y :: factor[1], x :: factor[0]]
        for z in range(factor[2])
        for y in range(factor[1])
        for x in range(factor[0])
    ]
    if not labels:
        total = np.zeros(corners[0].shape, np.int64)
        for corner in corners:
            total += corner
        return ((total + held // 2) // held).astype(voxels.dtype)
    best, most = np.zeros_like(corners[0]), np.zeros(corners[0].shape, np.int8)
    for corner in corners:
        count = np.zeros_like(most)
        for other in corners:
            count += corner == other
        better = (count > most) & (corner != 0)
        best[better], most[better] = corner[better], count[better]
    return best


def coarser_box(start: XYZ, stop: XYZ, factor: XYZ) -> tuple[XYZ, XYZ]:
    """Return the box of :func:`coarser`, given that ``voxels`` are from ``start`` to ``stop``."""
    (ax, ay, az), (bx, by, bz), (fx, fy, fz) = start, stop, factor
    return (ax // fx, ay // fy, az // fz), (-(-bx // fx), -(-by // fy), -(-bz // fz))


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
            for position, part in _parts(scale):
                starts = [
                    first + at * chunk
                    for first, at, chunk in zip(scale.start, position, CHUNK, strict=True)
                ]
                box = zip(starts, part.shape[::-1], strict=True)
                name = "_".join(f"{start}-{start + size}" for start, size in box)
                made[f"{scale.key}/{name}"] = encode_object(part.tobytes(), encoding)
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


def ome_zarr_objects(scales: Sequence[LayerScale]) -> dict[str, EncodedObject]:
    """Return the objects of an OME-Zarr 0.5 by name; chunks are compressed by gzip."""
    import numpy

    datasets = []
    made: dict[str, EncodedObject] = {}
    for number, scale in enumerate(scales):
        steps = [
            {"type": "scale", "scale": scale.voxel[::-1]},
            {"type": "translation", "translation": _first_center(scale, scales[0])[::-1]},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": steps})
        array = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": scale.voxels.shape,
            "data_type": str(scale.voxels.dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": CHUNK[::-1]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "gzip", "configuration": {"level": 6}},
            ],
            "fill_value": 0,
            "attributes": {},
        }
        made[f"{number}/zarr.json"] = EncodedObject(_json(array))
        for (x, y, z), part in _parts(scale):
            chunk = numpy.zeros(CHUNK[::-1], scale.voxels.dtype.newbyteorder("<"))
            chunk[: part.shape[0], : part.shape[1], : part.shape[2]] = part
            data = encode_object(chunk.tobytes(), "gzip").data
            made[f"{number}/c/{z}/{y}/{x}"] = EncodedObject(data)
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    return {"zarr.json": EncodedObject(_json(group)), **made}


def n5_objects(scales: Sequence[LayerScale]) -> dict[str, EncodedObject]:
    """Return the objects of an N5 volume by name, with COSEM's metadata; gzip, big-endian."""
    made: dict[str, EncodedObject] = {}
    for number, scale in enumerate(scales):
        attributes = {
            "dimensions": scale.size,
            "blockSize": CHUNK,
            "dataType": str(scale.voxels.dtype),
            "compression": {"type": "gzip", "level": 6},
            "transform": {
                "axes": ["z", "y", "x"],
                "units": ["nm", "nm", "nm"],
                "scale": scale.voxel[::-1],
                "translate": _first_center(scale, scales[0])[::-1],
            },
        }
        made[f"s{number}/attributes.json"] = EncodedObject(_json(attributes))
        for position, part in _parts(scale):
            head = struct.pack(">HH3I", 0, 3, *part.shape[::-1])
            voxels = encode_object(part.astype(part.dtype.newbyteorder(">")).tobytes(), "gzip")
            made[f"s{number}/" + "/".join(map(str, position))] = EncodedObject(head + voxels.data)
    return made


def _parts(scale: LayerScale) -> Iterator[tuple[XYZ, Voxels]]:
    """Yield the position in the grid and the voxels of each chunk that is not all zeros."""
    import numpy

    grid = [-(-long // by) for long, by in zip(scale.voxels.shape, CHUNK[::-1], strict=True)]
    for z, y, x in numpy.ndindex(*grid):
        z0, y0, x0 = z * CHUNK[2], y * CHUNK[1], x * CHUNK[0]
        part = scale.voxels[z0 : z0 + CHUNK[2], y0 : y0 + CHUNK[1], x0 : x0 + CHUNK[0]]
        if part.any():
            yield (x, y, z), part


def _first_center(scale: LayerScale, finest: LayerScale) -> Point:
    """Return the place of the center of the first voxel along x, y, z."""
    x, y, z = (
        start * size + (size - fine) / 2
        for start, size, fine in zip(scale.start, scale.voxel, finest.voxel, strict=True)
    )
    return x, y, z


def _shards(scale: LayerScale) -> dict[str, bytes]:
    """Return the shard files of a scale, by name."""
    grid = [-(-size // chunk) for size, chunk in zip(scale.size, CHUNK, strict=True)]
    minishards: dict[int, dict[int, dict[int, bytes]]] = {}
    for position, part in _parts(scale):
        number = _morton(position, grid)
        hashed = number >> SHARDING["preshift_bits"]
        minishard = hashed & (1 << SHARDING["minishard_bits"]) - 1
        shard = hashed >> SHARDING["minishard_bits"] & (1 << SHARDING["shard_bits"]) - 1
        minishards.setdefault(shard, {}).setdefault(minishard, {})[number] = part.tobytes()
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


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
