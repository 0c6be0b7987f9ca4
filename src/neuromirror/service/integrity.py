"""Integrity checks of a store: git objects, records, manifests, block digests, journal, index.

The checks are read-only. They run in a fixed order, and each result has a :class:`CheckPosition`
at which a later check can continue: a service checks a store in time slices. Without a saved
state, a pass starts from the beginning; only time is lost.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct, field

from neuromirror.git import try_git
from neuromirror.index import (
    Index,
    IndexMissingError,
    IndexUnusableError,
    UnknownDatasetError,
    UnknownMirrorError,
)
from neuromirror.index.backup import integrity_errors, integrity_errors_by_table
from neuromirror.model import (
    AnnexBranchMoved,
    DatasetReinstated,
    DatasetWithdrawn,
    VersionMinted,
    escape_surrogates,
    path_to_text,
)
from neuromirror.store import Repository, Store, StoreBusyError, StoreDamagedError
from neuromirror.store.block_digests import BlockDigestsFolder, read_block_digests_file
from neuromirror.store.foreign_commits import find_damage
from neuromirror.store.lost_objects import broken_files, check_manifest, stale_locks
from neuromirror.store.mint_inputs import read_mint_input
from neuromirror.store.records import check_records
from neuromirror.store.store import TaskState
from neuromirror.store.superdatasets import (
    SuperdatasetCommit,
    SuperdatasetLog,
    logged_superdatasets,
)

# --- checks

CheckSubject = Literal[
    "journal", "index", "alias", "git", "refs", "records", "manifest", "block-digests"
]

_REBUILD = "run 'neuromirror rebuild-index' to rebuild the index from the store without loss"
_REPAIR = "run 'neuromirror repair {name}', which restores what the records and git have"


def _advise(message: str, name: str) -> str:
    """Return a message of the store with the command that repairs a dataset."""
    reason = message.removesuffix("; run 'neuromirror repair'")
    return f"{reason}; {_REPAIR.format(name=name)}"


class CheckPosition(NamedTuple):
    """The progress of a check: an alias, and the number of its completed steps.

    The first step is git, and each version is one more; a result within a step has the position
    before it, so that the step is repeated.
    """

    alias: str = ""
    steps: int = 0


START_POSITION = CheckPosition()
"""The position before the first alias."""


class CheckResult(Struct, frozen=True):
    """The result of checking one item of a store.

    Attributes
    ----------
    name
        The name of the item: a dataset, a version, or a file of the store.
    subject
        The kind of the check, such as ``git`` or ``records``.
    position
        The progress of the check, to continue there.
    status
        ``ok``, ``error`` for damage, or ``impossible`` if the item could not be checked.
    message
        The damage and the remedy.
    """

    name: str
    subject: CheckSubject
    position: CheckPosition
    status: Literal["ok", "impossible", "error"] = "ok"
    message: str = ""


class _Version(NamedTuple):
    """The fields of a version in the journal that are compared with the index."""

    commit: str
    state: str
    label: str
    kind: str
    tree: str
    time: str | None
    files: int
    bytes: int
    title: str


class _Dataset(Struct, frozen=True):
    name: str
    dataset_id: str
    by_commit: dict[str, _Version]
    entries: list[VersionMinted | AnnexBranchMoved]

    @property
    def versions(self) -> list[_Version]:
        return list(self.by_commit.values())

    def mint_inputs(self, commit: str) -> Iterator[str]:
        """Yield the names of what a version, and later moves of its branch, were minted from."""
        annex_commits: set[str] = set()
        last = ""
        for entry in self.entries:
            if not isinstance(entry, AnnexBranchMoved):
                last = name = entry.commit
            else:
                name = "" if entry.annex_commit in annex_commits else entry.annex_commit
            if name and (entry.commit or last) == commit:
                yield name
            annex_commits.add(entry.annex_commit)

    def later_records(self, commit: str) -> list[str]:
        """Return the names of the records that replaced those that a version was minted from."""
        return [
            entry.records
            for entry in self.entries
            if isinstance(entry, AnnexBranchMoved) and entry.records and entry.commit == commit
        ]


class StoreChecker:
    """Checks the journal, repositories, records and manifests of a store, and its index.

    ``git_seconds`` is the time limit of git per repository; a repository that takes longer is
    reported as ``impossible``.
    """

    def __init__(self, store: Store, index_path: Path, git_seconds: float | None = None) -> None:
        self._store = store
        self._index_path = index_path
        self._git_seconds = git_seconds
        self._datasets: dict[str, _Dataset] = {}
        self._withdrawn: set[str] = set()
        self._journal_end = 0
        self._is_journal_intact = True

    def check_journal(self) -> Iterator[CheckResult]:
        """Check the journal, and the position of the index in it.

        Run it first: the other checks compare with the versions of the journal.
        """
        position = None
        with suppress(IndexUnusableError), Index.open_readonly(self._index_path) as index:
            position = index.position  # otherwise check_index_pages reports it
        end, met = 0, position == 0
        try:
            for end, entry in self._store.journal.read(0):
                met |= end == position
                self._journal_end = end
                if isinstance(entry, VersionMinted | AnnexBranchMoved):
                    self._add_entry(entry)
                elif isinstance(entry, DatasetWithdrawn | DatasetReinstated):
                    alias = entry.dataset_ref.alias
                    (
                        self._withdrawn.add
                        if isinstance(entry, DatasetWithdrawn)
                        else self._withdrawn.discard
                    )(alias)
        except StoreDamagedError as error:
            # the rest of the journal is unknown, which is no error of the index
            self._is_journal_intact = False
            yield CheckResult("journal", "journal", CheckPosition(), "error", str(error))
        else:
            yield CheckResult("journal", "journal", CheckPosition(), message=f"{end:,} bytes")
        if position is not None and not met and self._is_journal_intact:
            message = (
                f"the index covers {position:,} bytes of the journal, but no entry ends there (the "
                f"journal has {end:,} bytes); {_REBUILD}"
            )
            yield CheckResult("index", "index", CheckPosition(), "error", message)

    def check_index_pages(self) -> Iterator[CheckResult]:
        """Check the index with SQLite: its pages, and its tables against their indexes."""
        wrong = integrity_errors(self._index_path, deep=True)
        if not self._index_path.exists():
            wrong = ["it is missing"]
        message = f"the index {self._index_path} is damaged ({'; '.join(wrong[:3])}); {_REBUILD}"
        yield (
            CheckResult("index", "index", CheckPosition(), "error", message)
            if wrong
            else CheckResult("index", "index", CheckPosition(), message="pages and tables agree")
        )

    def check_block_digests(self, after: str = "") -> Iterator[CheckResult]:
        """Check each file with block digests: its form, its tree, and that it belongs to its key.

        The results are named by path in the store; ``after`` is the name of the last one checked.
        """
        for path in BlockDigestsFolder.of_store(self._store).paths():
            name = path.relative_to(self._store.root).as_posix()
            if name <= after:
                continue
            try:
                key, _ = read_block_digests_file(path)
            except FileNotFoundError:
                continue  # withdrawn since
            except (StoreDamagedError, OSError) as error:
                mark = CheckPosition()
                yield CheckResult(name, "block-digests", mark, "error", str(error))
            else:
                yield CheckResult(name, "block-digests", CheckPosition(), message=key)

    def aliases(self) -> list[str]:
        """Return all aliases to check, sorted."""
        return sorted(
            {path.name for path in (self._store.root / "alias").glob("[!.]*")}
            | set(self._datasets) - self._withdrawn
            | set(logged_superdatasets(self._store))
        )

    def check_repositories(
        self, selected: Collection[str] | None = None, after: CheckPosition = START_POSITION
    ) -> Iterator[CheckResult]:
        """Check the repository of each alias, or of the ``selected`` ones, from a position on."""
        for alias in self.aliases():
            if alias < after.alias or (selected is not None and alias not in selected):
                continue
            done = after.steps if alias == after.alias else 0
            try:
                if not done:
                    yield from self._check_repository(alias)
                if alias in self._datasets and alias not in self._withdrawn:
                    yield from self._check_versions(alias, max(1, done))
            except PermissionError as error:
                known = self._datasets.get(alias)
                name = alias if known is None else known.name
                message = f"{error.filename}: {error.strerror}; check its permissions"
                yield CheckResult(name, "git", CheckPosition(alias, 1), "error", message)

    def _add_entry(self, entry: VersionMinted | AnnexBranchMoved) -> None:
        dataset = entry.dataset_ref
        known = self._datasets.setdefault(
            dataset.alias, _Dataset(dataset.name, dataset.dataset_id, {}, [])
        )
        known.entries.append(entry)
        if isinstance(entry, AnnexBranchMoved):
            return
        version = _Version(
            *(entry.commit, entry.state, entry.label, entry.kind, entry.tree, entry.time),
            *(entry.files, entry.bytes, entry.title),
        )
        # the first entry counts if a writer died and recorded the version twice
        known.by_commit.setdefault(entry.commit, version)

    def _check_repository(self, alias: str) -> Iterator[CheckResult]:
        """Check an alias and its repository."""
        known = self._datasets.get(alias)
        name = alias if known is None else known.name
        link = self._store.root / "alias" / alias
        try:
            target = os.readlink(link)
        except OSError:
            target = ""
        expected, logged = target, list[SuperdatasetCommit]()
        with suppress(StoreDamagedError):  # reported with the repository
            logged = SuperdatasetLog(self._store, alias).commits
        if known is not None or logged:
            dataset_id = logged[0].dataset_id if known is None else known.dataset_id
            expected = f"../{dataset_id[:3]}/{dataset_id[3:]}"
        path = (link.parent / expected).resolve()
        if target != expected or not target:
            message = (
                f"the alias {link} points to {target or 'nothing'}, not to {expected}, so that the "
                f"dataset cannot be found by name; {_REPAIR.format(name=name)}"
            )
            yield CheckResult(name, "alias", CheckPosition(alias), "error", message)
        advice = _REPAIR.format(name=name)
        if not path.is_dir():
            message = f"the repository {path} is missing; {advice}"
            yield CheckResult(name, "git", CheckPosition(alias, 1), "error", message)
            return
        for message in self._repository_damage(alias, path):
            yield CheckResult(name, "refs", CheckPosition(alias), "error", _advise(message, name))
        yield self._check_git(name, path, CheckPosition(alias, 1), known)

    def _repository_damage(self, alias: str, path: Path) -> Iterator[str]:
        """Yield what is wrong with the files and refs of a repository."""
        known = self._datasets.get(alias)
        messages = [f"{name} is missing or damaged" for name in broken_files(path)]
        messages += [f"{lock} is a stale lock of a killed git" for lock in stale_locks(path)]
        repository, logged = Repository(path), []
        try:
            logged = [commit.commit for commit in SuperdatasetLog(self._store, alias).commits]
        except StoreDamagedError as error:
            messages.append(str(error))
        with suppress(StoreDamagedError, OSError):  # git fsck reports it
            entries = [] if known is None else known.entries
            messages += find_damage(repository, entries, logged).messages()
        # a visit in progress writes these files after the refs
        lock_name = path.parent.name + path.name
        with suppress(StoreBusyError, OSError), self._store.lock(lock_name, str(path)):
            if not messages and not repository.is_server_info_current():
                messages.append("HEAD, info/refs or objects/info/packs do not match the refs")
        yield from messages

    def _check_git(
        self, name: str, path: Path, mark: CheckPosition, known: _Dataset | None
    ) -> CheckResult:
        try:
            seconds = self._git_seconds
            checked = try_git(path, "fsck", "--full", "--no-dangling", timeout=seconds)
            listed = try_git(path, "rev-list", "--all", timeout=seconds)
        except subprocess.TimeoutExpired as error:
            message = (
                f"git takes longer than {error.timeout:.0f} s for {path}; run "
                f"'neuromirror fsck {name}'"
            )
            return CheckResult(name, "git", mark, "impossible", message)
        advice = _REPAIR.format(name=name)
        if checked.returncode or listed.returncode:
            output = (checked.stderr + checked.stdout + listed.stderr).split("\n")
            complaint = next(
                (line for line in output if line.strip()), f"exit {checked.returncode}"
            )
            return CheckResult(name, "git", mark, "error", f"git fsck: {complaint}; {advice}")
        reached = set(listed.stdout.split())
        for version in () if known is None else known.versions:
            if version.commit not in reached:
                message = (
                    f"no ref of {path} reaches {version.commit} ({version.label}), which pins may "
                    f"refer to; {advice}"
                )
                return CheckResult(name, "git", mark, "error", message)
        return CheckResult(name, "git", mark, message=f"{len(reached)} commits")

    def _check_versions(self, alias: str, done: int) -> Iterator[CheckResult]:
        """Check records, manifest and index rows of each version, from a step on."""
        known = self._datasets[alias]
        versions = known.versions
        for number, version in enumerate(versions, 1):
            if number < done:
                continue
            name, mark = f"{known.name}@{version.label}", CheckPosition(alias, number + 1)
            if self._is_journal_intact:
                yield from self._check_index_rows(known, number, CheckPosition(alias, number))
            try:
                check_manifest(self._store.manifest_path(version.state))
            except StoreDamagedError as error:
                message = _advise(str(error), known.name)
                yield CheckResult(name, "manifest", CheckPosition(alias, number), "error", message)
            try:
                for records in (version.commit, *known.later_records(version.commit)):
                    dataset = known.dataset_id, records
                    check_records(self._store.records, *dataset, version.state, version.files)
                for mint_input in known.mint_inputs(version.commit):
                    read_mint_input(self._store.records, known.dataset_id, mint_input)
            except StoreDamagedError as error:
                message = _advise(str(error), known.name)
                yield CheckResult(name, "records", mark, "error", message)
            else:
                yield CheckResult(name, "records", mark, message=f"{version.files} files")

    def _check_index_rows(
        self, known: _Dataset, number: int, mark: CheckPosition
    ) -> Iterator[CheckResult]:
        """Compare a version in the index with the journal and the records."""
        try:
            with Index.open_readonly(self._index_path) as index:
                message = self._index_difference(index, known, number)
        except IndexMissingError:
            return  # reported once for the whole index
        except (IndexUnusableError, UnknownDatasetError, UnknownMirrorError) as error:
            message = str(error)
        except StoreDamagedError:
            return  # reported with the records
        if message:
            detail = message if "rebuild-index" in message else f"{message}; {_REBUILD}"
            yield CheckResult(known.name, "index", mark, "error", detail)

    def _index_difference(self, index: Index, known: _Dataset, number: int) -> str:
        rows, versions = list(index.versions.of(known.name)), known.versions
        if len(rows) < len(versions) and index.position < self._store.journal.size():
            return ""  # the index has not caught up
        if len(rows) < len(versions) or (
            len(rows) > len(versions) and index.position <= self._journal_end
        ):
            return f"the index has {len(rows)} versions, the journal {len(versions)}"
        row, version = rows[number - 1], versions[number - 1]
        same = _Version(
            *(row.commit, row.state, row.label, row.kind, row.tree, row.upstream_time),
            *(row.files, row.bytes, row.title),
        )
        if same != version._replace(title=escape_surrogates(version.title)):
            return f"the index and the journal differ in the version {version.label}"
        newest = [row.commit, *known.later_records(row.commit)][-1]
        if row.records != newest and index.position >= self._store.journal.size():
            return f"the index and the journal differ in the records of {row.label}"
        if not row.indexed:
            return ""
        records = self._store.records.read(known.dataset_id, row.commit)
        files = (record for record in records if record.subdataset is None)
        for placed, file in zip_longest(files, index.files.of(row)):
            if placed is None or file is None:
                return f"the index and the records of {row.label} have different numbers of files"
            found = (file.path.encode(), file.key, file.size)
            if found != (placed.git_path, placed.key, placed.record.size):
                path = path_to_text(placed.git_path)
                return f"the index and the records of {row.label} differ in {path}"
        if not index.search.path_terms_agree(row):
            return f"the search terms of the paths of {row.label} do not match its files"
        return ""


# --- checks in time slices

_INDEX_SHARE = 1 / 3
"""Share of a time slice for the pages of the index."""
_DIGESTS_SHARE = 1 / 6
"""Share of a time slice for block digests."""


class IntegrityState(TaskState):
    """The result of the integrity checks of a store so far, saved from one time slice to the next.

    ``position`` is the progress of the current pass, ``table`` the index table checked last,
    ``digests`` the file with block digests checked last, ``finished_at`` the end of the last
    complete pass (ISO 8601, empty before the first). ``damage`` holds messages by alias (or
    ``journal``, ``index``, ``block-digests``) until a check finds no damage.
    """

    task = "integrity"
    position: CheckPosition = START_POSITION
    table: str = ""
    digests: str = ""
    finished_at: str = ""
    damage: dict[str, list[str]] = field(default_factory=dict)

    @property
    def messages(self) -> list[str]:
        """The messages about the damage of all subjects."""
        return [one for found in self.damage.values() for one in found]

    def record(self, checked: CheckResult) -> None:
        """Add a failed check to the known damage."""
        name = checked.position.alias or checked.subject
        if checked.status == "error":
            self.damage.setdefault(name, []).append(f"{checked.name}: {checked.message}")


def check_integrity(
    store: Store,
    index_path: Path,
    selected: Collection[str] | None = None,
    seconds: float | None = None,
    git_seconds: float | None = None,
) -> Generator[CheckResult, None, None]:
    """Check a store and its index, and record the damage until a later check finds none.

    Parameters
    ----------
    store, index_path
        The store and its index.
    selected
        Check the datasets with these aliases only.
    seconds
        Stop after this time, and continue at this position the next time.
    git_seconds
        Time limit of ``git fsck`` per repository.

    Yields
    ------
    CheckResult
        One result per checked item.

    Raises
    ------
    StoreBusyError
        If another integrity check is running.
    """
    began = time.monotonic()
    with store.lock("integrity", "the integrity check of the store"), ExitStack() as stack:
        state = IntegrityState.load(store)
        stack.callback(state.save, store)
        checks = StoreChecker(store, index_path, git_seconds)
        subjects = ["journal"]
        if seconds is not None or selected is None:  # those of one dataset leave out the rest
            subjects += ["index", *["block-digests"] * (not seconds or not state.digests)]
        for name in subjects:
            state.damage.pop(name, None)
        # a step may take long: record each result before the next step
        for checked in checks.check_journal():
            state.record(checked)
            yield checked
        pages: Iterator[CheckResult] = iter(())
        if seconds is not None:
            pages = chain(
                _check_next_tables(index_path, state, seconds * _INDEX_SHARE),
                _check_next_digests(checks, state, seconds * _DIGESTS_SHARE),
            )
        elif selected is None:
            pages = chain(checks.check_index_pages(), checks.check_block_digests())
        after = state.position if seconds is not None else CheckPosition()
        last = after.alias if after.steps else ""
        for checked in chain(pages, checks.check_repositories(selected, after)):
            alias = checked.position.alias
            if alias != last:
                state.damage.pop(alias, None)
                last = alias
            if selected is None and alias:
                state.position = checked.position
            state.record(checked)
            yield checked
            if seconds is not None and time.monotonic() - began >= seconds:
                return
        if selected is None:
            state.position, state.finished_at = (
                CheckPosition(),
                datetime.now(UTC).isoformat(timespec="seconds"),
            )
            gone = state.damage.keys() - {*checks.aliases(), "journal", "index", "block-digests"}
            for name in gone:
                del state.damage[name]


def _check_next_tables(
    index_path: Path, state: IntegrityState, seconds: float
) -> Iterator[CheckResult]:
    """Check the pages of the index tables that come next."""
    if not index_path.exists():
        message = f"the index {index_path} is missing; run 'neuromirror rebuild-index'"
        yield CheckResult("index", "index", CheckPosition(), "error", message)
        return
    for table, wrong in integrity_errors_by_table(index_path, state.table, seconds):
        state.table = table
        if wrong is None:
            message = (
                f"the table {table} takes too long for this check; run 'neuromirror fsck' to "
                "check all tables"
            )
            yield CheckResult("index", "index", CheckPosition(), "impossible", message)
            return
        if wrong:
            message = (
                f"the table {table} of the index {index_path} is damaged ({wrong[0]}); run "
                "'neuromirror rebuild-index', which rebuilds the index from the store without loss"
            )
            yield CheckResult("index", "index", CheckPosition(), "error", message)
    state.table = ""


def _check_next_digests(
    checks: StoreChecker, state: IntegrityState, seconds: float
) -> Iterator[CheckResult]:
    """Check the files with block digests that come next."""
    until = time.monotonic() + seconds
    for checked in checks.check_block_digests(state.digests):
        state.digests = checked.name
        yield checked
        if time.monotonic() >= until:
            return
    state.digests = ""
