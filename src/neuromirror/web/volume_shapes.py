"""JSON shapes of volumes; see :mod:`neuromirror.web.shapes`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12

_with_field_docs = with_config(ConfigDict(use_attribute_docstrings=True))


@_with_field_docs
class FrameJson(TypedDict):
    """The coordinate frame of a volume at the archive."""

    name: str
    description: str


@_with_field_docs
class TimesJson(TypedDict):
    """The samples of a time series, numbered as at the archive."""

    first: int
    last: int
    step: float | None
    """Time between two samples, in ``unit``."""
    unit: str | None


@_with_field_docs
class VolumeLevelJson(TypedDict):
    """One resolution of a volume; lists are along x, y, z, in voxels of this level."""

    level: str
    """Number of the level at the archive; counted from 0 for a precomputed layer."""
    folder: str
    """Folder of its blocks in the version."""
    start: list[int]
    """First voxel, in the coordinates of the archive."""
    stop: list[int]
    """Exclusive upper bound."""
    extent: list[int]
    voxel_size: list[float]
    """In the volume's ``unit``."""
    block: list[int]
    block_bytes: int
    """Decoded size of a whole block."""
    blocks: int
    """Number over all time samples; missing blocks of a precomputed layer are zero."""
    bytes: int
    """Decoded size of all voxels of all time samples."""
    encoding: str
    unreadable_reason: str | None
    """Why the level cannot be cut out, null if it can."""


@_with_field_docs
class VolumeJson(TypedDict):
    """A version that is a volume: a channel of a BOSS or an ndstore, or a precomputed layer."""

    version: str
    kind: Literal["image", "annotation"]
    """The voxels of an annotation are ids of objects."""
    format: str
    data_type: str
    unit: str
    """Unit of voxel sizes."""
    frame: FrameJson | None
    times: TimesJson | None
    levels: list[VolumeLevelJson]
    """Levels from the finest on."""
