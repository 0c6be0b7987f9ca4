"""A dataset's commit, trees and state, hashed while its files and sub-datasets are passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from neuromirror.lab.manifests import beside
from neuromirror.lab.results import Status
from neuromirror.lab.verify.clone import Clone, Damaged, Described, Entry, NotADataset
from neuromirror.lab.verify.findings import NOT_HERE, Finding
from neuromirror.lab.verify.states import OfGit, OfManifest, Recomputed, file_line
from neuromirror.mint import SUBDATASET
from neuromirror.model import subdataset_line, text


class PinnedFile(NamedTuple):
    """A file whose bytes are to be had: its path, its key, and its places, best first."""

    path: bytes
    key: str
    urls: tuple[str, ...]


Item = Finding | PinnedFile
"""What there is to say, or something that is still to be looked at."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of an entry: ``key`` is that of an annexed file, None for anything else."""

    entry: Entry
    key: str | None
    items: tuple[Item, ...] = ()


def unreadable(entry: Entry, path: str, error: Damaged) -> Looked:
    """An entry of which git cannot say what it is."""
    message = str(error)
    return Looked(
        entry, None, (Finding(status="error", path=path, what="document", message=message),)
    )


def everything(path: bytes) -> bool:
    """True of each path."""
    return True


@dataclass(frozen=True, slots=True)
class Scope:
    """What matters of a dataset, by paths from the outermost one.

    ``wanted`` tells of a file whether it does, ``reaches`` of a sub-dataset whether a file in it
    may. ``absent`` is the status of content and sub-datasets that are not here.
    """

    wanted: Callable[[bytes], bool] = everything
    reaches: Callable[[bytes], bool] = everything
    absent: Status = "impossible"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a dataset is to be; what is empty is not known, and not compared.

    ``manifest`` is where the manifest of this very state is.
    """

    commit: str
    tree: str = ""
    state: str = ""
    manifest: Path | None = None


class Way(Protocol):
    """How files are looked at: in a work tree, or at their places."""

    def look(self, clone: Clone, below: bytes, entries: Iterable[Entry]) -> Iterator[Looked]:
        """What came of each entry of a clone, which stands in the folder ``below``, in order."""
        ...


def walk(
    way: Way, scope: Scope, clone: Clone, expected: Expected, below: bytes = b""
) -> Iterator[Item]:
    """Yields all there is to say of a dataset, files in order of path, then its sub-datasets.

    ``below`` is the folder of a sub-dataset in the outermost dataset, with a slash at its end.
    """
    where = text(below[:-1]) or "."
    try:
        described = clone.described(expected.commit)
    except Damaged as error:
        yield Finding(status="error", path=where, what="commit", message=str(error))
        return
    yield Finding(path=where, what="commit", message=described.commit, checked="checked")
    if expected.tree and expected.tree != described.tree:
        message = f"the commit is of tree {described.tree}, not {expected.tree}"
        yield Finding(status="error", path=where, what="tree", message=message)
    state = _recomputed(expected, described)
    parts: list[Entry] = []
    try:
        for looked in way.look(clone, below, clone.entries(described.tree)):
            entry, key = looked.entry, looked.key
            if entry.mode == SUBDATASET:
                parts.append(entry)
                told = _part(described, entry)
                state.add(entry.path, _part_line(clone, told))
            elif key is not None:
                state.add(entry.path, _line(entry.path, key))
            yield from looked.items
    except Damaged as error:
        yield Finding(status="error", path=where, what="tree", message=str(error))
        return
    yield Finding(path=where, what="tree", message=described.tree, checked="checked")
    yield from _state(state, expected, described, scope, where)
    for entry in parts:
        if scope.reaches(below + entry.path):
            yield from _walk_part(way, scope, clone, expected, _part(described, entry), below)


class _Part(NamedTuple):
    """A sub-dataset as the dataset around it tells of it."""

    entry: Entry
    dataset_id: str
    state: str
    files: int


def _part(described: Described, entry: Entry) -> _Part:
    told = described.parts.get(text(entry.path))
    if not isinstance(told, dict):
        return _Part(entry, "", "", 0)
    files = told.get("files")
    count = files if isinstance(files, int) else 0
    return _Part(entry, str(told.get("id", "")), str(told.get("state", "")), count)


def _part_line(clone: Clone, part: _Part) -> bytes:
    """Return the line of a sub-dataset in the canonical manifest; raises Damaged."""
    try:
        return subdataset_line(part.entry.path, part.dataset_id, part.state)
    except UnicodeError as error:
        raise Damaged(
            f"{clone.git_dir}: no mirror makes the sub-dataset {part.entry.path!r}: its "
            "name, id or state is not UTF-8"
        ) from error


def _recomputed(expected: Expected, described: Described) -> Recomputed:
    wanted = expected.state or described.state
    if described.form != "files" and expected.manifest is not None:
        return OfManifest(wanted, expected.manifest)
    return OfGit(wanted)


def _state(
    state: Recomputed, expected: Expected, described: Described, scope: Scope, where: str
) -> Iterator[Finding]:
    if not (expected.state or described.state):
        return  # nobody says what it is to be
    only = described.only_files
    if described.form != "files" and expected.manifest is None:
        message = (
            f"{only} of its files are not in git but in a manifest, which is at hand only where a "
            "lock pins them: neither they nor the state digest can be checked"
        )
        yield Finding(status=scope.absent, path=where, what="state", message=message)
        return
    found = state.finding()
    yield found.at(where)
    if only:
        message = f"{NOT_HERE}: {only} files that are not in git but in the manifest"
        yield Finding(status=scope.absent, path=where, what="part", message=message)


def _line(path: bytes, key: str) -> bytes:
    try:
        return file_line(path, key)
    except ValueError:
        return b""  # the file itself is told of, and the digest will be another


def _walk_part(
    way: Way, scope: Scope, clone: Clone, expected: Expected, part: _Part, below: bytes
) -> Iterator[Item]:
    path = below + part.entry.path
    folder = None if clone.root is None else clone.root / text(part.entry.path)
    try:
        if folder is None or not (folder / ".git").exists():
            raise NotADataset(f"{NOT_HERE}: a sub-dataset of {part.files} files")
        inner = Clone.at(folder)
    except NotADataset as error:
        yield Finding(status=scope.absent, path=text(path), what="part", message=str(error))
        return
    with inner:
        commit = part.entry.sha
        if (found := inner.head()) != commit:
            message = f"it is at commit {found}, not {commit}"
            yield Finding(status="error", path=text(path), what="part", message=message)
            if not inner.has(commit):
                return
        manifest = expected.manifest and beside(expected.manifest, commit)
        there = manifest if manifest is not None and manifest.exists() else None
        yield from walk(
            way, scope, inner, Expected(commit, state=part.state, manifest=there), path + b"/"
        )
