"""A snapshot becomes git objects: mint spec 1 (docs/design.md, section 5).

A mint is a pure function of the snapshot and its parent commits: two machines, two years apart,
get the same object ids. Nothing here moves a ref. This is the writer of whole states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from neuromirror.annex import link_target
from neuromirror.mint.annex_branch import annex_line
from neuromirror.mint.annex_worker import AnnexWorker
from neuromirror.mint.documents import root_entries
from neuromirror.mint.packs import BLOB
from neuromirror.mint.sorting import LineSorter
from neuromirror.mint.trees import LINK, TreeBuilder
from neuromirror.mint.work import Minted, Parents, Sums, Work
from neuromirror.model import PlacedFile, SnapshotHeader, load_all, manifest_digest, manifest_line

_WORTH_A_PROCESS = 8 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A proven state: its header, and its files sorted by git path, to be read again at will.

    ``records`` names the file of record lines that ``placed`` reads, where there is one: the
    git-annex branch of a large state is then written by a second process.
    """

    header: SnapshotHeader
    placed: Callable[[], Iterator[PlacedFile]]
    records: Path | None = None

    @classmethod
    def of_records(cls, header: SnapshotHeader, records: Path) -> Snapshot:
        """The snapshot whose files are the lines of a file."""
        return cls(header, lambda: _placed(records), records)


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
    with Work(snapshot.header, repository, parents, scratch) as work:
        records = snapshot.records
        if records is not None and records.stat().st_size > _WORTH_A_PROCESS:
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
            news = _News(parents.base, lines)
            sums, tree = _main_tree(work, snapshot.placed(), news)
            return work.finish(sums, tree, work.annex_tree(lines), label)


def _main_tree(
    work: Work, placed_files: Iterator[PlacedFile], news: _News | None
) -> tuple[Sums, bytes]:
    """Writes the tree of files: symlinks, and the plain files of the root."""
    pack, manifest = work.pack, work.manifest
    trees = TreeBuilder(pack)
    sums = Sums()
    for placed in placed_files:
        path, record = placed.git_path, placed.record
        trees.add(path, LINK, pack.add(BLOB, link_target(placed.key, path)))
        manifest.add(manifest_line(path, manifest_digest(record), record.size))
        sums.count(placed, 1)
        if news is not None:
            news.take(placed)
    return sums, trees.finish(root_entries(pack, work.header, work.described(sums)))


class _News:
    """Passes on the lines that the git-annex branch may lack, as against a state it has."""

    def __init__(self, base: Callable[[], Iterator[PlacedFile]] | None, lines: LineSorter) -> None:
        self._before = iter(()) if base is None else base()
        self._old = next(self._before, None)
        self._lines = lines

    def take(self, placed: PlacedFile) -> None:
        """The next file, in order of path."""
        path, old = placed.git_path, self._old
        while old is not None and old.git_path < path:
            old = next(self._before, None)
        self._old = old
        if old is None or old.git_path != path or is_news(old, placed):
            line = annex_line(placed)
            if line is not None:
                self._lines.add(line)


def is_news(old: PlacedFile | None, new: PlacedFile) -> bool:
    """Whether the git-annex branch may lack something of ``new``, given that it has ``old``."""
    return old is None or old.key != new.key or old.record.locations != new.record.locations
