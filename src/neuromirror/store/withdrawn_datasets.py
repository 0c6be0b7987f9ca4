"""Datasets out of the served tree: what was taken down, whole, where its owner alone can look.

::

    <store>-withdrawn/<dataset id>/    beside the store, mode 0700: no server reaches it
        takedown.json                  {"dataset": …, "at": …, "reason": …, "source": …}
        repository/ records/ memos/ workspaces/ manifests/<ab>/…
    <store>/tombstones/<alias>.json    {"dataset": …, "at": …, "reason": …}, for all to read

Each thing goes by one rename where both are on one disk. Both ways leave alone what is done
already, so that after a crash all of it is done again, and only what is missing is.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from neuromirror.model import DatasetRef, DatasetReinstated, DatasetWithdrawn, VersionMinted
from neuromirror.store.durable_files import fsync_path, fsync_tree, make_folder, write_atomically
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.store import Store

_OWNER_MODE = 0o700
_TAKEDOWN_FILE = "takedown.json"
_DATASET_FOLDERS = ("records", "memos")


def withdrawn_folder(store: Store) -> Path:
    """Where what was taken out of a store is."""
    return store.root.with_name(f"{store.root.name}-withdrawn")


def find_withdrawn_datasets(store: Store) -> dict[DatasetRef, DatasetWithdrawn]:
    """What the journal says is taken down now."""
    found: dict[DatasetRef, DatasetWithdrawn] = {}
    for _, entry in store.read_entries(0):
        if isinstance(entry, DatasetWithdrawn):
            found[_dataset_ref(entry)] = entry
        elif isinstance(entry, DatasetReinstated):
            found.pop(_dataset_ref(entry), None)
    return found


def find_withdrawn_folder(store: Store, dataset: DatasetRef) -> Path | None:
    """The folder of a dataset that was taken out, wholly or in part; None where there is none."""
    folder = withdrawn_folder(store) / dataset.dataset_id
    return folder if (folder / _TAKEDOWN_FILE).exists() else None


def withdraw_dataset(store: Store, entry: DatasetWithdrawn) -> bool:
    """Takes a dataset out of the served tree; gives whether anything was left to be taken.

    First what leads to it, then its repository, then all else. The caller holds the dataset's lock
    and has the entry in the journal. Raises StoreDamagedError where the folder may not be made.
    """
    dataset = _dataset_ref(entry)
    folder = _open_withdrawn_folder(store) / dataset.dataset_id
    tombstone = {"dataset": dataset.name, "at": entry.at, "reason": entry.reason}
    if not (folder / _TAKEDOWN_FILE).exists():
        folder.mkdir(_OWNER_MODE, exist_ok=True)
        content = {**tombstone, "source": entry.source_uri}
        write_atomically(folder / _TAKEDOWN_FILE, json.dumps(content, indent=1).encode() + b"\n")
    tombstone_path = _tombstone_path(store, dataset)
    make_folder(tombstone_path.parent)
    write_atomically(tombstone_path, json.dumps(tombstone, sort_keys=True).encode() + b"\n")
    moved = False
    alias = store.root / "alias" / dataset.alias
    if alias.is_symlink():
        alias.unlink()
        fsync_path(alias.parent)
        moved = True
    for served_path, withdrawn_path in _path_pairs(store, dataset, folder):
        moved |= _move(served_path, withdrawn_path)
    return moved


def reinstate_dataset(store: Store, dataset: DatasetRef) -> None:
    """Puts back all that :func:`withdraw_dataset` took, but the alias, which comes last.

    The caller holds the dataset's lock.
    """
    folder = withdrawn_folder(store) / dataset.dataset_id
    path_pairs = list(_path_pairs(store, dataset, folder))
    # what leads to the others comes after them
    for served_path, withdrawn_path in reversed(path_pairs):
        _move(withdrawn_path, served_path)
        if not served_path.exists() and withdrawn_path.parts[len(folder.parts)] == "manifests":
            # another dataset of the same state, that went after this one, took it along
            for other in folder.parent.glob(f"*/{withdrawn_path.relative_to(folder)}"):
                make_folder(served_path.parent)
                shutil.copy2(other, served_path)
                fsync_path(served_path)


def finish_reinstatement(store: Store, dataset: DatasetRef) -> None:
    """Makes a dataset that was put back one like any other: its alias, and no tombstone."""
    repository = store.repository(dataset)
    if repository.exists():
        repository.update_server_info()
        if repository.refs():
            store.alias(dataset)
    _tombstone_path(store, dataset).unlink(missing_ok=True)
    folder = withdrawn_folder(store) / dataset.dataset_id
    if folder.is_dir():
        (folder / _TAKEDOWN_FILE).unlink(missing_ok=True)
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)
        fsync_path(folder.parent)


def _path_pairs(store: Store, dataset: DatasetRef, folder: Path) -> Iterator[tuple[Path, Path]]:
    """What a store keeps of a dataset, in the order it goes, each with its place outside."""
    name = dataset.dataset_id
    yield store.repository(dataset).path, folder / "repository"
    for what in _DATASET_FOLDERS:
        yield store.root / "neuromirror" / what / name[:3] / name[3:], folder / what
    yield store.root / "neuromirror" / "workspaces" / name, folder / "workspaces"
    for state in sorted(_exclusive_states(store, dataset)):
        path = store.manifest_path(state)
        yield path, folder / "manifests" / path.relative_to(store.root / "manifests")


def _exclusive_states(store: Store, dataset: DatasetRef) -> set[str]:
    """The states of a dataset that no dataset which is shown has."""
    own: set[str] = set()
    others: set[str] = set()
    down = {(one.mirror, one.local_id) for one in find_withdrawn_datasets(store)}
    for _, entry in store.read_entries(0):
        if isinstance(entry, VersionMinted):
            if (entry.mirror, entry.local_id) == (dataset.mirror, dataset.local_id):
                own.add(entry.state)
            elif (entry.mirror, entry.local_id) not in down:
                others.add(entry.state)
    return own - others


def _move(served_path: Path, withdrawn_path: Path) -> bool:
    """Moves a file or folder, unless it is gone from there; gives whether it was there."""
    if not served_path.exists():
        return False
    make_folder(withdrawn_path.parent)
    if withdrawn_path.exists():
        # it had been copied to another disk, and the original was being removed
        _remove(served_path)
        return True
    try:
        os.rename(served_path, withdrawn_path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        draft = withdrawn_path.with_name(f".new-{withdrawn_path.name}")
        _remove(draft)
        if served_path.is_dir():
            shutil.copytree(served_path, draft, symlinks=True)
            fsync_tree(draft)
        else:
            shutil.copy2(served_path, draft)
            fsync_path(draft)
        os.rename(draft, withdrawn_path)
        fsync_path(withdrawn_path.parent)
        _remove(served_path)
    fsync_path(served_path.parent)
    fsync_path(withdrawn_path.parent)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_withdrawn_folder(store: Store) -> Path:
    """The folder of all that was taken out, made and closed to others."""
    folder = withdrawn_folder(store)
    try:
        if not folder.is_dir():
            folder.mkdir(_OWNER_MODE)
        if folder.stat().st_mode & 0o077:
            folder.chmod(_OWNER_MODE)
    except OSError as error:
        raise StoreDamagedError(
            f"the folder {folder} cannot be made or closed ({error.strerror}); make it, with mode "
            "700 and for the user that runs neuromirror, and repeat the command"
        ) from error
    return folder


def _tombstone_path(store: Store, dataset: DatasetRef) -> Path:
    return store.root / "tombstones" / f"{dataset.alias}.json"


def _dataset_ref(entry: DatasetWithdrawn | DatasetReinstated) -> DatasetRef:
    return DatasetRef(entry.mirror, entry.local_id, entry.source_uri)
