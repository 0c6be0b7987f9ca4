"""Repositories brought back to what neuromirror wrote, after somebody else wrote to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from neuromirror.crawl.index_rebuild import rebuild_index
from neuromirror.crawl.recorder import open_recorder
from neuromirror.crawl.timestamps import current_timestamp
from neuromirror.model import (
    AnnexBranchMoved,
    DatasetRef,
    EventRaised,
    JournalEntry,
    NeuromirrorError,
    VersionMinted,
    VisitEnded,
)
from neuromirror.store import Repository, Store, dataset_ref_of
from neuromirror.store.foreign_commits import RepositoryDamage, find_damage
from neuromirror.store.quarantine import (
    quarantine_annex_files,
    quarantine_foreign_refs,
    restore_refs,
)
from neuromirror.store.write_protection import protect

_WAIT = 60.0
"""Seconds to wait for a visit that is in progress."""


@dataclass(frozen=True, slots=True)
class RepairResult:
    """The result for one repository, in DataLad's words.

    ``status`` is ok | notneeded | error; ``refs`` are those that were put back, ``versions`` the
    labels of versions that the journal no longer has, ``folder`` is where all of it is kept.
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
    """Repair the repositories behind ``aliases`` (None: all), one after the other.

    What is foreign is kept in quarantine (:mod:`neuromirror.store.quarantine`), refs go back to
    where the journal has them, and what the journal has of foreign commits is removed from it. A
    dataset that fails keeps all it has; the others are repaired. ``dry_run`` writes nothing.
    """
    by_alias: dict[str, list[VersionMinted | AnnexBranchMoved]] = {}
    for _, entry in store.read_entries(0):
        if isinstance(entry, VersionMinted | AnnexBranchMoved):
            dataset = DatasetRef(entry.mirror, entry.local_id, entry.source_uri)
            by_alias.setdefault(dataset.alias, []).append(entry)
    has_dropped_versions = False
    done: set[Path] = set()
    for alias, repository in store.aliases():
        if (aliases is not None and alias not in aliases) or repository.path in done:
            continue
        done.add(repository.path)
        if not repository.exists():
            continue  # fsck names it
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
        pass  # applies what the journal has since


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
            return RepairResult(name, "notneeded", "nothing in it is foreign")
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
    """Quarantine what is foreign and restore the rest; the caller holds the dataset's lock."""
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
        store.append_entries(*_repair_entries(dataset_of_entry(entries[0]), damage, at))
    return folder


def _repair_entries(dataset: DatasetRef, damage: RepositoryDamage, at: str) -> list[JournalEntry]:
    """What the journal says of a repair: an event, and that the dataset is to be visited."""
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


def dataset_of_entry(entry: VersionMinted | AnnexBranchMoved) -> DatasetRef:
    """Return the dataset that an entry is of."""
    return DatasetRef(entry.mirror, entry.local_id, entry.source_uri)


def _name(alias: str, by_alias: dict[str, list[VersionMinted | AnnexBranchMoved]]) -> str:
    entries = by_alias.get(alias)
    return dataset_of_entry(entries[0]).name if entries else alias
