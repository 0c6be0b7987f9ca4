"""Queries on how long upstream keeps the contents of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from neuromirror.index.query_base import QueryBase
from neuromirror.index.rows import RETENTION
from neuromirror.index.urls import key_hash
from neuromirror.model import DatasetRef, Retention

_PUBLISHED = """
AND EXISTS (SELECT 1 FROM versions p WHERE p.dataset = f.dataset AND p.kind = 'published'
    AND p.seq >= f.since AND (f.until IS NULL OR p.seq < f.until))
"""
_FILES = """
SELECT f.path, c.key, c.size, f.retention, f.until, v.recorded_at
FROM files f CROSS JOIN contents c ON c.id = f.content
CROSS JOIN versions v ON v.dataset = f.dataset AND v.seq = f.since
WHERE f.dataset = ? {condition} ORDER BY f.path, f.since
"""
# the visit that recorded a version ends in the same second at the earliest
_SEEN = """
SELECT v.seq, (SELECT max(t.started_at) FROM visits t WHERE t.dataset = v.dataset
    AND t.status IN ('full', 'partial') AND t.ended_at < v.recorded_at)
FROM versions v WHERE v.dataset = ?
"""
_OF_KEY = """
SELECT c.id, c.size, f.path, f.retention, m.name, d.local_id, d.source_uri
FROM contents c CROSS JOIN files f ON f.content = c.id CROSS JOIN datasets d ON d.id = f.dataset
CROSS JOIN mirrors m ON m.id = d.mirror
WHERE c.key_hash = ? AND c.key = ? AND d.source_uri IS NOT NULL AND d.withdrawn = ''
"""
_URLS = "SELECT url FROM locations WHERE content = ? ORDER BY rank, id LIMIT 10"
_LAST_SEEN = """
SELECT max(started_at) FROM visits WHERE dataset = ? AND status IN ('full', 'partial')
"""


class RetainedFile(Struct, frozen=True):
    """A file of any version of a dataset, and how long upstream keeps its content.

    Attributes
    ----------
    path : str
        The path in git.
    key : str
        The annex key.
    size : int or None
        The size in bytes.
    retention : Retention
        The strongest retention that the dataset gives it.
    is_current : bool
        Whether the newest state has it at this path.
    last_seen : str
        The start (ISO 8601) of the last visit that found it at this path, or the time at which its
        version was recorded, if that is later.
    """

    path: str
    key: str
    size: int | None
    retention: Retention
    is_current: bool
    last_seen: str


class ContentSource(Struct, frozen=True):
    """Where a content is upstream.

    Attributes
    ----------
    key : str
        The annex key.
    size : int or None
        The size in bytes.
    path : str
        The path in git of a file with it.
    datasets : tuple of DatasetRef
        The datasets that have or had it.
    urls : tuple of str
        Its URLs, the most exact first.
    is_promised : bool
        Whether upstream promises to keep it: it is in a published version, or in a bucket that
        keeps old object versions.
    """

    key: str
    size: int | None
    path: str
    datasets: tuple[DatasetRef, ...]
    urls: tuple[str, ...]
    is_promised: bool


class RetentionQueries(QueryBase):
    """Queries on how long upstream keeps the contents of a dataset.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def retained_files(
        self, dataset: str, *, published_only: bool = False
    ) -> Iterator[RetainedFile]:
        """Yield the files of all indexed versions of a dataset, sorted by path.

        Parameters
        ----------
        dataset : str
            ``<mirror>:<local id>``.
        published_only : bool
            Whether to yield only files of published versions.

        Yields
        ------
        RetainedFile
            A file with one content; several for a path whose content changed.

        Raises
        ------
        UnknownDatasetError
            The dataset is not in the store.
        DatasetWithdrawnError
            The dataset was withdrawn.
        """
        number = self._dataset_number(dataset)
        seen: dict[int | None, str | None] = dict(self._rows(_SEEN, (number,)))
        row = self._row(_LAST_SEEN, (number,))
        seen[None] = None if row is None else row[0]
        sql = _FILES.format(condition=_PUBLISHED if published_only else "")
        for path, key, size, rank, until, recorded in self._rows(sql, (number,)):
            last_seen = max(seen[until] or "", recorded)
            yield RetainedFile(path, key, size, RETENTION[rank], until is None, last_seen)

    def content_sources(self, keys: Sequence[str]) -> dict[str, ContentSource]:
        """Return where contents are upstream.

        Parameters
        ----------
        keys : sequence of str
            Annex keys.

        Returns
        -------
        dict[str, ContentSource]
            The sources by annex key, without those of contents that no dataset has.
        """
        found: dict[str, ContentSource] = {}
        for key in keys:
            rows = list(self._rows(_OF_KEY, (key_hash(key), key)))
            if rows:
                content, size, path = rows[0][:3]
                datasets = dict.fromkeys(DatasetRef(*row[4:]) for row in rows)
                urls = tuple(url for (url,) in self._rows(_URLS, (content,)))
                strongest = RETENTION[max(row[3] for row in rows)]
                is_promised = strongest in (Retention.PUBLISHED, Retention.VERSIONED_BUCKET)
                found[key] = ContentSource(key, size, path, tuple(datasets), urls, is_promised)
        return found
