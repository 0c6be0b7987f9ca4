"""Write a state as git objects, whole or from the changes since another: mint spec 1.

The objects are a pure function of the snapshot and its parent commits (docs/reference/mint.md):
every machine writes the same object ids, at any time. No ref is moved. From the changes, only the
trees on changed paths and the logs of new or changed keys are written, and the manifest is copied
in large pieces; the objects are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from neuromirror.git import (
    BLOB,
    REGULAR_FILE_MODE,
    TREE_MODE,
    ObjectReader,
    PackWriter,
    TreeBuilder,
    write_tree,
)
from neuromirror.mint.annex_branch import annex_line
from neuromirror.mint.annex_worker import snapshot_worker
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
    load_snapshot_entries,
    parse_description,
    text_to_path,
)

# --- the whole state

_MIN_WORKER_BYTES = 8 << 20
_AFTER_ALL_PATHS = b"\xff"  # not the first byte of any UTF-8 character


class Snapshot(Struct, frozen=True):
    """A validated listing, ready to be committed.

    Attributes
    ----------
    header
        The version, the dataset's facts and documents, and the remotes.
    read_files
        Returns the files, sorted by git path; may be called more than once.
    records
        The file of record lines that ``read_files`` reads, if there is one: then a worker process
        writes the git-annex branch of a large state.
    within
        The local id of the dataset that has this one as a component; empty for a dataset of its
        own.
    """

    header: SnapshotHeader
    read_files: Callable[[], Iterator[SnapshotEntry]]
    records: Path | None = None
    within: str = ""

    @classmethod
    def from_records(cls, header: SnapshotHeader, records: Path, within: str = "") -> Snapshot:
        """Return the snapshot whose files are in a file of record lines.

        Parameters
        ----------
        header
            The header of the snapshot.
        records
            The file of record lines.
        within
            The local id of the dataset that contains this component; empty for other datasets.

        Returns
        -------
        Snapshot
            The snapshot; the file is read again each time its files are iterated.
        """
        return cls(header, lambda: _read_files(records), records, within)


def _read_files(records: Path) -> Iterator[SnapshotEntry]:
    with records.open("rb", buffering=1 << 18) as file:
        yield from load_snapshot_entries(file)


def mint(
    snapshot: Snapshot,
    repository: Path,
    parents: ParentCommits,
    label: Callable[[str], str],
    scratch: Path,
) -> MintResult:
    """Write the objects of a snapshot as packs under temporary names.

    After a failure nothing is left behind.

    Parameters
    ----------
    snapshot
        The state.
    repository
        The bare repository of the dataset; objects in its packs are not written again.
    parents
        The parent commits.
    label
        Returns the version's label for a state digest.
    scratch
        The directory in which packs and manifest are written.

    Returns
    -------
    MintResult
        The ids of the commits, and the packs, which are not yet in the repository.

    Raises
    ------
    OSError
        The disk is full.
    ValueError
        The snapshot cannot be committed, for example because two files have the same path.
    """
    with MintTransaction(
        snapshot.header, repository, parents, scratch, snapshot.within
    ) as transaction:
        records = snapshot.records
        # with the form "manifest" most records are not in git: reading them twice does not pay
        if (
            records is not None
            and transaction.header.form == "files"
            and records.stat().st_size > _MIN_WORKER_BYTES
        ):
            with snapshot_worker(records, repository, transaction, scratch) as worker:
                sums, tree = _write_main_tree(transaction, snapshot.read_files(), None)
                annex_tree, pack = worker.result()
                packs = () if pack is None else (pack,)
                with ExitStack() as undo:
                    for one in packs:
                        undo.callback(one.discard)
                    minted = transaction.finish(sums, tree, annex_tree, label, packs)
                    undo.pop_all()
                return minted
        with LineSorter(scratch) as lines:
            sums, tree = _write_main_tree(transaction, snapshot.read_files(), lines)
            return transaction.finish(sums, tree, transaction.write_annex_tree(lines), label)


def _write_main_tree(
    transaction: MintTransaction, placed_files: Iterator[SnapshotEntry], lines: LineSorter | None
) -> tuple[StateCounts, bytes]:
    """Write the tree of the main branch; return the state's counts and the tree's 20-byte id.

    The annex lines are added to ``lines``, unless a worker process reads the records itself.
    """
    pack, manifest, form = transaction.pack, transaction.manifest, transaction.header.form
    trees = TreeBuilder(pack)
    sums = StateCounts(form)
    documents = _Documents(transaction, trees)
    for placed in placed_files:
        path = placed.git_path
        if documents.next_path <= path:
            documents.add_before(path)
        manifest.add(entry_line(placed))
        sums.count(placed, 1)
        if form != "files" and not is_in_git(placed, form):
            continue
        trees.add(path, *tree_entry(pack, placed))
        line = None if lines is None else annex_line(placed)
        if line is not None:
            assert lines is not None
            lines.add(line)
    documents.add_before(_AFTER_ALL_PATHS)
    return sums, trees.finish(transaction.write_root_entries(sums))


class _Documents:
    """Adds upstream's documents to the trees, in order of path among the files.

    ``next_path`` is the path of the next document; after the last one it sorts after all paths.
    """

    def __init__(self, transaction: MintTransaction, trees: TreeBuilder) -> None:
        self._pack = transaction.pack
        self._trees = trees
        self._remaining = list(reversed(transaction.documents))
        self.next_path = self._remaining[-1].path if self._remaining else _AFTER_ALL_PATHS

    def add_before(self, path: bytes) -> None:
        """Add the documents that sort before a file; raise ValueError for one with its path."""
        while self.next_path < path:
            one = self._remaining.pop()
            self._trees.add(one.path, REGULAR_FILE_MODE, self._pack.add(BLOB, one.content))
            self.next_path = self._remaining[-1].path if self._remaining else _AFTER_ALL_PATHS
        if self.next_path == path and self._remaining:
            raise ValueError(f"a document and a file have the same path {path!r}")


# --- the changes since another state

_PATH = b'","path":"'
_SIZE = b'","size":'
_SUBDATASET_START = b'{"dataset":'
_STATE = b'","state":'
_REMEDY = "restore it from a backup, or remove it; the next sync then mints the whole state"


class UnsuitableBaseError(NeuromirrorError):
    """A delta from this base is impossible; the state must be minted whole."""


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
    UnsuitableBaseError
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
    """Yield the manifest in pieces of whole lines; raise UnsuitableBaseError."""
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
        raise UnsuitableBaseError(
            f"the manifest {manifest} cannot be read ({error}); {_REMEDY}"
        ) from error
    if digest.value() != state:
        raise UnsuitableBaseError(
            f"the manifest {manifest} does not have the digest {state}; {_REMEDY}"
        )


def _path_of(line: bytes) -> bytes:
    end = _STATE if line.startswith(_SUBDATASET_START) else _SIZE
    path = line[line.index(_PATH) + len(_PATH) : line.rindex(end)]
    if b"\\" not in path:
        return path
    found: str = json.loads(line)["path"]
    return found.encode()
