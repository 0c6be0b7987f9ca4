"""Cutouts as ndstore returns them (neurodata/ndstore, ``webservices/restargs.py``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuromirror_demo.ndstore.records import (
    PROPAGATED,
    UNDER_PROPAGATION,
    NdstoreChannel,
    Project,
    Space,
)
from neuromirror_demo.volumes import XYZ

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

_ARGUMENTS: Final = re.compile(
    r"([0-9]+)/([0-9]+),([0-9]+)/([0-9]+),([0-9]+)/([0-9]+),([0-9]+)(.*)?$"
)
_TIMES: Final = re.compile(r"/(\d+),(\d+)/")


class NdstoreError(Exception):
    """An error that ndstore returns as 404; ``body`` is its text."""

    def __init__(self, body: str, *, wrapped: int = 0) -> None:
        for _ in range(wrapped):
            body = repr(body)
        super().__init__(body)
        self.body = body


@dataclass(frozen=True, slots=True)
class NdstoreCutoutRequest:
    """The requested region: voxels of a level, counted from the dataset's offset.

    ``times`` is None if the reply has no time axis.
    """

    level: int
    corner: XYZ
    size: XYZ
    times: tuple[int, int] | None


def parse(arguments: str, space: Space) -> NdstoreCutoutRequest:
    """Parse a request ``RES/x0,x1/y0,y1/z0,z1[/t0,t1]/…``; raise :class:`NdstoreError`.

    A range of times is recognized only with a final slash.
    """
    found = _ARGUMENTS.match(arguments)
    if found is None:
        nothing = "'NoneType' object has no attribute 'groups'"
        raise NdstoreError(f"Incorrect cutout arguments {arguments}. {nothing}", wrapped=1)
    level, x0, x1, y0, y1, z0, z1 = map(int, found.groups()[:-1])
    rest = found[8]
    if level not in space.resolutions:
        raise NdstoreError(f"Illegal scaling level {arguments}", wrapped=1)
    start = space.offset_at(level)
    low = (x0 - start[0], y0 - start[1], z0 - start[2])
    high = (x1 - start[0], y1 - start[1], z1 - start[2])
    whole = space.size_at(level)
    if not all(0 <= a < b <= n for a, b, n in zip(low, high, whole, strict=True)):
        message = f"Illegal range. Image size: {list(whole)} at offset {list(start)}"
        failed = f"Illegal arguments to cutout. Check cube failed {message!r}"
        raise NdstoreError(failed, wrapped=1)
    times = _TIMES.match(rest)
    return NdstoreCutoutRequest(
        level,
        low,
        (high[0] - low[0], high[1] - low[1], high[2] - low[2]),
        None if times is None else (int(times[1]), int(times[2])),
    )


def cut_out(project: Project, channel: NdstoreChannel, request: NdstoreCutoutRequest) -> Voxels:
    """Return the voxels in (z, y, x), or (time, z, y, x) if times were requested.

    Voxels that were never written are zero. Upstream makes up the levels that it does not store,
    from wrong positions; here they are zero, too.
    """
    import numpy as np

    times = request.times or (channel.timerange[0], channel.timerange[0] + 1)
    (x, y, z), (width, height, depth) = request.corner, request.size
    made = np.zeros((times[1] - times[0], depth, height, width), np.dtype(channel.datatype))
    table = channel.tables.get(request.level)
    if channel.propagate not in (PROPAGATED, UNDER_PROPAGATION):
        table = table if request.level == channel.resolution else None
    for number, time in enumerate(range(*times)):
        sample = time - channel.timerange[0]
        if table is not None and 0 <= sample < len(table):
            there = table[sample, z : z + depth, y : y + height, x : x + width]
            made[number, : there.shape[0], : there.shape[1], : there.shape[2]] = there
    return made if request.times is not None else made[0]
