"""Files: of versions and folders, by content and by checksum."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.index.connection import FilesNotIndexedError, UnknownFileError
from neuromirror.index.contents import (
    CHECKED_BITS,
    MD5,
    MULTIPART_ETAG,
    ContentLookup,
    key_hash,
    parse_checksum,
)
from neuromirror.index.locations import LocationQueries, batches, placeholders
from neuromirror.index.reader import (
    CONTENT_COLUMNS,
    CONTENT_WIDTH,
    Queries,
    Reader,
    digests,
    evidence,
)
from neuromirror.index.rows import (
    RETENTION,
    CopyRow,
    EtagRow,
    EvidenceCounts,
    FileRow,
    FoundFile,
    UnindexedFiles,
    VersionRow,
)
from neuromirror.model import DatasetRef, Digest

FILE_COLUMNS = f"{CONTENT_COLUMNS}, f.path, f.source_path, f.since, f.retention"


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
        The ``start`` of :meth:`FileQueries.folder_entries` for the entries after this one.
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


class FileQueries(Queries):
    """Files of versions, and their contents.

    A subfolder of a million files takes no longer to list than one of ten.
    """

    def __init__(self, db: Reader, locations: LocationQueries) -> None:
        super().__init__(db)
        self._locations = locations

    def of(
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
        claimants = self._db.claimants()
        # "0" sorts next after "/"; CROSS JOIN keeps SQLite to the order of the paths
        rows = self._db.rows(
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
        self.of(version, limit=0)
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
        claimants = self._db.claimants()
        while True:
            rows = self._db.rows(
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
            for row in self._db.all(
                f"SELECT {FILE_COLUMNS} {_BETWEEN} AND NOT instr(substr(f.path, ?), '/')",
                (*given, below),
            )
        }
        claimants = self._db.claimants()
        for path, count, size in self._db.all(
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
        row = self._db.row(
            "SELECT count(*), CAST(total(c.size) AS INTEGER) FROM (SELECT f.content FROM files f "
            f"WHERE f.dataset = ? AND f.path >= ? AND f.path < ? AND {_PRESENT} LIMIT ?) b "
            "JOIN contents c ON c.id = b.content",
            (version.dataset, f"{path}/", f"{path}0", version.seq, version.seq, max(most, 0)),
        )
        assert row is not None
        return int(row[0]), int(row[1])

    def get(self, version: VersionRow, path: str) -> FileRow:
        """Return a file of a version, with its CRCs among the digests.

        Raises UnknownFileError, and FilesNotIndexedError as :meth:`folder_entries` does.
        """
        self.of(version, limit=0)
        row = self._db.row(
            f"SELECT {FILE_COLUMNS} FROM files f JOIN contents c ON c.id = f.content "
            f"WHERE f.dataset = ? AND f.path = ? AND {_PRESENT}",
            (version.dataset, path, version.seq, version.seq),
        )
        if row is None:
            raise UnknownFileError(f"{version.name} has no file {path!r}")
        claimants = self._db.claimants()
        found = file_row(row, claimants)
        crcs = self._db.rows(
            "SELECT algorithm, value, claimant FROM other_digests "
            "WHERE content = ? AND algorithm GLOB 'crc*'",
            (found.content,),
        )
        more = [Digest(algorithm, value, claimants[by]) for algorithm, value, by in crcs]
        return replace(found, digests=(*found.digests, *more))

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
        rows = self._db.rows(
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
        indexed = [version.seq for version in versions if version.indexed]
        counts: list[tuple[Any, ...]] = []
        if indexed:
            given = (versions[0].dataset, max(indexed), min(indexed))
            counts = self._db.cached(
                ("evidence", *given), lambda: self._db.all(_EVIDENCE_COUNTS, given), len
            )
        return [_evidence_counts(version, counts) for version in versions]

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
        rows = self._db.cached(("copies", *given), lambda: self._db.all(_COPIES, given), len)
        return [
            CopyRow(name, RETENTION[retention_rank], files) for name, retention_rank, files in rows
        ]

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
            Nothing for contents that are unknown, or only in versions that :meth:`unindexed`
            counts.

        Raises
        ------
        MalformedQueryError
            At the call.
        """
        return self._found_files(parse_checksum(query), after)

    def unindexed(self) -> list[UnindexedFiles]:
        """Return the files that :meth:`find` cannot find, by mirror; empty if all are indexed."""
        return [UnindexedFiles(*row) for row in self._db.rows(_UNINDEXED_FILES)]

    def _found_files(
        self, lookups: list[ContentLookup], after: tuple[int, int, str, int]
    ) -> Iterator[FoundFile]:
        claimants = self._db.claimants()
        union = " UNION ".join(lookup.sql for lookup in lookups)
        given = [value for lookup in lookups for value in lookup.parameters]
        for (content,) in self._db.rows(f"{union} ORDER BY 1", given):
            if content < after[0]:
                continue
            start = after[1:] if content == after[0] else (0, "", 0)
            urls: tuple[str, ...] | None = None
            for row in self._db.rows(_FOUND_FILES, (content, *start)):
                if urls is None:
                    urls = tuple(location.url for location in self._locations.of(content))
                yield _found_file(row, urls, claimants)

    def contents(self, dataset: str) -> Iterator[FileContent]:
        """Yield the files of all indexed versions of a dataset, sorted by path.

        A path whose content changed is yielded for each content.

        Raises
        ------
        UnknownDatasetError
            The dataset is not in the store.
        DatasetWithdrawnError
            The dataset was withdrawn.
        """
        for row in self._db.rows(_FILES, (self._db.dataset_number(dataset),)):
            yield FileContent(*row)

    def datasets_with(self, keys: Sequence[str]) -> dict[str, list[DatasetRef]]:
        """Return the datasets that have or had each content, without contents that none has."""
        found = {
            key: [DatasetRef(*row) for row in self._db.rows(_OF_KEY, (key_hash(key), key))]
            for key in keys
        }
        return {key: datasets for key, datasets in found.items() if datasets}

    def known_contents(self, etags: Sequence[str]) -> list[EtagRow | None]:
        """Return the content of each ETag, ``<md5>`` or ``<md5>-<parts>``, or None.

        The result is also None for an ETag with two contradicting contents.
        """
        unique_etags = dict.fromkeys(etags)
        plain = [bytes.fromhex(etag) for etag in unique_etags if MD5.match(etag)]
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
        claimants = self._db.claimants()
        return [
            _common_values(rows_by_etag[etag], claimants) if etag in rows_by_etag else None
            for etag in etags
        ]

    def shown_keys(self, keys: Collection[str]) -> set[str]:
        """Return those annex keys that a file of a dataset has which is not withdrawn."""
        found: set[str] = set()
        requested = set(keys)
        for some in batches(list(map(key_hash, keys))):
            rows = self._db.all(
                f"SELECT c.key FROM contents c WHERE c.key_hash IN ({placeholders(some)}) "
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
        for some in batches([digest[:8] for digest in digests]):
            named = f"key_hash IN ({placeholders(some)}) AND {head} = key_hash"
            others = f"{head} <> key_hash AND {head} IN ({placeholders(some)})"
            yield from self._db.all(f"{chosen} WHERE {named}", some)
            yield from self._db.all(f"{chosen} WHERE {others}", some)

    def _other_digests(self, etags: list[str]) -> Iterator[tuple[Any, ...]]:
        """Yield (ETag, size, part size, sha256, its claimant, checked bits) of further ETags."""
        for some in batches(etags):
            yield from self._db.all(
                "SELECT o.value, c.size, nullif(o.part_size, 0), c.sha256, c.sha256_by, c.checked "
                "FROM other_digests o JOIN contents c ON c.id = o.content "
                f"WHERE o.value IN ({placeholders(some)}) AND o.algorithm = 'etag'",
                some,
            )


def file_row(row: tuple[Any, ...], claimants: dict[int, str]) -> FileRow:
    """Convert a row of the database to a :class:`FileRow`.

    Parameters
    ----------
    row
        Values of the columns :data:`FILE_COLUMNS`.
    claimants
        The names of the archives and programs that stated digests, by their row id.
    """
    path, source_path, since, retention_rank = row[CONTENT_WIDTH:]
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


def _found_file(
    row: tuple[Any, ...], urls: tuple[str, ...], claimants: dict[int, str]
) -> FoundFile:
    dataset, path, first, last, current, number, since, retention_rank = row[CONTENT_WIDTH:]
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
