"""Write access to journal and index: versions, visits, failures and leases."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.index import (
    CrawlIndex,
    FailureRow,
    Index,
    Schedule,
    UnknownDatasetError,
    UnknownMirrorError,
    VersionRow,
    effective_entries,
    is_indexed,
    rebuild_from_journal,
)
from neuromirror.model import (
    AnnexBranchMoved,
    ContentsDigested,
    DatasetRef,
    JournalEntry,
    MirrorSeen,
    NeuromirrorError,
    TaskFailed,
    TaskRecovered,
    VersionMinted,
    VisitEnded,
    current_timestamp,
    dump_traffic,
    name_from_alias,
)
from neuromirror.net import TrafficCounter, redact
from neuromirror.store import (
    HousekeepingResult,
    Store,
    read_records_from_git,
    read_versions_from_git,
)
from neuromirror.store.block_digests import (
    BlockDigestsDamagedError,
    BlockDigestsFolder,
    digest_entries,
    digested_content,
    read_block_digests_file,
)
from neuromirror.store.withdrawn_datasets import find_withdrawn_datasets


def rebuild_index(
    store: Store,
    index_path: Path,
    progress: Callable[[int], None] | None = None,
    limits: Mapping[str, ZarrLimits] | None = None,
) -> int:
    """Replay the journal into a new index and replace the old one.

    Versions that git has and the journal lacks are first added to the journal, as are block digests
    in the store; records that the store lacks are read back from git.

    Parameters
    ----------
    store
        The store.
    index_path
        Where the index is.
    progress
        Called with the number of applied entries.
    limits
        The current limits of the mirror files, by mirror. A change of ``index_entries`` since the
        index was written goes into the journal and applies to all versions.

    Returns
    -------
    int
        The number of journal entries.
    """
    limits = limits or {}
    _complete_journal(store, limits)
    _record_changed_limits(store, limits)
    _record_block_digests(store)
    return rebuild_from_journal(index_path, store, progress)


def _record_changed_limits(store: Store, limits: Mapping[str, ZarrLimits]) -> None:
    """Append the limits that differ from the indexed state to the journal."""
    seen = {name: MirrorSeen(name, "", "", "") for name in limits}
    changed = set()
    for _, entry in effective_entries(store):
        if isinstance(entry, MirrorSeen):
            seen[entry.mirror] = entry
        elif isinstance(entry, VersionMinted) and not _matches_limit(entry, limits):
            changed.add(entry.mirror)
    store.journal.append(
        *(
            replace(seen[name], at=current_timestamp(), index_entries=limits[name].index_entries)
            for name in sorted(changed)
        )
    )


def _record_block_digests(store: Store) -> None:
    """Append the block digests that are in the store and not in the journal to the journal."""
    folder = BlockDigestsFolder.of_store(store)
    known = {
        folder.path(content.key)
        for _, entry in store.journal.read(0)
        if isinstance(entry, ContentsDigested)
        for content in entry.contents
    }
    missing = []
    for path in folder.paths():
        if path not in known:
            with suppress(BlockDigestsDamagedError, FileNotFoundError):  # fsck reports it
                missing.append(digested_content(*read_block_digests_file(path)))
    store.journal.append(*digest_entries(missing, current_timestamp()))


def _matches_limit(entry: VersionMinted, limits: Mapping[str, ZarrLimits]) -> bool:
    own = limits.get(entry.mirror)
    return own is None or entry.indexed == is_indexed(entry, own.index_entries)


def _complete_journal(store: Store, limits: Mapping[str, ZarrLimits]) -> None:
    minted: list[VersionMinted] = []
    moved: list[AnnexBranchMoved] = []
    for _, entry in store.journal.read(0):
        if isinstance(entry, VersionMinted):
            minted.append(entry)
        elif isinstance(entry, AnnexBranchMoved) and entry.records:
            moved.append(entry)
    known = {entry.commit for entry in minted}
    for alias, repository in store.repositories.aliases():
        if "--" in alias:
            missing = [
                replace(
                    one, indexed=is_indexed(one, limits.get(one.mirror, ZarrLimits()).index_entries)
                )
                for one in read_versions_from_git(repository, known, current_timestamp())
            ]
            if missing:
                store.journal.append(*missing, *_moves_after(store, missing))
                minted += missing
    # datasets that were taken down have no repository
    down = {(one.mirror, one.local_id) for one in find_withdrawn_datasets(store)}
    minted = [one for one in minted if (one.mirror, one.local_id) not in down]
    by_commit = {one.commit: one for one in minted}
    for version in minted:
        restore_records(store, version.dataset_ref, version)
    for move in moved:
        if move.commit in by_commit:
            version = replace(by_commit[move.commit], annex_commit=move.annex_commit)
            restore_records(store, version.dataset_ref, version, move.records)


def _moves_after(store: Store, minted: Iterable[VersionMinted]) -> Iterator[AnnexBranchMoved]:
    """Yield entries for the later records of versions whose own entries were lost."""
    for one in minted:
        dataset = one.dataset_ref
        records = store.records.newest(dataset.dataset_id, one.commit)
        if records != one.commit:
            names = (one.mirror, one.local_id, one.source_uri)
            yield AnnexBranchMoved(*names, one.annex_commit, one.at, one.commit, records)


def restore_records(
    store: Store,
    dataset: DatasetRef,
    version: VersionMinted | VersionRow,
    records: str | None = None,
) -> None:
    """Read a version's records back from git if the store lacks them.

    Parameters
    ----------
    store, dataset
        The store and the dataset.
    version
        The version.
    records
        The name of the records; by default, those of ``version``.

    Raises
    ------
    StoreDamagedError, ObjectMissingError
        git or the manifest cannot be read.
    """
    name = records or version.records
    if not store.records.has(dataset.dataset_id, name):
        commits = version.commit, version.annex_commit
        lines = read_records_from_git(store.repositories.of(dataset), *commits, version.kind)
        store.records.write(dataset.dataset_id, name, lines)


_T = TypeVar("_T")


class RefMove(Struct, frozen=True):
    """Refs to be moved in one step.

    Attributes
    ----------
    expected, new
        As in :func:`neuromirror.store.update_refs`: the present and the new commits by ref.
    alias
        Replaces the dataset's own alias in the store; None keeps it.
    """

    expected: dict[str, str | None]
    new: dict[str, str]
    alias: str | None = None


class Recorder(Protocol):
    """Writes the refs and the journal of a store, and queries its index; thread-safe.

    Visits use it for all their writes. In a run it is a :class:`JournalRecorder`; in a worker of
    the service it sends the operations to the writer process.
    """

    def record(self, *entries: JournalEntry) -> None:
        """Append entries to the journal, then apply them to the index.

        Parameters
        ----------
        *entries
            The journal entries.
        """
        ...

    def publish(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """Move refs of a dataset's repository and update its alias; then record entries.

        Raises as :func:`neuromirror.store.update_refs`, and if another worker has the lease now.

        Parameters
        ----------
        dataset
            The dataset. The caller holds its lock, and has added the packs.
        move
            The refs.
        *entries
            The journal entries.
        """
        ...

    def ask(self, question: Callable[[CrawlIndex], _T]) -> _T:
        """Return the result of a query on the current index.

        Parameters
        ----------
        question
            Called with the index; its result must not be an iterator.

        Returns
        -------
        Any
            The result of ``question``.
        """
        ...

    def reader(self) -> CrawlIndex:
        """Return a read-only connection for the calling thread, which closes it.

        For millions of queries, which would block each other in :meth:`ask`.

        Returns
        -------
        CrawlIndex
            The index.
        """
        ...


def list_known(recorder: Recorder, question: Callable[[CrawlIndex], Iterable[_T]]) -> list[_T]:
    """Return the items of an index query about a dataset; none if the dataset is unknown."""
    try:
        return recorder.ask(lambda index: list(question(index)))
    except (UnknownDatasetError, UnknownMirrorError):
        return []


class JournalRecorder:
    """Appends entries to the store's journal and keeps the index up to date.

    It is thread-safe: a thread of its own runs all operations, because a SQLite connection belongs
    to one thread.
    """

    def __init__(self, store: Store, index_path: Path) -> None:
        self._store = store
        self._path = index_path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._index = self._thread.submit(self._open, index_path).result()

    def _open(self, path: Path) -> Index:
        index = Index.open(path)
        if index.position > self._store.journal.size():
            # a power failure truncated the journal after the index had read the lost lines
            index.close()
            rebuild_index(self._store, path)
            index = Index.open(path)
        index.catch_up(self._store)
        return index

    def record(self, *entries: JournalEntry) -> None:
        """Append entries to the journal, then apply them to the index.

        Parameters
        ----------
        *entries
            The journal entries.
        """
        self.append(*entries)
        self.catch_up()

    def publish(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """Move refs of a dataset's repository and update its alias; then record entries.

        Parameters
        ----------
        dataset
            The dataset, whose lock the caller holds.
        move
            The refs.
        *entries
            The journal entries.
        """
        self.move_refs(dataset, move, *entries)
        self.catch_up()

    def move_refs(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """Publish without applying the entries to the index; see :meth:`catch_up`.

        Parameters
        ----------
        dataset, move, *entries
            As for :meth:`publish`.
        """
        self._store.repositories.of(dataset).publish(move.expected, move.new)
        self._store.repositories.alias(dataset, move.alias)
        self.append(*entries)

    def append(self, *entries: JournalEntry) -> None:
        """Append entries to the journal without applying them to the index.

        Parameters
        ----------
        *entries
            The journal entries.
        """
        self._store.journal.append(*entries)

    def catch_up(self) -> None:
        """Apply new entries of the journal to the index."""
        self._thread.submit(lambda: self._index.catch_up(self._store)).result()

    @property
    def index_path(self) -> Path:
        """The path of the index."""
        return self._path

    def rebuild(self) -> None:
        """Rebuild the index from the store and open the new one."""
        self._thread.submit(self._rebuild).result()

    def _rebuild(self) -> None:
        rebuild_index(self._store, self._path)
        self._index.close()
        self._index = Index.open(self._path)

    def ask(self, question: Callable[[Index], _T]) -> _T:
        """Return the result of a query on the current index.

        Parameters
        ----------
        question
            Called with the index, in the recorder's own thread; its result must not be an iterator.

        Returns
        -------
        Any
            The result of ``question``.
        """
        return self._thread.submit(self._ask, question).result()

    def _ask(self, question: Callable[[Index], _T]) -> _T:
        if self._index.is_replaced:
            # keep the old index until the new one can be opened
            reopened = self._open(self._path)
            self._index.close()
            self._index = reopened
        return question(self._index)

    def reader(self) -> Index:
        """Return a read-only connection for the calling thread, which closes it.

        Returns
        -------
        Index
            The index.
        """
        return Index.open_readonly(self._path)

    def close(self) -> None:
        """Close the index."""
        self._thread.submit(self._index.close).result()
        self._thread.shutdown()


@contextmanager
def open_recorder(store: Store, index_path: Path) -> Iterator[JournalRecorder]:
    """Open a recorder, and close it at the end of the block.

    Parameters
    ----------
    store
        The store, whose journal is written.
    index_path
        The index, which is created if it is missing.

    Yields
    ------
    JournalRecorder
        The recorder, which writes journal and index.
    """
    recorder = JournalRecorder(store, index_path)
    try:
        yield recorder
    finally:
        recorder.close()


def ended_visit(
    dataset: DatasetRef,
    started: str,
    status: str,
    message: str,
    traffic: TrafficCounter | None = None,
    title: str = "",
    fingerprint: str = "",
    pending: int = 0,
) -> VisitEnded:
    """Return the journal entry of a visit that ends now."""
    return VisitEnded(
        visit=f"{started}-{dataset.dataset_id[:8]}",
        mirror=dataset.mirror,
        local_id=dataset.local_id,
        source_uri=dataset.source_uri,
        title=title,
        started=started,
        ended=current_timestamp(),
        status=status,
        fingerprint=fingerprint,
        pending=pending,
        message=message,
        traffic=dump_traffic({} if traffic is None else traffic.hosts()),
    )


LIST: Final = "list"
"""Reading a mirror's list, or the overview of one dataset that was never visited."""
PROBE: Final = "probe"
SUPERDATASETS: Final = "superdatasets"
PRIVATE: Final = "private"
"""Syncing a mirror's embargoed datasets."""
HOUSEKEEPING: Final = "housekeeping"
BACKUP: Final = "backup"
AUDIT: Final = "audit"
PUBLISH: Final = "publish"
"""Pushing datasets to a sibling."""

CONFIGURATION: Final = "configuration"
"""Reading a mirror file, or the folder of mirror files, while the service runs."""
WORKERS: Final = "workers"
SERVICE: Final = "service"
SERVICE_TASKS: Final = frozenset({CONFIGURATION, WORKERS, SERVICE})
"""Tasks of a running service; a new service starts with no failures of these on record."""

TOP_ALIAS: Final = "neuromirror"
"""The alias of the superdataset above those of all mirrors."""


class FailureLog(Struct, frozen=True):
    """Records which tasks fail and which failed tasks succeed again; thread-safe.

    A failure that is already recorded with the same message is not recorded again.
    """

    recorder: Recorder

    def record_failure(self, task: str, message: str, name: str = "") -> None:
        """Record that a task failed.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        message
            The reason of the failure.
        name
            The mirror or dataset; empty for the store.
        """
        known = self.open_failures(task, name)
        if all(one.message != message for one in known):
            self.recorder.record(TaskFailed(task, *_split(name), message, current_timestamp()))

    def record_success(self, task: str, name: str = "", *, with_datasets: bool = False) -> None:
        """Record that a task succeeded, if it failed before.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        name
            The mirror or dataset; empty for the whole store.
        with_datasets
            Whether the success of a mirror's task also counts for each of its datasets.
        """
        for failure in self.open_failures(task, name, with_datasets=with_datasets):
            self.recorder.record(TaskRecovered(task, *_split(_name(failure)), current_timestamp()))

    def open_failures(
        self, task: str, name: str = "", *, with_datasets: bool = False
    ) -> list[FailureRow]:
        """Return the recorded failures of a task.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        name
            The mirror or dataset; empty for the whole store.
        with_datasets
            Whether to include the failures of a mirror's datasets.

        Returns
        -------
        list of FailureRow
            The failures without a later success.
        """
        mirror, _ = _split(name)
        found = self.recorder.ask(lambda index: index.crawl.failed_tasks(task, mirror))
        if with_datasets and name == mirror:
            return found
        return [one for one in found if _name(one) == name]

    def forget(self, is_obsolete: Callable[[FailureRow], bool]) -> None:
        """Forget the failures of tasks that no longer run, or of mirrors without a mirror file."""
        for row in self.recorder.ask(lambda index: index.crawl.failed_tasks()):
            if is_obsolete(row):
                recovered = TaskRecovered(row.task, *_split(_name(row)), current_timestamp())
                self.recorder.record(recovered)

    @contextmanager
    def watch(self, task: str, name: str = "") -> Iterator[None]:
        """Record whether the block succeeds; exceptions are propagated even if recording fails.

        Invalid usage (exit code 2) is not recorded as a failure.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        name
            The mirror or dataset; empty for the whole store.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, NeuromirrorError) and error.exit_code == 2:
                raise
            with suppress(NeuromirrorError, OSError):
                self.record_failure(task, redact(str(error)), name)
            raise
        self.record_success(task, name)


def record_housekeeping(log: FailureLog, result: HousekeepingResult) -> None:
    """Record the result of one repository's housekeeping; a busy repository is not recorded."""
    if result.status == "error":
        log.record_failure(HOUSEKEEPING, result.message, name_from_alias(result.alias))
    elif result.status != "impossible":
        log.record_success(HOUSEKEEPING, name_from_alias(result.alias))


def _name(row: FailureRow) -> str:
    return row.dataset or row.mirror


def _split(name: str) -> tuple[str, str]:
    mirror, _, local_id = name.partition(":")
    return mirror, local_id


LEASE_SECONDS = 60.0
"""Lifetime of a lease without renewal."""


class VisitSkippedError(NeuromirrorError):
    """The dataset must not be visited now; not a failure, and nothing is recorded."""


class LeaseLostError(NeuromirrorError):
    """Another worker has taken over the dataset; the results of this visit are discarded."""


class Lease(Struct, frozen=True):
    """The right of one worker to visit a dataset or run a task.

    ``name`` and ``token`` are as in :class:`~neuromirror.index.LeaseRow`.
    """

    name: str
    token: int


def lease_owner(what: str) -> str:
    """Return a readable name for the owner of a lease: ``what`` it does, machine and process id."""
    return f"{what} on {socket.gethostname()}, process {os.getpid()} ({secrets.token_hex(3)})"


Claim = Callable[[DatasetRef], AbstractContextManager[None]]
"""Keeps other processes away from a dataset during a block.

Raises VisitSkippedError, with the name of the other owner, if another process has the dataset.
"""


@contextmanager
def open_leases(path: Path, what: str) -> Iterator[Claim | None]:
    """Yield the function that claims and renews the lease of a dataset that a run visits.

    So ``neuromirror sync`` and a service on the same store never visit one dataset at the same
    time. None if no service ever ran on the store. ``path`` is the file of the schedule, and
    ``what`` the purpose of the run, for messages to others, such as ``sync``.
    """
    if not path.exists():
        yield None
        return
    with Schedule.open(path) as schedule:
        yield partial(_claim_lease, schedule, lease_owner(what))


@contextmanager
def _claim_lease(schedule: Schedule, owner: str, dataset: DatasetRef) -> Iterator[None]:
    name, leases = dataset.name, schedule.leases
    token = leases.claim(name, owner, time.time(), LEASE_SECONDS)
    if token is None:
        other = leases.find(name, time.time())
        by = "another run" if other is None else other.owner
        raise VisitSkippedError(f"is being visited by {by}")
    stopped = threading.Event()

    def renew() -> None:
        while not stopped.wait(LEASE_SECONDS / 3):
            leases.renew([(name, token)], time.time(), LEASE_SECONDS)

    renewing = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stopped.set()
        renewing.join()
        leases.release(name, token)
