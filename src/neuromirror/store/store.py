"""The directory of bare repositories in RIA layout, with all that the index is rebuilt from.

::

    <store>/ria-layout-version            what DataLad's RIA access expects
    <store>/<id[:3]>/<id[3:]>             one bare repository a dataset
    <store>/alias/<mirror>--<local id>    links to them
    <store>/manifests/<ab>/<rest>.jsonl.zst    canonical manifests by state digest
    <store>/neuromirror/                  store.json, journal.jsonl, records/, locks/, index.sqlite
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import zstandard

from neuromirror.model import DatasetRef, Entry, PlacedFile, load_all
from neuromirror.store.errors import NotAStore, StoreBusy, StoreDamaged
from neuromirror.store.journal import JournalFile
from neuromirror.store.locks import locked
from neuromirror.store.repository import Repository

_FORMAT = 1


class Store:
    """A store on a local disk; :meth:`open` makes one in an empty or missing folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own = root / "neuromirror"
        self._journal = JournalFile(self._own / "journal.jsonl")

    @classmethod
    def open(cls, root: Path, *, create: bool = False) -> Store:
        """The store at ``root``.

        Raises NotAStore for a folder that is something else, and, unless ``create``, for one
        that is missing or empty.
        """
        store = cls(root.absolute())
        marker = store._own / "store.json"
        if marker.exists():
            store._check(marker)
            return store
        if root.exists() and not root.is_dir():
            raise NotAStore(f"{root} is a file, not a store; name a folder with --store")
        if root.exists() and any(path.name not in ("neuromirror",) for path in root.iterdir()):
            raise NotAStore(
                f"{root} is not a neuromirror store and not empty; name another folder with "
                "--store (nothing was changed)"
            )
        if not create:
            raise NotAStore(
                f"there is no store at {root}; 'neuromirror sync' makes one, or name the right "
                "folder with --store"
            )
        store._make(marker)
        return store

    def _check(self, marker: Path) -> None:
        try:
            found = json.loads(marker.read_text())["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise NotAStore(f"{marker} cannot be read: {error!r}; is this a store?") from error
        if found != _FORMAT:
            raise NotAStore(
                f"{self.root} is a store of format {found}, this neuromirror knows {_FORMAT}; "
                "use the neuromirror that made it, or a newer one"
            )

    def _make(self, marker: Path) -> None:
        for folder in (self.root / "alias", self.root / "error_logs", self._own / "locks"):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / "ria-layout-version", b"1\n")
        write_atomically(marker, b'{"format":%d}\n' % _FORMAT)

    @property
    def index_path(self) -> Path:
        """Where the index is when it is named nowhere else."""
        return self._own / "index.sqlite"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the store's own disk for files that do not outlive the block.

        What a killed process left in another scratch folder is removed on the way.
        """
        parent = self._own / "tmp"
        parent.mkdir(exist_ok=True)
        for left in parent.glob("*.lock"):
            _drop_if_dead(left)
        folder = parent / secrets.token_hex(8)
        lock = folder.with_suffix(".lock")
        with locked(lock, "a scratch folder"):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)

    def mark_checked(self, mirror: str) -> None:
        """Remembers that a mirror's list was read through just now; the file's time says when."""
        folder = self._own / "checked"
        folder.mkdir(exist_ok=True)
        (folder / mirror).touch()

    def last_checked(self, mirror: str) -> datetime | None:
        """When a mirror's list was last read through."""
        try:
            return datetime.fromtimestamp((self._own / "checked" / mirror).stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def lock(self, name: str, what: str, wait: float = 0.0) -> AbstractContextManager[None]:
        """A lock of the store; see :func:`neuromirror.store.locked`."""
        return locked(self._own / "locks" / f"{name}.lock", what, wait)

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
        with suppress(FileNotFoundError):
            if os.readlink(link) == target:
                return
        draft = link.with_name(f".{link.name}.new")
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        os.replace(draft, link)

    def aliases(self) -> Iterator[tuple[str, Repository]]:
        """All aliases in order of name, with their repositories."""
        for link in sorted((self.root / "alias").iterdir()):
            if not link.name.startswith("."):
                yield link.name, Repository(link.resolve())

    # --- records and manifests

    def _records_path(self, dataset_id: str, commit: str) -> Path:
        return self._own / "records" / dataset_id[:3] / dataset_id[3:] / f"{commit}.jsonl.zst"

    def keep_records(self, dataset_id: str, commit: str, lines: Iterable[bytes]) -> None:
        """Keeps a version's records: lines without newline, sorted by git path."""
        target = self._records_path(dataset_id, commit)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as zstd:
                    for line in lines:
                        zstd.write(line + b"\n")
                _seal(file)
            os.replace(name, target)
        finally:
            Path(name).unlink(missing_ok=True)

    def has_records(self, dataset_id: str, commit: str) -> bool:
        """Whether the store has a version's records."""
        return self._records_path(dataset_id, commit).exists()

    def record_lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        """A version's records, line by line; raises StoreDamaged."""
        path = self._records_path(dataset_id, commit)
        try:
            with path.open("rb") as file:
                reader = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
                for line in io.BufferedReader(reader, 1 << 18):
                    yield line[:-1]
        except (FileNotFoundError, zstandard.ZstdError) as error:
            raise StoreDamaged(
                f"the records of commit {commit} cannot be read ({error}); restore {path} from a "
                "backup, or run 'neuromirror sync --deep' for the dataset"
            ) from error

    def records(self, dataset_id: str, commit: str) -> Iterator[PlacedFile]:
        """A version's files, sorted by git path; raises StoreDamaged."""
        return load_all(self.record_lines(dataset_id, commit))

    def manifest_path(self, state: str) -> Path:
        """Where the canonical manifest of a state (``sha256:<hex>``) is kept."""
        digest = state.removeprefix("sha256:")
        return self.root / "manifests" / digest[:2] / f"{digest[2:]}.jsonl.zst"

    def keep_manifest(self, state: str, draft: Path) -> None:
        """Moves a finished manifest to its place."""
        target = self.manifest_path(state)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            draft.unlink()
        else:
            os.replace(draft, target)

    # --- journal

    def append(self, *entries: Entry) -> None:
        """Adds entries to the journal."""
        self._journal.append(entries)

    def journal_size(self) -> int:
        """Bytes of the journal."""
        return self._journal.size()

    def journal_from(self, position: int) -> Iterator[tuple[int, Entry]]:
        """Journal entries from a byte position on, each with the position of its end."""
        return self._journal.entries_from(position)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file so that it is never seen half written."""
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            _seal(file)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _drop_if_dead(lock: Path) -> None:
    """Removes a scratch folder whose process died: its lock is free."""
    with suppress(StoreBusy, FileNotFoundError), locked(lock, "a scratch folder"):
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink()


def _seal(file: io.IOBase) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o644)
    os.fsync(file.fileno())
