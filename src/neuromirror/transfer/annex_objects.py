"""The object folder of a repository: where content is put, and its block digests.

Writer for git-annex's object directory that leaves the same files as git-annex.

File names and locks are git-annex's own (Annex.Content, Annex.Locations, Logs.Transfer). Small
content is written to ``othertmp``, which git-annex empties when it is unused. Large content grows
in ``tmp``, where git-annex and the next run resume it; its transfer is locked meanwhile.

Compute block digests while the bytes of a content are read for another purpose, and keep them.

The caller hashes the bytes for the key's checksum in its own thread. The leaves of the block
digests, and the sha256 if the key has another checksum, are computed in threads beside it: hashlib
releases the lock of Python's interpreter.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from msgspec.structs import replace

from neuromirror.annex import WEB_UUID, key_file_name
from neuromirror.annex.keys import ignore_progress
from neuromirror.model import (
    BlockDigests,
    BlockHasher,
    DigestedContent,
    NeuromirrorError,
    current_timestamp,
    default_piece_size,
)
from neuromirror.model.block_digests import MAX_CONTENT_SIZE, MAX_PARTS, fitting_piece_size
from neuromirror.store import Store, StoreDamagedError
from neuromirror.store.block_digests import (
    ENTRY_CONTENTS,
    OwnBlockDigests,
    digest_entries,
    digested_content,
)
from neuromirror.transfer.content_bodies import Chunk, key_checksum
from neuromirror.vault.object_files import freeze_folder, move_object, write_all

if TYPE_CHECKING:
    from neuromirror.crawl import JournalRecorder
    from neuromirror.transfer.verified_repository import MultipartEtag


class ObjectFolder(Protocol):
    """A repository with an object directory: a clone or a directory vault."""

    annex_dir: Path

    @property
    def disk_reserve(self) -> int:
        """Bytes to leave free on the disk."""
        ...

    def object_paths(self, key: str) -> Sequence[bytes]:
        """Return the possible paths of a key's object, the one to write to first."""
        ...

    def find_object(self, key: str) -> bytes | None:
        """Return the path of a key's object, None if its content is not here."""
        ...


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


_BLOCK: Final = 1 << 20
"""Bytes that are passed to another thread together."""
_MAX_QUEUED: Final = 8
"""Blocks of a content that may wait for a thread."""


class BlockDigestsRecorder:
    """Computes block digests of contents and writes them to files; thread-safe.

    Digests of contents in the index of a store are written to the store; all others to the folder
    of the user, because a store may be public. A context manager that stops its threads on exit.

    Parameters
    ----------
    store
        The store; None without one.
    journal
        Writer for the journal and the index of the store; None if they cannot be written.
    piece_size
        Size of a piece in bytes; None for the default of each content.
    report_bytes
        Called with the number of bytes of all contents hashed so far.
    """

    def __init__(
        self,
        store: Store | None = None,
        journal: JournalRecorder | None = None,
        piece_size: int | None = None,
        report_bytes: Callable[[int], None] = ignore_progress,
    ) -> None:
        self._own = OwnBlockDigests(store)
        self._journal = journal
        self._piece_size = piece_size
        self._threads = ThreadPoolExecutor(thread_name_prefix="digest")
        self._lock = threading.Lock()
        self._unrecorded: list[DigestedContent] = []
        self._parts: dict[str, MultipartEtag] = {}
        self._report_bytes = report_bytes
        self._hashed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads, and write the journal entries that are still to be written."""
        self._threads.shutdown(wait=False)
        self._record(0)

    def find(self, key: str) -> BlockDigests | None:
        """Return the block digests of a key that are intact and of this machine, or None."""
        with suppress(NeuromirrorError, OSError):
            return self._own.find(key)
        return None

    def piece_size(self, size: int | None) -> int:
        """Return the piece size in bytes for a content of a size, which is None if unknown."""
        if self._piece_size is None:
            return default_piece_size(size or 0)
        return fitting_piece_size(size or 0, self._piece_size)

    def expect_parts(self, key: str, parts: MultipartEtag) -> None:
        """Record the MD5s of a content's parts too, and compare them with a stated ETag.

        Parameters
        ----------
        key
            The annex key; an ``XS3ETAG`` key has an ETag itself.
        parts
            The ETag that the archive states.
        """
        self._parts[key] = parts

    def part_size(self, key: str) -> int | None:
        """Return the size of the parts whose MD5s are recorded; None if there are none."""
        checksum, stated = key_checksum(key), self._parts.get(key)
        part_size = checksum.part_size or (0 if stated is None else stated.part_size)
        if part_size <= 0 or -(-(checksum.size or 0) // part_size) > MAX_PARTS:
            return None
        return part_size

    def is_useful(self, key: str, size: int | None) -> bool:
        """Return whether block digests would let a reader verify parts of a key's content.

        A content of one piece whose key has a checksum can be verified as a whole.
        """
        checksum = key_checksum(key)
        size = checksum.size if size is None else size
        return not checksum.algorithm or size is None or size > self.piece_size(size)

    def is_recorded(self, key: str, size: int | None) -> bool:
        """Return whether the block digests of a key need not be computed.

        They are recorded and intact, with pieces of the requested size or smaller ones, and with
        part MD5s if the checksum in the key is computed from parts.
        """
        known = self.find(key)
        if known is None or (self.part_size(key) and known.part_size is None):
            return False
        return known.piece_size <= self.piece_size(known.size if size is None else size)

    def start(self, key: str, size: int | None) -> ContentDigester | None:
        """Return a digester for a key's content.

        None if its block digests are not needed, or if it is larger than any content that can have
        them.
        """
        if not self.is_useful(key, size) or self.is_recorded(key, size):
            return None
        checksum = key_checksum(key)
        size = checksum.size if size is None else size
        if (size or 0) > MAX_CONTENT_SIZE:
            return None
        return ContentDigester(self, key, self.piece_size(size), self._threads)

    def write(self, key: str, digests: BlockDigests) -> str:
        """Write the digests of bytes that match their key.

        Parameters
        ----------
        key
            The annex key.
        digests
            The digests.

        Returns
        -------
        str
            Why the digests were not written: other bytes were recorded for the key, or the disk is
            full. Empty if they were.
        """
        stated = self._parts.get(key)
        if stated is not None and digests.parts_etag() not in (None, stated.etag):
            found = digests.parts_etag()
            return f"different bytes: the ETag of the parts is {found}, expected {stated.etag}"
        in_store = self._is_in_index(key)
        folder = self._own.store if in_store and self._own.store else self._own.user
        try:
            written = folder.write(key, digests)
        except StoreDamagedError as error:
            return str(error)
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else str(folder.root)
            return f"its block digests cannot be written: {where}: {error.strerror}"
        if written is not None and in_store:
            with self._lock:
                self._unrecorded.append(digested_content(key, written))
            self._record(ENTRY_CONTENTS)
        return ""

    def count_bytes(self, more: int) -> None:
        """Add hashed bytes to the sum, and report it."""
        with self._lock:
            self._hashed += more
        self._report_bytes(self._hashed)

    def _is_in_index(self, key: str) -> bool:
        if self._journal is None or self._own.store is None:
            return False
        return bool(self._journal.ask(lambda index: index.files.shown_keys([key])))

    def _record(self, at_least: int) -> None:
        with self._lock:
            if len(self._unrecorded) < max(at_least, 1) or self._journal is None:
                return
            contents, self._unrecorded = self._unrecorded, []
        self._journal.record(*digest_entries(contents, current_timestamp()))


class ContentDigester:
    """Computes the block digests of one content, fed in order by one thread.

    Parameters
    ----------
    recorder
        Writes the digests.
    key
        The annex key; the caller computes the checksum in it.
    piece_size
        Size of a piece in bytes.
    threads
        Threads to hash in.
    """

    def __init__(
        self, recorder: BlockDigestsRecorder, key: str, piece_size: int, threads: ThreadPoolExecutor
    ) -> None:
        self._recorder = recorder
        self._key = key
        checksum = key_checksum(key)
        self._blocks = BlockHasher(piece_size, recorder.part_size(key))
        self._sha256 = None if checksum.algorithm == "sha256" else hashlib.sha256()
        self._pending = bytearray()
        functions: list[Callable[[Chunk], None]] = [self._blocks.update]
        if self._sha256 is not None:
            functions.append(self._sha256.update)
        self._strands = [_Strand(function, threads) for function in functions]

    def update(self, chunk: Chunk) -> None:
        """Add the next bytes; they are copied."""
        self._recorder.count_bytes(len(chunk))
        if not self._pending and len(chunk) >= _BLOCK:
            self._put(bytes(chunk))
            return
        self._pending += chunk
        if len(self._pending) >= _BLOCK:
            self._put(self._pending)
            self._pending = bytearray()

    def finish(self, checksum: str) -> str:
        """Write the digests of bytes that match their key.

        Parameters
        ----------
        checksum
            The checksum of the bytes by the key's algorithm, empty if the key has none.

        Returns
        -------
        str
            Why the digests were not written, as :meth:`BlockDigestsRecorder.write`.
        """
        self._put(self._pending)
        self._pending = bytearray()
        for strand in self._strands:
            strand.wait()
        sha256 = checksum if self._sha256 is None else self._sha256.hexdigest()
        digests = self._blocks.finish(sha256)
        if "-" in checksum and digests.parts_etag() not in (checksum, None):
            # the upload had parts of another size than the key
            digests = replace(digests, part_size=None, part_md5s=b"")
        return self._recorder.write(self._key, digests)

    def _put(self, block: Chunk) -> None:
        for strand in self._strands:
            strand.put(block)


class _Strand:
    """Calls a function with one block after the other, in order, in threads that others share.

    No thread belongs to it, so that it can be abandoned at any time.
    """

    def __init__(self, function: Callable[[Chunk], None], threads: ThreadPoolExecutor) -> None:
        self._function = function
        self._threads = threads
        self._queue: deque[Chunk] = deque()
        self._is_running = False
        self._changed = threading.Condition()

    def put(self, block: Chunk) -> None:
        """Add a block; wait while too many are queued."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) < _MAX_QUEUED)
            self._queue.append(block)
            if not self._is_running:
                self._is_running = True
                self._threads.submit(self._run)

    def wait(self) -> None:
        """Wait until all blocks are processed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_running)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.notify_all()
                if not self._queue:
                    self._is_running = False
                    return
                block = self._queue.popleft()
            self._function(block)
