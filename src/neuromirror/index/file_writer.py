"""Write the files of a version over those of the version before: all of them, or the changes.

Memory use is constant: a few thousand files are read at a time, and their changes are written
before the next are read. A file with an unchanged record costs one comparison, so that a complete
listing and a list of changes leave the same rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from msgspec import Struct
from msgspec.structs import astuple

from neuromirror.index.connection import JournalDamagedError
from neuromirror.index.contents import ContentWriter, LocationWriter, insert_rows, short_hash
from neuromirror.index.dataset_text import PathTermWriter
from neuromirror.index.rows import RETENTION
from neuromirror.model import (
    Change,
    Location,
    RecordLine,
    Retention,
    dump_snapshot_entry,
    parse_record_line,
    record_line_of,
)

_BATCH = 8000
_INTO_FILES = "files (dataset, path, since, content, source_path, record_hash, retention)"

_Row = tuple[str, int, int, bytes | None, int]
"""An open row of ``files``: path, since, content, source_path, record_hash."""

_File = tuple[str, int, RecordLine]
"""Path, hash of the record line, record."""

_Pair = tuple[_Row | None, _File | None]


class RecordCounts(Struct, frozen=True):
    """The results of writing one version to the index.

    Attributes
    ----------
    files
        The number of files of the version.
    contents
        The number of contents that no earlier version of any dataset had.
    subdatasets
        The number of subdatasets of the version.
    """

    files: int
    contents: int
    subdatasets: int


def record_files(
    connection: sqlite3.Connection,
    dataset: int,
    version: int,
    seq: int,
    lines: Iterable[bytes],
    where: str,
    *,
    index_terms: bool = True,
) -> RecordCounts:
    """Write the files and subdatasets of a version, given the complete list of them.

    Parameters
    ----------
    connection : sqlite3.Connection
        The connection; the caller has opened a transaction.
    dataset, version, seq : int
        The ids of the dataset and version, and the version's ordinal.
    lines : iterable of bytes
        Record lines, sorted by the bytes of their git paths, each path once.
    where : str
        The version's name, for messages.
    index_terms : bool
        Whether searches find the dataset by words in the paths that the version adds.

    Raises
    ------
    JournalDamagedError
        If the lines are malformed or not sorted.
    """
    batch = _BatchWriter(connection, dataset, version, seq, index_terms)
    subdatasets = SubdatasetWriter(connection, dataset, seq)
    files = 0
    pairs: list[_Pair] = []
    new = _read_files(lines, subdatasets, where)
    old = _open_rows(connection, dataset, seq)
    first = next(old, None)
    if first is None:
        # most complete listings are the first of a dataset, without rows to compare with
        while some := list(islice(new, _BATCH)):
            files += len(some)
            batch.write_new(some)
    else:
        for row, file in _merge(chain((first,), old), new):
            files += file is not None
            if row is not None and file is not None and row[4] == file[1]:
                continue
            pairs.append((row, file))
            if len(pairs) >= _BATCH:
                batch.write(pairs)
                pairs = []
        batch.write(pairs)
    batch.close()
    subdatasets.remove_unseen()
    return RecordCounts(files, batch.contents.added_count, subdatasets.count)


def record_changes(
    connection: sqlite3.Connection,
    dataset: int,
    version: int,
    seq: int,
    before: int,
    changes: Iterable[Change],
    where: str,
    *,
    index_terms: bool = True,
) -> RecordCounts:
    """Write the files and subdatasets of a version, given only the changes to the version before.

    Parameters
    ----------
    connection, dataset, version, seq, where, index_terms
        As for :func:`record_files`.
    before
        The number of files of the version before, which must be the last one in the index.
    changes
        The changes, sorted by the bytes of their git paths.

    Returns
    -------
    RecordCounts
        The counts of the version.

    Raises
    ------
    JournalDamagedError
        If the changes are not sorted, or do not fit the files of the version before.
    """
    batch = _BatchWriter(connection, dataset, version, seq, index_terms)
    subdatasets = SubdatasetWriter(connection, dataset, seq)
    files = before
    pairs = _match_changes(connection, dataset, seq, changes, subdatasets, where)
    while some := list(islice(pairs, _BATCH)):
        files += sum((file is not None) - (row is not None) for row, file in some)
        batch.write([(r, f) for r, f in some if r is None or f is None or r[4] != f[1]])
    batch.close()
    return RecordCounts(files, batch.contents.added_count, subdatasets.count)


def record_subdatasets(
    connection: sqlite3.Connection, dataset: int, seq: int, lines: Iterable[bytes], where: str
) -> RecordCounts:
    """Write the subdatasets, but not the files, of a version whose files are not indexed.

    The files of the version before are no longer current. The parameters are those of
    :func:`record_files`; the files are only counted.
    """
    connection.execute(
        "UPDATE files SET until = ? WHERE dataset = ? AND until IS NULL AND since < ?",
        (seq, dataset, seq),
    )
    subdatasets = SubdatasetWriter(connection, dataset, seq)
    files = 0
    for line in lines:
        record = _parse_record(line, where)
        if record.subdataset is None:
            files += 1
        else:
            subdatasets.add(record.git, record)
    subdatasets.remove_unseen()
    return RecordCounts(files, 0, subdatasets.count)


def update_records(
    connection: sqlite3.Connection,
    dataset: int,
    version: int,
    seq: int,
    lines: Iterable[bytes],
    where: str,
) -> None:
    """Write new records of files that a version in the index has: digests and locations.

    Parameters
    ----------
    connection, dataset, version, seq, where
        As for :func:`record_files`.
    lines
        The new record lines.
    """
    contents = ContentWriter(connection)
    locations = LocationWriter(connection, version, is_renewal=True)
    rest = iter(lines)
    while batch := list(islice(rest, _BATCH)):
        parsed = [(short_hash(line), _parse_record(line, where)) for line in batch]
        files = [(hashed, record) for hashed, record in parsed if record.subdataset is None]
        ids, first_new = contents.resolve([record for _, record in files])
        connection.executemany(
            f"UPDATE files SET content = ?3, record_hash = ?2, {_SET_RETENTION} WHERE dataset = ?4 "
            "AND path = ?5 AND since <= ?6 AND (until IS NULL OR until > ?6)",
            (
                (_retention_rank(record), hashed, content, dataset, record.git, seq)
                for content, (hashed, record) in zip(ids, files, strict=True)
            ),
        )
        locations.add(
            (content, content >= first_new, True, record.locations)
            for content, (_, record) in zip(ids, files, strict=True)
        )


def _read_files(
    lines: Iterable[bytes], subdatasets: SubdatasetWriter, where: str
) -> Iterator[_File]:
    """Yield the files; record the subdatasets among them."""
    before = ""
    for line in lines:
        record = _parse_record(line, where)
        path = record.git
        # code points sort as their UTF-8 bytes do
        if path <= before:
            raise JournalDamagedError(
                f"the records of {where} are not sorted: {path!r} after {before!r}; "
                "the store is damaged: run `neuromirror fsck`"
            )
        before = path
        if record.subdataset is not None:
            subdatasets.add(path, record)
        else:
            yield path, short_hash(line), record


def _parse_record(line: bytes, where: str) -> RecordLine:
    try:
        return parse_record_line(line)
    except ValueError as error:
        raise JournalDamagedError(
            f"the records of {where} hold a malformed line ({error}); "
            "the store is damaged: run `neuromirror fsck`"
        ) from error


def _decode_path(path: bytes, where: str) -> str:
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JournalDamagedError(
            f"the records of {where} hold a path in git that is not UTF-8: {path!r}; "
            "the store is damaged: run `neuromirror fsck`"
        ) from error


def _match_changes(
    connection: sqlite3.Connection,
    dataset: int,
    seq: int,
    changes: Iterable[Change],
    subdatasets: SubdatasetWriter,
    where: str,
) -> Iterator[_Pair]:
    """Yield each changed file with the open row at its path; record changed subdatasets."""
    before: bytes | None = None
    for old, new in changes:
        paths = {side.git_path for side in (old, new) if side is not None}
        path = paths.pop() if len(paths) == 1 else b""
        if paths or not path or (before is not None and path <= before):
            raise JournalDamagedError(
                f"the changes of {where} are not sorted pairs: {path!r} after {before!r}; "
                "the store is damaged: run `neuromirror fsck`"
            )
        before = path
        name = _decode_path(path, where)
        row: _Row | None = connection.execute(
            "SELECT path, since, content, source_path, record_hash FROM files "
            "WHERE dataset = ? AND path = ? AND until IS NULL AND since < ?",
            (dataset, name, seq),
        ).fetchone()
        was_subdataset = old is not None and old.subdataset is not None
        was_file = old is not None and not was_subdataset
        if (row is not None) != was_file or subdatasets.was_present(name) != was_subdataset:
            presence = "present" if row is not None or subdatasets.was_present(name) else "absent"
            raise JournalDamagedError(
                f"the changes of {where} do not match the version before: {name!r} was {presence}; "
                "the store is damaged: run `neuromirror fsck`"
            )
        is_subdataset = new is not None and new.subdataset is not None
        if new is not None and is_subdataset:
            subdatasets.add(name, record_line_of(new))
        elif was_subdataset:
            subdatasets.remove(name)
        if new is not None and not is_subdataset:
            yield row, (name, short_hash(dump_snapshot_entry(new)), record_line_of(new))
        elif row is not None:
            yield row, None


def _open_rows(connection: sqlite3.Connection, dataset: int, seq: int) -> Iterator[_Row]:
    """Yield the rows open before this version by path; in pages, as rows are written meanwhile."""
    after = ""
    while True:
        page = connection.execute(
            "SELECT path, since, content, source_path, record_hash FROM files WHERE dataset = ? "
            "AND path > ? AND until IS NULL AND since < ? ORDER BY path LIMIT ?",
            (dataset, after, seq, _BATCH),
        ).fetchall()
        yield from page
        if len(page) < _BATCH:
            return
        after = page[-1][0]


def _merge(old: Iterator[_Row], new: Iterator[_File]) -> Iterator[_Pair]:
    # code points sort as their UTF-8 bytes do, so both sides agree on the order
    row, file = next(old, None), next(new, None)
    while row is not None and file is not None:
        if row[0] == file[0]:
            yield row, file
            row, file = next(old, None), next(new, None)
        elif row[0] < file[0]:
            yield row, None
            row = next(old, None)
        else:
            yield None, file
            file = next(new, None)
    while row is not None:
        yield row, None
        row = next(old, None)
    while file is not None:
        yield None, file
        file = next(new, None)


_RETENTION_RANKS = {retention: rank for rank, retention in enumerate(RETENTION)}
_ARCHIVED = _RETENTION_RANKS[Retention.ARCHIVED]
_SET_RETENTION = (
    f"retention = CASE WHEN {_ARCHIVED} IN (retention, ?1) THEN ?1 ELSE max(retention, ?1) END"
)
"""Keeps the strongest retention; that a file is archived holds until upstream states otherwise."""


def _retention_rank(record: RecordLine) -> int:
    return _RETENTION_RANKS[record.retention] if record.archived is None else _ARCHIVED


class _BatchWriter:
    """Writes a few thousand pairs at a time."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        dataset: int,
        version: int,
        seq: int,
        index_terms: bool,
    ) -> None:
        self._path_terms = PathTermWriter(connection, version) if index_terms else None
        self._db = connection
        self._dataset = dataset
        self._seq = seq
        self.contents = ContentWriter(connection)
        self._locations = LocationWriter(connection, version)

    def write(self, pairs: list[_Pair]) -> None:
        ids, first_new = self.contents.resolve([file[2] for _, file in pairs if file is not None])
        contents = iter(ids)
        dataset, seq = self._dataset, self._seq
        closed: list[tuple[int, int, str, int]] = []
        opened: list[tuple[int, str, int, int, bytes | None, int, int]] = []
        rewritten: list[tuple[int, int, int, str, int]] = []
        locations: list[tuple[int, bool, bool, tuple[Location, ...]]] = []
        for row, file in pairs:
            if file is None:
                assert row is not None
                closed.append((seq, dataset, row[0], row[1]))
                continue
            path, hashed, record = file
            content = next(contents)
            source_path, retention_rank = record.source_path, _retention_rank(record)
            changed = row is None or row[2] != content or row[3] != source_path
            if row is not None and not changed:
                rewritten.append((retention_rank, hashed, dataset, path, row[1]))
            else:
                if row is not None:
                    closed.append((seq, dataset, path, row[1]))
                opened.append((dataset, path, seq, content, source_path, hashed, retention_rank))
            locations.append((content, content >= first_new, changed, record.locations))
        self._db.executemany(
            "UPDATE files SET until = ? WHERE dataset = ? AND path = ? AND since = ?", closed
        )
        self._db.executemany(
            f"UPDATE files SET record_hash = ?2, {_SET_RETENTION} "
            "WHERE dataset = ?3 AND path = ?4 AND since = ?5",
            rewritten,
        )
        insert_rows(self._db, _INTO_FILES, opened)
        self._locations.add(locations)
        if self._path_terms is not None:
            self._path_terms.add(row[1] for row in opened)

    def write_new(self, files: list[_File]) -> None:
        """Write files at paths without an open row."""
        records = [record for _, _, record in files]
        before = self.contents.added_count
        ids, first_new = self.contents.resolve(records)
        dataset, seq = self._dataset, self._seq
        opened = [
            (dataset, path, seq, content, record.source_path, hashed, _retention_rank(record))
            for (path, hashed, record), content in zip(files, ids, strict=True)
        ]
        insert_rows(self._db, _INTO_FILES, opened)
        if self.contents.added_count - before == len(files):
            self._locations.add_new(ids, records)
        else:
            self._locations.add(
                (content, content >= first_new, True, record.locations)
                for content, record in zip(ids, records, strict=True)
            )
        if self._path_terms is not None:
            self._path_terms.add(path for path, _, _ in files)

    def close(self) -> None:
        """Write the remaining path terms."""
        if self._path_terms is not None:
            self._path_terms.close()


_Values = tuple[str, str, str, str, int, int, bytes | None]
"""Dataset id, local id, commit, state, files, bytes, upstream's path if it differs."""


class SubdatasetWriter:
    """Writes the subdatasets of version ``seq`` of a dataset over those of the version before.

    For use within one transaction, which the caller opens. A version has few subdatasets compared
    with files, so all of them fit in memory.
    """

    def __init__(self, connection: sqlite3.Connection, dataset: int, seq: int) -> None:
        self._db = connection
        self._dataset = dataset
        self._seq = seq
        self._before: dict[str, tuple[int, _Values]] = {
            path: (since, tuple(values))
            for path, since, *values in connection.execute(
                "SELECT path, since, dataset_id, local_id, commit_id, state, files, bytes, "
                "source_path FROM subdatasets WHERE dataset = ? AND until IS NULL AND since < ?",
                (dataset, seq),
            )
        }
        self._unseen = dict.fromkeys(self._before)
        self._added = 0

    @property
    def count(self) -> int:
        """The number of subdatasets of the version added so far."""
        return len(self._before) + self._added

    def was_present(self, path: str) -> bool:
        """Return whether the version before has a subdataset at this path of the git tree."""
        return path in self._before

    def add(self, path: str, record: RecordLine) -> None:
        """Add a subdataset of the version: new, changed or unchanged."""
        subdataset = record.subdataset
        assert subdataset is not None
        values: _Values = (*astuple(subdataset), record.source_path)
        known = self._before.get(path)
        if known is None:
            self._added += 1
        else:
            del self._unseen[path]
            if known[1] == values:
                return
            self._close(path)
        self._db.execute(
            "INSERT INTO subdatasets (dataset, path, since, dataset_id, local_id, commit_id, "
            "state, files, bytes, source_path) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (self._dataset, path, self._seq, *values),
        )

    def remove(self, path: str) -> None:
        """Remove a subdataset of the version before."""
        self._added -= 1
        del self._unseen[path]
        self._close(path)

    def remove_unseen(self) -> None:
        """Remove all subdatasets that were not added, after a complete listing."""
        for path in list(self._unseen):
            self.remove(path)

    def _close(self, path: str) -> None:
        self._db.execute(
            "UPDATE subdatasets SET until = ? WHERE dataset = ? AND path = ? AND since = ?",
            (self._seq, self._dataset, path, self._before[path][0]),
        )
