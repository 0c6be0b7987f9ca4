"""Queries for browsing: folders, the history of a path, recent versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec import Struct

from neuromirror.index.dataset_queries import DatasetQueries
from neuromirror.index.errors import UnknownFileError
from neuromirror.index.file_queries import FILE_COLUMNS, FileQueries, file_row
from neuromirror.index.query_base import (
    VERSION_COLUMNS,
    VERSION_TABLES,
    version_row,
)
from neuromirror.index.rows import EdgeRow, FileRow, RelatedVersion, VersionRow
from neuromirror.index.schema import LAST_COMPONENT

_PRESENT = "f.since <= ? AND (f.until IS NULL OR f.until > ?)"
# CROSS JOIN keeps SQLite to the order of the paths
_BETWEEN = (
    "FROM files f CROSS JOIN contents c ON c.id = f.content "
    f"WHERE f.dataset = ? AND f.path >= ? AND f.path < ? AND {_PRESENT}"
)
_MAX_GROUPED = 4000
"""Number of files of a version up to which all files in a folder are read to list it."""
_PATH = 12
"""The position of the path in :data:`FILE_COLUMNS`."""


class FolderEntryRow(Struct, frozen=True):
    """A file in a folder, or a subfolder with the totals of everything below it.

    Attributes
    ----------
    path
        The full path in git.
    file
        The file; None for a subfolder.
    files, bytes
        Totals of a subfolder; None if counting would have taken too long.
    next
        The ``start`` of :meth:`BrowseQueries.folder_entries` for the entries after this one.
    """

    path: str
    file: FileRow | None
    files: int | None
    bytes: int | None
    next: str


class ContentSpanRow(Struct, frozen=True):
    """A range of versions in which a path had the same content.

    Attributes
    ----------
    first, last
        The labels of the first and last version.
    current
        Whether the path still has this content.
    size
        Size in bytes; None if unknown.
    key
        The annex key.
    """

    first: str
    last: str
    current: bool
    size: int | None
    key: str


class BrowseQueries(FileQueries):
    """Queries for users who look around in folders, and in the histories of paths and versions.

    A base class of :class:`~neuromirror.index.Index`, which has the connection. A subfolder of a
    million files takes no longer to list than one of ten.
    """

    def folder_entries(
        self, version: VersionRow, under: str = "", start: str = "", max_counted: int = 20_000
    ) -> Iterator[FolderEntryRow]:
        """Yield the entries of a folder, sorted by the bytes of their paths.

        Parameters
        ----------
        version : VersionRow
            The version.
        under : str
            The folder; the root by default.
        start : str
            The ``next`` of the last row of the previous page.
        max_counted : int
            The maximum number of files counted below subfolders, in total; small versions are
            always counted.

        Yields
        ------
        FolderEntryRow
            The entries.

        Raises
        ------
        FilesNotIndexedError
            At the call, if the version's files are in the store's records only.
        """
        self.files(version, limit=0)
        return self._folder_entries(version, under, start, max_counted)

    def _folder_entries(
        self, version: VersionRow, under: str, start: str, max_counted: int
    ) -> Iterator[FolderEntryRow]:
        folder = f"{under.rstrip('/')}/" if under else ""
        # "0" sorts next after "/"
        end = f"{folder[:-1]}0" if folder else "\U0010ffff"
        at = max(start, folder)
        if version.files <= _MAX_GROUPED and "/" not in at[len(folder) :]:
            yield from self._grouped_entries(version, folder, at, end)
            return
        claimants = self._claimants()
        while True:
            rows = self._rows(
                f"SELECT {FILE_COLUMNS} {_BETWEEN} ORDER BY f.path",
                (version.dataset, at, end, version.seq, version.seq),
            )
            path = None
            for row in rows:
                file = file_row(row, claimants)
                name, slash, _ = file.path[len(folder) :].partition("/")
                if slash:
                    path = folder + name
                    break
                yield FolderEntryRow(file.path, file, None, None, f"{file.path}\0")
            if path is None:
                return
            # skip everything below the subfolder
            at = f"{path}0"
            files, size = self._count_below(version, path, max_counted)
            max_counted -= files
            whole = max_counted > 0
            yield FolderEntryRow(path, None, files if whole else None, size if whole else None, at)

    def _grouped_entries(
        self, version: VersionRow, folder: str, at: str, end: str
    ) -> Iterator[FolderEntryRow]:
        """Yield the entries of a folder from ``at`` to ``end``; reads all files in between."""
        below = len(folder) + 1
        given = (version.dataset, at, end, version.seq, version.seq)
        files = {
            row[_PATH]: row
            for row in self._all(
                f"SELECT {FILE_COLUMNS} {_BETWEEN} AND NOT instr(substr(f.path, ?), '/')",
                (*given, below),
            )
        }
        claimants = self._claimants()
        for path, count, size in self._all(
            "SELECT substr(f.path, 1, ?1 - 2 + instr(substr(f.path, ?1) || '/', '/')) AS entry, "
            f"count(*), CAST(total(c.size) AS INTEGER) {_BETWEEN} "
            "GROUP BY entry ORDER BY min(f.path)",
            (below, *given),
        ):
            if path in files:
                file = file_row(files[path], claimants)
                yield FolderEntryRow(path, file, None, None, f"{path}\0")
            else:
                yield FolderEntryRow(path, None, count, size, f"{path}0")

    def _count_below(self, version: VersionRow, path: str, most: int) -> tuple[int, int]:
        row = self._row(
            "SELECT count(*), CAST(total(c.size) AS INTEGER) FROM (SELECT f.content FROM files f "
            f"WHERE f.dataset = ? AND f.path >= ? AND f.path < ? AND {_PRESENT} LIMIT ?) b "
            "JOIN contents c ON c.id = b.content",
            (version.dataset, f"{path}/", f"{path}0", version.seq, version.seq, max(most, 0)),
        )
        assert row is not None
        return int(row[0]), int(row[1])

    def file(self, version: VersionRow, path: str) -> FileRow:
        """Return a file of a version.

        Raises UnknownFileError, and FilesNotIndexedError as :meth:`folder_entries` does.
        """
        self.files(version, limit=0)
        row = self._row(
            f"SELECT {FILE_COLUMNS} FROM files f JOIN contents c ON c.id = f.content "
            f"WHERE f.dataset = ? AND f.path = ? AND {_PRESENT}",
            (version.dataset, path, version.seq, version.seq),
        )
        if row is None:
            raise UnknownFileError(f"{version.name} has no file {path!r}")
        return file_row(row, self._claimants())

    def content_spans(self, version: VersionRow, path: str) -> list[ContentSpanRow]:
        """Return the contents that a path had in all versions of its dataset, in order.

        Parameters
        ----------
        version
            A version of the dataset.
        path
            The path in git.

        Returns
        -------
        list[ContentSpanRow]
            The contents, with the versions that have them.
        """
        rows = self._rows(
            "SELECT a.label, b.label, f.until IS NULL, c.size, c.key FROM files f "
            "JOIN contents c ON c.id = f.content "
            "JOIN datasets d ON d.id = f.dataset JOIN versions n ON n.id = d.newest_version "
            "JOIN versions a ON a.dataset = f.dataset AND a.seq = f.since "
            "JOIN versions b ON b.dataset = f.dataset "
            "AND b.seq = CASE WHEN f.until IS NULL THEN n.seq ELSE f.until - 1 END "
            "WHERE f.dataset = ? AND f.path = ? ORDER BY f.since",
            (version.dataset, path),
        )
        return [
            ContentSpanRow(first, last, bool(now), size, key)
            for first, last, now, size, key in rows
        ]

    def recent_versions(
        self, limit: int, dataset: str | None = None, *, mirror: str | None = None
    ) -> list[VersionRow]:
        """Return the versions recorded last, newest first.

        They are those of one dataset, of one mirror, or of all mirrors. Without ``dataset``,
        versions of subdatasets are omitted.

        Parameters
        ----------
        limit
            Maximum number of versions.
        dataset
            The name of a dataset.
        mirror
            The name of a mirror.

        Returns
        -------
        list[VersionRow]
            The versions.
        """
        condition, given = "d.within = ''", []
        if dataset is not None:
            condition, given = "v.dataset = ?", [self._dataset_number(dataset)]
        if mirror is not None:
            condition += " AND d.mirror = ?"
            given.append(self._mirror_number(mirror))
        rows = self._rows(
            f"SELECT {VERSION_COLUMNS} FROM {VERSION_TABLES} WHERE d.withdrawn = '' "
            f"AND {condition} ORDER BY v.id DESC LIMIT ?",
            (*given, limit),
        )
        return list(map(version_row, rows))

    def count_top_level_datasets(self) -> int:
        """Return the number of datasets that are not subdatasets."""
        row = self._row("SELECT count(*) FROM datasets WHERE withdrawn = '' AND within = ''")
        assert row is not None
        return int(row[0])

    def top_level_datasets(
        self, first: int, limit: int, *, after: int = 0
    ) -> list[tuple[int, str, str | None]]:
        """Return datasets that are not subdatasets: id, name, and time of the newest version.

        The datasets are in order of registration, so that new ones come last; ``first`` counts
        from 0, in those whose id is larger than ``after``.
        """
        rows = self._rows(
            "SELECT d.id, m.name || ':' || d.local_id, n.recorded_at FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror LEFT JOIN versions n ON n.id = d.newest_version "
            "WHERE d.withdrawn = '' AND d.within = '' AND d.id > ? ORDER BY d.id LIMIT ? OFFSET ?",
            (after, limit, first),
        )
        return [(number, name, recorded_at) for number, name, recorded_at in rows]

    def change_counts(self, dataset: str) -> dict[int, tuple[int, int, int]]:
        """Return the number of files added, removed and changed by each version, by ordinal.

        Each version is compared with the version recorded before it. Versions without changes are
        omitted.
        """
        number = self._dataset_number(dataset)
        found = self._cached(("changes", number), lambda: self._count_changes(number), len)
        return dict(found)

    def _count_changes(self, number: int) -> dict[int, tuple[int, int, int]]:
        added, removed, changed = (
            dict(self._all(sql, (number,)))
            for sql in (
                "SELECT since, count(*) FROM files WHERE dataset = ? GROUP BY since",
                "SELECT until, count(*) FROM files WHERE dataset = ? AND until IS NOT NULL "
                "GROUP BY until",
                "SELECT a.since, count(*) FROM files a JOIN files b ON b.dataset = a.dataset "
                "AND b.path = a.path AND b.until = a.since WHERE a.dataset = ? GROUP BY a.since",
            )
        )
        return {
            seq: (
                added.get(seq, 0) - changed.get(seq, 0),
                removed.get(seq, 0) - changed.get(seq, 0),
                changed.get(seq, 0),
            )
            for seq in {*added, *removed}
        }


DEFAULT_DEPTH = 5
"""Generations followed in each direction."""

_INPUT = f"""
SELECT d.id, m.name || ':' || d.local_id FROM datasets d JOIN mirrors m ON m.id = d.mirror
WHERE {LAST_COMPONENT.format("d.local_id")} = ?1 AND (d.local_id = ?2 OR ?1 = ?2)
    AND d.id <> ?3 AND d.within = '' AND d.withdrawn = ''
ORDER BY d.mirror <> ?4, d.local_id <> ?2, m.name, d.local_id LIMIT 1
"""

_PLATFORM = re.compile(
    r"[A-Za-z][A-Za-z0-9-]*_(?=[A-Za-z0-9.-]+_\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}(?:_|\Z))",
    re.ASCII,
)
"""The platform before subject and time in the name of an AIND asset."""

_OTHER_SCHEME = f"""
SELECT d.id, m.name || ':' || d.local_id, {LAST_COMPONENT.format("d.local_id")}
FROM datasets d JOIN mirrors m ON m.id = d.mirror
WHERE d.local_id LIKE '%' || ?1 ESCAPE '=' AND d.id <> ?2 AND d.within = '' AND d.withdrawn = ''
ORDER BY d.mirror <> ?3, d.id
"""

_EXACT_NAME = "i.name IN (?1, ?1 || '/', ?2, ?2 || '/')"
_SIMILAR_NAME = f"({_EXACT_NAME} OR i.name LIKE '%' || ?4 ESCAPE '=')"

_DERIVED = """
SELECT i.name, v.id, v.label, coalesce(nullif(v.time, ''), v.recorded_at), d.id, d.mirror,
    m.name || ':' || d.local_id
FROM inputs i JOIN versions v ON v.id = i.version JOIN datasets d ON d.id = v.dataset
JOIN mirrors m ON m.id = d.mirror
WHERE {} AND d.id <> ?3 AND d.withdrawn = ''
ORDER BY m.name, d.local_id, v.seq DESC, i.name
"""


class _Version(NamedTuple):
    """The columns of a version that these queries need; ``mirror`` is the mirror's row id."""

    id: int
    dataset: int
    mirror: int
    local_id: str
    label: str
    time: str


class _Edge(NamedTuple):
    """An edge and the version at its other end (None if it is not in the index)."""

    row: EdgeRow
    version: _Version | None


class AncestryQueries(DatasetQueries):
    """Queries on derivation: the inputs of a version, and the versions derived from it.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def ancestry(self, name: str, label: str = "latest") -> tuple[list[EdgeRow], list[EdgeRow]]:
        """Return the inputs of a version, and the versions derived from it.

        Parameters
        ----------
        name
            The name of the dataset.
        label
            A label, as for :meth:`resolve`.

        Returns
        -------
        tuple[list[EdgeRow], list[EdgeRow]]
            The inputs, and the derived versions.
        """
        version = self._read_version(self.resolve(name, label).id)
        derived = [
            edge.row
            for edge in self._derived_versions(version)
            if edge.row.own_label == version.label
        ]
        return [edge.row for edge in self._inputs(version)], derived

    def ancestors(
        self, version: VersionRow, depth: int = DEFAULT_DEPTH
    ) -> tuple[RelatedVersion, ...]:
        """Return the inputs of a version, recursively up to ``depth`` generations.

        Parameters
        ----------
        version
            The version.
        depth
            Maximum number of generations.

        Returns
        -------
        tuple[RelatedVersion, ...]
            The inputs, with their own inputs.
        """
        start = self._read_version(version.id)
        return _follow_edges(start, self._inputs, depth, {start.dataset})

    def descendants(
        self, version: VersionRow, depth: int = DEFAULT_DEPTH
    ) -> tuple[RelatedVersion, ...]:
        """Return the datasets derived from a version's dataset, recursively.

        Each derived dataset appears once, with its newest version derived from this version; if
        none is, with the newest one derived from another version (see ``own_label``).

        Parameters
        ----------
        version
            The version.
        depth
            Maximum number of generations.

        Returns
        -------
        tuple[RelatedVersion, ...]
            The derived datasets, with theirs.
        """
        start = self._read_version(version.id)
        return _follow_edges(start, self._derived_datasets, depth, {start.dataset})

    def _read_version(self, version: int) -> _Version:
        row = self._row(
            "SELECT v.id, v.dataset, d.mirror, d.local_id, v.label, "
            "coalesce(nullif(v.time, ''), v.recorded_at) FROM versions v "
            "JOIN datasets d ON d.id = v.dataset WHERE v.id = ?",
            (version,),
        )
        assert row is not None
        return _Version(*row)

    def _inputs(self, version: _Version) -> list[_Edge]:
        edges = []
        names = self._all("SELECT name FROM inputs WHERE version = ? ORDER BY name", (version.id,))
        for (name,) in names:
            target = self._input_dataset(name, version.dataset, version.mirror)
            pinned = None if target is None else self._version_at(target[0], version.time)
            dataset = None if target is None else target[1]
            label = None if pinned is None else pinned.label
            edges.append(_Edge(EdgeRow(name, dataset, label, version.label), pinned))
        return edges

    def _derived_versions(self, version: _Version) -> list[_Edge]:
        """Return all versions derived from any version of the dataset, newest first per dataset."""
        tail = version.local_id.rpartition("/")[2]
        core = _without_platform(tail)
        named, like = (_EXACT_NAME, ()) if core is None else (_SIMILAR_NAME, (_escape_like(core),))
        edges = []
        targets: dict[tuple[str, int], bool] = {}
        for name, number, label, time, dataset, mirror, full in self._all(
            _DERIVED.format(named), (version.local_id, tail, version.dataset, *like)
        ):
            if (name, dataset) not in targets:
                target = self._input_dataset(name, dataset, mirror)
                targets[name, dataset] = target is not None and target[0] == version.dataset
            if targets[name, dataset]:
                pinned = self._version_at(version.dataset, time)
                assert pinned is not None
                row = EdgeRow(name, full, label, pinned.label)
                edges.append(_Edge(row, self._read_version(number)))
        return edges

    def _derived_datasets(self, version: _Version) -> list[_Edge]:
        chosen: dict[str | None, _Edge] = {}
        for edge in self._derived_versions(version):
            known = chosen.get(edge.row.dataset)
            if known is None or (version.label == edge.row.own_label != known.row.own_label):
                chosen[edge.row.dataset] = edge
        return list(chosen.values())

    def _input_dataset(self, name: str, dataset: int, mirror: int) -> tuple[int, str] | None:
        """Return the dataset that another dataset names as its input."""
        plain = name.rstrip("/")
        tail = plain.rpartition("/")[2]
        row = self._row(_INPUT, (tail, plain, dataset, mirror))
        return (
            self._input_by_other_scheme(tail, dataset, mirror) if row is None else (row[0], row[1])
        )

    def _input_by_other_scheme(
        self, name: str, dataset: int, mirror: int
    ) -> tuple[int, str] | None:
        """Return the only dataset whose name differs in the platform alone."""
        core = _without_platform(name)
        if core is None:
            return None
        found = [
            (number, full)
            for number, full, tail in self._rows(
                _OTHER_SCHEME, (_escape_like(core), dataset, mirror)
            )
            if _without_platform(tail) == core
        ]
        return found[0] if len(found) == 1 else None

    def _version_at(self, dataset: int, time: str) -> _Version | None:
        found = self._row(
            "SELECT id FROM (SELECT id, seq, coalesce(nullif(time, ''), recorded_at) AS time "
            "FROM versions WHERE dataset = ?1) ORDER BY "
            "CASE WHEN time <= ?2 THEN time END DESC, time, "
            "CASE WHEN time <= ?2 THEN -seq ELSE seq END LIMIT 1",
            (dataset, time),
        )
        return None if found is None else self._read_version(found[0])


def _without_platform(name: str) -> str | None:
    """Return the name of an AIND asset without its platform; None for other names."""
    found = _PLATFORM.match(name)
    core = name[found.end() :] if found else name
    return core if found or _PLATFORM.match(f"x_{name}") else None


def _escape_like(text: str) -> str:
    """Escape a text for a LIKE pattern whose escape character is ``=``."""
    return re.sub(r"[=%_]", r"=\g<0>", text)


def _follow_edges(
    version: _Version,
    edges: Callable[[_Version], list[_Edge]],
    depth: int,
    visited: set[int],
) -> tuple[RelatedVersion, ...]:
    """Return the edges of a version, each with the edges of the version at its other end.

    Datasets in ``visited`` are not followed again; the recursion stops at ``depth``.
    """
    found = edges(version)
    fresh = []
    for edge in found:
        is_new = edge.version is not None and edge.version.dataset not in visited
        if edge.version is not None:
            visited.add(edge.version.dataset)
        fresh.append(is_new)
    relatives = []
    for edge, is_new in zip(found, fresh, strict=True):
        more: tuple[RelatedVersion, ...] = ()
        cut, row = False, edge.row
        if edge.version is not None:
            if is_new and depth > 1:
                more = _follow_edges(edge.version, edges, depth - 1, visited)
            else:
                cut = bool(edges(edge.version))
        relatives.append(RelatedVersion(row.name, row.dataset, row.label, row.own_label, more, cut))
    return tuple(relatives)
