"""The common part of sources whose datasets are channels with one current state."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from typing import ClassVar, Final
from urllib.parse import quote

from msgspec.structs import replace

from neuromirror.model import ConfigurationError, DatasetHint, DatasetRef, VersionKind, VersionRef
from neuromirror.sources.errors import MalformedIdError
from neuromirror.sources.protocol import Estimate, Source
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.volumes.grid import REQUEST_LIMIT, Level, Volume, choose_chunk
from neuromirror.sources.volumes.options import VolumeOptions
from neuromirror.sources.volumes.urls import Box, TooManyFilesError, to_triple

CURRENT: Final = "current"
RESTRICTED: Final = (
    'it requires a token and is skipped, unless the mirror\'s options have restricted = "mirror"'
)
UNNAMEABLE: Final = "no local id is possible for this name: it is too long, or . or .."
_LEADING: Final = re.compile(r"(?<![^/])[.-]")
_DOT_SEGMENTS: Final = frozenset({"", ".", ".."})


class ChannelSource(Source):
    """A service whose channels are datasets, identified by a fixed number of names.

    A local id is these names joined by ``/``, in which characters other than letters, digits and
    ``._+,-`` are written as ``=XX``. Each level above a channel is a superdataset.
    """

    levels: ClassVar[tuple[str, ...]]
    """The levels that the names are of: ``("collection", "experiment", "channel")``."""

    mirror: str
    uri: str

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the dataset of a channel.

        Parameters
        ----------
        local_id
            The local id of the dataset, as in ``<mirror>:<local id>``.

        Returns
        -------
        DatasetRef
            The reference.

        Raises
        ------
        MalformedIdError
            The text is not an id of this service.
        """
        # the archive shows the first character of a name as it is
        local_id = _LEADING.sub(lambda found: f"={ord(found[0]):02X}", local_id)
        segments = segments_of(local_id)
        if len(segments) != len(self.levels):
            raise MalformedIdError(
                f"{self.mirror}: {local_id[:200]!r} is not a dataset id; write"
                f" {'/'.join(self.levels)}, and every character except letters, digits and"
                f" . _ - + , as =XX ('neuromirror sync {self.mirror} --dry-run' lists all ids)"
            )
        return self._ref(segments, local_id)

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """Return the superdataset of a level above channels; None for other ids.

        Parameters
        ----------
        id_prefix
            The first segments of the local ids.

        Returns
        -------
        DatasetRef or None
            The reference of the superdataset, or None.
        """
        segments = segments_of(id_prefix)
        above = 0 < len(segments) < len(self.levels)
        return self._ref(segments, id_prefix) if above else None

    def _ref(self, segments: Sequence[str], local_id: str) -> DatasetRef:
        path = "/".join(quote(segment, safe="") for segment in segments)
        return DatasetRef(self.mirror, local_id, f"{self.uri}/{path}")

    def _notice(self, segments: Sequence[str], why: str) -> DatasetHint:
        """Return a hint that reports a problem; its local id starts with ``==``."""
        path, local_id = "/".join(segments), local_id_of(segments)
        if local_id is None:
            local_id, why = hashlib.sha256(path.encode()).hexdigest()[:8], f"{path}: {why}"
        return DatasetHint(
            self._ref(segments, f"{local_ids.NOTICE}{local_id}"), None, unavailable=why
        )

    # --- versions

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return the current state; no request is made.

        Parameters
        ----------
        dataset
            The dataset.

        Returns
        -------
        list[VersionRef]
            The versions.
        """
        return [VersionRef(dataset, CURRENT, VersionKind.OBSERVED, None)]

    @staticmethod
    def _check_current(version: VersionRef) -> None:
        if version.upstream != CURRENT:
            raise MalformedIdError(
                f"{version.dataset.name}: there is no version {version.upstream!r}"
            )


def segments_of(local_id: str) -> tuple[str, ...]:
    """Return the names in a local id; empty if it is malformed.

    Parameters
    ----------
    local_id
        The local id of a dataset.

    Returns
    -------
    tuple[str, ...]
        The names, such as collection, experiment and channel.
    """
    try:
        found = tuple(segment.decode() for segment in local_ids.segments_of(local_id))
    except ValueError:
        return ()
    return () if _DOT_SEGMENTS & set(found) else found


def local_id_of(segments: Sequence[str]) -> str | None:
    """Return the local id of names; None if it could not be converted back to them.

    Parameters
    ----------
    segments
        The names, such as collection, experiment and channel.

    Returns
    -------
    str | None
        The local id.
    """
    made = local_ids.local_id([segment.encode() for segment in segments])
    return made if made is not None and segments_of(made) == tuple(segments) else None


# --- planning of a volume: the levels, box and chunks that a mirror takes


def plan_volume(volume: Volume, options: VolumeOptions, limit: int = REQUEST_LIMIT) -> Volume:
    """Return a volume with the levels, box and chunks that the options select.

    Parameters
    ----------
    volume
        The volume with all of upstream's levels and any chunks.
    options
        The mirror's options.
    limit
        Maximum bytes per request.

    Returns
    -------
    Volume
        The volume, as it is mirrored.

    Raises
    ------
    ConfigurationError
        If upstream lacks a selected level, or the box is outside of one.
    """
    base = volume.base_voxel or volume.levels[0].voxel
    levels = _selected_levels(volume, options)
    if options.box is not None:
        levels = [_crop(volume, level, options.box, base) for level in levels]
    made = tuple(
        replace(level, chunk=choose_chunk(options.block, level.extent, volume.item_size, limit))
        for level in levels
    )
    return replace(volume, levels=made, base_voxel=base)


def estimate_volume(volume: Volume, options: VolumeOptions) -> Estimate:
    """Return the cost of a first visit of a planned volume, without documents.

    Parameters
    ----------
    volume
        The volume, from :func:`plan_volume`.
    options
        The mirror's options.

    Returns
    -------
    Estimate
        Files, bytes, downloaded bytes and requests.

    Raises
    ------
    TooManyFilesError
        If the volume has too many files for a visit.
    """
    check_size(volume, options, volume.path)
    if options.hash == "fetch":
        return Estimate(volume.files, volume.bytes, fetched=volume.bytes, requests=volume.files)
    request_count = min(options.sample_count, volume.files)
    mean = volume.bytes // max(1, volume.files)
    return Estimate(
        volume.files, volume.bytes, fetched=request_count * mean, requests=request_count
    )


def check_size(volume: Volume, options: VolumeOptions, name: str) -> None:
    """Refuse a planned volume that has more files than allowed.

    Parameters
    ----------
    volume
        The volume, from :func:`plan_volume`.
    options
        The mirror's options, with ``max_files``.
    name
        The name of the volume in the error message.

    Raises
    ------
    TooManyFilesError
        The volume has more files.
    """
    if volume.files > options.max_files:
        blocks = ", ".join(
            f"{math.prod(level.grid):,} of level {level.name}" for level in volume.levels
        )
        raise TooManyFilesError(
            f"{name} would be {volume.files:,} chunk files with {volume.bytes:,} bytes in total"
            f" ({blocks}, for each time sample), more than max_files"
            f" = {options.max_files}; set a box, fewer levels, a larger block, or a higher"
            " max_files in the mirror's options"
        )


def _selected_levels(volume: Volume, options: VolumeOptions) -> list[Level]:
    if options.levels == "all":
        return list(volume.levels)
    by_name = {level.name: level for level in volume.levels}
    missing = [str(one) for one in options.levels if str(one) not in by_name]
    if missing:
        raise ConfigurationError(
            f"{volume.path}: upstream has no level {', '.join(missing)}, only"
            f" {', '.join(by_name)}; change 'levels' in the mirror's options"
        )
    return [by_name[str(one)] for one in options.levels]


def _crop(volume: Volume, level: Level, box: Box, base: tuple[float, float, float]) -> Level:
    """Crop a level to a box that is given in voxels of level 0."""
    start, stop = list(level.start), list(level.stop)
    for axis, (first, last) in enumerate(box):
        factor = max(1, round(level.voxel[axis] / base[axis]))
        start[axis] = max(start[axis], first // factor)
        stop[axis] = min(stop[axis], -(-last // factor))
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        had = ", ".join(f"{a}:{b}" for a, b in zip(level.start, level.stop, strict=True))
        raise ConfigurationError(
            f"{volume.path}: the box in the mirror's options has no voxel of level {level.name},"
            f" which has {had} along x, y, z; change 'box', or exclude the channel"
        )
    return replace(level, start=to_triple(start), stop=to_triple(stop))
