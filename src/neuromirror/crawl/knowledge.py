"""What earlier visits learnt, as a source may ask for it (sources.Known)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuromirror.index import Index
from neuromirror.model import Location
from neuromirror.sources import KnownContent


class Knowledge:
    """Answers from the index and the store's memos about one version of a dataset."""

    def __init__(self, index: Index, workspace: Path, memo: bytes | None = None) -> None:
        self._index = index
        self.workspace = workspace
        self.memo = memo

    def locations(self, urls: Sequence[str]) -> list[Location | None]:
        """The exact location last learnt for each plain URL."""
        return [self._index.known_location(url) for url in urls]

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        """What is known of the content of each ETag."""
        return [None for _ in etags]
