"""Listings of one dataset, read and proven, with what is remembered from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from neuromirror.crawl.knowledge import Knowledge
from neuromirror.crawl.prove import Proven, prove
from neuromirror.crawl.recorder import Recorder
from neuromirror.model import DatasetRef, VersionRef
from neuromirror.net import ListingBroken
from neuromirror.sources import Listing, ListingNotProven, Source
from neuromirror.store import Store
from neuromirror.store.memos import Memo, MemoFolder, Workspace

_ATTEMPTS = 3

Commits = tuple[str, str]
"""A state's commit and the git-annex branch's, in hex."""

Take = Callable[[Listing, Proven, Path], Commits | None]
"""Takes a proven listing and a scratch folder; gives the state in git that the listing is of, or
None where it was not accepted."""


class Reading:
    """Reads the listings of one dataset; the caller holds the dataset's lock."""

    def __init__(
        self, source: Source, store: Store, recorder: Recorder, dataset: DatasetRef
    ) -> None:
        self._source = source
        self._store = store
        self._recorder = recorder
        self._id = dataset.dataset_id
        self._memos = MemoFolder(store.root)

    def read(
        self, version: VersionRef, take: Take, commit: str | None, annex_commit: str | None = None
    ) -> Listing | None:
        """Gives ``take`` a proven listing; reads again when upstream moved meanwhile.

        Where upstream says that nothing has changed since the state of ``commit`` (and
        ``annex_commit``, if given) was made, ``take`` is not called: the listing is given back
        unread. Raises what the source raises, and what ``take`` raises.
        """
        memo = self._memos.read(self._id, version.upstream)
        if memo is not None and (
            memo.commit != commit or annex_commit not in (None, memo.annex_commit)
        ):
            memo = None
        workspace = Workspace(self._store.root, self._id, version.upstream)
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    return self._read(version, take, memo, workspace)
                except ListingNotProven:
                    # pages of a listing that contradicts itself must not be gone on with
                    workspace.remove()
                    if attempt == _ATTEMPTS - 1:
                        raise
        except ListingBroken:
            workspace.remove()
            raise
        finally:
            workspace.leave()
        raise AssertionError("the last attempt returns or raises")

    def _read(
        self, version: VersionRef, take: Take, memo: Memo | None, workspace: Workspace
    ) -> Listing | None:
        with ExitStack() as stack:
            with self._recorder.reader() as index:
                known = Knowledge(index, workspace, None if memo is None else memo.content)
                listing = self._source.listing(version, known)
                if memo is not None and listing.unchanged():
                    workspace.remove()
                    return listing
                scratch = stack.enter_context(self._store.scratch())
                proven = prove(listing, scratch)
            content = listing.memo()
            # what comes now begins anew if it dies: pages kept longer would hide what changes
            workspace.remove()
            taken = take(listing, proven, scratch)
        if taken is not None:
            new = None if content is None else Memo(*taken, content)
            self._memos.keep(self._id, version.upstream, new)
        return None
