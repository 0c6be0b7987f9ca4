"""Read and validate the listings of one dataset, with memos from one visit to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.visit.listing_reader import read_listing
from neuromirror.crawl.visit.refusals import RefusalHistory
from neuromirror.crawl.visit.snapshot import ComponentResolver, SpooledSnapshot
from neuromirror.crawl.visit.unindexed_contents import UnindexedContents
from neuromirror.crawl.visit.visit_context import StoreVisitContext, ignore_refusal
from neuromirror.model import DatasetRef, VersionKind, VersionRef
from neuromirror.net import AccessDeniedError, InvalidListingError
from neuromirror.sources import (
    Listing,
    Source,
    SupportsPendingCheck,
    UnreliableListingError,
    VisitContext,
)
from neuromirror.store import Store
from neuromirror.store.memos import MemoFolder, StoredMemo, Workspace

_ATTEMPTS = 3
_PENDING = "pending "
"""Prefix of the memo with the pending items of a version."""
_PROBLEMS = "problems "
"""Prefix of the memo that a published version has problems."""

StateCommits = tuple[str, str]
"""The commits of a state and of the git-annex branch, in hex."""

AcceptSnapshot = Callable[[Listing, SpooledSnapshot, Path], StateCommits | None]
"""Takes a validated listing and a scratch folder.

Returns the commits of the state that the listing describes; None if it was not accepted.
"""


class VersionReader:
    """Reads the listings of one dataset's versions from upstream and validates them.

    A listing that fails validation is read again. The caller holds the dataset's lock.

    Parameters
    ----------
    source, store, recorder, dataset
        The source and the dataset, and the store with the results of earlier visits.
    create_resolver
        Creates the resolver for the components of a version's listing.
    attempts
        Maximum number of times that a listing is read if it fails validation.

    Attributes
    ----------
    deep
        Whether the source must read again what it could take from memos.
    viewer_links, comparison_scope, problems, refused_count
        The values that the last listing reported.
    record_refusal
        :meth:`VisitContext.record_refusal` of the version that is being read.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        recorder: Recorder,
        dataset: DatasetRef,
        *,
        create_resolver: Callable[[VersionRef], ComponentResolver] | None = None,
        attempts: int = _ATTEMPTS,
    ) -> None:
        self._source = source
        self._store = store
        self._recorder = recorder
        self._dataset = dataset
        self._id = dataset.dataset_id
        self._memos = MemoFolder(store.root)
        self._create_resolver = create_resolver
        self._attempts = attempts
        self.deep = False
        self.viewer_links: tuple[tuple[str, str], ...] = ()
        self.comparison_scope = ""
        self.problems: tuple[str, ...] = ()
        self.refused_count = 0
        self.record_refusal: Callable[[str], bool] = ignore_refusal

    def read(
        self,
        version: VersionRef,
        accept: AcceptSnapshot,
        commit: str | None,
        annex_commit: str | None = None,
        *,
        listing: Callable[[VisitContext], Listing] | None = None,
        memo_name: str | None = None,
    ) -> int | None:
        """Pass a validated listing to ``accept``; read again if upstream changed meanwhile.

        Parameters
        ----------
        version
            The version to read.
        accept
            Not called if upstream reports no change since the state of ``commit``.
        commit, annex_commit
            The state in git; None for ``annex_commit`` accepts any.
        listing
            Opens the listing; by default, the source does.
        memo_name
            The name of the memo; by default, upstream's name of the version.

        Returns
        -------
        int or None
            If nothing changed, the number of pending files in that state; else None.

        Raises
        ------
        UnreliableListingError
            If validation failed in the last attempt.
        NeuromirrorError
            Whatever the source or ``accept`` raises.
        """
        memo_name = memo_name or version.upstream
        memo = self._memos.read(self._id, memo_name)
        if memo is not None and (
            memo.commit != commit or annex_commit not in (None, memo.annex_commit)
        ):
            memo = None
        workspace = Workspace(self._store.root, self._id, memo_name)
        open_listing = listing or (lambda known: self._source.listing(version, known))
        try:
            for attempt in range(self._attempts):
                try:
                    return self._read(version, open_listing, accept, memo, workspace, memo_name)
                except UnreliableListingError:
                    # a contradictory listing must not be resumed from its stored pages
                    workspace.remove()
                    if attempt == self._attempts - 1:
                        raise
        except InvalidListingError:
            workspace.remove()
            raise
        finally:
            workspace.remove_if_empty()
        raise AssertionError("the last attempt returns or raises")

    def _read(
        self,
        version: VersionRef,
        open_listing: Callable[[VisitContext], Listing],
        accept: AcceptSnapshot,
        memo: StoredMemo | None,
        workspace: Workspace,
        memo_name: str,
    ) -> int | None:
        with ExitStack() as stack:
            refusals = stack.enter_context(self._refusal_history(memo_name))
            with (
                self._recorder.reader() as index,
                UnindexedContents(self._store, index, self._dataset) as unindexed,
            ):
                context = StoreVisitContext(
                    index,
                    workspace.path,
                    None if memo is None else memo.content,
                    deep=self.deep,
                    look_up_unindexed=unindexed.contents,
                    record_refusal=refusals.record,
                )
                listing = open_listing(context)
                if memo is not None and listing.is_unchanged():
                    workspace.remove()
                    content = listing.renewed_memo()
                    if content is not None:
                        # a source that reads a sample continues from where it stopped
                        commits = memo.commit, memo.annex_commit
                        self._memos.write(
                            self._id, memo_name, StoredMemo(*commits, content, memo.pending)
                        )
                    self._note_listing(listing, memo_name)
                    return memo.pending
                scratch = stack.enter_context(self._store.scratch())
                resolver = None
                if self._create_resolver is not None:
                    resolver = stack.enter_context(closing(self._create_resolver(version)))
                snapshot = read_listing(listing, scratch, resolver)
            self._note_listing(listing, memo_name)
            content = listing.memo()
            # the next steps restart with a new listing: kept pages would hide changes
            workspace.remove()
            accepted_commits = accept(listing, snapshot, scratch)
        if accepted_commits is not None:
            new = (
                None
                if content is None
                else StoredMemo(*accepted_commits, content, snapshot.pending_files)
            )
            self._memos.write(self._id, memo_name, new)
        pending_content = None if accepted_commits is None else listing.pending_items()
        new = (
            None
            if accepted_commits is None or pending_content is None
            else StoredMemo(*accepted_commits, pending_content, snapshot.pending_files)
        )
        self._memos.write(self._id, _PENDING + memo_name, new)
        return None

    def count_still_pending(
        self, memo_name: str, commit: str | None, annex_commit: str | None
    ) -> int | None:
        """Return how many files are still pending in the state of these commits.

        None if upstream has completed some of them, or only a visit can detect that.
        """
        memo = self._memos.read(self._id, _PENDING + memo_name)
        if (
            memo is None
            or (memo.commit, memo.annex_commit) != (commit, annex_commit)
            or not isinstance(self._source, SupportsPendingCheck)
            or not self._source.is_still_pending(self._dataset, memo.content)
        ):
            return None
        return memo.pending

    @contextmanager
    def _refusal_history(self, memo_name: str) -> Iterator[RefusalHistory]:
        """Yield the refused objects of a version, and save them, also after an error."""
        refusals = RefusalHistory(self._memos, self._id, memo_name)
        self.record_refusal = refusals.record
        is_complete = False
        try:
            yield refusals
            is_complete = True
        except AccessDeniedError:
            # raised after all refused objects are recorded, or for the list of the objects
            is_complete = refusals.has_new
            raise
        finally:
            refusals.save(is_complete=is_complete)

    def had_problems(self, memo_name: str) -> bool:
        """Return whether the last listing of a published version had problems."""
        return self._memos.read(self._id, _PROBLEMS + memo_name) is not None

    def _note_listing(self, listing: Listing, memo_name: str) -> None:
        self.viewer_links, self.comparison_scope = listing.facts.links, listing.describe_checks()
        self.problems, self.refused_count = tuple(listing.problems()), listing.refused_count()
        if listing.version.kind is VersionKind.PUBLISHED:
            memo = StoredMemo("", "", b"") if self.problems else None
            self._memos.write(self._id, _PROBLEMS + memo_name, memo)
