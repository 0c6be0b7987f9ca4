"""Validation of a BOSS channel's JSON, and its conversion to a volume.

Format: the serializers of jhuapl-boss/boss (django/bosscore) and its downsample service. A channel
belongs to an experiment, whose coordinate frame defines the position and size of its voxels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard
from urllib.parse import quote

from msgspec import Struct

from neuromirror.model import DatasetFacts, Document, ExcludedEntry
from neuromirror.sources.boss.client import is_name
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.sidecars import one_line, without_secrets
from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.sources.volumes.urls import Triple, to_triple

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
"""Which of x, y and z a downsampling step halves."""
_AXES: Final = "xyz"
_ANY_CHUNK: Final = (1, 1, 1)
_MOST_LEVELS: Final = 30
_MOST: Final = 1 << 48
_MOST_TIMES: Final = 1 << 20
_SIZES: Final = (1e-15, 1e15)
"""The plausible range of a length or time."""

Sizes = tuple[float, float, float]


class BossChannelInfo(Struct, frozen=True):
    """The unparsed JSON of a channel and of its collection, experiment and coordinate frame.

    Attributes
    ----------
    names
        The names of collection, experiment and channel.
    collection, experiment, channel, frame
        The JSON of each; ``collection`` is None if it may not be read.
    downsample_info
        The reply of the downsample service; None if upstream cannot compute it.
    metadata
        Keys and values of collection, experiment and channel; None if they may not be read.
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

        The latter also while upstream's job is queued or running, and after it has failed.
        """
        upstream_status = self.channel.get("downsample_status")
        is_done = isinstance(upstream_status, str) and upstream_status.upper() == DOWNSAMPLED
        return DOWNSAMPLED if is_done else _NOT_DOWNSAMPLED

    @property
    def loss_hint(self) -> str:
        """Why levels may be missing that existed before; empty if none should be."""
        if self.status == DOWNSAMPLED:
            return ""
        upstream_status = self.channel.get("downsample_status")
        status = str(upstream_status)[:40] if upstream_status else _NOT_DOWNSAMPLED
        return (
            f"upstream's downsample_status is {status}, as after any write, so only level"
            f" {self.base} is mirrored until upstream has downsampled the channel again, which ends"
            " this hold. Release it only if upstream will not restore the other levels"
        )

    @property
    def base(self) -> int:
        """The resolution whose voxels were uploaded."""
        return self.integer(self.channel, "base_resolution", 0, _MOST_LEVELS, usual=0)

    def integer(
        self, record: Mapping[str, Any], name: str, least: int, most: int, usual: int | None = None
    ) -> int:
        """Return an integer member of a record; raise UnexpectedReplyError."""
        value = record.get(name)
        if value is None and usual is not None:
            return usual
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.unexpected_reply(
                f"{name} {value!r} is not an integer from {least} to {most}"
            )
        return value

    def choice(self, record: Mapping[str, Any], name: str, of: Mapping[str, str]) -> str:
        """Return the value for an enumerated member of a record; raise UnexpectedReplyError."""
        value = record.get(name)
        found = of.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise self.unexpected_reply(f"{name} {value!r} is not one of {', '.join(of)}")
        return found

    def unexpected_reply(self, what: str) -> UnexpectedReplyError:
        """Return an error that names the channel."""
        return UnexpectedReplyError(f"{'/'.join(self.names)}: {what[:300]}")


def volume_of(
    found: BossChannelInfo, *, host: str, prefix: str, secure: bool
) -> tuple[Volume, list[ExcludedEntry]]:
    """Return a channel's volume with all accessible levels, and exclusions for the others.

    Parameters
    ----------
    found
        The channel.
    host
        The service's host, with its port.
    prefix
        The path before the channel's names, empty or ending with a slash.
    secure
        Whether requests use HTTPS.

    Returns
    -------
    tuple[Volume, list[ExcludedEntry]]
        The volume, and one entry per resolution that cannot be mirrored.

    Raises
    ------
    UnexpectedReplyError
        If the JSON does not describe a volume.
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
    """Return the time between two samples and its unit; None if unspecified (null, or 0)."""
    step = found.experiment.get("time_step")
    if not _is_size(step):
        return None, None
    if not found.experiment.get("time_step_unit"):
        return float(step), None
    return float(step), found.choice(found.experiment, "time_step_unit", _TIMES)


def _levels(found: BossChannelInfo) -> tuple[list[Level], list[ExcludedEntry]]:
    """Return the levels from the uploaded one on.

    The downsample service lists the experiment's resolutions, counted from 0, and creates all of
    them. Cutouts of higher resolutions succeed too, but contain only zeros.
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
        raise found.unexpected_reply("its coordinate frame has no accessible voxel")
    return levels, left_out


def _level(found: BossChannelInfo, number: int) -> tuple[Level | None, str]:
    """Return the accessible part of a level, if any, and a description of the rest.

    Upstream compares the coordinates of every level with the frame, which is in voxels of level 0.
    So it refuses the part of a coarser level before the frame's start.
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
    level = Level(
        str(number), to_triple(starts), to_triple(stops), _voxel(found, number), _ANY_CHUNK
    )
    return level, beyond


def _factors(found: BossChannelInfo, number: int) -> Triple:
    """Return the number of voxels of resolution 0 per voxel along x, y, z."""
    methods = {method: method for method in _HALVED}
    method = "anisotropic"
    if number > 0:
        method = found.choice(found.experiment, "hierarchy_method", methods)
    return to_triple([1 << number if halved else 1 for halved in _HALVED[method]])


def _stops(found: BossChannelInfo, number: int) -> list[int]:
    """Return the end of a level along x, y, z: upstream's value, else halved and rounded up."""
    extent = _downsample_values(found, "extent", number)
    if extent is None:
        factors = _factors(found, number)
        stops = (found.integer(found.frame, f"{axis}_stop", -_MOST, _MOST) for axis in _AXES)
        return [-(-stop // factor) for stop, factor in zip(stops, factors, strict=True)]
    if not all(isinstance(one, int) and 0 < one <= _MOST for one in extent):
        raise found.unexpected_reply(f"the extent {extent!r} of resolution {number} is invalid")
    return extent


def _voxel(found: BossChannelInfo, number: int) -> Sizes:
    """Return a voxel's size along x, y, z: upstream's value, else doubled per halving."""
    sizes = _downsample_values(found, "voxel_size", number)
    if sizes is None:
        sizes = [found.frame.get(f"{axis}_voxel_size") for axis in _AXES]
        sizes = [
            size * factor if isinstance(size, int | float) else size
            for size, factor in zip(sizes, _factors(found, number), strict=True)
        ]
    for size in sizes:
        if not _is_size(size):
            raise found.unexpected_reply(
                f"the voxel size {sizes!r} of resolution {number} is invalid"
            )
    x, y, z = map(float, sizes)
    return x, y, z


def _is_size(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and _SIZES[0] < value < _SIZES[1]


def _downsample_values(found: BossChannelInfo, what: str, number: int) -> list[Any] | None:
    """Return the downsample service's values for a level along x, y, z, if it has any."""
    by_level = (found.downsample_info or {}).get(what)
    values = by_level.get(str(number)) if isinstance(by_level, dict) else None
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != len(_AXES):
        raise found.unexpected_reply(f"the {what} {values!r} of resolution {number} is invalid")
    return values


# --- the documents, facts and viewer links of a BOSS channel


_LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "collection": frozenset({"experiments"}),
    "experiment": frozenset({"channels"}),
    "channel": frozenset({"storage_type", "bucket", "cv_path", "downsample_status"}),
    "coordinate_frame": frozenset(),
    "downsample": frozenset({"status", "cuboid_size"}),
}
_UNORDERED: Final = ("sources", "related")
_CLOUD_VOLUME: Final = "cloudvol"
_NEUROGLANCER: Final = "https://neuroglancer-demo.appspot.com/#!"
_NDVIZ: Final = "https://viz.neurodata.io/#!"
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_DOI: Final = re.compile(r"10\.[0-9]{4,9}/[^\s\"'<>]+")
_ATTRIBUTES: Final = {
    **{"species": "species", "organism": "species", "modality": "modality"},
    **{"project": "project", "investigator": "investigator", "pi": "investigator"},
    **{"funder": "funder", "funding": "funder", "subject": "subject"},
}
"""Case-insensitive keys of the metadata that become attributes."""


def documents(found: BossChannelInfo) -> list[Document]:
    """Return a channel's documents, ``.boss/*.json``: upstream's JSON, sorted and without secrets.

    Raises
    ------
    UnexpectedReplyError
        If the JSON contains NaN or infinity, which only Python accepts as JSON.
    """
    records: dict[str, Mapping[str, Any] | None] = {
        "collection": found.collection,
        "experiment": found.experiment,
        "channel": found.channel,
        "coordinate_frame": found.frame,
        "downsample": found.downsample_info,
    }
    try:
        made = [
            _document(name, _without_volatile(record, _LEFT_OUT[name]))
            for name, record in records.items()
            if record is not None
        ]
    except ValueError as error:
        raise found.unexpected_reply(f"its description is not JSON: {error}") from error
    scopes = zip(("collection", "experiment", "channel"), found.metadata, strict=True)
    metadata = {scope: dict(pairs) for scope, pairs in scopes if pairs}
    return [*made, *([_document("metadata", metadata)] if metadata else [])]


def facts(found: BossChannelInfo, address: str) -> DatasetFacts:
    """Return title, license, attributes and links of a channel.

    ``address`` is the channel's URL without the API's version:
    ``https://api.bossdb.io/collection/experiment/channel``.
    """
    pairs = _by_key(found)
    name = "/".join(found.names)
    description = one_line(found.channel.get("description"))
    attributes = {(_ATTRIBUTES[key], value) for key, value in pairs.items() if key in _ATTRIBUTES}
    if not any(known == "project" for known, _ in attributes):
        attributes.add(("project", found.names[0]))
    page = pairs.get("url", "")
    license_ = pairs.get("license") or pairs.get("licence")
    doi_text = " ".join(pairs[key] for key in sorted(pairs, key=len) if "doi" in key)
    doi = _DOI.search(doi_text)
    sources = found.channel.get("sources")
    return DatasetFacts(
        title=f"{name}: {description}" if description else name,
        license=(license_,) if license_ else (),
        doi=doi.group() if doi else None,
        landing_page=page if page.startswith(("http://", "https://")) else None,
        attributes=tuple(sorted(attributes)),
        inputs=tuple(sorted(_local_ids(found, sources if isinstance(sources, list) else []))),
        links=tuple(sorted(_links(found, address).items())),
    )


def _links(found: BossChannelInfo, address: str) -> dict[str, str]:
    """Return viewer and data URLs by kind.

    Formats: Neuroglancer's data sources ``boss`` and ``precomputed``, and its state in a URL. ndviz
    is a Neuroglancer of 2018, whose state had layers by name.
    """
    bucket, path = found.channel.get("bucket"), found.channel.get("cv_path")
    is_open = found.channel.get("storage_type") == _CLOUD_VOLUME
    kind = "segmentation" if found.channel.get("type") == "annotation" else "image"
    name = found.names[2]
    made = {"boss": f"boss://{address}"}
    named = bucket if isinstance(bucket, str) and _BUCKET.fullmatch(bucket) else None
    if is_open and named is not None and is_name(path):
        host = f"s3.amazonaws.com/{named}" if "." in named else f"{named}.s3.amazonaws.com"
        made["precomputed"] = f"precomputed://https://{host}/{quote(path.strip('/'))}"
    source = made.get("precomputed", made["boss"])
    made["neuroglancer"] = _state(
        _NEUROGLANCER, {"layers": [{"name": name, "source": source, "type": kind}]}
    )
    made["ndviz"] = _state(_NDVIZ, {"layers": {name: {"source": source, "type": kind}}})
    return made


def _state(viewer: str, state: Mapping[str, Any]) -> str:
    return viewer + quote(json.dumps(state, separators=(",", ":")), safe=":/,")


def _local_ids(found: BossChannelInfo, siblings: list[Any]) -> Iterator[str]:
    """Yield the local ids of channels in the same experiment."""
    for sibling in filter(is_name, siblings):
        made = local_ids.local_id([one.encode() for one in (*found.names[:2], sibling)])
        if made is not None:
            yield made


def _by_key(found: BossChannelInfo) -> dict[str, str]:
    """Return the metadata as lines by lower-case key; the channel's values take precedence."""
    made: dict[str, str] = {}
    for pairs in found.metadata:
        for key, value in (pairs or {}).items():
            if line := one_line(value):
                made[key.strip().casefold()] = line
    return made


def _without_volatile(record: Mapping[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in left_out}
    for name in _UNORDERED:
        if isinstance(kept.get(name), list):
            kept[name] = sorted(kept[name], key=str)
    return kept


def _document(name: str, value: Mapping[str, Any]) -> Document:
    dumped = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, sort_keys=True)
    # a lone surrogate becomes a JSON escape
    content = without_secrets(f"{dumped}\n".encode("utf-8", "backslashreplace"))
    return Document(f".boss/{name}.json".encode(), content)
