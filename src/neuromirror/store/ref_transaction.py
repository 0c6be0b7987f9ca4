"""Move several refs of a repository in one step, by one rename of its packed-refs file.

Format: git-pack-refs(1). The locks are git's own (``packed-refs.lock``, ``refs/….lock``), so git
and neuromirror exclude each other.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from neuromirror.git import InvalidRefNameError, is_ref_name
from neuromirror.git.runner import PACKED_REFS, read_loose_ref, read_packed_refs
from neuromirror.store.durable_files import finish_file, fsync_path
from neuromirror.store.errors import RefsMovedError, StoreBusyError

DRAFT_PREFIX = "packed-refs.new-"

# git ignores unknown traits; "neuromirror" in a lock file identifies its writer
_HEADER = b"# pack-refs with: peeled fully-peeled sorted neuromirror \n"


def update_refs(
    repository: Path, expected: Mapping[str, str | None], new: Mapping[str, str | None]
) -> None:
    """Move refs in one step: after a crash either all refs in ``new`` are moved, or none is.

    The caller holds the dataset's lock.

    Parameters
    ----------
    repository
        The bare repository.
    expected
        Where the refs must be now: full name → commit id in hex; None for a ref that must not
        exist.
    new
        Where the refs are moved to; None deletes a ref.

    Raises
    ------
    RefsMovedError
        A ref is not where ``expected`` has it.
    StoreBusyError
        git holds the lock of one of the refs.
    InvalidRefNameError
        git rejects a name in ``new``.
    """
    for name in new:
        if not is_ref_name(name):
            raise InvalidRefNameError(
                f"{repository}: {name!r} is not a valid ref name; nothing was changed"
            )
    remove_own_locks(repository)
    names = sorted({*expected, *new})
    with _lock_refs(repository, names):
        packed = read_packed_refs(repository)
        loose = {name: sha for name in names if (sha := read_loose_ref(repository, name))}
        for name, commit in expected.items():
            found = loose.get(name) or packed.get(name, (None, ""))[0]
            if found != commit:
                raise RefsMovedError(
                    f"{repository}: {name} is at {found}, expected {commit}: another program moved "
                    "it during the visit. Nothing was changed; run the sync again."
                )
        hiding = [name for name in new if name in loose]
        if hiding:
            # A loose ref overrides the packed one. Its value is packed and the loose file is
            # removed first; otherwise a crash could leave this ref behind the others.
            packed.update({name: (loose[name], "") for name in hiding})
            _write_packed_refs(repository, packed)
            for name in hiding:
                (repository / name).unlink(missing_ok=True)
                fsync_path((repository / name).parent)
        packed = {name: value for name, value in packed.items() if name not in new}
        packed.update({name: (sha, "") for name, sha in new.items() if sha is not None})
        _write_packed_refs(repository, packed)


def remove_own_locks(repository: Path) -> None:
    """Remove locks of a killed neuromirror process; the caller holds the dataset's lock."""
    for lock in (repository / f"{PACKED_REFS}.lock", *(repository / "refs").rglob("*.lock")):
        try:
            is_own = lock.read_bytes().startswith(_HEADER)
        except (FileNotFoundError, IsADirectoryError):
            continue
        # the caller has the dataset's lock, so no living process of ours owns this one
        if is_own:
            lock.unlink(missing_ok=True)


def _write_packed_refs(repository: Path, refs: Mapping[str, tuple[str, str]]) -> None:
    lines = "".join(f"{sha} {name}\n{peeled}" for name, (sha, peeled) in sorted(refs.items()))
    handle, draft = tempfile.mkstemp(prefix=DRAFT_PREFIX, dir=repository)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER + lines.encode("utf-8", "surrogateescape"))
            finish_file(file)
        os.replace(draft, repository / PACKED_REFS)
    finally:
        Path(draft).unlink(missing_ok=True)
    fsync_path(repository)


@contextmanager
def _lock_refs(repository: Path, names: Iterable[str]) -> Iterator[None]:
    """Hold git's locks of the refs and of the packed-refs file during the block."""
    handle, draft = tempfile.mkstemp(prefix=DRAFT_PREFIX, dir=repository)
    held: list[Path] = []
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER)
        for name in (*names, PACKED_REFS):
            lock = repository / f"{name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                # a hard link, so that the lock file never exists without its content
                os.link(draft, lock)
            except FileExistsError:
                raise StoreBusyError(
                    f"{lock} exists: git is running in this repository, or was killed there. If no "
                    "git process is running, remove the file."
                ) from None
            held.append(lock)
        yield
    finally:
        for lock in held:
            lock.unlink(missing_ok=True)
        Path(draft).unlink(missing_ok=True)
