"""Write a whole snapshot as git objects: mint spec 1 (docs/reference/mint.md).

The objects are a pure function of the snapshot and its parent commits: every machine writes the
same object ids, at any time. No ref is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from neuromirror.git import BLOB, REGULAR_FILE_MODE, TreeBuilder
from neuromirror.mint.annex_branch import annex_line
from neuromirror.mint.annex_worker import snapshot_worker
from neuromirror.mint.documents import StateCounts
from neuromirror.mint.transaction import (
    LineSorter,
    MintResult,
    MintTransaction,
    ParentCommits,
    tree_entry,
)
from neuromirror.model import (
    SnapshotEntry,
    SnapshotHeader,
    entry_line,
    is_in_git,
    load_snapshot_entries,
)

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
