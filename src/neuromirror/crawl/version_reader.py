"""Read the versions of a dataset, and decide whether a new state may follow the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Self

from neuromirror.config.mirror_files import GuardSettings
from neuromirror.crawl.components import is_split_component
from neuromirror.crawl.guards import DatasetHolds, StateChanges, StateDifference, record_event
from neuromirror.crawl.listing import (
    ComponentResolver,
    RefusalHistory,
    SpooledSnapshot,
    StoreVisitContext,
    ignore_refusal,
    read_listing,
)
from neuromirror.crawl.plan import VisitOutcome
from neuromirror.crawl.publisher import Publisher
from neuromirror.crawl.recorder import Recorder, restore_records
from neuromirror.index import CrawlIndex, EtagRow, Index, VersionRow
from neuromirror.model import (
    FOLDER_MARKER,
    DatasetRef,
    SnapshotEntry,
    VersionKind,
    VersionRef,
    path_to_text,
)
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


class UnindexedContents:
    """Looks up contents of a dataset's last state whose files are not in the index (large Zarrs).

    This is a context manager, for use in the thread of the ``index`` connection. The records are
    read at the first lookup, into a temporary index.
    """

    def __init__(self, store: Store, index: CrawlIndex, dataset: DatasetRef) -> None:
        self._store = store
        self._index = index
        self._dataset = dataset
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def contents(self, etags: Sequence[str]) -> list[EtagRow | None]:
        """Return the known content of each ETag; see :meth:`Index.known_contents`."""
        found = self._contents_index
        return [None] * len(etags) if found is None else found.known_contents(etags)

    @cached_property
    def _contents_index(self) -> Index | None:
        versions = list(self._versions())
        if not versions:
            return None
        folder = self._stack.enter_context(self._store.scratch())
        files = chain.from_iterable(map(self._files, versions))
        return self._stack.enter_context(Index.of_contents(folder / "contents.sqlite", files))

    def _versions(self) -> Iterator[VersionRow]:
        """Yield the last state, and those of the Zarrs split from it, if they are not indexed.

        A component that upstream names itself has a listing of its own.
        """
        last = self._index.last_version(self._dataset.name)
        if last is None:
            return
        if not last.indexed:
            yield last
        for component in self._index.subdatasets(last):
            own = is_split_component(self._dataset, component.dataset.partition(":")[2])
            if own and component.label is not None:
                version = self._index.resolve(component.dataset, component.commit)
                if not version.indexed:
                    yield version

    def _files(self, version: VersionRow) -> Iterator[SnapshotEntry]:
        """Yield the files whose ETag alone does not identify the content."""
        dataset = DatasetRef(version.mirror, version.local_id, version.source_uri)
        restore_records(self._store, dataset, version)
        for entry in self._store.records(dataset.dataset_id, version.records):
            record = entry.record
            if record.part_size is not None or record.digest("sha256") is not None:
                yield entry


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
    viewer_links, comparison_scope, problems, refused_count, archived_count
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
        self.refused_count = self.archived_count = 0
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
        self.archived_count = listing.archived_count()
        if listing.version.kind is VersionKind.PUBLISHED:
            memo = StoredMemo("", "", b"") if self.problems else None
            self._memos.write(self._id, _PROBLEMS + memo_name, memo)


def list_earlier_states(
    source: Source, dataset: DatasetRef, last: VersionRow | None
) -> list[VersionRef]:
    """Return the states that upstream had after ``last`` and before the current one, oldest first.

    ``source`` lists the versions of ``dataset``; ``last`` is the last mirrored version, None for
    all earlier states. The archive must keep old versions of its objects.
    """
    return source.history(dataset, None if last is None else datetime.fromisoformat(last.time))


def unseen_states(
    states: list[VersionRef],
    last: VersionRow,
    reader: VersionReader,
    same_files: Callable[[VersionRow, SpooledSnapshot, Path], bool],
) -> list[VersionRef]:
    """Return those of the listed earlier states that are newer than the version observed last.

    Times alone do not show which state was observed, because a deletion gives a state no newer
    time. So the states before the time of the observation are listed, the newest first, until one
    has the same files as the version.

    Parameters
    ----------
    states
        Earlier states, oldest first.
    last
        The version observed last.
    reader
        Reads the listing of a state.
    same_files
        Returns whether a version and a snapshot have the same files; the path is a scratch folder.
    """
    observed = datetime.fromisoformat(last.recorded_at)
    before = [one for one in states if one.time is not None and one.time <= observed]
    for number in range(len(before), 0, -1):
        same: list[bool] = []

        def compare(
            listing: Listing, snapshot: SpooledSnapshot, scratch: Path, same: list[bool] = same
        ) -> None:
            same.append(same_files(last, snapshot, scratch))

        reader.read(before[number - 1], compare, None)
        if all(same):
            return states[number:]
    return states


_MAX_SAMPLED_PATHS = 100
"""Missing files that are checked upstream if the state is held in any case."""


class StateGuard:
    """Decides whether a new state may be published, is held for an operator, or must wait.

    It is used for one visit, and writes the reasons of its decisions into ``outcome``.

    Parameters
    ----------
    settings
        The ``[guards]`` table of the mirror file.
    publisher
        The publisher of the dataset.
    recorder
        The store's recorder.
    outcome
        The outcome of the visit.
    """

    def __init__(
        self,
        settings: GuardSettings,
        publisher: Publisher,
        recorder: Recorder,
        outcome: VisitOutcome,
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._recorder = recorder
        self._dataset = publisher.dataset
        self._holds = DatasetHolds(recorder, publisher.dataset)
        self._outcome = outcome

    def is_released(self, upstream: str, state: str) -> bool:
        """Return whether an operator released this listing, identified by its state digest."""
        return self._holds.is_released(upstream, state)

    def lapse(self, upstream: str) -> None:
        """End the hold on a version: the listing passes the guards again."""
        self._holds.lapse(upstream)

    def accepts(
        self,
        listing: Listing,
        snapshot: SpooledSnapshot,
        last: VersionRow,
        difference: StateDifference,
        changes: StateChanges,
    ) -> bool:
        """Return whether a state may follow the last one; hold it if not.

        Raises UnreliableListingError if upstream still has files that the listing lacks.
        """
        upstream = snapshot.header.version.upstream
        conflict, loss = _conflict_reason(changes), self._loss_reason(changes)
        if loss and listing.loss_hint:
            loss = f"{loss}; {listing.loss_hint}"
        state = snapshot.state_digest() if conflict or loss else ""
        held = bool(state) and not self._holds.is_released(upstream, state)
        self._check_missing_files(listing, snapshot, last, difference, thorough=not held)
        if held and conflict:
            message = f"{conflict}; the old state is kept"
            record_event(self._recorder, self._dataset, "incident", message, {"version": upstream})
            hold = self._holds.create(upstream, state, conflict, changes.removed, changes.before)
            # the mirror is behind upstream, so every run reports it
            self._outcome.incidents.append(
                f"{message}; check the dataset upstream, then run 'neuromirror release {hold}' to "
                "accept the new state"
            )
        elif held and loss:
            self.hold(upstream, state, loss, changes.removed, changes.before)
        return not held

    def _loss_reason(self, changes: StateChanges) -> str:
        """Return why a state that lost files is held; empty if it is not."""
        if not changes.before:
            return ""
        if not changes.after:
            return "the listing is empty"
        share = 100 * changes.removed / changes.before
        guards = self._settings
        if share > guards.max_removed_percent and changes.removed > guards.max_removed_files:
            return f"{changes.removed} of {changes.before} files are missing ({share:.0f} %)"
        return ""

    def _check_missing_files(
        self,
        listing: Listing,
        snapshot: SpooledSnapshot,
        last: VersionRow,
        difference: StateDifference,
        *,
        thorough: bool,
    ) -> None:
        """Check upstream for the files that the listing lacks: all (``thorough``), or a sample."""
        if not listing.can_find_present:
            return
        header = snapshot.header
        elsewhere = {one.path for one in header.documents} | {one.path for one in header.exceptions}
        documents = self._publisher.lost_documents(last, snapshot, difference)
        missing = chain(
            documents, (path for path in difference.missing_paths() if path not in elsewhere)
        )
        requested = list(missing if thorough else islice(missing, _MAX_SAMPLED_PATHS))
        present = listing.find_present(requested) if requested else []
        if present:
            raise UnreliableListingError(
                f"{self._dataset.name} {header.version.upstream}: {len(present)} of "
                f"{len(requested)} "
                f"files that the listing lacks still exist upstream, "
                f"for example {path_to_text(present[0])!r}; try again"
            )

    def is_postponed(self, snapshot: SpooledSnapshot) -> bool:
        """Return whether a new dataset is not mirrored yet."""
        return self._has_only_marker(snapshot) or self.is_settling(snapshot.header.newest)

    def _has_only_marker(self, snapshot: SpooledSnapshot) -> bool:
        """Return whether a new dataset consists of a folder marker, and is not mirrored yet."""
        header = snapshot.header
        reasons = {one.reason for one in header.exceptions}
        if snapshot.files or header.documents or reasons != {FOLDER_MARKER}:
            return False
        self._outcome.waiting_reason = (
            "new and empty except for a folder marker; it is mirrored once it has an object"
        )
        return True

    def is_settling(self, newest: datetime | None) -> bool:
        """Return whether a dataset that was never mirrored may still be growing."""
        minutes = self._settings.settle_minutes
        if not minutes or newest is None or self._publisher.versions():
            return False
        age = datetime.now(UTC) - newest
        if age >= timedelta(minutes=minutes):
            return False
        at = newest.astimezone(UTC).isoformat(timespec="seconds")
        self._outcome.waiting_reason = (
            f"new and possibly still growing: its newest file is from {at}; it is mirrored once "
            f"nothing has changed for {minutes:g} minutes"
        )
        return True

    def hold(
        self, upstream: str, state: str, reason: str, removed: int = 0, before: int = 0
    ) -> None:
        """Hold a listing, and report that in the outcome."""
        hold = self._holds.create(upstream, state, reason, removed, before)
        self._outcome.hold_messages.append(
            f"{upstream} is held: {reason}; check the dataset upstream, then run 'neuromirror "
            f"release {hold}' to accept the listing"
        )


def _conflict_reason(changes: StateChanges) -> str:
    """Describe the files with the same upstream id and different bytes; may be empty."""
    if not changes.conflicts:
        return ""
    paths = ", ".join(repr(path_to_text(path)) for path in changes.conflicts[:3])
    count = len(changes.conflicts)
    files = "1 file has" if count == 1 else f"{count} files have"
    return f"{files} different content under the same upstream id or API URL ({paths})"
