"""The store: a directory of bare repositories in RIA layout, journal, records and manifests.

::

    <store>/ria-layout-version            required by DataLad's RIA access
    <store>/<id[:3]>/<id[3:]>             one bare repository per dataset
    <store>/alias/<mirror>--<local id>    symlinks to the repositories
    <store>/manifests/<ab>/<rest>.jsonl.zst    canonical manifests by state digest
    <store>/block-digests/<ab>/<rest>     block digests by the sha256 of the annex key
    <store>/neuromirror/                  store.json, journal.jsonl, records/, locks/, index.sqlite

The index can be rebuilt from everything else.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final, Self

import msgspec

from neuromirror.model import TaskFailed, dump_json, parse_json
from neuromirror.model.validation import analysed_type
from neuromirror.store.durable_files import fsync_path, make_folder, write_atomically
from neuromirror.store.errors import NotAStoreError, StoreBusyError
from neuromirror.store.journal_file import Journal
from neuromirror.store.locks import file_lock, is_locked
from neuromirror.store.memos import Memos
from neuromirror.store.records import Records, manifest_file
from neuromirror.store.repository import Repositories

_FORMAT = 3
"""The format of the store; a store of another format is rejected."""

_REWRITE = f"write it again with: echo '{{{{\"format\":{_FORMAT}}}}}' > {{marker}}"

_CREATED_FIRST = ("alias", "error_logs", "ria-layout-version")


class Store:
    """A store on a local disk.

    Parameters
    ----------
    root
        The folder of the store, which is not checked; use :meth:`open`.

    Attributes
    ----------
    repositories
        The repositories of the datasets, and their aliases.
    journal
        What was minted, visited, held, and so on, in order.
    records
        The files of each version.
    memos
        What sources keep between visits.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own_folder = root / "neuromirror"
        self.repositories = Repositories(root)
        self.journal = Journal(self._own_folder / "journal.jsonl")
        self.records = Records(self._own_folder / "records", self.scratch)
        self.memos = Memos(root)

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> Store:
        """Open a store.

        Parameters
        ----------
        root
            The folder of the store.
        create
            Whether to create the store if the folder is missing or empty.

        Returns
        -------
        Store
            The store.

        Raises
        ------
        NotAStoreError
            The folder is not a store, or is missing or empty without ``create``.
        """
        store = cls(root.absolute())
        marker = store._own_folder / "store.json"
        if marker.exists():
            store._check_format(marker)
            return store
        if root.exists() and not root.is_dir():
            raise NotAStoreError(f"{root} is a file, not a store; choose a folder with --store")
        if store.journal.path.exists():
            raise NotAStoreError(f"{marker} is missing; {_REWRITE.format(marker=marker)}")
        if root.exists() and not store._is_empty_or_partial():
            raise NotAStoreError(
                f"{root} is not a neuromirror store and not empty; choose another folder with "
                f"--store (nothing was changed)"
            )
        if not create:
            raise NotAStoreError(
                f"there is no store at {root.absolute()}",
                hint="'neuromirror sync' with the name of a dataset, such as dandi:000027, creates "
                "one; or choose another folder with --store",
            )
        store._create(marker)
        return store

    def _check_format(self, marker: Path) -> None:
        try:
            found = parse_json(marker.read_bytes(), str(marker))["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise NotAStoreError(
                f"{marker} is damaged ({error!r}); {_REWRITE.format(marker=marker)}"
            ) from error
        if found in range(1, _FORMAT):
            raise NotAStoreError(
                f"{self.root} was created by an earlier neuromirror (format {found}, this one has "
                f"{_FORMAT}), whose files differ; move it away and run 'neuromirror sync' to "
                "create a new store from the archives"
            )
        if found != _FORMAT:
            raise NotAStoreError(
                f"{self.root} has the format {found}, this neuromirror supports {_FORMAT}; use the "
                "neuromirror that created it, or a newer one"
            )

    def _is_empty_or_partial(self) -> bool:
        """Return whether the folder is empty, or has only files that :meth:`_create` writes."""
        names = {path.name for path in self.root.iterdir() if not path.name.startswith(".new-")}
        return not names or ("neuromirror" in names and names <= {"neuromirror", *_CREATED_FIRST})

    def _create(self, marker: Path) -> None:
        for folder in (self._own_folder / "locks", self.root / "alias", self.root / "error_logs"):
            make_folder(folder)
        write_atomically(self.root / "ria-layout-version", b"1\n")
        write_atomically(marker, b'{"format":%d}\n' % _FORMAT)

    @property
    def index_path(self) -> Path:
        """The default path of the index."""
        return self._own_folder / "index.sqlite"

    @property
    def schedule_path(self) -> Path:
        """The service's database of due tasks and leases."""
        return self._own_folder / "schedule.sqlite"

    @property
    def ledger_path(self) -> Path:
        """The ledger of the copies in vaults."""
        return self._own_folder / "custody.sqlite"

    def task_state_path(self, name: str) -> Path:
        """Return the file in which a housekeeping task keeps its progress between slices.

        Parameters
        ----------
        name
            The name of the task.

        Returns
        -------
        Path
            The path; the file may be missing.
        """
        return self._own_folder / "tasks" / f"{name}.json"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Create a temporary folder on the store's disk; it is removed at the end of the block.

        Scratch folders of killed processes are removed as well.

        Yields
        ------
        Path
            The folder.
        """
        parent = self._own_folder / "tmp"
        folder = parent / secrets.token_hex(8)
        lock = folder.with_suffix(".lock")
        with ExitStack() as stack:
            # one at a time: a new lock file that is not locked yet would look orphaned
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

    def mark_listed(self, mirror: str, datasets: int) -> None:
        """Record that a mirror's list of ``datasets`` datasets was read completely now."""
        folder = self._own_folder / "listed"
        make_folder(folder)
        (folder / mirror).write_text(f"{datasets}\n")

    def listed_datasets(self, mirror: str) -> int:
        """Return the number of datasets in a mirror's last complete list; 0 without one."""
        try:
            return int((self._own_folder / "listed" / mirror).read_text() or 0)
        except FileNotFoundError:
            return 0

    def last_listed(self, mirror: str) -> datetime | None:
        """Return when a mirror's list of datasets was last read completely.

        Parameters
        ----------
        mirror
            The name of the mirror.

        Returns
        -------
        datetime | None
            The time in UTC; None if the list was never read completely.
        """
        try:
            return datetime.fromtimestamp(
                (self._own_folder / "listed" / mirror).stat().st_mtime, UTC
            )
        except FileNotFoundError:
            return None

    def may_postpone(self, task: str, at_most: timedelta) -> bool:
        """Return whether a task may be postponed: its first postponement is recent enough.

        The store keeps the time of the first call until :meth:`clear_postponement`.

        Parameters
        ----------
        task
            The name of the task.
        at_most
            The longest postponement.

        Returns
        -------
        bool
            Whether the first postponement is not older than ``at_most``.
        """
        mark = self._own_folder / "postponed" / task
        try:
            since = mark.stat().st_mtime
        except FileNotFoundError:
            make_folder(mark.parent)
            mark.touch()
            return True
        # abs: after the clock was set back, the task must not be postponed indefinitely
        return abs(time.time() - since) < at_most.total_seconds()

    def postponements(self) -> dict[str, datetime]:
        """Return the postponed tasks, with the time of their first postponement in UTC."""
        marks = sorted((self._own_folder / "postponed").glob("*"))
        return {mark.name: datetime.fromtimestamp(mark.stat().st_mtime, UTC) for mark in marks}

    def clear_postponement(self, task: str) -> None:
        """Forget the first postponement of a task.

        Parameters
        ----------
        task
            The name of the task.
        """
        (self._own_folder / "postponed" / task).unlink(missing_ok=True)

    def lock(self, name: str, resource: str, wait: float = 0.0) -> AbstractContextManager[None]:
        """Hold a lock of the store during a block.

        Parameters
        ----------
        name
            The name of the lock.
        resource
            The protected resource, for the error message.
        wait
            Seconds to wait for another holder.

        Returns
        -------
        AbstractContextManager[None]
            A context manager, as from :func:`neuromirror.store.file_lock`.
        """
        return file_lock(self._own_folder / "locks" / f"{name}.lock", resource, wait)

    def is_locked(self, name: str) -> bool:
        """Whether another process holds a lock of the store; needs no permission to write."""
        return is_locked(self._own_folder / "locks" / f"{name}.lock")

    def manifest_path(self, state: str) -> Path:
        """Return the path of the canonical manifest of a state.

        Parameters
        ----------
        state
            The state digest, ``sha256:<hex>``.

        Returns
        -------
        Path
            The path; the file may be missing.
        """
        return manifest_file(self.root, state)

    def add_manifest(self, state: str, draft: Path) -> None:
        """Rename a finished manifest into the store; discard it if the store has it.

        Parameters
        ----------
        state
            The state digest, ``sha256:<hex>``.
        draft
            The finished manifest, on the store's disk.
        """
        target = self.manifest_path(state)
        if target.exists():
            draft.unlink()
            return
        make_folder(target.parent)
        os.replace(draft, target)
        fsync_path(target.parent)


def store_folder(given: str | os.PathLike[str] | None = None, *, is_operator: bool = False) -> Path:
    """Return the folder of the store, which need not exist.

    It is the given one or that of ``NEUROMIRROR_STORE``; else ``store`` in the current folder, if
    it exists or there are mirror files, which belong to an operator; else that of the user.
    """
    given = given or os.environ.get("NEUROMIRROR_STORE")
    local = Path("store")
    if given:
        return Path(given)
    if is_operator or os.environ.get("NEUROMIRROR_MIRRORS") or Path("mirrors").is_dir():
        return local
    if local.exists():
        return local
    from platformdirs import user_data_path

    return user_data_path("neuromirror") / "store"


def open_store(folder: str | os.PathLike[str] | None = None, *, create: bool = False) -> Store:
    """Open the store in a folder, by default in that of :func:`store_folder`.

    Raises
    ------
    NotAStoreError
        As :meth:`Store.open` does.
    """
    return Store.open(store_folder(folder), create=create)


def _remove_if_orphaned(lock: Path) -> None:
    """Remove a scratch folder whose process was killed, as its free lock shows."""
    with suppress(StoreBusyError, FileNotFoundError), file_lock(lock, "a scratch folder"):
        folder = lock.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        # a child of the killed process may still write there; then the next visit retries
        if not folder.exists():
            lock.unlink()


_TOP_NAMES: Final = frozenset({"alias", "error_logs", "neuromirror", "ria-layout-version"})


def remove_if_unused(store: Store) -> None:
    """Remove a store that has no datasets, and no journal entries except those of failures.

    Parameters
    ----------
    store
        A store that did not exist when the command started.
    """
    root, own = store.root, store.index_path.parent
    empty_folders = (root / "alias", own / "locks", own / "protected")
    is_unused = (
        {path.name for path in root.iterdir()} <= _TOP_NAMES
        and not any(path.is_dir() and any(path.iterdir()) for path in empty_folders)
        and all(isinstance(entry, TaskFailed) for _, entry in store.journal.read(0))
    )
    if is_unused:
        shutil.rmtree(root)


def preview_folder(store: Store) -> Path:
    """Return the folder of the previews, which may be deleted at any time."""
    return store.root / "neuromirror" / "previews"


def delete_previews(store: Store) -> None:
    """Delete the previews of all datasets, so that none of a withdrawn dataset is left."""
    shutil.rmtree(preview_folder(store), ignore_errors=True)


class TaskState(msgspec.Struct, forbid_unknown_fields=True):
    """The state of a task, in ``<store>/neuromirror/tasks/<task>.json``.

    Its fields have defaults: those are the state if the file is missing or unreadable.

    Attributes
    ----------
    task
        The name of the task.
    """

    task: ClassVar[str]

    @classmethod
    def load(cls, store: Store) -> Self:
        """Return the saved state.

        Parameters
        ----------
        store
            The store.
        """
        path = store.task_state_path(cls.task)
        try:
            found = parse_json(path.read_bytes(), path.name)
            return msgspec.convert(found, analysed_type(cls))
        except (FileNotFoundError, ValueError):
            return cls()

    def save(self, store: Store) -> None:
        """Save the state.

        Parameters
        ----------
        store
            The store.
        """
        path = store.task_state_path(self.task)
        make_folder(path.parent)
        write_atomically(path, dump_json(self) + b"\n", durable=False)
