"""External sorting of lines, so that memory stays flat however long a listing is."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class LineSorter:
    """Takes byte strings without newline, in any order, and gives them back sorted.

    Lines wait in memory up to ``limit`` bytes; beyond that sorted runs go to unnamed temporary
    files in ``directory``, merged while reading. Use as a context manager, so that the files go.
    """

    def __init__(self, directory: Path, limit: int = 32 << 20) -> None:
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
        """One more line."""
        self._lines.append(line)
        # 41: a bytes object's own size and its place in the list
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
        """The lines in order of their bytes; may be asked for again."""
        self._lines.sort()
        if not self._runs:
            yield from self._lines
            return
        yield from heapq.merge(*(_read_run(run) for run in self._runs), self._lines)


def _read_run(run: IO[bytes]) -> Iterator[bytes]:
    run.seek(0)
    for line in run:
        yield line[:-1]
