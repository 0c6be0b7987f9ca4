"""The demo ndstore: its state, the operations on it, its contents and its server.

The numbers follow neurodata/ndstore (``ndproj/nddataset.py`` and ``ndproj/jsonprojinfo.py``), with
the integer divisions of Python 2.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuromirror_demo import volumes
from neuromirror_demo.archive import DemoError
from neuromirror_demo.demo_server import VolumeServer
from neuromirror_demo.volumes import HALVING, XYZ, coarser

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

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


IMAGE_11: Final = "demo11/image"
"""uint8 images of sections, three levels; like kasthuri11's, the first section is number 1."""

MEMBRANES: Final = "demo11/membranes"
"""float32 probabilities."""

CELLS: Final = "demo11_anno/cells"
"""uint64 labels of :data:`IMAGE_11`, open for writing, with exceptions."""

CALCIUM: Final = "democube/calcium"
"""uint16 images, three levels halved along all axes, samples 5, 6 and 7; with an offset."""

SYNAPSES: Final = "demo15_ramon/synapses"
"""uint32 labels that were uploaded at resolution 1."""

SINGLE_12: Final = "demo12/image"
"""uint8 images that were never propagated; its extent is a multiple of the cuboid size."""

PRIVATE: Final = "demo13_private/image"
"""A project that only its owner can read."""

SECTIONS: Final = Space("demo11", (200, 150, 40), (0, 0, 1), (3.0, 3.0, 30.0), 3, "zslices")
CUBE: Final = Space("democube", (100, 90, 36), (10, 6, 4), (500.0, 500.0, 500.0), 3, "xyz")
PAINTED: Final = Space("demo15", (150, 120, 20), (0, 0, 1), (6.0, 6.0, 5.0), 3, "zslices")
SINGLE: Final = Space("demo12", (256, 128, 32), (0, 0, 0), (4.0, 4.0, 40.0), 3, "zslices")


def projects() -> list[Project]:
    """Return new instances of the projects."""
    return deepcopy(_projects())


@cache
def _projects() -> list[Project]:
    tissue = volumes.tissue(SECTIONS.image_size)[None]
    sections = Project("demo11", SECTIONS, description="Tissue in sections (demo)")
    sections.lims = {"species": "none", "subvolumes": []}
    _add(
        sections,
        NdstoreChannel("image", IMAGE, "uint8", {0: tissue}, description="Sections (demo)"),
    )
    _add(
        sections,
        NdstoreChannel("membranes", IMAGE, "float32", {0: (tissue / 255).astype("float32")}),
    )

    annotated = Project("demo11_anno", SECTIONS, description="Cells (demo)")
    cells = volumes.cells(SECTIONS.image_size)[None]
    _add(
        annotated,
        NdstoreChannel("cells", ANNOTATION, "uint64", {0: cells}, readonly=0, exceptions=1),
    )

    cube = Project("democube", CUBE, description="Cells that glow (demo)")
    calcium = NdstoreChannel(
        "calcium", TIMESERIES, "uint16", {0: volumes.activity(CUBE.image_size)}
    )
    calcium.timerange, calcium.windowrange = (5, 8), (300, 60000)
    _add(cube, calcium)

    painted = Project("demo15_ramon", PAINTED, description="Annotations (demo)")
    _add(painted, _synapses())

    single = Project("demo12", SINGLE, description="Never propagated (demo)")
    single.channels["image"] = NdstoreChannel(
        *("image", IMAGE, "uint8", {0: volumes.tissue(SINGLE.image_size)[None]}),
        propagate=NOT_PROPAGATED,
    )

    private = Project("demo13_private", PAINTED, description="Private (demo)", private=True)
    _add(
        private,
        NdstoreChannel("image", IMAGE, "uint8", {0: volumes.tissue(PAINTED.image_size)[None]}),
    )
    return [sections, annotated, cube, painted, single, private]


def _add(project: Project, channel: NdstoreChannel) -> None:
    project.propagate(channel, channel.resolution)
    project.channels[channel.name] = channel


def _synapses() -> NdstoreChannel:
    import numpy as np

    owners = volumes.cells(PAINTED.image_size)[:, ::2, ::2]
    numbers = np.where(owners > 0, owners - np.uint64(volumes.FIRST_CELL) + np.uint64(1), 0)
    painted = numbers.astype(np.uint32)[None]
    return NdstoreChannel("synapses", ANNOTATION, "uint32", {1: painted}, resolution=1, readonly=0)


Range = Sequence[int]
Box = tuple[Range, Range, Range]
"""``((x0, x1), (y0, y1), (z0, z1))``, half-open, in the coordinates of a level."""


class NdstoreState:
    """Projects in memory, by their tokens.

    Operations name a project as ``token`` and a channel as ``token/channel``. Coordinates are as in
    requests: voxels of a level, from the dataset's offset on. All raise :class:`DemoError` for an
    unknown name.
    """

    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.lock = threading.RLock()
        self._removed: dict[str, Project | NdstoreChannel] = {}

    # -- voxels

    def edit(
        self,
        path: str,
        box: Box,
        value: float | None = None,
        *,
        level: int | None = None,
        time: int | None = None,
        spread: bool = True,
    ) -> None:
        """Change the voxels of a box, and with ``spread`` the coarser levels computed from them.

        ``value`` None makes zeros one, and all other voxels zero. ``level`` is by default the
        channel's resolution, ``time`` all samples. The info JSON stays the same.
        """
        with self.lock:
            project, channel = self._channel(path)
            at = channel.resolution if level is None else level
            table = channel.tables[at]
            start = project.space.offset_at(at)
            samples = slice(None)
            if time is not None:
                samples = slice(time - channel.timerange[0], time - channel.timerange[0] + 1)
            x, y, z = (
                slice(low - first, high - first)
                for (low, high), first in zip(box, start, strict=True)
            )
            table[samples, z, y, x] = table[samples, z, y, x] == 0 if value is None else value
            if spread and channel.propagate == PROPAGATED:
                project.propagate(channel, at)

    def propagate(self, path: str) -> None:
        """Recompute all coarser levels, and mark the channel as propagated."""
        with self.lock:
            project, channel = self._channel(path)
            project.propagate(channel, channel.resolution)
            channel.propagate = PROPAGATED
            channel.readonly = 0

    def set_propagate(self, path: str, value: int) -> None:
        """Set the state of propagation: 0 not started, 1 in progress, 2 finished; no voxel changes.

        ndstore locks a channel during propagation, and leaves it open afterwards.
        """
        with self.lock:
            _, channel = self._channel(path)
            channel.propagate = value
            channel.readonly = int(value == UNDER_PROPAGATION)

    def voxels(self, path: str, level: int = 0) -> Voxels:
        """Return all voxels of a level; ``t, z, y, x`` if it is a time series."""
        with self.lock:
            _, channel = self._channel(path)
            table = channel.tables[level].copy()
            return table if channel.is_timeseries else table[0]

    # -- projects and channels

    def describe(self, path: str, description: str) -> None:
        """Change the description of a project or channel."""
        with self.lock:
            found = self._channel(path)[1] if "/" in path else self._project(path)
            found.description = description

    def move_storage(self, token: str) -> None:
        """Move a project's cuboids from the database to S3 or back; all voxels stay the same."""
        with self.lock:
            project = self._project(token)
            project.s3backend = 1 - project.s3backend

    def lose_lims(self, token: str) -> None:
        """Remove ``metadata`` from the info JSON, as when the server that provides it is slow."""
        with self.lock:
            self._project(token).lims = {}

    def set_public(self, token: str, public: bool) -> None:
        """Make a project public or private."""
        with self.lock:
            self._project(token).private = not public

    def remove(self, path: str) -> None:
        """Remove a project or a channel."""
        with self.lock:
            if "/" not in path:
                self._removed[path] = self._project(path)
                del self.projects[path]
                return
            project, channel = self._channel(path)
            self._removed[path] = channel
            del project.channels[channel.name]

    def restore(self, path: str) -> None:
        """Undo :meth:`remove`."""
        with self.lock:
            found = self._removed.pop(path, None)
            if isinstance(found, Project):
                self.projects[path] = found
            elif found is not None:
                self._project(path.partition("/")[0]).channels[found.name] = found

    # -- helpers

    def _project(self, token: str) -> Project:
        if token not in self.projects:
            raise DemoError(f"no project has the token {token!r}")
        return self.projects[token]

    def _channel(self, path: str) -> tuple[Project, NdstoreChannel]:
        token, _, name = path.partition("/")
        project = self._project(token)
        if name not in project.channels:
            raise DemoError(f"{path} is no channel: name token/channel")
        return project, project.channels[name]


class DemoNdstore(VolumeServer, NdstoreState):
    """An ndstore on loopback, from ``with`` to the end of the block.

    It replies like neurodata/ndstore below ``/nd/ca/``, ``/nd/sd/`` and ``/nd/ramon/``, and accepts
    no uploads. The mirror file is written to ``directory/mirrors``, and removed at the end.
    ``port`` 0 selects a free port. Equal calls give equal
    voxels.
    """

    token = "5f0c2b8e71d94a36" + "2" * 24
    """The token of the owner (``Authorization: Token …``), which can read everything."""

    mirror_name = ("demo-neurodata", "ndstore", "ndstore")

    def __init__(self, directory: Path | str, *, port: int = 0) -> None:
        from neuromirror_demo.faults import FaultInjector, Faults, spoil_voxels
        from neuromirror_demo.ndstore.api import NdstoreApi

        super().__init__()
        self._initialize(directory, port)
        self._faults = Faults("ndstore", r"/npz/\d+/")
        self._answers = NdstoreApi(self.projects, self.token, spoil_voxels)
        self._fault_injector = FaultInjector(self._serve, "ndstore", self._faults)

    def _fill(self) -> None:
        self.projects.update((project.token, project) for project in projects())

    # -- addresses

    @property
    def api(self) -> str:
        """``http://127.0.0.1:<port>/nd/ca``."""
        return f"{self.url}/nd/ca"

    # -- helpers

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        from werkzeug.wrappers import Request

        with self.lock:
            response = self._answers.answer(Request(environ))
        return response(environ, start_response)
