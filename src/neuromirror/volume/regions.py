"""Regions of a volume, in upstream's coordinates and in indices of the array."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from neuromirror.sources.volumes.grid import Volume
from neuromirror.sources.volumes.urls import Box
from neuromirror.volume.errors import OutsideVolumeError

_BOX: Final = re.compile(r"\s*,\s*".join([r"(\d{1,15}):(\d{1,15})"] * 3))


def parse_box(text: str) -> Box:
    """Parse a box such as ``0:512,0:512,10:20``.

    Parameters
    ----------
    text
        Ranges along x, y, z in voxels; the end is exclusive.

    Returns
    -------
    Box
        The box.

    Raises
    ------
    OutsideVolumeError
        The text is not a box.
    """
    found = _BOX.fullmatch(text.strip())
    if found is None:
        raise OutsideVolumeError(f"'{text}' is not a box; write x0:x1,y0:y1,z0:z1 in whole voxels")
    x0, x1, y0, y1, z0, z1 = map(int, found.groups())
    return (x0, x1), (y0, y1), (z0, z1)


def format_box(box: Box) -> str:
    """Return a box as the text that :func:`parse_box` reads.

    Parameters
    ----------
    box
        Ranges along x, y, z in voxels.

    Returns
    -------
    str
        ``x0:x1,y0:y1,z0:z1``.
    """
    return ",".join(f"{start}:{stop}" for start, stop in box)


def validate_box(volume: Volume, box: Box | None, where: str) -> Box:
    """Return a box that is inside the volume's level; the whole level if no box is given.

    Parameters
    ----------
    volume
        The level.
    box
        Ranges along x, y, z in voxels, or None.
    where
        The name of the level in the error message.

    Returns
    -------
    Box
        The box, in voxels of the level.

    Raises
    ------
    OutsideVolumeError
        The box is empty or not inside the level.
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
                f"the box {format_box(box)} is not completely inside {where}: level "
                f"{level.name} has"
                f" {format_box(whole)} (x, y, z), and {name} is {start}:{stop}"
            )
    return box


def sample_index(volume: Volume, time: int | None, where: str) -> int | None:
    """Return the index along the array's time axis of a time sample; None without a time axis.

    ``time`` is upstream's number of the sample; ``where`` names the volume in messages.

    Raises
    ------
    OutsideVolumeError
        The volume lacks the sample, or the time is missing or not applicable.
    """
    if volume.times is None:
        if time is not None:
            raise OutsideVolumeError(f"{where} has no time axis; leave the time out")
        return None
    if time is None or time not in volume.times:
        hint = "specify one of them" if time is None else f"{time} is not one of them"
        raise OutsideVolumeError(
            f"{where} has the time samples {volume.times[0]} to {volume.times[-1]}; {hint}"
        )
    return volume.times.index(time)


def split_range(start: int, stop: int, origin: int, size: int) -> Iterator[tuple[int, int]]:
    """Split the range from ``start`` to ``stop`` at ``origin`` and every ``size`` from there."""
    while start < stop:
        end = min(stop, start + size - (start - origin) % size)
        yield start, end
        start = end
