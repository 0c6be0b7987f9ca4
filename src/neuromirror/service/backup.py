"""Backups of index, schedule and ledger in several generations, and restoration of the index.

::

    <folder>/<UTC time>/index.sqlite      the index as it was at one moment
    <folder>/<UTC time>/schedule.sqlite   the schedule, where a service has run
    <folder>/<UTC time>/custody.sqlite    the ledger of copies in vaults, where there is one
    <folder>/<UTC time>/backup.json       {"format": 1, "at", "position", "journal": "sha256:…"}

``position`` is the length of the journal that the index covered, ``journal`` the digest of that
prefix: it proves that a copy belongs to this store. Git repositories, records, manifests and the
journal are plain files that any backup program can copy; see docs/howto/recipes.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from neuromirror.index import IndexUnusableError
from neuromirror.index.backup import copy_database, integrity_errors, read_position, restore_copy
from neuromirror.model import (
    ConfigurationError,
    DatasetReinstated,
    DatasetWithdrawn,
    MirrorSeen,
    NeuromirrorError,
    parse_json,
)
from neuromirror.store import Store, file_lock, write_atomically
from neuromirror.store.durable_files import fsync_path

DEFAULT_GENERATIONS = 7
"""Default number of generations to keep."""

_FORMAT = 1
_PRIVATE_MODE = 0o700
_METADATA_FILE = "backup.json"
_BLOCK = 1 << 20


class BackupError(NeuromirrorError):
    """A backup failed, or its copy is damaged; older backups are kept."""


class BackupNotFoundError(ConfigurationError):
    """The folder has no backup of this store's index."""


class ForeignBackupError(NeuromirrorError):
    """A backup is of another store's index, so this store's journal cannot bring it up to date."""


class Generation(Struct, frozen=True):
    """A backup: its folder, its time (ISO 8601) and its size.

    ``position`` is the length of the journal that its index covers, ``journal`` its digest.
    """

    folder: Path
    at: str
    position: int
    journal: str
    bytes: int


class RestoredIndex(Struct, frozen=True):
    """A restored index: its backup, and the number of journal entries applied after it.

    ``skipped`` has the reasons why newer backups were not usable.
    """

    generation: Generation
    entries: int
    skipped: tuple[str, ...] = ()


def back_up(
    store: Store, index_path: Path, folder: Path, keep: int = DEFAULT_GENERATIONS
) -> Generation:
    """Copy the databases of a store to a new backup in a folder, and verify the copies.

    Then the oldest backups are removed, so that ``keep`` remain. A missing folder is created with
    access for its owner only. If the process is killed, older backups remain complete.

    Raises
    ------
    BackupError
        If the disk has too little space, or the copy is damaged.
    IndexUnusableError
        If the index cannot be read.
    StoreBusyError
        If another backup is running.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True, mode=_PRIVATE_MODE)
        folder.chmod(_PRIVATE_MODE)
    with file_lock(folder / ".lock", f"the backup folder {folder}"):
        _drop_unfinished(folder)
        needed = sum(path.stat().st_size for path in _sources(store, index_path))
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise BackupError(
                f"a backup needs {needed:,} bytes, and {folder} has {free:,}; free some space, "
                "or keep fewer backups (--keep)"
            )
        at = datetime.now(UTC)
        destination = folder / at.strftime("%Y-%m-%dT%H%M%S.%fZ")
        draft = folder / f".new-{destination.name}"
        draft.mkdir(_PRIVATE_MODE)
        for path in _sources(store, index_path):
            name = "index.sqlite" if path == index_path else path.name
            copy_database(path, draft / name)
            if wrong := integrity_errors(draft / name):
                raise BackupError(
                    f"the copy of {path} is damaged ({wrong[0]}); older copies are kept. Run "
                    "'neuromirror fsck'"
                )
        position = read_position(draft / "index.sqlite")
        metadata = {
            "format": _FORMAT,
            "at": at.isoformat(timespec="seconds"),
            "position": position,
            "journal": _journal_digest(store, position),
        }
        write_atomically(draft / _METADATA_FILE, json.dumps(metadata, indent=1).encode() + b"\n")
        os.rename(draft, destination)
        fsync_path(folder)
        for old in generations(folder)[max(1, keep) :]:
            expired = old.folder.with_name(f".old-{old.folder.name}")
            os.rename(old.folder, expired)
            shutil.rmtree(expired)
    return _read_generation(destination)


def generations(folder: Path) -> list[Generation]:
    """Return the complete backups in a folder, newest first."""
    found = sorted((path.parent for path in folder.glob(f"[!.]*/{_METADATA_FILE}")), reverse=True)
    return [_read_generation(path) for path in found]


def restore_from_backup(store: Store, index_path: Path, folder: Path) -> RestoredIndex:
    """Replace the index by the newest intact backup, and apply the journal since then.

    Parameters
    ----------
    store, index_path
        The store, and the index to replace.
    folder
        A folder that :func:`back_up` fills, or one backup in it.

    Raises
    ------
    BackupNotFoundError
        If there is no backup.
    ForeignBackupError
        If no backup belongs to this store's journal.
    IndexBusyError
        If another process is writing the index.
    """
    found = (
        [_read_generation(folder)] if (folder / _METADATA_FILE).exists() else generations(folder)
    )
    if not found:
        raise BackupNotFoundError(
            f"the folder '{folder}' contains no backup of an index; check the path, or rebuild the "
            "index from the store with 'neuromirror rebuild-index', which takes longer"
        )
    wrong: list[str] = []
    for one in found:
        try:
            _check_generation(store, one)
            entries = restore_copy(index_path, one.folder / "index.sqlite", store)
        except (ForeignBackupError, IndexUnusableError) as error:
            wrong.append(str(error))
            continue
        return RestoredIndex(one, entries, tuple(wrong))
    raise ForeignBackupError("; ".join(wrong))


def _check_generation(store: Store, one: Generation) -> None:
    if (
        one.position > store.journal.size()
        or _journal_digest(store, one.position) != one.journal
        or read_position(one.folder / "index.sqlite") != one.position
    ):
        raise ForeignBackupError(
            f"{one.folder} does not match the journal of {store.root}; run 'neuromirror "
            "rebuild-index' to rebuild the index from the store"
        )
    for _, entry in store.journal.read(one.position):
        if isinstance(entry, MirrorSeen) and entry.index_entries is not None:
            raise ForeignBackupError(
                f"{one.folder} is older than a change of [zarr] index_entries, which applies to "
                "all versions; run 'neuromirror rebuild-index'"
            )
        if isinstance(entry, DatasetWithdrawn | DatasetReinstated):
            raise ForeignBackupError(
                f"{one.folder} is older than the takedown of {entry.mirror}:{entry.local_id}, or "
                "than its end; run 'neuromirror rebuild-index'"
            )


def _sources(store: Store, index_path: Path) -> Iterator[Path]:
    yield index_path
    for path in (store.schedule_path, store.ledger_path):
        if path.exists():
            yield path


def _read_generation(folder: Path) -> Generation:
    if not (folder / _METADATA_FILE).is_file():
        raise BackupNotFoundError(
            f"{folder / _METADATA_FILE} is not a regular file; remove {folder}"
        )
    try:
        metadata = parse_json((folder / _METADATA_FILE).read_bytes(), _METADATA_FILE)
        if metadata["format"] != _FORMAT:
            raise ForeignBackupError(
                f"{folder} is a backup of format {metadata['format']!r}, but this neuromirror "
                f"supports {_FORMAT}; restore it with the release that created it, or choose "
                f"another folder"
            )
        size = sum(path.stat().st_size for path in folder.iterdir())
        return Generation(
            folder, str(metadata["at"]), int(metadata["position"]), str(metadata["journal"]), size
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupNotFoundError(
            f"{folder / _METADATA_FILE} cannot be read: {error!r}; remove {folder}"
        ) from error


def _journal_digest(store: Store, position: int) -> str:
    digest, left = hashlib.sha256(), position
    with store.journal.path.open("rb") as file:
        while left and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return f"sha256:{digest.hexdigest()}"


def _drop_unfinished(folder: Path) -> None:
    """Remove the remains of a killed backup; the caller holds the folder's lock."""
    for left in (*folder.glob(".new-*"), *folder.glob(".old-*")):
        shutil.rmtree(left)
