"""What a BOSS says of a channel, checked, and the volume that this makes.

Format: the serializers of jhuapl-boss/boss (django/bosscore) and its downsample service. A channel
belongs to an experiment, whose coordinate frame says where its voxels are and how large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard
from urllib.parse import quote

from neuromirror.model import ExcludedEntry
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.volumes import Level, Triple, Volume

DOWNSAMPLED: Final = "DOWNSAMPLED"
_NOT_DOWNSAMPLED: Final = "NOT_DOWNSAMPLED"
_LENGTHS: Final = {
    **{"nanometers": "nanometer", "micrometers": "micrometer"},
    **{"millimeters": "millimeter", "centimeters": "centimeter"},
}
_TIMES: Final = {
    **{"nanoseconds": "nanosecond", "microseconds": "microsecond"},
    **{"milliseconds": "millisecond", "seconds": "second"},
}
_DTYPES: Final = ("uint8", "uint16", "uint32", "uint64")
_HALVED: Final = {"anisotropic": (True, True, False), "isotropic": (True, True, True)}
"""Which of x, y and z each downsampling halves."""
_AXES: Final = "xyz"
_ANY_CHUNK: Final = (1, 1, 1)
_MOST_LEVELS: Final = 30
_MOST: Final = 1 << 48
_MOST_TIMES: Final = 1 << 20
_SIZES: Final = (1e-15, 1e15)
"""Between which a length or a time can be meant."""

Sizes = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class BossChannelInfo:
    """All JSON of a channel and of what it is in, as it came.

    ``names`` are those of collection, experiment and channel; ``metadata`` are the keys and values
    of each. What may not be read is None, and ``downsampled`` where upstream cannot tell.
    """

    names: tuple[str, str, str]
    collection: Mapping[str, Any] | None
    experiment: Mapping[str, Any]
    channel: Mapping[str, Any]
    frame: Mapping[str, Any]
    downsample_info: Mapping[str, Any] | None
    metadata: tuple[Mapping[str, str] | None, ...]

    @property
    def status(self) -> str:
        """``DOWNSAMPLED`` or ``NOT_DOWNSAMPLED``.

        The latter, too, while upstream's job for it waits or runs, and after it has failed.
        """
        upstream_status = self.channel.get("downsample_status")
        is_done = isinstance(upstream_status, str) and upstream_status.upper() == DOWNSAMPLED
        return DOWNSAMPLED if is_done else _NOT_DOWNSAMPLED

    @property
    def loss_hint(self) -> str:
        """Why levels may be missing that were there before; empty where none should be."""
        if self.status == DOWNSAMPLED:
            return ""
        upstream_status = self.channel.get("downsample_status")
        status = str(upstream_status)[:40] if upstream_status else _NOT_DOWNSAMPLED
        return (
            f"upstream's downsample_status is {status}, as after any write, so that only level"
            f" {self.base} is mirrored until upstream has downsampled the channel again; then this"
            " hold ends by itself. Release it only if the other levels are not to come back"
        )

    @property
    def base(self) -> int:
        """The resolution at which voxels were written."""
        return self.integer(self.channel, "base_resolution", 0, _MOST_LEVELS, usual=0)

    def integer(
        self, record: Mapping[str, Any], name: str, least: int, most: int, usual: int | None = None
    ) -> int:
        """A whole number of a record; raises :class:`UnexpectedReplyError`."""
        value = record.get(name)
        if value is None and usual is not None:
            return usual
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.unexpected_reply(
                f"{name} {value!r} is no whole number from {least} to {most}"
            )
        return value

    def choice(self, record: Mapping[str, Any], name: str, of: Mapping[str, str]) -> str:
        """What one of a few words stands for; raises :class:`UnexpectedReplyError`."""
        value = record.get(name)
        found = of.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise self.unexpected_reply(f"{name} {value!r} is none of {', '.join(of)}")
        return found

    def unexpected_reply(self, what: str) -> UnexpectedReplyError:
        """An error that says of which channel something was not expected."""
        return UnexpectedReplyError(f"{'/'.join(self.names)}: {what[:300]}")


def volume_of(
    found: BossChannelInfo, *, host: str, prefix: str, secure: bool
) -> tuple[Volume, list[ExcludedEntry]]:
    """A channel's volume with all levels that can be asked for, and what of them cannot.

    ``host`` has its port; ``prefix`` is what goes before the names on it, empty or ending in a
    slash. Raises :class:`UnexpectedReplyError` for what describes no volume.
    """
    samples = found.integer(found.experiment, "num_time_samples", 1, _MOST_TIMES, usual=1)
    step, unit = _time_step(found) if samples > 1 else (None, None)
    levels, left_out = _levels(found)
    return Volume(
        scheme="boss",
        host=host,
        path=prefix + "/".join(quote(name, safe="") for name in found.names),
        dtype=found.choice(found.channel, "datatype", {name: name for name in _DTYPES}),
        unit=found.choice(found.frame, "voxel_unit", _LENGTHS),
        levels=tuple(levels),
        times=tuple(range(samples)) if samples > 1 else None,
        time_step=step,
        time_unit=unit,
        labels=bool(found.choice(found.channel, "type", {"image": "", "annotation": "labels"})),
        name=found.names[2],
        base_voxel=_voxel(found, 0),
        secure=secure,
    ), left_out


def _time_step(found: BossChannelInfo) -> tuple[float | None, str | None]:
    """The time between two samples and its unit, None where upstream does not tell (null, or 0)."""
    step = found.experiment.get("time_step")
    if not _is_size(step):
        return None, None
    if not found.experiment.get("time_step_unit"):
        return float(step), None
    return float(step), found.choice(found.experiment, "time_step_unit", _TIMES)


def _levels(found: BossChannelInfo) -> tuple[list[Level], list[ExcludedEntry]]:
    """The levels, from the one that was written on.

    The downsample service names as many resolutions as the experiment has, counted from 0, and its
    job ends with the last of them. Beyond it cut-outs are answered too, with zeros.
    """
    experiment = found.experiment
    count = found.integer(experiment, "num_hierarchy_levels", 1, _MOST_LEVELS, usual=1)
    first = last = found.base
    if found.status == DOWNSAMPLED:
        last = max(first, count - 1)
    levels: list[Level] = []
    left_out: list[ExcludedEntry] = []
    for number in range(first, last + 1):
        level, beyond = _level(found, number)
        if level is not None:
            levels.append(level)
        if beyond:
            left_out.append(ExcludedEntry(b"%d" % number, "out-of-reach", beyond))
    if not levels:
        raise found.unexpected_reply("its coordinate frame holds no voxel that can be asked for")
    return levels, left_out


def _level(found: BossChannelInfo, number: int) -> tuple[Level | None, str]:
    """A level as far as it can be asked for, None where that is nowhere; and what is beyond.

    Upstream checks the coordinates of every level against the frame, which is level 0's: what a
    coarser level has before the frame's start is refused.
    """
    starts, stops, lost = [], [], []
    for axis, factor, stop in zip(
        range(3), _factors(found, number), _stops(found, number), strict=True
    ):
        first = found.integer(found.frame, f"{_AXES[axis]}_start", -_MOST, _MOST)
        start = first // factor
        reached = max(start, first, 0)
        if reached > start:
            lost.append(f"{_AXES[axis]} {start}:{min(reached, stop)}")
        starts.append(reached)
        stops.append(stop)
    beyond = (
        f"resolution {number}: voxels {', '.join(lost)} lie before the coordinate frame's start at"
        " resolution 0, and BOSS refuses to cut them out"
        if lost
        else ""
    )
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return None, beyond
    level = Level(str(number), _triple(starts), _triple(stops), _voxel(found, number), _ANY_CHUNK)
    return level, beyond


def _factors(found: BossChannelInfo, number: int) -> Triple:
    """How many voxels of resolution 0 one of this resolution covers along x, y, z."""
    methods = {method: method for method in _HALVED}
    method = "anisotropic"
    if number > 0:
        method = found.choice(found.experiment, "hierarchy_method", methods)
    return _triple([1 << number if halved else 1 for halved in _HALVED[method]])


def _stops(found: BossChannelInfo, number: int) -> list[int]:
    """Where a level ends along x, y, z: as upstream says, else halved and rounded up."""
    extent = _downsample_values(found, "extent", number)
    if extent is None:
        factors = _factors(found, number)
        stops = (found.integer(found.frame, f"{axis}_stop", -_MOST, _MOST) for axis in _AXES)
        return [-(-stop // factor) for stop, factor in zip(stops, factors, strict=True)]
    if not all(isinstance(one, int) and 0 < one <= _MOST for one in extent):
        raise found.unexpected_reply(f"the extent {extent!r} of resolution {number} is none")
    return extent


def _voxel(found: BossChannelInfo, number: int) -> Sizes:
    """A voxel's sizes along x, y, z: as upstream says, else doubled where it is halved."""
    sizes = _downsample_values(found, "voxel_size", number)
    if sizes is None:
        sizes = [found.frame.get(f"{axis}_voxel_size") for axis in _AXES]
        sizes = [
            size * factor if isinstance(size, int | float) else size
            for size, factor in zip(sizes, _factors(found, number), strict=True)
        ]
    for size in sizes:
        if not _is_size(size):
            raise found.unexpected_reply(f"the voxel size {sizes!r} of resolution {number} is none")
    x, y, z = map(float, sizes)
    return x, y, z


def _is_size(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and _SIZES[0] < value < _SIZES[1]


def _downsample_values(found: BossChannelInfo, what: str, number: int) -> list[Any] | None:
    """What the downsample service says of a level along x, y, z; None where it says nothing."""
    by_level = (found.downsample_info or {}).get(what)
    values = by_level.get(str(number)) if isinstance(by_level, dict) else None
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != len(_AXES):
        raise found.unexpected_reply(f"the {what} {values!r} of resolution {number} is none")
    return values


def _triple(numbers: list[int]) -> Triple:
    x, y, z = numbers
    return x, y, z
