"""Initial contents of the demo bucket of precomputed layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from neuromirror_demo import volumes
from neuromirror_demo.layers import (
    EncodedObject,
    LayerScale,
    Point,
    layer_objects,
    meshes,
    skeletons,
)
from neuromirror_demo.volumes import FIRST_CELL, HALVING, XYZ

if TYPE_CHECKING:
    from neuromirror_demo.demo_buckets import DemoBuckets

EM: Final = "demo_cortex/sections/em"
"""uint8 images, three anisotropic scales, stored as brotli; an empty corner has no objects."""

CELLS: Final = "demo_cortex/sections/cells"
"""uint64 labels of EM, two scales, meshes and skeletons; stored as gzip, except lists of meshes."""

GCAMP: Final = "demo_activity/calcium/gcamp"
"""uint16 images, two isotropic scales, in shards."""

LAYERS: Final = (GCAMP, CELLS, EM)
"""Every layer, in the order of the bucket."""

POINTS: Final = "demo_cortex/sections/points"
"""A layer of annotations, which is not a volume."""

DRAFT: Final = "demo_cortex/drafts/em"
"""Chunks whose ``info`` was never written."""

_SIZE: Final[XYZ] = (150, 130, 40)
_START: Final[XYZ] = (0, 0, 12)
_VOXEL: Final[XYZ] = (4, 4, 40)


@cache
def layer_scales(layer: str) -> list[LayerScale]:
    """Return the voxels of a layer at every scale, finest first."""
    if layer == GCAMP:
        first = LayerScale(volumes.activity(_SIZE, 1)[0], (0, 0, 0), (1500, 1500, 1500))
        return _pyramid(first, 2, HALVING["isotropic"])
    if layer == CELLS:
        first = LayerScale(volumes.cells(_SIZE), _START, _VOXEL)
        return _pyramid(first, 2, HALVING["anisotropic"], labels=True)
    tissue = volumes.tissue(_SIZE).copy()
    tissue[:16, :64, :64] = 0
    return _pyramid(LayerScale(tissue, _START, _VOXEL), 3, HALVING["anisotropic"])


def _pyramid(
    first: LayerScale, count: int, factor: XYZ, *, labels: bool = False
) -> list[LayerScale]:
    made = [first]
    while len(made) < count:
        last = made[-1]
        x, y, z = (start // by for start, by in zip(last.start, factor, strict=True))
        width, height, depth = (size * by for size, by in zip(last.voxel, factor, strict=True))
        voxels = volumes.coarser(last.voxels, last.start, factor, labels=labels)
        made.append(LayerScale(voxels, (x, y, z), (width, height, depth)))
    return made


def fill_precomputed(demo: DemoBuckets) -> None:
    """Create the layers, and the objects beside them."""
    bucket = demo.precomputed
    demo.put("README.md", b"# Volumes (demo)\n", bucket=bucket)
    for folder, objects in _layers(bucket).items():
        for name in sorted(objects):
            stored = objects[name]
            demo.put(f"{folder}/{name}", stored.data, bucket=bucket, encoding=stored.encoding)
    points = {"@type": "neuroglancer_annotations_v1", "annotation_type": "POINT"}
    demo.put(f"{POINTS}/info", json.dumps(points).encode(), bucket=bucket)
    demo.put(f"{POINTS}/spatial0/0_0_0", bytes(8), bucket=bucket)
    demo.put(f"{DRAFT}/4_4_40/0-64_0-64_0-16", bytes(64), bucket=bucket)


@cache
def _layers(bucket: str) -> Mapping[str, Mapping[str, EncodedObject]]:
    """Return the objects of each layer, by name."""
    cells = layer_objects(
        layer_scales(CELLS),
        kind="segmentation",
        encoding="gzip",
        about={
            "description": "Cells (demo)",
            "sources": [f"precomputed://s3://{bucket}/{EM}", "gs://elsewhere/em"],
        },
        more={"mesh": "mesh", "skeletons": "skeletons"},
    )
    cells |= {f"mesh/{name}": one for name, one in meshes(_BOXES).items()}
    cells |= {f"skeletons/{name}": one for name, one in skeletons(_PATHS).items()}
    glow, tissue = {"description": "Glow (demo)"}, {"description": "Tissue (demo)"}
    return {
        GCAMP: layer_objects(layer_scales(GCAMP), sharded=True, about=glow),
        CELLS: cells,
        EM: layer_objects(layer_scales(EM), encoding="br", about=tissue),
    }


_BOXES: Final[Mapping[int, tuple[Point, Point]]] = {
    FIRST_CELL + number: ((100.0 * number, 0.0, 480.0), (100.0 * number + 90.0, 80.0, 900.0))
    for number in range(4)
}
_PATHS: Final[Mapping[int, tuple[Point, ...]]] = {
    FIRST_CELL + number: ((0.0, 10.0 * number, 480.0), (40.0, 20.0, 520.0), (80.0, 20.0, 560.0))
    for number in range(4)
}
