"""Restore repositories to what neuromirror wrote, after another program wrote to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct, field

from neuromirror.crawl.recorder import open_recorder, rebuild_index
from neuromirror.model import (
    AnnexBranchMoved,
    DatasetRef,
    EventRaised,
    JournalEntry,
    NeuromirrorError,
    VersionMinted,
    VisitEnded,
    current_timestamp,
)
from neuromirror.store import Repository, Store, dataset_ref_of
from neuromirror.store.durable_files import protect
from neuromirror.store.foreign_commits import (
    RepositoryDamage,
    find_damage,
    quarantine_annex_files,
    quarantine_foreign_refs,
    restore_refs,
)

_WAIT = 60.0
"""Seconds to wait for a visit that is in progress."""


class RepairResult(Struct, frozen=True):
    """The result for one repository, in DataLad's terms.

    Attributes
    ----------
    dataset
        The name of the dataset, or the alias.
    status
        ``ok``, ``notneeded`` or ``error``.
    message
        Text for people.
    refs
        The refs that were restored: name, commit found, commit restored.
    versions
        Labels of the versions that were removed from the journal.
    folder
        The folder with all foreign refs and objects.
    """

    dataset: str
    status: str
    message: str
    refs: list[dict[str, str | None]] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    folder: str = ""


def repair_repositories(
    store: Store, index_path: Path, aliases: Collection[str] | None, *, dry_run: bool = False
) -> Iterator[RepairResult]:
    """Repair repositories, one after the other.

    Foreign refs and objects go to quarantine (:mod:`neuromirror.store.foreign_commits`), refs go
    back to the commits in the journal, and journal entries about foreign commits are removed. A
    repository whose repair fails is not changed.

    Parameters
    ----------
    store
        The store.
    index_path
        The store's index, which is rebuilt if journal entries were removed.
    aliases
        The repositories' aliases; None for all.
    dry_run
        Report what would be done, and write nothing.

    Yields
    ------
    RepairResult
        The result for each repository.
    """
    by_alias: dict[str, list[VersionMinted | AnnexBranchMoved]] = {}
    for _, entry in store.read_entries(0):
        if isinstance(entry, VersionMinted | AnnexBranchMoved):
            by_alias.setdefault(dataset_ref_of(entry).alias, []).append(entry)
    has_dropped_versions = False
    done: set[Path] = set()
    for alias, repository in store.aliases():
        if (aliases is not None and alias not in aliases) or repository.path in done:
            continue
        done.add(repository.path)
        if not repository.exists():
            continue  # reported by fsck
        try:
            one = _repair_repository(
                store, alias, repository, by_alias.get(alias, []), dry_run=dry_run
            )
        except (NeuromirrorError, OSError) as error:
            yield RepairResult(_name(alias, by_alias), "error", str(error))
        else:
            has_dropped_versions |= bool(one.versions)
            yield one
    if dry_run:
        return
    if has_dropped_versions:
        rebuild_index(store, index_path)
    with open_recorder(store, index_path):
        pass  # applies the new journal entries


def _repair_repository(
    store: Store,
    alias: str,
    repository: Repository,
    entries: list[VersionMinted | AnnexBranchMoved],
    *,
    dry_run: bool,
) -> RepairResult:
    name = _name(alias, {alias: entries})
    with ExitStack() as stack:
        if not dry_run:
            lock = repository.path.parent.name + repository.path.name
            stack.enter_context(store.lock(lock, name, _WAIT))
        damage = find_damage(repository, entries)
        refs: list[dict[str, str | None]] = [
            {"name": one.name, "actual": one.found, "expected": one.expected} for one in damage.refs
        ]
        labels = [one.label for one in damage.versions]
        if not damage:
            return RepairResult(name, "notneeded", "nothing to repair")
        message = "; ".join(damage.messages())
        if dry_run:
            return RepairResult(name, "ok", f"would be repaired: {message}", refs, labels)
        folder = ""
        if damage.refs or damage.versions or damage.annex_files:
            folder = str(_quarantine_and_restore(store, alias, repository, entries, damage))
            message += f"; kept in {folder}"
        protect(repository.path)
    return RepairResult(name, "ok", f"repaired: {message}", refs, labels, folder)


def _quarantine_and_restore(
    store: Store,
    alias: str,
    repository: Repository,
    entries: list[VersionMinted | AnnexBranchMoved],
    damage: RepositoryDamage,
) -> Path:
    """Quarantine what is foreign and restore the refs; the caller holds the dataset's lock."""
    at = current_timestamp()
    folder = quarantine_foreign_refs(store, alias, repository, damage.refs, damage.history, at)
    if damage.annex_files:
        quarantine_annex_files(repository, folder)
    if damage.versions:
        dataset = dataset_ref_of(damage.versions[0])
        foreign = damage.history.foreign_commits

        def is_foreign(entry: JournalEntry) -> bool:
            if not isinstance(entry, VersionMinted | AnnexBranchMoved):
                return False
            ids = {entry.annex_commit, getattr(entry, "commit", "")}
            same = (entry.mirror, entry.local_id) == (dataset.mirror, dataset.local_id)
            return same and bool(ids & foreign)

        lines = store.drop_entries(is_foreign)
        (folder / "journal.jsonl").write_bytes(b"".join(lines))
    if damage.refs:
        restore_refs(repository, damage.refs)
    if entries:
        store.append_entries(*_repair_entries(dataset_ref_of(entries[0]), damage, at))
    return folder


def _repair_entries(dataset: DatasetRef, damage: RepositoryDamage, at: str) -> list[JournalEntry]:
    """Return the journal entries of a repair: an event, and a visit to be repeated."""
    message = f"{dataset.name} was repaired: {'; '.join(damage.messages())}"
    refs = {one.name: one.found for one in damage.refs}
    visit = VisitEnded(
        visit=f"{at}-{dataset.dataset_id[:8]}",
        mirror=dataset.mirror,
        local_id=dataset.local_id,
        source_uri=dataset.source_uri,
        title="",
        started=at,
        ended=at,
        status="failed",
        fingerprint="",
        pending=0,
        message="repaired; the next sync visits it again",
    )
    event = EventRaised(dataset.mirror, dataset.local_id, "repair", message, at, {"refs": refs})
    return [visit, event]


def _name(alias: str, by_alias: dict[str, list[VersionMinted | AnnexBranchMoved]]) -> str:
    entries = by_alias.get(alias)
    return dataset_ref_of(entries[0]).name if entries else alias
