"""All refs of a repository in its packed-refs file, so that one rename moves them all.

Format: git-pack-refs(1); the lock is git's own (``packed-refs.lock``), so git and neuromirror
keep out of each other's way.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from neuromirror.store.errors import RefsMoved, StoreBusy

# a trait git does not know and passes over: a lock file that has it was left by a dead neuromirror
_HEADER = "# pack-refs with: peeled fully-peeled sorted neuromirror \n"


def read_refs(repository: Path) -> dict[str, str]:
    """All refs: full name → object id in hex; loose refs win, as for git."""
    refs = _read_packed(repository / "packed-refs")
    root = repository / "refs"
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            refs[path.relative_to(repository).as_posix()] = path.read_text().strip()
    return refs


def _read_packed(path: Path) -> dict[str, str]:
    try:
        content = path.read_text()
    except FileNotFoundError:
        return {}
    return {
        name: sha
        for sha, _, name in (
            line.partition(" ") for line in content.splitlines() if line[:1] not in ("#", "^")
        )
    }


def move_refs(repository: Path, expected: Mapping[str, str | None], new: Mapping[str, str]) -> None:
    """Moves refs in one step: after any crash all of ``new`` is there, or none of it.

    ``expected`` gives where the refs must be now (None: absent); raises RefsMoved where one is
    not, and StoreBusy while git holds the repository's refs.
    """
    target = repository / "packed-refs"
    lock = repository / "packed-refs.lock"
    _drop_own_lock(lock)
    refs = read_refs(repository)
    for name, where in expected.items():
        if refs.get(name) != where:
            raise RefsMoved(
                f"{repository}: {name} is at {refs.get(name)}, not at {where} as it was when the "
                "visit began; another program wrote to it. Nothing was changed; run the sync again"
            )
    refs.update(new)
    handle, draft = tempfile.mkstemp(prefix="packed-refs.new-", dir=repository)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(_HEADER)
            file.writelines(f"{sha} {name}\n" for name, sha in sorted(refs.items()))
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        try:
            os.link(draft, lock)
        except FileExistsError:
            raise StoreBusy(
                f"{lock} exists: git is at work in this repository, or died there; when no git "
                "process is running, remove the file"
            ) from None
        os.replace(lock, target)
    finally:
        Path(draft).unlink(missing_ok=True)
    _sync_folder(repository)
    _drop_loose(repository, new)


def _drop_own_lock(lock: Path) -> None:
    try:
        with lock.open() as file:
            ours = file.readline() == _HEADER
    except FileNotFoundError:
        return
    # the caller holds the dataset's lock, so a lock of ours is a dead process's
    if ours:
        lock.unlink(missing_ok=True)


def _drop_loose(repository: Path, names: Mapping[str, str]) -> None:
    """A loose ref would hide the packed one; it was seen to be where it was expected."""
    for name in names:
        (repository / name).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
