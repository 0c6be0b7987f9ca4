"""The lock files of a policy: files, folders and git repositories."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from neuromirror.git import MEMORY_LIMIT, GitError, git_environment
from neuromirror.lab.lockfile import Lock, LockUnusableError, load_lock
from neuromirror.model import ConfigurationError
from neuromirror.model.display import format_bytes
from neuromirror.store.durable_files import make_folder
from neuromirror.store.safe_paths import SafeFolder, UnsafePathError

_SUFFIX = ".lock"
_SKIPPED = frozenset({".git", ".venv", "node_modules", "annex"})
_MAX_DEPTH = 8
_MAX_BYTES = 8 << 30
"""Maximum size of a committed lock file with its manifests and bundles."""


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
                found = _extract(repository, commit, path, cache / state, bool(tree))
                yield _load(found) if isinstance(found, Path) else found


def _extract(
    repository: Path, commit: str, path: str, folder: Path, manifests: bool
) -> Path | LockUnusableError:
    """Write a lock file and its manifests to a folder, unless they are there.

    The objects are copied as they are: attributes of the commit could activate filters, which are
    programs in the configuration of the repository.
    """
    top, _, name = path.rpartition("/")
    target = folder / name
    if target.exists():
        return target
    paths = [path, f"{path}.d"] if manifests else [path]
    files = list(_files(repository, commit, paths))
    size = sum(one.size for one in files)
    if size > _MAX_BYTES:
        return LockUnusableError(
            f"{repository}: {path} in commit {commit} has {format_bytes(size)} with its manifests, "
            f"more than the {format_bytes(_MAX_BYTES)} that are read"
        )
    make_folder(folder.parent, durable=False)
    try:
        with SafeFolder.open_path(folder.absolute(), create=True) as copies:
            # the lock file last: it marks the folder as complete
            for one in sorted(files, key=lambda one: one.path == path):
                *parents, last = one.path.removeprefix(f"{top}/" if top else "").split("/")
                with copies.folder(*parents, create=True) as parent:
                    _copy_object(repository, one.oid, parent, last)
    except (OSError, UnsafePathError) as error:
        return LockUnusableError(f"{repository}: {path} in commit {commit} is damaged: {error}")
    return target


class _CommittedFile(Struct, frozen=True):
    oid: str
    size: int
    path: str


def _files(repository: Path, commit: str, paths: Sequence[str]) -> Iterator[_CommittedFile]:
    """Yield the plain files at paths of a commit, and below them."""
    listed = _git(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--", *paths)
    for line in listed.split(b"\0")[:-1]:
        meta, _, name = line.partition(b"\t")
        mode, kind, oid, size = meta.split()
        if kind != b"blob":
            continue
        if not size.isdigit():
            raise LockSourceError(f"{repository}: git cannot read the object {oid.decode()}")
        if mode.startswith(b"100"):
            path = name.decode("utf-8", "surrogateescape")
            yield _CommittedFile(oid.decode(), int(size), path)


def _copy_object(repository: Path, oid: str, folder: SafeFolder, name: str) -> None:
    """Write the content of an object to a file."""
    draft, descriptor = folder.new_file(0o666)
    with open(descriptor, "wb") as file:
        _git(repository, "cat-file", "blob", oid, output=file)
    folder.replace(draft, folder, name)


def _git(repository: Path, *arguments: str, output: BinaryIO | None = None) -> bytes:
    """Run git in a repository; return its output, or write it to a file."""
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments],
        env=git_environment(None) | MEMORY_LIMIT | {"GIT_LITERAL_PATHSPECS": "1"},
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        message = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise LockSourceError(
            f"{repository}: git cannot read it: {message[0] if message else done.returncode}"
        ) from GitError(" ".join(arguments[:1]))
    return done.stdout or b""
