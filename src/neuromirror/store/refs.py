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

from neuromirror.store.disk import seal, sync
from neuromirror.store.errors import RefRefused, RefsMoved, StoreBusy

_PACKED = "packed-refs"
DRAFTS = "packed-refs.new-"

# a trait git does not know and passes over: a lock file that has it was left by a dead neuromirror
_HEADER = b"# pack-refs with: peeled fully-peeled sorted neuromirror \n"

# git-check-ref-format(1)
_REFUSED = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z")


def is_ref_name(name: str) -> bool:
    """Return whether git takes a full name for a ref (git-check-ref-format(1))."""
    return name.startswith("refs/") and not _REFUSED.search(name)


def read_refs(repository: Path) -> dict[str, str]:
    """All refs: full name → object id in hex; loose refs win, as for git."""
    refs = {name: sha for name, (sha, _) in _read_packed(repository).items()}
    refs.update(_loose(repository))
    return refs


def _loose(repository: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((repository / "refs").rglob("*")):
        name = path.relative_to(repository).as_posix()
        if not name.endswith(".lock") and (sha := _read_loose(repository, name)):
            yield name, sha


def info_refs(repository: Path) -> bytes | None:
    """What ``info/refs`` says to clients of plain HTTP (gitrepository-layout(5)).

    None where only git can tell it: a ref outside of packed-refs may be of an annotated tag.
    """
    packed = _read_packed(repository)
    if any(_loose(repository)) or not _is_fully_peeled(repository):
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
        with (repository / _PACKED).open("rb") as file:
            head = file.readline()
    except FileNotFoundError:
        return True
    return head.startswith(b"# pack-refs with:") and b" fully-peeled " in head


def _read_loose(repository: Path, name: str) -> str | None:
    try:
        return _text((repository / name).read_bytes()).strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _read_packed(repository: Path) -> dict[str, tuple[str, str]]:
    """Object id of each ref, and the line of what its annotated tag is of (else empty)."""
    try:
        # not str.splitlines: a name may hold what Unicode calls the end of a line
        lines = [_text(line) for line in (repository / _PACKED).read_bytes().splitlines(True)]
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


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def move_refs(
    repository: Path, expected: Mapping[str, str | None], new: Mapping[str, str | None]
) -> None:
    """Moves refs in one step: after any crash all of ``new`` is there, or none of it.

    A ref that is None in ``new`` is deleted. ``expected`` gives where the refs must be now (None:
    absent); raises RefsMoved where one is not, StoreBusy while git holds one of the refs,
    RefRefused for a name that git would not have. The new ids must be of commits. The caller holds
    the dataset's lock.
    """
    for name in new:
        if not is_ref_name(name):
            raise RefRefused(
                f"{repository}: {name!r} cannot be the name of a ref; nothing was done"
            )
    drop_own_locks(repository)
    names = sorted({*expected, *new})
    with _locked(repository, names):
        packed = _read_packed(repository)
        loose = {name: sha for name in names if (sha := _read_loose(repository, name))}
        for name, where in expected.items():
            found = loose.get(name) or packed.get(name, (None, ""))[0]
            if found != where:
                raise RefsMoved(
                    f"{repository}: {name} is at {found}, not at {where} as it was when the "
                    "visit began; another program wrote to it. Nothing was changed; run the sync "
                    "again"
                )
        hiding = [name for name in new if name in loose]
        if hiding:
            # A loose ref hides the packed one. It goes first, its value kept: were it to go last,
            # a crash would leave it where it was and its companions moved.
            packed.update({name: (loose[name], "") for name in hiding})
            _write_packed(repository, packed)
            for name in hiding:
                (repository / name).unlink(missing_ok=True)
                sync((repository / name).parent)
        packed = {name: where for name, where in packed.items() if name not in new}
        packed.update({name: (sha, "") for name, sha in new.items() if sha is not None})
        _write_packed(repository, packed)


def _write_packed(repository: Path, refs: Mapping[str, tuple[str, str]]) -> None:
    lines = "".join(f"{sha} {name}\n{peeled}" for name, (sha, peeled) in sorted(refs.items()))
    handle, draft = tempfile.mkstemp(prefix=DRAFTS, dir=repository)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER + lines.encode("utf-8", "surrogateescape"))
            seal(file)
        os.replace(draft, repository / _PACKED)
    finally:
        Path(draft).unlink(missing_ok=True)
    sync(repository)


@contextmanager
def _locked(repository: Path, names: Iterable[str]) -> Iterator[None]:
    """Holds git's locks of the refs and of the packed-refs file while the block runs."""
    handle, draft = tempfile.mkstemp(prefix=DRAFTS, dir=repository)
    held: list[Path] = []
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEADER)
        for name in (*names, _PACKED):
            lock = repository / f"{name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                # a link, so that the lock says from its first moment whose it is
                os.link(draft, lock)
            except FileExistsError:
                raise StoreBusy(
                    f"{lock} exists: git is at work in this repository, or died there; when no "
                    "git process is running, remove the file"
                ) from None
            held.append(lock)
        yield
    finally:
        for lock in held:
            lock.unlink(missing_ok=True)
        Path(draft).unlink(missing_ok=True)


def drop_own_locks(repository: Path) -> None:
    """Removes locks that a killed neuromirror left; the caller holds the dataset's lock."""
    for lock in (repository / f"{_PACKED}.lock", *(repository / "refs").rglob("*.lock")):
        try:
            ours = lock.read_bytes().startswith(_HEADER)
        except (FileNotFoundError, IsADirectoryError):
            continue
        # the dataset's lock is held, so a lock of ours is a dead process's
        if ours:
            lock.unlink(missing_ok=True)
