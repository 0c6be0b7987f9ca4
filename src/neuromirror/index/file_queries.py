"""Queries on files, contents and locations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from neuromirror.index.contents import (
    CHECKED_BITS,
    EXACT,
    MULTIPART_ETAG,
    ContentLookup,
    key_hash,
    parse_checksum,
    short_hash,
)
from neuromirror.index.errors import FilesNotIndexedError
from neuromirror.index.query_base import CONTENT_COLUMNS, QueryBase, digests, evidence
from neuromirror.index.rows import (
    RETENTION,
    CopyRow,
    DueLocation,
    EtagRow,
    EvidenceCounts,
    FailingHost,
    FailureRow,
    FileRow,
    FoundFile,
    LocationRow,
    ProbeSummary,
    UnindexedFiles,
    VersionRow,
)
from neuromirror.model import DatasetRef, Digest, Location
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


_FILES = """
SELECT f.path, c.key, c.size FROM files f CROSS JOIN contents c ON c.id = f.content
WHERE f.dataset = ? ORDER BY f.path, f.since
"""
_OF_KEY = """
SELECT DISTINCT m.name, d.local_id, d.source_uri
FROM contents c CROSS JOIN files f ON f.content = c.id CROSS JOIN datasets d ON d.id = f.dataset
CROSS JOIN mirrors m ON m.id = d.mirror
WHERE c.key_hash = ? AND c.key = ? AND d.source_uri IS NOT NULL AND d.withdrawn = ''
"""


class FileContent(NamedTuple):
    """A file of any version of a dataset: its path in git, annex key and size."""

    path: str
    key: str
    size: int | None


class ContentQueries(QueryBase):
    """Queries on the contents of datasets.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def file_contents(self, dataset: str) -> Iterator[FileContent]:
        """Yield the files of all indexed versions of a dataset, sorted by path.

        A path whose content changed is yielded for each content.

        Raises
        ------
        UnknownDatasetError
            The dataset is not in the store.
        DatasetWithdrawnError
            The dataset was withdrawn.
        """
        for row in self._rows(_FILES, (self._dataset_number(dataset),)):
            yield FileContent(*row)

    def datasets_with(self, keys: Sequence[str]) -> dict[str, list[DatasetRef]]:
        """Return the datasets that have or had each content, without contents that none has."""
        found = {
            key: [DatasetRef(*row) for row in self._rows(_OF_KEY, (key_hash(key), key))]
            for key in keys
        }
        return {key: datasets for key, datasets in found.items() if datasets}


# A URL that has had other bytes since is not current, unless it names the object version. An object
# version is not current after a later one with the same bytes.
_IS_CURRENT = f"""
NOT EXISTS (SELECT 1 FROM locations o WHERE o.url_hash = l.url_hash AND CASE l.rank
    WHEN {EXACT} THEN o.rank = {EXACT} AND o.content = l.content
        AND (o.last_version, o.id) > (l.last_version, l.id)
    ELSE o.url = l.url AND o.content <> l.content AND o.last_version > l.last_version END)
"""

_DUE = f"""
SELECT {CONTENT_COLUMNS}, l.url, m.name || ':' || d.local_id,
    coalesce((SELECT f.path FROM files f WHERE f.content = c.id LIMIT 1), ''),
    l.probed_at, l.probe_result,
    (SELECT count(*) FROM locations o WHERE o.content = l.content) = 1
FROM {{locations}}
CROSS JOIN versions v ON v.id = l.last_version
CROSS JOIN datasets d ON d.id = v.dataset
CROSS JOIN mirrors m ON m.id = d.mirror CROSS JOIN contents c ON c.id = l.content
WHERE {{condition}} AND d.withdrawn = '' AND {_IS_CURRENT}
"""

_OF_MIRROR = """
(SELECT DISTINCT f.content FROM datasets x CROSS JOIN files f ON f.dataset = x.id
 WHERE x.mirror = ?) mine
CROSS JOIN locations l ON l.content = mine.content
"""

_SMALL_SHARE = 16
"""A mirror with fewer files than this share of all locations is queried file by file."""

_OF_DATASET = """
(SELECT DISTINCT content FROM files WHERE dataset = ?) mine
CROSS JOIN locations l ON l.content = mine.content
"""


class LocationQueries(QueryBase):
    """Queries on locations, such as which are due for a probe, and which failed it.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def due_locations(
        self,
        limit: int,
        before: str,
        *,
        mirror: str | None = None,
        dataset: str | None = None,
    ) -> list[DueLocation]:
        """Return locations that were never probed, then those probed longest ago.

        Parameters
        ----------
        limit : int
            The maximum number of locations.
        before : str
            Omit those probed at this time (as in journal entries) or later.
        mirror, dataset : str, optional
            Return only locations of one mirror, or of files that one dataset has or had.

        Raises
        ------
        UnknownMirrorError, UnknownDatasetError
        """
        found: list[DueLocation] = []
        claimants = self._claimants()
        # two queries, so that each reads the index from its start
        for condition, given in (("l.probed_at IS NULL", ()), ("l.probed_at < ?", (before,))):
            for row in self._due_rows(condition, given, limit - len(found), mirror, dataset):
                found.append(_due_location(row, digests(row, claimants)))
            if len(found) >= limit:
                break
        return found

    def _due_rows(
        self,
        condition: str,
        given: Sequence[str],
        limit: int,
        mirror: str | None,
        dataset: str | None,
    ) -> Iterator[tuple[Any, ...]]:
        order = "ORDER BY l.probed_at, l.id LIMIT ?"
        if dataset is not None:
            sql = _DUE.format(locations=_OF_DATASET, condition=condition)
            return self._rows(sql + order, (self._dataset_number(dataset), *given, limit))
        sql = _DUE.format(locations="locations l INDEXED BY locations_probed", condition=condition)
        if mirror is None:
            return self._rows(sql + order, (*given, limit))
        number = self._mirror_number(mirror)
        if self._is_small(number):
            # the index would pass all locations of the larger mirrors
            sql = _DUE.format(locations=_OF_MIRROR, condition=condition)
            return self._rows(sql + order, (number, *given, limit))
        return self._rows(f"{sql} AND d.mirror = ? {order}", (*given, number, limit))

    def _is_small(self, mirror: int) -> bool:
        row = self._row(
            "SELECT coalesce(sum(n.files), 0), (SELECT max(id) FROM locations) FROM datasets d "
            "JOIN versions n ON n.id = d.newest_version WHERE d.mirror = ?",
            (mirror,),
        )
        assert row is not None
        return bool(row[1] and row[0] * _SMALL_SHARE < row[1])

    def failing_locations(self) -> dict[str, dict[str, int]]:
        """Return the number of failing locations of each mirror, by probe result."""
        found: dict[str, dict[str, int]] = {}
        for mirror, result, count in self._rows(
            "SELECT m.name, l.probe_result, count(*) FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN versions v ON v.id = l.last_version "
            "CROSS JOIN datasets d ON d.id = v.dataset "
            "CROSS JOIN mirrors m ON m.id = d.mirror "
            f"WHERE l.probe_result <> 'ok' AND d.withdrawn = '' AND {_IS_CURRENT} "
            "GROUP BY m.name, l.probe_result ORDER BY m.name, l.probe_result"
        ):
            found.setdefault(mirror, {})[result] = count
        return found

    def location_failures(self) -> list[FailureRow]:
        """Return a failure per mirror whose locations lost current or published contents.

        Older observed states, which upstream may delete, do not count, and neither do locations
        that could not be probed.
        """
        found: dict[str, tuple[Counter[str], str, str]] = {}
        for mirror, result, count, first, last in self._rows(
            "SELECT m.name, l.probe_result, count(*), min(l.probed_at), max(l.probed_at) "
            "FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN versions w ON w.id = l.last_version "
            "CROSS JOIN datasets e ON e.id = w.dataset "
            "CROSS JOIN mirrors m ON m.id = e.mirror "
            "WHERE l.probe_result <> 'ok' "
            "AND l.probe_result IN ('not-found', 'changed', 'refused', 'archived') "
            f"AND e.withdrawn = '' AND {_IS_CURRENT} AND EXISTS ("
            "SELECT 1 FROM files f JOIN datasets d ON d.id = f.dataset "
            "JOIN versions v ON v.dataset = d.id AND v.seq >= f.since "
            "AND (f.until IS NULL OR v.seq < f.until) "
            "WHERE f.content = l.content AND (v.id = d.newest_version OR v.kind = 'published')) "
            "GROUP BY m.name, l.probe_result ORDER BY m.name, l.probe_result"
        ):
            counts, since, at = found.setdefault(mirror, (Counter(), first, last))
            counts[result] = count
            found[mirror] = counts, min(since, first), max(at, last)
        return [
            FailureRow(
                "locations",
                mirror,
                None,
                f"{counts.total()} locations no longer have current or published files "
                f"({', '.join(f'{count} {reason}' for reason, count in counts.items())}); "
                "`neuromirror audit` probes them again",
                since,
                at,
            )
            for mirror, (counts, since, at) in found.items()
        ]

    def failing_locations_of(self, version: VersionRow) -> dict[str, int]:
        """Return the number of failing locations of a version's files, by probe result."""
        rows = self._rows(
            "SELECT l.probe_result, count(DISTINCT l.id) "
            "FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN files f ON f.content = l.content "
            f"WHERE l.probe_result <> 'ok' AND f.dataset = ? AND f.since <= ? "
            f"AND (f.until IS NULL OR f.until > ?) AND {_IS_CURRENT} "
            "GROUP BY l.probe_result ORDER BY l.probe_result",
            (version.dataset, version.seq, version.seq),
        )
        return dict(rows)

    def failing_hosts(self, limit: int) -> list[FailingHost]:
        """Return the hosts with failing locations by mirror, host and probe result, most first."""
        # the host of https://host/path, the bucket of s3://bucket/key
        rows = self._rows(
            "SELECT mirror, substr(rest, 1, instr(rest || '/', '/') - 1) AS host, result, "
            "count(*) AS locations, max(at) FROM ("
            "SELECT m.name AS mirror, substr(l.url, instr(l.url, '://') + 3) AS rest, "
            "l.probe_result AS result, l.probed_at AS at "
            "FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN versions v ON v.id = l.last_version "
            "CROSS JOIN datasets d ON d.id = v.dataset "
            "CROSS JOIN mirrors m ON m.id = d.mirror "
            f"WHERE l.probe_result <> 'ok' AND d.withdrawn = '' AND {_IS_CURRENT}"
            ") GROUP BY mirror, host, result ORDER BY locations DESC, mirror, host, result LIMIT ?",
            (limit,),
        )
        return [FailingHost(*row) for row in rows]

    def probe_summary(self, version: VersionRow) -> ProbeSummary:
        """Return counts of a version's files by their probes; it reads every file."""
        key = "probes", version.dataset, version.seq
        return self._cached(key, lambda: self._read_probe_summary(version))

    def _read_probe_summary(self, version: VersionRow) -> ProbeSummary:
        # reading the locations of every file takes most of the time
        probed = self._row("SELECT 1 FROM locations WHERE probed_at IS NOT NULL LIMIT 1")
        joined = "locations" if probed else "(SELECT * FROM locations LIMIT 0)"
        row = self._row(
            "SELECT count(*), coalesce(sum(hashed), 0), coalesce(sum(available IS NOT NULL), 0), "
            "coalesce(sum(probed), 0), min(available) FROM (SELECT c.checked <> 0 AS hashed, "
            "max(CASE WHEN l.probe_result = 'ok' THEN l.probed_at END) AS available, "
            "max(l.probed_at) IS NOT NULL AS probed "
            "FROM files f CROSS JOIN contents c ON c.id = f.content "
            f"LEFT JOIN {joined} l ON l.content = c.id "
            "WHERE f.dataset = ? AND f.since <= ? AND (f.until IS NULL OR f.until > ?) "
            "GROUP BY f.path)",
            (version.dataset, version.seq, version.seq),
        )
        assert row is not None
        return ProbeSummary(*row)

    def probe_coverage(self) -> tuple[bool, str | None]:
        """Return whether every location was probed, and the time of the oldest last probe."""
        never = self._row("SELECT 1 FROM locations WHERE probed_at IS NULL LIMIT 1")
        oldest = self._row("SELECT min(probed_at) FROM locations WHERE probed_at IS NOT NULL")
        return never is None, None if oldest is None else oldest[0]


def _due_location(row: tuple[Any, ...], known: tuple[Any, ...]) -> DueLocation:
    url, dataset, path, checked_at, result, is_only_location = row[_CONTENT_WIDTH:]
    return DueLocation(
        url, row[1], known, dataset, path, checked_at, result, bool(is_only_location)
    )


_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_BATCH = 10_000
"""Values per statement."""

_T = TypeVar("_T")


class LookupQueries(QueryBase):
    """Queries for what earlier visits of any dataset recorded, such as known checksums.

    A visit that finds them need not request them from upstream. A base class of :class:`Index`,
    which has the connection.
    """

    def known_locations(self, urls: Sequence[str]) -> list[Location | None]:
        """Return the object version last seen at each URL without version, or None."""
        plain = [plain_url(url) for url in urls]
        last: dict[str, tuple[int, int, str, str | None]] = {}
        for some in _batches(list(map(short_hash, plain))):
            for url, version_id, last_version, number in self._all(
                "SELECT url, version_id, last_version, id FROM locations "
                f"WHERE url_hash IN ({_placeholders(some)}) AND rank = {EXACT}",
                some,
            ):
                address = plain_url(url)
                before = last.get(address)
                if before is None or before < (last_version, number):
                    last[address] = (last_version, number, url, version_id)
        # this rank has objects only
        return [
            None if row is None else Location(row[2], "s3", row[3] or url_version_id(row[2]))
            for row in map(last.get, plain)
        ]

    def known_contents(self, etags: Sequence[str]) -> list[EtagRow | None]:
        """Return the content of each ETag, ``<md5>`` or ``<md5>-<parts>``, or None.

        The result is also None for an ETag with two contradicting contents.
        """
        unique_etags = dict.fromkeys(etags)
        plain = [bytes.fromhex(etag) for etag in unique_etags if _MD5.match(etag)]
        multipart = [
            bytes.fromhex(form[1]) for form in map(MULTIPART_ETAG.match, unique_etags) if form
        ]
        rows_by_etag: dict[str, list[tuple[Any, ...]]] = {}
        for md5, _, size, _, *sha256 in self._contents("md5", plain):
            rows_by_etag.setdefault(md5.hex(), []).append((size, None, *sha256))
        for digest, parts, *rest in self._contents("etag", multipart):
            rows_by_etag.setdefault(f"{digest.hex()}-{parts}", []).append(tuple(rest))
        for etag, *rest in self._other_digests(list(unique_etags)):
            rows_by_etag.setdefault(etag, []).append(tuple(rest))
        claimants = self._claimants()
        return [
            _common_values(rows_by_etag[etag], claimants) if etag in rows_by_etag else None
            for etag in etags
        ]

    def shown_keys(self, keys: Collection[str]) -> set[str]:
        """Return those annex keys that a file of a dataset has which is not withdrawn."""
        found: set[str] = set()
        requested = set(keys)
        for some in _batches(list(map(key_hash, keys))):
            rows = self._all(
                f"SELECT c.key FROM contents c WHERE c.key_hash IN ({_placeholders(some)}) "
                "AND EXISTS (SELECT 1 FROM files f JOIN datasets d ON d.id = f.dataset "
                "WHERE f.content = c.id AND d.withdrawn = '')",
                some,
            )
            found.update(key for (key,) in rows if key in requested)
        return found

    def _contents(self, column: str, digests: list[bytes]) -> Iterator[tuple[Any, ...]]:
        """Yield (digest, parts, size, part size, sha256, its claimant, checked bits) of contents.

        They are the contents whose digest has the same first eight bytes; the rest may differ.
        """
        head = f"substr({column}, 1, 8)"
        chosen = (
            f"SELECT {column}, parts, size, part_size, sha256, sha256_by, checked FROM contents"
        )
        for some in _batches([digest[:8] for digest in digests]):
            named = f"key_hash IN ({_placeholders(some)}) AND {head} = key_hash"
            others = f"{head} <> key_hash AND {head} IN ({_placeholders(some)})"
            yield from self._all(f"{chosen} WHERE {named}", some)
            yield from self._all(f"{chosen} WHERE {others}", some)

    def _other_digests(self, etags: list[str]) -> Iterator[tuple[Any, ...]]:
        """Yield (ETag, size, part size, sha256, its claimant, checked bits) of further ETags."""
        for some in _batches(etags):
            yield from self._all(
                "SELECT o.value, c.size, nullif(o.part_size, 0), c.sha256, c.sha256_by, c.checked "
                "FROM other_digests o JOIN contents c ON c.id = o.content "
                f"WHERE o.value IN ({_placeholders(some)}) AND o.algorithm = 'etag'",
                some,
            )


def _common_values(rows: list[tuple[Any, ...]], claimants: dict[int, str]) -> EtagRow | None:
    """Return the values that all rows of one ETag have in common.

    A row is (size, part size, sha256, its claimant, checked bits).
    """
    if len(rows) == 1:
        size, part_size, sha256, by, checked = rows[0]
        return EtagRow(size, part_size, _digest(sha256, by, checked, claimants))
    sizes = {row[0] for row in rows} - {None}
    part_sizes = {row[1] for row in rows} - {None}
    # checked digests come last and replace unchecked ones
    digests = {
        row[2]: _digest(row[2], row[3], row[4], claimants)
        for row in sorted(rows, key=lambda row: int(row[4] & CHECKED_BITS["sha256"]))
        if row[2] is not None
    }
    if len(sizes) > 1:
        return None
    return EtagRow(
        size=next(iter(sizes), None),
        part_size=next(iter(part_sizes)) if len(part_sizes) == 1 else None,
        sha256=next(iter(digests.values())) if len(digests) == 1 else None,
    )


def _digest(
    sha256: bytes | None, by: int | None, checked: int, claimants: dict[int, str]
) -> Digest | None:
    if sha256 is None or by is None:
        return None
    return Digest("sha256", sha256.hex(), claimants[by], bool(checked & CHECKED_BITS["sha256"]))


def _batches(values: list[_T]) -> Iterator[list[_T]]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def _placeholders(values: list[Any]) -> str:
    return ",".join("?" * len(values))
