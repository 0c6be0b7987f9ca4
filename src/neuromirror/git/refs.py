"""Read the refs of a repository without git: loose refs and the packed-refs file.

Formats: git-pack-refs(1), gitrepository-layout(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from neuromirror.git.errors import InvalidRefNameError

PACKED_REFS = "packed-refs"

# git-check-ref-format(1)
_INVALID_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z")


def is_ref_name(name: str) -> bool:
    """Return whether git accepts a full name as that of a ref (git-check-ref-format(1)).

    Parameters
    ----------
    name
        A full name, such as ``refs/tags/draft``.

    Returns
    -------
    bool
        Whether the name is valid.
    """
    return name.startswith("refs/") and not _INVALID_NAME.search(name)


def ref_creation_commands(refs: Mapping[str, str]) -> str:
    """Return the input of ``git update-ref --stdin -z`` that creates refs.

    Parameters
    ----------
    refs
        Full name → commit id in hex.

    Returns
    -------
    str
        The commands, each terminated by NUL.

    Raises
    ------
    InvalidRefNameError
        git rejects a name; so no name is read as a command.
    """
    for name in refs:
        if not is_ref_name(name):
            raise InvalidRefNameError(f"{name!r} is not a valid ref name; nothing was changed")
    return "".join(f"create {name}\0{commit}\0" for name, commit in refs.items())


def read_refs(repository: Path) -> dict[str, str]:
    """Return all refs of a repository; a loose ref overrides a packed one.

    Parameters
    ----------
    repository
        The git directory.

    Returns
    -------
    dict[str, str]
        Full name → object id in hex.
    """
    refs = {name: sha for name, (sha, _) in read_packed_refs(repository).items()}
    refs.update(_read_loose_refs(repository))
    return refs


def read_loose_ref(repository: Path, name: str) -> str | None:
    """Return the content of a loose ref, given its full name; None if it is missing."""
    try:
        return _decode((repository / name).read_bytes()).strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def read_packed_refs(repository: Path) -> dict[str, tuple[str, str]]:
    """Return the refs in the packed-refs file: full name → (object id, peeled line).

    The peeled line (``^<id>``, newline included) follows an annotated tag; else it is empty.
    """
    try:
        # bytes: str.splitlines also splits at Unicode line separators, which names may contain
        lines = [_decode(line) for line in (repository / PACKED_REFS).read_bytes().splitlines(True)]
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


def info_refs_content(repository: Path) -> bytes | None:
    """Return the content of ``info/refs`` for clients of plain HTTP (gitrepository-layout(5)).

    Returns
    -------
    bytes | None
        None if only git can compute it: a loose ref may be an annotated tag.
    """
    packed = read_packed_refs(repository)
    if any(_read_loose_refs(repository)) or not _is_fully_peeled(repository):
        return None
    lines = []
    for name, (sha, peeled) in sorted(packed.items()):
        lines.append(f"{sha}\t{name}\n")
        if peeled:
            lines.append(f"{peeled[1:].strip()}\t{name}^{{}}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _read_loose_refs(repository: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((repository / "refs").rglob("*")):
        name = path.relative_to(repository).as_posix()
        if not name.endswith(".lock") and (sha := read_loose_ref(repository, name)):
            yield name, sha


def _is_fully_peeled(repository: Path) -> bool:
    """Return whether packed-refs has the peeled line of every annotated tag in it."""
    try:
        with (repository / PACKED_REFS).open("rb") as file:
            head = file.readline()
    except FileNotFoundError:
        return True
    return head.startswith(b"# pack-refs with:") and b" fully-peeled " in head


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
