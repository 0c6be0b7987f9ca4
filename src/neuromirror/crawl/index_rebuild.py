"""Rebuild the index from the store alone (I8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from neuromirror.config.mirror_settings import ZarrLimits
from neuromirror.index import VersionRow, effective_entries, is_indexed, rebuild_from_journal
from neuromirror.model import (
    AnnexBranchMoved,
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
    minted: list[VersionMinted] = []
    moved: list[AnnexBranchMoved] = []
    for _, entry in store.read_entries(0):
        if isinstance(entry, VersionMinted):
            minted.append(entry)
        elif isinstance(entry, AnnexBranchMoved) and entry.records:
            moved.append(entry)
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
                store.append_entries(*missing, *_moves_after(store, missing))
                minted += missing
    # datasets that were taken down have no repository
    down = {(one.mirror, one.local_id) for one in find_withdrawn_datasets(store)}
    minted = [one for one in minted if (one.mirror, one.local_id) not in down]
    by_commit = {one.commit: one for one in minted}
    for version in minted:
        restore_records(store, dataset_ref_of(version), version)
    for move in moved:
        if move.commit in by_commit:
            version = replace(by_commit[move.commit], annex_commit=move.annex_commit)
            restore_records(store, dataset_ref_of(version), version, move.records)


def _moves_after(store: Store, minted: Iterable[VersionMinted]) -> Iterator[AnnexBranchMoved]:
    """Yield entries for the later records of versions whose own entries were lost."""
    for one in minted:
        dataset = dataset_ref_of(one)
        records = store.newest_records(dataset.dataset_id, one.commit)
        if records != one.commit:
            names = (one.mirror, one.local_id, one.source_uri)
            yield AnnexBranchMoved(*names, one.annex_commit, one.at, one.commit, records)


def restore_records(
    store: Store,
    dataset: DatasetRef,
    version: VersionMinted | VersionRow,
    records: str | None = None,
) -> None:
    """Read a version's records back from git if the store lacks them.

    Parameters
    ----------
    store, dataset
        The store and the dataset.
    version
        The version.
    records
        The name of the records; by default, those of ``version``.

    Raises
    ------
    StoreDamagedError, ObjectMissingError
        git or the manifest cannot be read.
    """
    name = records or version.records
    if not store.has_records(dataset.dataset_id, name):
        commits = version.commit, version.annex_commit
        lines = read_records_from_git(store.repository(dataset), *commits, version.kind)
        store.write_records(dataset.dataset_id, name, lines)
