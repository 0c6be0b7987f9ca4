"""Move withdrawn datasets out of the served store to a folder that only its owner can read.

::

    <store>-withdrawn/<dataset id>/    beside the store, mode 0700: not served
        takedown.json                  {"dataset": …, "at": …, "reason": …, "source": …}
        repository/ records/ memos/ workspaces/ manifests/<ab>/… block-digests/<ab>/…
    <store>/tombstones/<alias>.json    {"dataset": …, "at": …, "reason": …}, public

Each file or folder is moved by one rename if both are on one disk. Withdrawal and reinstatement
skip what is done already, so that after a crash the whole sequence can be repeated.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from neuromirror.model import (
    DatasetRef,
    DatasetReinstated,
    DatasetWithdrawn,
    VersionMinted,
    VisitEnded,
)
from neuromirror.store.block_digests import BlockDigestsFolder, digested_keys
from neuromirror.store.durable_files import (
    copy_atomically,
    fsync_path,
    fsync_tree,
    make_folder,
    write_atomically,
)
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.store import Store

_OWNER_MODE = 0o700
_TAKEDOWN_FILE = "takedown.json"
_DATASET_FOLDERS = ("records", "memos")


def withdrawn_folder(store: Store) -> Path:
    """Return the folder of all withdrawn datasets of a store."""
    return store.root.with_name(f"{store.root.name}-withdrawn")


def find_withdrawn_datasets(store: Store) -> dict[DatasetRef, DatasetWithdrawn]:
    """Return the datasets that are withdrawn according to the journal, with their entries."""
    found: dict[DatasetRef, DatasetWithdrawn] = {}
    for _, entry in store.journal.read(0):
        if isinstance(entry, DatasetWithdrawn):
            found[entry.dataset_ref] = entry
        elif isinstance(entry, DatasetReinstated):
            found.pop(entry.dataset_ref, None)
    return found


def find_withdrawn_folder(store: Store, dataset: DatasetRef) -> Path | None:
    """Return the folder to which a withdrawn dataset was moved; None if missing.

    If the move was interrupted, the folder has only a part of the dataset.
    """
    folder = withdrawn_folder(store) / dataset.dataset_id
    try:
        content = json.loads((folder / _TAKEDOWN_FILE).read_bytes())
    except FileNotFoundError:
        return None
    return folder if content["dataset"] == dataset.name else None


def find_other_owner(store: Store, dataset: DatasetRef) -> str:
    """Return the name of another dataset that owns the files; empty if this dataset owns them.

    Datasets with one source URI have one dataset id. The files belong to the one that has versions;
    if several have some, to those that are not withdrawn.
    """
    named: set[DatasetRef] = set()
    minted: set[DatasetRef] = set()
    for _, entry in store.journal.read(0):
        match entry:
            case VersionMinted():
                minted.add(entry.dataset_ref)
            case VisitEnded() | DatasetWithdrawn():
                named.add(entry.dataset_ref)
    others = minted - find_withdrawn_datasets(store).keys() if dataset in minted else minted | named
    names = (other.name for other in others if other.source_uri == dataset.source_uri)
    return min((name for name in names if name != dataset.name), default="")


def withdraw_dataset(store: Store, entry: DatasetWithdrawn, keys: Iterable[str] = ()) -> bool:
    """Move a dataset out of the served store; return whether anything had to be done.

    Files that belong to another dataset with the same id stay; see :func:`find_other_owner`.

    ``keys`` are the annex keys whose block digests are moved, too. The alias is removed first, then
    the block digests are moved, then the repository, then everything else. The caller holds the
    dataset's lock and has appended the entry to the journal.

    Raises StoreDamagedError if the folder of withdrawn datasets cannot be created.
    """
    dataset = entry.dataset_ref
    folder = _open_withdrawn_folder(store) / dataset.dataset_id
    tombstone = {"dataset": dataset.name, "at": entry.at, "reason": entry.reason}
    is_owner = not find_other_owner(store, dataset)
    if is_owner and not (folder / _TAKEDOWN_FILE).exists():
        folder.mkdir(_OWNER_MODE, exist_ok=True)
        content = {**tombstone, "source": entry.source_uri}
        write_atomically(folder / _TAKEDOWN_FILE, json.dumps(content, indent=1).encode() + b"\n")
    tombstone_path = _tombstone_path(store, dataset)
    make_folder(tombstone_path.parent)
    moved = not tombstone_path.exists()
    write_atomically(tombstone_path, json.dumps(tombstone, sort_keys=True).encode() + b"\n")
    alias = store.root / "alias" / dataset.alias
    if alias.is_symlink():
        alias.unlink()
        fsync_path(alias.parent)
        moved = True
    if not is_owner:
        return moved
    # first: after a crash, the keys are read again from the repository or the records
    digests = list(_digests_pairs(store, folder, keys))
    for served_path, withdrawn_path in (*digests, *_path_pairs(store, dataset, folder)):
        moved |= _move(served_path, withdrawn_path)
    return moved


def reinstate_dataset(store: Store, dataset: DatasetRef) -> None:
    """Move everything back that :func:`withdraw_dataset` moved, except for the alias.

    The caller holds the dataset's lock, and calls :func:`finish_reinstatement` at the end.
    """
    if find_withdrawn_folder(store, dataset) is None and find_other_owner(store, dataset):
        return
    folder = withdrawn_folder(store) / dataset.dataset_id
    path_pairs = [*_path_pairs(store, dataset, folder), *_digests_pairs(store, folder)]
    with store.scratch() as scratch:
        # the repository last: its commits refer to the others
        for served_path, withdrawn_path in reversed(path_pairs):
            _move(withdrawn_path, served_path)
            if not served_path.exists() and withdrawn_path.parts[len(folder.parts)] == "manifests":
                # the manifest of a state that another dataset shared was withdrawn with that one
                for other in folder.parent.glob(f"*/{withdrawn_path.relative_to(folder)}"):
                    copy_atomically(other, served_path, scratch)
        # likewise the block digests of contents
        digests = BlockDigestsFolder.of_store(store)
        for withdrawn in folder.parent.glob("*/block-digests"):
            others = BlockDigestsFolder(withdrawn)
            for key in sorted(digested_keys(store, dataset, others).keys):
                if not digests.has(key):
                    copy_atomically(others.path(key), digests.path(key), scratch)


def finish_reinstatement(store: Store, dataset: DatasetRef) -> None:
    """Create the alias of a reinstated dataset, and remove its tombstone and empty folder."""
    repository = store.repositories.of(dataset)
    is_owner = not find_other_owner(store, dataset)
    if repository.exists():
        repository.update_server_info()
        if is_owner and repository.refs():
            store.repositories.alias(dataset)
    _tombstone_path(store, dataset).unlink(missing_ok=True)
    folder = find_withdrawn_folder(store, dataset)
    if folder is None and is_owner:
        folder = withdrawn_folder(store) / dataset.dataset_id
    if folder is not None and folder.is_dir():
        (folder / _TAKEDOWN_FILE).unlink(missing_ok=True)
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)
        fsync_path(folder.parent)


def _digests_pairs(
    store: Store, folder: Path, keys: Iterable[str] = ()
) -> Iterator[tuple[Path, Path]]:
    """Yield the paths of block digests, of keys and of those moved before, as _path_pairs does."""
    digests, withdrawn = BlockDigestsFolder.of_store(store), folder / "block-digests"
    for served_path in map(digests.path, keys):
        yield served_path, withdrawn / served_path.relative_to(digests.root)
    for path in BlockDigestsFolder(withdrawn).paths():
        yield digests.root / path.relative_to(withdrawn), path


def _path_pairs(store: Store, dataset: DatasetRef, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the other paths of a dataset in the order of withdrawal: in the store, and outside."""
    name = dataset.dataset_id
    yield store.repositories.of(dataset).path, folder / "repository"
    for kind in _DATASET_FOLDERS:
        yield store.root / "neuromirror" / kind / name[:3] / name[3:], folder / kind
    yield store.root / "neuromirror" / "workspaces" / name, folder / "workspaces"
    for state in sorted(_exclusive_states(store, dataset)):
        path = store.manifest_path(state)
        yield path, folder / "manifests" / path.relative_to(store.root / "manifests")


def _exclusive_states(store: Store, dataset: DatasetRef) -> set[str]:
    """Return the states of a dataset that no served dataset shares."""
    own: set[str] = set()
    others: set[str] = set()
    down = {(one.mirror, one.local_id) for one in find_withdrawn_datasets(store)}
    for _, entry in store.journal.read(0):
        if isinstance(entry, VersionMinted):
            if (entry.mirror, entry.local_id) == (dataset.mirror, dataset.local_id):
                own.add(entry.state)
            elif (entry.mirror, entry.local_id) not in down:
                others.add(entry.state)
    return own - others


def _move(served_path: Path, withdrawn_path: Path) -> bool:
    """Move a file or folder if it exists; return whether it did."""
    if not served_path.exists():
        return False
    make_folder(withdrawn_path.parent)
    if withdrawn_path.exists():
        # a killed process had copied it to another disk, and had not removed the original yet
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
    """Create the folder of withdrawn datasets, with mode 0700."""
    folder = withdrawn_folder(store)
    try:
        if not folder.is_dir():
            folder.mkdir(_OWNER_MODE)
        if folder.stat().st_mode & 0o077:
            folder.chmod(_OWNER_MODE)
    except OSError as error:
        raise StoreDamagedError(
            f"the folder {folder} cannot be created with mode 700 ({error.strerror}); create it, "
            "owned by the user that runs neuromirror, and repeat the command"
        ) from error
    return folder


def _tombstone_path(store: Store, dataset: DatasetRef) -> Path:
    return store.root / "tombstones" / f"{dataset.alias}.json"
