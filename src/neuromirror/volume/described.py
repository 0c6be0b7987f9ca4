"""What a version of the store is as a volume, read from its own documents: nobody is asked.

Formats: OME-Zarr 0.5 as :mod:`neuromirror.sources.volumes.ngff` writes it, and ``info`` of
Neuroglancer's page "Precomputed: volume".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from neuromirror.sources.volumes import ITEM_SIZES, Level, Triple, Volume
from neuromirror.volume.errors import NoSuchLevel, NotAVolume
from neuromirror.volume.geometry import METADATA, level_names, read_volume

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.volume.version_files import VersionFiles

OME_ZARR: Final = "OME-Zarr 0.5"
PRECOMPUTED: Final = "Neuroglancer precomputed"

LARGEST_CHUNK: Final = 64_000_000
"""Bytes of voxels of a precomputed chunk: it is decoded as a whole."""

_INFO: Final = "info"
_FRAMES: Final = (".boss/coordinate_frame.json", ".ndstore/dataset.json")
_FOLDER: Final = re.compile(r"(?!\.)[\w.,+=-]+(?:/(?!\.)[\w.,+=-]+)*", re.ASCII)
_MOST_LEVELS: Final = 64
_MOST: Final = 1 << 48
_MANIFEST: Final = "its chunks stand in the version's manifest, and not in git"


@dataclass(frozen=True, slots=True)
class Stored:
    """How a level's blocks are stored: the folder, the encoding of their voxels.

    ``unread`` says why they are not read here; empty where they are.
    """

    folder: str
    encoding: str
    unread: str = ""


@dataclass(frozen=True, slots=True)
class DescribedVolume:
    """A version that is a volume.

    ``volume`` has all levels, by upstream's numbers (of a precomputed layer counted from 0, as
    CloudVolume counts mips); ``stored`` is for each of them, in that order. ``frame`` is the name
    of upstream's coordinate frame and what it says of it, where it has one. ``sparse`` says that a
    chunk without a file is all zeros.
    """

    name: str
    version: str
    source: str
    state: str
    commit: str
    format: str
    volume: Volume
    stored: tuple[Stored, ...]
    frame: tuple[str, str] = ("", "")
    sparse: bool = False

    def at(self, level: str) -> tuple[LevelOfVolume, Stored]:
        """One level of it, and how that is stored; raises :class:`NoSuchLevel`."""
        names = [one.name for one in self.volume.levels]
        if level not in names:
            raise NoSuchLevel(
                f"{self.version} has no level {level[:40]!r}, only {', '.join(names)}"
            )
        number = names.index(level)
        one = self.volume.levels[number]
        found = LevelOfVolume(
            replace(self.volume, levels=(one,)), one, self.name, self.source, self.state
        )
        return found, self.stored[number]


@dataclass(frozen=True, slots=True)
class LevelOfVolume:
    """One level of a volume, and what its files are called by."""

    volume: Volume
    level: Level
    name: str
    source: str
    state: str


def describe(files: VersionFiles, row: VersionRow) -> DescribedVolume:
    """What a version is as a volume; raises :class:`NotAVolume`."""
    if files.in_git(METADATA) is not None:
        return _zarr(files, row)
    info = _object(files.in_git(_INFO))
    if isinstance(info.get("scales"), list) and isinstance(info.get("data_type"), str):
        return _layer(files, row, info)
    raise NotAVolume(f"{row.name} is no volume: it has neither levels of an OME-Zarr nor an info")


def _zarr(files: VersionFiles, row: VersionRow) -> DescribedVolume:
    names = level_names(files.in_git(METADATA), row.name)
    found = [read_volume(files.in_git, name, row.name) for name in names[:_MOST_LEVELS]]
    if not found:
        raise NotAVolume(f"{row.name} is no volume: its zarr.json tells of no levels")
    volume = replace(found[0], levels=tuple(one.levels[0] for one in found))
    return DescribedVolume(
        *_named(row),
        format=OME_ZARR,
        volume=volume,
        stored=tuple(Stored(level.name, "voxels as they are") for level in volume.levels),
        frame=_frame(files),
    )


def _layer(files: VersionFiles, row: VersionRow, info: Mapping[str, Any]) -> DescribedVolume:
    dtype = str(info["data_type"]).lower()
    if dtype not in ITEM_SIZES:
        raise NotAVolume(f"{row.name} is no volume that is known here: voxels of {dtype[:40]!r}")
    levels, stored = [], []
    for number, scale in enumerate(info["scales"][:_MOST_LEVELS]):
        try:
            level = _scale(str(number), scale)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise NotAVolume(f"{row.name}: scale {number} of its info makes no sense") from error
        levels.append(level)
        stored.append(_stored(files, row, scale, level, ITEM_SIZES[dtype], info))
    if not levels:
        raise NotAVolume(f"{row.name} is no volume: its info has no scales")
    volume = Volume(
        *("", "", "", dtype, "nanometer", tuple(levels)),
        labels=info.get("type") == "segmentation",
        name=row.local_id.rpartition("/")[2],
    )
    return DescribedVolume(
        *_named(row), format=PRECOMPUTED, volume=volume, stored=tuple(stored), sparse=True
    )


def _named(row: VersionRow) -> tuple[str, str, str, str, str]:
    return row.dataset_name, row.name, row.source_uri, row.state, row.commit


def _scale(name: str, scale: Mapping[str, Any]) -> Level:
    start = _triple(scale.get("voxel_offset") or [0, 0, 0], -_MOST)
    size, chunk = _triple(scale["size"], 1), _triple(scale["chunk_sizes"][0], 1)
    stop = tuple(first + long for first, long in zip(start, size, strict=True))
    x, y, z = (float(one) for one in scale["resolution"])
    if not all(math.isfinite(one) and one > 0 for one in (x, y, z)):
        raise ValueError("no size of a voxel")
    return Level(name, start, (stop[0], stop[1], stop[2]), (x, y, z), chunk)


def _triple(given: Any, least: int) -> Triple:
    x, y, z = given
    for one in (x, y, z):
        if not isinstance(one, int) or not least <= one <= _MOST:
            raise ValueError(f"{one!r} is no whole number of voxels")
    return x, y, z


def _stored(
    files: VersionFiles,
    row: VersionRow,
    scale: Mapping[str, Any],
    level: Level,
    item_size: int,
    info: Mapping[str, Any],
) -> Stored:
    folder, encoding = str(scale.get("key", "")), str(scale.get("encoding", ""))
    channels = info.get("num_channels", 1)
    unread = ""
    if not _FOLDER.fullmatch(folder):
        unread = "its chunks are kept elsewhere than in the layer's own folder"
    elif scale.get("sharding"):
        unread = "its chunks are packed into shards"
    elif encoding != "raw":
        unread = f"its chunks are encoded as {encoding[:40]}"
    elif channels != 1:
        unread = f"its voxels have {str(channels)[:40]} channels"
    elif math.prod(level.chunk) * item_size > LARGEST_CHUNK:
        unread = "its chunks are too large to be decoded here"
    elif row.form == "manifest":
        unread = _MANIFEST
    elif not files.has(folder):
        unread = "the version has none of its chunks"
    elif row.exceptions:
        unread = "some of the layer's objects are left out, so that a chunk may be lacking"
    return Stored(folder, encoding, unread)


def _frame(files: VersionFiles) -> tuple[str, str]:
    for path in _FRAMES:
        if files.has(path):
            told = _object(files.in_git(path))
            name, about = told.get("name"), told.get("description")
            return str(name or ""), "" if about == name else str(about or "")
    return "", ""


def _object(content: bytes | None) -> Mapping[str, Any]:
    try:
        made = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}
