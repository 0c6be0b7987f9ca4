"""How queries read the index: rows with SQLite's errors translated, results kept, names found."""

from __future__ import annotations

import difflib
import inspect
import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

from neuromirror.index.connection import (
    DATABASE_ERRORS,
    STOPPED_MESSAGE,
    DatasetWithdrawnError,
    QueryStoppedError,
    ReadConnection,
    UnknownDatasetError,
    UnknownMirrorError,
    damage_error,
    raise_translated,
    translate_errors,
)
from neuromirror.index.contents import CHECKED_BITS
from neuromirror.index.rows import VersionRow
from neuromirror.model import Digest, Evidence, NeuromirrorError

_ITEM_BYTES: Final = 100


_MAX_SIZE: Final = 20_000
"""Maximum size of all results with their keys: numbers of items, each of about 100 bytes."""


class ResultCache:
    """Results of one read-only connection, until another connection commits a change.

    The connection must see changes of other connections, or be replaced when the file changes.

    Parameters
    ----------
    connection
        The connection, which does not write itself.
    max_size
        Maximum size of all results together.
    """

    def __init__(self, connection: sqlite3.Connection, max_size: int = _MAX_SIZE) -> None:
        self._connection, self._max_size = connection, max_size
        self._version: int | None = None
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.size = 0

    def recall(self, key: Hashable, read: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        """Return the result with a key; ``read`` reads it, ``size`` returns its size."""
        # differs as soon as another connection has committed; the results below are then outdated
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._results.clear()
            self.size = 0
        if key in self._results:
            self._results.move_to_end(key)
            known: _T = self._results[key][0]
            return known
        found = read()
        added = size(found) + 1 + len(repr(key)) // _ITEM_BYTES
        if added <= self._max_size:
            self._results[key] = found, added
            self.size += added
        while self.size > self._max_size:
            self.size -= self._results.popitem(last=False)[1][1]
        return found


_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


VERSION_COLUMNS = (
    "v.id, v.dataset, m.name, d.local_id, coalesce(d.source_uri, ''), v.seq, v.label, v.upstream, "
    "v.kind, v.state, v.commit_id, v.tree_id, v.annex_commit_id, nullif(v.time, ''), v.files, "
    "v.bytes, v.exception_count, v.evidence, v.title, v.license, v.doi, v.metadata_only, "
    "v.recorded_at, v.metadata_digest, v.form, v.manifest_only_files, "
    "v.manifest_only_bytes, v.records, v.indexed"
)


_VERSION_FIELDS = (
    *("id", "dataset", "mirror", "local_id", "source_uri", "seq", "label", "upstream", "kind"),
    *("state", "commit", "tree", "annex_commit", "upstream_time", "files", "bytes", "exceptions"),
    *("evidence", "title", "license", "doi", "metadata_only", "recorded_at", "metadata", "form"),
    *("manifest_only_files", "manifest_only_bytes", "records", "indexed"),
)
"""The fields of a :class:`VersionRow` in the order of :data:`VERSION_COLUMNS`."""


VERSION_TABLES = "versions v JOIN datasets d ON d.id = v.dataset JOIN mirrors m ON m.id = d.mirror"


CURRENT = """(CASE WHEN d.within <> '' THEN d.newest_version ELSE coalesce(
    (SELECT p.id FROM versions p WHERE p.dataset = d.id AND p.kind = 'published'
     ORDER BY p.seq DESC LIMIT 1), d.newest_version) END)"""
"""The id of the version that the name of dataset ``d`` stands for: the newest published, else the
newest observed. Subdatasets have no published versions."""


HAS_ROWS = """(d.title <> '' OR EXISTS (SELECT 1 FROM files f WHERE f.dataset = d.id)
    OR EXISTS (SELECT 1 FROM versions v WHERE v.dataset = d.id
    AND (v.indexed OR v.title <> '' OR v.evidence <> '{}')))"""
"""Whether the index has more of dataset ``d`` than the ids of its versions."""


CONTENT_COLUMNS = (
    "c.id, c.key, c.size, c.sha256, c.md5, c.etag, c.parts, c.part_size, c.checked, "
    "c.sha256_by, c.md5_by, c.etag_by"
)
CONTENT_WIDTH = 12


_STEPS = 10_000
"""Steps of SQLite's virtual machine, less than a millisecond, between checks for a stop."""


_COMPARED_NAMES = 1000
"""Names before and after an unknown one compared with it; each takes microseconds."""


_DAMAGE_SYMPTOMS = (
    AssertionError,
    AttributeError,
    KeyError,
    StopIteration,
    IndexError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
)
"""Exceptions raised for values of a wrong type, or text that is not UTF-8, JSON or a known name."""


class Reader:
    """Reads the index through one connection, which may be replaced."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        self._stop: Callable[[], bool] | None = None
        self._results = ResultCache(connection) if isinstance(connection, ReadConnection) else None

    @contextmanager
    def stop_when(self, stop: Callable[[], bool]) -> Iterator[None]:
        """Stop queries in the block once ``stop`` returns True; they raise QueryStoppedError."""
        self._stop = stop
        self.connection.set_progress_handler(stop, _STEPS)
        try:
            yield
        finally:
            self._stop = None
            self.connection.set_progress_handler(None, 0)

    def raise_if_stopped(self) -> None:
        """Raise QueryStoppedError where a query would, for work between queries."""
        if self._stop is not None and self._stop():
            raise QueryStoppedError(STOPPED_MESSAGE)

    def rows(self, sql: str, parameters: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query."""
        try:
            # not "yield from", which closes the cursor of a generator that is left unfinished: the
            # garbage collector may do that in another thread, where SQLite's connection refuses it
            for row in self.connection.execute(sql, tuple(parameters)):  # noqa: UP028
                yield row
        except DATABASE_ERRORS as error:
            raise_translated(error, self.path)

    def all(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows, of a query without many or large ones: faster than :meth:`rows`."""
        try:
            return self.connection.execute(sql, tuple(parameters)).fetchall()
        except DATABASE_ERRORS as error:
            raise_translated(error, self.path)

    def cached(
        self, key: Hashable, read: Callable[[], _T], size: Callable[[_T], int] = lambda _: 1
    ) -> _T:
        """Return a result that must not be changed: of an earlier call if the index is the same.

        ``size`` returns the approximate size of a result, as a number of items.
        """
        if self._results is None:
            return read()
        with translate_errors(self.path):
            return self._results.recall(key, read, size)

    def row(self, sql: str, parameters: Iterable[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a query; None without one."""
        try:
            row: tuple[Any, ...] | None = self.connection.execute(sql, tuple(parameters)).fetchone()
        except DATABASE_ERRORS as error:
            raise_translated(error, self.path)
        return row

    def mirror_number(self, name: str, hint: str = "") -> int:
        """Return the row id of a mirror; raise UnknownMirrorError."""
        found = self.row("SELECT id FROM mirrors WHERE name = ?", (name,))
        if found is None:
            names = [row[0] for row in self.rows("SELECT name FROM mirrors ORDER BY name")]
            known = f"the store has {', '.join(names)}" if names else "the store has no mirror yet"
            raise UnknownMirrorError(f"mirror {name!r} is not in this store; {known}", hint=hint)
        return int(found[0])

    def dataset_number(self, name: str) -> int:
        """Return the row id of a dataset; raise UnknownDatasetError or DatasetWithdrawnError."""
        mirror, colon, local_id = name.partition(":")
        if not colon:
            raise UnknownDatasetError(
                f"{name!r} is not the name of a dataset, which has the form <mirror>:<id>"
                + self._close_names(name)
            )
        sync = f"if the archive has this dataset, 'neuromirror sync {name}' mirrors it"
        number = self.mirror_number(mirror, sync)
        found = self.row(
            "SELECT id, withdrawn FROM datasets WHERE mirror = ? AND local_id = ?",
            (number, local_id),
        )
        if found is None:
            raise UnknownDatasetError(
                f"dataset {name!r} is not in this store{self._close_names(name)}",
                hint=f"'neuromirror list' lists the datasets of the store; {sync}",
            )
        if found[1]:
            tombstone = json.loads(found[1])
            raise DatasetWithdrawnError(
                f"{name} was withdrawn on {tombstone['at'][:10]}: {tombstone['reason']}"
            )
        return int(found[0])

    def similar_names(self, name: str) -> list[str]:
        """Return the names of up to three datasets that are similar to a name.

        ``name`` is that of a dataset; without a colon, or with an unknown mirror, the ids of all
        mirrors are compared.
        """
        mirror, colon, local = name.partition(":")
        known_mirrors = [row[0] for row in self.rows("SELECT name FROM mirrors ORDER BY id")]
        is_full = bool(colon) and mirror in known_mirrors
        local = local if colon else name
        known: dict[str, str] = {}
        for prefix in [mirror] if is_full else known_mirrors:
            for part in (">= ? ORDER BY local_id", "< ? ORDER BY local_id DESC"):
                rows = self.rows(
                    "SELECT local_id FROM datasets WHERE withdrawn = '' AND mirror = "
                    f"(SELECT id FROM mirrors WHERE name = ?) AND local_id {part} LIMIT ?",
                    (prefix, local, _COMPARED_NAMES),
                )
                for (local_id,) in rows:
                    full = f"{prefix}:{local_id}"
                    known[full if is_full else local_id] = full
        compared = name if is_full else local
        return [known[near] for near in difflib.get_close_matches(compared, known, n=3)]

    def _close_names(self, name: str) -> str:
        close = self.similar_names(name)
        return f"; similar names: {', '.join(close)}" if close else ""

    def claimants(self) -> dict[int, str]:
        """Return the names of what stated digests, by row id."""
        return dict(self.all("SELECT id, name FROM claimants"))


class Queries:
    """The base class of the query objects of an index: they share its reader."""

    def __init__(self, db: Reader) -> None:
        self._db = db
        self.path = db.path

    def __init_subclass__(cls) -> None:
        """Report impossible rows as damage of the index."""
        super().__init_subclass__()
        for name, function in list(vars(cls).items()):
            if inspect.isfunction(function) and not name.startswith("__"):
                setattr(cls, name, reports_damage(function))


def reports_damage(function: _F) -> _F:
    """Make a method raise IndexDamagedError if a row cannot be decoded.

    A row that SQLite returns but that has impossible values is a sign of a damaged database. The
    error is also raised while a generator that the method returned is iterated.
    """

    @wraps(function)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            found = function(self, *args, **kwargs)
        except (NeuromirrorError, UnicodeEncodeError):
            raise  # UnicodeEncodeError is caused by an argument
        except _DAMAGE_SYMPTOMS as error:
            raise damage_error(self.path, error) from error
        return _wrap_iterator(self.path, found) if hasattr(found, "__next__") else found

    return wrapped  # type: ignore[return-value]


def _wrap_iterator(path: Path, found: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from found
    except (NeuromirrorError, UnicodeEncodeError):
        raise
    except _DAMAGE_SYMPTOMS as error:
        raise damage_error(path, error) from error


def version_row(row: tuple[Any, ...]) -> VersionRow:
    """Convert a row of the database to a :class:`VersionRow`.

    Parameters
    ----------
    row
        Values of the columns :data:`VERSION_COLUMNS`.
    """
    values = dict(zip(_VERSION_FIELDS, row, strict=True))
    for name in ("evidence", "license"):
        values[name] = json.loads(values[name])
    for name in ("metadata_only", "indexed"):
        values[name] = bool(values[name])
    return VersionRow(**values)


def digests(row: tuple[Any, ...], claimants: dict[int, str]) -> tuple[Digest, ...]:
    """Return the digests in a row of the database: sha256, md5, etag, as far as they are known.

    Parameters
    ----------
    row
        Values of the columns :data:`CONTENT_COLUMNS`; further ones are ignored.
    claimants
        The names of the archives and programs that stated digests, by their row id.
    """
    sha256, md5, etag, parts, _, checked, sha256_by, md5_by, etag_by = row[3:12]
    found = []
    if sha256 is not None:
        found.append(_digest("sha256", sha256.hex(), checked, claimants[sha256_by]))
    if md5 is not None:
        found.append(_digest("md5", md5.hex(), checked, claimants[md5_by]))
    if etag is not None:
        found.append(_digest("etag", f"{etag.hex()}-{parts}", checked, claimants[etag_by]))
    return tuple(found)


def evidence(row: tuple[Any, ...]) -> tuple[Evidence, bool]:
    """Return the strongest evidence in a row, and whether the bytes were hashed here.

    Parameters
    ----------
    row
        Values of the columns :data:`CONTENT_COLUMNS`; further ones are ignored.
    """
    size, sha256, md5, etag, _, part_size, checked = row[2:9]
    if sha256 is not None:
        return Evidence.SHA256, bool(checked & CHECKED_BITS["sha256"])
    if md5 is not None:
        return Evidence.MD5, bool(checked & CHECKED_BITS["md5"])
    if etag is not None and part_size is not None and size is not None:
        return Evidence.ETAG, bool(checked & CHECKED_BITS["etag"])
    return (Evidence.NONE if size is None else Evidence.SIZE), False


def _digest(algorithm: str, value: str, checked: int, claimant: str) -> Digest:
    return Digest(algorithm, value, claimant, bool(checked & CHECKED_BITS[algorithm]))
