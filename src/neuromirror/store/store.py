"""The directory of bare repositories in RIA layout, with all that the index is rebuilt from.

::

    <store>/ria-layout-version            what DataLad's RIA access expects
    <store>/<id[:3]>/<id[3:]>             one bare repository a dataset
    <store>/alias/<mirror>--<local id>    links to them
    <store>/manifests/<ab>/<rest>.jsonl.zst    canonical manifests by state digest
    <store>/neuromirror/                  store.json, journal.jsonl, records/, locks/, index.sqlite
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from neuromirror.model import (
    Change,
    DatasetRef,
    JournalEntry,
    LinePair,
    SnapshotEntry,
    load_changes,
    load_snapshot_entries,
    parse_json,
)
from neuromirror.store.durable_files import fsync_path, make_folder, write_atomically
from neuromirror.store.errors import NotAStoreError, StoreBusyError, StoreDamagedError
from neuromirror.store.journal_file import JournalFile
from neuromirror.store.locks import file_lock
from neuromirror.store.manifests import manifest_file
from neuromirror.store.records import RecordsFolder
from neuromirror.store.repository import Repository
from neuromirror.store.write_protection import protect, protection_digest

_FORMAT = 2
"""Counted up when stores of before can no longer be continued."""

_CREATED_FIRST = ("alias", "error_logs", "ria-layout-version")


class Store:
    """A store on a local disk; :meth:`open` makes one in an empty or missing folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own_folder = root / "neuromirror"
        self._journal = JournalFile(self.journal_path)
        self._records = RecordsFolder(self._own_folder / "records")

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> Store:
        """The store at ``root``.

        Raises NotAStoreError for a folder that is something else, and, unless ``create``, for one
        that is missing or empty.
        """
        store = cls(root.absolute())
        marker = store._own_folder / "store.json"
        if marker.exists():
            store._check_format(marker)
            return store
        if root.exists() and not root.is_dir():
            raise NotAStoreError(f"{root} is a file, not a store; name a folder with --store")
        if root.exists() and not store._is_empty_or_partial():
            raise NotAStoreError(
                f"{root} is not a neuromirror store and not empty; name another folder with "
                "--store (nothing was changed)"
            )
        if not create:
            raise NotAStoreError(
                f"there is no store at {root}; 'neuromirror sync' makes one, or name the right "
                "folder with --store"
            )
        store._create(marker)
        return store

    def _check_format(self, marker: Path) -> None:
        try:
            found = parse_json(marker.read_bytes(), str(marker))["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise NotAStoreError(f"{marker} cannot be read: {error!r}; is this a store?") from error
        if found in range(1, _FORMAT):
            raise NotAStoreError(
                f"{self.root} was made by an earlier neuromirror (format {found}), whose commits "
                f"differ from those of format {_FORMAT}; move it away, and 'neuromirror sync' "
                "makes a new store from the archives"
            )
        if found != _FORMAT:
            raise NotAStoreError(
                f"{self.root} is a store of format {found}, this neuromirror knows {_FORMAT}; "
                "use the neuromirror that made it, or a newer one"
            )

    def _is_empty_or_partial(self) -> bool:
        """Whether the folder is empty, or what a process killed in :meth:`_make` left."""
        names = {path.name for path in self.root.iterdir() if not path.name.startswith(".new-")}
        return not names or ("neuromirror" in names and names <= {"neuromirror", *_CREATED_FIRST})

    def _create(self, marker: Path) -> None:
        for folder in (self._own_folder / "locks", self.root / "alias", self.root / "error_logs"):
            make_folder(folder)
        write_atomically(self.root / "ria-layout-version", b"1\n")
        write_atomically(marker, b'{"format":%d}\n' % _FORMAT)

    @property
    def index_path(self) -> Path:
        """Where the index is when it is named nowhere else."""
        return self._own_folder / "index.sqlite"

    @property
    def schedule_path(self) -> Path:
        """Where a service keeps what it is to do next, and who is at it."""
        return self._own_folder / "schedule.sqlite"

    def archive_report_path(self, mirror: str) -> Path:
        """Where the last report of ``check-archive`` about a mirror's archive is kept."""
        return self._own_folder / "archives" / f"{mirror}.json"

    def task_state_path(self, name: str) -> Path:
        """Where a chore that is done in slices remembers how far it has come."""
        return self._own_folder / "tasks" / f"{name}.json"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the store's own disk for files that do not outlive the block.

        What a killed process left in another scratch folder is removed on the way.
        """
        parent = self._own_folder / "tmp"
        folder = parent / secrets.token_hex(8)
        lock = folder.with_suffix(".lock")
        with ExitStack() as stack:
            # one at a time: a lock file that is not locked yet looks like a dead process's
            with self.lock("scratch", "the list of scratch folders", wait=60):
                for left in parent.glob("*.lock"):
                    _remove_if_orphaned(left)
                make_folder(parent)
                stack.enter_context(file_lock(lock, "a scratch folder"))
                folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)

    def mark_listed(self, mirror: str) -> None:
        """Remembers that a mirror's list was read through just now; the file's time says when."""
        folder = self._own_folder / "listed"
        make_folder(folder)
        (folder / mirror).touch()

    def last_listed(self, mirror: str) -> datetime | None:
        """When a mirror's list was last read through."""
        try:
            return datetime.fromtimestamp(
                (self._own_folder / "listed" / mirror).stat().st_mtime, UTC
            )
        except FileNotFoundError:
            return None

    def may_postpone(self, task: str, at_most: timedelta) -> bool:
        """Return whether a task may wait: it has not been waiting for longer than ``at_most``.

        The store remembers since when it waits, until :meth:`clear_postponement`.
        """
        mark = self._own_folder / "postponed" / task
        try:
            since = mark.stat().st_mtime
        except FileNotFoundError:
            make_folder(mark.parent)
            mark.touch()
            return True
        # a clock that was set back must not make it wait for ever
        return abs(time.time() - since) < at_most.total_seconds()

    def clear_postponement(self, task: str) -> None:
        """Forget that a task was waiting."""
        (self._own_folder / "postponed" / task).unlink(missing_ok=True)

    def lock(self, name: str, resource: str, wait: float = 0.0) -> AbstractContextManager[None]:
        """A lock of the store; see :func:`neuromirror.store.locked`."""
        return file_lock(self._own_folder / "locks" / f"{name}.lock", resource, wait)

    # --- repositories

    def repository(self, dataset: DatasetRef) -> Repository:
        """The dataset's repository, made or not."""
        name = dataset.dataset_id
        return Repository(self.root / name[:3] / name[3:])

    def alias(self, dataset: DatasetRef, name: str | None = None) -> None:
        """Makes the alias of a dataset that has refs (its own, or another name)."""
        link = self.root / "alias" / (name or dataset.alias)
        name = dataset.dataset_id
        target = f"../{name[:3]}/{name[3:]}"
        draft = link.with_name(f".{link.name}.new")
        draft.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            if os.readlink(link) == target:
                return
        draft.symlink_to(target)
        os.replace(draft, link)
        fsync_path(link.parent)

    def aliases(self) -> Iterator[tuple[str, Repository]]:
        """All aliases in order of name, with their repositories."""
        for link in sorted((self.root / "alias").iterdir()):
            if not link.name.startswith("."):
                yield link.name, Repository(link.resolve())

    def protect_repositories(self) -> int:
        """Protect all repositories against other writers; return how many lacked something.

        They are looked at once for each form of the protection; see
        :mod:`neuromirror.store.write_protection`.
        """
        marker, form = self._own_folder / "protected", f"{protection_digest()}\n"
        with suppress(FileNotFoundError):
            if marker.read_text() == form:
                return 0
        count = sum(protect(one.path) for _, one in self.aliases() if one.exists())
        write_atomically(marker, form.encode())
        return count

    # --- records and manifests

    def write_records(self, dataset_id: str, commit: str, lines: Iterable[bytes]) -> None:
        """Keeps a version's records: lines without newline, sorted by git path."""
        with self.scratch() as scratch:
            self._records.write(dataset_id, commit, lines, scratch)

    def write_record_changes(
        self, dataset_id: str, commit: str, base: str, pairs: Iterable[LinePair]
    ) -> bool:
        """Keeps a version's records as changes since another; False where it is to be kept whole.

        See :class:`neuromirror.store.records.RecordsFolder`.
        """
        with self.scratch() as scratch:
            return self._records.write_changes(dataset_id, commit, base, pairs, scratch)

    def has_records(self, dataset_id: str, commit: str) -> bool:
        """Whether the store has a version's records."""
        return self._records.has(dataset_id, commit)

    def record_lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        """A version's records, line by line; raises StoreDamagedError."""
        return self._records.record_lines(dataset_id, commit)

    def records_between(self, dataset_id: str, old: str, new: str) -> Iterator[LinePair] | None:
        """The pairs of lines in which two versions' records differ; None where they must be read.

        See :meth:`neuromirror.store.records.RecordsFolder.between`.
        """
        return self._records.pairs_between(dataset_id, old, new)

    def records(self, dataset_id: str, commit: str) -> Iterator[SnapshotEntry]:
        """A version's files, sorted by git path; raises StoreDamagedError while reading."""
        try:
            yield from load_snapshot_entries(self.record_lines(dataset_id, commit))
        except ValueError as error:
            raise StoreDamagedError(
                f"the records of commit {commit} hold a line that is none ({error}); restore the "
                "store's records from a backup, or run 'neuromirror sync --deep' for the dataset"
            ) from error

    def record_changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[Change]] | None:
        """The version that a version is kept as changes of, and the changed files; None if whole.

        Raises StoreDamagedError.
        """
        found = self._records.read_changes(dataset_id, commit)
        if found is None:
            return None
        base, pairs = found
        return base, load_changes(pairs)

    def manifest_path(self, state: str) -> Path:
        """Where the canonical manifest of a state (``sha256:<hex>``) is kept."""
        return manifest_file(self.root, state)

    def add_manifest(self, state: str, draft: Path) -> None:
        """Moves a finished manifest to its place."""
        target = self.manifest_path(state)
        if target.exists():
            draft.unlink()
            return
        make_folder(target.parent)
        os.replace(draft, target)
        fsync_path(target.parent)

    # --- journal

    @property
    def journal_path(self) -> Path:
        """The journal's file, to which lines are only added."""
        return self._own_folder / "journal.jsonl"

    def append_entries(self, *entries: JournalEntry) -> None:
        """Adds entries to the journal."""
        self._journal.append(entries)

    def drop_entries(self, should_drop: Callable[[JournalEntry], bool]) -> list[bytes]:
        """Remove entries from the journal; see :meth:`JournalFile.drop`."""
        return self._journal.drop_entries(should_drop)

    def journal_size(self) -> int:
        """Bytes of the journal."""
        return self._journal.size()

    def read_entries(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        """Journal entries from a byte position on, each with the position of its end."""
        return self._journal.read_entries(position)


def _remove_if_orphaned(lock: Path) -> None:
    """Removes a scratch folder whose process died: its lock is free."""
    with suppress(StoreBusyError, FileNotFoundError), file_lock(lock, "a scratch folder"):
        folder = lock.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        # its own child process may still write there for a moment: then the next visit tries again
        if not folder.exists():
            lock.unlink()
