"""Building git trees from paths that come sorted, each tree written when its last path is past."""

from __future__ import annotations

from collections.abc import Mapping

from neuromirror.annex import link_target
from neuromirror.mint.objects import parse_tree
from neuromirror.mint.packs import BLOB, TREE, PackWriter
from neuromirror.model import PlacedFile

LINK = b"120000"
FILE = b"100644"
FOLDER = b"40000"
SUBDATASET = b"160000"


def tree_order(name: bytes, mode: bytes) -> bytes:
    """What git sorts a tree's entry by: a folder as if its name ended in a slash."""
    return name + b"/" if mode == FOLDER else name


def tree_entry(pack: PackWriter, placed: PlacedFile) -> tuple[bytes, bytes]:
    """What stands for a file in a tree: mode and id of its symlink, which is written.

    Of a sub-dataset, those of its gitlink.
    """
    if placed.part is None:
        return LINK, pack.add(BLOB, link_target(placed.key, placed.git_path))
    commit = bytes.fromhex(placed.part.commit)
    if len(commit) != 20:
        raise ValueError(f"the sub-dataset at {placed.git_path!r} has no commit")
    return SUBDATASET, commit


def write_tree(pack: PackWriter, entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
    """Writes one tree from name → (mode, 20-byte id), in any order, and gives its id."""
    ordered = sorted(entries.items(), key=lambda item: tree_order(item[0], item[1][0]))
    return pack.add(
        TREE, b"".join(b"%s %s\0%s" % (mode, name, sha) for name, (mode, sha) in ordered)
    )


class TreeBuilder:
    """Takes (path, mode, id) sorted by path bytes and writes the trees.

    Sorted paths are in git's tree order by themselves: a folder's paths go on with a slash, which
    is just what git sorts a folder's name with. Only the open folders are in memory.
    """

    def __init__(self, pack: PackWriter) -> None:
        self._pack = pack
        self._folder = b""
        self._names: list[bytes] = []
        self._open = [bytearray()]

    def add(self, path: bytes, mode: bytes, sha: bytes) -> None:
        """The next path."""
        folder, _, name = path.rpartition(b"/")
        if folder != self._folder:
            self._move(folder)
        self._open[-1] += b"%s %s\0%s" % (mode, name, sha)

    def _move(self, folder: bytes) -> None:
        names = folder.split(b"/") if folder else []
        shared = 0
        for here, there in zip(self._names, names, strict=False):
            if here != there:
                break
            shared += 1
        self._close_to(shared)
        for name in names[shared:]:
            self._names.append(name)
            self._open.append(bytearray())
        self._folder = folder

    def _close_to(self, depth: int) -> None:
        while len(self._names) > depth:
            sha = self._pack.add(TREE, bytes(self._open.pop()))
            self._open[-1] += b"%s %s\0%s" % (FOLDER, self._names.pop(), sha)

    def finish(self, more: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
        """Writes what is open, with ``more`` (name → mode, id) in the root; gives the root's id."""
        self._close_to(0)
        if not more:
            return self._pack.add(TREE, bytes(self._open[0]))
        entries = {name: (mode, sha) for mode, name, sha in parse_tree(bytes(self._open[0]))}
        entries.update(more)
        return write_tree(self._pack, entries)
