"""The files of a version against those of the version before, as a merge of two sorted streams.

Memory stays flat: both sides are read some thousand rows at a time, and what a batch changes is
written before the next is read. A file that is as it was costs reads only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from neuromirror.index.contents import ContentWriter
from neuromirror.index.errors import JournalBroken
from neuromirror.index.locations import LocationWriter
from neuromirror.model import Location, PlacedFile

_BATCH = 4000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a version held (``files``) and what it brought (``contents`` never seen before)."""

    files: int
    contents: int


@dataclass(frozen=True, slots=True)
class _OpenRow:
    path: str
    since: int
    content: int
    source_path: bytes | None


@dataclass(frozen=True, slots=True)
class _NewFile:
    path: str
    placed: PlacedFile


_Pair = tuple[_OpenRow | None, _NewFile | None]


def record_files(
    connection: sqlite3.Connection,
    dataset: int,
    version: int,
    seq: int,
    records: Iterable[PlacedFile],
    where: str,
) -> Recorded:
    """Close and open the dataset's file rows so that they hold at version ``seq``.

    ``records`` must be sorted by the bytes of ``git_path``, each path once; raises
    :class:`JournalBroken` (naming ``where``) if they are not.
    """
    batch = _Batch(connection, dataset, version, seq)
    files = 0
    pairs: list[_Pair] = []
    for pair in _merged(_open_rows(connection, dataset, seq), _checked(records, where)):
        files += pair[1] is not None
        pairs.append(pair)
        if len(pairs) >= _BATCH:
            batch.write(pairs)
            pairs = []
    batch.write(pairs)
    return Recorded(files, batch.contents.added)


def _checked(records: Iterable[PlacedFile], where: str) -> Iterator[_NewFile]:
    before: bytes | None = None
    for placed in records:
        if before is not None and placed.git_path <= before:
            raise JournalBroken(
                f"the records of {where} are not sorted: {placed.git_path!r} after {before!r}; "
                "the store is damaged: run `neuromirror audit`"
            )
        before = placed.git_path
        try:
            yield _NewFile(before.decode("utf-8"), placed)
        except UnicodeDecodeError as error:
            raise JournalBroken(
                f"the records of {where} hold a path in git that is not UTF-8: {before!r}; "
                "the store is damaged: run `neuromirror audit`"
            ) from error


def _open_rows(connection: sqlite3.Connection, dataset: int, seq: int) -> Iterator[_OpenRow]:
    """The rows open before this version, by path; page by page, as rows are written meanwhile."""
    after = ""
    while True:
        page = connection.execute(
            "SELECT path, since, content, source_path FROM files WHERE dataset = ? AND path > ? "
            "AND until IS NULL AND since < ? ORDER BY path LIMIT ?",
            (dataset, after, seq, _BATCH),
        ).fetchall()
        for row in page:
            yield _OpenRow(*row)
        if len(page) < _BATCH:
            return
        after = page[-1][0]


def _merged(old: Iterator[_OpenRow], new: Iterator[_NewFile]) -> Iterator[_Pair]:
    # code points sort as their UTF-8 bytes do, so both sides agree on the order
    row, file = next(old, None), next(new, None)
    while row is not None or file is not None:
        if file is None or (row is not None and row.path < file.path):
            yield row, None
            row = next(old, None)
        elif row is None or file.path < row.path:
            yield None, file
            file = next(new, None)
        else:
            yield row, file
            row, file = next(old, None), next(new, None)


class _Batch:
    """Writes some thousand pairs at a time."""

    def __init__(
        self, connection: sqlite3.Connection, dataset: int, version: int, seq: int
    ) -> None:
        self._db = connection
        self._dataset = dataset
        self._seq = seq
        self.contents = ContentWriter(connection)
        self._locations = LocationWriter(connection, version)

    def write(self, pairs: list[_Pair]) -> None:
        files = [file.placed for _, file in pairs if file is not None]
        ids, fresh = self.contents.resolve(files)
        contents = iter(ids)
        closed: list[tuple[int, int, str, int]] = []
        opened: list[tuple[int, str, int, int, bytes | None]] = []
        places: list[tuple[int, bool, bool, Location]] = []
        for row, file in pairs:
            if file is None:
                assert row is not None
                closed.append((self._seq, self._dataset, row.path, row.since))
                continue
            content = next(contents)
            placed = file.placed
            source = placed.record.path
            source_path = None if source == placed.git_path else source
            changed = row is None or (row.content, row.source_path) != (content, source_path)
            if changed:
                if row is not None:
                    closed.append((self._seq, self._dataset, row.path, row.since))
                opened.append((self._dataset, file.path, self._seq, content, source_path))
            new = content in fresh
            for place in placed.record.locations:
                places.append((content, new, changed, place))
        self._db.executemany(
            "UPDATE files SET until = ? WHERE dataset = ? AND path = ? AND since = ?", closed
        )
        self._db.executemany(
            "INSERT INTO files (dataset, path, since, content, source_path) VALUES (?,?,?,?,?)",
            opened,
        )
        self._locations.learn(places)
