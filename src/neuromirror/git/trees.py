"""Write git trees from sorted paths, and list the files of a commit."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NamedTuple

from neuromirror.git.errors import GitError
from neuromirror.git.objects import parse_tree
from neuromirror.git.packs import TREE, PackWriter
from neuromirror.git.runner import start_git

SYMLINK_MODE = b"120000"
REGULAR_FILE_MODE = b"100644"
TREE_MODE = b"40000"
GITLINK_MODE = b"160000"


class ListedEntry(NamedTuple):
    """A file, symlink or gitlink of a commit.

    Attributes
    ----------
    mode
        The mode, in ASCII digits.
    id
        The object id in hex.
    path
        The full path.
    """

    mode: bytes
    id: str
    path: bytes


def list_tree(git_dir: Path, commit: str) -> Generator[ListedEntry, None, None]:
    """Yield all files, symlinks and gitlinks of a commit in the order of ``git ls-tree -r``.

    Parameters
    ----------
    git_dir
        The repository.
    commit
        The id of a commit or tree in hex.

    Yields
    ------
    ListedEntry
        Mode, id and full path of an entry.

    Raises
    ------
    GitError
        git cannot list the commit; raised after the entries that git did list.
    """
    with start_git(git_dir, "ls-tree", "-r", "-z", "--full-tree", commit) as process:
        assert process.stdout is not None
        rest = b""
        while block := process.stdout.read(1 << 16):
            lines = (rest + block).split(b"\0")
            rest = lines.pop()
            for line in lines:
                header, _, path = line.partition(b"\t")
                mode, _, sha = header.split(b" ")
                yield ListedEntry(mode, sha.decode(), path)
        if process.wait():
            raise GitError(f"git cannot list commit {commit} of {git_dir}")


def tree_sort_key(name: bytes, mode: bytes) -> bytes:
    """Return the key by which git sorts a tree's entries: a folder's name ends in a slash."""
    return name + b"/" if mode == TREE_MODE else name


def write_tree(pack: PackWriter, entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
    """Write one tree from entries in any order: name → (mode, 20-byte id).

    Parameters
    ----------
    pack
        The pack that gets the tree object.
    entries
        Name → (mode, 20-byte id).

    Returns
    -------
    bytes
        The tree's 20-byte id.
    """
    ordered = sorted(entries.items(), key=lambda item: tree_sort_key(item[0], item[1][0]))
    return pack.add(
        TREE, b"".join(b"%s %s\0%s" % (mode, name, sha) for name, (mode, sha) in ordered)
    )


class TreeBuilder:
    """Writes the trees of many paths, which are added in order of their bytes.

    That order is git's order within each tree: the path of a file in a folder continues with a
    slash, and git sorts the folder's name as if it ended in one. A tree is written as soon as a
    path outside of it is added, so only the open folders are in memory.
    """

    def __init__(self, pack: PackWriter) -> None:
        self._pack = pack
        self._folder = b""
        self._names: list[bytes] = []
        self._open_trees = [bytearray()]

    def add(self, path: bytes, mode: bytes, sha: bytes) -> None:
        """Add a path that sorts after all earlier ones.

        Parameters
        ----------
        path
            The path in git, in bytes.
        mode
            The mode of the entry, such as ``b"100644"``.
        sha
            The entry's 20-byte id.
        """
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
        """Write the open trees; return the root's 20-byte id.

        Parameters
        ----------
        extra_entries
            More entries of the root, which replace those of the same name: name → (mode, id).

        Returns
        -------
        bytes
            The root's 20-byte id.
        """
        self._close_below(0)
        if not extra_entries:
            return self._pack.add(TREE, bytes(self._open_trees[0]))
        entries = {name: (mode, sha) for mode, name, sha in parse_tree(bytes(self._open_trees[0]))}
        entries.update(extra_entries)
        return write_tree(self._pack, entries)
