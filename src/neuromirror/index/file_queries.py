"""Queries on files, contents and locations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from neuromirror.index.checksums import ContentLookup, parse_checksum
from neuromirror.index.contents import CHECKED_BITS
from neuromirror.index.errors import FilesNotIndexedError
from neuromirror.index.locations import EXACT
from neuromirror.index.query_base import CONTENT_COLUMNS, QueryBase, digests, evidence
from neuromirror.index.rows import (
    RETENTION,
    CopyRow,
    EvidenceCounts,
    FileRow,
    FoundFile,
    LocationRow,
    UnindexedFiles,
    VersionRow,
)
from neuromirror.index.urls import short_hash
from neuromirror.model.records import plain_url, url_version_id

_MAX_LOCATIONS = 5
_MAX_SAMPLED = 20
"""Maximum number of files whose URLs stand for those of a version."""
_CONTENT_WIDTH = 12
FILE_COLUMNS = f"{CONTENT_COLUMNS}, f.path, f.source_path, f.since, f.retention"

# A URL that may be overwritten is omitted once it has had other bytes. Of an object's versions with
# the same bytes, the last one comes first: upstream deletes earlier ones first.
_LOCATIONS = """
SELECT l.url, l.kind, l.version_id, l.probed_at, l.probe_result FROM locations l
WHERE l.content = ? AND (l.rank = ? OR NOT EXISTS (
    SELECT 1 FROM locations o WHERE o.url_hash = l.url_hash AND o.url = l.url
    AND o.content <> l.content AND o.last_version > l.last_version))
ORDER BY l.rank, EXISTS (SELECT 1 FROM locations n WHERE n.url_hash = l.url_hash
    AND n.content = l.content AND n.rank = l.rank
    AND (n.last_version, n.id) > (l.last_version, l.id)), l.id LIMIT ?
"""

_FOUND_FILES = f"""
SELECT {CONTENT_COLUMNS}, m.name || ':' || d.local_id, f.path, first.label, last.label,
    f.until IS NULL, f.dataset, f.since, f.retention
FROM contents c CROSS JOIN files f ON f.content = c.id
JOIN datasets d ON d.id = f.dataset JOIN mirrors m ON m.id = d.mirror
JOIN versions newest ON newest.id = d.newest_version
JOIN versions first ON first.dataset = f.dataset AND first.seq = f.since
JOIN versions last ON last.dataset = f.dataset
    AND last.seq = CASE WHEN f.until IS NULL THEN newest.seq ELSE f.until - 1 END
WHERE c.id = ? AND (f.dataset, f.path, f.since) > (?, ?, ?) AND d.withdrawn = ''
ORDER BY f.dataset, f.path, f.since
"""

_UNINDEXED_FILES = """
SELECT m.name, count(*), sum(z.files), max(z.files)
FROM (SELECT dataset, max(files) AS files FROM versions WHERE NOT indexed GROUP BY dataset) z
JOIN datasets d ON d.id = z.dataset AND d.withdrawn = '' JOIN mirrors m ON m.id = d.mirror
GROUP BY m.id ORDER BY m.name
"""


_EVIDENCE_COUNTS = f"""
SELECT f.since, f.until, f.retention,
    CASE WHEN c.sha256 IS NOT NULL THEN 'sha256' WHEN c.md5 IS NOT NULL THEN 'md5' ELSE 'etag' END
        AS strongest,
    CASE WHEN c.sha256 IS NOT NULL THEN c.checked & {CHECKED_BITS["sha256"]}
        WHEN c.md5 IS NOT NULL THEN c.checked & {CHECKED_BITS["md5"]}
        ELSE c.checked & {CHECKED_BITS["etag"]} END <> 0 AS is_checked, count(*)
FROM files f JOIN contents c ON c.id = f.content
WHERE f.dataset = ? AND f.since <= ? AND (f.until IS NULL OR f.until > ?)
GROUP BY f.since, f.until, f.retention, strongest, is_checked
"""


_MAX_OCCURRENCES = 100
"""Occurrences of a content, over all datasets and versions, above which it is no copy."""

# By content first: very many blocks of a volume may be one content.
_COPIES = f"""
SELECT m.name || ':' || d.local_id, max(c.retention_rank), sum(c.files) AS files
FROM (SELECT o.dataset AS dataset, max(o.retention) AS retention_rank, mine.files AS files
    FROM (SELECT content, min(retention) AS retention_rank, count(*) AS files FROM files
        WHERE dataset = ? AND since <= ? AND (until IS NULL OR until > ?) GROUP BY content) mine
    CROSS JOIN files o ON o.content = mine.content
    WHERE (SELECT count(*) FROM (SELECT 1 FROM files e WHERE e.content = mine.content
        LIMIT {_MAX_OCCURRENCES + 1})) <= {_MAX_OCCURRENCES}
    AND o.dataset <> ? AND o.retention > mine.retention_rank GROUP BY mine.content, o.dataset) c
JOIN datasets d ON d.id = c.dataset JOIN mirrors m ON m.id = d.mirror
WHERE d.withdrawn = '' GROUP BY c.dataset ORDER BY files DESC, m.name, d.local_id LIMIT ?
"""


class FileQueries(QueryBase):
    """Queries on files, by version or by checksum.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def files(
        self, version: VersionRow, under: str = "", after: str = "", limit: int | None = None
    ) -> Iterator[FileRow]:
        """Yield the files of a version, sorted by the bytes of their paths.

        Parameters
        ----------
        version : VersionRow
            The version.
        under : str
            Yield only the files below this folder (``sub-01``).
        after : str
            The last path of the previous page.
        limit : int, optional
            The length of a page.

        Raises
        ------
        FilesNotIndexedError
            At the call, if the version's files are in the store's records only.
        """
        if not version.indexed:
            raise FilesNotIndexedError(
                f"the files of {version.name} are in its manifest only, not in the index",
                hint=f"'neuromirror files {version.name}' lists them",
            )
        return self._files(version, under, after, limit)

    def _files(
        self, version: VersionRow, under: str, after: str, limit: int | None
    ) -> Iterator[FileRow]:
        folder = f"{under.rstrip('/')}/" if under else ""
        claimants = self._claimants()
        # "0" sorts next after "/"; CROSS JOIN keeps SQLite to the order of the paths
        rows = self._rows(
            f"SELECT {FILE_COLUMNS} FROM files f CROSS JOIN contents c ON c.id = f.content "
            "WHERE f.dataset = ? AND f.path > ? AND f.since <= ? "
            "AND (f.until IS NULL OR f.until > ?) "
            + ("AND f.path < ? " if folder else "")
            + "ORDER BY f.path LIMIT ?",
            (
                version.dataset,
                max(after, folder),
                version.seq,
                version.seq,
                *([f"{folder[:-1]}0"] if folder else []),
                -1 if limit is None else limit,
            ),
        )
        for row in rows:
            yield file_row(row, claimants)

    def locations(self, content: int, limit: int = _MAX_LOCATIONS) -> list[LocationRow]:
        """Return the best locations of a content (``FileRow.content``), most exact first.

        Parameters
        ----------
        content
            The id of the content, ``FileRow.content``.
        limit
            Maximum number of locations.

        Returns
        -------
        list[LocationRow]
            The locations.
        """
        rows = self._rows(_LOCATIONS, (content, EXACT, limit))
        return [_location_row(row) for row in rows]

    def sample_urls(self, version: VersionRow) -> list[str]:
        """Return the URLs of a few files of a version, each once.

        Parameters
        ----------
        version
            The version.
        """
        rows = self._rows(
            "SELECT DISTINCT l.url FROM (SELECT content FROM files WHERE dataset = ? "
            "AND since <= ? AND (until IS NULL OR until > ?) LIMIT ?) f "
            "CROSS JOIN locations l ON l.content = f.content",
            (version.dataset, version.seq, version.seq, _MAX_SAMPLED),
        )
        return [url for (url,) in rows]

    def evidence_counts(self, version: VersionRow) -> EvidenceCounts:
        """Return how many of a version's files were checked, and their retention.

        Parameters
        ----------
        version
            The version.

        Returns
        -------
        EvidenceCounts
            The counts.
        """
        return self.evidence_counts_each([version])[0]

    def evidence_counts_each(self, versions: Sequence[VersionRow]) -> list[EvidenceCounts]:
        """Return :meth:`evidence_counts` of several versions of one dataset, with one query.

        It reads the files of all versions between the first and the last of them.
        """
        indexed = [one.seq for one in versions if one.indexed]
        counts: list[tuple[Any, ...]] = []
        if indexed:
            given = (versions[0].dataset, max(indexed), min(indexed))
            counts = self._cached(
                ("evidence", *given), lambda: self._all(_EVIDENCE_COUNTS, given), len
            )
        return [_evidence_counts(one, counts) for one in versions]

    def copies(self, version: VersionRow, limit: int = 5) -> list[CopyRow]:
        """Return the other datasets with the same bytes and stronger retention, most files first.

        It reads every file of the version. Contents with more than 100 occurrences are not counted:
        they are in many datasets, such as an empty file, and would take most of the time.

        Parameters
        ----------
        version
            The version.
        limit
            Maximum number of datasets.

        Returns
        -------
        list[CopyRow]
            The datasets.
        """
        given = (version.dataset, version.seq, version.seq, version.dataset, limit)
        rows = self._cached(("copies", *given), lambda: self._all(_COPIES, given), len)
        return [
            CopyRow(name, RETENTION[retention_rank], files) for name, retention_rank, files in rows
        ]

    def url_locations(self, url: str) -> list[LocationRow]:
        """Return the rows of a URL, one per content that it had."""
        rows = self._rows(
            "SELECT url, kind, version_id, probed_at, probe_result FROM locations "
            "WHERE url_hash = ? AND url = ? ORDER BY id",
            (short_hash(plain_url(url)), url),
        )
        return [_location_row(row) for row in rows]

    def find(
        self, query: str, after: tuple[int, int, str, int] = (0, 0, "", 0)
    ) -> Iterator[FoundFile]:
        """Yield every dataset, path and range of versions that has or had these bytes.

        Parameters
        ----------
        query : str
            ``sha256:<hex>`` (or its first 8 or more digits), ``md5:<hex>``, ``etag:<md5>-<parts>``,
            a checksum without algorithm, or a git-annex key.
        after : tuple
            The ``position`` of the last item of the previous page.

        Yields
        ------
        FoundFile
            Nothing for contents that are unknown, or only in versions that :meth:`unindexed_files`
            counts.

        Raises
        ------
        MalformedQueryError
            At the call.
        """
        return self._found_files(parse_checksum(query), after)

    def unindexed_files(self) -> list[UnindexedFiles]:
        """Return the files that :meth:`find` cannot find, by mirror; empty if all are indexed."""
        return [UnindexedFiles(*row) for row in self._rows(_UNINDEXED_FILES)]

    def _found_files(
        self, lookups: list[ContentLookup], after: tuple[int, int, str, int]
    ) -> Iterator[FoundFile]:
        claimants = self._claimants()
        union = " UNION ".join(lookup.sql for lookup in lookups)
        given = [value for lookup in lookups for value in lookup.parameters]
        for (content,) in self._rows(f"{union} ORDER BY 1", given):
            if content < after[0]:
                continue
            start = after[1:] if content == after[0] else (0, "", 0)
            urls: tuple[str, ...] | None = None
            for row in self._rows(_FOUND_FILES, (content, *start)):
                if urls is None:
                    urls = tuple(location.url for location in self.locations(content))
                yield _found_file(row, urls, claimants)


def file_row(row: tuple[Any, ...], claimants: dict[int, str]) -> FileRow:
    """Convert a row of the database to a :class:`FileRow`.

    Parameters
    ----------
    row
        Values of the columns :data:`FILE_COLUMNS`.
    claimants
        The names of the archives and programs that stated digests, by their row id.
    """
    path, source_path, since, retention_rank = row[_CONTENT_WIDTH:]
    strongest, checked = evidence(row)
    return FileRow(
        path=path,
        source_path=path.encode("utf-8") if source_path is None else source_path,
        size=row[2],
        key=row[1],
        digests=digests(row, claimants),
        part_size=row[7],
        evidence=strongest,
        checked=checked,
        retention=RETENTION[retention_rank],
        since=since,
        content=row[0],
    )


def _evidence_counts(version: VersionRow, counts: Sequence[tuple[Any, ...]]) -> EvidenceCounts:
    checked: dict[str, int] = {}
    retentions: dict[str, int] = {}
    for since, until, rank, strongest, is_checked, count in counts if version.indexed else ():
        if since <= version.seq and (until is None or version.seq < until):
            retention = RETENTION[rank].value
            retentions[retention] = retentions.get(retention, 0) + count
            if is_checked:
                checked[strongest] = checked.get(strongest, 0) + count
    return EvidenceCounts(dict(sorted(checked.items())), dict(sorted(retentions.items())))


def _location_row(row: tuple[Any, ...]) -> LocationRow:
    url, kind, version_id, checked_at, result = row
    return LocationRow(url, kind, version_id or url_version_id(url), checked_at, result)


def _found_file(
    row: tuple[Any, ...], urls: tuple[str, ...], claimants: dict[int, str]
) -> FoundFile:
    dataset, path, first, last, current, number, since, retention_rank = row[_CONTENT_WIDTH:]
    strongest, checked = evidence(row)
    return FoundFile(
        dataset=dataset,
        path=path,
        first=first,
        last=last,
        current=bool(current),
        size=row[2],
        key=row[1],
        digests=digests(row, claimants),
        evidence=strongest,
        checked=checked,
        retention=RETENTION[retention_rank],
        urls=urls,
        position=(row[0], number, path, since),
    )
