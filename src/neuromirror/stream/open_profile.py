"""The open profile of an HDF5 file: the parts that a program reads when it opens the file."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Final

from neuromirror.model import NeuromirrorError, environment_without_secrets
from neuromirror.model.block_digests import LEAF_SIZE, MAX_OPEN_RANGES
from neuromirror.stream import open_profile_process
from neuromirror.stream.open_profile_process import DONE, MAX_MESSAGE, MAX_REQUEST, REQUEST
from neuromirror.stream.opening import open_object
from neuromirror.stream.transport import Transport
from neuromirror.stream.trees import VersionTree
from neuromirror.stream.verified_object import ByteRange, VerifiedObject
from neuromirror.transfer.block_digest_recorder import BlockDigestsRecorder

SUFFIXES: Final = (".nwb", ".h5", ".hdf5")
"""Ends of the names of files that have an open profile."""
SECONDS: Final = 60.0
"""Time limit of the processor for opening one file."""
_WALL_FACTOR: Final = 20
"""Time limit for opening one file, as a multiple of that of the processor."""


class ProfileFailedError(NeuromirrorError):
    """A file could not be opened within the limits."""


def record_open_profiles(
    tree: VersionTree,
    paths: Iterable[str],
    digests: BlockDigestsRecorder,
    *,
    seconds: float = SECONDS,
) -> Iterator[tuple[str, str]]:
    """Open HDF5 files, and record which parts are read, so that later readers request them first.

    A process of its own opens each file, with limits on time and memory, because HDF5 may exhaust
    both. NWB files are opened with pynwb; if it fails, what it has read until then is recorded. Of
    other files, the names and attributes of all objects are read.

    Parameters
    ----------
    tree
        The files of a version.
    paths
        The files, which have block digests.
    digests
        Records the profiles beside the block digests.
    seconds
        Time limit of the processor for each file; other time is limited, too.

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
                ranges = _read_ranges(open_object(tree, file, transport, cache=False), seconds)
                digests.write_profile(file.key, ranges)
            except (NeuromirrorError, OSError) as error:
                yield path, f"no open profile: {error}"
            else:
                yield path, ""


def _read_ranges(content: VerifiedObject, seconds: float) -> tuple[ByteRange, ...]:
    """Open a file as a program does, in a process of its own; return the ranges that it read."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", open_profile_process.__name__),
            *(str(content.size), content.file.path, str(math.ceil(seconds))),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment_without_secrets(),
    ) as process:
        # time in which the file is requested counts, too: each request has a limit of its own
        timer = threading.Timer(seconds * _WALL_FACTOR, process.kill)
        timer.start()
        try:
            ranges = _serve_ranges(process, content)
        finally:
            timer.cancel()
            process.kill()
    return merge_ranges(ranges, content.size)


def _serve_ranges(process: subprocess.Popen[bytes], content: VerifiedObject) -> list[ByteRange]:
    """Send a process the ranges that it requests, and return them."""
    assert process.stdin is not None
    assert process.stdout is not None
    ranges: list[ByteRange] = []
    while True:
        request = process.stdout.read(REQUEST.size)
        if len(request) < REQUEST.size:
            raise ProfileFailedError(
                "opening the file takes too much time or memory, or crashes HDF5; it may be damaged"
            )
        start, stop = REQUEST.unpack(request)
        if start == DONE:
            message = process.stdout.read(min(stop, MAX_MESSAGE)).decode(errors="replace")
            if message:
                raise ProfileFailedError(message)
            return ranges
        ranges.append((start, stop))
        found = content.read_ranges([(start, min(stop, start + MAX_REQUEST))])[0]
        with suppress(BrokenPipeError):  # the process has ended
            process.stdin.write(found)
            process.stdin.flush()


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
