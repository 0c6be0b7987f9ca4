"""Listings of one dataset, read and proven, with what is remembered from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from neuromirror.crawl.knowledge import Knowledge, no_lasting_refusal
from neuromirror.crawl.prove import PartEntries, Proven, prove
from neuromirror.crawl.recalled import Recalled
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.refusals import Refusals
from neuromirror.model import DatasetRef, VersionKind, VersionRef
from neuromirror.net import Forbidden, ListingBroken
from neuromirror.sources import ChecksPending, Known, Listing, ListingNotProven, Source
from neuromirror.store import Store
from neuromirror.store.memos import Memo, MemoFolder, Workspace

_ATTEMPTS = 3
_PENDING = "pending "
"""Begins the word under which the pending items of a version are remembered."""
_PROBLEMS = "problems "
"""Begins the word under which it is remembered that a published version has problems."""

Commits = tuple[str, str]
"""A state's commit and the git-annex branch's, in hex."""

Take = Callable[[Listing, Proven, Path], Commits | None]
"""Takes a proven listing and a scratch folder; gives the state in git that the listing is of, or
None where it was not accepted."""


class Reading:
    """Reads the listings of one dataset; the caller holds the dataset's lock.

    ``parts`` makes what decides about the parts of a version's listing. A listing that is not
    proven is read again, ``attempts`` times in all. ``deep`` tells the source that nothing is to
    be believed that could be read again. ``links``, ``checked``, ``problems`` and ``refused`` are
    what the last listing said.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        recorder: Recorder,
        dataset: DatasetRef,
        *,
        parts: Callable[[VersionRef], PartEntries] | None = None,
        attempts: int = _ATTEMPTS,
    ) -> None:
        self._source = source
        self._store = store
        self._recorder = recorder
        self._dataset = dataset
        self._id = dataset.dataset_id
        self._memos = MemoFolder(store.root)
        self._parts = parts
        self._attempts = attempts
        self.deep = False
        self.links: tuple[tuple[str, str], ...] = ()
        self.checked = ""
        self.problems: tuple[str, ...] = ()
        self.refused = 0
        self.is_lasting_refusal: Callable[[str], bool] = no_lasting_refusal
        """As Known's, while a version is read."""

    def read(
        self,
        version: VersionRef,
        take: Take,
        commit: str | None,
        annex_commit: str | None = None,
        *,
        listing: Callable[[Known], Listing] | None = None,
        word: str | None = None,
    ) -> int | None:
        """Gives ``take`` a proven listing; reads again when upstream moved meanwhile.

        Where upstream says that nothing has changed since the state of ``commit`` (and
        ``annex_commit``, if given) was made, ``take`` is not called; given is then how many files
        of that state still waited for a checksum. ``listing`` reads the version, if it is not the
        source that does; ``word`` is what is remembered under, if not upstream's for the version.
        Raises what the source raises, and what ``take`` raises.
        """
        word = word or version.upstream
        memo = self._memos.read(self._id, word)
        if memo is not None and (
            memo.commit != commit or annex_commit not in (None, memo.annex_commit)
        ):
            memo = None
        workspace = Workspace(self._store.root, self._id, word)
        opened = listing or (lambda known: self._source.listing(version, known))
        try:
            for attempt in range(self._attempts):
                try:
                    return self._read(version, opened, take, memo, workspace, word)
                except ListingNotProven:
                    # pages of a listing that contradicts itself must not be gone on with
                    workspace.remove()
                    if attempt == self._attempts - 1:
                        raise
        except ListingBroken:
            workspace.remove()
            raise
        finally:
            workspace.leave()
        raise AssertionError("the last attempt returns or raises")

    def _read(
        self,
        version: VersionRef,
        opened: Callable[[Known], Listing],
        take: Take,
        memo: Memo | None,
        workspace: Workspace,
        word: str,
    ) -> int | None:
        with ExitStack() as stack:
            refusals = stack.enter_context(self._refusals(word))
            with (
                self._recorder.reader() as index,
                Recalled(self._store, index, self._dataset) as recalled,
            ):
                known = Knowledge(
                    index,
                    workspace,
                    None if memo is None else memo.content,
                    deep=self.deep,
                    recall=recalled.contents,
                    refused=refusals.note,
                )
                listing = opened(known)
                if memo is not None and listing.unchanged():
                    workspace.remove()
                    content = listing.renewed()
                    if content is not None:
                        # a source that reads a sample remembers how far it has come
                        commits = memo.commit, memo.annex_commit
                        self._memos.keep(self._id, word, Memo(*commits, content, memo.pending))
                    self._note(listing, word)
                    return memo.pending
                scratch = stack.enter_context(self._store.scratch())
                parts = None
                if self._parts is not None:
                    parts = stack.enter_context(closing(self._parts(version)))
                proven = prove(listing, scratch, parts)
            self._note(listing, word)
            content = listing.memo()
            # what comes now begins anew if it dies: pages kept longer would hide what changes
            workspace.remove()
            taken = take(listing, proven, scratch)
        if taken is not None:
            new = None if content is None else Memo(*taken, content, proven.pending)
            self._memos.keep(self._id, word, new)
        left = None if taken is None else listing.pending()
        new = None if taken is None or left is None else Memo(*taken, left, proven.pending)
        self._memos.keep(self._id, _PENDING + word, new)
        return None

    def still_pending(self, word: str, commit: str | None, annex_commit: str | None) -> int | None:
        """Return how many files are still pending in the state of these commits.

        None where upstream has completed some of them, or only a visit can tell.
        """
        memo = self._memos.read(self._id, _PENDING + word)
        if (
            memo is None
            or (memo.commit, memo.annex_commit) != (commit, annex_commit)
            or not isinstance(self._source, ChecksPending)
            or not self._source.still_pending(self._dataset, memo.content)
        ):
            return None
        return memo.pending

    @contextmanager
    def _refusals(self, word: str) -> Iterator[Refusals]:
        """Yield what upstream refuses of a version, and keep it, also where that is an error."""
        refusals = Refusals(self._memos, self._id, word)
        self.is_lasting_refusal = refusals.note
        whole = False
        try:
            yield refusals
            whole = True
        except Forbidden:
            whole = True  # raised once all refused objects are known
            raise
        finally:
            refusals.keep(whole=whole)

    def had_problems(self, word: str) -> bool:
        """Return whether the last listing of a published version had problems."""
        return self._memos.read(self._id, _PROBLEMS + word) is not None

    def _note(self, listing: Listing, word: str) -> None:
        self.links, self.checked = listing.facts.links, listing.checked()
        self.problems, self.refused = tuple(listing.problems()), listing.refused()
        if listing.version.kind is VersionKind.PUBLISHED:
            memo = Memo("", "", b"") if self.problems else None
            self._memos.keep(self._id, _PROBLEMS + word, memo)
