"""Writer for git-annex's object directory that leaves the same files as git-annex.

File names and locks are git-annex's own (Annex.Content, Annex.Locations, Logs.Transfer). Small
content is written to ``othertmp``, which git-annex empties when it is unused. Large content grows
in ``tmp``, where git-annex and the next run resume it; its transfer is locked meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from neuromirror.annex import WEB_UUID, key_file_name
from neuromirror.model import NeuromirrorError
from neuromirror.transfer.object_sink import ObjectFolder
from neuromirror.vault.object_files import freeze_folder, move_object, write_all

_WRITE_BITS: Final = 0o222
_OWNER_READS: Final = 0o400
_PREFIX: Final = b"neuromirror-"
_PART: Final = 64


class InsufficientSpaceError(NeuromirrorError):
    """The disk has too little free space for the content and ``annex.diskreserve``."""


class TransferBusyError(NeuromirrorError):
    """Another process is downloading the same content."""


class AnnexObjectStore:
    """Writes content to the object directory of a repository as git-annex does.

    It is thread-safe, and a context manager.

    Parameters
    ----------
    clone
        A clone (``.git/annex/objects``) or a directory vault.
    bypass_page_cache
        Whether to write large content directly to the disk.
    """

    def __init__(self, clone: ObjectFolder, *, bypass_page_cache: bool = False) -> None:
        self.bypasses_page_cache = bypass_page_cache
        self._clone = clone
        annex = os.fsencode(clone.annex_dir)
        self._annex = annex
        self._temporary = annex + b"/othertmp"
        self._lock_file = annex + b"/othertmp.lck"
        self._partial = annex + b"/tmp"
        self._transfers = annex + b"/transfer/download"
        self._reserve = clone.disk_reserve
        self._numbers = itertools.count()
        self._prefix = b"/%s%d-" % (_PREFIX, os.getpid())
        self._reserved_bytes = 0
        self._spare = 0
        self._space_lock = threading.Lock()
        self._lock = -1

    def __enter__(self) -> AnnexObjectStore:
        self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with suppress(OSError):
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_stale_files()
        # git-annex does not empty othertmp while this shared lock is held
        fcntl.lockf(self._lock, fcntl.LOCK_SH)
        os.makedirs(self._temporary, exist_ok=True)
        os.makedirs(self._partial, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _remove_stale_files(self) -> None:
        """Remove files of killed runs from ``othertmp``; the exclusive lock must be held."""
        for entry in os.scandir(self._temporary):
            if entry.name.startswith(_PREFIX):
                os.unlink(entry.path)

    @contextmanager
    def reserve_space(self, size: int | None, there: int = 0) -> Iterator[None]:
        """Reserve disk space for content while it is downloaded.

        Parameters
        ----------
        size
            Size of the content in bytes, None if unknown.
        there
            Number of these bytes that are already on disk.

        Raises
        ------
        InsufficientSpaceError
            Less than ``annex.diskreserve`` would stay free.
        """
        more = max((size or 1) - there, 0)
        with self._space_lock:
            self.check_space(more)
            self._reserved_bytes += more
        try:
            yield
        finally:
            with self._space_lock:
                self._reserved_bytes -= more

    def check_space(self, more: int = 0) -> None:
        """Raise InsufficientSpaceError if ``more`` bytes do not fit beside the reserved ones."""
        self._spare -= more
        if more and self._spare > 0:
            return
        found = os.statvfs(self._annex)
        free = found.f_bavail * found.f_frsize - self._reserved_bytes - self._reserve
        # calling statvfs for each of many small files is slow: allow a fraction of the free space
        # before the next call
        self._spare = free // _PART
        short = more - free
        if short > 0:
            raise InsufficientSpaceError(
                f"not enough free space: {short} more bytes are needed; free some, or adjust "
                "annex.diskreserve"
            )

    def put(self, key: str, content: memoryview) -> None:
        """Store verified content that is completely in memory."""
        path = self._temporary + self._prefix + b"%d" % next(self._numbers)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            try:
                write_all(file, content)
            finally:
                os.close(file)
            self._move_to_object_path(key, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise

    @contextmanager
    def open_partial(self, key: str) -> Iterator[int]:
        """Yield the file descriptor of a key's partial content.

        It may hold bytes of an earlier attempt.

        Raises
        ------
        TransferBusyError
            Another process is downloading the key.
        """
        name = key_file_name(key)
        with self._locked(name):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            try:
                file = os.open(self._partial + b"/" + name, flags, 0o666)
            except PermissionError:
                os.chmod(self._partial + b"/" + name, 0o644)
                file = os.open(self._partial + b"/" + name, flags, 0o666)
            try:
                yield file
            finally:
                os.close(file)

    def finish_partial(self, key: str, file: int) -> None:
        """Move verified partial content to its object path."""
        os.fchmod(file, os.fstat(file).st_mode & 0o777 & ~_WRITE_BITS | _OWNER_READS)
        self._move_to_object_path(key, self._partial + b"/" + key_file_name(key))

    def discard_partial(self, key: str) -> None:
        """Delete partial content."""
        with suppress(FileNotFoundError):
            os.unlink(self._partial + b"/" + key_file_name(key))

    @contextmanager
    def _locked(self, name: bytes) -> Iterator[None]:
        """Hold the transfer locks of a key: the current one, and that of older git-annex."""
        held: list[tuple[int, bytes]] = []
        try:
            for folder in (b"lck", WEB_UUID.encode()):
                path = b"%s/%s/lck.%s" % (self._transfers, folder, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                held.append((lock, path))
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    sane = os.fstat(lock).st_ino == os.stat(path).st_ino
                except OSError as error:
                    if error.errno not in (errno.EACCES, errno.EAGAIN, errno.ENOENT):
                        raise
                    sane = False
                if not sane:
                    os.close(held.pop()[0])
                    raise TransferBusyError("another process is downloading it; try again later")
            yield
        finally:
            for lock, path in reversed(held):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                os.close(lock)

    def _move_to_object_path(self, key: str, path: bytes) -> None:
        if self._clone.find_object(key) is not None:
            os.unlink(path)
        else:
            move_object(path, self._clone.object_paths(key)[0])

    def repair(self, key: str) -> bool:
        """Finish an object that a killed run left incomplete.

        Return whether the content is present.
        """
        found = self._clone.find_object(key)
        if found is None:
            return False
        freeze_folder(os.path.dirname(found))
        return True
