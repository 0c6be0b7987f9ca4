"""Contents that the cache of this machine has completely: they are not downloaded again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

from neuromirror.annex import parse_key
from neuromirror.cache import PieceCache, open_cache
from neuromirror.transfer.content_checks import ContentCheck
from neuromirror.transfer.fetch_tasks import FetchTask
from neuromirror.transfer.key_checksums import cache_name, key_checksum

_BLOCK: Final = 1 << 20


class CachedContents:
    """Whole contents of the cache, which are verified again. Thread-safe.

    Parameters
    ----------
    cache
        The cache; None for none.
    """

    def __init__(self, cache: PieceCache | None) -> None:
        self._cache = cache

    def read(self, task: FetchTask) -> tuple[memoryview, ContentCheck] | None:
        """Return a small content, and the check that it passed.

        Parameters
        ----------
        task
            The download task.

        Returns
        -------
        tuple of (memoryview, ContentCheck) or None
            The content and its check; None if the cache does not have the right bytes.
        """
        descriptor = self._open(task)
        if descriptor is None or task.size is None:
            return None
        try:
            content = os.pread(descriptor, task.size, 0)
        finally:
            os.close(descriptor)
        check = task.check()
        check.update(content)
        return None if check.mismatch() else (memoryview(content), check)

    def copy(
        self, task: FetchTask, file: int, report: Callable[[int], None]
    ) -> ContentCheck | None:
        """Copy a content to an empty file, as a reflink if the file system supports it.

        Parameters
        ----------
        task
            The download task.
        file
            The file descriptor of the file.
        report
            Called with the number of bytes of each step. If the content turns out to be wrong, it
            is called with minus their sum.

        Returns
        -------
        ContentCheck or None
            The check that it passed. None if the cache does not have the right bytes; the file is
            then empty.
        """
        descriptor = self._open(task)
        if descriptor is None or task.size is None:
            return None
        try:
            _copy(descriptor, file, task.size)
        finally:
            os.close(descriptor)
        check = task.check()
        position = 0
        while block := os.pread(file, _BLOCK, position):
            check.update(block)
            report(len(block))
            position += len(block)
        if check.mismatch() is None:
            return check
        report(-position)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        return None

    def _open(self, task: FetchTask) -> int | None:
        """Open a whole content with a checksum; None if the cache does not have it."""
        name = cache_name(key_checksum(task.key))
        if self._cache is None or name is None:
            return None
        return self._cache.content(name).open_whole()


def copy_cached(key: str, file: BinaryIO) -> bool:
    """Write the content of a key from the cache of this machine, verified.

    Parameters
    ----------
    key
        The annex key.
    file
        An empty file, open for writing and reading.

    Returns
    -------
    bool
        Whether the cache had the content; otherwise the file is empty.

    Raises
    ------
    ConfigurationError
        The limit of the cache is not a size.
    """
    cached = CachedContents(open_cache())
    task = FetchTask(key, parse_key(key).size, ())
    return cached.copy(task, file.fileno(), lambda count: None) is not None


def _copy(source: int, target: int, size: int) -> None:
    """Copy the first bytes of a file to an empty one."""
    position = 0
    with suppress(OSError, AttributeError):  # another file system, or macOS
        while position < size:
            count = os.copy_file_range(source, target, size - position, position, position)
            if not count:
                break
            position += count
    while position < size:
        block = os.pread(source, min(_BLOCK, size - position), position)
        if not block:
            break
        os.pwrite(target, block, position)
        position += len(block)
