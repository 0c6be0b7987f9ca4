"""The shapes of what is told of volumes; see :mod:`neuromirror.web.shapes`."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12

_with_field_docs = with_config(ConfigDict(use_attribute_docstrings=True))


@_with_field_docs
class FrameJson(TypedDict):
    """The coordinate frame in which upstream has a volume."""

    name: str
    description: str


@_with_field_docs
class TimesJson(TypedDict):
    """The samples of a time series, by upstream's numbers."""

    first: int
    last: int
    step: float | None
    """The time between two of them."""
    unit: str | None


@_with_field_docs
class VolumeLevelJson(TypedDict):
    """One resolution of a volume; lists are along x, y, z, in voxels of this level."""

    level: str
    """Upstream's number; of a precomputed layer counted from 0."""
    folder: str
    """Where its blocks are in the version."""
    start: list[int]
    """The first voxel, in upstream's coordinates."""
    stop: list[int]
    """One beyond the last voxel."""
    extent: list[int]
    voxel_size: list[float]
    """In the volume's ``unit``."""
    block: list[int]
    block_bytes: int
    """The voxels of a whole block, decoded."""
    blocks: int
    """Of all times; one that a precomputed layer leaves out is all zeros."""
    bytes: int
    """All voxels of all times, decoded."""
    encoding: str
    unreadable_reason: str | None
    """Why the catalogue cuts nothing out of it; null where it does."""


@_with_field_docs
class VolumeJson(TypedDict):
    """A version that is a volume: a channel of a BOSS or an ndstore, or a precomputed layer."""

    version: str
    kind: Literal["image", "annotation"]
    """Of an annotation voxels are ids of objects."""
    format: str
    data_type: str
    unit: str
    """Of voxel sizes."""
    frame: FrameJson | None
    times: TimesJson | None
    levels: list[VolumeLevelJson]
    """From the finest on."""
