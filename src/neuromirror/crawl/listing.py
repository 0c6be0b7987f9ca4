"""List: read a version of a dataset from upstream, with the results of earlier visits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from neuromirror.crawl.plan import Visit
from neuromirror.crawl.recorder import restore_records
from neuromirror.crawl.validate import (
    ComponentResolver,
    SpooledSnapshot,
    StateCommits,
    is_split_component,
    read_listing,
)
from neuromirror.index import CrawlIndex, EtagRow, Index, VersionRow
from neuromirror.model import DatasetRef, Location, SnapshotEntry, VersionKind, VersionRef
from neuromirror.net import AccessDeniedError, InvalidListingError
from neuromirror.sources import (
    KnownContent,
    Listing,
    SupportsPendingCheck,
    UnreliableListingError,
    VisitContext,
)
from neuromirror.store import Store
from neuromirror.store.memos import MemoFolder, StoredMemo, Workspace


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
        return self._index.locations.known(urls)

    def record_refusal(self, url: str) -> bool:
        """Record that a bucket refuses an object; return whether the refusal is lasting."""
        return self._record_refusal(url)

    def contents(self, etags: Sequence[str]) -> list[KnownContent | None]:
        """Return the known content of each ETag."""
        found = self._index.files.known_contents(etags)
        left = [etag for etag, one in zip(etags, found, strict=True) if one is None]
        if left and self._look_up_unindexed is not None:
            more = iter(self._look_up_unindexed(left))
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

    def __init__(self, memos: MemoFolder, dataset_id: str, upstream: str) -> None:
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


class _UnindexedContents:
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
        return [None] * len(etags) if found is None else found.files.known_contents(etags)

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
        last = self._index.versions.last(self._dataset.name)
        if last is None:
            return
        if not last.indexed:
            yield last
        for component in self._index.versions.subdatasets(last):
            own = is_split_component(self._dataset, component.dataset.partition(":")[2])
            if own and component.label is not None:
                version = self._index.versions.resolve(component.dataset, component.commit)
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


_PENDING = "pending "
"""Prefix of the memo with the pending items of a version."""
_PROBLEMS = "problems "
"""Prefix of the memo that a published version has problems."""


class ListedVersion(Struct, frozen=True):
    """A version as upstream lists it now.

    Attributes
    ----------
    listing
        The listing, read to its end.
    snapshot
        The validated listing; None if upstream reports no change since the memo.
    scratch
        A folder for the files of the snapshot and of the next steps.
    refusals
        The objects of the version that upstream refuses to return.
    memo
        The listing's own memo, for the next visit.
    """

    listing: Listing
    snapshot: SpooledSnapshot | None
    scratch: Path
    refusals: RefusalHistory
    memo: bytes | None = None


@contextmanager
def read_version(
    visit: Visit,
    version: VersionRef,
    memo_name: str,
    memo: StoredMemo | None,
    refusals: RefusalHistory,
    open_listing: Callable[[VisitContext], Listing],
    resolver: ComponentResolver | None,
) -> Iterator[ListedVersion]:
    """Read and validate the listing of a version, unless it is unchanged since ``memo``.

    The scratch folder exists, and refused objects are recorded, until the end of the block. Pages
    of a listing that contradicts itself are discarded, so that it is not resumed from them.
    """
    workspace = Workspace(visit.store.root, visit.dataset.dataset_id, memo_name)
    try:
        with refusals.saving(), visit.store.scratch() as scratch:
            with (
                visit.recorder.reader() as index,
                _UnindexedContents(visit.store, index, visit.dataset) as unindexed,
            ):
                context = StoreVisitContext(
                    index,
                    workspace.path,
                    None if memo is None else memo.content,
                    deep=visit.deep and not visit.within,
                    look_up_unindexed=unindexed.contents,
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
            yield ListedVersion(listing, snapshot, scratch, refusals, content)
    except (UnreliableListingError, InvalidListingError):
        workspace.remove()
        raise
    finally:
        workspace.remove_if_empty()


def known_memo(
    visit: Visit, memo_name: str, commit: str | None, annex_commit: str | None = None
) -> StoredMemo | None:
    """Return the memo of the state with these commits; any commit of git-annex without one."""
    memo = MemoFolder(visit.store.root).read(visit.dataset.dataset_id, memo_name)
    if memo is None or memo.commit != commit or annex_commit not in (None, memo.annex_commit):
        return None
    return memo


def keep_memos(
    visit: Visit, memo_name: str, listed: ListedVersion, commits: StateCommits | None
) -> None:
    """Keep what the next visit compares with; without commits, it reads the listing again."""
    pending_items = None
    if commits is not None and listed.snapshot is not None:
        pending, content = listed.snapshot.pending_files, listed.memo
        memo = None if content is None else StoredMemo(*commits, content, pending)
        _write(visit, memo_name, memo)
        content = listed.listing.pending_items()
        pending_items = None if content is None else StoredMemo(*commits, content, pending)
    _write(visit, _PENDING + memo_name, pending_items)


def _write(visit: Visit, memo_name: str, memo: StoredMemo | None) -> None:
    MemoFolder(visit.store.root).write(visit.dataset.dataset_id, memo_name, memo)


def count_still_pending(
    visit: Visit, memo_name: str, commit: str | None, annex_commit: str | None
) -> int | None:
    """Return how many files are still pending in the state of these commits.

    None if upstream has completed some of them, or only a visit can detect that.
    """
    memo = MemoFolder(visit.store.root).read(visit.dataset.dataset_id, _PENDING + memo_name)
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
    memos = MemoFolder(visit.store.root)
    return memos.read(visit.dataset.dataset_id, _PROBLEMS + memo_name) is not None
