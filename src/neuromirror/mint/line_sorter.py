"""Sort lines on disk, in constant memory for listings of any length."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class LineSorter:
    """Collects byte strings without newline and yields them sorted; a context manager.

    Beyond ``limit`` bytes of memory, sorted runs are written to unnamed temporary files in
    ``directory``, and merged while reading. The end of the block removes the files.
    """

    def __init__(self, directory: Path, limit: int = 24 << 20) -> None:
        self._directory = directory
        self._limit = limit
        self._lines: list[bytes] = []
        self._size = 0
        self._runs: list[IO[bytes]] = []

    def __enter__(self) -> LineSorter:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.close()
        self._runs.clear()
        self._lines.clear()

    def add(self, line: bytes) -> None:
        """Add a line.

        Parameters
        ----------
        line
            The line, in bytes.
        """
        self._lines.append(line)
        # 41: the size of a bytes object without its content, and of its list element
        self._size += len(line) + 41
        if self._size > self._limit:
            self._spill()

    def _spill(self) -> None:
        self._lines.sort()
        run: IO[bytes] = tempfile.TemporaryFile(dir=self._directory, buffering=1 << 18)  # noqa: SIM115
        self._runs.append(run)
        run.writelines(line + b"\n" for line in self._lines)
        self._lines = []
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines sorted by their bytes; may be called more than once."""
        self._lines.sort()
        if not self._runs:
            yield from self._lines
            return
        yield from heapq.merge(*(_read_run(run) for run in self._runs), self._lines)


def _read_run(run: IO[bytes]) -> Iterator[bytes]:
    run.seek(0)
    for line in run:
        yield line[:-1]
