"""A sample of objects, requested to check that single-part ETags are MD5s."""

from __future__ import annotations

import zlib
from typing import Final

from neuromirror.net import ObjectRow
from neuromirror.sources.s3.object_claims import MD5
from neuromirror.sources.s3.sidecars import is_plain

_SAMPLES: Final = 8


class EtagSample:
    """At most eight objects of a listing, to be requested to learn whether ETags are MD5s.

    The sample is the same in whatever order the rows are added: the top-level folders are divided
    into eight groups by a checksum of their names, and each group contributes the object whose key
    has the lowest checksum.
    """

    def __init__(self) -> None:
        self._best: dict[int, tuple[int, ObjectRow]] = {}
        self._worst = 0

    def __len__(self) -> int:
        return len(self._best)

    def add(self, row: ObjectRow, path: bytes) -> None:
        """Consider a row; ``path`` is its key within the dataset."""
        rank = zlib.crc32(row.key)
        if rank >= self._worst and len(self._best) == _SAMPLES:
            return
        group = zlib.crc32(path.partition(b"/")[0]) % _SAMPLES
        best = self._best.get(group)
        if best is not None and (best[0], best[1].key) <= (rank, row.key):
            return
        if MD5.match(row.etag) and is_plain(path):
            self._best[group] = (rank, row)
            self._worst = max(rank for rank, _ in self._best.values())

    def rows(self) -> list[ObjectRow]:
        """Return the sampled rows."""
        return [row for _, row in self._best.values()]
