"""Restoring: the datasets of a lock are brought back, checked, and their pinned files got."""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from neuromirror.annex import SkippedRemote, initialize, skipped_remotes_message
from neuromirror.git import GitError
from neuromirror.lab.clone_urls import clone_urls
from neuromirror.lab.lock_manifests import (
    ListedSubdataset,
    LockManifestMissingError,
    LockManifestReader,
    canonical_line,
)
from neuromirror.lab.lockfile import Lock, Pin
from neuromirror.lab.minted_commit import MintedCommit
from neuromirror.lab.restore_strategies import (
    HostUnreachableError,
    RestoreStrategy,
    RestoreTarget,
    StrategyFailedError,
    restore_strategies,
    run_git,
)
from neuromirror.model import ConfigurationError, Evidence, NeuromirrorError, StateDigest
from neuromirror.store import SafeFolder, Store, file_lock
from neuromirror.transfer import JOBS, get
from neuromirror.transfer.annex_clone import committer_environment
from neuromirror.transfer.git_commands import disabled_filters
from neuromirror.transfer.outcomes import EvidenceStatus, Outcome, Status
from neuromirror.transfer.repository_check import check_restored_repository

MessageCallback = Callable[[str], None]
"""Is told in words what is being done."""

_SCRATCH = ".neuromirror-restore"
_DRAFT = "dataset"
_QUIET_OPTIONS = ("-c", "advice.detachedHead=false")
_EDITED_HINT = "was the lock edited by hand? Take it back from git, or pin the dataset again"


class NotRestoredError(NeuromirrorError):
    """A dataset that no way led to; the message says of each why."""


class LockMismatchError(NeuromirrorError):
    """A lock names a commit, and says something of it that is not so."""


class GitAnnexMissingError(ConfigurationError):
    """git-annex is not installed."""


class TargetOccupiedError(ConfigurationError):
    """Where a dataset is to be restored, there is something else."""


@dataclass(frozen=True, slots=True)
class _RestoreOptions:
    """What was asked for beside the lock; see :func:`restore`."""

    store: Store | None
    clones: tuple[str, ...]
    offline: bool
    jobs: int
    progress: MessageCallback
    unreachable_hosts: set[str] = field(default_factory=set)
    """Hosts that did not answer, and are not asked again."""


def restore(
    lock: Lock,
    into: Path,
    store: Store | None = None,
    *,
    clones: Sequence[str] = (),
    offline: bool = False,
    jobs: int = JOBS,
    progress: MessageCallback = lambda what: None,
) -> Iterator[Outcome]:
    """Restores every dataset of a lock as ``into/<mirror>--<local id>``, and gets what is pinned.

    Each comes by the first way that leads to its commit: the ``store``, the lock's clone URLs,
    ``clones`` (URLs, or patterns as lab.clones takes them), the bundle, the manifest. ``offline``
    asks no network, and gets no content. What is there already is kept: a second run does what the
    first one could not.

    Yields an outcome for each file that was got or could not be, and after them one for the
    dataset (action ``restore``). Raises, before anything is done, TargetOccupiedError where
    something
    else stands in a dataset's place, UnsafePathError for a symlink there, GitAnnexMissingError
    without
    git-annex, and StoreBusyError while another process restores there.
    """
    if shutil.which("git-annex") is None:
        raise GitAnnexMissingError(
            "git-annex is not installed, and no dataset can be restored without it: 'pip install "
            "neuromirror[annex]', or take your system's package"
        )
    how = _RestoreOptions(store, tuple(clones), offline, jobs, progress)
    with _open_target_folder(into, lock.path.parent) as target:
        for pin in lock.datasets:
            is_restored(
                target,
                pin.dataset.alias,
                RestoreTarget.of_pin(lock, pin, ()),
                lock.path.parent,
                store,
            )
        with _scratch_folder(target) as scratch:
            for pin in lock.datasets:
                yield from _DatasetRestorer(lock, pin, target, scratch, how).run()


def _open_target_folder(into: Path, lock_dir: Path) -> SafeFolder:
    """Open the folder for the datasets; one beside the lock may have come with the lock."""
    try:
        return SafeFolder.open_path(into, create=True, below=lock_dir)
    except (FileExistsError, NotADirectoryError) as error:
        raise TargetOccupiedError(f"{into} is not a folder; name another with --into") from error


@contextmanager
def _scratch_folder(target: SafeFolder) -> Iterator[SafeFolder]:
    """Make the folder for repositories that are not whole yet, and keep other processes out."""
    with target.folder(_SCRATCH, create=True, mode=0o700) as scratch:
        if os.fstat(scratch.descriptor).st_uid != os.geteuid():
            raise TargetOccupiedError(f"{scratch.path} belongs to another user; have it removed")
        os.fchmod(scratch.descriptor, 0o700)
        with file_lock(scratch.path / "lock", f"restoring into {target.path}", folder=scratch):
            try:
                yield scratch
            finally:
                target.remove_tree(_SCRATCH)


@dataclass(slots=True)
class _RestoredDataset:
    """A dataset in its place.

    ``way`` is how it came, None where it was there; ``files`` are the paths of what is pinned,
    None for all; ``parts`` its sub-datasets that may hold pinned files. ``manifest_only_files``
    counts
    pinned files that git has no place for, None where the manifest is missing that lists them.
    ``left_out`` are the special remotes that were not enabled.
    """

    target: RestoreTarget
    root: Path
    strategy: RestoreStrategy | None = None
    failed_strategies: dict[str, str] = field(default_factory=dict)
    files: list[str] | None = None
    subdatasets: list[ListedSubdataset] = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    manifest_only_files: int | None = 0
    skipped_remotes: list[SkippedRemote] = field(default_factory=list)


@dataclass(slots=True)
class _EvidenceSummary:
    """What was proved of the pinned files."""

    fetched: Counter[tuple[Evidence, EvidenceStatus]] = field(default_factory=Counter)
    present: int = 0
    failed: int = 0

    def add(self, outcome: Outcome) -> None:
        if outcome.failed:
            self.failed += 1
        elif outcome.status == "notneeded":
            self.present += 1
        else:
            evidence = outcome.evidence or Evidence.NONE
            proved = outcome.checked == "checked" and evidence is not Evidence.NONE
            self.fetched[evidence, "checked" if proved else "claimed"] += 1

    def messages(self) -> list[str]:
        """In words."""
        messages = [
            f"{_count_of(self.fetched[evidence, 'checked'], 'file')} proved by {evidence.value}"
            for evidence in Evidence
            if self.fetched[evidence, "checked"]
        ]
        unproved = sum(count for (_, how), count in self.fetched.items() if how == "claimed")
        messages += [f"{_count_of(unproved, 'file')} not proved at all"] * bool(unproved)
        messages += [f"{_count_of(self.present, 'file')} here already, and not read again"] * bool(
            self.present
        )
        messages += [f"{_count_of(self.failed, 'file')} could not be had"] * bool(self.failed)
        return messages


class _DatasetRestorer:
    """One pin of a lock being restored."""

    def __init__(
        self,
        lock: Lock,
        pin: Pin,
        target: SafeFolder,
        scratch: SafeFolder,
        options: _RestoreOptions,
    ) -> None:
        self._pin = pin
        self._options = options
        self._target = target
        self._root = target.path / pin.dataset.alias
        self._scratch = scratch
        self._lock_dir = lock.path.parent
        more = clone_urls(options.clones, pin.dataset)
        self._restore_target = RestoreTarget.of_pin(lock, pin, more)
        self._problems: list[str] = []

    def run(self) -> Iterator[Outcome]:
        """See :func:`restore`."""
        pin, proofs, placed = self._pin, _EvidenceSummary(), list[_RestoredDataset]()
        try:
            for one in self._restore_tree(self._restore_target, self._target, pin.dataset.alias):
                placed.append(one)
            if not self._problems:
                self._check_counts(placed)
        except NeuromirrorError as error:
            self._problems.append(str(error))
            # a lock that disagrees with its commit does not say which files are meant
            placed = []
        for one in placed if not self._options.offline else ():
            try:
                for outcome in self._get_content(one):
                    proofs.add(outcome)
                    yield outcome
            except NeuromirrorError as error:
                self._problems.append(str(error))
            if one.manifest_only_files != 0:
                yield self._not_in_git_outcome(one)
        new = any(one.strategy for one in placed) or proofs.fetched.total() > 0
        status: Status = "ok" if new else "notneeded"
        if self._problems or proofs.failed:
            status = "error"
        elif not self._options.offline and any(one.manifest_only_files != 0 for one in placed):
            status = "impossible"
        yield Outcome(
            "restore",
            status,
            str(self._root),
            self._summary(placed, proofs),
            dataset=pin.name,
            version=pin.resolved.version,
            size=sum(one.bytes for one in placed),
            url=placed[0].strategy.url if placed and placed[0].strategy else None,
        )

    def _summary(self, placed: Sequence[_RestoredDataset], proofs: _EvidenceSummary) -> str:
        """What came of it, in words."""
        messages = []
        if placed:
            first = placed[0]
            messages.append(f"from {first.strategy.name}" if first.strategy else "was there")
            if len(placed) > 1:
                messages.append(f"with {_count_of(len(placed) - 1, 'sub-dataset')}")
            if self._options.offline:
                pinned = _count_of(sum(one.count for one in placed), "file")
                messages.append(f"content of {pinned} was not asked for (offline)")
            messages += proofs.messages()
            if any(one.manifest_only_files != 0 for one in placed):
                messages.append("the chunks of a huge Zarr are only listed")
            messages += [f"not from {name}: {why}" for name, why in first.failed_strategies.items()]
            shown = skipped_remotes_message(
                dict.fromkeys(out for one in placed for out in one.skipped_remotes)
            )
            messages += [shown] * bool(shown)
        messages += self._problems
        return "; ".join(messages)

    # --- placing

    def _restore_tree(
        self, target: RestoreTarget, top: SafeFolder, path: str
    ) -> Iterator[_RestoredDataset]:
        """Places a dataset and, within it, its parts as far as something of them is pinned.

        ``path`` is in the folder ``top``, and the dataset's parent is too: symlinks are refused.
        """
        *above, name = path.split("/")
        with top.folder(*above, create=True) as parent:
            placed = self._restore_one(target, parent, name)
            yield placed
            if not placed.subdatasets:
                return
            target = target.without_clones(placed.failed_strategies)
            with parent.folder(name) as root:
                for part in placed.subdatasets:
                    try:
                        yield from self._restore_tree(target.for_subdataset(part), root, part.path)
                        _register_submodule(root.path, part)
                    except NeuromirrorError as error:
                        self._problems.append(f"{target.prefix.decode()}{part.path}: {error}")

    def _restore_one(
        self, target: RestoreTarget, parent: SafeFolder, name: str
    ) -> _RestoredDataset:
        root = parent.path / name
        if is_restored(parent, name, target, self._lock_dir, self._options.store):
            return self._examine(target, root, root)
        refused: dict[str, str] = {}
        reached = False
        for strategy in restore_strategies(
            target, self._options.store, offline=self._options.offline
        ):
            self._options.progress(f"{target.name} from {strategy.name}")
            host = None if strategy.url is None else urlsplit(strategy.url).netloc
            try:
                if host in self._options.unreachable_hosts:
                    raise HostUnreachableError("its host did not answer before")
                placed = self._try_strategy(target, strategy, parent, name)
            except StrategyFailedError as error:
                refused[strategy.name] = str(error)
                if host is not None and isinstance(error, HostUnreachableError):
                    self._options.unreachable_hosts.add(host)
                reached = reached or not (host is None or isinstance(error, HostUnreachableError))
                continue
            placed.failed_strategies = refused
            return placed
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        hint = ""
        if self._options.offline:
            hint = "; no network was asked (--offline)"
        elif target.clones and not reached:
            hint = "; no host could be reached: is there a network?"
        raise NotRestoredError(
            f"no way leads to commit {target.commit} of {target.name}: {why}{hint}"
        )

    def _try_strategy(
        self, target: RestoreTarget, strategy: RestoreStrategy, parent: SafeFolder, name: str
    ) -> _RestoredDataset:
        """Brings a dataset by one way, checks it, and moves it into its place in one step."""
        with self._scratch.scratch() as scratch:
            with scratch.folder(_DRAFT, create=True) as folder:
                placed = self._fill_draft(target, strategy, folder.path, parent.path / name)
            scratch.replace(_DRAFT, parent, name)
        return placed

    def _fill_draft(
        self, target: RestoreTarget, strategy: RestoreStrategy, draft: Path, root: Path
    ) -> _RestoredDataset:
        """Makes a dataset in the empty folder ``draft``; its place will be ``root``."""
        run_git(draft, "init", "-q", "--template=", "-b", "main")
        strategy.fill(draft)
        if not has_commit(draft, target.commit):
            raise StrategyFailedError(
                f"it leads to something else: it has no commit {target.commit}"
            )
        if not has_annex(draft):
            raise StrategyFailedError("it has no git-annex branch, which says where content is")
        placed = self._examine(target, draft, root)
        placed.strategy = strategy
        unfiltered = disabled_filters()
        run_git(
            draft,
            *_QUIET_OPTIONS,
            "checkout",
            "-q",
            "--detach",
            target.commit,
            environment=unfiltered,
        )
        identity = committer_environment(draft) | unfiltered
        placed.skipped_remotes = initialize(
            lambda *args: run_git(draft, *args, environment=identity)
        )
        if not self._options.offline:
            # any command that lists remotes finds out, once, whether the origin has contents
            run_git(draft, "annex", "group", "here", environment=identity)
        return placed

    def _examine(self, target: RestoreTarget, repository: Path, root: Path) -> _RestoredDataset:
        """Checks tree and state of a dataset, and counts what is pinned of it."""
        pin, placed = self._pin, _RestoredDataset(target, root)
        placed.files = [] if pin.paths else None
        committed = MintedCommit(repository / ".git", target.commit)
        if target.tree not in (None, committed.tree):
            raise LockMismatchError(
                f"the lock says that commit {target.commit} of {target.name} has the tree "
                f"{target.tree}, "
                f"but it has {committed.tree}; {_EDITED_HINT}"
            )
        digest = StateDigest()
        for one in committed.entries():
            digest.add(canonical_line(one))
            path = target.prefix + one.path.encode()
            if isinstance(one, ListedSubdataset):
                if pin.reaches(path):
                    placed.subdatasets.append(one)
            elif pin.matches(path):
                placed.count += 1
                placed.bytes += one.size or 0
                if placed.files is not None:
                    placed.files.append(one.path)
        state = committed.description["state"]
        if committed.form == "files":
            state = digest.value()
        else:
            self._count_listed(placed)
        if state != target.state:
            raise LockMismatchError(
                f"the lock says that commit {target.commit} of {target.name} is of state "
                f"{target.state}, "
                f"but it is of {state}; {_EDITED_HINT}"
            )
        if not target.prefix and (why := pin.contradictions(committed.description)):
            raise LockMismatchError(f"{target.name}: {why}; {_EDITED_HINT}")
        return placed

    def _count_listed(self, placed: _RestoredDataset) -> None:
        """Counts the pinned files that are in the manifest and not in git."""
        prefix, placed.manifest_only_files = placed.target.prefix, 0
        try:
            for one in LockManifestReader(placed.target.manifest, placed.target.files).entries():
                if isinstance(one, ListedSubdataset) or one.in_git:
                    continue
                if self._pin.matches(prefix + one.path.encode()):
                    placed.manifest_only_files += 1
                    placed.bytes += one.size or 0
        except LockManifestMissingError:
            placed.manifest_only_files = None

    def _check_counts(self, placed: Sequence[_RestoredDataset]) -> None:
        counts = [one.manifest_only_files for one in placed]
        if None in counts:
            return
        pin = self._pin
        files = sum(one.count + (one.manifest_only_files or 0) for one in placed)
        size = sum(one.bytes for one in placed)
        if (files, size) != (pin.files, pin.bytes):
            raise LockMismatchError(
                f"the lock says that {_count_of(pin.files, 'file')} of {pin.name} with {pin.bytes} "
                f"bytes are pinned, but its commit and paths make {files} with {size}; "
                f"{_EDITED_HINT}"
            )

    # --- content

    def _get_content(self, placed: _RestoredDataset) -> Iterator[Outcome]:
        """Gets what is pinned of one dataset."""
        pin = self._pin
        if not placed.count:
            return
        self._options.progress(f"{placed.target.name}, content")
        for outcome in get(placed.root, placed.files, jobs=self._options.jobs):
            yield replace(
                outcome,
                path=str(placed.root / outcome.path),
                dataset=pin.name,
                version=pin.resolved.version,
            )

    def _not_in_git_outcome(self, placed: _RestoredDataset) -> Outcome:
        """That git has no place for the chunks of a huge Zarr."""
        count = "its" if placed.manifest_only_files is None else str(placed.manifest_only_files)
        return Outcome(
            "get",
            "impossible",
            str(placed.root),
            f"{count} chunks of this Zarr have no place in git, and git-annex cannot get them; the "
            f"manifest {placed.target.manifest} lists them with their digests and places",
            dataset=self._pin.name,
            version=self._pin.resolved.version,
        )


def is_restored(
    parent: SafeFolder, name: str, target: RestoreTarget, lock_dir: Path, store: Store | None
) -> bool:
    """Whether a dataset is in its place already, at its commit; ``beside`` is the lock's folder.

    Raises TargetOccupiedError where something else is there, UnsafePathError for a symlink,
    RepositoryRefusedError for
    a repository with settings or hooks that could run anything; an empty folder is nothing.
    """
    root = parent.path / name
    head = ""
    try:
        with parent.folder(name) as folder:
            if not folder.names():
                return False
            git_dir = folder.status(".git")
            if git_dir is not None and stat.S_ISDIR(git_dir.st_mode):
                check_restored_repository(
                    folder, (lock_dir, parent.path), None if store is None else store.root
                )
                with suppress(GitError):
                    head = run_git(root, "rev-parse", "-q", "--verify", "HEAD").strip()
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise TargetOccupiedError(f"{root} is not a folder; name another with --into") from error
    if head == target.commit:
        return True
    what = f"a repository at commit {head}" if head else "something else"
    raise TargetOccupiedError(
        f"{root} holds {what}, and not {target.name} at commit {target.commit}; move it away, or "
        f"name "
        "another folder with --into"
    )


def has_commit(repository: Path, commit: str) -> bool:
    """Whether a commit came."""
    try:
        run_git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def has_annex(repository: Path) -> bool:
    """Whether a git-annex branch came, as a branch or as that of the origin."""
    listed = ("refs/heads/git-annex", "refs/remotes/origin/git-annex")
    return bool(run_git(repository, "for-each-ref", *listed).strip())


def _register_submodule(root: Path, part: ListedSubdataset) -> None:
    """Makes git know that a sub-dataset is installed, as ``datalad get`` does."""
    name = f"submodule.{part.path}"
    run_git(root, "config", f"{name}.active", "true")
    with suppress(GitError):
        url = run_git(root / part.path, "config", "remote.origin.url").strip()
        run_git(root, "config", f"{name}.url", url)


def _count_of(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
