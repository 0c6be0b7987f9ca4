"""Queries on how long upstream keeps the contents of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from neuromirror.index.query_base import QueryBase
from neuromirror.index.rows import RETENTION
from neuromirror.model import Retention

_PUBLISHED = """
AND EXISTS (SELECT 1 FROM versions p WHERE p.dataset = f.dataset AND p.kind = 'published'
    AND p.seq >= f.since AND (f.until IS NULL OR p.seq < f.until))
"""
_FILES = """
SELECT f.path, c.key, c.size, f.retention, f.until
FROM files f CROSS JOIN contents c ON c.id = f.content
WHERE f.dataset = ? {condition} ORDER BY f.path, f.since
"""
# the visit that recorded a version ends in the same second at the earliest
_SEEN = """
SELECT v.seq, (SELECT max(t.started_at) FROM visits t WHERE t.dataset = v.dataset
    AND t.status IN ('full', 'partial') AND t.ended_at < v.recorded_at)
FROM versions v WHERE v.dataset = ?
"""
_LAST_SEEN = """
SELECT max(started_at) FROM visits WHERE dataset = ? AND status IN ('full', 'partial')
"""


@dataclass(frozen=True, slots=True)
class RetainedFile:
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
    last_seen : str or None
        The start (ISO 8601) of the last visit that found it at this path; None without one.
    """

    path: str
    key: str
    size: int | None
    retention: Retention
    is_current: bool
    last_seen: str | None


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
        for path, key, size, rank, until in self._rows(sql, (number,)):
            yield RetainedFile(path, key, size, RETENTION[rank], until is None, seen[until])
