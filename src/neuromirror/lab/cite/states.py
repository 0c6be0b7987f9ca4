"""Find the states to cite in a store, in a clone, or beside a lock file, and read their files.

No request is sent. Files are read in batches from the git tree and the git-annex branch; memory is
constant except for the upper trees of the branch (30 MB for a million files). Files of a huge Zarr
outside git and files in subdatasets are not included.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from neuromirror import git
from neuromirror.annex import (
    key_digest,
    key_from_file_name,
    parse_key,
    parse_log,
    strip_claim_prefix,
)
from neuromirror.lab.cite.works import CitedState, NotCitableError
from neuromirror.model import ConfigurationError, time_of_commit
from neuromirror.model.records import url_rank
from neuromirror.store import ANNEX_BRANCH
from neuromirror.transfer.annex_branch import URLS, AnnexBranchReader, existing_object
from neuromirror.transfer.verified_repository import NotADatasetError, VerifiedRepository

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.lab.lockfile import Lock, Pin
    from neuromirror.store import Store

_MINTED: Final = re.compile(r"^Mirror-Spec: \d+$", re.MULTILINE)
_CLONED_ANNEX: Final = "refs/remotes/*/git-annex"
_BATCH: Final = 1000
"""Number of entries that are read at once."""
_OWN_FOLDERS: Final = (b".datalad/", b".neuromirror/")
_OWN_FILES: Final = frozenset((b".gitattributes", b".gitmodules"))
_UNSAFE: Final = re.compile(rb"(?:\A|/)(?:\.\.?)?(?:/|\Z)")


def state_of_version(store: Store, row: VersionRow) -> CitedState:
    """Return the state of a version in a store, from the index."""
    repository = store.repositories.of(row.dataset_ref)
    time = None if row.upstream_time is None else datetime.fromisoformat(row.upstream_time)
    annex = repository.ref(ANNEX_BRANCH)
    return CitedState(
        repository.path, row.dataset_name, row.label, row.commit, row.tree, time, annex
    )


def state_of_clone(folder: Path) -> CitedState:
    """Return the checked-out state of a clone, or HEAD of a bare repository.

    Raises
    ------
    ConfigurationError
        The folder is not a repository, or has no commit.
    NotCitableError
        The commit was not created by a mirror.
    """
    try:
        with VerifiedRepository.at(folder) as clone:
            git_dir, commit = clone.git_dir, clone.head()
    except NotADatasetError as error:
        raise ConfigurationError(
            f"{error}; specify a clone of a dataset, a lock file, or a version such as "
            "dandi:000027@0.210831.2033"
        ) from error
    return _minted_state(git_dir, commit, _annex(git_dir))


def states_of_lock(lock: Lock, store: Store | None, stack: ExitStack) -> list[CitedState]:
    """Return the pinned states of a lock file, in its order.

    Each is read from the store or, if the store lacks it, from the bundle or the manifest beside
    the lock file, which are unpacked into folders that are removed with ``stack``.

    Raises
    ------
    NotCitableError
        A state is in none of them.
    """
    return [_pinned_state(lock, pin, store, stack) for pin in lock.datasets]


def _pinned_state(lock: Lock, pin: Pin, store: Store | None, stack: ExitStack) -> CitedState:
    from neuromirror.lab.lock_manifests import store_contradiction

    if why := store_contradiction(store, pin):
        raise NotCitableError(f"{lock.path}: {why}")
    git_dir, annex = _repository_with(lock, pin, store, stack)
    state = _minted_state(git_dir, pin.commit, annex or _annex(git_dir))
    if (state.name, state.label) != (pin.name, pin.resolved.version):
        raise NotCitableError(
            f"{lock.path}: commit {pin.commit} is {state.name}@{state.label}, not {pin.version}; "
            "if the lock file was edited, restore it from git or pin the dataset again"
        )
    origin = pin.clone[0] if pin.clone else None
    chosen = {"files": pin.files, "bytes": pin.bytes, "paths": pin.paths}
    return replace(state, origin=origin, is_cited=pin.matches, **chosen)


def _repository_with(
    lock: Lock, pin: Pin, store: Store | None, stack: ExitStack
) -> tuple[Path, str | None]:
    """Return a repository with the pinned commit, and the commit of its git-annex branch."""
    if store is not None:
        git_dir = store.repositories.of(pin.dataset).path
        if git_dir.is_dir() and _has(git_dir, pin.commit):
            return git_dir, None
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neuromirror-")))
    _git(scratch, "init", "--quiet", "--bare", str(scratch))
    from neuromirror.lab.lock_manifests import PinnedState, copy_beside
    from neuromirror.lab.rebuild import rebuild_repository

    pinned = PinnedState.of_pin(lock, pin)
    if pinned.bundle is not None and pinned.bundle.is_file():
        copy = scratch / "pinned.bundle"
        with copy.open("xb") as file:
            copy_beside(pinned.bundle, pinned.sha256[pinned.bundle.name], file)
        _git(scratch, *git.FSCK_OPTIONS, "bundle", "unbundle", str(copy))
        if _has(scratch, pin.commit) and _has(scratch, pin.annex_commit):
            git.check_objects(scratch)
            return scratch, pin.annex_commit
    if pinned.has_manifest:
        refs = rebuild_repository(pinned.open_manifest(), scratch)
        git.check_objects(scratch)
        return scratch, refs[ANNEX_BRANCH]
    raise NotCitableError(
        f"{pin.version}: neither the store nor a bundle or manifest beside {lock.path} has commit "
        f"{pin.commit}; specify the store with --store, or copy {pin.manifest} from the source of "
        "the lock file"
    )


def _read_commit(git_dir: Path, commit: str) -> git.Commit:
    """Return a commit; raises NotCitableError."""
    try:
        content = _git(git_dir, "cat-file", "commit", commit)
        return git.parse_commit(content.encode(errors="replace"))
    except ValueError as error:
        raise NotCitableError(f"git cannot read commit {commit} of {git_dir}") from error


def _minted_state(git_dir: Path, commit: str, annex: str | None) -> CitedState:
    """Return the state of a commit."""
    parsed = _read_commit(git_dir, commit)
    name, _, label = parsed.subject.partition(" ")
    if name.endswith(":"):
        raise NotCitableError(f"{git_dir} is a superdataset; cite its subdatasets instead")
    if not (_MINTED.search(parsed.message) and ":" in name and label):
        raise NotCitableError(
            f"{git_dir}: commit {commit[:12]} was not created by a mirror; check out a version, "
            "for example by its tag, or cite the version by its name"
        )
    time = time_of_commit(parsed.committed_at)
    return CitedState(git_dir, name, label, commit, parsed.tree, time, annex)


def _annex(git_dir: Path) -> str | None:
    """Return the commit of the local or remote git-annex branch, or None."""
    listed = _git(git_dir, "for-each-ref", "--format=%(objectname)", ANNEX_BRANCH, _CLONED_ANNEX)
    return listed.partition("\n")[0] or None


def _has(git_dir: Path, commit: str) -> bool:
    return _git(git_dir, "cat-file", "-t", commit) == "commit\n"


def _git(git_dir: Path, *arguments: str) -> str:
    """Return the output of a git command, empty if it failed."""
    return git.try_git(git_dir, *arguments, environment=git.MEMORY_LIMIT).stdout


# --- the files of a state


class CitedEntry(Struct, frozen=True):
    """A file, a document of upstream or a subdataset: its path in git, and size, digest and URLs.

    ``digest`` is (algorithm, value): sha256, md5, or etag (multipart); URLs are best first. A
    document, which is a plain file in git, has a ``content``, a subdataset a ``commit``.
    """

    path: str
    size: int | None = None
    digest: tuple[str, str] | None = None
    urls: tuple[str, ...] = ()
    content: bytes | None = None
    commit: str = ""

    def hex(self, algorithm: str) -> str | None:
        """Return the digest if it has this algorithm."""
        return self.digest[1] if self.digest and self.digest[0] == algorithm else None


def cited_files(state: CitedState) -> Iterator[CitedEntry]:
    """Yield the files, documents and subdatasets of a state, sorted by path.

    URLs are those at the time of the version: the git-annex branch changes with every version and
    in clones, and log lines have the date of their version. If all lines of a key are later, all of
    them are used.

    Raises
    ------
    NotCitableError, StoreDamagedError
        The state cannot be read.
    """
    with ExitStack() as stack:
        objects = stack.enter_context(git.BatchObjectReader(state.git_dir))
        until = _read_commit(state.git_dir, state.commit).committed_at
        branch = None if state.annex is None else AnnexBranchReader(objects, state.annex)
        entries = _entries(stack, state)
        while some := list(islice(entries, _BATCH)):
            ids = [sha.encode() for mode, sha, _ in some if mode != git.GITLINK_MODE]
            found = zip(ids, objects.read(ids), strict=True)
            contents = {sha: existing_object(sha, content) for sha, content in found}
            links = [(sha.encode(), path) for mode, sha, path in some if mode == git.SYMLINK_MODE]
            keys = {sha: _key(path.decode(), contents[sha]) for sha, path in links}
            logs = branch.logs([key for key, _, _ in keys.values()]) if branch is not None else {}
            for mode, sha, path in some:
                name = path.decode()
                if mode == git.SYMLINK_MODE:
                    key, size, digest = keys[sha.encode()]
                    log = logs[key].content(URLS) if logs else b""
                    yield CitedEntry(name, size, digest, _urls(log, until))
                elif mode == git.GITLINK_MODE:
                    yield CitedEntry(name, commit=sha)
                else:
                    yield CitedEntry(name, content=contents[sha.encode()])


def _key(path: str, target: bytes) -> tuple[str, int | None, tuple[str, str] | None]:
    """Return the key of a symlink, its size and its digest."""
    try:
        key = key_from_file_name(target.rpartition(b"/")[2])
        return key, parse_key(key).size, key_digest(key)
    except ValueError as error:
        raise NotCitableError(f"{path!r} is a symlink, but not to a file of git-annex") from error


def _entries(stack: ExitStack, state: CitedState) -> Iterator[git.ListedEntry]:
    """Yield the cited entries of upstream, in the order of paths."""
    parents: list[bytes] = []
    entries = stack.enter_context(closing(git.list_tree(state.git_dir, state.commit)))
    try:
        for entry in entries:
            path = entry.path
            if _UNSAFE.search(path):
                raise NotCitableError(
                    f"commit {state.commit} has a file {path!r}, which no mirror writes"
                )
            if _collides(parents, path):
                raise NotCitableError(
                    f"commit {state.commit} has {path!r} twice, or as a file and as a folder, "
                    "which no mirror writes; clone the dataset again from its mirror"
                )
            is_own = path in _OWN_FILES or path.startswith(_OWN_FOLDERS)
            if not is_own and (state.is_cited is None or state.is_cited(path)):
                yield entry
    except git.GitError as error:
        raise NotCitableError(str(error)) from error


def _collides(before: list[bytes], path: bytes) -> bool:
    """Return whether a path is a duplicate or below the path of a file.

    ``before`` has the previous path and those that are prefixes of it, in order.
    """
    repeated = bool(before) and path <= before[-1]
    while before and not path.startswith(before[-1]):
        before.pop()
    inside = any(path.startswith(one + b"/") for one in before)
    before.append(path)
    return repeated or inside


def _urls(log: bytes, until: int) -> tuple[str, ...]:
    lines = sorted(parse_log(log), key=lambda one: one.timestamp)
    newest = {line.value: line for line in lines}
    present = [line for line in newest.values() if line.status == "1"]
    cited = [line for line in present if line.timestamp <= until] or present
    urls = (strip_claim_prefix(line.value) for line in cited)
    return tuple(sorted(urls, key=lambda url: (*url_rank(url), url)))
