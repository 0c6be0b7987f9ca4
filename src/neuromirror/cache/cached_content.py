"""The cached pieces of one content."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

LEAF: Final = 16 << 10
"""Bytes that one byte of the map stands for."""

_OWNER_MODE: Final = 0o700
_USED_INTERVAL: Final = 60.0
"""Seconds after which another use of a content is recorded."""

Data = bytes | bytearray | memoryview


class CachedContent:
    """The part of one content that is in the cache. Thread-safe.

    Parameters
    ----------
    whole
        The path of the whole content.
    pieces
        The path of its pieces: a sparse file with the bytes of the content in leaves of
        :data:`LEAF` bytes, followed by the map of the leaves: one byte per leaf, which is 1 if the
        file has the leaf.
    size
        Size of the content in bytes.
    """

    def __init__(self, whole: str, pieces: str, size: int) -> None:
        # text, because a Zarr has very many small contents
        self.whole_name, self._pieces_name = whole, pieces
        self.size = size
        self._leaves = -(-size // LEAF)
        self._whole: int | None = None
        self._pieces: int | None = None
        self._lock = threading.Lock()

    @property
    def whole_path(self) -> Path:
        """The path of the whole content."""
        return Path(self.whole_name)

    @property
    def pieces_path(self) -> Path:
        """The path of its pieces."""
        return Path(self._pieces_name)

    def read(self, start: int, stop: int) -> bytearray | None:
        """Return the bytes of a range, which are not verified.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.

        Returns
        -------
        bytearray or None
            The bytes; None if they are not all in the cache.
        """
        with self._lock, suppress(OSError):
            descriptor = self._find(start, stop)
            if descriptor is not None:
                data = bytearray(stop - start)
                return data if os.preadv(descriptor, [data], start) == len(data) else None
        return None

    def has(self, start: int, stop: int) -> bool:
        """Return whether a range is in the cache.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.

        Returns
        -------
        bool
            Whether all its bytes are there; they are not verified.
        """
        with self._lock, suppress(OSError):
            return self._find(start, stop) is not None
        return False

    def open_whole(self) -> int | None:
        """Open the file with the content, if all of it is cached; it is not verified.

        Returns
        -------
        int or None
            A file descriptor, which the caller closes; None if bytes are missing. What follows the
            content in the file is not a part of it.
        """
        with self._lock, suppress(OSError):
            descriptor = self._find(0, self.size)
            return None if descriptor is None else os.dup(descriptor)
        return None

    def write(self, start: int, data: Data) -> None:
        """Write verified bytes, if the cache does not have the whole content already.

        Parameters
        ----------
        start
            The offset of the first byte.
        data
            The bytes. Leaves at their start and end that they have only in part are not kept.

        Raises
        ------
        OSError
            The cache cannot be written.
        """
        stop = start + len(data)
        with self._lock:
            if os.path.exists(self.whole_name):
                return
            if start == 0 and stop == self.size:
                self._write_whole(data)
                return
            if self._pieces is None:
                self.pieces_path.parent.mkdir(mode=_OWNER_MODE, parents=True, exist_ok=True)
                self._pieces = _open(self._pieces_name, os.O_RDWR | os.O_CREAT)
            assert self._pieces is not None
            first = -(-start // LEAF)
            last = self._leaves if stop == self.size else stop // LEAF
            if first < last:
                os.pwrite(self._pieces, data, start)
                # after the data, so that a reader finds both or none
                os.pwrite(self._pieces, bytes((1,)) * (last - first), self._map_offset + first)

    def discard(self, start: int, stop: int) -> None:
        """Remove bytes that turned out to be wrong; without an error if they cannot be removed.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.
        """
        with self._lock, suppress(OSError):
            if self._whole is not None:
                os.close(self._whole)
                self._whole = None
                self.whole_path.unlink(missing_ok=True)
            elif self._pieces is not None:
                first, last = start // LEAF, -(-stop // LEAF)
                os.pwrite(self._pieces, bytes(last - first), self._map_offset + first)

    def close(self) -> None:
        """Close its files."""
        with self._lock:
            self.__del__()

    def __del__(self) -> None:
        # without the lock: in a forked process, a thread that it lacks may hold it for ever
        for descriptor in (self._whole, self._pieces):
            if descriptor is not None:
                os.close(descriptor)
        self._whole = self._pieces = None

    @property
    def _map_offset(self) -> int:
        return self._leaves * LEAF

    def _find(self, start: int, stop: int) -> int | None:
        """Return the descriptor of the file that has a range."""
        if self._whole is None:
            self._whole = _open(self.whole_name, os.O_RDONLY)
            if self._whole is not None and os.fstat(self._whole).st_size != self.size:
                # cut off, for example by a loss of power
                os.close(self._whole)
                self._whole = None
                self.whole_path.unlink(missing_ok=True)
        if self._whole is not None:
            return self._whole
        if self._pieces is None:
            self._pieces = _open(self._pieces_name, os.O_RDWR)
        if self._pieces is None:
            return None
        first, last = start // LEAF, -(-stop // LEAF)
        found = os.pread(self._pieces, last - first, self._map_offset + first)
        return self._pieces if found == bytes((1,)) * (last - first) else None

    def _write_whole(self, data: Data) -> None:
        # plain calls of os: a Zarr has very many small contents
        folder, name = os.path.split(self.whole_name)
        draft = f"{folder}/.{name}.{os.getpid()}.{threading.get_ident()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(draft, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(folder, _OWNER_MODE, exist_ok=True)
            descriptor = os.open(draft, flags, 0o600)
        try:
            try:
                written = os.write(descriptor, data)
            finally:
                os.close(descriptor)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), draft)
            os.replace(draft, self.whole_name)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(draft)
            raise


def _open(path: str, flags: int) -> int | None:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    now = time.time()
    if now - os.fstat(descriptor).st_mtime > _USED_INTERVAL:
        with suppress(OSError):
            os.utime(descriptor)
    return descriptor


# --- names of contents in the cache: their digest and size


_NAME: Final = re.compile(r"[a-z0-9_]{1,16}-[0-9a-f]{16,128}(?:-[0-9]{1,18})*")


class ContentName(Struct, frozen=True):
    """The identity of a content.

    Attributes
    ----------
    algorithm
        The algorithm of the digest, such as ``sha256``, ``md5`` or ``etag``.
    value
        The digest in hex; for an ETag ``<md5>-<parts>-<part size>``.
    size
        Size of the content in bytes.
    """

    algorithm: str
    value: str
    size: int

    @property
    def is_valid(self) -> bool:
        """Whether algorithm and value have the form of a digest, so that they can name a file."""
        return _NAME.fullmatch(self.file_name) is not None

    @property
    def file_name(self) -> str:
        """The name of the files with the content or its pieces."""
        return f"{self.algorithm}-{self.value}-{self.size}"

    @property
    def folder_name(self) -> str:
        """The name of the folder that contains these files: the first characters of the digest."""
        return self.value[:2]
