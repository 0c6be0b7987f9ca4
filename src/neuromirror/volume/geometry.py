"""Where the voxels of a volume are, read back from its Zarr metadata (OME-Zarr 0.5).

The inverse of :mod:`neuromirror.sources.volumes.ngff`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from neuromirror.sources.volumes import Box, Level, Triple, Volume
from neuromirror.volume.errors import NoSuchLevel, NotAVolume

METADATA = "zarr.json"

_SPACE = ["z", "y", "x"]
_NEARLY = 1e-6
"""How far a start in voxels, read from lengths, may lie below its whole number."""


def read_volume(read: Callable[[str], bytes | None], level: str, where: str) -> Volume:
    """The volume with this one level, from the documents that ``read`` gives by their paths.

    Only what the Zarr tells is in it: ``scheme``, ``host`` and ``path`` are empty. Raises
    :class:`NotAVolume`, naming ``where``, and :class:`NoSuchLevel`.
    """
    group = _parsed(read(METADATA), where)
    try:
        multiscale = group["attributes"]["ome"]["multiscales"][0]
        names = [one["path"] for one in multiscale["datasets"]]
        axes = {one["name"]: one for one in multiscale["axes"]}
    except (KeyError, IndexError, TypeError) as error:
        raise _no_volume(where) from error
    if level not in names:
        raise NoSuchLevel(f"{where} has no level {level}, only {', '.join(names)}")
    found = _parsed(read(f"{level}/{METADATA}"), where)
    try:
        return _volume(group, multiscale, names.index(level), axes, found)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise _no_volume(where) from error


def block_of(volume: Volume, path: str) -> tuple[Box, int | None] | None:
    """What upstream has of a chunk file: its box and time sample; None where there is no such."""
    level = volume.levels[0]
    name, _, rest = path.partition("/c/")
    index = [int(one) for one in rest.split("/") if one.isdecimal()]
    wanted = 3 if volume.times is None else 4
    if name != level.name or len(index) != wanted or rest != "/".join(map(str, index)):
        return None
    *times, z, y, x = index
    if any(at >= count for at, count in zip((x, y, z), level.grid, strict=True)):
        return None
    if volume.times is not None and times[0] >= len(volume.times):
        return None
    low = [
        first + at * size
        for first, at, size in zip(level.start, (x, y, z), level.chunk, strict=True)
    ]
    high = [min(at + size, end) for at, size, end in zip(low, level.chunk, level.stop, strict=True)]
    xs, ys, zs = zip(low, high, strict=True)
    return (xs, ys, zs), volume.times[times[0]] if volume.times else None


def _parsed(content: bytes | None, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content or b"")
    except ValueError as error:
        raise _no_volume(where) from error
    if not isinstance(parsed, dict):
        raise _no_volume(where)
    return parsed


def _no_volume(where: str) -> NotAVolume:
    return NotAVolume(
        f"{where} holds no OME-Zarr (0.5) with the axes [t,] z, y, x, as volumes of BOSS and"
        " ndstore are mirrored; what is mirrored in another format is opened by other programs"
    )


def _volume(
    group: dict[str, Any],
    multiscale: dict[str, Any],
    number: int,
    axes: dict[str, dict[str, str]],
    array: dict[str, Any],
) -> Volume:
    timed = list(axes) == ["t", *_SPACE]
    if not timed and list(axes) != _SPACE:
        raise ValueError("other axes")
    shape = array["shape"]
    chunk = array["chunk_grid"]["configuration"]["chunk_shape"]
    if len(shape) != len(axes) or len(chunk) != len(axes):
        raise ValueError("another number of axes")
    if [one["name"] for one in array["codecs"]] != ["bytes"]:
        raise ValueError("chunks that are not voxels alone")
    moves = multiscale["datasets"][number]["coordinateTransformations"]
    scale = next(one["scale"] for one in moves if one["type"] == "scale")
    zeros = [0.0] * len(axes)
    move = next((one["translation"] for one in moves if one["type"] == "translation"), zeros)
    voxel = scale[-1], scale[-2], scale[-3]
    # a coarser voxel's centre lies up to half of it beyond that of the first one it stands for
    ratios = [at / size for at, size in zip(move[:-4:-1], voxel, strict=True)]
    start = _triple([math.floor(ratio + _NEARLY) for ratio in ratios])
    beyond = [at - first * size for at, first, size in zip(move[:-4:-1], start, voxel, strict=True)]
    base = [size - 2 * more for size, more in zip(voxel, beyond, strict=True)]
    extent = shape[:-4:-1]
    level = Level(
        name=multiscale["datasets"][number]["path"],
        start=start,
        stop=_triple([first + size for first, size in zip(start, extent, strict=True)]),
        voxel=voxel,
        chunk=_triple(chunk[:-4:-1]),
    )
    first_time = round(move[0] / scale[0]) if timed else 0
    return Volume(
        scheme="",
        host="",
        path="",
        dtype=array["data_type"],
        unit=axes["x"].get("unit", ""),
        levels=(level,),
        times=tuple(range(first_time, first_time + shape[0])) if timed else None,
        time_step=scale[0] if timed else None,
        time_unit=axes["t"].get("unit") if timed else None,
        labels="image-label" in group["attributes"]["ome"],
        name=multiscale.get("name", ""),
        base_voxel=(base[0], base[1], base[2]),
    )


def _triple(numbers: list[int]) -> Triple:
    x, y, z = numbers
    return x, y, z
