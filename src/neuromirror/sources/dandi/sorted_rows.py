"""Sorting of any number of listing rows by key, on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Final

from neuromirror.net import ObjectRow
from neuromirror.sources.s3.row_spool import read_rows, write_row

_RUN: Final = 50_000

_key = attrgetter("key")


class SortedRows:
    """Rows sorted by key, which can be iterated repeatedly.

    The constructor reads all ``rows``. From 50,000 rows on they are stored in files in ``folder``,
    which the caller removes.
    """

    def __init__(self, rows: Iterable[ObjectRow], folder: Path) -> None:
        self._folder = folder
        self._runs: list[Path] = []
        self._left: list[ObjectRow] = []
        for row in rows:
            self._left.append(row)
            if len(self._left) >= _RUN:
                self._write()
        self._left.sort(key=_key)

    def _write(self) -> None:
        self._left.sort(key=_key)
        path = self._folder / f"run-{len(self._runs)}"
        with path.open("xb", buffering=1 << 18) as file:
            for row in self._left:
                write_row(file, row)
        self._runs.append(path)
        self._left = []

    def __iter__(self) -> Iterator[ObjectRow]:
        if not self._runs:
            return iter(self._left)
        return merge(*map(_read, self._runs), self._left, key=_key)


def _read(path: Path) -> Iterator[ObjectRow]:
    with path.open("rb", buffering=1 << 16) as file:
        yield from read_rows(file)
