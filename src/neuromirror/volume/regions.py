"""Regions of a volume: asked for in upstream's voxels, read in the array's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from neuromirror.sources.volumes import Box, Volume
from neuromirror.volume.errors import OutsideVolumeError

_BOX: Final = re.compile(r"\s*,\s*".join([r"(\d{1,15}):(\d{1,15})"] * 3))


def parse_box(text: str) -> Box:
    """The box of ``x0:x1,y0:y1,z0:z1``; raises OutsideVolumeError for other text."""
    found = _BOX.fullmatch(text.strip())
    if found is None:
        raise OutsideVolumeError(f"'{text}' is not a box; write x0:x1,y0:y1,z0:z1 in whole voxels")
    x0, x1, y0, y1, z0, z1 = map(int, found.groups())
    return (x0, x1), (y0, y1), (z0, z1)


def format_box(box: Box) -> str:
    """A box as a person writes it."""
    return ",".join(f"{start}:{stop}" for start, stop in box)


def validate_box(volume: Volume, box: Box | None, where: str) -> Box:
    """A box that is wholly in the volume's level, all of it where none is given.

    Raises OutsideVolumeError.
    """
    level = volume.levels[0]
    (x, y, z), (x1, y1, z1) = level.start, level.stop
    whole = (x, x1), (y, y1), (z, z1)
    if box is None:
        return whole
    for name, (start, stop), (least, most) in zip("xyz", box, whole, strict=True):
        if start >= stop:
            raise OutsideVolumeError(
                f"the box {format_box(box)} is empty: {start}:{stop} along {name}"
            )
        if start < least or stop > most:
            raise OutsideVolumeError(
                f"the box {format_box(box)} is not wholly in {where}: level {level.name} has"
                f" {format_box(whole)} (x, y, z), and {name} is {start}:{stop}"
            )
    return box


def sample_index(volume: Volume, time: int | None, where: str) -> int | None:
    """The place in the array of upstream's time sample; None where there is no time axis.

    Raises OutsideVolumeError.
    """
    if volume.times is None:
        if time is not None:
            raise OutsideVolumeError(f"{where} has no time axis; leave the time out")
        return None
    if time is None or time not in volume.times:
        hint = "name one of them" if time is None else f"{time} is not one of them"
        raise OutsideVolumeError(
            f"{where} has the time samples {volume.times[0]} to {volume.times[-1]}; {hint}"
        )
    return volume.times.index(time)


def split_range(start: int, stop: int, origin: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the parts of a range, cut where a grid of ``size`` that begins at ``origin`` is."""
    while start < stop:
        end = min(stop, start + size - (start - origin) % size)
        yield start, end
        start = end
