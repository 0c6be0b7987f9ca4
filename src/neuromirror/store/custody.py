"""Publish in a dataset's repository which vaults have copies of its contents."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from neuromirror.annex import parse_remote_log
from neuromirror.git import ObjectReader
from neuromirror.mint import (
    REMOTE_LOG,
    CustodyRemote,
    read_custody_locations,
    read_custody_remotes,
    write_custody_branch,
)
from neuromirror.model import DatasetRef, NeuromirrorError
from neuromirror.store.foreign_commits import is_own_commit
from neuromirror.store.repository import ANNEX_BRANCH, CUSTODY_BRANCH, Repository, update_refs
from neuromirror.store.store import Store
from neuromirror.store.withdrawn_datasets import find_withdrawn_folder

_WAIT = 600.0
"""Seconds to wait for a visit of the dataset that is in progress."""


def publish_locations(
    store: Store,
    dataset: DatasetRef,
    remote: CustodyRemote,
    kept: Iterable[str] = (),
    removed: Iterable[str] = (),
    *,
    withdrawn: bool = False,
) -> bool:
    """Record in the dataset's repository which of its keys a vault has, for all who clone it.

    The branch ``custody/git-annex`` changes, and no other ref. A call with keys that are recorded
    already writes nothing, so that an interrupted run can be repeated.

    Raises
    ------
    NeuromirrorError
        The store does not have the dataset, or another program moved the branch.
    StoreBusyError
        Another process has had the lock of the dataset for ten minutes.
    """
    repository = _repository(store, dataset, withdrawn=withdrawn)
    if not repository.exists():
        raise NeuromirrorError(
            f"{dataset.name} is not in the store {store.root}: copies in {remote.name} cannot be "
            "recorded for those who clone it"
        )
    with store.lock(dataset.dataset_id, dataset.name, _WAIT):
        repository.remove_stale_files()
        _refuse_other_remote(repository, dataset, remote)
        parent = repository.refs().get(CUSTODY_BRANCH)
        if parent is not None and not is_own_commit(repository.path, parent):
            raise NeuromirrorError(
                f"{dataset.name}: another program wrote to {CUSTODY_BRANCH}; run 'neuromirror "
                f"repair {dataset.name}', then repeat the command"
            )
        with _scratch(store, repository, withdrawn=withdrawn) as scratch:
            written = write_custody_branch(
                *(repository.path, parent, remote, kept, removed, scratch),
                mirror=dataset.mirror,
                timestamp=int(time.time()),
            )
            if written is None:
                repository.update_server_info()
                return False
            if written.pack is not None:
                repository.add_pack(written.pack)
            update_refs(repository.path, {CUSTODY_BRANCH: parent}, {CUSTODY_BRANCH: written.commit})
        repository.update_server_info()
    return True


def _refuse_other_remote(
    repository: Repository, dataset: DatasetRef, remote: CustodyRemote
) -> None:
    """Raise NeuromirrorError if a vault states the UUID of a remote of the dataset itself."""
    with ObjectReader(repository.path) as reader:
        if remote.uuid in parse_remote_log(reader.find(ANNEX_BRANCH, REMOTE_LOG) or b""):
            raise NeuromirrorError(
                f"{remote.name} has the UUID {remote.uuid} of another remote of {dataset.name}; "
                "nothing was recorded for those who clone it. Create the vault again elsewhere"
            )


def _repository(store: Store, dataset: DatasetRef, *, withdrawn: bool) -> Repository:
    folder = find_withdrawn_folder(store, dataset) if withdrawn else None
    return store.repositories.of(dataset) if folder is None else Repository(folder / "repository")


@contextmanager
def _scratch(store: Store, repository: Repository, *, withdrawn: bool) -> Iterator[Path]:
    """Provide a temporary folder on the disk of a repository."""
    if withdrawn:
        with TemporaryDirectory(dir=repository.path.parent) as folder:
            yield Path(folder)
    else:
        with store.scratch() as scratch:
            yield scratch


def published_remotes(store: Store, dataset: DatasetRef) -> dict[str, dict[str, str]]:
    """Return the configurations of the vaults that a dataset's repository names, by UUID."""
    repository = store.repositories.of(dataset)
    commit = repository.refs().get(CUSTODY_BRANCH)
    if commit is None:
        return {}
    with ObjectReader(repository.path) as reader:
        return read_custody_remotes(reader, commit)


def published_locations(
    store: Store, dataset: DatasetRef, *, withdrawn: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield each key with a published copy, and the UUIDs of the vaults that have it."""
    repository = _repository(store, dataset, withdrawn=withdrawn)
    commit = repository.refs().get(CUSTODY_BRANCH)
    if commit is None:
        return
    with ObjectReader(repository.path) as reader:
        yield from read_custody_locations(reader, commit)


def published_vaults(store: Store, dataset: DatasetRef) -> dict[str, dict[str, str]]:
    """Return the configurations of the vaults that have a copy of any key, by UUID."""
    named = published_remotes(store, dataset)
    found: dict[str, dict[str, str]] = {}
    for _, uuids in published_locations(store, dataset) if named else ():
        found |= {uuid: named[uuid] for uuid in uuids if uuid in named}
        if len(found) == len(named):
            break
    return found
