"""Descriptions of versions as volumes, and their JSON shapes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from neuromirror.index import VersionRow
from neuromirror.index.shapes import Answer
from neuromirror.volume import NotAVolumeError, VolumeDescription
from neuromirror.web.request import CatalogueRequest, PageNotFoundError


class Frame(Answer, frozen=True):
    """The coordinate frame of a volume at the archive."""

    name: str
    description: str


class Times(Answer, frozen=True):
    """The range of time samples of a volume, with the numbers that the archive uses."""

    first: int
    last: int
    step: Annotated[float | None, Meta(description="Time between two samples, in `unit`.")]
    unit: str | None


class VolumeLevel(Answer, frozen=True):
    """One resolution of a volume; lists are along x, y, z, in voxels of this level."""

    level: Annotated[
        str,
        Meta(
            description="Number of the level at the archive; counted from 0 for a precomputed "
            "layer."
        ),
    ]
    folder: Annotated[str, Meta(description="Folder of its blocks in the version.")]
    start: Annotated[list[int], Meta(description="First voxel, in the coordinates of the archive.")]
    stop: Annotated[list[int], Meta(description="Exclusive upper bound.")]
    extent: list[int]
    voxel_size: Annotated[list[float], Meta(description="In the volume's `unit`.")]
    block: list[int]
    block_bytes: Annotated[int, Meta(description="Decoded size of a whole block.")]
    blocks: Annotated[
        int,
        Meta(
            description="Number over all time samples; missing blocks of a precomputed layer "
            "are zero."
        ),
    ]
    bytes: Annotated[int, Meta(description="Decoded size of all voxels of all time samples.")]
    encoding: str
    unreadable_reason: Annotated[
        str | None, Meta(description="Why the level cannot be cut out, null if it can.")
    ]


class Volume(Answer, frozen=True):
    """A version that is a volume: a channel of a BOSS or an ndstore, or a precomputed layer."""

    version: str
    kind: Annotated[
        Literal["image", "annotation"],
        Meta(description="The voxels of an annotation are ids of objects."),
    ]
    format: str
    data_type: str
    unit: Annotated[str, Meta(description="Unit of voxel sizes.")]
    frame: Frame | None
    times: Times | None
    levels: Annotated[list[VolumeLevel], Meta(description="Levels from the finest on.")]

    @classmethod
    def describe(cls, found: VolumeDescription) -> Volume:
        """Return a volume with its levels from the finest on; triples are x, y, z."""
        volume = found.volume
        times = volume.times
        samples = 1 if times is None else len(times)
        return cls(
            version=found.version,
            kind="annotation" if volume.labels else "image",
            format=found.format,
            data_type=volume.dtype,
            unit=volume.unit,
            frame=Frame(*found.frame) if found.frame[0] else None,
            times=None
            if times is None
            else Times(times[0], times[-1], volume.time_step, volume.time_unit),
            levels=[
                VolumeLevel(
                    level=level.name,
                    folder=stored.folder,
                    start=list(level.start),
                    stop=list(level.stop),
                    extent=list(level.extent),
                    voxel_size=list(level.voxel),
                    block=list(level.chunk),
                    block_bytes=volume.chunk_bytes(level),
                    blocks=samples * math.prod(level.grid),
                    bytes=samples * math.prod(level.extent) * volume.item_size,
                    encoding=stored.encoding,
                    unreadable_reason=stored.unreadable_reason or None,
                )
                for level, stored in zip(volume.levels, found.storage, strict=True)
            ],
        )


async def describe_volume(request: CatalogueRequest, row: VersionRow) -> VolumeDescription:
    """Describe a version as a volume; raises PageNotFoundError if it is none."""
    site = request.site
    try:
        return await site.reader.run_in_thread(lambda: site.cutouts.describe(row))
    except NotAVolumeError as error:
        raise PageNotFoundError(str(error)) from error
