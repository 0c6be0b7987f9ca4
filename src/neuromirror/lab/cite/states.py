"""Find the states to cite on this machine: in a store, in a clone, or beside a lock file.

No request is sent.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from neuromirror.git import (
    FSCK_OPTIONS,
    MEMORY_LIMIT,
    Commit,
    check_objects,
    parse_commit,
    try_git,
)
from neuromirror.lab.cite.errors import NotCitableError, NothingToCiteError, StateUnavailableError
from neuromirror.lab.cite.works import CitedState
from neuromirror.model import time_of_commit
from neuromirror.store import ANNEX_BRANCH

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.lab.lockfile import Lock, Pin
    from neuromirror.store import Store

_MINTED: Final = re.compile(r"^Mirror-Spec: \d+$", re.MULTILINE)
_ADJUSTED: Final = "git-annex adjusted branch"
_CLONED_ANNEX: Final = "refs/remotes/*/git-annex"


def state_of_version(store: Store, row: VersionRow) -> CitedState:
    """Return the state of a version in a store, from the index.

    Parameters
    ----------
    store
        The store that has the version.
    row
        The version, as returned by :meth:`Index.resolve`.

    Returns
    -------
    CitedState
        The state, for :func:`read_work`.
    """
    repository = store.repository(row.dataset_ref)
    return CitedState(
        git_dir=repository.path,
        name=row.dataset_name,
        label=row.label,
        commit=row.commit,
        tree=row.tree,
        time=None if row.upstream_time is None else datetime.fromisoformat(row.upstream_time),
        annex=repository.ref(ANNEX_BRANCH),
    )


def state_of_clone(folder: Path) -> CitedState:
    """Return the checked-out state of a clone, or HEAD of a bare repository.

    Parameters
    ----------
    folder
        The top of a clone, or a bare repository.

    Returns
    -------
    CitedState
        The state, for :func:`read_work`.

    Raises
    ------
    NothingToCiteError
        The folder is not a repository.
    NotCitableError
        The commit was not created by a mirror.
    """
    git_dir = _git_dir(folder)
    commit = _git(git_dir, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").strip()
    if not commit:
        raise NotCitableError(f"{folder} has no commit; specify the clone of a dataset")
    parsed = _read_commit(git_dir, commit)
    if parsed.message.startswith(_ADJUSTED) and parsed.parents:
        # adjusted branch of git-annex, with unlocked files or for file systems without symlinks
        commit = parsed.parents[0]
        parsed = _read_commit(git_dir, commit)
    if _MINTED.search(parsed.message) is None:
        raise NotCitableError(
            f"{folder}: the checked-out commit {commit[:12]} was not created by a mirror; check "
            f"out a version, for example by its tag, or cite the version by its name"
        )
    return _minted_state(git_dir, commit, parsed, _annex(git_dir))


def states_of_lock(lock: Lock, store: Store | None, stack: ExitStack) -> list[CitedState]:
    """Return the pinned states of a lock file, in its order.

    Each is read from the store or, if the store lacks it, from the bundle or the manifest beside
    the lock file, which are unpacked into folders that are removed with ``stack``.

    Parameters
    ----------
    lock
        The lock file.
    store
        A local store, or None.
    stack
        Removes the unpacked repositories when it is closed.

    Returns
    -------
    list[CitedState]
        One state per pin.

    Raises
    ------
    StateUnavailableError
        A state is in none of them.
    """
    return [_pinned_state(lock, pin, store, stack) for pin in lock.datasets]


def _pinned_state(lock: Lock, pin: Pin, store: Store | None, stack: ExitStack) -> CitedState:
    git_dir, annex = _repository_with(lock, pin, store, stack)
    parsed = _read_commit(git_dir, pin.commit)
    state = _minted_state(git_dir, pin.commit, parsed, annex or _annex(git_dir))
    if (state.name, state.label) != (pin.name, pin.resolved.version):
        raise NotCitableError(
            f"{lock.path}: commit {pin.commit} is {state.name}@{state.label}, not {pin.version}; "
            "if the lock file was edited, restore it from git or pin the dataset again"
        )
    origin = pin.clone[0] if pin.clone else None
    if not pin.paths:
        return replace(state, origin=origin)
    selected = {"paths": pin.paths, "is_cited": pin.matches}
    return replace(state, origin=origin, files=pin.files, bytes=pin.bytes, **selected)


def _repository_with(
    lock: Lock, pin: Pin, store: Store | None, stack: ExitStack
) -> tuple[Path, str | None]:
    """Return a repository with the pinned commit, and the commit of its git-annex branch."""
    if store is not None:
        git_dir = store.repository(pin.dataset).path
        if git_dir.is_dir() and _has(git_dir, pin.commit):
            return git_dir, None
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neuromirror-")))
    _git(scratch, "init", "--quiet", "--bare", str(scratch))
    bundle = lock.bundle_path(pin)
    if bundle is not None and bundle.is_file():
        _git(scratch, *FSCK_OPTIONS, "bundle", "unbundle", str(bundle.absolute()))
        if _has(scratch, pin.commit) and _has(scratch, pin.annex_commit):
            check_objects(scratch)
            return scratch, pin.annex_commit
    manifest = lock.manifest_path(pin)
    if manifest.is_file():
        from neuromirror.lab.lock_manifests import LockManifestReader
        from neuromirror.lab.repository_rebuild import rebuild_repository

        reader = LockManifestReader(manifest, None if pin.paths else pin.files)
        refs = rebuild_repository(reader, scratch)
        check_objects(scratch)
        return scratch, refs[ANNEX_BRANCH]
    raise StateUnavailableError(
        f"{pin.version}: neither the store nor a bundle or manifest beside {lock.path} has commit "
        f"{pin.commit}; specify the store with --store, or copy {pin.manifest} from the source of "
        "the lock file"
    )


def _read_commit(git_dir: Path, commit: str) -> Commit:
    """Return a commit; raises NotCitableError."""
    done = try_git(git_dir, "cat-file", "commit", commit, environment=MEMORY_LIMIT)
    try:
        return parse_commit(done.stdout.encode(errors="replace"))
    except ValueError as error:
        raise NotCitableError(f"git cannot read commit {commit} of {git_dir}") from error


def _minted_state(git_dir: Path, commit: str, parsed: Commit, annex: str | None) -> CitedState:
    """Return the state of a commit."""
    name, _, label = parsed.subject.partition(" ")
    if name.endswith(":"):
        raise NotCitableError(f"{git_dir} is a superdataset; cite its subdatasets instead")
    if not (_MINTED.search(parsed.message) and ":" in name and label):
        raise NotCitableError(f"commit {commit} of {git_dir} was not created by neuromirror")
    time = time_of_commit(parsed.committed_at)
    return CitedState(git_dir, name, label, commit, parsed.tree, time, annex)


def _annex(git_dir: Path) -> str | None:
    """Return the commit of the local or remote git-annex branch, or None."""
    listed = _git(git_dir, "for-each-ref", "--format=%(objectname)", ANNEX_BRANCH, _CLONED_ANNEX)
    return listed.partition("\n")[0] or None


def _git_dir(folder: Path) -> Path:
    """Return the git directory of a folder (gitrepository-layout(5))."""
    inside = folder / ".git"
    if inside.is_file():
        target = inside.read_text("utf-8", "surrogateescape").removeprefix("gitdir:").strip()
        inside = folder / target
    for found in (inside, folder):
        if (found / "HEAD").is_file() and (found / "objects").is_dir():
            return found.resolve()
    raise NothingToCiteError(
        f"{folder} is not a clone of a dataset; specify a clone, a lock file, or a version such as "
        "dandi:000027@0.210831.2033"
    )


def _has(git_dir: Path, commit: str) -> bool:
    done = try_git(git_dir, "cat-file", "-e", f"{commit}^{{commit}}", environment=MEMORY_LIMIT)
    return done.returncode == 0


def _git(git_dir: Path, *arguments: str) -> str:
    """Return the output of a git command, empty if it failed."""
    return try_git(git_dir, *arguments, environment=MEMORY_LIMIT).stdout
