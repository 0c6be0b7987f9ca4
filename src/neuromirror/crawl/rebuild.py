"""The index made anew from the store alone (I8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuromirror.crawl.times import now
from neuromirror.index import rebuild
from neuromirror.model import DatasetRef, VersionMinted
from neuromirror.store import Store, dataset_of, record_lines_in_git, versions_in_git


def rebuild_index(
    store: Store, index_path: Path, progress: Callable[[int], None] | None = None
) -> int:
    """Replays the journal into a new index and puts it in the old one's place.

    Versions that git has and the journal lacks are added to the journal first, and records that
    the store lacks are read back from git, with what git tells of them. Gives the number of
    journal entries.
    """
    _complete(store)
    return rebuild(index_path, store, progress)


def _complete(store: Store) -> None:
    minted = [entry for _, entry in store.journal_from(0) if isinstance(entry, VersionMinted)]
    known = {entry.commit for entry in minted}
    for alias, repository in store.aliases():
        if "--" in alias:
            missing = list(versions_in_git(repository, known, now()))
            if missing:
                store.append(*missing)
                minted += missing
    for entry in minted:
        restore_records(store, dataset_of(entry), entry.commit, entry.annex_commit, entry.kind)


def restore_records(
    store: Store, dataset: DatasetRef, commit: str, annex_commit: str, kind: str
) -> None:
    """Reads a version's records back from git, where the store has lost them."""
    if not store.has_records(dataset.dataset_id, commit):
        lines = record_lines_in_git(store.repository(dataset), commit, annex_commit, kind)
        store.keep_records(dataset.dataset_id, commit, lines)
