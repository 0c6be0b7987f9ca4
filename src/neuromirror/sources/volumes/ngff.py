"""The OME-Zarr metadata of a volume, which make its chunk files an array.

OME-Zarr 0.5 (https://ngff.openmicroscopy.org/0.5/) on Zarr 3 with only the ``bytes`` codec: a chunk
file contains nothing but its voxels.
"""

from __future__ import annotations

import json
from typing import Any, Final

from neuromirror.model import Document
from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.sources.volumes.urls import ITEM_SIZES

VERSION: Final = "0.5"
_METADATA: Final = "zarr.json"


def zarr_documents(volume: Volume) -> list[Document]:
    """Return ``zarr.json`` of the group and of each level; equal volumes give equal bytes.

    Points have the same physical coordinates as upstream: the center of voxel ``start`` of level 0
    is at ``start`` times the size of a voxel, and the center of a voxel of a coarser level is in
    the middle of the voxels that it covers.

    Parameters
    ----------
    volume
        The planned volume.

    Returns
    -------
    list[Document]
        The documents, with paths below the top of the dataset.

    Notes
    -----
    OME-Zarr 0.5 (NGFF) in Zarr format 3.
    """
    made = [_document(_METADATA, _group(volume))]
    made += [_document(f"{one.name}/{_METADATA}", _array(volume, one)) for one in volume.levels]
    return made


def _document(path: str, content: dict[str, Any]) -> Document:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return Document(path.encode(), f"{text}\n".encode())


def _group(volume: Volume) -> dict[str, Any]:
    axes: list[dict[str, str]] = []
    if volume.times is not None:
        axes.append({"name": "t", "type": "time"})
        if volume.time_unit is not None:
            axes[0]["unit"] = volume.time_unit
    axes += [{"name": name, "type": "space", "unit": volume.unit} for name in "zyx"]
    multiscale: dict[str, Any] = {
        "axes": axes,
        "datasets": [
            {"path": level.name, "coordinateTransformations": _transformations(volume, level)}
            for level in volume.levels
        ],
    }
    if volume.name:
        multiscale["name"] = volume.name
    ome: dict[str, Any] = {"version": VERSION, "multiscales": [multiscale]}
    if volume.labels:
        ome["image-label"] = {}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def _transformations(volume: Volume, level: Level) -> list[dict[str, Any]]:
    """Return the transformations from array indices of a level to space and time."""
    base = volume.base_voxel or volume.levels[0].voxel
    scale = [float(size) for size in level.voxel]
    move = [
        start * size + (size - first) / 2
        for start, size, first in zip(level.start, level.voxel, base, strict=True)
    ]
    scale.reverse()
    move.reverse()
    if volume.times is not None:
        step = 1.0 if volume.time_step is None else float(volume.time_step)
        scale.insert(0, step)
        move.insert(0, volume.times[0] * step)
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": move}]


def _array(volume: Volume, level: Level) -> dict[str, Any]:
    times = [] if volume.times is None else [len(volume.times)]
    bytes_codec: dict[str, Any] = {"name": "bytes"}
    if ITEM_SIZES[volume.dtype] > 1:
        bytes_codec["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*times, *reversed(level.extent)],
        "data_type": volume.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [*(1 for _ in times), *reversed(level.chunk)]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [bytes_codec],
        "fill_value": 0.0 if volume.dtype.startswith("float") else 0,
        "attributes": {},
        "dimension_names": [*("t" for _ in times), "z", "y", "x"],
    }
