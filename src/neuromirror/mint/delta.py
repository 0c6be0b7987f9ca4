"""The delta writer: a state minted from the state before and what changed.

It touches the trees on changed paths and the log files of new or changed keys, and passes over the
manifest in large pieces; the objects are those the whole-state writer makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from neuromirror.annex import link_target
from neuromirror.mint.annex_branch import annex_line
from neuromirror.mint.documents import OWN_NAMES, root_entries
from neuromirror.mint.mint import is_news
from neuromirror.mint.objects import ObjectReader
from neuromirror.mint.packs import BLOB, PackWriter
from neuromirror.mint.sorting import LineSorter
from neuromirror.mint.trees import FOLDER, LINK, write_tree
from neuromirror.mint.work import Minted, Parents, Sums, Work
from neuromirror.model import (
    Change,
    NeuromirrorError,
    PlacedFile,
    SnapshotHeader,
    StateDigest,
    manifest_digest,
    manifest_line,
    raw,
)

_PIECE = 1 << 16
_PATH = b'","path":"'
_SIZE = b'","size":'
_REMEDY = "restore it from a backup, or remove it: the next sync then does without it"


class ManifestDamaged(NeuromirrorError):
    """The canonical manifest of a state in the store is missing, or of other content."""


@dataclass(frozen=True, slots=True)
class Base:
    """The state a delta starts from: its commit (hex), and its canonical manifest (zstd)."""

    commit: str
    manifest: Path


def mint_delta(
    header: SnapshotHeader,
    changes: Callable[[], Iterator[Change]],
    base: Base,
    repository: Path,
    parents: Parents,
    label: Callable[[str], str],
    scratch: Path,
) -> Minted:
    """Writes the objects of a state that differs from ``base`` by ``changes``.

    ``changes`` are sorted by git path, to be read again at will; they are held in memory, so that
    a state which shares little with its base is better minted whole. ``parents.base`` is not
    used. Gives what :func:`neuromirror.mint.mint` gives, object for object.
    """
    with (
        Work(header, repository, parents, scratch) as work,
        LineSorter(scratch) as lines,
    ):
        described = json.loads(work.reader.read(f"{base.commit}:.neuromirror/dataset.json"))
        sums, documents = _sums(described)
        edits = _Folder()
        for old, new in changes():
            if old is not None:
                sums.count(old, -1)
            if new is not None:
                sums.count(new, 1)
                line = annex_line(new) if is_news(old, new) else None
                if line is not None:
                    lines.add(line)
            edits.change(old, new, work.pack)
        for piece in patched_manifest(base.manifest, described["state"], changes()):
            work.manifest.add(piece)
        root = work.reader.tree(work.reader.commit_tree(base.commit))
        for name in (*OWN_NAMES, *documents):
            root.pop(name, None)
        _edit(work.pack, work.reader, root, edits)
        root.update(root_entries(work.pack, header, work.described(sums)))
        return work.finish(sums, write_tree(work.pack, root), work.annex_tree(lines), label)


def _sums(content: dict[str, Any]) -> tuple[Sums, list[bytes]]:
    """The counts of a state's own document, and the names of upstream's documents in it."""
    sums = Sums(content["files"], content["bytes"], content["evidence"], content["escaped"])
    return sums, [raw(name) for name in content["documents"]]


class _Folder:
    """What is to change below a folder: entries by name (None: gone), and folders by name."""

    __slots__ = ("entries", "folders")

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes | None] = {}
        self.folders: dict[bytes, _Folder] = {}

    def change(self, old: PlacedFile | None, new: PlacedFile | None, pack: PackWriter) -> None:
        """Takes in one change; the link of a new or changed file is written."""
        placed = new or old
        assert placed is not None
        if old is not None and new is not None and old.key == new.key:
            return
        sha = None if new is None else pack.add(BLOB, link_target(new.key, new.git_path))
        folder = self
        *names, last = placed.git_path.split(b"/")
        for name in names:
            folder = folder.folders.setdefault(name, _Folder())
        folder.entries[last] = sha


def _edit(
    pack: PackWriter, reader: ObjectReader, tree: dict[bytes, tuple[bytes, bytes]], edits: _Folder
) -> None:
    """Changes a tree's entries in place, writing the folders below that change."""
    for name, sha in edits.entries.items():
        if sha is not None:
            tree[name] = (LINK, sha)
        elif name in tree and tree[name][0] != FOLDER:
            del tree[name]
    for name, below in edits.folders.items():
        old = tree.get(name)
        inner = reader.tree(old[1]) if old is not None and old[0] == FOLDER else {}
        _edit(pack, reader, inner, below)
        if inner:
            tree[name] = (FOLDER, write_tree(pack, inner))
        elif old is not None and old[0] == FOLDER:
            del tree[name]


def patched_manifest(manifest: Path, state: str, changes: Iterable[Change]) -> Iterator[bytes]:
    """The lines of a state's manifest after changes, in pieces of whole lines.

    Raises ManifestDamaged, at the latest at its end, where the manifest is not that of ``state``:
    what is made of it would have a wrong digest for ever.
    """
    pending = _manifest_edits(changes)
    edit = next(pending, None)
    for piece in _pieces(manifest, state):
        if edit is None or edit[0] > _path_of(piece[piece.rfind(b"\n", 0, -1) + 1 :]):
            yield piece
            continue
        for line in piece.splitlines(True):
            path = _path_of(line)
            while edit is not None and edit[0] < path:
                if edit[1] is not None:
                    yield edit[1]
                edit = next(pending, None)
            if edit is not None and edit[0] == path:
                if edit[1] is not None:
                    yield edit[1]
                edit = next(pending, None)
            else:
                yield line
    while edit is not None:
        if edit[1] is not None:
            yield edit[1]
        edit = next(pending, None)


def _manifest_edits(changes: Iterable[Change]) -> Iterator[tuple[bytes, bytes | None]]:
    for old, new in changes:
        if new is not None:
            record = new.record
            line = manifest_line(new.git_path, manifest_digest(record), record.size)
            yield new.git_path, line
        elif old is not None:
            yield old.git_path, None


def _pieces(manifest: Path, state: str) -> Iterator[bytes]:
    """The manifest in pieces of whole lines."""
    rest = b""
    digest = StateDigest()
    try:
        with manifest.open("rb") as file:
            for block in zstandard.ZstdDecompressor().read_to_iter(file, write_size=_PIECE):
                digest.add(block)
                end = block.rfind(b"\n") + 1
                if end:
                    yield rest + block[:end]
                    rest = block[end:]
                else:
                    rest += block
    except (FileNotFoundError, zstandard.ZstdError) as error:
        raise ManifestDamaged(
            f"the manifest {manifest} cannot be read ({error}); {_REMEDY}"
        ) from error
    if digest.value() != state:
        raise ManifestDamaged(f"the manifest {manifest} is not that of {state}; {_REMEDY}")


def _path_of(line: bytes) -> bytes:
    path = line[line.index(_PATH) + len(_PATH) : line.rindex(_SIZE)]
    if b"\\" not in path:
        return path
    found: str = json.loads(line)["path"]
    return found.encode()
