"""Records of an ndstore project: its dataset (the space), channels, and the info JSON.

The numbers follow neurodata/ndstore (``ndproj/nddataset.py`` and ``ndproj/jsonprojinfo.py``), with
the integer divisions of Python 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neuromirror_demo.volumes import HALVING, XYZ, coarser

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

NOT_PROPAGATED, UNDER_PROPAGATION, PROPAGATED = 0, 1, 2

ANNOTATION = "annotation"
IMAGE = "image"
TIMESERIES = "timeseries"


@dataclass(frozen=True, slots=True)
class Space:
    """An ndstore dataset: an extent in voxels, its start, and its scaling.

    ``image_size`` and ``offset`` are x, y, z in voxels of level 0, ``voxel`` the size of a voxel in
    nanometres. ``scaling`` is ``zslices`` (x and y are halved from level to level) or ``xyz``.
    """

    name: str
    image_size: XYZ
    offset: XYZ
    voxel: tuple[float, float, float]
    levels: int
    scaling: str

    @property
    def resolutions(self) -> list[int]:
        """The numbers of the levels."""
        return list(range(self.levels))

    def _shrunk(self, values: XYZ, level: int, shrink: Callable[[int, int], int]) -> XYZ:
        x, y, z = values
        factor = 2**level
        deep = z if self.scaling == "zslices" else shrink(z, factor)
        return (shrink(x, factor), shrink(y, factor), deep)

    def size_at(self, level: int) -> XYZ:
        """Return the extent in voxels of that level, rounded up."""
        return self._shrunk(self.image_size, level, lambda n, by: (n - 1) // by + 1)

    def offset_at(self, level: int) -> XYZ:
        """Return the start in voxels of that level, rounded down."""
        return self._shrunk(self.offset, level, lambda n, by: n // by)

    def voxel_at(self, level: int) -> tuple[float, float, float]:
        """Return the size of a voxel of that level."""
        x, y, z = self.voxel
        by = float(2**level)
        return (x * by, y * by, z if self.scaling == "zslices" else z * by)

    def cuboid_at(self, level: int) -> XYZ:
        """Return the shape of stored cuboids: flat for flat voxels, else cubes."""
        x, _, z = self.voxel
        flat = self.scaling == "zslices" and z / x / 2**level > 0.5
        return (128, 128, 16) if flat else (64, 64, 64)

    def neariso_scaledown(self, level: int) -> int:
        """Return the approximate number of slices that are together as thick as a voxel is wide."""
        _, y, z = self.voxel_at(level)
        if z / y >= 1.0:
            return 1
        slices = y / z
        up, down = math.ceil(slices), math.floor(slices)
        return up if (up - slices) <= (slices - down) else down

    def neariso_size_at(self, level: int) -> XYZ:
        """Return the extent when slices are combined."""
        x, y, z = self.size_at(level)
        return (x, y, z // self.neariso_scaledown(level))


@dataclass(slots=True)
class NdstoreChannel:
    """A channel and its voxels: ``tables`` has an array (time, z, y, x) for each written level.

    ``resolution`` is the uploaded level; propagation computes the coarser ones. For levels without
    a table voxels are synthesized on request, not always correctly.
    """

    name: str
    kind: str
    datatype: str
    tables: dict[int, Voxels]
    resolution: int = 0
    propagate: int = PROPAGATED
    readonly: int = 1
    exceptions: int = 0
    timerange: tuple[int, int] = (0, 1)
    windowrange: tuple[int, int] = (0, 0)
    description: str = ""

    @property
    def is_timeseries(self) -> bool:
        """Whether the channel has time samples."""
        return self.kind == TIMESERIES

    def info(self) -> dict[str, Any]:
        """Return the channel's part of the info JSON."""
        return {
            "channel_type": self.kind,
            "datatype": self.datatype,
            "exceptions": self.exceptions,
            "readonly": self.readonly,
            "resolution": self.resolution,
            "propagate": self.propagate,
            "windowrange": list(self.windowrange),
            "description": self.description,
            "timerange": list(self.timerange),
        }


@dataclass(slots=True)
class Project:
    """A project with its token; ``private`` projects are listed for their owner only."""

    token: str
    space: Space
    channels: dict[str, NdstoreChannel] = field(default_factory=dict)
    description: str = ""
    private: bool = False
    s3backend: int = 0
    lims: dict[str, Any] = field(default_factory=dict)

    def propagate(self, channel: NdstoreChannel, level: int) -> None:
        """Recompute the levels of a channel that are coarser than ``level``."""
        factor = HALVING["anisotropic" if self.space.scaling == "zslices" else "isotropic"]
        labels = channel.kind == ANNOTATION
        for finer in range(level, self.space.levels - 1):
            # ndstore counts from the start of the dataset, not from zero
            table = channel.tables[finer]
            if table.dtype.kind == "f":
                made = coarser((table * 255).round().astype("uint8"), (0, 0, 0), factor) / 255
            else:
                made = coarser(table, (0, 0, 0), factor, labels=labels)
            channel.tables[finer + 1] = made.astype(table.dtype)

    def info(self) -> dict[str, Any]:
        """Return the info JSON; numeric keys become strings in it, as levels do."""
        return {
            "project": {
                "name": self.token,
                "description": self.description,
                "schema_version": "1.1.0",
                "ndstore_version": "1.2.0",
                "s3backend": self.s3backend,
            },
            "dataset": self._dataset(),
            "channels": {name: one.info() for name, one in self.channels.items()},
            "metadata": self.lims,
        }

    def _dataset(self) -> dict[str, Any]:
        space = self.space

        def each(value: Callable[[int], Any]) -> dict[int, Any]:
            return {level: value(level) for level in space.resolutions}

        def cuboids(level: int) -> list[int]:
            return [4 * side for side in space.cuboid_at(level)]

        document: dict[str, Any] = {
            "name": space.name,
            "description": space.name,
            "scaling": space.scaling,
            "scalinglevels": space.levels - 1,
            "resolutions": space.resolutions,
            "imagesize": each(space.size_at),
            "offset": each(space.offset_at),
            "voxelres": each(space.voxel_at),
            "cube_dimension": each(space.cuboid_at),
            "supercube_dimension": each(cuboids),
        }
        if space.scaling == "zslices":
            document |= {
                "neariso_scaledown": each(space.neariso_scaledown),
                "neariso_imagesize": each(space.neariso_size_at),
                "neariso_voxelres": each(self._neariso_voxel),
                "neariso_offset": each(self._neariso_offset),
            }
        return document

    def _neariso_voxel(self, level: int) -> list[float]:
        x, y, z = self.space.voxel_at(level)
        return [x, y, z * self.space.neariso_scaledown(level)]

    def _neariso_offset(self, level: int) -> list[float]:
        x, y, z = self.space.offset_at(level)
        return [float(x), float(y), float(z) / self.space.neariso_scaledown(level)]
