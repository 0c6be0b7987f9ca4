"""Restore strategies, in the order in which they are tried.

They are the store, the clone URLs, the bundle and the manifest. Each fills an empty repository; the
caller verifies the result, which can differ from the pin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.git import (
    FSCK_OPTIONS,
    REMOTE_OPTIONS,
    GitError,
    ObjectsRefusedError,
    check_objects,
    read_bundle_refs,
    ref_creation_commands,
    with_redirect_advice,
)
from neuromirror.lab.clone_urls import subdataset_url, to_git_url
from neuromirror.lab.lock_manifests import (
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestMissingError,
    LockManifestReader,
    sibling_path,
)
from neuromirror.lab.lockfile import Lock, Pin
from neuromirror.lab.repository_rebuild import rebuild_repository
from neuromirror.lab.work_trees import run_git
from neuromirror.mint.annex_worker import AnnexWorkerError
from neuromirror.model import NeuromirrorError
from neuromirror.store import ANNEX_BRANCH, TAG_PREFIX, Store

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
    manifest, bundle
        Paths of files that may be missing.
    clones
        Clone URLs to try.
    origin_url
        URL of the remote ``origin`` of the restored repository, for git.
    tree
        The tree id in hex; None if only the commit is known.
    prefix
        Path of a subdataset in the pinned dataset, with a trailing slash.
    files
        Maximum number of files; None if the lock file does not have it.
    """

    name: str
    dataset_id: str
    commit: str
    state: str
    manifest: Path
    bundle: Path | None
    clones: tuple[str, ...]
    origin_url: str | None
    tree: str | None = None
    prefix: bytes = b""
    files: int | None = None

    @classmethod
    def of_pin(cls, lock: Lock, pin: Pin, more: tuple[str, ...]) -> RestoreTarget:
        """Return the target of a pin; ``more`` are clone URLs that the lock file does not have."""
        clones = tuple(dict.fromkeys((*pin.clone, *more)))
        return cls(
            name=pin.name,
            dataset_id=pin.dataset_id,
            commit=pin.commit,
            state=pin.state,
            manifest=lock.manifest_path(pin),
            bundle=lock.bundle_path(pin),
            clones=clones,
            origin_url=to_git_url(clones[0]) if clones else None,
            tree=pin.tree,
            files=None if pin.paths else pin.files,
        )

    def for_subdataset(self, subdataset: ListedSubdataset) -> RestoreTarget:
        """Return the target of a subdataset."""
        return replace(
            self,
            name=subdataset.name,
            dataset_id=subdataset.dataset_id,
            commit=subdataset.commit,
            state=subdataset.state,
            manifest=sibling_path(self.manifest, subdataset.commit),
            bundle=None if self.bundle is None else sibling_path(self.bundle, subdataset.commit),
            clones=tuple(subdataset_url(url, subdataset.dataset_id) for url in self.clones),
            origin_url=None
            if self.origin_url is None
            else subdataset_url(self.origin_url, subdataset.dataset_id),
            tree=None,
            files=subdataset.files,
            prefix=self.prefix + subdataset.path.encode() + b"/",
        )

    def without_clones(self, urls: Iterable[str]) -> RestoreTarget:
        """Return a copy without some of the clone URLs."""
        return replace(self, clones=tuple(url for url in self.clones if url not in set(urls)))


class RestoreStrategy(Protocol):
    """A way to obtain the commits of a dataset: a store, a URL, a bundle, a manifest."""

    @property
    def name(self) -> str:
        """The name in messages."""
        ...

    @property
    def url(self) -> str | None:
        """The clone URL, as in the lock file; None for a local strategy."""
        ...

    def fill(self, repository: Path) -> None:
        """Write objects and refs to an empty repository with a work tree.

        Raises
        ------
        StrategyFailedError
            The strategy cannot provide the dataset.
        """
        ...


def restore_strategies(
    target: RestoreTarget, store: Store | None, *, offline: bool
) -> Iterator[RestoreStrategy]:
    """Yield the strategies that may restore a target, in the order in which to try them.

    With ``offline`` none of them sends a request; without a ``store`` that strategy is omitted.
    """
    if store is not None:
        path = store.root / target.dataset_id[:3] / target.dataset_id[3:]
        if (path / "HEAD").exists():
            yield StoreStrategy(path, target.origin_url or str(path))
    if not offline:
        yield from map(CloneUrlStrategy, target.clones)
    if target.bundle is not None:
        yield BundleStrategy(target.bundle, target.origin_url)
    yield ManifestStrategy(target)


class StoreStrategy(Struct, frozen=True):
    """Fetches the commits from the dataset's repository in a local store.

    Attributes
    ----------
    path
        The repository in the store.
    origin_url
        The URL of the remote ``origin`` of the restored repository.
    name
        The name of the strategy in messages.
    url
        None: this strategy has no URL.
    """

    path: Path
    origin_url: str
    name: str = "the store"
    url: str | None = None

    def fill(self, repository: Path) -> None:
        """See :class:`RestoreStrategy`."""
        try:
            _fetch(repository, str(self.path), _ALL_REFS, _LOCAL_PROTOCOLS)
        except GitError as error:
            raise StrategyFailedError(f"git cannot read {self.path}: {error}") from error
        run_git(repository, "remote", "add", "origin", self.origin_url)


class CloneUrlStrategy(Struct, frozen=True):
    """Fetches the commits from a clone URL."""

    url: str

    @property
    def name(self) -> str:
        """See :class:`RestoreStrategy`."""
        return self.url

    def fill(self, repository: Path) -> None:
        """Fetch all refs; see :class:`RestoreStrategy`.

        Raises
        ------
        HostUnreachableError
            The host does not respond.
        """
        url = to_git_url(self.url)
        try:
            _fetch(repository, url, _ALL_REFS, REMOTE_PROTOCOLS)
        except GitError as error:
            message = with_redirect_advice(_ACCESS.sub("", str(error)))
            if _UNREACHABLE.search(message):
                raise HostUnreachableError(f"cannot be reached ({message})") from error
            raise StrategyFailedError(f"git cannot clone it ({message})") from error
        _check_objects(repository)
        run_git(repository, "remote", "add", "origin", url)


class BundleStrategy(Struct, frozen=True):
    """Fetches the commits from the git bundle beside the lock file.

    Attributes
    ----------
    path
        The bundle.
    origin_url
        The URL of the remote ``origin`` of the restored repository; None for no remote.
    name
        The name of the strategy in messages.
    url
        None: this strategy has no URL.
    """

    path: Path
    origin_url: str | None
    name: str = "the bundle"
    url: str | None = None

    def fill(self, repository: Path) -> None:
        """See :class:`RestoreStrategy`."""
        if not self.path.exists():
            raise StrategyFailedError(f"{self.path} is missing")
        if ANNEX_BRANCH not in read_bundle_refs(self.path):
            raise StrategyFailedError(f"{self.path} is damaged, or not a bundle of a dataset")
        refs = (f"+{ANNEX_BRANCH}:{ANNEX_BRANCH}", f"+{TAG_PREFIX}*:{TAG_PREFIX}*")
        try:
            _fetch(repository, str(self.path.absolute()), refs, _LOCAL_PROTOCOLS)
        except GitError as error:
            raise StrategyFailedError(f"git cannot read {self.path} ({error})") from error
        _check_objects(repository)
        _add_unreachable_origin(repository, self.origin_url)


class ManifestStrategy(Struct, frozen=True):
    """Rebuilds the commit from the manifest beside the lock file, without its history.

    Attributes
    ----------
    target
        The dataset to restore, with the path of its manifest.
    name
        The name of the strategy in messages.
    url
        None: this strategy has no URL.
    """

    target: RestoreTarget
    name: str = "the manifest"
    url: str | None = None

    def fill(self, repository: Path) -> None:
        """See :class:`RestoreStrategy`."""
        path = self.target.manifest
        try:
            reader = LockManifestReader(path, self.target.files)
            head = reader.head
            if (head.commit, head.state) != (self.target.commit, self.target.state):
                raise StrategyFailedError(
                    f"{path} describes commit {head.commit} and state {head.state} "
                    f"({head.dataset}@{head.version})"
                )
            refs = rebuild_repository(reader, repository / ".git")
        except LockManifestMissingError as error:
            raise StrategyFailedError(f"{path} is missing") from error
        except (LockManifestDamagedError, ObjectsRefusedError, AnnexWorkerError) as error:
            raise StrategyFailedError(str(error)) from error
        run_git(repository, "update-ref", "--stdin", "-z", lines=ref_creation_commands(refs))
        _add_unreachable_origin(repository, self.target.origin_url)


def _check_objects(repository: Path) -> None:
    try:
        check_objects(repository / ".git")
    except ObjectsRefusedError as error:
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
        *(*REMOTE_OPTIONS, *FSCK_OPTIONS, *fetch),
        environment={"GIT_ALLOW_PROTOCOL": protocols, "GIT_TERMINAL_PROMPT": "0"},
        credentials=True,
    )
