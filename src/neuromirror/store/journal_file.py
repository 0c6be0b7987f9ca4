"""Append to and read the store's journal: a file with one JSON entry per line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from neuromirror.model import JournalEntry, dump_entry, load_entry
from neuromirror.store.durable_files import fsync_path, write_atomically
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.locks import file_lock


class JournalFile:
    """Appends entries to the journal file and reads them; positions in it are in bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, entries: Iterable[JournalEntry]) -> None:
        """Append entries and fsync the file; readers see complete entries only.

        Raises ValueError for an entry that could not be parsed again: it would block the store.
        """
        lines = [dump_entry(entry) for entry in entries]
        if not lines:
            return
        for line in lines:
            load_entry(line)
        block = b"".join(lines)
        with (
            file_lock(self._path.with_suffix(".lock"), "the journal", wait=60),
            self._path.open("a+b") as file,
        ):
            is_new = _drop_torn_line(file.fileno()) == 0
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            if is_new:
                fsync_path(self._path.parent)

    def drop_entries(self, should_drop: Callable[[JournalEntry], bool]) -> list[bytes]:
        """Remove entries and return their lines; the caller must rebuild the index."""
        with file_lock(self._path.with_suffix(".lock"), "the journal", wait=60):
            dropped: list[bytes] = []
            kept: list[bytes] = []
            for line in self._path.read_bytes().splitlines(keepends=True):
                is_dropped = line.endswith(b"\n") and should_drop(load_entry(line))
                (dropped if is_dropped else kept).append(line)
            if dropped:
                write_atomically(self._path, b"".join(kept))
        return dropped

    def size(self) -> int:
        """Return the size of the file in bytes."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def read_entries(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the entries from a position on, each with the position of its end.

        A last line without a newline is ignored: its writer was killed.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                position += len(line)
                try:
                    yield position, load_entry(line)
                except ValueError as error:
                    raise StoreDamagedError(
                        f"{self._path}: invalid entry in the line that ends at byte {position}: "
                        f"{error}. Move the file away and run 'neuromirror rebuild-index'."
                    ) from error


def _drop_torn_line(handle: int) -> int:
    """Truncate the file after its last newline; return its size."""
    size = os.fstat(handle).st_size
    end = size
    while end:
        begin = max(0, end - 4096)
        newline = os.pread(handle, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end != size:
        os.ftruncate(handle, end)
    return end
