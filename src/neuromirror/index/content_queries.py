"""Queries on the contents of datasets: which a dataset has, and which datasets have one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from neuromirror.index.query_base import QueryBase
from neuromirror.index.urls import key_hash
from neuromirror.model import DatasetRef

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
