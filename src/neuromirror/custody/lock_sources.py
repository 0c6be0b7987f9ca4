"""The lock files of a policy: files, folders and git repositories."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from neuromirror.git import GitError, git_environment
from neuromirror.lab.lockfile import Lock, LockUnusableError, load_lock
from neuromirror.model import ConfigurationError
from neuromirror.store.durable_files import make_folder

_SUFFIX = ".lock"
_SKIPPED = frozenset({".git", ".venv", "node_modules", "annex"})
_MAX_DEPTH = 8


class LockSourceError(ConfigurationError):
    """A lock file, folder or repository of a policy cannot be read."""


def find_locks(source: Path, cache: Path) -> Iterator[Lock | LockUnusableError]:
    """Yield the lock files at a path.

    Parameters
    ----------
    source
        A lock file; a folder, which is searched with its subfolders; or a git repository, of which
        also the lock files of all branches and tags are read.
    cache
        The folder for lock files of branches and tags, with their manifests.

    Yields
    ------
    Lock or LockUnusableError
        A lock file, or why one cannot be read.

    Raises
    ------
    LockSourceError
        Nothing is at the path, or git cannot read it.
    """
    if source.is_file():
        yield _load(source)
        return
    if not source.is_dir():
        raise LockSourceError(f"{source}: no such file or folder; check 'locks' in policies.toml")
    is_bare = (source / "HEAD").is_file() and (source / "objects").is_dir()
    if not is_bare:
        for path in _walk(source, _MAX_DEPTH):
            found = _load(path)
            # other programs also have files with this suffix
            if isinstance(found, Lock) or "has no lock-version" not in str(found):
                yield found
    if is_bare or (source / ".git").exists():
        yield from _committed_locks(source, cache)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise LockSourceError(f"{folder}: cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.suffix == _SUFFIX and entry.is_file():
            yield entry
        elif depth and entry.is_dir() and entry.name not in _SKIPPED:
            yield from _walk(entry, depth - 1)


def _load(path: Path) -> Lock | LockUnusableError:
    try:
        return load_lock(path)
    except LockUnusableError as error:
        return error


def _committed_locks(repository: Path, cache: Path) -> Iterator[Lock | LockUnusableError]:
    """Yield the lock files of all branches and tags, each state once."""
    refs = ("refs/heads", "refs/tags", "refs/remotes")
    listed = _git(repository, "for-each-ref", "--format=%(objectname)", *refs)
    known: set[str] = set()
    for commit in dict.fromkeys(listed.decode().split()):
        names = _git(repository, "ls-tree", "-r", "-z", "--full-tree", commit)
        for line in names.split(b"\0"):
            meta, _, name = line.partition(b"\t")
            if not name.endswith(_SUFFIX.encode()) or not meta.startswith(b"100"):
                continue
            path = name.decode("utf-8", "surrogateescape")
            tree = _git(repository, "ls-tree", "-z", "--full-tree", commit, "--", f"{path}.d")
            state = f"{meta.split()[2].decode()}-{tree.split()[2].decode() if tree else 'alone'}"
            if state not in known:
                known.add(state)
                yield _load(_extract(repository, commit, path, cache / state, bool(tree)))


def _extract(repository: Path, commit: str, path: str, folder: Path, manifests: bool) -> Path:
    """Write a lock file and its manifests to a folder, unless they are there."""
    target = folder / Path(path).name
    if target.exists():
        return target
    paths = [path, f"{path}.d"] if manifests else [path]
    content = _git(repository, "archive", "--format=tar", commit, "--", *paths)
    make_folder(folder, durable=False)
    top = path.rpartition("/")[0]
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        # the lock file last: it marks the folder as complete
        for member in sorted(archive.getmembers(), key=lambda one: one.name == path):
            if member.isfile():
                member.name = member.name.removeprefix(f"{top}/")
                archive.extract(member, folder, filter="data")
    return target


def _git(repository: Path, *arguments: str) -> bytes:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments],
        env=git_environment(None),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        message = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise LockSourceError(
            f"{repository}: git cannot read it: {message[0] if message else done.returncode}"
        ) from GitError(" ".join(arguments[:1]))
    return done.stdout
