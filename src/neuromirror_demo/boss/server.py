"""The demo BOSS: its state, the operations on it, its contents and its server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuromirror_demo import volumes
from neuromirror_demo.archive import DemoError
from neuromirror_demo.demo_server import VolumeServer
from neuromirror_demo.records import read_data
from neuromirror_demo.volumes import HALVING, XYZ, coarser, coarser_box

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

SIZE: Final[XYZ] = (512, 512, 16)
"""The size of a cuboid at every level (spdb/c_lib/ndtype.py)."""


class VoxelTables:
    """The voxels of one channel; ``stops`` are the ends of the levels, from level 0 on."""

    def __init__(self, datatype: str, stops: Sequence[XYZ]) -> None:
        self._datatype = datatype
        self._stops = stops
        self._tables: dict[tuple[int, int], Voxels] = {}

    def read(self, level: int, sample: int, start: XYZ, stop: XYZ) -> Voxels:
        """Return a copy of a box, axes ``z, y, x``; voxels that were never written are zeros."""
        import numpy as np

        wide, high, deep = (b - a for a, b in zip(start, stop, strict=True))
        found = np.zeros((deep, high, wide), self._datatype)
        if (level, sample) in self._tables:
            x, y, z = map(slice, start, stop)
            held = self._tables[level, sample][z, y, x]
            found[: held.shape[0], : held.shape[1], : held.shape[2]] = held
        return found

    def write(self, level: int, sample: int, start: XYZ, voxels: Voxels) -> None:
        """Write a box."""
        import numpy as np

        if (level, sample) not in self._tables:
            self._tables[level, sample] = np.zeros(self._stops[level][::-1], self._datatype)
        z, y, x = (slice(at, at + size) for at, size in zip(start[::-1], voxels.shape, strict=True))
        self._tables[level, sample][z, y, x] = voxels


DOWNSAMPLED = "DOWNSAMPLED"
NOT_DOWNSAMPLED = "NOT_DOWNSAMPLED"


@dataclass(slots=True, eq=False)
class CoordinateFrame:
    """A coordinate frame: half-open ranges in voxels of level 0, and the ``voxel`` size."""

    name: str
    start: XYZ
    stop: XYZ
    voxel: tuple[float, float, float]
    unit: str = "nanometers"
    description: str = ""


@dataclass(slots=True, eq=False)
class BossChannel:
    """A channel. ``pending`` computes the voxels of the base level on first use."""

    name: str
    kind: str
    datatype: str
    tables: VoxelTables
    description: str = ""
    base_resolution: int = 0
    default_time_sample: int = 0
    sources: list[str] = field(default_factory=list)
    related: list[str] = field(default_factory=list)
    downsample_status: str = NOT_DOWNSAMPLED
    storage_type: str = "spdb"
    bucket: str | None = None
    cv_path: str | None = None
    public: bool = False
    deleted: bool = False
    pending: Callable[[], Voxels] | None = None

    @property
    def labels(self) -> bool:
        """Whether voxels are ids of objects."""
        return self.kind == "annotation"


@dataclass(slots=True, eq=False)
class BossExperiment:
    """Channels in one coordinate frame, with a number of levels and time samples."""

    name: str
    frame: CoordinateFrame
    levels: int = 1
    method: str = "anisotropic"
    samples: int = 1
    time_step: int | None = None
    time_step_unit: str | None = None
    description: str = ""
    public: bool = False
    deleted: bool = False
    channels: dict[str, BossChannel] = field(default_factory=dict)

    @property
    def factor(self) -> XYZ:
        """Return the factor by which the voxels of the next level are larger."""
        return HALVING[self.method]

    def box(self, level: int) -> tuple[XYZ, XYZ]:
        """Return start and stop of the voxels at a level."""
        start, stop = self.frame.start, self.frame.stop
        for _ in range(level):
            start, stop = coarser_box(start, stop, self.factor)
        return start, stop


@dataclass(slots=True, eq=False)
class BossCollection:
    """Experiments by name, including deleted ones."""

    name: str
    description: str = ""
    public: bool = False
    deleted: bool = False
    experiments: dict[str, BossExperiment] = field(default_factory=dict)


Resource = BossCollection | BossExperiment | BossChannel


Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""``((x0, x1), (y0, y1), (z0, z1))``, half-open, in the coordinates of a level."""


_FILLED: dict[tuple[Any, ...], VoxelTables] = {}
"""The voxels of channels whose voxels :mod:`~neuromirror_demo.volumes` computes."""


class BossState:
    """Collections, experiments, channels, frames and key-value metadata, in memory.

    Operations name a resource as ``collection``, ``collection/experiment`` or
    ``collection/experiment/channel``. All raise :class:`DemoError` for an unknown name.
    """

    def __init__(self) -> None:
        self.collections: dict[str, BossCollection] = {}
        self.frames: dict[str, CoordinateFrame] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.lock = threading.RLock()

    # -- creation

    def add_collection(self, name: str, *, description: str = "", public: bool = True) -> None:
        """Create an empty collection."""
        with self.lock:
            self.collections[name] = BossCollection(name, description, public)

    def add_frame(
        self,
        name: str,
        *,
        stop: Sequence[int],
        start: Sequence[int] = (0, 0, 0),
        voxel: Sequence[float] = (1.0, 1.0, 1.0),
        unit: str = "nanometers",
        description: str = "",
    ) -> None:
        """Create a coordinate frame; ``start``, ``stop`` and ``voxel`` are ``x, y, z``."""
        with self.lock:
            made = CoordinateFrame(
                name, _xyz(start), _xyz(stop), (voxel[0], voxel[1], voxel[2]), unit
            )
            made.description = description
            self.frames[name] = made

    def add_experiment(self, path: str, frame: str, *, public: bool = True, **about: Any) -> None:
        """Create an empty experiment in a frame; ``about`` are fields of ``BossExperiment``."""
        with self.lock:
            collection, name = self._parent(path)
            assert isinstance(collection, BossCollection)
            made = BossExperiment(name, self.frames[frame], public=public, **about)
            collection.experiments[name] = made

    def add_channel(
        self,
        path: str,
        datatype: str = "uint8",
        kind: str = "image",
        *,
        voxels: Voxels | Callable[[], Voxels] | None = None,
        downsampled: bool = True,
        public: bool = True,
        **about: Any,
    ) -> None:
        """Create a channel; ``about`` are fields of ``Channel``.

        ``voxels`` are those of the base level from the start of the frame, axes ``z, y, x`` or ``t,
        z, y, x``, or a function that returns them on first use, or None.
        """
        with self.lock:
            experiment, name = self._parent(path)
            assert isinstance(experiment, BossExperiment)
            last = about.get("base_resolution", 0) + experiment.levels
            stops = [experiment.box(level)[1] for level in range(last)]
            made = BossChannel(name, kind, datatype, VoxelTables(datatype, stops), **about)
            made.public = public
            made.downsample_status = DOWNSAMPLED if downsampled else NOT_DOWNSAMPLED
            if voxels is not None:
                made.pending = voxels if callable(voxels) else lambda: voxels
            experiment.channels[name] = made

    # -- changes upstream

    def edit(
        self,
        path: str,
        box: Box,
        value: int | Voxels | None = None,
        *,
        level: int | None = None,
        time: int | None = None,
        spread: bool = True,
    ) -> None:
        """Change the voxels of a box, and with ``spread`` the coarser levels computed from them.

        ``value`` is a number, or an array of the box's shape; None flips the lowest bit of every
        voxel. ``level`` is by default the channel's base, ``time`` all samples. Nothing else shows
        the change: the channel's JSON stays the same.
        """
        import numpy as np

        with self.lock:
            experiment, channel = self._channel(path)
            self.fill(experiment, channel)
            at = channel.base_resolution if level is None else level
            start, stop = _corners(box)
            for sample in range(experiment.samples) if time is None else (time,):
                old = channel.tables.read(at, sample, start, stop)
                new = old ^ np.ones_like(old) if value is None else np.zeros_like(old) + value
                channel.tables.write(at, sample, start, new.astype(old.dtype))
                if spread:
                    self.coarsen(experiment, channel, at, sample, start, stop)

    def soft_delete(self, path: str) -> None:
        """Mark a resource for deletion: 404 with code 4005. A public collection stays listed."""
        with self.lock:
            self.find(path).deleted = True

    def restore(self, path: str) -> None:
        """Undo :meth:`soft_delete`."""
        with self.lock:
            self.find(path).deleted = False

    def purge(self, path: str) -> None:
        """Delete a resource and its contents permanently: 404 with code 4000."""
        with self.lock:
            above, _, name = path.rpartition("/")
            parent: Any = self.find(above) if above else self
            held = ("collections", "experiments", "channels")[path.count("/")]
            del getattr(parent, held)[name]

    def set_public(self, path: str, public: bool) -> None:
        """Make a resource public or private."""
        with self.lock:
            self.find(path).public = public

    def describe(self, path: str, description: str) -> None:
        """Change a resource's description."""
        with self.lock:
            self.find(path).description = description

    def set_metadata(self, path: str, key: str, value: str | None) -> None:
        """Set a key of a resource; None removes it."""
        with self.lock:
            self.find(path)
            held = self.metadata.setdefault(path, {})
            held.pop(key, None)
            if value is not None:
                held[key] = value

    def move_storage(
        self,
        path: str,
        storage_type: str = "cloudvol",
        *,
        bucket: str | None = "demo-bossdb-open-data",
        cv_path: str | None = None,
    ) -> None:
        """Move a channel's voxels to another storage type, unchanged.

        A channel in ``cloudvol`` has no time axis, no cuboids of zeros beyond its extent, and is
        read-only.
        """
        with self.lock:
            _, channel = self._channel(path)
            moved = storage_type == "cloudvol"
            channel.storage_type = storage_type
            channel.bucket = bucket if moved else None
            channel.cv_path = (cv_path or f"/{path}") if moved else None

    def set_status(self, path: str, status: str) -> None:
        """Set the downsampling status of a channel; no voxel changes."""
        with self.lock:
            self._channel(path)[1].downsample_status = status

    def downsample(self, path: str) -> None:
        """Recompute the coarser levels."""
        with self.lock:
            experiment, channel = self._channel(path)
            self.fill(experiment, channel)
            channel.downsample_status = DOWNSAMPLED
            at = channel.base_resolution
            for sample in range(experiment.samples):
                self.coarsen(experiment, channel, at, sample, *experiment.box(at))

    # -- queries

    def voxels(self, path: str, level: int = 0) -> Voxels:
        """Return all voxels of a level; ``t, z, y, x`` if there is a time axis."""
        import numpy as np

        with self.lock:
            experiment, channel = self._channel(path)
            self.fill(experiment, channel)
            box = experiment.box(level)
            found = [channel.tables.read(level, t, *box) for t in range(experiment.samples)]
            return np.stack(found) if experiment.samples > 1 else found[0]

    def box(self, path: str, level: int = 0) -> Box:
        """Return the box of :meth:`voxels`."""
        start, stop = self._channel(path)[0].box(level)
        return (start[0], stop[0]), (start[1], stop[1]), (start[2], stop[2])

    def find(self, path: str) -> Resource:
        """Return the collection, experiment or channel with this name."""
        parts = path.split("/")
        found: Any = self.collections.get(parts[0])
        for name, held in zip(parts[1:], ("experiments", "channels"), strict=False):
            found = getattr(found, held).get(name) if found is not None else None
        if found is None or len(parts) > 3:
            raise DemoError(f"nothing is called {path}")
        resource: Resource = found
        return resource

    def fill(self, experiment: BossExperiment, channel: BossChannel) -> None:
        """Compute the voxels of a channel that were deferred."""
        if channel.pending is None:
            return
        source, channel.pending = channel.pending, None
        base = channel.base_resolution
        is_downsampled = channel.downsample_status == DOWNSAMPLED
        name = (
            *(source, experiment.box(base), base, experiment.factor, experiment.levels),
            *(channel.datatype, channel.labels, is_downsampled),
        )
        if name in _FILLED:
            channel.tables = deepcopy(_FILLED[name])
            return
        voxels = source()
        start, stop = experiment.box(base)
        for sample, one in enumerate(voxels if voxels.ndim == 4 else [voxels]):
            channel.tables.write(base, sample, start, one)
            if is_downsampled:
                self.coarsen(experiment, channel, base, sample, start, stop)
        if hasattr(source, "cache_info"):
            _FILLED[name] = deepcopy(channel.tables)

    def coarsen(
        self,
        experiment: BossExperiment,
        channel: BossChannel,
        level: int,
        sample: int,
        start: XYZ,
        stop: XYZ,
    ) -> None:
        """Recompute the part of all coarser levels that a box covers."""
        factor = experiment.factor
        for at in range(level, experiment.levels - 1):
            first, end = experiment.box(at)
            low, high = coarser_box(start, stop, factor)
            start = _xyz([max(a, b * f) for a, b, f in zip(first, low, factor, strict=True)])
            stop = _xyz([min(a, b * f) for a, b, f in zip(end, high, factor, strict=True)])
            finer = channel.tables.read(at, sample, start, stop)
            made = coarser(finer, start, factor, labels=channel.labels)
            channel.tables.write(at + 1, sample, low, made)
            start, stop = low, high

    def _channel(self, path: str) -> tuple[BossExperiment, BossChannel]:
        channel = self.find(path)
        if not isinstance(channel, BossChannel):
            raise DemoError(f"{path} is no channel: name collection/experiment/channel")
        experiment = self.find(path.rpartition("/")[0])
        assert isinstance(experiment, BossExperiment)
        return experiment, channel

    def _parent(self, path: str) -> tuple[BossCollection | BossExperiment, str]:
        above, _, name = path.rpartition("/")
        parent = self.find(above)
        assert not isinstance(parent, BossChannel)
        return parent, name


def _xyz(numbers: Sequence[int]) -> XYZ:
    x, y, z = numbers
    return x, y, z


def _corners(box: Box) -> tuple[XYZ, XYZ]:
    (x0, x1), (y0, y1), (z0, z1) = box
    return (x0, y0, z0), (x1, y1, z1)


TISSUE: Final = "demo_cortex/sections/em"
"""uint8 images, three anisotropic levels; the first section is number 12."""

CELLS: Final = "demo_cortex/sections/cells"
"""uint64 labels of :data:`TISSUE`, too large for a float."""

SKETCH: Final = "demo_cortex/sections/sketch"
"""uint64 labels in a single cuboid, never downsampled: coarser levels cannot be read."""

ACTIVITY: Final = "demo_activity/calcium/gcamp"
"""uint16 images, three isotropic levels, three samples."""

PRIVATE: Final = "demo_private/notes/draft"
"""A collection that only its owner can read."""


def fill(boss: BossState) -> None:
    """Create three collections, one of them private, with the same operations that tests use."""
    voxels = {"$tissue": volumes.tissue, "$cells": volumes.cells, "$activity": volumes.activity}
    for verb, arguments, named in read_data("boss"):
        given = dict(named)
        if "voxels" in given:
            given["voxels"] = voxels[given["voxels"]]
        getattr(boss, verb)(*arguments, **given)


class DemoBoss(VolumeServer, BossState):
    """A BOSS on loopback, from ``with`` to the end of the block.

    The mirror file is written to ``directory/mirrors``, and removed at the end. ``port`` 0 selects
    a free port. With ``empty`` the service has no contents. Contents survive a stop.
    """

    token = "6f1d8b07c2e94a53" + "0" * 24
    """The token of the owner (``Authorization: Token …``), which can read and write everything."""

    mirror_name = ("demo-boss", "boss", "BOSS")

    public_token: Final = "public"
    """Token of the public user, which can read public data."""

    def __init__(self, directory: Path | str, *, port: int = 0, empty: bool = False) -> None:
        from neuromirror_demo.boss import api
        from neuromirror_demo.faults import FaultInjector, Faults

        super().__init__()
        self._initialize(directory, port)
        self._empty = empty
        self._cutouts = api.BossCutouts(self)
        self._faults = Faults("boss", "/cutout/")
        app = api.BossApi(
            self, self._cutouts, {self.token: api.OWNER, self.public_token: api.PUBLIC}
        )
        self._fault_injector = FaultInjector(app, "boss", self._faults, refuse=api.refuse)

    def _fill(self) -> None:
        for name in ("blosc", "numpy"):
            import_module(name)  # fail here rather than in a request
        if not self._empty and not self.collections:
            fill(self)

    # -- addresses

    @property
    def api(self) -> str:
        """The base URL, to which clients append ``/v1/…``."""
        return self.url

    @property
    def limit(self) -> int:
        """The maximum size of the voxels in a request in bytes."""
        return self._cutouts.max_bytes

    @limit.setter
    def limit(self, most: int) -> None:
        self._cutouts.max_bytes = most
