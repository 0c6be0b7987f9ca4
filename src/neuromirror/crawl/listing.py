"""List: read a version of a dataset from upstream, with the results of earlier visits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from neuromirror.crawl.plan import Visit
from neuromirror.crawl.recorder import restore_records
from neuromirror.crawl.validate import (
    SpooledSnapshot,
    StateCommits,
    is_split_component,
    read_listing,
)
from neuromirror.index import CrawlIndex, Index, VersionRow
from neuromirror.model import Location, SnapshotEntry, VersionKind, VersionRef
from neuromirror.net import AccessDeniedError, InvalidListingError
from neuromirror.sources import (
    KnownContent,
    Listing,
    SupportsPendingCheck,
    UnreliableListingError,
    VisitContext,
)
from neuromirror.store import Store
from neuromirror.store.memos import Memos, StoredMemo, Workspace

if TYPE_CHECKING:
    from neuromirror.crawl.components import Resolver


class StoreVisitContext(Struct, dict=True):
    """The earlier results that a source can look up while it reads one version of a dataset.

    It implements :class:`~neuromirror.sources.VisitContext` with the index and the store. For use
    in the thread in which the listing is read, which owns the index connection.

    Attributes
    ----------
    index
        The index, for contents that earlier visits recorded.
    open_workspace
        Creates, if necessary, the folder for pages that the source keeps while it reads.
    memo
        The memo that the source stored at the last visit of this version; None without one.
    deep
        Whether the source must not rely on the memo.
    open_unindexed
        Returns an index of contents that are not in the index.
    record_refusal
        Records that a bucket refuses an object; returns whether the refusal is lasting.
    """

    index: CrawlIndex
    open_workspace: Callable[[], Path]
    memo: bytes | None = None
    deep: bool = False
    open_unindexed: Callable[[], Index | None] = lambda: None
    record_refusal: Callable[[str], bool] = lambda url: False

    @cached_property
    def workspace(self) -> Path:
        """The version's own folder; the first access creates it."""
        return self.open_workspace()

    @cached_property
    def _unindexed(self) -> Index | None:
        return self.open_unindexed()

    def locations(self, urls: Sequence[str]) -> list[Location | None]:
        """Return the exact location that was last recorded for each plain URL."""
        return self.index.locations.known(urls)

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        """Return the known content of each ETag."""
        found = self.index.files.known_contents(etags)
        left = [etag for etag, one in zip(etags, found, strict=True) if one is None]
        if left and self._unindexed is not None:
            more = iter(self._unindexed.files.known_contents(left))
            found = [next(more) if one is None else one for one in found]
        return [
            None if one is None else KnownContent(one.size, one.part_size, one.sha256)
            for one in found
        ]


LASTING_AFTER: Final = timedelta(days=1)
"""How long an object is refused before its dataset is published without its metadata."""

_MEMO_NAME: Final = "refused"
_MAX_OBJECTS: Final = 10_000


class RefusalHistory:
    """The objects of one dataset that upstream lists and refuses to return. Thread-safe.

    The time of each first refusal is kept between visits, in a memo, to distinguish lasting
    refusals from transient ones. ``upstream`` is upstream's name of the version that is read.
    """

    def __init__(self, memos: Memos, dataset_id: str, upstream: str) -> None:
        self._memos = memos
        self._id = dataset_id
        self._upstream = upstream
        self._lock = threading.Lock()
        self._saved: dict[str, dict[str, str]] = {}
        self._seen: dict[str, str] = {}
        memo = memos.read(dataset_id, _MEMO_NAME)
        if memo is not None:
            with suppress(ValueError):
                self._saved = json.loads(memo.content)

    def record(self, url: str) -> bool:
        """Record a refused object; return whether it has been refused for LASTING_AFTER."""
        now = datetime.now(UTC)
        known = [urls[url] for urls in self._saved.values() if url in urls]
        since = min(known, default=now.isoformat(timespec="seconds"))
        with self._lock:
            if len(self._seen) < _MAX_OBJECTS:
                self._seen[url] = since
        return now - datetime.fromisoformat(since) >= LASTING_AFTER

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save the refused objects at the end of the block, also after an error."""
        is_complete = False
        try:
            yield
            is_complete = True
        except AccessDeniedError:
            # raised after all refused objects are recorded, or for the list of the objects
            is_complete = bool(self._seen)
            raise
        finally:
            self.save(is_complete=is_complete)

    def save(self, *, is_complete: bool) -> None:
        """Save the refused objects; those before are kept unless the listing was complete."""
        before = {} if is_complete else self._saved.get(self._upstream, {})
        saved = {**self._saved, self._upstream: {**before, **self._seen}}
        saved = {upstream: urls for upstream, urls in saved.items() if urls}
        if saved != self._saved:
            content = json.dumps(saved, sort_keys=True).encode()
            self._memos.write(self._id, _MEMO_NAME, StoredMemo("", "", content) if saved else None)


def _index_unindexed(visit: Visit, index: CrawlIndex, stack: ExitStack) -> Index | None:
    """Return a temporary index of the contents whose files are not in the index (large Zarrs).

    They are those of a dataset's last state, and of the Zarrs split from it; a component that
    upstream names itself has a listing of its own. ``stack`` closes the index.
    """
    last = index.versions.last(visit.dataset.name)
    if last is None:
        return None
    versions = [last]
    for component in index.versions.subdatasets(last):
        own = is_split_component(visit.dataset, component.dataset.partition(":")[2])
        if own and component.label is not None:
            versions.append(index.versions.resolve(component.dataset, component.commit))
    versions = [version for version in versions if not version.indexed]
    if not versions:
        return None
    folder = stack.enter_context(visit.store.scratch())
    files = chain.from_iterable(_multipart_files(visit.store, version) for version in versions)
    return stack.enter_context(Index.of_contents(folder / "contents.sqlite", files))


def _multipart_files(store: Store, version: VersionRow) -> Iterator[SnapshotEntry]:
    """Yield the files whose ETag alone does not identify the content."""
    dataset = version.dataset_ref
    restore_records(store, dataset, version)
    for entry in store.records.read(dataset.dataset_id, version.records):
        record = entry.record
        if record.part_size is not None or record.digest("sha256") is not None:
            yield entry


_PENDING = "pending "
"""Prefix of the memo with the pending items of a version."""
_PROBLEMS = "problems "
"""Prefix of the memo that a published version has problems."""


class ListedVersion(Struct, frozen=True):
    """A version as upstream lists it now.

    Attributes
    ----------
    listing
        The listing, read to its end unless it is unchanged.
    scratch
        A folder for the files of the snapshot and of the next steps.
    refusals
        The objects of the version that upstream refuses to return.
    validated
        The validated listing; None if it is unchanged since the memo.
    memo
        The listing's own memo, for the next visit.
    """

    listing: Listing
    scratch: Path
    refusals: RefusalHistory
    validated: SpooledSnapshot | None
    memo: bytes | None

    @property
    def is_unchanged(self) -> bool:
        """Whether upstream reports no change since the memo, so that there is no snapshot."""
        return self.validated is None

    @property
    def snapshot(self) -> SpooledSnapshot:
        """The validated listing of a version that may have changed."""
        assert self.validated is not None
        return self.validated


@contextmanager
def read_version(
    visit: Visit,
    version: VersionRef,
    memo_name: str,
    memo: StoredMemo | None,
    refusals: RefusalHistory,
    open_listing: Callable[[VisitContext], Listing],
    resolver: Resolver | None,
) -> Iterator[ListedVersion]:
    """Read and validate the listing of a version, unless it is unchanged since ``memo``.

    The scratch folder exists, and refused objects are recorded, until the end of the block. Pages
    of a listing that contradicts itself are discarded, so that it is not resumed from them.
    """
    workspace = Workspace(visit.store.root, visit.dataset.dataset_id, memo_name)
    try:
        with refusals.saving(), visit.store.scratch() as scratch:
            with visit.recorder.reader() as index, ExitStack() as stack:
                context = StoreVisitContext(
                    index,
                    workspace.path,
                    None if memo is None else memo.content,
                    deep=visit.deep and not visit.within,
                    open_unindexed=partial(_index_unindexed, visit, index, stack),
                    record_refusal=refusals.record,
                )
                listing, snapshot = open_listing(context), None
                content = None
                if memo is not None and listing.is_unchanged():
                    renewed = listing.renewed_memo()
                    if renewed is not None:
                        # a source that reads a sample continues from where it stopped
                        commits = memo.commit, memo.annex_commit
                        _write(visit, memo_name, StoredMemo(*commits, renewed, memo.pending))
                elif resolver is None:
                    snapshot = read_listing(listing, scratch)
                else:
                    with closing(resolver):
                        snapshot = read_listing(listing, scratch, resolver)
            if version.kind is VersionKind.PUBLISHED:
                has_problems = bool(listing.problems())
                _write(
                    visit, _PROBLEMS + memo_name, StoredMemo("", "", b"") if has_problems else None
                )
            if snapshot is not None:
                content = listing.memo()
            # the next steps restart with a new listing: kept pages would hide changes
            workspace.remove()
            yield ListedVersion(listing, scratch, refusals, snapshot, content)
    except (UnreliableListingError, InvalidListingError):
        workspace.remove()
        raise
    finally:
        workspace.remove_if_empty()


def known_memo(
    visit: Visit, memo_name: str, commit: str | None, annex_commit: str | None = None
) -> StoredMemo | None:
    """Return the memo of the state with these commits; any commit of git-annex without one."""
    memo = visit.store.memos.read(visit.dataset.dataset_id, memo_name)
    if memo is None or memo.commit != commit or annex_commit not in (None, memo.annex_commit):
        return None
    return memo


def keep_memos(
    visit: Visit, memo_name: str, listed: ListedVersion, commits: StateCommits | None
) -> None:
    """Keep what the next visit compares with; without commits, it reads the listing again."""
    pending_items = None
    if commits is not None:
        pending, content = listed.snapshot.pending_files, listed.memo
        memo = None if content is None else StoredMemo(*commits, content, pending)
        _write(visit, memo_name, memo)
        content = listed.listing.pending_items()
        pending_items = None if content is None else StoredMemo(*commits, content, pending)
    _write(visit, _PENDING + memo_name, pending_items)


def _write(visit: Visit, memo_name: str, memo: StoredMemo | None) -> None:
    visit.store.memos.write(visit.dataset.dataset_id, memo_name, memo)


def count_still_pending(
    visit: Visit, memo_name: str, commit: str | None, annex_commit: str | None
) -> int | None:
    """Return how many files are still pending in the state of these commits.

    None if upstream has completed some of them, or only a visit can detect that.
    """
    memo = visit.store.memos.read(visit.dataset.dataset_id, _PENDING + memo_name)
    if (
        memo is None
        or (memo.commit, memo.annex_commit) != (commit, annex_commit)
        or not isinstance(visit.source, SupportsPendingCheck)
        or not visit.source.is_still_pending(visit.dataset, memo.content)
    ):
        return None
    return memo.pending


def had_problems(visit: Visit, memo_name: str) -> bool:
    """Return whether the last listing of a published version had problems."""
    memos = visit.store.memos
    return memos.read(visit.dataset.dataset_id, _PROBLEMS + memo_name) is not None
