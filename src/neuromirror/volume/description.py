"""Describe a version as a volume, from its documents in git; no network access.

Formats: OME-Zarr 0.5 as :mod:`neuromirror.sources.volumes.grid` writes it, and ``info`` of
Neuroglancer's "Precomputed: volume".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.sources.volumes.content_codings import CODING_SUFFIXES, ENCODINGS_DOCUMENT
from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.sources.volumes.urls import ITEM_SIZES, Triple
from neuromirror.volume.chunk_encodings import ENCODINGS, Sharding, parse_sharding
from neuromirror.volume.errors import NotAVolumeError, UnknownLevelError
from neuromirror.volume.geometry import METADATA, level_names, read_volume

if TYPE_CHECKING:
    from neuromirror.index import VersionRow

OME_ZARR: Final = "OME-Zarr 0.5"
PRECOMPUTED: Final = "Neuroglancer precomputed"

LARGEST_CHUNK: Final = 64_000_000
"""Maximum bytes of voxels of a precomputed chunk, which is decoded whole."""

LAYER_INFO: Final = "info"
_FRAMES: Final = (".boss/coordinate_frame.json", ".ndstore/dataset.json")
_FOLDER: Final = re.compile(r"(?!\.)[\w.,+=-]+(?:/(?!\.)[\w.,+=-]+)*", re.ASCII)
_MAX_LEVELS: Final = 64
_MAX_COORDINATE: Final = 1 << 48
_MANIFEST: Final = "its chunks are in the version's manifest, not in git"


class LevelStorage(Struct, frozen=True):
    """The storage of a level: its folder, and the encoding of its blocks.

    ``unreadable_reason`` is why they cannot be read here; empty if they can. ``block`` is the size
    of the blocks of a compressed segmentation, and ``sharding`` how chunks are packed into shards.
    """

    folder: str
    encoding: str
    unreadable_reason: str = ""
    block: Triple | None = None
    sharding: Sharding | None = None


class VolumeDescription(Struct, frozen=True):
    """A version that is a volume.

    Attributes
    ----------
    name
        The dataset, ``<mirror>:<local id>``.
    version
        The version, ``<mirror>:<local id>@<label>``.
    source
        The URI of the channel or layer upstream.
    state
        The state digest.
    commit
        The commit id in hex.
    format
        The format of the volume.
    volume : Volume
        All levels, by upstream's numbers (of a precomputed layer, counted from 0 as CloudVolume's
        mips).
    storage : tuple of LevelStorage
        One per level, in the same order.
    frame : tuple of (str, str)
        Name and description of upstream's coordinate frame, if it has one.
    sparse : bool
        Whether a chunk without a file is all zeros.
    """

    name: str
    version: str
    source: str
    state: str
    commit: str
    format: str
    volume: Volume
    storage: tuple[LevelStorage, ...]
    frame: tuple[str, str] = ("", "")
    sparse: bool = False

    def level(self, level: str) -> tuple[LevelDescription, LevelStorage]:
        """Return a level and its storage.

        Parameters
        ----------
        level
            The name of the level.

        Returns
        -------
        tuple[LevelDescription, LevelStorage]
            The level, and how it is stored.

        Raises
        ------
        UnknownLevelError
            The volume has no such level.
        """
        names = [one.name for one in self.volume.levels]
        if level not in names:
            raise UnknownLevelError(
                f"{self.version} has no level {level[:40]!r}, only {', '.join(names)}"
            )
        number = names.index(level)
        one = self.volume.levels[number]
        found = LevelDescription(
            replace(self.volume, levels=(one,)), one, self.name, self.source, self.state
        )
        return found, self.storage[number]


class LevelDescription(Struct, frozen=True):
    """One level of a volume, with the names that an export uses.

    Attributes
    ----------
    volume
        The volume, with this level only.
    level
        The level.
    name
        The name of the dataset.
    source
        The URI of the channel or layer upstream.
    state
        The state digest.
    """

    volume: Volume
    level: Level
    name: str
    source: str
    state: str


class DescribedVersion(Struct, frozen=True):
    """The names and ids of a version that is in no index; see VersionRow."""

    dataset_name: str
    name: str
    source_uri: str
    state: str
    local_id: str
    commit: str = ""
    form: str = "files"
    exceptions: int = 0


class DescribingFiles(Protocol):
    """Returns the metadata documents of a version by path."""

    def git_document(self, path: str) -> bytes | None:
        """Return the content of a document in git; None for other files."""

    def has(self, path: str) -> bool:
        """Return whether the version has a file or folder."""


def describe(
    files: DescribingFiles, row: VersionRow | DescribedVersion, *, reads_shards: bool = False
) -> VolumeDescription:
    """Describe a version as a volume.

    Parameters
    ----------
    files
        The files of the version.
    row
        The version, as returned by ``index.versions.resolve``.
    reads_shards
        Whether a chunk may cost the download of a whole shard.

    Returns
    -------
    VolumeDescription
        The axes, levels and voxel types, from the dataset's metadata.

    Raises
    ------
    NotAVolumeError
        The version has neither OME-Zarr levels nor an ``info`` file of a precomputed layer.
    """
    if files.git_document(METADATA) is not None:
        return _describe_zarr(files, row)
    info = _object(files.git_document(LAYER_INFO))
    if isinstance(info.get("scales"), list) and isinstance(info.get("data_type"), str):
        return _describe_layer(files, row, info, reads_shards)
    raise NotAVolumeError(
        f"{row.name} is not a volume: it has neither OME-Zarr levels nor an info file"
    )


def _describe_zarr(files: DescribingFiles, row: VersionRow | DescribedVersion) -> VolumeDescription:
    names = level_names(files.git_document(METADATA), row.name)
    found = [read_volume(files.git_document, name, row.name) for name in names[:_MAX_LEVELS]]
    if not found:
        raise NotAVolumeError(f"{row.name} is not a volume: its zarr.json has no levels")
    volume = replace(found[0], levels=tuple(one.levels[0] for one in found))
    return VolumeDescription(
        *_row_fields(row),
        format=OME_ZARR,
        volume=volume,
        storage=tuple(LevelStorage(level.name, "raw voxels") for level in volume.levels),
        frame=_frame(files),
    )


def _describe_layer(
    files: DescribingFiles,
    row: VersionRow | DescribedVersion,
    info: Mapping[str, Any],
    reads_shards: bool,
) -> VolumeDescription:
    dtype = str(info["data_type"]).lower()
    if dtype not in ITEM_SIZES:
        raise NotAVolumeError(
            f"{row.name} is not a supported volume: its data type is {dtype[:40]!r}"
        )
    levels, stored = [], []
    for number, scale in enumerate(info["scales"][:_MAX_LEVELS]):
        try:
            level = _scale(str(number), scale)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise NotAVolumeError(
                f"{row.name}: scale {number} of its info file is invalid"
            ) from error
        levels.append(level)
        storage = _level_storage(files, row, scale, level, ITEM_SIZES[dtype], info)
        if storage.sharding is not None and not (reads_shards or storage.unreadable_reason):
            storage = replace(
                storage,
                unreadable_reason="its chunks are in shards, which the catalogue does not read",
            )
        stored.append(storage)
    if not levels:
        raise NotAVolumeError(f"{row.name} is not a volume: its info file has no scales")
    volume = Volume(
        *("", "", "", dtype, "nanometer", tuple(levels)),
        labels=info.get("type") == "segmentation",
        name=row.local_id.rpartition("/")[2],
    )
    return VolumeDescription(
        *_row_fields(row), format=PRECOMPUTED, volume=volume, storage=tuple(stored), sparse=True
    )


def _row_fields(row: VersionRow | DescribedVersion) -> tuple[str, str, str, str, str]:
    return row.dataset_name, row.name, row.source_uri, row.state, row.commit


def _scale(name: str, scale: Mapping[str, Any]) -> Level:
    start = _triple(scale.get("voxel_offset") or [0, 0, 0], -_MAX_COORDINATE)
    size, chunk = _triple(scale["size"], 1), _triple(scale["chunk_sizes"][0], 1)
    stop = tuple(first + long for first, long in zip(start, size, strict=True))
    x, y, z = (float(one) for one in scale["resolution"])
    if not all(math.isfinite(one) and one > 0 for one in (x, y, z)):
        raise ValueError("invalid voxel size")
    return Level(name, start, (stop[0], stop[1], stop[2]), (x, y, z), chunk)


def _triple(given: Any, least: int) -> Triple:
    x, y, z = given
    for one in (x, y, z):
        if not isinstance(one, int) or not least <= one <= _MAX_COORDINATE:
            raise ValueError(f"{one!r} is not a valid number of voxels")
    return x, y, z


def _level_storage(
    files: DescribingFiles,
    row: VersionRow | DescribedVersion,
    scale: Mapping[str, Any],
    level: Level,
    item_size: int,
    info: Mapping[str, Any],
) -> LevelStorage:
    folder, encoding = str(scale.get("key", "")), str(scale.get("encoding", ""))
    channels = info.get("num_channels", 1)
    unread, sharding, block = "", None, None
    unknown = _unknown_codings(files.git_document(ENCODINGS_DOCUMENT), folder)
    try:
        sharding = parse_sharding(scale["sharding"]) if scale.get("sharding") else None
        if encoding == "compressed_segmentation":
            block = _triple(scale["compressed_segmentation_block_size"], 1)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        unread = f"its info file has {error}"
    if not _FOLDER.fullmatch(folder):
        unread = "its chunks are outside the folder of the layer"
    elif encoding not in ENCODINGS:
        unread = f"its chunks are encoded as {encoding[:40]}"
    elif channels != 1:
        unread = f"its voxels have {str(channels)[:40]} channels"
    elif math.prod(level.chunk) * item_size > LARGEST_CHUNK:
        unread = "its chunks are too large to be decoded here"
    elif unknown:
        unread = (
            f"its chunks are stored with the Content-Encoding {unknown}, which is not supported"
        )
    elif row.form == "manifest":
        unread = _MANIFEST
    elif not files.has(folder):
        unread = "the version has none of its chunks"
    elif row.exceptions:
        unread = "some objects of the layer are excluded, so that chunks may be missing"
    return LevelStorage(folder, encoding, unread, block, sharding)


def _unknown_codings(document: bytes | None, folder: str) -> str:
    """Return the codings of a folder that no reader knows, from the document of the crawler."""
    objects = _object(document).get("objects")
    found: set[str] = set()
    for pattern, about in objects.items() if isinstance(objects, dict) else ():
        if f"{folder}/".startswith(pattern.rstrip("*:")) and isinstance(about, dict):
            found.update(map(str, about.get("encodings", ())))
    return ", ".join(sorted(found - {"identity", *CODING_SUFFIXES}))[:200]


def _frame(files: DescribingFiles) -> tuple[str, str]:
    for path in _FRAMES:
        if files.has(path):
            document = _object(files.git_document(path))
            name, about = document.get("name"), document.get("description")
            return str(name or ""), "" if about == name else str(about or "")
    return "", ""


def _object(content: bytes | None) -> Mapping[str, Any]:
    try:
        made = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}
