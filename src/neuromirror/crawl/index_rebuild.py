"""Rebuild the index from the store alone (I8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.index import effective_entries, is_indexed, rebuild_from_journal
from neuromirror.model import (
    ContentsDigested,
    DatasetRef,
    MirrorSeen,
    VersionMinted,
    current_timestamp,
)
from neuromirror.store import Store, dataset_ref_of, read_records_from_git, read_versions_from_git
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
    store.append_entries(
        *(
            replace(seen[name], at=current_timestamp(), index_entries=limits[name].index_entries)
            for name in sorted(changed)
        )
    )


def _record_block_digests(store: Store) -> None:
    """Append the block digests that are in the store and not in the journal to the journal."""
    folder = BlockDigestsFolder.of_store(store)
    known = {
        folder.path(one.key)
        for _, entry in store.read_entries(0)
        if isinstance(entry, ContentsDigested)
        for one in entry.contents
    }
    missing = []
    for path in folder.paths():
        if path not in known:
            with suppress(BlockDigestsDamagedError, FileNotFoundError):  # fsck reports it
                missing.append(digested_content(*read_block_digests_file(path)))
    store.append_entries(*digest_entries(missing, current_timestamp()))


def _matches_limit(entry: VersionMinted, limits: Mapping[str, ZarrLimits]) -> bool:
    own = limits.get(entry.mirror)
    return own is None or entry.indexed == is_indexed(entry, own.index_entries)


def _complete_journal(store: Store, limits: Mapping[str, ZarrLimits]) -> None:
    minted = [entry for _, entry in store.read_entries(0) if isinstance(entry, VersionMinted)]
    known = {entry.commit for entry in minted}
    for alias, repository in store.aliases():
        if "--" in alias:
            missing = [
                replace(
                    one,
                    indexed=is_indexed(one, limits.get(one.mirror, ZarrLimits()).index_entries),
                )
                for one in read_versions_from_git(repository, known, current_timestamp())
            ]
            if missing:
                store.append_entries(*missing)
                minted += missing
    # datasets that were taken down have no repository
    down = {(one.mirror, one.local_id) for one in find_withdrawn_datasets(store)}
    for entry in minted:
        if (entry.mirror, entry.local_id) in down:
            continue
        restore_records(store, dataset_ref_of(entry), entry.commit, entry.annex_commit, entry.kind)


def restore_records(
    store: Store, dataset: DatasetRef, commit: str, annex_commit: str, kind: str
) -> None:
    """Read a version's records back from git if the store lacks them.

    Parameters
    ----------
    store, dataset
        The store and the dataset.
    commit, annex_commit
        The version's commits on its branch and on the git-annex branch, in hex.
    kind
        ``published`` or ``observed``.

    Raises
    ------
    StoreDamagedError, ObjectMissingError
        git or the manifest cannot be read.
    """
    if not store.has_records(dataset.dataset_id, commit):
        lines = read_records_from_git(store.repository(dataset), commit, annex_commit, kind)
        store.write_records(dataset.dataset_id, commit, lines)
