"""Write the trees of a branch with git-annex's logs, from sorted lines about keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from neuromirror.git import (
    BLOB,
    REGULAR_FILE_MODE,
    TREE_MODE,
    ObjectReader,
    PackWriter,
    write_tree,
)

Entries = dict[bytes, tuple[bytes, bytes]]
"""The entries of a tree: name → mode and 20-byte id."""


class LogTreeWriter(ABC):
    """Merges lines about keys into the trees of a branch.

    A line is ``<hash directories>/<key file>.log NUL value NUL value …``. Of the old branch, only
    the trees and logs of keys in the lines are read.

    Parameters
    ----------
    pack
        Where the objects are written.
    reader
        Reads the objects of the old branch.
    timestamp
        The time of new log lines, in whole seconds since the epoch.
    root
        The 20-byte id of the old branch's tree; None if there is no branch yet.
    """

    def __init__(
        self, pack: PackWriter, reader: ObjectReader, timestamp: int, root: bytes | None
    ) -> None:
        self._pack = pack
        self._reader = reader
        self._timestamp = timestamp
        self._root = root

    @abstractmethod
    def merge_logs(self, tree: Entries, name: bytes, values: list[bytes]) -> None:
        """Merge the values of a key into its logs in the tree of a leaf folder.

        Parameters
        ----------
        tree
            The folder's entries, which are changed.
        name
            The name of the key's location log.
        values
            The values of the key's lines, each once.
        """

    def merge_lines(self, lines: Iterable[bytes]) -> Entries:
        """Merge sorted lines into the old branch; return the entries of its new root tree."""
        root = self._read_tree(self._root)
        for top, group in groupby(lines, key=lambda line: line[:3]):
            root[top] = (TREE_MODE, self._write_top_folder(group, _folder_id(root, top)))
        return root

    def write_root(self, root: Entries, settings: Mapping[str, Sequence[bytes]]) -> bytes:
        """Write the root tree with further lines of the files in it; return its 20-byte id.

        Parameters
        ----------
        root
            The entries, which are changed.
        settings
            Lines to add, by file name. A line is not added where the newest line of its remote
            differs from it in the timestamp only.
        """
        for name, added in settings.items():
            root[name.encode()] = (
                REGULAR_FILE_MODE,
                self._write_settings(root.get(name.encode()), added),
            )
        return write_tree(self._pack, root)

    def write_leaf_folder(self, lines: Iterable[bytes], old: bytes | None) -> bytes:
        """Merge the lines of a leaf folder into its old tree; return the id of the new one."""
        tree = self._read_tree(old)
        for path, values in _group_by_key(lines):
            self.merge_logs(tree, path[8:], values)
        return write_tree(self._pack, tree)

    def _write_top_folder(self, lines: Iterable[bytes], old: bytes | None) -> bytes:
        tree = self._read_tree(old)
        for leaf, group in groupby(lines, key=lambda line: line[4:7]):
            tree[leaf] = (TREE_MODE, self.write_leaf_folder(group, _folder_id(tree, leaf)))
        return write_tree(self._pack, tree)

    def _read_tree(self, sha: bytes | None) -> Entries:
        return {} if sha is None else self._reader.read_tree(sha)

    def _write_settings(self, old: tuple[bytes, bytes] | None, new_lines: Sequence[bytes]) -> bytes:
        have = b"" if old is None else self._reader.read(old[1].hex())
        newest: dict[bytes, tuple[int, bytes]] = {}
        for line in have.splitlines():
            setting, when = _split_timestamp(line)
            uuid = setting.partition(b" ")[0]
            if uuid not in newest or when >= newest[uuid][0]:
                newest[uuid] = when, setting
        for line in new_lines:
            setting, when = _split_timestamp(line)
            uuid = setting.partition(b" ")[0]
            last, known = newest.get(uuid, (when - 1, b""))
            if setting != known:
                # git-annex uses the newest line of a remote
                newest[uuid] = max(when, last + 1), setting
                have += b"%s timestamp=%ds\n" % (setting, newest[uuid][0])
        return self._pack.add(BLOB, have)


def _split_timestamp(line: bytes) -> tuple[bytes, int]:
    """Return a line of remote.log or a similar log without its timestamp, and the timestamp."""
    setting, _, when = line.strip().rpartition(b" timestamp=")
    return setting, int(when.removesuffix(b"s").partition(b".")[0])


def _folder_id(entries: Entries, name: bytes) -> bytes | None:
    found = entries.get(name)
    return None if found is None else found[1]


def _group_by_key(lines: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield log path and values of each key; several files may have the same key."""
    for path, group in groupby(lines, key=lambda line: line.partition(b"\0")[0]):
        values: dict[bytes, None] = {}
        for line in group:
            values.update(dict.fromkeys(line.split(b"\0")[1:]))
        yield path, list(values)
