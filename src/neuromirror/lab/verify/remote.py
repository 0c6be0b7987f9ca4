"""Files looked at where they can be had, of a clone or of the manifest beside a lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from neuromirror.annex import unclaimed
from neuromirror.lab.manifests import (
    ListedFile,
    ListedPart,
    ManifestDamaged,
    ManifestMissing,
    ManifestReader,
    PlainFile,
    beside,
    canonical_line,
)
from neuromirror.lab.verify.clone import Clone, Damaged, Entry, git_id, linked_key, pointed_key
from neuromirror.lab.verify.findings import Finding
from neuromirror.lab.verify.states import file_line
from neuromirror.lab.verify.walking import (
    Expected,
    Item,
    Looked,
    PinnedFile,
    Scope,
    everything,
    unreadable,
)
from neuromirror.mint import SUBDATASET
from neuromirror.model import text


class InGit:
    """Passes on the files of clones as their commits have them, with their places."""

    def __init__(self, scope: Scope) -> None:
        self._wanted = scope.wanted

    def look(self, clone: Clone, below: bytes, entries: Iterable[Entry]) -> Iterator[Looked]:
        """The key and the places of each entry of a clone, in order."""
        for entry in entries:
            if entry.mode == SUBDATASET:
                yield Looked(entry, None)
                continue
            path = below + entry.path
            try:
                content = clone.read("blob", entry.sha)
            except Damaged as error:
                yield unreadable(entry, text(path), error)
                continue
            key = linked_key(content) or pointed_key(content)
            if key is None or not self._wanted(path):
                yield Looked(entry, key)
            else:
                yield Looked(entry, key, (PinnedFile(path, key, tuple(clone.urls(key))),))


@dataclass(slots=True)
class Counted:
    """How much is pinned, by the manifests; nobody knows where not all of them are ``known``."""

    files: int = 0
    bytes: int = 0
    known: bool = True

    def add(self, files: int, size: int) -> None:
        """So much more."""
        self.files += files
        self.bytes += size


def in_manifest(
    scope: Scope, expected: Expected, counted: Counted, below: bytes = b""
) -> Iterator[Item]:
    """Yields what a manifest, and those of its sub-datasets beside it, say of what is pinned.

    The state digest is made again of its lines, and the commit's id of the commit object in it.
    What is pinned is ``counted``.
    """
    where = text(below[:-1]) or "."
    path = expected.manifest
    assert path is not None
    parts: list[ListedPart] = []
    try:
        reader = ManifestReader(path)
        yield from _head(reader, expected, where)
        for one in reader:
            if isinstance(one, PlainFile):
                continue
            at = below + one.path.encode()
            if isinstance(one, ListedPart):
                if scope.reaches(at):
                    parts.append(one)
            elif scope.wanted(at):
                counted.add(1, one.size or 0)
                yield _listed(one, at)
    except (ManifestDamaged, ManifestMissing) as error:
        counted.known = False
        yield Finding(status="error", path=where, what="manifest", message=str(error))
        return
    if reader.head.state == expected.state:
        message = reader.head.state
        yield Finding(path=where, what="state", message=message, checked="checked")
    else:
        counted.known = False
    for part in parts:
        yield from in_manifest(
            scope,
            Expected(part.commit, state=part.state, manifest=beside(path, part.commit)),
            counted,
            below + part.path.encode() + b"/",
        )


def read_manifest(
    path: Path, state: str, scope: Scope, counted: Counted, below: bytes = b""
) -> Finding:
    """Reads a manifest to its end: whether it is that of a state. What is pinned is ``counted``.

    Those of sub-datasets are read only where a part of them is pinned.
    """
    parts: list[ListedPart] = []
    whole = scope.wanted is everything
    try:
        reader = ManifestReader(path)
        for one in reader.listed():
            at = below + one.path.encode()
            if isinstance(one, ListedFile):
                if scope.wanted(at):
                    counted.add(1, one.size or 0)
            elif whole:
                counted.add(one.files, one.bytes)
            elif scope.reaches(at):
                parts.append(one)
        found = reader.head.state
    except (ManifestDamaged, ManifestMissing) as error:
        counted.known = False
        return Finding(status="error", what="manifest", message=str(error))
    if found != state:
        counted.known = False
        message = f"the manifest is of another state: {found}, not {state}"
        return Finding(status="error", what="manifest", message=message)
    for part in parts:
        prefix = below + part.path.encode() + b"/"
        read_manifest(beside(path, part.commit), part.state, scope, counted, prefix)
    return Finding(what="manifest", message=found, checked="checked")


def _listed(one: ListedFile, path: bytes) -> Item:
    """A file to be looked at, by a key that says no more than what the state digest vouches for."""
    try:
        same = file_line(one.path.encode(), one.key) == canonical_line(one)
    except ValueError:
        same = False
    if not same:
        message = f"its key in the manifest ({one.key or 'none'}) is not of its checksum and size"
        return Finding(status="error", path=text(path), key=one.key, message=message)
    return PinnedFile(path, one.key, tuple(unclaimed(url) for url in one.urls))


def _head(reader: ManifestReader, expected: Expected, where: str) -> Iterator[Finding]:
    """Whether a manifest is that of what is expected."""
    head = reader.head
    commit = git_id("commit", head.commit_object.encode())
    if commit != expected.commit:
        message = f"the manifest is of commit {commit}, not {expected.commit}"
        yield Finding(status="error", path=where, what="commit", message=message)
    else:
        yield Finding(path=where, what="commit", message=commit, checked="checked")
    tree = head.commit_object.partition("\n")[0].removeprefix("tree ")
    if expected.tree and tree != expected.tree:
        message = f"the commit is of tree {tree}, not {expected.tree}"
        yield Finding(status="error", path=where, what="tree", message=message)
    if head.state != expected.state or f"\nState: {head.state}\n" not in head.commit_object:
        message = f"the manifest is of another state: {head.state}, not {expected.state}"
        if head.state == expected.state:
            message = f"the commit is not of the state {head.state}"
        yield Finding(status="error", path=where, what="state", message=message)
