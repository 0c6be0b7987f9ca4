"""What an ndstore says of a channel, checked, and the volume that this makes.

Format: ``{token}/info/`` as neurodata/ndstore writes it (``ndproj/jsonprojinfo.py``): a project has
a token, one dataset, which says where voxels are and how large, and channels in it. What the
service does with levels was learnt from its storage layer (neurodata/spdb, ``spatialdb.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard
from urllib.parse import quote

from neuromirror.model import ExcludedEntry
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.volumes import ITEM_SIZES, Level, Triple, Volume

UNDER_PROPAGATION: Final = 1
PROPAGATED: Final = 2
_PROPAGATION: Final = (0, UNDER_PROPAGATION, PROPAGATED)

_PARTS: Final = ("project", "dataset", "channels")
_COLOURS: Final = {"rgb32": "uint32", "rgb64": "uint64"}
"""Older services' names of pixels that are red, green, blue and alpha together."""
_LABELS: Final = "annotation"
_TIMESERIES: Final = "timeseries"
_ANY_CHUNK: Final = (1, 1, 1)
_MOST_LEVELS: Final = 30
_MOST_TIMES: Final = 1 << 20
_MOST: Final = 1 << 48
_SIZES: Final = (1e-15, 1e15)
"""Between which a length can be meant."""

Sizes = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class NdstoreChannelInfo:
    """A channel's part of its project's info, as it came."""

    token: str
    name: str
    project: Mapping[str, Any]
    dataset: Mapping[str, Any]
    channel: Mapping[str, Any]

    @property
    def base(self) -> int:
        """The level that was uploaded, and from which coarser ones are made."""
        return self.integer(self.channel.get("resolution", 0), "resolution", 0, _MOST_LEVELS)

    @property
    def propagation(self) -> int:
        """Whether the coarser levels are made: 0 no, 1 just now, 2 yes."""
        value = self.channel.get("propagate", 0)
        return self.integer(value, "propagate", _PROPAGATION[0], _PROPAGATION[-1])

    @property
    def signal(self) -> str:
        """A word that moves when voxels may have been written: the lock, and what came of it."""
        return f"propagate {self.propagation}, readonly {self.channel.get('readonly')}"

    @property
    def is_labels(self) -> bool:
        """Whether voxels are ids of objects."""
        return self.channel.get("channel_type") == _LABELS

    def integer(self, value: Any, what: str, least: int, most: int) -> int:
        """A whole number, which may be written ``1.0``; raises :class:`UnexpectedReplyError`."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or value != int(value):
            raise self.unexpected_reply(
                f"{what} {value!r} is no whole number from {least} to {most}"
            )
        return int(value)

    def unexpected_reply(self, what: str) -> UnexpectedReplyError:
        """An error that says of which channel something was not expected."""
        return UnexpectedReplyError(f"{self.token}/{self.name}: {what[:300]}")


def parse_channels(info: Any, token: str) -> dict[str, NdstoreChannelInfo]:
    """The channels of a project's info by name; raises :class:`UnexpectedReplyError`."""
    project, dataset, found = (_object(info, part, token) for part in _PARTS)
    return {
        name: NdstoreChannelInfo(token, name, project, dataset, _object(found, name, token))
        for name in sorted(filter(is_name, found))
    }


def is_name(value: Any) -> TypeGuard[str]:
    """Whether it can be a name: a text that an address can hold.

    Of a channel that has none, nothing can be asked.
    """
    return (
        isinstance(value, str) and value != "" and value.encode(errors="ignore").decode() == value
    )


def _object(around: Any, name: str, token: str) -> dict[str, Any]:
    value = around.get(name) if isinstance(around, dict) else None
    if not isinstance(value, dict):
        raise UnexpectedReplyError(f"{token}: its info says nothing of {name!r}"[:300])
    return value


def volume_of(
    found: NdstoreChannelInfo, *, host: str, prefix: str, secure: bool, unit: str
) -> tuple[Volume, list[ExcludedEntry]]:
    """A channel's volume with all levels that have voxels of their own, and those that have none.

    ``host`` has its port; ``prefix`` stands between it and the token. Raises
    :class:`UnexpectedReplyError` for what describes no volume.
    """
    named = found.channel.get("datatype")
    dtype = _COLOURS.get(named, named) if isinstance(named, str) else None
    if dtype not in ITEM_SIZES:
        raise found.unexpected_reply(f"the datatype {named!r} is none of {', '.join(ITEM_SIZES)}")
    levels, left_out = _levels(found)
    names = "/".join(quote(one, safe="") for one in (found.token, found.name))
    return Volume(
        scheme="ndstore",
        host=host,
        path=f"{prefix}/{names}" if prefix else names,
        dtype=dtype,
        unit=unit,
        levels=tuple(levels),
        times=_times(found),
        labels=found.is_labels,
        name=found.name,
        base_voxel=_voxel(found, _resolutions(found)[0]),
        secure=secure,
    ), left_out


def level_shifts(found: NdstoreChannelInfo) -> dict[str, Sizes]:
    """How far each level lies, along x, y, z, from where its first voxel's number says.

    A level is made of the one before from the dataset's offset on, not from zero
    (``webservices/ndstack.py``), and its own offset is rounded down; so that is not where its first
    voxel is. In the unit of the voxels.
    """
    numbers = _resolutions(found)
    begins = _level_origin(found, numbers[0])
    made: dict[str, Sizes] = {}
    for number in numbers:
        x, y, z = (
            0.0 if math.isclose(at, stated, rel_tol=1e-9) else at - stated
            for at, stated in zip(begins, _level_origin(found, number), strict=True)
        )
        made[str(number)] = x, y, z
    return made


def _level_origin(found: NdstoreChannelInfo, number: int) -> list[float]:
    """Where a level's first voxel is, as its number says."""
    both = zip(_numbers(found, "offset", number), _voxel(found, number), strict=True)
    return [start * size for start, size in both]


def _times(found: NdstoreChannelInfo) -> tuple[int, ...] | None:
    """The samples; None where there is one alone, and the channel is no time series."""
    timerange = found.channel.get("timerange") or [0, 1]
    if not isinstance(timerange, list) or len(timerange) != 2:
        raise found.unexpected_reply(f"the timerange {timerange!r} is none")
    start = found.integer(timerange[0], "the start of timerange", 0, _MOST)
    stop = found.integer(timerange[1], "the end of timerange", 0, _MOST)
    # What has no time is [0, 0] to older services, and [0, 1] to newer ones.
    samples = range(start, max(stop, start + 1))
    if len(samples) > _MOST_TIMES:
        raise found.unexpected_reply(f"the timerange {timerange!r} is too long to be one")
    if len(samples) == 1 and found.channel.get("channel_type") != _TIMESERIES:
        return None
    return tuple(samples)


def _levels(found: NdstoreChannelInfo) -> tuple[list[Level], list[ExcludedEntry]]:
    """The levels that have a table of voxels, and why others are left out.

    Asked for any other level, the service makes one up. Of a coarser level it gives voxels of
    the uploaded one, from another place or too many; a finer one it scales up, along x and y
    alone, and shifts where numbers are odd. So the shape of a reply does not tell.
    """
    checked = _resolutions(found)
    levels: list[Level] = []
    left_out: list[ExcludedEntry] = []
    for number in checked:
        why = _synthetic_reason(found, number)
        if why is None:
            levels.append(_level(found, number))
        else:
            left_out.append(ExcludedEntry(b"%d" % number, "no-voxels", why))
    if not levels:
        raise found.unexpected_reply(
            f"its resolution {found.base} is none of its dataset's: {', '.join(map(str, checked))}"
        )
    return levels, left_out


def _resolutions(found: NdstoreChannelInfo) -> list[int]:
    """The numbers of the dataset's levels, in order."""
    numbers = found.dataset.get("resolutions")
    if not isinstance(numbers, list) or not numbers:
        raise found.unexpected_reply("its dataset has no list of resolutions")
    return sorted({found.integer(one, "the resolution", 0, _MOST_LEVELS) for one in numbers})


def _synthetic_reason(found: NdstoreChannelInfo, number: int) -> str | None:
    """Why a level has no voxels of its own, None where it has."""
    if number < found.base:
        return (
            f"resolution {number} is finer than the one that was uploaded ({found.base}):"
            " ndstore makes it up from that, and not always rightly"
        )
    if number > found.base and found.propagation != PROPAGATED:
        return (
            f"resolution {number} was not made of resolution {found.base} yet (propagate is"
            f" {found.propagation}): ndstore would give voxels of other places in its stead"
        )
    return None


def _level(found: NdstoreChannelInfo, number: int) -> Level:
    size = _numbers(found, "imagesize", number)
    start = [found.integer(one, "an offset", 0, _MOST) for one in _numbers(found, "offset", number)]
    extent = [found.integer(one, "an imagesize", 1, _MOST) for one in size]
    stop = _triple([a + b for a, b in zip(start, extent, strict=True)])
    return Level(str(number), _triple(start), stop, _voxel(found, number), _ANY_CHUNK)


def _voxel(found: NdstoreChannelInfo, number: int) -> Sizes:
    sizes = _numbers(found, "voxelres", number)
    if not all(_SIZES[0] < size < _SIZES[1] for size in sizes):
        raise found.unexpected_reply(f"the voxelres {sizes!r} of resolution {number} is no size")
    x, y, z = map(float, sizes)
    return x, y, z


def _numbers(found: NdstoreChannelInfo, what: str, number: int) -> Sequence[float]:
    """What the dataset says of a level along x, y, z."""
    by_level = found.dataset.get(what)
    values = by_level.get(str(number)) if isinstance(by_level, dict) else None
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    ):
        raise found.unexpected_reply(f"the {what} {values!r} of resolution {number} is none")
    return values


def _triple(numbers: list[int]) -> Triple:
    x, y, z = numbers
    return x, y, z
