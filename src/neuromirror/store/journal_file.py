"""Append to and read the store's journal: a file with one JSON entry per line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from neuromirror.model import JournalEntry, dump_entry, load_entry
from neuromirror.store.durable_files import fsync_path, write_atomically
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.locks import file_lock


class Journal:
    """The journal of a store, the append-only file ``path``; positions in it are in bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, *entries: JournalEntry) -> None:
        """Append entries to the journal and fsync it; readers see complete entries only.

        Parameters
        ----------
        *entries
            The entries, in order.

        Raises
        ------
        ValueError
            An entry could not be parsed again: it would block the store.
        """
        lines = [dump_entry(entry) for entry in entries]
        if not lines:
            return
        for line in lines:
            load_entry(line)
        block = b"".join(lines)
        with (
            file_lock(self.path.with_suffix(".lock"), "the journal", wait=60),
            self.path.open("a+b") as file,
        ):
            is_new = _drop_torn_line(file.fileno()) == 0
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            if is_new:
                fsync_path(self.path.parent)

    def drop(self, should_drop: Callable[[JournalEntry], bool]) -> list[bytes]:
        """Remove entries from the journal; the caller must rebuild the index.

        Parameters
        ----------
        should_drop
            Returns whether an entry is removed.

        Returns
        -------
        list[bytes]
            The removed lines.
        """
        return self.drop_lines(lambda line: should_drop(load_entry(line)))

    def drop_lines(
        self, should_drop: Callable[[bytes], bool], *, dry_run: bool = False
    ) -> list[bytes]:
        """Remove complete lines from the journal as :meth:`drop` does; return them."""
        with file_lock(self.path.with_suffix(".lock"), "the journal", wait=60):
            dropped: list[bytes] = []
            kept: list[bytes] = []
            for line in self.path.read_bytes().splitlines(keepends=True):
                is_dropped = line.endswith(b"\n") and should_drop(line)
                (dropped if is_dropped else kept).append(line)
            if dropped and not dry_run:
                write_atomically(self.path, b"".join(kept))
        return dropped

    def size(self) -> int:
        """Return the size of the journal in bytes.

        Returns
        -------
        int
            Bytes.
        """
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the journal entries from a byte position on, each with the position of its end.

        A last line without a newline is ignored: its writer was killed.

        Parameters
        ----------
        position
            The byte position of the start of an entry.

        Yields
        ------
        tuple[int, JournalEntry]
            The position of the entry's end, and the entry.

        Raises
        ------
        StoreDamagedError
            An entry is invalid.
        """
        try:
            file = self.path.open("rb")
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
                        f"{self.path}: invalid entry in the line that ends at byte "
                        f"{position}: {error}. Run 'neuromirror repair', which moves the line to "
                        "quarantine and reads the versions from git."
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
