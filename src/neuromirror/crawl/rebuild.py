"""The index made anew from the store alone (I8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuromirror.crawl.times import now
from neuromirror.index import rebuild
from neuromirror.model import VersionMinted
from neuromirror.store import Store, versions_in_git


def rebuild_index(
    store: Store, index_path: Path, progress: Callable[[int], None] | None = None
) -> int:
    """Replays the journal into a new index and puts it in the old one's place.

    Versions that git has and the journal lacks are added to the journal first, with what git
    tells of them. Gives the number of journal entries.
    """
    _complete(store)
    return rebuild(index_path, store, progress)


def _complete(store: Store) -> None:
    known: dict[str, set[str]] = {}
    for _, entry in store.journal_from(0):
        if isinstance(entry, VersionMinted):
            known.setdefault(f"{entry.mirror}:{entry.local_id}", set()).add(entry.commit)
    everything = set().union(*known.values())
    for alias, repository in store.aliases():
        if "--" in alias:
            missing = list(versions_in_git(repository, everything, now()))
            if missing:
                store.append(*missing)
