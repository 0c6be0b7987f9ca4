"""Restore repositories and records to what the journal lists, after damage or foreign changes.

Lost commits are minted again from the records, lost records are read back from git, and refs come
from the journal. What is foreign or damaged is kept in ``neuromirror/quarantine``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import Struct, field

from neuromirror.crawl.recorder import ended_visit, open_recorder, rebuild_index, restore_records
from neuromirror.git import ObjectMissingError, try_git
from neuromirror.index.backup import integrity_errors
from neuromirror.model import (
    AnnexBranchMoved,
    DatasetRef,
    EventRaised,
    JournalEntry,
    NeuromirrorError,
    VersionMinted,
    count_of,
    current_timestamp,
    load_entry,
)
from neuromirror.store import Repository, Store, StoreDamagedError
from neuromirror.store.durable_files import protect
from neuromirror.store.foreign_commits import (
    RepositoryDamage,
    find_damage,
    new_quarantine,
    quarantine_annex_files,
    quarantine_foreign_refs,
    restore_refs,
)
from neuromirror.store.lost_objects import (
    are_connected,
    borrow_intact_objects,
    broken_files,
    check_manifest,
    input_from_git,
    mint_again,
    move,
    remint_commits_of_log,
    remint_dataset,
    replace_objects,
    restore_files,
    stale_locks,
    write_manifest,
)
from neuromirror.store.mint_inputs import read_mint_input, write_mint_input
from neuromirror.store.records import check_records
from neuromirror.store.superdatasets import SuperdatasetLog, log_path, logged_superdatasets
from neuromirror.store.withdrawn_datasets import find_withdrawn_datasets

_WAIT = 60.0
"""Seconds to wait for a visit that is in progress."""
_LOST = (
    "lost, and no ref was changed: {lost}; restore what is named from a backup of the store, then "
    "run 'neuromirror repair {name}' again"
)

Entries = list[VersionMinted | AnnexBranchMoved]


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
        The folder with all foreign refs and objects, and with damaged files.
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

    Parameters
    ----------
    store
        The store.
    index_path
        The store's index, which is rebuilt if journal entries were removed or the index is damaged.
    aliases
        The repositories' aliases; None for all, with the journal and the index.
    dry_run
        Report what would be done, and write nothing.

    Yields
    ------
    RepairResult
        The result for each repository.
    """
    must_rebuild = False
    if aliases is None:
        if damaged := _damaged_lines(store, dry_run=dry_run):
            must_rebuild = True
            message = f"{count_of(damaged, 'damaged line')} of the journal: moved to quarantine"
            yield RepairResult("journal", "ok", message)
            if dry_run:
                return  # the rest depends on the journal
            rebuild_index(store, index_path)
        must_rebuild |= bool(integrity_errors(index_path, deep=True))
    for repository in _repositories(store, aliases):
        try:
            result = repository.repair(dry_run=dry_run)
        except (NeuromirrorError, OSError) as error:
            yield RepairResult(repository.name, "error", str(error))
        else:
            must_rebuild |= bool(result.versions)
            yield result
    if dry_run:
        return
    if must_rebuild:
        rebuild_index(store, index_path)
    with open_recorder(store, index_path):
        pass  # applies the new journal entries


def _damaged_lines(store: Store, *, dry_run: bool) -> int:
    """Return the number of invalid lines of the journal; move them to quarantine."""

    def is_damaged(line: bytes) -> bool:
        try:
            load_entry(line)
        except ValueError:
            return True
        return False

    if not store.journal.size():
        return 0
    lines = store.journal.drop_lines(is_damaged, dry_run=dry_run)
    if lines and not dry_run:
        folder = new_quarantine(store, "journal", current_timestamp())
        (folder / "journal.jsonl").write_bytes(b"".join(lines))
    return len(lines)


def listed_aliases(store: Store) -> set[str]:
    """Return the aliases of all repositories that the store has or should have."""
    return {repository.alias for repository in _repositories(store, None)}


def _repositories(store: Store, aliases: Collection[str] | None) -> Iterator[_RepositoryRepair]:
    """Yield each repository of the store, and of the journal, once."""
    withdrawn = {one.alias for one in find_withdrawn_datasets(store)}
    paths = {alias: repository.path for alias, repository in store.repositories.aliases()}
    entries: dict[Path, Entries] = {}
    for _, entry in store.journal.read(0):
        if isinstance(entry, VersionMinted | AnnexBranchMoved):
            dataset = entry.dataset_ref
            if dataset.alias not in withdrawn:
                path = store.repositories.of(dataset).path
                paths[dataset.alias] = path
                entries.setdefault(path, []).append(entry)
    logs: dict[str, SuperdatasetLog] = {}
    for alias in logged_superdatasets(store):
        with suppress(StoreDamagedError):  # the next sync writes it again from git
            logs[alias] = SuperdatasetLog(store, alias)
            paths[alias] = store.repositories.path(logs[alias].commits[0].dataset_id)
    done: set[Path] = set()
    for alias, path in sorted(paths.items()):
        if path not in done and (aliases is None or alias in aliases):
            done.add(path)
            yield _RepositoryRepair(
                store, alias, Repository(path), entries.get(path, []), logs.get(alias)
            )


class _RepositoryRepair(Struct):
    """The repair of one repository, with the records of its dataset."""

    store: Store
    alias: str
    repository: Repository
    entries: Entries
    log: SuperdatasetLog | None
    at: str = field(default_factory=current_timestamp)
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The name of the dataset, or the alias."""
        return self.entries[0].dataset_ref.name if self.entries else self.alias

    @property
    def _id(self) -> str:
        return self.repository.path.parent.name + self.repository.path.name

    @property
    def _quarantine(self) -> Path:
        if self.folder is None:
            self.folder = new_quarantine(self.store, self.alias, self.at)
        return self.folder

    def repair(self, *, dry_run: bool) -> RepairResult:
        with ExitStack() as stack:
            if not dry_run:
                stack.enter_context(self.store.lock(self._id, self.name, _WAIT))
            return self._repair(dry_run=dry_run)

    def _repair(self, *, dry_run: bool) -> RepairResult:
        repository, messages = self.repository, []
        if self.log is None and (log := log_path(self.store, self.alias)).exists():
            messages.append("log of the superdataset")
            if not dry_run:
                move(log, self._quarantine / log.name)
        if not self.entries and self.log is None and not repository.exists():
            return RepairResult(self.name, "notneeded", "nothing that the journal lists")
        if files := broken_files(repository.path):
            messages.append(f"files of git: {', '.join(files)}")
        locks = stale_locks(repository.path)
        messages += [f"stale lock {lock.relative_to(repository.path)}" for lock in locks]
        if not dry_run:
            if not repository.path.is_dir():
                repository.create()
            restore_files(repository.path, files, self._quarantine if files else repository.path)
            for lock in locks:
                lock.unlink(missing_ok=True)
        elif files:
            return self._result(messages, None, dry_run=True)  # git cannot read the rest
        foreign: set[str] = set()
        with suppress(StoreDamagedError):  # lost commits are minted again below
            damage = find_damage(repository, self.entries)
            foreign = {one.commit for one in damage.versions} | damage.history.foreign_commits
        own = [entry for entry in self.entries if not {entry.commit, entry.annex_commit} & foreign]
        messages += self._repair_records(own, dry_run=dry_run)
        logged = [] if self.log is None else [commit.commit for commit in self.log.commits]
        needed = {*logged[-1:]}
        needed |= {one.commit for one in own if isinstance(one, VersionMinted)}
        needed |= {one.annex_commit for one in own}
        if message := self._repair_objects(needed, dry_run=dry_run):
            messages.append(message)
        damage = find_damage(repository, self.entries, logged)
        messages += damage.messages()
        if not repository.is_server_info_current():
            messages.append("files for clients of plain HTTP")
        if self._id != self._linked_id():
            messages.append("alias")
        if not messages:
            return RepairResult(self.name, "notneeded", "nothing to repair")
        if dry_run:
            return self._result(messages, damage, dry_run=True)
        if damage.refs or damage.versions or damage.annex_files:
            self._quarantine_and_restore(damage)
        protect(repository.path)
        repository.update_server_info()
        self.store.repositories.link_alias(self.alias, self._id)
        if self.entries:
            self.store.journal.append(*self._journal_entries(messages, damage))
        return self._result(messages, damage, dry_run=False)

    def _linked_id(self) -> str:
        path = (self.store.root / "alias" / self.alias).resolve()
        return path.parent.name + path.name

    def _result(
        self, messages: list[str], damage: RepositoryDamage | None, *, dry_run: bool
    ) -> RepairResult:
        message = f"{'would be repaired' if dry_run else 'repaired'}: {'; '.join(messages)}"
        folder = "" if self.folder is None else str(self.folder)
        message += f"; kept in {folder}" if folder else ""
        refs: list[dict[str, str | None]] = []
        labels: list[str] = []
        if damage is not None:
            labels = [version.label for version in damage.versions]
            refs = [
                {"name": ref.name, "actual": ref.found, "expected": ref.expected}
                for ref in damage.refs
            ]
        return RepairResult(self.name, "ok", message, refs, labels, folder)

    # --- objects

    def _repair_objects(self, needed: set[str], *, dry_run: bool) -> str:
        """Mint missing and damaged commits again; return what was done."""
        repository = self.repository
        checked = try_git(repository.path, "fsck", "--full", "--no-dangling", "--no-progress")
        is_complete = are_connected(repository.path, needed)
        if is_complete and not checked.returncode:
            return ""
        if dry_run:
            return "lost or damaged git objects"
        with self.store.scratch() as scratch:
            work = Repository(scratch / "repository")
            work.create()
            damaged = borrow_intact_objects(repository.path, work.path)
            if not damaged and is_complete:
                return ""  # git rejects foreign objects
            if self.log is not None:
                commits = self.log.commits
                minted = remint_commits_of_log(self.store, self.alias, work, commits)
            else:
                minted = remint_dataset(self.store, self._id, work, needed, scratch)
            if minted.lost:
                raise StoreDamagedError(_LOST.format(lost="; ".join(minted.lost), name=self.name))
            folder = self._quarantine if damaged else repository.path
            replace_objects(repository, work.path, damaged, folder)
        return f"{count_of(minted.count, 'state')} minted again from the records, with equal ids"

    # --- records

    def _repair_records(self, entries: Entries, *, dry_run: bool) -> list[str]:
        """Restore the records, manifests and inputs of all versions; return what was done."""
        messages: list[str] = []
        versions: dict[str, VersionMinted] = {}
        names: dict[str, list[str]] = {}
        for entry in entries:
            if isinstance(entry, VersionMinted):
                if versions.setdefault(entry.commit, entry) is entry:
                    names[entry.commit] = [entry.commit]
            elif entry.records and entry.commit in names:
                names[entry.commit].append(entry.records)
        lost: list[str] = []
        for commit, version in versions.items():
            try:
                for name in names[commit]:
                    if self._repair_records_of(version, name, dry_run=dry_run):
                        messages.append(f"records {name}")
                if self._repair_manifest(version, dry_run=dry_run):
                    messages.append(f"manifest of {version.label}")
            except (StoreDamagedError, ObjectMissingError) as error:
                lost.append(str(error))
        last: VersionMinted | None = None
        annex_commits: set[str] = set()
        for entry in entries:
            moved = entry if isinstance(entry, AnnexBranchMoved) else None
            if isinstance(entry, VersionMinted):
                last = entry
            minted = last if moved is None else versions.get(moved.commit, last)
            # a move to where the branch was only names other records
            if minted is not None and (moved is None or moved.annex_commit not in annex_commits):
                messages += self._repair_input(minted, moved, lost, dry_run=dry_run)
            annex_commits.add(entry.annex_commit)
        if lost:
            raise StoreDamagedError(_LOST.format(lost="; ".join(lost), name=self.name))
        return messages

    def _repair_records_of(self, version: VersionMinted, name: str, *, dry_run: bool) -> bool:
        try:
            check_records(self.store.records, self._id, name, version.state, version.files)
        except StoreDamagedError:
            if dry_run:
                return True
        else:
            return False
        dataset = version.dataset_ref
        for path in self.store.records.files(self._id, name):
            move(path, self._quarantine / path.name)
        restore_records(self.store, dataset, version, name)
        check_records(self.store.records, self._id, name, version.state, version.files)
        return True

    def _repair_manifest(self, version: VersionMinted, *, dry_run: bool) -> bool:
        path = self.store.manifest_path(version.state)
        with suppress(StoreDamagedError):
            check_manifest(path)
            return False
        if not dry_run:
            if path.exists():
                move(path, self._quarantine / path.name)
            write_manifest(self.store, self._id, version.commit, version.state)
        return True

    def _repair_input(
        self,
        version: VersionMinted,
        moved: AnnexBranchMoved | None,
        lost: list[str],
        *,
        dry_run: bool,
    ) -> list[str]:
        name = version.commit if moved is None else moved.annex_commit
        path = self.store.records.mint_input_path(self._id, name)
        try:
            read_mint_input(self.store.records, self._id, name)
        except StoreDamagedError as error:
            if dry_run:
                return [f"input {path.name}"]
            with self.store.scratch() as scratch:
                work = Repository(scratch / "repository")
                work.create()
                borrow_intact_objects(self.repository.path, work.path)
                try:
                    mint_input = input_from_git(self.store, work, version, moved)
                    wrong = mint_again(self.store, self._id, mint_input, work, scratch)
                except (ObjectMissingError, ValueError, KeyError) as reason:
                    wrong = str(reason)
            if wrong:
                lost.append(f"{error}, and git does not have it: {wrong}")
                return []
            if path.exists():
                move(path, self._quarantine / path.name)
            write_mint_input(self.store.records, self._id, mint_input, None)
            return [f"input {path.name}"]
        return []

    # --- foreign changes

    def _quarantine_and_restore(self, damage: RepositoryDamage) -> None:
        """Quarantine what is foreign and restore the refs; the caller holds the dataset's lock."""
        repository, folder = self.repository, self._quarantine
        quarantine_foreign_refs(folder, repository, damage.refs, damage.history, self.at)
        if damage.annex_files:
            quarantine_annex_files(repository, folder)
        if damage.versions:
            dataset = damage.versions[0].dataset_ref
            foreign = damage.history.foreign_commits

            def is_foreign(entry: JournalEntry) -> bool:
                if not isinstance(entry, VersionMinted | AnnexBranchMoved):
                    return False
                ids = {entry.annex_commit, getattr(entry, "commit", "")}
                same = (entry.mirror, entry.local_id) == (dataset.mirror, dataset.local_id)
                return same and bool(ids & foreign)

            lines = self.store.journal.drop(is_foreign)
            (folder / "journal.jsonl").write_bytes(b"".join(lines))
        if damage.refs:
            restore_refs(repository, damage.refs)

    def _journal_entries(self, messages: list[str], damage: RepositoryDamage) -> list[JournalEntry]:
        """Return the journal entries of a repair: an event, and a visit to be repeated."""
        dataset: DatasetRef = self.entries[0].dataset_ref
        message = f"{dataset.name} was repaired: {'; '.join(messages)}"
        refs = {ref.name: ref.found for ref in damage.refs}
        message_of_visit = "repaired; the next sync visits it again"
        visit = ended_visit(dataset, self.at, "failed", message_of_visit)
        names = (dataset.mirror, dataset.local_id)
        event = EventRaised(*names, "repair", message, self.at, {"refs": refs})
        # a component is visited with the dataset that has it
        is_component = any(getattr(entry, "within", "") for entry in self.entries)
        return [event] if is_component else [visit, event]
