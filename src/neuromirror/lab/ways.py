"""The ways to a pinned dataset, in the order in which they are tried.

The mirror's store, clone URLs, the bundle, the manifest alone. Each fills an empty repository; what
came is for the caller to check, since a way may lead to something else.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from neuromirror.lab.bundles import read_refs_of
from neuromirror.lab.clones import git_url, part_url
from neuromirror.lab.git import BOUNDED, CHECKED, GitFailed, ObjectsRefused, check_objects, creating
from neuromirror.lab.lockfile import Lock, Pin
from neuromirror.lab.manifests import (
    ListedPart,
    ManifestDamaged,
    ManifestMissing,
    ManifestReader,
    beside,
)
from neuromirror.lab.rebuilt import rebuild_repository
from neuromirror.mint import git_environment
from neuromirror.model import NeuromirrorError
from neuromirror.net import redact
from neuromirror.store import ANNEX, TAGS, Store

_PATIENCE = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60")
_REMOTE = "https:http:ssh"
_LOCAL = "file"
_ALL = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
_ACCESS = re.compile(r"^fatal: (?:unable to access '[^']*': )?")
_UNREACHABLE = re.compile(
    r"Failed to connect|Could(?: not|n't) (?:resolve|connect)|timed out|unreachable|too slow|"
    r"Connection (?:refused|reset)"
)


class WayFailed(NeuromirrorError):
    """A way that leads nowhere, or to something else than what was pinned."""


class NoAnswer(WayFailed):
    """A host that could not be reached."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A dataset at the state that a lock pins: a pin's own, or a part of one.

    ``prefix`` is the path of a part in its pin's dataset, with a slash at its end. ``tree`` is
    None where only the commit is known. ``manifest`` and ``bundle`` are files that may be missing.
    ``clones`` are the URLs to try, and ``home`` the one that is the origin of what is restored,
    whatever way it comes, as git has it; None for none. ``files`` is how many files it has at most,
    None where a lock does not say.
    """

    name: str
    dataset_id: str
    commit: str
    state: str
    manifest: Path
    bundle: Path | None
    clones: tuple[str, ...]
    home: str | None
    tree: str | None = None
    prefix: bytes = b""
    files: int | None = None

    @classmethod
    def of_pin(cls, lock: Lock, pin: Pin, more: tuple[str, ...]) -> Goal:
        """What a pin stands for; ``more`` are clone URLs that the lock does not have."""
        clones = tuple(dict.fromkeys((*pin.clone, *more)))
        return cls(
            name=pin.name,
            dataset_id=pin.dataset_id,
            commit=pin.commit,
            state=pin.state,
            manifest=lock.manifest_path(pin),
            bundle=lock.bundle_path(pin),
            clones=clones,
            home=git_url(clones[0]) if clones else None,
            tree=pin.tree,
            files=None if pin.paths else pin.files,
        )

    def part(self, part: ListedPart) -> Goal:
        """A part of it."""
        return replace(
            self,
            name=part.name,
            dataset_id=part.dataset_id,
            commit=part.commit,
            state=part.state,
            manifest=beside(self.manifest, part.commit),
            bundle=None if self.bundle is None else beside(self.bundle, part.commit),
            clones=tuple(part_url(url, part.dataset_id) for url in self.clones),
            home=None if self.home is None else part_url(self.home, part.dataset_id),
            tree=None,
            files=part.files,
            prefix=self.prefix + part.path.encode() + b"/",
        )

    def without(self, urls: Iterable[str]) -> Goal:
        """The same, not to be looked for at some of its URLs."""
        return replace(self, clones=tuple(url for url in self.clones if url not in set(urls)))


class Way(Protocol):
    """A way to a dataset; ``url`` is where it asks, None for what is on this machine."""

    @property
    def name(self) -> str:
        """What it is, for people."""
        ...

    @property
    def url(self) -> str | None:
        """The clone URL, as it stands in the lock."""
        ...

    def fill(self, repository: Path) -> None:
        """Brings objects and refs into an empty repository with a work tree; raises WayFailed."""
        ...


def ways(goal: Goal, store: Store | None, *, offline: bool) -> Iterator[Way]:
    """The ways to a goal, best first."""
    if store is not None:
        place = store.root / goal.dataset_id[:3] / goal.dataset_id[3:]
        if (place / "HEAD").exists():
            yield Stored(place, goal.home or str(place))
    if not offline:
        yield from map(Clone, goal.clones)
    if goal.bundle is not None:
        yield Bundle(goal.bundle, goal.home)
    yield Manifest(goal)


@dataclass(frozen=True, slots=True)
class Stored:
    """The dataset's repository in a store on this machine."""

    place: Path
    origin: str
    name: str = "the store"
    url: str | None = None

    def fill(self, repository: Path) -> None:
        """See Way."""
        try:
            _fetch(repository, str(self.place), _ALL, _LOCAL)
        except GitFailed as error:
            raise WayFailed(f"git cannot read {self.place}: {error}") from error
        run_git(repository, "remote", "add", "origin", self.origin)


@dataclass(frozen=True, slots=True)
class Clone:
    """A repository somewhere else."""

    url: str

    @property
    def name(self) -> str:
        """See Way."""
        return self.url

    def fill(self, repository: Path) -> None:
        """See Way; raises NoAnswer where nobody is there."""
        url = git_url(self.url)
        try:
            _fetch(repository, url, _ALL, _REMOTE)
        except GitFailed as error:
            told = _ACCESS.sub("", str(error))
            if _UNREACHABLE.search(told):
                raise NoAnswer(f"it cannot be reached ({told})") from error
            raise WayFailed(f"git cannot clone from it ({told})") from error
        _check_objects(repository)
        run_git(repository, "remote", "add", "origin", url)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A git bundle beside the lock."""

    path: Path
    origin: str | None
    name: str = "the bundle"
    url: str | None = None

    def fill(self, repository: Path) -> None:
        """See Way."""
        if not self.path.exists():
            raise WayFailed(f"{self.path} is missing")
        if ANNEX not in read_refs_of(self.path):
            raise WayFailed(f"{self.path} is no bundle of a dataset, or a damaged one")
        refs = (f"+{ANNEX}:{ANNEX}", f"+{TAGS}*:{TAGS}*")
        try:
            _fetch(repository, str(self.path.absolute()), refs, _LOCAL)
        except GitFailed as error:
            raise WayFailed(f"git cannot read {self.path} ({error})") from error
        _check_objects(repository)
        _call_origin(repository, self.origin)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest beside the lock, which knows all but the history."""

    goal: Goal
    name: str = "the manifest"
    url: str | None = None

    def fill(self, repository: Path) -> None:
        """See Way."""
        path = self.goal.manifest
        try:
            reader = ManifestReader(path, self.goal.files)
            head = reader.head
            if (head.commit, head.state) != (self.goal.commit, self.goal.state):
                raise WayFailed(
                    f"{path} is of commit {head.commit} and state {head.state} "
                    f"({head.dataset}@{head.version})"
                )
            refs = rebuild_repository(reader, repository / ".git")
        except ManifestMissing as error:
            raise WayFailed(f"{path} is missing") from error
        except ManifestDamaged as error:
            raise WayFailed(str(error)) from error
        run_git(repository, "update-ref", "--stdin", "-z", lines=creating(refs))
        _check_objects(repository)
        _call_origin(repository, self.goal.home)


def _check_objects(repository: Path) -> None:
    try:
        check_objects(repository / ".git")
    except ObjectsRefused as error:
        raise WayFailed(str(error)) from error


def _call_origin(repository: Path, url: str | None) -> None:
    """Names the place that did not answer, or was not asked, so that it can be one day."""
    if url is not None:
        run_git(repository, "remote", "add", "origin", url)
        # until somebody lifts it, git-annex would ask in vain before each of its commands
        run_git(repository, "config", "remote.origin.annex-ignore", "true")


def _fetch(repository: Path, url: str, refs: tuple[str, ...], protocols: str) -> None:
    run_git(
        repository,
        *(
            *_PATIENCE,
            *CHECKED,
            "fetch",
            "-q",
            "--no-tags",
            "--no-auto-maintenance",
            "--",
            url,
            *refs,
        ),
        environment={"GIT_ALLOW_PROTOCOL": protocols, "GIT_TERMINAL_PROMPT": "0"},
        credentials=True,
    )


def run_git(
    repository: Path,
    *arguments: str,
    lines: str = "",
    environment: Mapping[str, str] | None = None,
    credentials: bool = False,
) -> str:
    """What a git command printed that ran in a repository with a work tree; raises GitFailed."""
    kept = git_environment(repository, credentials=credentials)
    del kept["GIT_DIR"]
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments],
        env=BOUNDED | kept | dict(environment or {}),
        input=lines,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        told = "; ".join(words[:3]) or f"exit code {done.returncode}"
        raise GitFailed(redact(told))
    return done.stdout
