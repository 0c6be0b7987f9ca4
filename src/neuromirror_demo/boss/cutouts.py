"""Cutouts: parsing of requests (bosscore/request.py) and responses (bossspatialdb/views.py)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wrappers import Request, Response

from neuromirror_demo.boss.documents import OWNER, Json, levels_document
from neuromirror_demo.boss.encodings import BossCutoutRequest, accepted_type, encode
from neuromirror_demo.boss.errors import BossError, Code, UpstreamDefectError
from neuromirror_demo.boss.records import (
    DOWNSAMPLED,
    BossChannel,
    BossExperiment,
    Resource,
)
from neuromirror_demo.boss.state import BossState
from neuromirror_demo.volumes import XYZ

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

MAX_REQUEST_BYTES: Final = 520 << 20
"""Maximum bytes of voxels per request; four times as many for voxels of 64 bits."""


class BossCutouts:
    """Read and write voxels, and describe levels; ``most`` is the limit per request in bytes."""

    def __init__(self, state: BossState, max_bytes: int = MAX_REQUEST_BYTES) -> None:
        self.max_bytes = max_bytes
        self._state = state
        self._turn = itertools.count()

    def cutout(self, request: Request, user: str, **names: str) -> Response:
        """Return the voxels of a box."""
        cutout_request = self._parse_request(request, user, names)
        accepted = accepted_type(request)
        voxels = _apply_faults(self._voxels(cutout_request), active_faults(request))
        return Response(encode(voxels, accepted, next(self._turn)), content_type=accepted)

    def levels(self, request: Request, user: str, **names: str) -> Json:
        """Describe the downsampling status and the levels."""
        return levels_document(*self._channel(request, user, names))

    # -- request parsing

    def _channel(
        self, request: Request, user: str, names: dict[str, str]
    ) -> tuple[BossExperiment, BossChannel]:
        where = [names[name] for name in ("collection", "experiment", "channel")]
        _, experiment, channel = locate(self._state, where)
        assert isinstance(experiment, BossExperiment)
        assert isinstance(channel, BossChannel)
        check(request, channel.public or user == OWNER)
        return experiment, channel

    def _parse_request(
        self, request: Request, user: str, names: dict[str, str]
    ) -> BossCutoutRequest:
        experiment, channel = self._channel(request, user, names)
        samples = range(channel.default_time_sample, channel.default_time_sample + 1)
        if names.get("t"):
            samples = _times(names["t"], experiment.samples)
        level, first = int(names["level"]), channel.base_resolution
        if level not in range(first, first + experiment.levels):
            last = first + experiment.levels
            what = f"Invalid resolution {level}. The resolution has to be within {first} and {last}"
            raise BossError(what, Code.TYPE_ERROR)
        start, stop = _corners(names, experiment)
        cutout_request = BossCutoutRequest(
            experiment, channel, level, start, stop, samples, bool(names.get("t"))
        )
        if channel.datatype == "uint32":
            raise UpstreamDefectError(
                "upstream has no size for 32-bit voxels (spdb/project/resource.py)"
            )
        if cutout_request.size > self.max_bytes * (4 if channel.datatype == "uint64" else 1):
            what = "Cutout request is over 500MB when uncompressed. Reduce cutout dimensions."
            raise BossError(what, Code.REQUEST_TOO_LARGE)
        return cutout_request

    # -- reading and writing

    def _voxels(self, cutout_request: BossCutoutRequest) -> Voxels:
        """Return the voxels in the requested shape."""
        import numpy as np

        experiment, channel = cutout_request.experiment, cutout_request.channel
        if channel.storage_type == "cloudvol":
            # A layer is read with ``bounded`` set (cvdb/cloudvolumedb.py).
            first, last = experiment.box(cutout_request.level)
            ends = zip((*first, *cutout_request.stop), (*cutout_request.start, *last), strict=True)
            if any(a > b for a, b in ends):
                raise UpstreamDefectError("beyond the layer")
        elif (
            channel.labels
            and cutout_request.level > channel.base_resolution
            and channel.downsample_status != DOWNSAMPLED
        ):
            raise UpstreamDefectError("labels are not downsampled on the fly (spdb/spatialdb.py)")
        if not cutout_request.samples:
            raise UpstreamDefectError("no time at all")
        with self._state.lock:
            self._state.fill(experiment, channel)
            read = channel.cuboids.read
            found = [
                read(cutout_request.level, one, cutout_request.start, cutout_request.stop)
                for one in cutout_request.samples
            ]
        return np.stack(found) if cutout_request.with_time else found[0]


def locate(state: BossState, names: Iterable[str | None]) -> list[Resource]:
    """Return the resources along a path, as looked up by all but the resource service."""
    found: list[Resource] = []
    held: Any = state.collections
    kinds = (("Collection", "experiments"), ("Experiment", "channels"), ("Channel", ""))
    for name, (kind, within) in zip(names, kinds, strict=False):
        if name is None:
            break
        if name not in held:
            raise BossError(f"{kind} {name} not found", Code.RESOURCE_NOT_FOUND)
        if held[name].deleted:
            what = f"Invalid Request. This resource {name} has been marked for deletion"
            raise BossError(what, Code.RESOURCE_MARKED_FOR_DELETION)
        found.append(held[name])
        held = getattr(held[name], within, None)
    return found


def check(request: Request, allowed: bool) -> None:
    """Raise Refused if the user lacks the permission; upstream does not support ``HEAD``."""
    if request.method == "HEAD":
        raise BossError("Unable to get permissions for this request", Code.INVALID_POST_ARGUMENT)
    if not allowed:
        what = "This user does not have the required permissions"
        raise BossError(what, Code.MISSING_PERMISSION)


def active_faults(request: Request) -> set[str]:
    """Return the names of the active faults that apply to the request."""
    found: list[Any] = request.environ.get("neuromirror_demo.struck", [])
    return {one.name for one in found}


def _apply_faults(voxels: Voxels, faults: set[str]) -> Voxels:
    if "zeros" in faults:
        voxels[...] = 0
    if "wrong_shape" in faults:
        voxels = voxels[..., :-1, :].copy()
    if "wrong_dtype" in faults:
        voxels = voxels.astype("uint16" if voxels.itemsize == 1 else "uint8")
    return voxels


def _corners(names: dict[str, str], experiment: BossExperiment) -> tuple[XYZ, XYZ]:
    """Return start and stop of the box; the bounds of all levels are those of level 0."""
    starts, stops = zip(
        *([int(end) for end in names[one].split(":")] for one in "xyz"), strict=True
    )
    frame = experiment.frame
    for a, b, low, high in zip(starts, stops, frame.start, frame.stop, strict=True):
        if not low <= a < b <= high:
            ranges = "/".join(names[one] for one in ("level", "x", "y", "z"))
            raise BossError(f"Incorrect cutout arguments {ranges}", Code.INVALID_CUTOUT_ARGS)
    return (starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2])


def _times(text: str, samples: int) -> range:
    """Return the time samples; upstream allows one more than exist, which reads as zeros."""
    start, stop = (int(end) for end in text.split(":"))
    what = f"Invalid time range {text}. "
    if start > samples:
        more = "Start time is greater than the maximum time sample"
        raise BossError(f"{what}{more} {samples}", Code.INVALID_URL)
    if start > stop or stop > samples + 1:
        more = "End time is greater than the start time or out of bounds with maximum time sample"
        raise BossError(f"{what}{more} {samples}", Code.INVALID_URL)
    return range(start, stop)
