"""A snapshot becomes git objects: mint spec 1 (docs/design.md, section 5).

A mint is a pure function of the snapshot and its parent commits: two machines, two years apart,
get the same object ids. Nothing here moves a ref. This is the writer of whole states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from neuromirror.git import BLOB, REGULAR_FILE_MODE, TreeBuilder
from neuromirror.mint.annex_branch import annex_line
from neuromirror.mint.annex_worker import AnnexWorker
from neuromirror.mint.line_sorter import LineSorter
from neuromirror.mint.state_counts import StateCounts
from neuromirror.mint.transaction import MintResult, MintTransaction, ParentCommits, tree_entry
from neuromirror.model import (
    SnapshotEntry,
    SnapshotHeader,
    entry_line,
    is_in_git,
    load_snapshot_entries,
)

_MIN_WORKER_BYTES = 8 << 20
_AFTER_ALL_PATHS = b"\xff"  # no UTF-8 begins so


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A proven state: its header, and its files sorted by git path, to be read again at will.

    ``records`` names the file of record lines that ``placed`` reads, where there is one: the
    git-annex branch of a large state is then written by a second process. ``within`` is the local
    id of the dataset of which this one is a part, empty for one that stands alone.
    """

    header: SnapshotHeader
    read_files: Callable[[], Iterator[SnapshotEntry]]
    records: Path | None = None
    within: str = ""

    @classmethod
    def from_records(cls, header: SnapshotHeader, records: Path, within: str = "") -> Snapshot:
        """The snapshot whose files are the lines of a file."""
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
    """Writes the objects of a snapshot for a bare repository, as files in ``scratch``.

    ``label`` gives the version's label from its state digest. Raises OSError when the disk is
    full; then, as after any failure, nothing is left behind.
    """
    with MintTransaction(
        snapshot.header, repository, parents, scratch, snapshot.within
    ) as transaction:
        records = snapshot.records
        # in form "manifest" git holds too little of the records to be worth reading them twice
        if (
            records is not None
            and transaction.header.form == "files"
            and records.stat().st_size > _MIN_WORKER_BYTES
        ):
            with AnnexWorker(records, repository, transaction, scratch) as worker:
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
    """Writes the tree of a state: its files, upstream's documents, sub-datasets, own files.

    Annex lines go to ``lines``.
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
    """Puts upstream's documents among the files, in order of path.

    ``following`` is the path of the next one, after all paths where there is none left.
    """

    def __init__(self, transaction: MintTransaction, trees: TreeBuilder) -> None:
        self._pack = transaction.pack
        self._trees = trees
        self._remaining = list(reversed(transaction.documents))
        self.next_path = self._remaining[-1].path if self._remaining else _AFTER_ALL_PATHS

    def add_before(self, path: bytes) -> None:
        """Adds the documents before a file's path; ValueError where one has that very path."""
        while self.next_path < path:
            one = self._remaining.pop()
            self._trees.add(one.path, REGULAR_FILE_MODE, self._pack.add(BLOB, one.content))
            self.next_path = self._remaining[-1].path if self._remaining else _AFTER_ALL_PATHS
        if self.next_path == path and self._remaining:
            raise ValueError(f"a document and a file have the path {path!r}")
