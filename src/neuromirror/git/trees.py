"""Building git trees from paths that come sorted, each tree written when its last path is past."""

from __future__ import annotations

from collections.abc import Mapping

from neuromirror.annex import link_target
from neuromirror.git.objects import parse_tree
from neuromirror.git.packs import BLOB, TREE, PackWriter
from neuromirror.model import SnapshotEntry

SYMLINK_MODE = b"120000"
REGULAR_FILE_MODE = b"100644"
TREE_MODE = b"40000"
GITLINK_MODE = b"160000"


def tree_sort_key(name: bytes, mode: bytes) -> bytes:
    """What git sorts a tree's entry by: a folder as if its name ended in a slash."""
    return name + b"/" if mode == TREE_MODE else name


def tree_entry(pack: PackWriter, placed: SnapshotEntry) -> tuple[bytes, bytes]:
    """What stands for a file in a tree: mode and id of its symlink, which is written.

    Of a sub-dataset, those of its gitlink.
    """
    if placed.subdataset is None:
        return SYMLINK_MODE, pack.add(BLOB, link_target(placed.key, placed.git_path))
    commit = bytes.fromhex(placed.subdataset.commit)
    if len(commit) != 20:
        raise ValueError(f"the sub-dataset at {placed.git_path!r} has no commit")
    return GITLINK_MODE, commit


def write_tree(pack: PackWriter, entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
    """Writes one tree from name → (mode, 20-byte id), in any order, and gives its id."""
    ordered = sorted(entries.items(), key=lambda item: tree_sort_key(item[0], item[1][0]))
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
        self._open_trees = [bytearray()]

    def add(self, path: bytes, mode: bytes, sha: bytes) -> None:
        """The next path."""
        folder, _, name = path.rpartition(b"/")
        if folder != self._folder:
            self._enter_folder(folder)
        self._open_trees[-1] += b"%s %s\0%s" % (mode, name, sha)

    def _enter_folder(self, folder: bytes) -> None:
        names = folder.split(b"/") if folder else []
        shared = 0
        for here, there in zip(self._names, names, strict=False):
            if here != there:
                break
            shared += 1
        self._close_below(shared)
        for name in names[shared:]:
            self._names.append(name)
            self._open_trees.append(bytearray())
        self._folder = folder

    def _close_below(self, depth: int) -> None:
        while len(self._names) > depth:
            sha = self._pack.add(TREE, bytes(self._open_trees.pop()))
            self._open_trees[-1] += b"%s %s\0%s" % (TREE_MODE, self._names.pop(), sha)

    def finish(self, extra_entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
        """Writes what is open, with ``more`` (name → mode, id) in the root; gives the root's id."""
        self._close_below(0)
        if not extra_entries:
            return self._pack.add(TREE, bytes(self._open_trees[0]))
        entries = {name: (mode, sha) for mode, name, sha in parse_tree(bytes(self._open_trees[0]))}
        entries.update(extra_entries)
        return write_tree(self._pack, entries)
