"""What earlier visits learnt, as a source may ask for it (sources.Known)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from neuromirror.index import EtagRow, Index
from neuromirror.model import Location
from neuromirror.sources import KnownContent


class WorkspaceProvider(Protocol):
    """Where a source keeps pages while it reads, as store.memos.Workspace."""

    def path(self) -> Path:
        """The folder, made when it is first asked for."""
        ...


def ignore_refusal(url: str) -> bool:
    """Return False: nothing is known of earlier refusals."""
    return False


class StoreVisitContext:
    """Answers from the index and the store's memos about one version of a dataset.

    To be asked in the thread in which the listing is read: the index's connection belongs to it.
    ``recall`` is asked for contents that the index does not have, ``refused`` about an object that
    its bucket refuses.
    """

    def __init__(
        self,
        index: Index,
        workspace: WorkspaceProvider,
        memo: bytes | None = None,
        *,
        deep: bool = False,
        look_up_unindexed: Callable[[Sequence[str]], list[EtagRow | None]] | None = None,
        record_refusal: Callable[[str], bool] = ignore_refusal,
    ) -> None:
        self._index = index
        self._workspace = workspace
        self.memo = memo
        self.deep = deep
        self._look_up_unindexed = look_up_unindexed
        self._record_refusal = record_refusal

    @cached_property
    def workspace(self) -> Path:
        """A folder of the version's own, made when it is first asked for."""
        return self._workspace.path()

    def locations(self, urls: Sequence[str]) -> list[Location | None]:
        """The exact location last learnt for each plain URL."""
        return self._index.known_locations(urls)

    def record_refusal(self, url: str) -> bool:
        """Record that a bucket refuses an object; return whether it has done so for a day."""
        return self._record_refusal(url)

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        """What is known of the content of each ETag."""
        found = self._index.known_contents(etags)
        left = [etag for etag, one in zip(etags, found, strict=True) if one is None]
        if left and self._look_up_unindexed is not None:
            more = iter(self._look_up_unindexed(left))
            found = [next(more) if one is None else one for one in found]
        return [
            None if one is None else KnownContent(one.size, one.part_size, one.sha256)
            for one in found
        ]
