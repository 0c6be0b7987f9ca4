"""Collections, experiments, coordinate frames and channels of a BOSS (bosscore/models.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neuromirror_demo.boss.cuboids import Cuboids
from neuromirror_demo.volumes import HALVING, XYZ, coarser_box

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

DOWNSAMPLED = "DOWNSAMPLED"
NOT_DOWNSAMPLED = "NOT_DOWNSAMPLED"
STATUSES = (NOT_DOWNSAMPLED, "QUEUED", "IN_PROGRESS", DOWNSAMPLED, "FAILED")

STORAGE = ("spdb", "cloudvol")


@dataclass(slots=True, eq=False)
class CoordinateFrame:
    """A coordinate frame: half-open ranges in voxels of level 0, and the ``voxel`` size."""

    name: str
    start: XYZ
    stop: XYZ
    voxel: tuple[float, float, float]
    unit: str = "nanometers"
    description: str = ""
    deleted: bool = False


@dataclass(slots=True, eq=False)
class BossChannel:
    """A channel. ``pending`` computes the voxels of the base level on first use."""

    name: str
    kind: str
    datatype: str
    cuboids: Cuboids
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
