"""Mint a state from the preceding state and the changes since.

Only the trees on changed paths and the logs of new or changed keys are written; the manifest is
copied in large pieces. The objects are the same as those of the whole-state writer
(:mod:`neuromirror.mint.snapshot_writer`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from neuromirror.git import BLOB, REGULAR_FILE_MODE, TREE_MODE, ObjectReader, PackWriter, write_tree
from neuromirror.mint.annex_branch import annex_line
from neuromirror.mint.documents import OWN_NAMES, StateCounts
from neuromirror.mint.seekable_lines import ZstdFrameError, decompress_frame
from neuromirror.mint.transaction import (
    LineSorter,
    MintResult,
    MintTransaction,
    ParentCommits,
    tree_entry,
)
from neuromirror.model import (
    DESCRIPTION_PATH,
    Change,
    NeuromirrorError,
    SnapshotEntry,
    SnapshotHeader,
    StateDigest,
    entry_line,
    is_in_git,
    parse_description,
    text_to_path,
)

_PATH = b'","path":"'
_SIZE = b'","size":'
_SUBDATASET_START = b'{"dataset":'
_STATE = b'","state":'
_REMEDY = "restore it from a backup, or remove it; the next sync then mints the whole state"


class UnsuitableBaseError(NeuromirrorError):
    """A delta from this base is impossible; the state must be minted whole."""


class BaseManifestDamagedError(UnsuitableBaseError):
    """The canonical manifest of the base is missing or damaged."""


class DeltaBase(Struct, frozen=True):
    """The state from which a delta starts.

    Attributes
    ----------
    commit
        The commit id in hex.
    manifest
        The canonical manifest (zstd).
    """

    commit: str
    manifest: Path


def mint_delta(
    header: SnapshotHeader,
    changes: Callable[[], Iterator[Change]],
    base: DeltaBase,
    repository: Path,
    parents: ParentCommits,
    label: Callable[[str], str],
    scratch: Path,
    within: str = "",
) -> MintResult:
    """Write the objects of a state that differs from ``base`` by ``changes``.

    The objects are the same as those of :func:`neuromirror.mint.mint`.

    Parameters
    ----------
    header
        The state's header.
    changes
        Returns the changes since the base, sorted by git path; called twice. Edits are kept in
        memory: mint a state whole if it shares little with the base.
    base
        The state from which the delta starts.
    repository
        The bare repository, which has the base.
    parents
        The parent commits.
    label
        Returns the version's label for a state digest.
    scratch
        The directory in which packs and manifest are written.
    within
        The local id of the dataset that has this one as a component; empty for a dataset of its
        own.

    Returns
    -------
    MintResult
        The ids of the commits, and the packs, which are not yet in the repository.

    Raises
    ------
    UnsuitableBaseError
        The base has another form than the state, or its manifest is damaged.
    OSError
        The disk is full; nothing is left behind.
    """
    with (
        MintTransaction(header, repository, parents, scratch, within) as transaction,
        LineSorter(scratch) as lines,
    ):
        description = parse_description(
            transaction.reader.read(f"{base.commit}:{DESCRIPTION_PATH}"),
            f"commit {base.commit}: {DESCRIPTION_PATH}",
        )
        sums = StateCounts.from_description(description)
        if sums.form != header.form:
            raise UnsuitableBaseError(
                f"{header.version.dataset.name}: the base has the form {sums.form!r}, the state "
                f"{header.form!r}; mint the state whole"
            )
        edits = _FolderEdits()
        for old, new in changes():
            if old is not None:
                sums.count(old, -1)
            if new is not None:
                sums.count(new, 1)
                line = annex_line(new) if _needs_annex_line(old, new, sums.form) else None
                if line is not None:
                    lines.add(line)
            edits.change(old, new, sums.form, transaction.pack)
        for name in description["documents"]:
            edits.drop(text_to_path(name))
        for document in transaction.documents:
            edits.put(
                document.path, (REGULAR_FILE_MODE, transaction.pack.add(BLOB, document.content))
            )
        for piece in patch_manifest(base.manifest, description["state"], changes()):
            transaction.manifest.add(piece)
        root = transaction.reader.read_tree(transaction.reader.read_commit_tree(base.commit))
        for own in OWN_NAMES:
            root.pop(own, None)
        _apply_edits(transaction.pack, transaction.reader, root, edits)
        root.update(transaction.write_root_entries(sums))
        return transaction.finish(
            sums, write_tree(transaction.pack, root), transaction.write_annex_tree(lines), label
        )


def _needs_annex_line(old: SnapshotEntry | None, new: SnapshotEntry, form: str) -> bool:
    """Return whether a branch with the logs of ``old`` may lack some of ``new``."""
    if not is_in_git(new, form):
        return False
    return old is None or old.key != new.key or old.record.locations != new.record.locations


class _FolderEdits:
    """The changes in a folder: new entries by name (None: removed), and changed folders by name."""

    __slots__ = ("entries", "folders")

    def __init__(self) -> None:
        self.entries: dict[bytes, tuple[bytes, bytes] | None] = {}
        self.folders: dict[bytes, _FolderEdits] = {}

    def change(
        self, old: SnapshotEntry | None, new: SnapshotEntry | None, form: str, pack: PackWriter
    ) -> None:
        """Record one change; the symlink of a new or changed file is written."""
        old = old if old is not None and is_in_git(old, form) else None
        new = new if new is not None and is_in_git(new, form) else None
        if new is None:
            if old is not None:
                self.drop(old.git_path)
        elif old is None or (old.key, old.subdataset) != (new.key, new.subdataset):
            self.put(new.git_path, tree_entry(pack, new))

    def put(self, path: bytes, entry: tuple[bytes, bytes]) -> None:
        """Set the entry at a path."""
        folder, name = self._locate(path)
        folder.entries[name] = entry

    def drop(self, path: bytes) -> None:
        """Remove the entry at a path, unless :meth:`put` sets one, before or after."""
        folder, name = self._locate(path)
        folder.entries.setdefault(name, None)

    def _locate(self, path: bytes) -> tuple[_FolderEdits, bytes]:
        folder = self
        *names, last = path.split(b"/")
        for name in names:
            folder = folder.folders.setdefault(name, _FolderEdits())
        return folder, last


def _apply_edits(
    pack: PackWriter,
    reader: ObjectReader,
    tree: dict[bytes, tuple[bytes, bytes]],
    edits: _FolderEdits,
) -> None:
    """Change a tree's entries in place; write the folders below it that change."""
    _change_entries(tree, edits)
    # not recursive: a path may have more folders than Python's recursion limit
    opened = [(b"", tree, iter(edits.folders.items()))]
    while opened:
        name, inner, rest = opened[-1]
        for below_name, below in rest:
            old = inner.get(below_name)
            found = reader.read_tree(old[1]) if old is not None and old[0] == TREE_MODE else {}
            _change_entries(found, below)
            opened.append((below_name, found, iter(below.folders.items())))
            break
        else:
            opened.pop()
            if opened:
                _set_folder(pack, opened[-1][1], name, inner)


def _change_entries(tree: dict[bytes, tuple[bytes, bytes]], edits: _FolderEdits) -> None:
    """Change the entries of a tree that are not folders."""
    for name, entry in edits.entries.items():
        if entry is not None:
            tree[name] = entry
        elif name in tree and tree[name][0] != TREE_MODE:
            del tree[name]


def _set_folder(
    pack: PackWriter,
    tree: dict[bytes, tuple[bytes, bytes]],
    name: bytes,
    inner: dict[bytes, tuple[bytes, bytes]],
) -> None:
    """Write a folder, and set its entry in a tree; remove the entry of an empty folder."""
    old = tree.get(name)
    if inner:
        tree[name] = (TREE_MODE, write_tree(pack, inner))
    elif old is not None and old[0] == TREE_MODE:
        del tree[name]


def patch_manifest(manifest: Path, state: str, changes: Iterable[Change]) -> Iterator[bytes]:
    """Yield a manifest with changes applied, in pieces of whole lines.

    Parameters
    ----------
    manifest
        The manifest to change (zstd).
    state
        The state digest of the manifest.
    changes
        The changes, sorted by git path.

    Raises
    ------
    BaseManifestDamagedError
        The manifest has another digest, which is known only after its last line.
    """
    pending = _manifest_edits(changes)
    edit = next(pending, None)
    for piece in _read_pieces(manifest, state):
        if edit is None or edit[0] > _path_of(piece[piece.rfind(b"\n", 0, -1) + 1 :]):
            yield piece
            continue
        for line in piece.splitlines(True):
            path = _path_of(line)
            while edit is not None and edit[0] < path:
                yield edit[1]
                edit = next(pending, None)
            if edit is not None and edit[0] == path:
                yield edit[1]
                edit = next(pending, None)
            else:
                yield line
    while edit is not None:
        yield edit[1]
        edit = next(pending, None)


def _manifest_edits(changes: Iterable[Change]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the path and the new line of each change; the line of a removed file is empty."""
    for old, new in changes:
        if new is not None:
            yield new.git_path, entry_line(new)
        elif old is not None:
            yield old.git_path, b""


def _read_pieces(manifest: Path, state: str) -> Iterator[bytes]:
    """Yield the manifest in pieces of whole lines; raise BaseManifestDamagedError."""
    digest = StateDigest()
    rest: list[bytes] = []
    try:
        with manifest.open("rb") as file:
            for piece in decompress_frame(file):
                digest.add(piece)
                end = piece.rfind(b"\n") + 1
                if end:
                    yield b"".join([*rest, piece[:end]])
                    rest.clear()
                rest.append(piece[end:])
    except (FileNotFoundError, ZstdFrameError) as error:
        raise BaseManifestDamagedError(
            f"the manifest {manifest} cannot be read ({error}); {_REMEDY}"
        ) from error
    if digest.value() != state:
        raise BaseManifestDamagedError(
            f"the manifest {manifest} does not have the digest {state}; {_REMEDY}"
        )


def _path_of(line: bytes) -> bytes:
    end = _STATE if line.startswith(_SUBDATASET_START) else _SIZE
    path = line[line.index(_PATH) + len(_PATH) : line.rindex(end)]
    if b"\\" not in path:
        return path
    found: str = json.loads(line)["path"]
    return found.encode()
