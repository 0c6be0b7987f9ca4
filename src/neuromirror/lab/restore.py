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

from neuromirror.annex import RemoteLeftOut, initialize, shown_remotes
from neuromirror.lab.clones import clone_urls
from neuromirror.lab.committed import Committed
from neuromirror.lab.get import JOBS, get
from neuromirror.lab.get.clone import identity_for
from neuromirror.lab.git import GitFailed, without_filters
from neuromirror.lab.lockfile import Lock, Pin
from neuromirror.lab.manifests import (
    ListedPart,
    ManifestMissing,
    ManifestReader,
    canonical_line,
)
from neuromirror.lab.own_repository import check_own
from neuromirror.lab.results import Checked, Outcome, Status
from neuromirror.lab.ways import Goal, NoAnswer, Way, WayFailed, run_git, ways
from neuromirror.model import ConfigurationError, Evidence, NeuromirrorError, StateDigest
from neuromirror.store import SafeFolder, Store, locked

Progress = Callable[[str], None]
"""Is told in words what is being done."""

_SCRATCH = ".neuromirror-restore"
_DRAFT = "dataset"
_QUIETLY = ("-c", "advice.detachedHead=false")
_EDITED = "was the lock edited by hand? Take it back from git, or pin the dataset again"


class NotRestored(NeuromirrorError):
    """A dataset that no way led to; the message says of each why."""


class LockDisagrees(NeuromirrorError):
    """A lock names a commit, and says something of it that is not so."""


class AnnexMissing(ConfigurationError):
    """git-annex is not installed."""


class PlaceTaken(ConfigurationError):
    """Where a dataset is to be restored, there is something else."""


@dataclass(frozen=True, slots=True)
class _How:
    """What was asked for beside the lock; see :func:`restore`."""

    store: Store | None
    clones: tuple[str, ...]
    offline: bool
    jobs: int
    progress: Progress
    silent: set[str] = field(default_factory=set)
    """Hosts that did not answer, and are not asked again."""


def restore(
    lock: Lock,
    into: Path,
    store: Store | None = None,
    *,
    clones: Sequence[str] = (),
    offline: bool = False,
    jobs: int = JOBS,
    progress: Progress = lambda what: None,
) -> Iterator[Outcome]:
    """Restores every dataset of a lock as ``into/<mirror>--<local id>``, and gets what is pinned.

    Each comes by the first way that leads to its commit: the ``store``, the lock's clone URLs,
    ``clones`` (URLs, or patterns as lab.clones takes them), the bundle, the manifest. ``offline``
    asks no network, and gets no content. What is there already is kept: a second run does what the
    first one could not.

    Yields an outcome for each file that was got or could not be, and after them one for the
    dataset (action ``restore``). Raises, before anything is done, PlaceTaken where something
    else stands in a dataset's place, UnsafePath for a symlink there, AnnexMissing without
    git-annex, and StoreBusy while another process restores there.
    """
    if shutil.which("git-annex") is None:
        raise AnnexMissing(
            "git-annex is not installed, and no dataset can be restored without it: 'pip install "
            "neuromirror[annex]', or take your system's package"
        )
    how = _How(store, tuple(clones), offline, jobs, progress)
    with _opened(into, lock.path.parent) as target:
        for pin in lock.datasets:
            is_taken(target, pin.dataset.alias, Goal.of_pin(lock, pin, ()), lock.path.parent, store)
        with _scratch(target) as scratch:
            for pin in lock.datasets:
                yield from _Restoring(lock, pin, target, scratch, how).run()


def _opened(into: Path, beside: Path) -> SafeFolder:
    """Open the folder for the datasets; one beside the lock may have come with the lock."""
    try:
        return SafeFolder.at(into, create=True, below=beside)
    except (FileExistsError, NotADirectoryError) as error:
        raise PlaceTaken(f"{into} is not a folder; name another with --into") from error


@contextmanager
def _scratch(target: SafeFolder) -> Iterator[SafeFolder]:
    """Make the folder for repositories that are not whole yet, and keep other processes out."""
    with target.folder(_SCRATCH, create=True, mode=0o700) as scratch:
        if os.fstat(scratch.descriptor).st_uid != os.geteuid():
            raise PlaceTaken(f"{scratch.path} belongs to another user; have it removed")
        os.fchmod(scratch.descriptor, 0o700)
        with locked(scratch.path / "lock", f"restoring into {target.path}", folder=scratch):
            try:
                yield scratch
            finally:
                target.remove_tree(_SCRATCH)


@dataclass(slots=True)
class _Placed:
    """A dataset in its place.

    ``way`` is how it came, None where it was there; ``files`` are the paths of what is pinned,
    None for all; ``parts`` its sub-datasets that may hold pinned files. ``only_listed`` counts
    pinned files that git has no place for, None where the manifest is missing that lists them.
    ``left_out`` are the special remotes that were not enabled.
    """

    goal: Goal
    root: Path
    way: Way | None = None
    refused: dict[str, str] = field(default_factory=dict)
    files: list[str] | None = None
    parts: list[ListedPart] = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    only_listed: int | None = 0
    left_out: list[RemoteLeftOut] = field(default_factory=list)


@dataclass(slots=True)
class _Proofs:
    """What was proved of the pinned files."""

    got: Counter[tuple[Evidence, Checked]] = field(default_factory=Counter)
    here: int = 0
    failed: int = 0

    def add(self, outcome: Outcome) -> None:
        if outcome.failed:
            self.failed += 1
        elif outcome.status == "notneeded":
            self.here += 1
        else:
            word = outcome.evidence or Evidence.NONE
            proved = outcome.checked == "checked" and word is not Evidence.NONE
            self.got[word, "checked" if proved else "claimed"] += 1

    def told(self) -> list[str]:
        """In words."""
        told = [
            f"{_counted(self.got[word, 'checked'], 'file')} proved by {word.value}"
            for word in Evidence
            if self.got[word, "checked"]
        ]
        unproved = sum(count for (_, how), count in self.got.items() if how == "claimed")
        told += [f"{_counted(unproved, 'file')} not proved at all"] * bool(unproved)
        told += [f"{_counted(self.here, 'file')} here already, and not read again"] * bool(
            self.here
        )
        told += [f"{_counted(self.failed, 'file')} could not be had"] * bool(self.failed)
        return told


class _Restoring:
    """One pin of a lock being restored."""

    def __init__(
        self, lock: Lock, pin: Pin, target: SafeFolder, scratch: SafeFolder, how: _How
    ) -> None:
        self._pin = pin
        self._how = how
        self._target = target
        self._root = target.path / pin.dataset.alias
        self._scratch = scratch
        self._beside = lock.path.parent
        more = clone_urls(how.clones, pin.dataset)
        self._goal = Goal.of_pin(lock, pin, more)
        self._problems: list[str] = []

    def run(self) -> Iterator[Outcome]:
        """See :func:`restore`."""
        pin, proofs, placed = self._pin, _Proofs(), list[_Placed]()
        try:
            for one in self._place_all(self._goal, self._target, pin.dataset.alias):
                placed.append(one)
            if not self._problems:
                self._check_counts(placed)
        except NeuromirrorError as error:
            self._problems.append(str(error))
            # a lock that disagrees with its commit does not say which files are meant
            placed = []
        for one in placed if not self._how.offline else ():
            try:
                for outcome in self._content(one):
                    proofs.add(outcome)
                    yield outcome
            except NeuromirrorError as error:
                self._problems.append(str(error))
            if one.only_listed != 0:
                yield self._not_in_git(one)
        new = any(one.way for one in placed) or proofs.got.total() > 0
        status: Status = "ok" if new else "notneeded"
        if self._problems or proofs.failed:
            status = "error"
        elif not self._how.offline and any(one.only_listed != 0 for one in placed):
            status = "impossible"
        yield Outcome(
            "restore",
            status,
            str(self._root),
            self._told(placed, proofs),
            dataset=pin.name,
            version=pin.resolved.version,
            size=sum(one.bytes for one in placed),
            url=placed[0].way.url if placed and placed[0].way else None,
        )

    def _told(self, placed: Sequence[_Placed], proofs: _Proofs) -> str:
        """What came of it, in words."""
        told = []
        if placed:
            first = placed[0]
            told.append(f"from {first.way.name}" if first.way else "was there")
            if len(placed) > 1:
                told.append(f"with {_counted(len(placed) - 1, 'sub-dataset')}")
            if self._how.offline:
                pinned = _counted(sum(one.count for one in placed), "file")
                told.append(f"content of {pinned} was not asked for (offline)")
            told += proofs.told()
            if any(one.only_listed != 0 for one in placed):
                told.append("the chunks of a huge Zarr are only listed")
            told += [f"not from {name}: {why}" for name, why in first.refused.items()]
            shown = shown_remotes(dict.fromkeys(out for one in placed for out in one.left_out))
            told += [shown] * bool(shown)
        told += self._problems
        return "; ".join(told)

    # --- placing

    def _place_all(self, goal: Goal, top: SafeFolder, path: str) -> Iterator[_Placed]:
        """Places a dataset and, within it, its parts as far as something of them is pinned.

        ``path`` is in the folder ``top``, and the dataset's parent is too: symlinks are refused.
        """
        *above, name = path.split("/")
        with top.folder(*above, create=True) as parent:
            placed = self._place(goal, parent, name)
            yield placed
            if not placed.parts:
                return
            goal = goal.without(placed.refused)
            with parent.folder(name) as root:
                for part in placed.parts:
                    try:
                        yield from self._place_all(goal.part(part), root, part.path)
                        _register(root.path, part)
                    except NeuromirrorError as error:
                        self._problems.append(f"{goal.prefix.decode()}{part.path}: {error}")

    def _place(self, goal: Goal, parent: SafeFolder, name: str) -> _Placed:
        root = parent.path / name
        if is_taken(parent, name, goal, self._beside, self._how.store):
            return self._examine(goal, root, root)
        refused: dict[str, str] = {}
        reached = False
        for way in ways(goal, self._how.store, offline=self._how.offline):
            self._how.progress(f"{goal.name} from {way.name}")
            host = None if way.url is None else urlsplit(way.url).netloc
            try:
                if host in self._how.silent:
                    raise NoAnswer("its host did not answer before")
                placed = self._try(goal, way, parent, name)
            except WayFailed as error:
                refused[way.name] = str(error)
                if host is not None and isinstance(error, NoAnswer):
                    self._how.silent.add(host)
                reached = reached or not (host is None or isinstance(error, NoAnswer))
                continue
            placed.refused = refused
            return placed
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        hint = ""
        if self._how.offline:
            hint = "; no network was asked (--offline)"
        elif goal.clones and not reached:
            hint = "; no host could be reached: is there a network?"
        raise NotRestored(f"no way leads to commit {goal.commit} of {goal.name}: {why}{hint}")

    def _try(self, goal: Goal, way: Way, parent: SafeFolder, name: str) -> _Placed:
        """Brings a dataset by one way, checks it, and moves it into its place in one step."""
        with self._scratch.scratch() as scratch:
            with scratch.folder(_DRAFT, create=True) as folder:
                placed = self._fill(goal, way, folder.path, parent.path / name)
            scratch.replace(_DRAFT, parent, name)
        return placed

    def _fill(self, goal: Goal, way: Way, draft: Path, root: Path) -> _Placed:
        """Makes a dataset in the empty folder ``draft``; its place will be ``root``."""
        run_git(draft, "init", "-q", "--template=", "-b", "main")
        way.fill(draft)
        if not has_commit(draft, goal.commit):
            raise WayFailed(f"it leads to something else: it has no commit {goal.commit}")
        if not has_annex(draft):
            raise WayFailed("it has no git-annex branch, which says where content is")
        placed = self._examine(goal, draft, root)
        placed.way = way
        unfiltered = without_filters()
        run_git(draft, *_QUIETLY, "checkout", "-q", "--detach", goal.commit, environment=unfiltered)
        identity = identity_for(draft) | unfiltered
        placed.left_out = initialize(lambda *args: run_git(draft, *args, environment=identity))
        if not self._how.offline:
            # any command that lists remotes finds out, once, whether the origin has contents
            run_git(draft, "annex", "group", "here", environment=identity)
        return placed

    def _examine(self, goal: Goal, repository: Path, root: Path) -> _Placed:
        """Checks tree and state of a dataset, and counts what is pinned of it."""
        pin, placed = self._pin, _Placed(goal, root)
        placed.files = [] if pin.paths else None
        committed = Committed(repository / ".git", goal.commit)
        if goal.tree not in (None, committed.tree):
            raise LockDisagrees(
                f"the lock says that commit {goal.commit} of {goal.name} has the tree {goal.tree}, "
                f"but it has {committed.tree}; {_EDITED}"
            )
        digest = StateDigest()
        for one in committed.listed():
            digest.add(canonical_line(one))
            path = goal.prefix + one.path.encode()
            if isinstance(one, ListedPart):
                if pin.reaches(path):
                    placed.parts.append(one)
            elif pin.matches(path):
                placed.count += 1
                placed.bytes += one.size or 0
                if placed.files is not None:
                    placed.files.append(one.path)
        state = committed.described["state"]
        if committed.form == "files":
            state = digest.value()
        else:
            self._count_listed(placed)
        if state != goal.state:
            raise LockDisagrees(
                f"the lock says that commit {goal.commit} of {goal.name} is of state {goal.state}, "
                f"but it is of {state}; {_EDITED}"
            )
        if not goal.prefix and (why := pin.contradicted(committed.described)):
            raise LockDisagrees(f"{goal.name}: {why}; {_EDITED}")
        return placed

    def _count_listed(self, placed: _Placed) -> None:
        """Counts the pinned files that are in the manifest and not in git."""
        prefix, placed.only_listed = placed.goal.prefix, 0
        try:
            for one in ManifestReader(placed.goal.manifest, placed.goal.files).listed():
                if isinstance(one, ListedPart) or one.in_git:
                    continue
                if self._pin.matches(prefix + one.path.encode()):
                    placed.only_listed += 1
                    placed.bytes += one.size or 0
        except ManifestMissing:
            placed.only_listed = None

    def _check_counts(self, placed: Sequence[_Placed]) -> None:
        counts = [one.only_listed for one in placed]
        if None in counts:
            return
        pin = self._pin
        files = sum(one.count + (one.only_listed or 0) for one in placed)
        size = sum(one.bytes for one in placed)
        if (files, size) != (pin.files, pin.bytes):
            raise LockDisagrees(
                f"the lock says that {_counted(pin.files, 'file')} of {pin.name} with {pin.bytes} "
                f"bytes are pinned, but its commit and paths make {files} with {size}; {_EDITED}"
            )

    # --- content

    def _content(self, placed: _Placed) -> Iterator[Outcome]:
        """Gets what is pinned of one dataset."""
        pin = self._pin
        if not placed.count:
            return
        self._how.progress(f"{placed.goal.name}, content")
        for outcome in get(placed.root, placed.files, jobs=self._how.jobs):
            yield replace(
                outcome,
                path=str(placed.root / outcome.path),
                dataset=pin.name,
                version=pin.resolved.version,
            )

    def _not_in_git(self, placed: _Placed) -> Outcome:
        """That git has no place for the chunks of a huge Zarr."""
        count = "its" if placed.only_listed is None else str(placed.only_listed)
        return Outcome(
            "get",
            "impossible",
            str(placed.root),
            f"{count} chunks of this Zarr have no place in git, and git-annex cannot get them; the "
            f"manifest {placed.goal.manifest} lists them with their digests and places",
            dataset=self._pin.name,
            version=self._pin.resolved.version,
        )


def is_taken(parent: SafeFolder, name: str, goal: Goal, beside: Path, store: Store | None) -> bool:
    """Whether a dataset is in its place already, at its commit; ``beside`` is the lock's folder.

    Raises PlaceTaken where something else is there, UnsafePath for a symlink, RepositoryRefused for
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
                check_own(folder, (beside, parent.path), None if store is None else store.root)
                with suppress(GitFailed):
                    head = run_git(root, "rev-parse", "-q", "--verify", "HEAD").strip()
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise PlaceTaken(f"{root} is not a folder; name another with --into") from error
    if head == goal.commit:
        return True
    what = f"a repository at commit {head}" if head else "something else"
    raise PlaceTaken(
        f"{root} holds {what}, and not {goal.name} at commit {goal.commit}; move it away, or name "
        "another folder with --into"
    )


def has_commit(repository: Path, commit: str) -> bool:
    """Whether a commit came."""
    try:
        run_git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitFailed:
        return False
    return True


def has_annex(repository: Path) -> bool:
    """Whether a git-annex branch came, as a branch or as that of the origin."""
    listed = ("refs/heads/git-annex", "refs/remotes/origin/git-annex")
    return bool(run_git(repository, "for-each-ref", *listed).strip())


def _register(root: Path, part: ListedPart) -> None:
    """Makes git know that a sub-dataset is installed, as ``datalad get`` does."""
    name = f"submodule.{part.path}"
    run_git(root, "config", f"{name}.active", "true")
    with suppress(GitFailed):
        url = run_git(root / part.path, "config", "remote.origin.url").strip()
        run_git(root, "config", f"{name}.url", url)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
