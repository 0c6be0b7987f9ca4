"""The index made anew from the store alone (I8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from neuromirror.crawl.mirrors import ZarrLimits
from neuromirror.crawl.times import now
from neuromirror.index import is_indexed, rebuild, settled
from neuromirror.model import DatasetRef, MirrorSeen, VersionMinted
from neuromirror.store import Store, dataset_of, record_lines_in_git, versions_in_git
from neuromirror.store.withheld import down_in


def rebuild_index(
    store: Store,
    index_path: Path,
    progress: Callable[[int], None] | None = None,
    limits: Mapping[str, ZarrLimits] | None = None,
) -> int:
    """Replays the journal into a new index and puts it in the old one's place.

    Versions that git has and the journal lacks are added to the journal first, and records that
    the store lacks are read back from git, with what git tells of them. ``limits`` are those that
    mirror files set now, by the mirror's name: where they put the files of other Zarrs into the
    index than those that are in it, that goes into the journal, and holds for all versions. Gives
    the number of journal entries.
    """
    limits = limits or {}
    _complete(store, limits)
    _settle(store, limits)
    return rebuild(index_path, store, progress)


def _settle(store: Store, limits: Mapping[str, ZarrLimits]) -> None:
    """Adds the settings to the journal that change anything."""
    seen = {name: MirrorSeen(name, "", "", "") for name in limits}
    changed = set()
    for _, entry in settled(store):
        if isinstance(entry, MirrorSeen):
            seen[entry.mirror] = entry
        elif isinstance(entry, VersionMinted) and not _is_as_set(entry, limits):
            changed.add(entry.mirror)
    store.append(
        *(
            replace(seen[name], at=now(), index_entries=limits[name].index_entries)
            for name in sorted(changed)
        )
    )


def _is_as_set(entry: VersionMinted, limits: Mapping[str, ZarrLimits]) -> bool:
    own = limits.get(entry.mirror)
    return own is None or entry.indexed == is_indexed(entry, own.index_entries)


def _complete(store: Store, limits: Mapping[str, ZarrLimits]) -> None:
    minted = [entry for _, entry in store.journal_from(0) if isinstance(entry, VersionMinted)]
    known = {entry.commit for entry in minted}
    for alias, repository in store.aliases():
        if "--" in alias:
            missing = [
                replace(
                    one,
                    indexed=is_indexed(one, limits.get(one.mirror, ZarrLimits()).index_entries),
                )
                for one in versions_in_git(repository, known, now())
            ]
            if missing:
                store.append(*missing)
                minted += missing
    # of what was taken down nothing is read, and nothing is there
    down = {(one.mirror, one.local_id) for one in down_in(store)}
    for entry in minted:
        if (entry.mirror, entry.local_id) in down:
            continue
        restore_records(store, dataset_of(entry), entry.commit, entry.annex_commit, entry.kind)


def restore_records(
    store: Store, dataset: DatasetRef, commit: str, annex_commit: str, kind: str
) -> None:
    """Reads a version's records back from git, where the store has lost them."""
    if not store.has_records(dataset.dataset_id, commit):
        lines = record_lines_in_git(store.repository(dataset), commit, annex_commit, kind)
        store.keep_records(dataset.dataset_id, commit, lines)
