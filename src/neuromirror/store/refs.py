"""All refs of a repository in its packed-refs file, so that one rename moves them all.

Format: git-pack-refs(1); the locks are git's own (``packed-refs.lock``, ``refs/….lock``), so git
and neuromirror keep out of each other's way.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from neuromirror.store.durable_files import finish_file, fsync_path
from neuromirror.store.errors import InvalidRefNameError, RefsMovedError, StoreBusyError

_PACKED_REFS = "packed-refs"
DRAFT_PREFIX = "packed-refs.new-"

# a trait git does not know and passes over: a lock file that has it was left by a dead neuromirror
_HEADER = b"# pack-refs with: peeled fully-peeled sorted neuromirror \n"

# git-check-ref-format(1)
_INVALID_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z")


def is_ref_name(name: str) -> bool:
    """Return whether git takes a full name for a ref (git-check-ref-format(1))."""
    return name.startswith("refs/") and not _INVALID_NAME.search(name)


def read_refs(repository: Path) -> dict[str, str]:
    """All refs: full name → object id in hex; loose refs win, as for git."""
    refs = {name: sha for name, (sha, _) in _read_packed_refs(repository).items()}
    refs.update(_read_loose_refs(repository))
    return refs


def _read_loose_refs(repository: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((repository / "refs").rglob("*")):
        name = path.relative_to(repository).as_posix()
        if not name.endswith(".lock") and (sha := _read_loose_ref(repository, name)):
            yield name, sha


def info_refs_content(repository: Path) -> bytes | None:
    """What ``info/refs`` says to clients of plain HTTP (gitrepository-layout(5)).

    None where only git can tell it: a ref outside of packed-refs may be of an annotated tag.
    """
    packed = _read_packed_refs(repository)
    if any(_read_loose_refs(repository)) or not _is_fully_peeled(repository):
        return None
    lines = []
    for name, (sha, peeled) in sorted(packed.items()):
        lines.append(f"{sha}\t{name}\n")
        if peeled:
            lines.append(f"{peeled[1:].strip()}\t{name}^{{}}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _is_fully_peeled(repository: Path) -> bool:
    """Whether packed-refs says what all annotated tags in it are of."""
    try:
        with (repository / _PACKED_REFS).open("rb") as file:
            head = file.readline()
    except FileNotFoundError:
        return True
    return head.startswith(b"# pack-refs with:") and b" fully-peeled " in head


def _read_loose_ref(repository: Path, name: str) -> str | None:
    try:
        return _decode((repository / name).read_bytes()).strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _read_packed_refs(repository: Path) -> dict[str, tuple[str, str]]:
    """Object id of each ref, and the line of what its annotated tag is of (else empty)."""
    try:
        # not str.splitlines: a name may hold what Unicode calls the end of a line
        lines = [
            _decode(line) for line in (repository / _PACKED_REFS).read_bytes().splitlines(True)
        ]
    except FileNotFoundError:
        return {}
    refs: dict[str, tuple[str, str]] = {}
    name = ""
    for line in lines:
        if line.startswith("^"):
            refs[name] = (refs[name][0], line)
        elif not line.startswith("#"):
            sha, _, name = line.rstrip("\n").partition(" ")
            refs[name] = (sha, "")
    return refs


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def update_refs(
    repository: Path, expected: Mapping[str, str | None], new: Mapping[str, str | None]
) -> None:
    """Moves refs in one step: after any crash all of ``new`` is there, or none of it.

    A ref that is None in ``new`` is deleted. ``expected`` gives where the refs must be now (None:
    absent); raises RefsMovedError where one is not, StoreBusyError while git holds one of the refs,
    InvalidRefNameError for a name that git would not have. The new ids must be of commits. The
    caller holds
    the dataset's lock.
    """
    for name in new:
        if not is_ref_name(name):
            raise InvalidRefNameError(
                f"{repository}: {name!r} cannot be the name of a ref; nothing was done"
            )
    remove_own_locks(repository)
    names = sorted({*expected, *new})
    with _lock_refs(repository, names):
        packed = _read_packed_refs(repository)
        loose = {name: sha for name in names if (sha := _read_loose_ref(repository, name))}
        for name, where in expected.items():
            found = loose.get(name) or packed.get(name, (None, ""))[0]
            if found != where:
                raise RefsMovedError(
                    f"{repository}: {name} is at {found}, not at {where} as it was when the "
                    "visit began; another program wrote to it. Nothing was changed; run the sync "
                    "again"
                )
        hiding = [name for name in new if name in loose]
        if hiding:
            # A loose ref hides the packed one. It goes first, its value kept: were it to go last,
            # a crash would leave it where it was and its companions moved.
            packed.update({name: (loose[name], "") for name in hiding})
            _write_packed_refs(repository, packed)
            for name in hiding:
                (repository / name).unlink(missing_ok=True)
                fsync_path((repository / name).parent)
        packed = {name: where for name, where in packed.items() if name not in new}
        packed.update({name: (sha, "") for name, sha in new.items() if sha is not None})
        _write_packed_refs(repository, packed)


def _write_packed_refs(repository: Path, refs: Mapping[str, tuple[str, str]]) -> None:
    lines = "".join(f"{sha} {name}\n{peeled}" for name, (sha, peeled) in sorted(refs.items()))
    handle, draft = tempfile.mkstemp(prefix=DRAFT_PREFIX, dir=repository)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER + lines.encode("utf-8", "surrogateescape"))
            finish_file(file)
        os.replace(draft, repository / _PACKED_REFS)
    finally:
        Path(draft).unlink(missing_ok=True)
    fsync_path(repository)


@contextmanager
def _lock_refs(repository: Path, names: Iterable[str]) -> Iterator[None]:
    """Holds git's locks of the refs and of the packed-refs file while the block runs."""
    handle, draft = tempfile.mkstemp(prefix=DRAFT_PREFIX, dir=repository)
    held: list[Path] = []
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER)
        for name in (*names, _PACKED_REFS):
            lock = repository / f"{name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                # a link, so that the lock says from its first moment whose it is
                os.link(draft, lock)
            except FileExistsError:
                raise StoreBusyError(
                    f"{lock} exists: git is at work in this repository, or died there; when no "
                    "git process is running, remove the file"
                ) from None
            held.append(lock)
        yield
    finally:
        for lock in held:
            lock.unlink(missing_ok=True)
        Path(draft).unlink(missing_ok=True)


def remove_own_locks(repository: Path) -> None:
    """Removes locks that a killed neuromirror left; the caller holds the dataset's lock."""
    for lock in (repository / f"{_PACKED_REFS}.lock", *(repository / "refs").rglob("*.lock")):
        try:
            ours = lock.read_bytes().startswith(_HEADER)
        except (FileNotFoundError, IsADirectoryError):
            continue
        # the dataset's lock is held, so a lock of ours is a dead process's
        if ours:
            lock.unlink(missing_ok=True)
