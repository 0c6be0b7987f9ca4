"""Validation of an ndstore channel's JSON, and its conversion to a volume.

Format: ``{token}/info/`` of neurodata/ndstore (``ndproj/jsonprojinfo.py``): a project has a token,
one dataset, which defines the position and size of voxels, and channels. The treatment of levels is
that of its storage layer (neurodata/spdb, ``spatialdb.py``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.model import DatasetFacts, Document, ExcludedEntry
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.s3.sidecars import one_line, without_secrets
from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.sources.volumes.urls import ITEM_SIZES, to_triple

UNDER_PROPAGATION: Final = 1
PROPAGATED: Final = 2
_PROPAGATION: Final = (0, UNDER_PROPAGATION, PROPAGATED)

_PARTS: Final = ("project", "dataset", "channels")
_COLOURS: Final = {"rgb32": "uint32", "rgb64": "uint64"}
"""Older services' names of pixels with red, green, blue and alpha."""
_LABELS: Final = "annotation"
_TIMESERIES: Final = "timeseries"
_ANY_CHUNK: Final = (1, 1, 1)
_MOST_LEVELS: Final = 30
_MOST_TIMES: Final = 1 << 20
_MOST: Final = 1 << 48
_SIZES: Final = (1e-15, 1e15)
"""The plausible range of a length."""

Sizes = tuple[float, float, float]


class NdstoreChannelInfo(Struct, frozen=True):
    """The JSON that an ndstore returns for one channel of a project, unparsed.

    Attributes
    ----------
    token
        The name of the project in URLs; a token in ndstore's words, but no secret.
    name
        The name of the channel.
    project, dataset, channel
        The JSON objects of the project, of its dataset and of the channel.
    """

    token: str
    name: str
    project: Mapping[str, Any]
    dataset: Mapping[str, Any]
    channel: Mapping[str, Any]

    @property
    def base(self) -> int:
        """The uploaded level, from which coarser ones are created."""
        return self.integer(self.channel.get("resolution", 0), "resolution", 0, _MOST_LEVELS)

    @property
    def propagation(self) -> int:
        """Whether the coarser levels were created: 0 no, 1 in progress, 2 yes."""
        value = self.channel.get("propagate", 0)
        return self.integer(value, "propagate", _PROPAGATION[0], _PROPAGATION[-1])

    @property
    def signal(self) -> str:
        """A value that changes if voxels may have been written: propagation and write lock."""
        return f"propagate {self.propagation}, readonly {self.channel.get('readonly')}"

    @property
    def is_labels(self) -> bool:
        """Whether voxels are ids of objects."""
        return self.channel.get("channel_type") == _LABELS

    def integer(self, value: Any, what: str, least: int, most: int) -> int:
        """Return an integer, possibly written as ``1.0``; raise UnexpectedReplyError."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or value != int(value):
            raise self.unexpected_reply(
                f"{what} {value!r} is not an integer from {least} to {most}"
            )
        return int(value)

    def unexpected_reply(self, what: str) -> UnexpectedReplyError:
        """Return an error that names the channel."""
        return UnexpectedReplyError(f"{self.token}/{self.name}: {what[:300]}")


def parse_channels(info: Any, token: str) -> dict[str, NdstoreChannelInfo]:
    """Return the channels in the JSON info of a project, by name.

    ``token`` is the name of the project in URLs.

    Raises
    ------
    UnexpectedReplyError
        The JSON does not describe a project.
    """
    project, dataset, found = (_object(info, part, token) for part in _PARTS)
    return {
        name: NdstoreChannelInfo(token, name, project, dataset, _object(found, name, token))
        for name in sorted(filter(is_name, found))
    }


def is_name(value: Any) -> TypeGuard[str]:
    """Return whether a JSON value can be a name that is valid in a URL path.

    A channel with another name cannot be requested.
    """
    return (
        isinstance(value, str) and value != "" and value.encode(errors="ignore").decode() == value
    )


def _object(around: Any, name: str, token: str) -> dict[str, Any]:
    value = around.get(name) if isinstance(around, dict) else None
    if not isinstance(value, dict):
        raise UnexpectedReplyError(f"{token}: its info lacks {name!r}"[:300])
    return value


def volume_of(
    found: NdstoreChannelInfo, *, host: str, prefix: str, secure: bool, unit: str
) -> tuple[Volume, list[ExcludedEntry]]:
    """Return a channel's volume with all stored levels, and exclusions for the others.

    Parameters
    ----------
    found
        The channel.
    host
        The service's host, with its port.
    prefix
        The path in URLs between the host and the project's token, empty or ending with a slash.
    secure
        Whether requests use HTTPS.
    unit
        The unit of voxel sizes.

    Returns
    -------
    tuple[Volume, list[ExcludedEntry]]
        The volume, and one entry per level that cannot be mirrored.

    Raises
    ------
    UnexpectedReplyError
        If the JSON does not describe a volume.
    """
    named = found.channel.get("datatype")
    dtype = _COLOURS.get(named, named) if isinstance(named, str) else None
    if dtype not in ITEM_SIZES:
        raise found.unexpected_reply(
            f"the datatype {named!r} is not one of {', '.join(ITEM_SIZES)}"
        )
    levels, left_out = _levels(found)
    names = "/".join(quote(one, safe="") for one in (found.token, found.name))
    return Volume(
        scheme="ndstore",
        host=host,
        path=prefix + names,
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
    """Return the shift of each level along x, y, z, in the unit of voxel sizes.

    A level is computed from the finer one starting at the dataset's offset, not at zero
    (``webservices/ndstack.py``), and its own offset is rounded down. The shift is the difference
    between the real position of its first voxel and the position that its offset states.
    """
    numbers = _resolutions(found)
    origin = _level_origin(found, numbers[0])
    made: dict[str, Sizes] = {}
    for number in numbers:
        x, y, z = (
            0.0 if math.isclose(at, stated, rel_tol=1e-9) else at - stated
            for at, stated in zip(origin, _level_origin(found, number), strict=True)
        )
        made[str(number)] = x, y, z
    return made


def _level_origin(found: NdstoreChannelInfo, number: int) -> list[float]:
    """Return the position of a level's first voxel that its offset states."""
    both = zip(_numbers(found, "offset", number), _voxel(found, number), strict=True)
    return [start * size for start, size in both]


def _times(found: NdstoreChannelInfo) -> tuple[int, ...] | None:
    """Return the time samples; None for a single one, unless the channel is a time series."""
    timerange = found.channel.get("timerange") or [0, 1]
    if not isinstance(timerange, list) or len(timerange) != 2:
        raise found.unexpected_reply(f"the timerange {timerange!r} is invalid")
    start = found.integer(timerange[0], "the start of timerange", 0, _MOST)
    stop = found.integer(timerange[1], "the end of timerange", 0, _MOST)
    # without a time axis, older services state [0, 0] and newer ones [0, 1]
    samples = range(start, max(stop, start + 1))
    if len(samples) > _MOST_TIMES:
        raise found.unexpected_reply(f"the timerange {timerange!r} is too long")
    if len(samples) == 1 and found.channel.get("channel_type") != _TIMESERIES:
        return None
    return tuple(samples)


def _levels(found: NdstoreChannelInfo) -> tuple[list[Level], list[ExcludedEntry]]:
    """Return the levels with stored voxels, and exclusions for the others.

    For any other level the service synthesizes voxels. For a coarser level it returns voxels of the
    uploaded one, from another position or too many. It upscales a finer level along x and y only,
    and shifts it if coordinates are odd. The shape of a reply does not show this.
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
            f"its resolution {found.base} is not in its dataset: {', '.join(map(str, checked))}"
        )
    return levels, left_out


def _resolutions(found: NdstoreChannelInfo) -> list[int]:
    """Return the numbers of the dataset's levels, in order."""
    numbers = found.dataset.get("resolutions")
    if not isinstance(numbers, list) or not numbers:
        raise found.unexpected_reply("its dataset has no list of resolutions")
    return sorted({found.integer(number, "the resolution", 0, _MOST_LEVELS) for number in numbers})


def _synthetic_reason(found: NdstoreChannelInfo, number: int) -> str | None:
    """Return why a level has no stored voxels; None if it has."""
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
    stop = to_triple([a + b for a, b in zip(start, extent, strict=True)])
    return Level(str(number), to_triple(start), stop, _voxel(found, number), _ANY_CHUNK)


def _voxel(found: NdstoreChannelInfo, number: int) -> Sizes:
    sizes = _numbers(found, "voxelres", number)
    if not all(_SIZES[0] < size < _SIZES[1] for size in sizes):
        raise found.unexpected_reply(f"the voxelres {sizes!r} of resolution {number} is invalid")
    x, y, z = map(float, sizes)
    return x, y, z


def _numbers(found: NdstoreChannelInfo, what: str, number: int) -> Sequence[float]:
    """Return the dataset's values for a level along x, y, z."""
    by_level = found.dataset.get(what)
    values = by_level.get(str(number)) if isinstance(by_level, dict) else None
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    ):
        raise found.unexpected_reply(f"the {what} {values!r} of resolution {number} is invalid")
    return values


# --- the documents, facts and viewer links of an ndstore channel


_LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "project": frozenset(
        {"s3backend", "ndstore_version", "schema_version", "version", "host", "dbname"}
        | {"kvengine", "kvserver", "mdengine"}
    ),
    "dataset": frozenset({"cube_dimension", "supercube_dimension"}),
    "channel": frozenset({"propagate"}),
}
_NDVIZ: Final = "https://viz.neurodata.io/#!"
_GROUP: Final = b"zarr.json"


def documents(found: NdstoreChannelInfo) -> list[Document]:
    """Return ``.ndstore/*.json``: upstream's JSON, sorted and without secrets."""
    records = {"project": found.project, "dataset": found.dataset, "channel": found.channel}
    return [
        _document(name, {key: one for key, one in record.items() if key not in _LEFT_OUT[name]})
        for name, record in records.items()
    ]


def shift_levels(listed: Sequence[Document], shifts: Mapping[str, Sizes]) -> tuple[Document, ...]:
    """Return a volume's Zarr metadata with changed positions of its levels.

    Parameters
    ----------
    listed
        The documents of the volume.
    shifts
        The shift of each level along x, y, z, from
        :func:`~neuromirror.sources.ndstore.channel_info.level_shifts`.
    """
    return tuple(
        _shift_group(one, shifts) if one.path == _GROUP and any(map(any, shifts.values())) else one
        for one in listed
    )


def _shift_group(group: Document, shifts: Mapping[str, Sizes]) -> Document:
    content = json.loads(group.content)
    for level in content["attributes"]["ome"]["multiscales"][0]["datasets"]:
        for change in level["coordinateTransformations"]:
            if change["type"] == "translation":
                move = change["translation"]
                for axis, shift in enumerate(shifts[level["path"]], 1):
                    move[-axis] += shift
    return replace(group, content=_dump_json(content))


def facts(found: NdstoreChannelInfo, api: str) -> DatasetFacts:
    """Return title, attributes and links of a channel; ``api`` is the service's base URL."""
    name = f"{found.token}/{found.name}"
    about = one_line(found.channel.get("description")) or one_line(found.project.get("description"))
    project = one_line(found.project.get("name")) or found.token
    return DatasetFacts(
        title=f"{name}: {about}" if about and about != found.token else name,
        attributes=(("project", project),),
        links=tuple(sorted(_links(found, api).items())),
    )


def _links(found: NdstoreChannelInfo, api: str) -> dict[str, str]:
    """Return viewer and data URLs by kind.

    ndviz is a Neuroglancer of 2018, which still had the data source ``ndstore`` (given a host,
    whose path it knows) and layers by name in its state. Current versions of Neuroglancer do not
    read ndstore.
    """
    shown = f"{quote(found.token, safe='')}/{quote(found.name, safe='')}"
    scheme, _, rest = api.partition("://")
    source = f"ndstore://{scheme}://{rest.partition('/')[0]}/{shown}"
    layer = {"source": source, "type": "segmentation" if found.is_labels else "image"}
    state = json.dumps({"layers": {found.name: layer}}, separators=(",", ":"))
    return {
        "ndstore": f"{api}/{quote(found.token, safe='')}/info/",
        "ndviz": _NDVIZ + quote(state, safe=":/,"),
    }


def _document(name: str, value: Mapping[str, Any]) -> Document:
    return Document(f".ndstore/{name}.json".encode(), without_secrets(_dump_json(value)))


def _dump_json(value: Mapping[str, Any]) -> bytes:
    dumped = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    # a lone surrogate becomes a JSON escape
    return dumped.encode("utf-8", "backslashreplace")
