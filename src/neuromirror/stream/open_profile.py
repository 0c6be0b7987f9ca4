"""The open profile of an HDF5 file: the parts that a program reads when it opens the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, Final

from neuromirror.model.block_digests import LEAF_SIZE, MAX_OPEN_RANGES
from neuromirror.stream.file import VerifiedFile
from neuromirror.stream.opening import open_object
from neuromirror.stream.transport import Transport
from neuromirror.stream.trees import VersionTree
from neuromirror.stream.verified_object import ByteRange, VerifiedObject
from neuromirror.transfer.block_digest_recorder import BlockDigestsRecorder

SUFFIXES: Final = (".nwb", ".h5", ".hdf5")
"""Ends of the names of files that have an open profile."""


class _RecordingFile(VerifiedFile):
    """Records the ranges that are read."""

    def __init__(self, content: VerifiedObject) -> None:
        super().__init__(content)
        self.ranges: list[ByteRange] = []

    def _read_ahead(self, start: int, stop: int) -> None:
        # called before each read; what comes next is not requested
        self.ranges.append((start, stop))


def record_open_profiles(
    tree: VersionTree, paths: Iterable[str], digests: BlockDigestsRecorder
) -> Iterator[tuple[str, str]]:
    """Open HDF5 files, and record which parts are read, so that later readers request them first.

    NWB files are opened with pynwb; if it fails, what it has read until then is recorded. Of other
    files, the names and attributes of all objects are read.

    Parameters
    ----------
    tree
        The files of a version.
    paths
        The files, which have block digests.
    digests
        Records the profiles beside the block digests.

    Yields
    ------
    tuple of (str, str)
        The path, and why its profile was not recorded; the reason is empty if it was.
    """
    with closing(Transport(tree.access)) as transport:
        for path in paths:
            file = tree.file(path)
            if file is None:
                yield path, "the version has no such file"
                continue
            try:
                ranges = _read_ranges(open_object(tree, file, transport, cache=False))
                digests.write_profile(file.key, ranges)
            except Exception as error:  # noqa: BLE001 - h5py raises any for a damaged file
                yield path, f"no open profile: {error}"
            else:
                yield path, ""


def _read_ranges(content: VerifiedObject) -> tuple[ByteRange, ...]:
    """Open a file as a program does, and return the ranges that were read."""
    import h5py

    with _RecordingFile(content) as file:
        try:
            with h5py.File(file, "r") as opened, suppress(Exception):
                # the ranges read before a program fails are a valid profile
                _read_like_a_program(opened, content.file.path)
        finally:
            if file.failure is not None:  # HDF5 replaces it by an error of its own
                raise file.failure
        return merge_ranges(file.ranges, content.size)


def _read_like_a_program(opened: Any, path: str) -> None:
    if path.lower().endswith(".nwb"):
        from pynwb import NWBHDF5IO

        with NWBHDF5IO(file=opened, mode="r") as io:
            io.read()
        return

    def read_attributes(_: str, one: Any) -> None:
        dict(one.attrs)

    opened.visititems(read_attributes)


def merge_ranges(ranges: Iterable[ByteRange], size: int) -> tuple[ByteRange, ...]:
    """Extend ranges to whole leaves of the hash tree, and merge those that are close.

    If there are still more than :data:`MAX_OPEN_RANGES`, ranges that are farther apart are merged,
    too.

    Parameters
    ----------
    ranges
        The ranges, in any order.
    size
        Size of the content in bytes.

    Returns
    -------
    tuple of ByteRange
        At most :data:`MAX_OPEN_RANGES` ranges, in order.
    """
    gap = LEAF_SIZE
    wide = sorted(
        (start // LEAF_SIZE * LEAF_SIZE, min(-(-stop // LEAF_SIZE) * LEAF_SIZE, size))
        for start, stop in ranges
        if start < stop
    )
    while True:
        merged: list[ByteRange] = []
        for start, stop in wide:
            if merged and start <= merged[-1][1] + gap:
                merged[-1] = merged[-1][0], max(stop, merged[-1][1])
            else:
                merged.append((start, stop))
        if len(merged) <= MAX_OPEN_RANGES:
            return tuple(merged)
        gap *= 2
