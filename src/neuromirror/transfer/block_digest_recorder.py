"""Compute block digests while the bytes of a content are read for another purpose, and keep them.

The caller hashes the bytes for the key's checksum in its own thread. The leaves of the block
digests, and the sha256 if the key has another checksum, are computed in threads beside it: hashlib
releases the lock of Python's interpreter.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from neuromirror.annex.etags import ignore_progress
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
    BlockDigestsFolder,
    digest_entries,
    digested_content,
)
from neuromirror.transfer.key_checksums import Chunk, key_checksum

if TYPE_CHECKING:
    from neuromirror.crawl import JournalRecorder
    from neuromirror.transfer.verify_items import MultipartEtag

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
        self._user_folder = BlockDigestsFolder.of_user()
        self._store_folder = None if store is None else BlockDigestsFolder.of_store(store)
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
        """Return the intact block digests of a key in the store or the user's folder, or None."""
        for folder in (self._store_folder, self._user_folder):
            with suppress(NeuromirrorError, OSError):
                if folder is not None and (found := folder.read(key)) is not None:
                    return found
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
        folder = self._store_folder if in_store and self._store_folder else self._user_folder
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
        if self._journal is None or self._store_folder is None:
            return False
        return bool(self._journal.ask(lambda index: index.shown_keys([key])))

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
        self,
        recorder: BlockDigestsRecorder,
        key: str,
        piece_size: int,
        threads: ThreadPoolExecutor,
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
        self._strands = [_Strand(one, threads) for one in functions]

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
        return self._recorder.write(self._key, self._blocks.finish(sha256))

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
