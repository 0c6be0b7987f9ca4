"""A snapshot becomes git objects: mint spec 1 (docs/design.md, section 5).

A mint is a pure function of the snapshot and its parent commits: two machines, two years apart,
get the same object ids. Nothing here moves a ref. This is the writer of whole states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from neuromirror.mint.annex_branch import annex_line
from neuromirror.mint.annex_worker import AnnexWorker
from neuromirror.mint.packs import BLOB
from neuromirror.mint.sorting import LineSorter
from neuromirror.mint.sums import Sums
from neuromirror.mint.trees import FILE, TreeBuilder, tree_entry
from neuromirror.mint.work import Minted, Parents, Work
from neuromirror.model import PlacedFile, SnapshotHeader, in_git, load_all, placed_line

_WORTH_A_PROCESS = 8 << 20
_AFTER_ALL = b"\xff"  # no UTF-8 begins so


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A proven state: its header, and its files sorted by git path, to be read again at will.

    ``records`` names the file of record lines that ``placed`` reads, where there is one: the
    git-annex branch of a large state is then written by a second process. ``within`` is the local
    id of the dataset of which this one is a part, empty for one that stands alone.
    """

    header: SnapshotHeader
    placed: Callable[[], Iterator[PlacedFile]]
    records: Path | None = None
    within: str = ""

    @classmethod
    def of_records(cls, header: SnapshotHeader, records: Path, within: str = "") -> Snapshot:
        """The snapshot whose files are the lines of a file."""
        return cls(header, lambda: _placed(records), records, within)


def _placed(records: Path) -> Iterator[PlacedFile]:
    with records.open("rb", buffering=1 << 18) as file:
        yield from load_all(file)


def mint(
    snapshot: Snapshot,
    repository: Path,
    parents: Parents,
    label: Callable[[str], str],
    scratch: Path,
) -> Minted:
    """Writes the objects of a snapshot for a bare repository, as files in ``scratch``.

    ``label`` gives the version's label from its state digest. Raises OSError when the disk is
    full; then, as after any failure, nothing is left behind.
    """
    with Work(snapshot.header, repository, parents, scratch, snapshot.within) as work:
        records = snapshot.records
        # in form "manifest" git holds too little of the records to be worth reading them twice
        if (
            records is not None
            and work.header.form == "files"
            and records.stat().st_size > _WORTH_A_PROCESS
        ):
            with AnnexWorker(records, repository, work, scratch) as worker:
                sums, tree = _main_tree(work, snapshot.placed(), None)
                annex_tree, pack = worker.result()
                packs = () if pack is None else (pack,)
                with ExitStack() as undo:
                    for one in packs:
                        undo.callback(one.discard)
                    minted = work.finish(sums, tree, annex_tree, label, packs)
                    undo.pop_all()
                return minted
        with LineSorter(scratch) as lines:
            sums, tree = _main_tree(work, snapshot.placed(), lines)
            return work.finish(sums, tree, work.annex_tree(lines), label)


def _main_tree(
    work: Work, placed_files: Iterator[PlacedFile], lines: LineSorter | None
) -> tuple[Sums, bytes]:
    """Writes the tree of a state: its files, upstream's documents, sub-datasets, own files.

    Annex lines go to ``lines``.
    """
    pack, manifest, form = work.pack, work.manifest, work.header.form
    trees = TreeBuilder(pack)
    sums = Sums(form)
    documents = _Documents(work, trees)
    for placed in placed_files:
        path = placed.git_path
        if documents.following <= path:
            documents.add_before(path)
        manifest.add(placed_line(placed))
        sums.count(placed, 1)
        if form != "files" and not in_git(placed, form):
            continue
        trees.add(path, *tree_entry(pack, placed))
        line = None if lines is None else annex_line(placed)
        if line is not None:
            assert lines is not None
            lines.add(line)
    documents.add_before(_AFTER_ALL)
    return sums, trees.finish(work.root_entries(sums))


class _Documents:
    """Puts upstream's documents among the files, in order of path.

    ``following`` is the path of the next one, after all paths where there is none left.
    """

    def __init__(self, work: Work, trees: TreeBuilder) -> None:
        self._pack = work.pack
        self._trees = trees
        self._left = list(reversed(work.documents))
        self.following = self._left[-1].path if self._left else _AFTER_ALL

    def add_before(self, path: bytes) -> None:
        """Adds the documents before a file's path; ValueError where one has that very path."""
        while self.following < path:
            one = self._left.pop()
            self._trees.add(one.path, FILE, self._pack.add(BLOB, one.content))
            self.following = self._left[-1].path if self._left else _AFTER_ALL
        if self.following == path and self._left:
            raise ValueError(f"a document and a file have the path {path!r}")
