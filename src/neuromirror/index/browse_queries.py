"""Queries for browsing: folders, the history of a path, recent versions."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from neuromirror.index.errors import UnknownFileError
from neuromirror.index.file_queries import FILE_COLUMNS, FileQueries, file_row
from neuromirror.index.query_base import (
    VERSION_COLUMNS,
    VERSION_TABLES,
    version_row,
)
from neuromirror.index.rows import FileRow, VersionRow

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
