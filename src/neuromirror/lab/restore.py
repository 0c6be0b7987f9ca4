"""Restore the datasets of a lock file, verify them, and get the content of pinned files.

Restore strategies, in the order in which they are tried.

They are the store, the clone URLs, the bundle and the manifest. Each fills an empty repository; the
caller verifies the result, which can differ from the pin.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror import git
from neuromirror.annex import SkippedRemote, VaultAddress, initialize, skipped_remotes_message
from neuromirror.lab.clone_urls import clone_urls, subdataset_url, to_git_url
from neuromirror.lab.lock_manifests import (
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestMissingError,
    PinnedState,
    canonical_line,
    copy_beside,
    store_contradiction,
)
from neuromirror.lab.lockfile import Lock, Pin
from neuromirror.lab.verify import EvidenceSummary
from neuromirror.lab.work_trees import (
    KEEP_BYTES,
    find_annex_commit,
    has_commit,
    is_origin_checked,
    parallel_checkout,
    register_submodule,
    run_git,
    write_annex_index,
)
from neuromirror.mint.annex_worker import AnnexWorkerError
from neuromirror.model import ConfigurationError, NeuromirrorError, StateDigest, count_of
from neuromirror.model.programs import install_advice
from neuromirror.store import ANNEX_BRANCH, TAG_PREFIX, SafeFolder, Store, file_lock
from neuromirror.transfer import JOBS, get
from neuromirror.transfer.annex_branch import foreign_settings
from neuromirror.transfer.annex_clone import committer_environment
from neuromirror.transfer.outcomes import MessageCallback, Outcome, Status
from neuromirror.transfer.repository_check import check_repository

REMOTE_PROTOCOLS = "https:http:ssh"
_LOCAL_PROTOCOLS = "file"
_ALL_REFS = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
_ACCESS = re.compile(r"^fatal: (?:unable to access '[^']*': )?")
_UNREACHABLE = re.compile(
    r"Failed to connect|Could(?: not|n't) (?:resolve|connect)|timed out|unreachable|too slow|"
    r"Connection (?:refused|reset)"
)


class StrategyFailedError(NeuromirrorError):
    """A strategy could not obtain the commits of a dataset, or obtained others than pinned."""


class HostUnreachableError(StrategyFailedError):
    """A strategy failed because the host of its URL cannot be reached."""


class RestoreTarget(Struct, frozen=True):
    """A pinned dataset or subdataset to restore.

    Attributes
    ----------
    pinned
        The commit, with its files beside the lock file, which may be missing.
    clones
        Clone URLs to try.
    origin_url
        URL of the remote ``origin`` of the restored repository, for git.
    prefix
        Path of a subdataset in the pinned dataset, with a trailing slash.
    """

    name: str
    dataset_id: str
    pinned: PinnedState
    clones: tuple[str, ...]
    origin_url: str | None
    prefix: bytes = b""

    @property
    def commit(self) -> str:
        """The commit id in hex."""
        return self.pinned.commit

    @classmethod
    def of_pin(cls, lock: Lock, pin: Pin, more: tuple[str, ...]) -> RestoreTarget:
        """Return the target of a pin; ``more`` are clone URLs that the lock file does not have."""
        clones = tuple(dict.fromkeys((*pin.clone, *more)))
        return cls(
            name=pin.name,
            dataset_id=pin.dataset_id,
            pinned=PinnedState.of_pin(lock, pin),
            clones=clones,
            origin_url=to_git_url(clones[0]) if clones else None,
        )

    def for_subdataset(self, subdataset: ListedSubdataset) -> RestoreTarget:
        """Return the target of a subdataset."""
        return replace(
            self,
            name=subdataset.name,
            dataset_id=subdataset.dataset_id,
            pinned=self.pinned.of_subdataset(subdataset.commit, subdataset.state, subdataset.files),
            clones=tuple(subdataset_url(url, subdataset.dataset_id) for url in self.clones),
            origin_url=None
            if self.origin_url is None
            else subdataset_url(self.origin_url, subdataset.dataset_id),
            prefix=self.prefix + subdataset.path.encode() + b"/",
        )


class RestoreStrategy(NamedTuple):
    """A way to obtain the commits of a dataset: a store, a URL, a bundle, a manifest.

    ``name`` is its name in messages, ``url`` the clone URL as in the lock file. ``fill`` writes
    objects and refs to an empty repository with a work tree; it raises StrategyFailedError if the
    strategy cannot provide the dataset.
    """

    name: str
    url: str | None
    fill: Callable[[Path], None]


def restore_strategies(
    target: RestoreTarget, store: Store | None, *, offline: bool
) -> Iterator[RestoreStrategy]:
    """Yield the strategies that may restore a target, in the order in which to try them.

    With ``offline`` none of them sends a request; without a ``store`` that strategy is omitted.
    """
    if store is not None:
        path = store.root / target.dataset_id[:3] / target.dataset_id[3:]
        if (path / "HEAD").exists():
            origin = target.origin_url or str(path)
            yield RestoreStrategy("the store", None, partial(_fill_from_store, path, origin))
    for url in () if offline else target.clones:
        yield RestoreStrategy(url, url, partial(fill_from_url, url))
    if target.pinned.bundle is not None:
        yield RestoreStrategy("the bundle", None, partial(_fill_from_bundle, target))
    yield RestoreStrategy("the manifest", None, partial(_fill_from_manifest, target))


def _fill_from_store(path: Path, origin_url: str, repository: Path) -> None:
    """Fetch the commits from the dataset's repository in a local store."""
    try:
        _fetch(repository, str(path), _ALL_REFS, _LOCAL_PROTOCOLS)
    except git.GitError as error:
        raise StrategyFailedError(f"git cannot read {path}: {error}") from error
    run_git(repository, "remote", "add", "origin", origin_url)


def fill_from_url(clone_url: str, repository: Path) -> None:
    """Fetch all refs from a clone URL.

    Raises
    ------
    HostUnreachableError
        The host does not respond.
    """
    url = to_git_url(clone_url)
    try:
        _fetch(repository, url, _ALL_REFS, REMOTE_PROTOCOLS)
    except git.GitError as error:
        message = git.with_redirect_advice(_ACCESS.sub("", str(error)))
        if _UNREACHABLE.search(message):
            raise HostUnreachableError(f"cannot be reached ({message})") from error
        raise StrategyFailedError(f"git cannot clone it ({message})") from error
    _check_objects(repository)
    run_git(repository, "remote", "add", "origin", url)


def _fill_from_bundle(target: RestoreTarget, repository: Path) -> None:
    """Fetch the commits from the git bundle beside the lock file."""
    path = target.pinned.bundle
    assert path is not None
    # git reads a copy: the bundle may change after its comparison with the lock file
    copy = (repository / ".git" / "pinned.bundle").absolute()
    refs = (f"+{ANNEX_BRANCH}:{ANNEX_BRANCH}", f"+{TAG_PREFIX}*:{TAG_PREFIX}*")
    try:
        with copy.open("xb") as file:
            copy_beside(path, target.pinned.sha256[path.name], file)
        if ANNEX_BRANCH not in git.read_bundle_refs(copy):
            raise StrategyFailedError(f"{path} is not a bundle of a dataset")
        _fetch(repository, str(copy), refs, _LOCAL_PROTOCOLS)
    except (LockManifestDamagedError, LockManifestMissingError) as error:
        raise StrategyFailedError(str(error)) from error
    except git.GitError as error:
        raise StrategyFailedError(f"git cannot read {path} ({error})") from error
    finally:
        copy.unlink()
    _check_objects(repository)
    _add_unreachable_origin(repository, target.origin_url)


def _fill_from_manifest(target: RestoreTarget, repository: Path) -> None:
    """Rebuild the commit from the manifest beside the lock file, without its history."""
    # it loads the crawler
    from neuromirror.lab.rebuild import rebuild_repository

    try:
        refs = rebuild_repository(target.pinned.open_manifest(), repository / ".git")
    except LockManifestMissingError as error:
        raise StrategyFailedError(f"{target.pinned.manifest} is missing") from error
    except (LockManifestDamagedError, git.ObjectsRefusedError, AnnexWorkerError) as error:
        raise StrategyFailedError(str(error)) from error
    run_git(repository, "update-ref", "--stdin", "-z", lines=git.ref_creation_commands(refs))
    _add_unreachable_origin(repository, target.origin_url)


def _check_objects(repository: Path) -> None:
    try:
        git.check_objects(repository / ".git")
    except git.ObjectsRefusedError as error:
        raise StrategyFailedError(str(error)) from error


def _add_unreachable_origin(repository: Path, url: str | None) -> None:
    """Add a remote that was not reached, for later use."""
    if url is not None:
        run_git(repository, "remote", "add", "origin", url)
        # without this, git-annex would contact the remote before each of its commands
        run_git(repository, "config", "remote.origin.annex-ignore", "true")


def _fetch(repository: Path, url: str, refs: tuple[str, ...], protocols: str) -> None:
    fetch = ("fetch", "-q", "--no-tags", "--no-auto-maintenance", "--", url, *refs)
    run_git(
        repository,
        *(*git.REMOTE_OPTIONS, *git.FSCK_OPTIONS, *fetch),
        environment=foreign_settings()
        | {"GIT_ALLOW_PROTOCOL": protocols, "GIT_TERMINAL_PROMPT": "0"},
        credentials=True,
    )


def is_restored(parent: SafeFolder, name: str, target: RestoreTarget) -> bool:
    """Return whether a dataset is restored already, at its commit; an empty folder is not.

    Parameters
    ----------
    parent
        The folder that has the restored datasets.
    name
        The name of the dataset's folder in it.
    target
        The dataset and its commit.

    Raises
    ------
    ConfigurationError
        The folder has other content.
    UnsafePathError
        The folder is a symlink.
    RepositoryRefusedError
        See :func:`check_repository`.
    """
    root = parent.path / name
    head = ""
    try:
        with parent.folder(name) as folder:
            if not folder.names():
                return False
            git_dir = folder.status(".git")
            if git_dir is not None and stat.S_ISDIR(git_dir.st_mode):
                check_repository(root)
                with suppress(git.GitError):
                    head = run_git(root, "rev-parse", "-q", "--verify", "HEAD").strip()
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise ConfigurationError(
            f"{root} is not a folder; choose another one with --into"
        ) from error
    if head == target.commit:
        return True
    what = f"a repository at commit {head}" if head else "other content"
    raise ConfigurationError(
        f"{root} has {what}, not {target.name} at commit {target.commit}; move it away, or "
        f"choose another folder with --into"
    )


_SCRATCH = ".neuromirror-restore"
_DRAFT = "dataset"
_NO_COMMIT = ("-c", "annex.alwayscommit=false")
"""Options of git with which git-annex keeps its records in its journal, where all its commands read
them. Its next command commits them, for which git needs 0.9 GB with a million files."""
_NO_ORIGIN = ("-c", "remote.origin.annex-ignore=true")
"""Options of git with which git-annex does not contact the origin."""
_EDITED_HINT = "if the lock file was edited, restore it from git or pin the dataset again"


class _RestoreOptions(Struct, frozen=True):
    """The options of :func:`restore`."""

    store: Store | None
    clones: tuple[str, ...]
    offline: bool
    jobs: int
    progress: MessageCallback
    vaults: tuple[VaultAddress, ...]
    copies_only: bool
    own_store: Store | None
    """The store whose published versions must agree with the lock file."""
    unreachable_hosts: set[str] = field(default_factory=set)
    """Hosts that did not respond; they are not contacted again."""


def restore(
    lock: Lock,
    into: Path,
    store: Store | None = None,
    *,
    clones: Sequence[str] = (),
    offline: bool = False,
    vaults: Sequence[VaultAddress] = (),
    copies_only: bool = False,
    jobs: int = JOBS,
    progress: MessageCallback = lambda message: None,
) -> Iterator[Outcome]:
    """Restore every dataset of a lock file as ``into/<mirror>--<local id>``, with its pinned files.

    The strategies are the ``store``, the clone URLs of the lock file, ``clones``, the bundle and
    the manifest, in this order. Existing datasets and files are kept, so that a second run
    completes the first one. Content that upstream does not have comes from the vaults that the lock
    file names, and from ``vaults``.

    Parameters
    ----------
    lock
        The lock file.
    into
        The folder in which each dataset gets a folder.
    store
        A local store, or None.
    clones
        Further URLs, or patterns of URLs (:mod:`neuromirror.lab.clone_urls`).
    offline
        Send no request, and get no content.
    vaults
        Further vaults that may have copies.
    copies_only
        Use neither the store nor clone URLs, and get content from vaults only.
    jobs
        Number of files fetched in parallel.
    progress
        Called with a description of each step.

    Yields
    ------
    Outcome
        The result for each file and, after its files, for each dataset (action ``restore``).

    Raises
    ------
    ConfigurationError
        The folder of a dataset has other content.
    UnsafePathError
        The folder of a dataset is a symlink.
    ConfigurationError
        git-annex is not installed.
    StoreBusyError
        Another process is restoring into the same folder.
    """
    if shutil.which("git-annex") is None:
        raise ConfigurationError(
            "git-annex is not installed, and is required to restore datasets: "
            + install_advice("git-annex")
        )
    own_store = store
    if copies_only:
        store, clones = None, ()
    options = _RestoreOptions(
        store, tuple(clones), offline, jobs, progress, tuple(vaults), copies_only, own_store
    )
    try:
        # below the folder of the lock file, the folder for the datasets is not trusted
        opened = SafeFolder.open_path(into, create=True, below=lock.path.parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"{into} is not a folder; choose another one with --into"
        ) from error
    with opened as target:
        for pin in lock.datasets:
            is_restored(target, pin.dataset.alias, RestoreTarget.of_pin(lock, pin, ()))
        with _scratch_folder(target) as scratch:
            for pin in lock.datasets:
                yield from _DatasetRestorer(lock, pin, target, scratch, options).run()


@contextmanager
def _scratch_folder(target: SafeFolder) -> Iterator[SafeFolder]:
    """Create the folder for incomplete repositories, and lock it against other processes."""
    with target.folder(_SCRATCH, create=True, mode=0o700) as scratch:
        if os.fstat(scratch.descriptor).st_uid != os.geteuid():
            raise ConfigurationError(
                f"{scratch.path} belongs to another user; ask them to remove it"
            )
        os.fchmod(scratch.descriptor, 0o700)
        with file_lock(scratch.path / "lock", f"restoring into {target.path}", folder=scratch):
            try:
                yield scratch
            finally:
                target.remove_tree(_SCRATCH)


class _RestoredDataset(Struct):
    """A restored dataset.

    Attributes
    ----------
    strategy
        The strategy that restored it; None if it existed before.
    failed_strategies
        The strategies that failed before, with the reasons, by name.
    files
        The paths of the pinned files; None for all files.
    subdatasets
        Subdatasets that may have pinned files.
    manifest_only_files
        Number of pinned files that are not in git; None if the manifest that lists them is missing.
    skipped_remotes
        Special remotes that were not enabled.
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


class _DatasetRestorer(Struct):
    """Restores the dataset of one pin into a folder of ``target``."""

    lock: Lock
    pin: Pin
    target: SafeFolder
    scratch: SafeFolder
    options: _RestoreOptions
    problems: list[str] = field(default_factory=list)

    def run(self) -> Iterator[Outcome]:
        """Restore the dataset and yield the outcomes; see :func:`restore`."""
        pin, evidence, placed = self.pin, EvidenceSummary(), list[_RestoredDataset]()
        more = clone_urls(self.options.clones, pin.dataset)
        target = RestoreTarget.of_pin(self.lock, pin, more)
        try:
            if why := store_contradiction(self.options.own_store, pin):
                raise NeuromirrorError(why)
            for one in self._restore_tree(target, self.target, pin.dataset.alias):
                placed.append(one)
            if not self.problems:
                self._check_counts(placed)
        except NeuromirrorError as error:
            self.problems.append(str(error))
            # a lock file that contradicts its commit does not define the pinned files
            placed = []
        for one in placed if not self.options.offline else ():
            try:
                for outcome in self._get_content(one):
                    evidence.add(outcome)
                    yield outcome
            except NeuromirrorError as error:
                self.problems.append(str(error))
            if one.manifest_only_files != 0:
                yield self._not_in_git_outcome(one)
        new = any(one.strategy for one in placed) or evidence.fetched.total() > 0
        status: Status = "ok" if new else "notneeded"
        if self.problems or evidence.failed:
            status = "error"
        elif not self.options.offline and any(one.manifest_only_files != 0 for one in placed):
            status = "impossible"
        url = placed[0].strategy.url if placed and placed[0].strategy else None
        path, summary = str(self.target.path / pin.dataset.alias), self._summary(placed, evidence)
        about = (pin.name, pin.resolved.version, None, sum(one.bytes for one in placed))
        yield Outcome("restore", status, path, summary, *about, url=url)

    def _summary(self, placed: Sequence[_RestoredDataset], evidence: EvidenceSummary) -> str:
        """Return the result as text."""
        messages = []
        if placed:
            first = placed[0]
            messages.append(f"from {first.strategy.name}" if first.strategy else "already restored")
            if len(placed) > 1:
                messages.append(f"with {count_of(len(placed) - 1, 'subdataset')}")
            if self.options.offline:
                pinned = count_of(sum(one.count for one in placed), "file")
                messages.append(f"content of {pinned} not requested (offline)")
            messages += evidence.messages()
            if any(one.manifest_only_files != 0 for one in placed):
                messages.append("the chunks of a huge Zarr are listed but not restored")
            messages += [f"not from {name}: {why}" for name, why in first.failed_strategies.items()]
            shown = skipped_remotes_message(
                dict.fromkeys(out for one in placed for out in one.skipped_remotes)
            )
            messages += [shown] * bool(shown)
        messages += self.problems
        return "; ".join(messages)

    def _restore_tree(
        self, target: RestoreTarget, top: SafeFolder, path: str
    ) -> Iterator[_RestoredDataset]:
        """Restore a dataset at ``path`` in ``top``, and its subdatasets with pinned files.

        Symlinks in ``path`` are rejected.
        """
        *above, name = path.split("/")
        with top.folder(*above, create=True) as parent:
            placed = self._restore_one(target, parent, name)
            yield placed
            if not placed.subdatasets:
                return
            clones = tuple(url for url in target.clones if url not in placed.failed_strategies)
            target = replace(target, clones=clones)
            with parent.folder(name) as root:
                for one in placed.subdatasets:
                    try:
                        yield from self._restore_tree(target.for_subdataset(one), root, one.path)
                        register_submodule(root.path, one)
                    except NeuromirrorError as error:
                        self.problems.append(f"{target.prefix.decode()}{one.path}: {error}")

    def _restore_one(
        self, target: RestoreTarget, parent: SafeFolder, name: str
    ) -> _RestoredDataset:
        root = parent.path / name
        if is_restored(parent, name, target):
            return self._examine(target, root, root)
        refused: dict[str, str] = {}
        reached = False
        for strategy in restore_strategies(
            target, self.options.store, offline=self.options.offline or self.options.copies_only
        ):
            self.options.progress(f"{target.name} from {strategy.name}")
            host = None if strategy.url is None else urlsplit(strategy.url).netloc
            try:
                if host in self.options.unreachable_hosts:
                    raise HostUnreachableError("its host did not respond to an earlier request")
                # verified, and then moved to its folder atomically
                with self.scratch.scratch() as scratch:
                    with scratch.folder(_DRAFT, create=True) as folder:
                        placed = self._fill_draft(target, strategy, folder.path, root)
                    scratch.replace(_DRAFT, parent, name)
            except StrategyFailedError as error:
                refused[strategy.name] = str(error)
                if host is not None and isinstance(error, HostUnreachableError):
                    self.options.unreachable_hosts.add(host)
                reached = reached or not (host is None or isinstance(error, HostUnreachableError))
                continue
            placed.failed_strategies = refused
            return placed
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        hint = ""
        if self.options.offline:
            hint = "; the network was not used (--offline)"
        elif target.clones and not reached:
            hint = (
                "; no host could be reached: check the network, or put the manifests of the lock "
                "file (its folder datasets.lock.d) beside it"
            )
        raise NeuromirrorError(
            f"{target.name}: commit {target.commit} could not be restored: {why}{hint}"
        )

    def _fill_draft(
        self, target: RestoreTarget, strategy: RestoreStrategy, draft: Path, root: Path
    ) -> _RestoredDataset:
        """Restore a dataset in the empty folder ``draft``; it is moved to ``root`` later."""
        run_git(draft, "init", "-q", "--template=", "-b", "main")
        run_git(draft, "config", *KEEP_BYTES.split("="))
        strategy.fill(draft)
        if not has_commit(draft, target.commit):
            raise StrategyFailedError(f"it lacks the commit {target.commit}")
        annex_commit = find_annex_commit(draft)
        if annex_commit is None:
            raise StrategyFailedError(
                "it lacks the git-annex branch, which has the URLs of the content"
            )
        unfiltered = foreign_settings()
        identity = committer_environment(draft) | unfiltered
        options = (*_NO_COMMIT, *(_NO_ORIGIN if self.options.offline else ()))
        with parallel_checkout(draft, target.commit, unfiltered):
            placed = self._examine(target, draft, root)
            write_annex_index(draft, annex_commit)
            placed.skipped_remotes = initialize(
                lambda *args: run_git(draft, *options, *args, environment=identity), is_new=True
            )
        placed.strategy = strategy
        if not self.options.offline and not is_origin_checked(draft):
            # a command that lists remotes lets git-annex check once whether the origin has content
            run_git(draft, *_NO_COMMIT, "annex", "group", "here", environment=identity)
        return placed

    def _examine(self, target: RestoreTarget, repository: Path, root: Path) -> _RestoredDataset:
        """Verify the tree and the state of a dataset, and count its pinned files."""
        from neuromirror.lab.rebuild import MintedCommit

        pin, placed = self.pin, _RestoredDataset(target, root)
        placed.files = [] if pin.paths else None
        committed = MintedCommit(repository / ".git", target.commit)
        if (target.pinned.tree or committed.tree) != committed.tree:
            raise NeuromirrorError(
                f"{target.name}: the tree of commit {target.commit} is {committed.tree}, but "
                f"{target.pinned.tree} in the lock file; {_EDITED_HINT}"
            )
        digest = StateDigest()
        for entry in committed.entries():
            digest.add(canonical_line(entry))
            path = target.prefix + entry.path.encode()
            if isinstance(entry, ListedSubdataset):
                if pin.reaches(path):
                    placed.subdatasets.append(entry)
            elif pin.matches(path):
                placed.count += 1
                placed.bytes += entry.size or 0
                if placed.files is not None:
                    placed.files.append(entry.path)
        state = committed.description["state"]
        if committed.form == "files":
            state = digest.value()
        else:
            self._count_listed(placed)
        if state != target.pinned.state:
            raise NeuromirrorError(
                f"{target.name}: the state of commit {target.commit} is {state}, but "
                f"{target.pinned.state} in the lock file; {_EDITED_HINT}"
            )
        if not target.prefix and (why := pin.contradictions(committed.description)):
            raise NeuromirrorError(f"{target.name}: {why}; {_EDITED_HINT}")
        return placed

    def _count_listed(self, placed: _RestoredDataset) -> None:
        """Count the pinned files that are in the manifest and not in git."""
        prefix, placed.manifest_only_files = placed.target.prefix, 0
        try:
            for entry in placed.target.pinned.open_manifest().entries():
                if isinstance(entry, ListedSubdataset) or entry.in_git:
                    continue
                if self.pin.matches(prefix + entry.path.encode()):
                    placed.manifest_only_files += 1
                    placed.bytes += entry.size or 0
        except LockManifestMissingError:
            placed.manifest_only_files = None

    def _check_counts(self, placed: Sequence[_RestoredDataset]) -> None:
        counts = [one.manifest_only_files for one in placed]
        if None in counts:
            return
        pin = self.pin
        files = sum(one.count + (one.manifest_only_files or 0) for one in placed)
        size = sum(one.bytes for one in placed)
        if (files, size) != (pin.files, pin.bytes):
            raise NeuromirrorError(
                f"{pin.name}: commit and paths select {count_of(files, 'file')} with {size} "
                f"bytes, but the lock file has {pin.files} with {pin.bytes}; {_EDITED_HINT}"
            )

    def _get_content(self, placed: _RestoredDataset) -> Iterator[Outcome]:
        """Get the content of the pinned files of one dataset."""
        pin = self.pin
        if not placed.count:
            return
        self.options.progress(f"{placed.target.name}, content")
        vaults = (*(copy.address for copy in pin.copies), *self.options.vaults)
        jobs, copies_only = self.options.jobs, self.options.copies_only
        outcomes = get(placed.root, placed.files, jobs=jobs, vaults=vaults, copies_only=copies_only)
        for outcome in outcomes:
            path, version = str(placed.root / outcome.path), pin.resolved.version
            yield replace(outcome, path=path, dataset=pin.name, version=version)

    def _not_in_git_outcome(self, placed: _RestoredDataset) -> Outcome:
        """Return the outcome for chunks of a huge Zarr, which are not in git."""
        count = "its" if placed.manifest_only_files is None else str(placed.manifest_only_files)
        message = (
            f"{count} chunks of this Zarr are not in git, so that git-annex cannot get them; the "
            f"manifest {placed.target.pinned.manifest} has their digests and URLs"
        )
        about = (self.pin.name, self.pin.resolved.version)
        return Outcome("get", "impossible", str(placed.root), message, *about)
