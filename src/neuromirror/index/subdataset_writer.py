"""Write the subdatasets in a version's tree over those of the version before."""

from __future__ import annotations

import sqlite3

from msgspec.structs import astuple

from neuromirror.model import RecordLine

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
