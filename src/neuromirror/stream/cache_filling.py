"""Fill the cache with the files of a version, for example before a journey or a cluster job."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from neuromirror.cache import PieceCache
from neuromirror.cache.cached_content import LEAF
from neuromirror.lab.globs import WatchedGlobs
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.model.errors import format_bytes
from neuromirror.stream.opening import open_object
from neuromirror.stream.pieces import content_name
from neuromirror.stream.transport import Transport
from neuromirror.stream.trees import VersionTree
from neuromirror.stream.verified_object import VerifiedObject
from neuromirror.transfer.outcomes import Outcome, Status

JOBS: Final = 4
"""Number of files that are read in parallel."""

_STEP: Final = 8 << 20
_ACTION: Final = "cache"
_WRITE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02
"""How long, and how often, to look for pieces that are being written."""


class CacheTooSmallError(ConfigurationError):
    """The files do not fit into the cache, or one of them into half of it."""


def fill_cache(
    tree: VersionTree, globs: Sequence[str], cache: PieceCache, *, jobs: int = JOBS
) -> Iterator[Outcome]:
    """Read files of a version into the cache, verified.

    Parameters
    ----------
    tree
        The files of the version.
    globs
        Globs (:mod:`neuromirror.lab.globs`); empty for all files.
    cache
        The cache.
    jobs
        Number of files that are read in parallel.

    Yields
    ------
    Outcome
        The result for each file: ``ok``, ``notneeded`` if the cache has it, ``impossible`` if no
        digest of it is known, or ``error``.

    Raises
    ------
    CacheTooSmallError
        The files do not fit into the cache, or one of them into half of it. Nothing was read.
    """
    watched = WatchedGlobs(globs)
    files = [*files_below(tree, watched)]
    total = sum(file.size or 0 for file in {file.key: file for file in files}.values())
    largest = max((file.size or 0 for file in files), default=0)
    if total > cache.limit or largest > cache.limit // 2:
        raise CacheTooSmallError(
            f"{tree.name}: {len(files)} files of {format_bytes(total)}, the largest of "
            f"{format_bytes(largest)}, do not fit into the cache of {format_bytes(cache.limit)}, "
            "of which one file gets at most half; set NEUROMIRROR_CACHE_SIZE, or specify a GLOB"
        )
    for glob, message in watched.unmatched() if files else ():
        yield Outcome(_ACTION, "error", glob, message)
    transport = Transport(tree.access)
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(lambda file: _fill(tree, file, transport, cache), files)
    finally:
        transport.close()
        pool.shutdown(wait=False, cancel_futures=True)


def files_below(tree: VersionTree, globs: WatchedGlobs, folder: str = "") -> Iterator[ListedFile]:
    """Yield the annexed files of a version that match globs.

    Parameters
    ----------
    tree
        The files of the version.
    globs
        The globs.
    folder
        The folder whose files are yielded; empty for all.

    Yields
    ------
    ListedFile
        A file.
    """
    for entry in tree.entries(folder) or ():
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_folder:
            if globs.reaches(path):
                yield from files_below(tree, globs, path)
        elif entry.key and globs.matches(path) and (file := tree.file(path)) is not None:
            yield file


def _fill(tree: VersionTree, file: ListedFile, transport: Transport, cache: PieceCache) -> Outcome:
    def outcome(status: Status, message: str = "") -> Outcome:
        return Outcome(_ACTION, status, file.path, message, key=file.key, size=file.size)

    name = content_name(file)
    if name is None:
        return outcome("impossible", "no digest of its content is known")
    if not name.size:
        return outcome("notneeded", "it is empty")
    cached = cache.content(name)
    if cached.has(0, name.size):
        return outcome("notneeded", "in the cache")
    try:
        content = open_object(tree, file, transport, "whole-objects", cache, memory=_STEP)
        aligned = content.check.piece_size % LEAF == 0 or content.check.piece_size >= content.size
        if aligned and tree.local_content(file) is None:
            for _ in _blocks(content):
                pass
        else:  # the cache keeps no pieces of a local copy, and no leaves that two pieces share
            with cache.new_content(name) as copy:
                for block in _blocks(content):
                    copy.write(block)
            cached.pieces_path.unlink(missing_ok=True)
    except NeuromirrorError as error:
        return outcome("error", str(error))
    except OSError as error:
        return outcome("error", _unwritable(cache, error.strerror or str(error)))
    until = time.monotonic() + _WRITE_SECONDS
    while not cached.has(0, name.size):  # a piece is written after it was handed over
        if cache.has_failed or time.monotonic() > until:
            return outcome("error", _unwritable(cache, "the disk is full, or not writable"))
        time.sleep(_POLL_SECONDS)
    return outcome("ok")


def _blocks(content: VerifiedObject) -> Iterator[bytes]:
    for start in range(0, content.size, _STEP):
        yield content.read_ranges([(start, start + _STEP)])[0]
        content.forget(start)


def _unwritable(cache: PieceCache, why: str) -> str:
    return f"it was verified, but {cache.folder} cannot be written: {why}"
