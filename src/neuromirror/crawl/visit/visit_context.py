"""Results of earlier visits that a source can look up (sources.VisitContext)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from neuromirror.index import CrawlIndex, EtagRow
from neuromirror.model import Location
from neuromirror.sources import KnownContent


def create_workspace(folder: Path) -> Path:
    """Return a folder for pages that are not resumed; create it if it is missing."""
    folder.mkdir(exist_ok=True)
    return folder


def ignore_refusal(url: str) -> bool:
    """Return False and record nothing.

    It is the ``record_refusal`` of a context that keeps no history of refusals.
    """
    return False


class StoreVisitContext:
    """The earlier results that a source can look up while it reads one version of a dataset.

    It implements :class:`~neuromirror.sources.VisitContext` with the index and the store. For use
    in the thread in which the listing is read, which owns the index connection.

    Parameters
    ----------
    index
        The index, for contents that earlier visits recorded.
    open_workspace
        Creates, if necessary, the folder for pages that the source keeps while it reads.
    memo
        The memo that the source stored at the last visit of this version; None without one.
    deep
        Whether the source must not rely on the memo.
    look_up_unindexed
        Looks up contents that are not in the index.
    record_refusal
        Records an object that its bucket refuses.
    """

    def __init__(
        self,
        index: CrawlIndex,
        open_workspace: Callable[[], Path],
        memo: bytes | None = None,
        *,
        deep: bool = False,
        look_up_unindexed: Callable[[Sequence[str]], list[EtagRow | None]] | None = None,
        record_refusal: Callable[[str], bool] = ignore_refusal,
    ) -> None:
        self._index = index
        self._open_workspace = open_workspace
        self.memo = memo
        self.deep = deep
        self._look_up_unindexed = look_up_unindexed
        self._record_refusal = record_refusal

    @cached_property
    def workspace(self) -> Path:
        """The version's own folder; the first access creates it."""
        return self._open_workspace()

    def locations(self, urls: Sequence[str]) -> list[Location | None]:
        """Return the exact location that was last recorded for each plain URL."""
        return self._index.known_locations(urls)

    def record_refusal(self, url: str) -> bool:
        """Record that a bucket refuses an object; return whether the refusal is lasting."""
        return self._record_refusal(url)

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        """Return the known content of each ETag."""
        found = self._index.known_contents(etags)
        left = [etag for etag, one in zip(etags, found, strict=True) if one is None]
        if left and self._look_up_unindexed is not None:
            more = iter(self._look_up_unindexed(left))
            found = [next(more) if one is None else one for one in found]
        return [
            None if one is None else KnownContent(one.size, one.part_size, one.sha256)
            for one in found
        ]
