"""Sub-datasets that stand in a version's tree: written over those of the version before."""

from __future__ import annotations

import sqlite3

from neuromirror.model import RecordLine

_Values = tuple[str, str, str, str, int, int, bytes | None]
"""Dataset id, local id, commit, state, files, bytes, upstream's path where it is another."""


class SubdatasetWriter:
    """Keeps the dataset's rows of parts in step with version ``seq``; lives for one transaction.

    A version has few parts as against files, so that all of them fit in memory.
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
        """How many parts the version has, as far as it was told."""
        return len(self._before) + self._added

    def was_present(self, path: str) -> bool:
        """Whether the version before has a part at this path of the git tree."""
        return path in self._before

    def add(self, path: str, record: RecordLine) -> None:
        """The version has this part, new, changed or as it was."""
        part = record.subdataset
        assert part is not None
        values: _Values = (
            part.dataset_id,
            part.local_id,
            part.commit,
            part.state,
            part.files,
            part.bytes,
            record.source_path,
        )
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
        """The version does not have the part that was there."""
        self._added -= 1
        del self._unseen[path]
        self._close(path)

    def remove_unseen(self) -> None:
        """The version was told whole: what was not named is not there."""
        for path in list(self._unseen):
            self.remove(path)

    def _close(self, path: str) -> None:
        self._db.execute(
            "UPDATE subdatasets SET until = ? WHERE dataset = ? AND path = ? AND since = ?",
            (self._seq, self._dataset, path, self._before[path][0]),
        )
