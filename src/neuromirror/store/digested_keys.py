"""Keys of a dataset's files whose block digests are in a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from neuromirror.git import GitError, ObjectMissingError
from neuromirror.model import DatasetRef, SnapshotEntry, VersionMinted, load_snapshot_entries
from neuromirror.store.block_digests import BlockDigestsFolder, block_digests_name
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.records_from_git import read_records_from_git
from neuromirror.store.store import Store


class DigestedKeys(NamedTuple):
    """Keys of a dataset's files whose block digests are in a folder.

    Attributes
    ----------
    keys
        The annex keys.
    problems
        Why the files of a version are unknown, by its label.
    """

    keys: set[str]
    problems: dict[str, str]


def digested_keys(
    store: Store, dataset: DatasetRef, folder: BlockDigestsFolder | None = None
) -> DigestedKeys:
    """Return the keys of a dataset's files whose block digests are in a folder.

    The files of a version whose records are damaged are read from git.

    Parameters
    ----------
    store
        The store.
    dataset
        The dataset.
    folder
        The folder; None for that of the store.

    Returns
    -------
    DigestedKeys
        The keys, without those of versions that can be read neither from records nor from git.
    """
    folder = BlockDigestsFolder.of_store(store) if folder is None else folder
    names = {path.parent.name + path.name for path in folder.paths()}
    versions = {
        entry.commit: entry
        for _, entry in store.read_entries(0)
        if isinstance(entry, VersionMinted)
        and (entry.mirror, entry.local_id) == (dataset.mirror, dataset.local_id)
    }
    found = DigestedKeys(set(), {})
    for version in versions.values() if names else ():
        try:
            # an interrupted takedown has moved everything that is missing
            found.keys.update(keys_of_version(store, dataset, version, names) or ())
        except StoreDamagedError as error:
            found.problems[version.label] = str(error)
    return found


def keys_of_version(
    store: Store, dataset: DatasetRef, version: VersionMinted, names: Collection[str]
) -> set[str] | None:
    """Return the keys of a version's files whose block digests have one of some names.

    Parameters
    ----------
    store
        The store.
    dataset
        The dataset.
    version
        The version. If its records are missing or damaged, its files are read from git.
    names
        Names as of :func:`~neuromirror.store.block_digests.block_digests_name`.

    Returns
    -------
    set[str] or None
        The annex keys; None if neither the records nor the repository exist.

    Raises
    ------
    StoreDamagedError
        If neither the records nor git can be read.
    """
    try:
        return _keys_of_version(store, dataset, version, names)
    except (ObjectMissingError, GitError, ValueError) as error:
        raise StoreDamagedError(str(error)) from error


def _keys_of_version(
    store: Store, dataset: DatasetRef, version: VersionMinted, names: Collection[str]
) -> set[str] | None:
    damage: StoreDamagedError | None = None
    if store.has_records(dataset.dataset_id, version.commit):
        try:
            return _named_keys(store.records(dataset.dataset_id, version.commit), names)
        except StoreDamagedError as error:
            damage = error
    repository = store.repository(dataset)
    if repository.exists():
        lines = read_records_from_git(
            repository, version.commit, version.annex_commit, version.kind
        )
        return _named_keys(load_snapshot_entries(lines), names)
    if damage is not None:
        raise damage
    return None


def _named_keys(entries: Iterable[SnapshotEntry], names: Collection[str]) -> set[str]:
    return {
        placed.key
        for placed in entries
        if placed.subdataset is None and block_digests_name(placed.key) in names
    }
