"""Describe a version as a volume, from its documents in git; no network access.

Formats: OME-Zarr 0.5 as :mod:`neuromirror.sources.volumes.grid` writes it; in buckets, ``info`` of
Neuroglancer's "Precomputed: volume", OME-Zarr 0.4 and 0.5, and N5 with the metadata of COSEM,
BigDataViewer, n5-viewer or Paintera.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import MsgspecError, Struct
from msgspec.structs import replace

from neuromirror.model import DESCRIPTION_PATH, parse_description
from neuromirror.sources.volumes.content_codings import CODING_SUFFIXES, ENCODINGS_DOCUMENT
from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.sources.volumes.urls import ITEM_SIZES, Triple
from neuromirror.volume.chunk_encodings import (
    ENCODINGS,
    N5_COMPRESSIONS,
    Sharding,
    ZarrCompression,
    parse_sharding,
    parse_zarr_codecs,
)
from neuromirror.volume.errors import NotAVolumeError, UnknownLevelError
from neuromirror.volume.geometry import (
    METADATA,
    Point,
    level_names,
    place_level,
    read_arrays,
    read_volume,
)

if TYPE_CHECKING:
    from neuromirror.index import VersionRow

OME_ZARR: Final = "OME-Zarr 0.5"
PRECOMPUTED: Final = "Neuroglancer precomputed"
N5: Final = "N5"

LARGEST_CHUNK: Final = 64_000_000
"""Maximum bytes of voxels of a chunk in a bucket, which is decoded whole."""

LAYER_INFO: Final = "info"
_ATTRIBUTES: Final = "attributes.json"
DOCUMENTS: Final = (LAYER_INFO, _ATTRIBUTES, f"s0/{_ATTRIBUTES}")
"""The documents of which a precomputed layer or an N5 volume has at least one."""
_UNITS: Final = {
    **{"nm": "nanometer", "um": "micrometer", "µm": "micrometer", "μm": "micrometer"},
    **{"mm": "millimeter", "m": "meter"},
}
_OUTSIDE: Final = "its chunks are outside the folder of the layer"
_MALFORMED: Final = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
_FRAMES: Final = (".boss/coordinate_frame.json", ".ndstore/dataset.json")
_FOLDER: Final = re.compile(r"(?!\.)[\w.,+=-]+(?:/(?!\.)[\w.,+=-]+)*", re.ASCII)
_MAX_LEVELS: Final = 64
_MAX_COORDINATE: Final = 1 << 48
_MANIFEST: Final = "its chunks are in the version's manifest, not in git"


class LevelStorage(Struct, frozen=True):
    """The storage of a level: its folder, and the encoding of its blocks.

    ``unreadable_reason`` is why they cannot be read here; empty if they can. ``block`` is the size
    of the blocks of a compressed segmentation, and ``sharding`` how chunks are packed into shards.
    ``axes`` and ``codecs`` are those of an array of an OME-Zarr, ``compression`` is that of N5.
    ``base`` is the base voxel of the level, if it differs from that of the volume, ``is_sharded``
    whether a chunk is a part of an object, and ``has_fill_value`` whether the metadata define the
    voxels of a chunk without an object.
    """

    folder: str
    encoding: str
    unreadable_reason: str = ""
    block: Triple | None = None
    sharding: Sharding | None = None
    axes: str = ""
    codecs: ZarrCompression = ZarrCompression()
    compression: Mapping[str, Any] | None = None
    base: Point | None = None
    is_sharded: bool = False
    has_fill_value: bool = True


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
        All levels, by upstream's numbers (in a bucket, counted from 0 as CloudVolume's mips).
    storage : tuple of LevelStorage
        One per level, in the same order.
    frame : tuple of (str, str)
        Name and description of upstream's coordinate frame, if it has one.
    sparse : bool
        Whether the chunks are objects of a bucket: one without an object has the fill value.
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
        one, storage = self.volume.levels[number], self.storage[number]
        volume = replace(
            self.volume, levels=(one,), base_voxel=storage.base or self.volume.base_voxel
        )
        return LevelDescription(volume, one, self.name, self.source, self.state), storage


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
        The version is no volume of a known format.
    """
    readers = {PRECOMPUTED: _layer_levels, "OME-Zarr": _zarr_levels, N5: _n5_levels}
    is_in_bucket = files.git_document(ENCODINGS_DOCUMENT) is not None
    if not is_in_bucket and files.git_document(METADATA) is not None:
        readers = {OME_ZARR: _own_levels}
    for format, read_levels in readers.items():
        try:
            pairs = list(islice(read_levels(files, row.name), _MAX_LEVELS))
            if pairs:
                return _describe_levels(files, row, format, pairs, reads_shards)
        except (*_MALFORMED, MsgspecError, RuntimeError, ImportError) as error:
            why = f"its metadata lack {error}" if isinstance(error, KeyError) else error
            raise NotAVolumeError(f"{row.name} is not a volume that can be read: {why}") from error
    raise NotAVolumeError(
        f"{row.name} is not a volume: it is neither a channel of a BOSS or an ndstore, nor a "
        "layer, an OME-Zarr or an N5 volume of a bucket; open its files with another program"
    )


def _describe_levels(
    files: DescribingFiles,
    row: VersionRow | DescribedVersion,
    format: str,
    pairs: Sequence[tuple[Volume, LevelStorage]],
    reads_shards: bool,
) -> VolumeDescription:
    """Describe a volume, of which the volume and storage of each level are given."""
    first, sparse = pairs[0][0], format != OME_ZARR
    levels, stored = [], []
    for number, (volume, storage) in enumerate(pairs):
        (level,) = volume.levels
        _triple(level.extent, 1)
        _triple(level.chunk, 1)
        if (volume.dtype, volume.unit) != (first.dtype, first.unit):
            raise ValueError(f"level {number} has another type or unit than the first")
        why = storage.unreadable_reason
        if sparse:
            level = replace(level, name=str(number))
            why = why or _why_out_of_reach(files, row, storage.folder, volume)
        if storage.is_sharded and not reads_shards:
            why = why or "its chunks are in shards, which the catalogue does not read"
        levels.append(level)
        stored.append(replace(storage, unreadable_reason=why, base=volume.base_voxel))
    name = row.local_id.rpartition("/")[2] if sparse else first.name
    return VolumeDescription(
        *(row.dataset_name, row.name, row.source_uri, row.state, row.commit, format),
        volume=replace(first, levels=tuple(levels), name=name),
        storage=tuple(stored),
        frame=_frame(files),
        sparse=sparse,
    )


def _own_levels(files: DescribingFiles, where: str) -> Iterator[tuple[Volume, LevelStorage]]:
    """Yield the levels of a volume that was minted from a cutout service."""
    for name in level_names(files.git_document(METADATA), where):
        yield read_volume(files.git_document, name, where), LevelStorage(name, "raw voxels")


def _layer_levels(files: DescribingFiles, where: str) -> Iterator[tuple[Volume, LevelStorage]]:
    info = _object(files.git_document(LAYER_INFO))
    if not isinstance(info.get("scales"), list) or not isinstance(info.get("data_type"), str):
        return
    if not info["scales"]:
        raise ValueError("its info file has no scales")
    dtype, labels = info["data_type"].lower(), info.get("type") == "segmentation"
    for number, scale in enumerate(info["scales"]):
        try:
            volume = _volume(dtype, "nanometer", _scale(scale), labels=labels)
        except _MALFORMED as error:
            raise ValueError(f"scale {number} of its info file is invalid: {error}") from error
        yield volume, _scale_storage(files, scale, info)


def _volume(
    dtype: str, unit: str, level: Level, base: Point | None = None, *, labels: bool = False
) -> Volume:
    if dtype not in ITEM_SIZES:
        raise ValueError(f"its data type is {dtype[:40]!r}")
    if not all(math.isfinite(one) and one > 0 for one in level.voxel):
        raise ValueError("invalid voxel size")
    return Volume(*("", "", "", dtype, unit, (level,)), labels=labels, base_voxel=base)


def _scale(scale: Mapping[str, Any]) -> Level:
    start = _triple(scale.get("voxel_offset") or [0, 0, 0], -_MAX_COORDINATE)
    size, chunk = _triple(scale["size"], 1), _triple(scale["chunk_sizes"][0], 1)
    stop = tuple(first + long for first, long in zip(start, size, strict=True))
    x, y, z = (float(one) for one in scale["resolution"])
    return Level("", start, (stop[0], stop[1], stop[2]), (x, y, z), chunk)


def _triple(given: Any, least: int) -> Triple:
    x, y, z = given
    for one in (x, y, z):
        if not isinstance(one, int) or not least <= one <= _MAX_COORDINATE:
            raise ValueError(f"{one!r} is not a valid number of voxels")
    return x, y, z


def _scale_storage(
    files: DescribingFiles, scale: Mapping[str, Any], info: Mapping[str, Any]
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
    if not folder:
        unread = _OUTSIDE
    elif encoding not in ENCODINGS:
        unread = f"its chunks are encoded as {encoding[:40]}"
    elif channels != 1:
        unread = f"its voxels have {str(channels)[:40]} channels"
    elif unknown:
        unread = (
            f"its chunks are stored with the Content-Encoding {unknown}, which is not supported"
        )
    is_sharded = sharding is not None
    return LevelStorage(folder, encoding, unread, block, sharding, is_sharded=is_sharded)


def _why_out_of_reach(
    files: DescribingFiles, row: VersionRow | DescribedVersion, folder: str, volume: Volume
) -> str:
    """Return why the chunks in a folder cannot be read, whatever their encoding; empty if not."""
    if folder and not _FOLDER.fullmatch(folder):
        return _OUTSIDE
    if volume.chunk_bytes(volume.levels[0]) > LARGEST_CHUNK:
        return "its chunks are too large to be decoded here"
    if row.form == "manifest":
        return _MANIFEST
    if folder and not files.has(folder):
        return "the version has none of its chunks"
    if row.exceptions:
        return "some objects of the layer are excluded, so that chunks may be missing"
    return ""


def _zarr_levels(files: DescribingFiles, where: str) -> Iterator[tuple[Volume, LevelStorage]]:
    if all(files.git_document(one) is None for one in (METADATA, ".zattrs")):
        return
    for folder, volume, array, document, axes in read_arrays(files.git_document, where):
        # a chunk may be longer than its array
        outer = dict(zip(axes[:-3], map(max, array.shape, array.chunks), strict=False))
        why = "" if set(outer.values()) <= {1} else f"its arrays have several values along {outer}"
        codecs = ZarrCompression()
        try:
            codecs = parse_zarr_codecs(document)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            why = why or f"its chunks are encoded with {error}"
        storage = LevelStorage(
            *(folder, f"Zarr format {array.zarr_format}", why),
            axes=axes,
            codecs=codecs,
            is_sharded=array.shards is not None,
            has_fill_value=array.fill_value is not None,
        )
        yield volume, storage


def _n5_levels(files: DescribingFiles, where: str) -> Iterator[tuple[Volume, LevelStorage]]:
    group, first = _object(files.git_document(_ATTRIBUTES)), None
    for folder in [""] if "dimensions" in group else (f"s{number}" for number in count()):
        array = _object(files.git_document("/".join(filter(None, (folder, _ATTRIBUTES)))))
        if "dimensions" not in array:
            return
        first = first or array
        yield _n5_level(group, first, array, folder)


def _n5_level(
    group: Mapping[str, Any], first: Mapping[str, Any], array: Mapping[str, Any], folder: str
) -> tuple[Volume, LevelStorage]:
    """Return an array of N5 as a level.

    COSEM states the place of each level, by the names of axes. Others state the resolution of the
    first level, and by which factors the others are coarser.
    """
    if array.get("axes", group.get("axes", [*"xyz"])) != [*"xyz"]:
        raise ValueError("its axes are not x, y, z")
    if transform := array.get("transform"):
        order = [transform["axes"].index(axis) for axis in "xyz"]
        (unit,) = {transform["units"][at] for at in order}
        voxel, move = ([transform[of][at] for at in order] for of in ("scale", "translate"))
    else:
        names = ("pixelResolution", "resolution")
        stated: Any = [of[name] for of in (first, group) for name in names if name in of]
        stated = stated[0] if stated else [1, 1, 1]
        if isinstance(stated, list):
            stated = {"dimensions": stated}
        size, unit = stated["dimensions"], stated.get("unit", "")
        scales = group.get("downsamplingFactors") or group.get("scales") or ()
        scales = {f"s{number}": factors for number, factors in enumerate(scales)}
        factors = array.get("downsamplingFactors") or scales.get(folder)
        if array is first:
            factors = [1, 1, 1]
        elif factors is None:
            raise ValueError(f"{folder} states no downsamplingFactors")
        voxel = [one * by for one, by in zip(size, factors, strict=True)]
        move = [(coarse - fine) / 2 for coarse, fine in zip(voxel, size, strict=True)]
    x, y, z = map(float, voxel)
    extent, chunk = array["dimensions"], array["blockSize"]
    level, base = place_level("", (x, y, z), move, extent, chunk)
    compression = array["compression"]
    kind = str(compression["type"])[:40]
    why = "" if kind in N5_COMPRESSIONS else f"its blocks are compressed with {kind}"
    storage = LevelStorage(folder, kind, why, compression=compression)
    return _volume(array["dataType"], _UNITS.get(unit, unit), level, base), storage


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


def read_description(content: bytes | None) -> Mapping[str, Any]:
    """Return a dataset's description; empty for datasets not minted here."""
    try:
        return parse_description(content or b"{}", DESCRIPTION_PATH)
    except ValueError:
        return {}


def _object(content: bytes | None) -> Mapping[str, Any]:
    try:
        made = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}
