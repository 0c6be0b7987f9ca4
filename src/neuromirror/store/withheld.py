"""Datasets out of the served tree: what was taken down, whole, where its owner alone can look.

::

    <store>-withheld/<dataset id>/     beside the store, mode 0700: no server reaches it
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

from neuromirror.model import DatasetRef, Reinstated, VersionMinted, Withheld
from neuromirror.store.disk import make_folder, sync, sync_tree, write_atomically
from neuromirror.store.errors import StoreDamaged
from neuromirror.store.store import Store

_OWNER = 0o700
_TOLD = "takedown.json"
_BY_DATASET = ("records", "memos")


def withheld_folder(store: Store) -> Path:
    """Where what was taken out of a store is."""
    return store.root.with_name(f"{store.root.name}-withheld")


def down_in(store: Store) -> dict[DatasetRef, Withheld]:
    """What the journal says is taken down now."""
    found: dict[DatasetRef, Withheld] = {}
    for _, entry in store.journal_from(0):
        if isinstance(entry, Withheld):
            found[_dataset(entry)] = entry
        elif isinstance(entry, Reinstated):
            found.pop(_dataset(entry), None)
    return found


def kept_of(store: Store, dataset: DatasetRef) -> Path | None:
    """The folder of a dataset that was taken out, wholly or in part; None where there is none."""
    folder = withheld_folder(store) / dataset.dataset_id
    return folder if (folder / _TOLD).exists() else None


def move_out(store: Store, entry: Withheld) -> bool:
    """Takes a dataset out of the served tree; gives whether anything was left to be taken.

    First what leads to it, then its repository, then all else. The caller holds the dataset's lock
    and has the entry in the journal. Raises StoreDamaged where the folder may not be made.
    """
    dataset = _dataset(entry)
    folder = _open(store) / dataset.dataset_id
    told = {"dataset": dataset.name, "at": entry.at, "reason": entry.reason}
    if not (folder / _TOLD).exists():
        folder.mkdir(_OWNER, exist_ok=True)
        content = {**told, "source": entry.source_uri}
        write_atomically(folder / _TOLD, json.dumps(content, indent=1).encode() + b"\n")
    stone = _tombstone(store, dataset)
    make_folder(stone.parent)
    write_atomically(stone, json.dumps(told, sort_keys=True).encode() + b"\n")
    moved = False
    alias = store.root / "alias" / dataset.alias
    if alias.is_symlink():
        alias.unlink()
        sync(alias.parent)
        moved = True
    for there, kept in _places(store, dataset, folder):
        moved |= _move(there, kept)
    return moved


def move_back(store: Store, dataset: DatasetRef) -> None:
    """Puts back all that :func:`move_out` took, but the alias, which comes last.

    The caller holds the dataset's lock.
    """
    folder = withheld_folder(store) / dataset.dataset_id
    places = list(_places(store, dataset, folder))
    # what leads to the others comes after them
    for there, kept in reversed(places):
        _move(kept, there)
        if not there.exists() and kept.parts[len(folder.parts)] == "manifests":
            # another dataset of the same state, that went after this one, took it along
            for other in folder.parent.glob(f"*/{kept.relative_to(folder)}"):
                make_folder(there.parent)
                shutil.copy2(other, there)
                sync(there)


def forget(store: Store, dataset: DatasetRef) -> None:
    """Makes a dataset that was put back one like any other: its alias, and no tombstone."""
    repository = store.repository(dataset)
    if repository.exists():
        repository.refresh()
        if repository.refs():
            store.alias(dataset)
    _tombstone(store, dataset).unlink(missing_ok=True)
    folder = withheld_folder(store) / dataset.dataset_id
    if folder.is_dir():
        (folder / _TOLD).unlink(missing_ok=True)
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)
        sync(folder.parent)


def _places(store: Store, dataset: DatasetRef, folder: Path) -> Iterator[tuple[Path, Path]]:
    """What a store keeps of a dataset, in the order it goes, each with its place outside."""
    name = dataset.dataset_id
    yield store.repository(dataset).path, folder / "repository"
    for what in _BY_DATASET:
        yield store.root / "neuromirror" / what / name[:3] / name[3:], folder / what
    yield store.root / "neuromirror" / "workspaces" / name, folder / "workspaces"
    for state in sorted(_own_states(store, dataset)):
        path = store.manifest_path(state)
        yield path, folder / "manifests" / path.relative_to(store.root / "manifests")


def _own_states(store: Store, dataset: DatasetRef) -> set[str]:
    """The states of a dataset that no dataset which is shown has."""
    own: set[str] = set()
    others: set[str] = set()
    down = {(one.mirror, one.local_id) for one in down_in(store)}
    for _, entry in store.journal_from(0):
        if isinstance(entry, VersionMinted):
            if (entry.mirror, entry.local_id) == (dataset.mirror, dataset.local_id):
                own.add(entry.state)
            elif (entry.mirror, entry.local_id) not in down:
                others.add(entry.state)
    return own - others


def _move(there: Path, kept: Path) -> bool:
    """Moves a file or folder, unless it is gone from there; gives whether it was there."""
    if not there.exists():
        return False
    make_folder(kept.parent)
    if kept.exists():
        # it had been copied to another disk, and the original was being removed
        _remove(there)
        return True
    try:
        os.rename(there, kept)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        draft = kept.with_name(f".new-{kept.name}")
        _remove(draft)
        if there.is_dir():
            shutil.copytree(there, draft, symlinks=True)
            sync_tree(draft)
        else:
            shutil.copy2(there, draft)
            sync(draft)
        os.rename(draft, kept)
        sync(kept.parent)
        _remove(there)
    sync(there.parent)
    sync(kept.parent)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open(store: Store) -> Path:
    """The folder of all that was taken out, made and closed to others."""
    folder = withheld_folder(store)
    try:
        if not folder.is_dir():
            folder.mkdir(_OWNER)
        if folder.stat().st_mode & 0o077:
            folder.chmod(_OWNER)
    except OSError as error:
        raise StoreDamaged(
            f"the folder {folder} cannot be made or closed ({error.strerror}); make it, with mode "
            "700 and for the user that runs neuromirror, and repeat the command"
        ) from error
    return folder


def _tombstone(store: Store, dataset: DatasetRef) -> Path:
    return store.root / "tombstones" / f"{dataset.alias}.json"


def _dataset(entry: Withheld | Reinstated) -> DatasetRef:
    return DatasetRef(entry.mirror, entry.local_id, entry.source_uri)
