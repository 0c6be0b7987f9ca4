"""The git-annex branch of a state: log files of its keys, merged into the branch as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from neuromirror.annex import (
    location_log,
    log_path,
    merge_location_log,
    merge_url_log,
    url_lines,
    url_log,
)
from neuromirror.mint.objects import ObjectReader
from neuromirror.mint.packs import BLOB, TREE, PackWriter
from neuromirror.mint.trees import FILE, FOLDER, write_tree
from neuromirror.model import PlacedFile

_REMOTES = b"remote.log"

Entries = dict[bytes, tuple[bytes, bytes]]


def annex_line(placed: PlacedFile) -> bytes | None:
    """What the branch must know of a file, as one line that sorts by log path.

    None for a sub-dataset, and for a file without locations: a key that nobody says where to get
    must not be claimed to be on the web.

    ``<hash directories>/<key file>.log NUL url NUL url …``; neither part can hold a newline or
    NUL, since keys and stored URLs do not.
    """
    locations = placed.record.locations
    if not locations or placed.part is not None:
        return None
    line = b"\0".join([log_path(placed.key), *[place.url.encode() for place in locations]])
    if b"\n" in line or b"\r" in line:
        raise ValueError(f"a URL must not have a line break: {line!r}")
    return line


class AnnexBranch:
    """Writes the branch's trees from sorted lines of :func:`annex_line`.

    ``timestamp`` is that of new log lines, in whole seconds. ``root`` is the 20-byte id of the
    branch's last tree, or None; only trees and logs of keys in the lines are read.
    """

    def __init__(
        self, pack: PackWriter, reader: ObjectReader, timestamp: int, root: bytes | None
    ) -> None:
        self._pack = pack
        self._reader = reader
        self._timestamp = timestamp
        self._root = root
        self._present = location_log(timestamp)
        self._stamp = b"%ds 1 " % timestamp
        self._present_id: bytes | None = None

    def write(self, lines: Iterable[bytes], remotes: Sequence[bytes]) -> bytes:
        """The id of the branch's new root tree.

        ``remotes`` are lines of remote.log; one that is there already, whatever its timestamp, is
        left as it is.
        """
        if self._root is None:
            root = self._fresh(lines)
        else:
            root = self._old(self._root)
            for top, group in groupby(lines, key=lambda line: line[:3]):
                root[top] = (FOLDER, self._top(group, _folder(root, top)))
        if remotes:
            root[_REMOTES] = (FILE, self._remotes(root.get(_REMOTES), remotes))
        return write_tree(self._pack, root)

    def _fresh(self, lines: Iterable[bytes]) -> Entries:
        """The root's entries where the branch begins: nothing is to be read or merged."""
        root: Entries = {}
        top, folders = b"", bytearray()
        for leaf, group in _leaves(lines):
            if leaf[:3] != top:
                if folders:
                    root[top] = (FOLDER, self._pack.add(TREE, bytes(folders)))
                    folders.clear()
                top = leaf[:3]
            folders += b"40000 %s\0%s" % (leaf[4:], self._fresh_leaf(group))
        if folders:
            root[top] = (FOLDER, self._pack.add(TREE, bytes(folders)))
        return root

    def _fresh_leaf(self, lines: list[bytes]) -> bytes:
        if len(lines) > 1:
            return self._leaf(lines, None)
        path, *urls = lines[0].split(b"\0")
        name = path[8:]
        web = self._pack.add(BLOB, url_lines(urls, self._stamp))
        tree = b"100644 %s\0%s100644 %s.web\0%s" % (name, self._location(None), name, web)
        return self._pack.add(TREE, tree)

    def _old(self, sha: bytes | None) -> Entries:
        return {} if sha is None else self._reader.tree(sha)

    def _remotes(self, old: tuple[bytes, bytes] | None, wanted: Sequence[bytes]) -> bytes:
        have = b"" if old is None else self._reader.read(old[1].hex())
        known = {_untimed(line) for line in have.splitlines()}
        added = [line for line in wanted if _untimed(line) not in known]
        return self._pack.add(BLOB, have + b"".join(added))

    def _top(self, lines: Iterable[bytes], old: bytes | None) -> bytes:
        tree = self._old(old)
        for leaf, group in groupby(lines, key=lambda line: line[4:7]):
            tree[leaf] = (FOLDER, self._leaf(group, _folder(tree, leaf)))
        return write_tree(self._pack, tree)

    def _leaf(self, lines: Iterable[bytes], old: bytes | None) -> bytes:
        tree = self._old(old)
        for path, urls in _keys(lines):
            name = path[8:]
            tree[name] = (FILE, self._location(tree.get(name)))
            if urls:
                web = name + b".web"
                tree[web] = (FILE, self._urls(tree.get(web), urls))
        return write_tree(self._pack, tree)

    def _location(self, old: tuple[bytes, bytes] | None) -> bytes:
        if old is None:
            if self._present_id is None:
                self._present_id = self._pack.add(BLOB, self._present)
            return self._present_id
        have = self._reader.read(old[1].hex())
        merged = merge_location_log(have, self._timestamp)
        return old[1] if merged == have else self._pack.add(BLOB, merged)

    def _urls(self, old: tuple[bytes, bytes] | None, urls: list[str]) -> bytes:
        if old is None:
            return self._pack.add(BLOB, url_log(urls, self._timestamp))
        have = self._reader.read(old[1].hex())
        merged = merge_url_log(have, urls, self._timestamp)
        return old[1] if merged == have else self._pack.add(BLOB, merged)


def _leaves(lines: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Sorted lines by leaf folder (``abc/def``)."""
    leaf, group = b"", list[bytes]()
    for line in lines:
        if line[:7] != leaf:
            if group:
                yield leaf, group
            leaf, group = line[:7], [line]
        else:
            group.append(line)
    if group:
        yield leaf, group


def _untimed(line: bytes) -> bytes:
    return line.rpartition(b" timestamp=")[0]


def _folder(entries: Entries, name: bytes) -> bytes | None:
    found = entries.get(name)
    return None if found is None else found[1]


def _keys(lines: Iterable[bytes]) -> Iterator[tuple[bytes, list[str]]]:
    """Log path and URLs of each key: several paths may hold one content."""
    for path, group in groupby(lines, key=lambda line: line.partition(b"\0")[0]):
        urls: dict[str, None] = {}
        for line in group:
            for url in line.split(b"\0")[1:]:
                urls.setdefault(url.decode(), None)
        yield path, list(urls)


__all__ = ["AnnexBranch", "annex_line"]
