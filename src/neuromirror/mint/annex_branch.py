"""The git-annex branch of a state: log files of its keys, merged into the branch as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from neuromirror.annex import (
    CLAIMED,
    CLAIMED_KINDS,
    WEB_UUID,
    location_log,
    log_path,
    merge_location_log,
    merge_url_log,
    url_lines,
)
from neuromirror.mint.objects import ObjectReader
from neuromirror.mint.packs import BLOB, TREE, PackWriter
from neuromirror.mint.trees import FILE, FOLDER, write_tree
from neuromirror.model import Location, PlacedFile, Subdataset

REMOTES = b"remote.log"
NAMES = b"uuid.log"

_CLAIMED = CLAIMED.encode()
_ANY_CLAIMED = b"\0" + _CLAIMED
_WEB = (WEB_UUID,)

Entries = dict[bytes, tuple[bytes, bytes]]


def annex_line(placed: PlacedFile) -> bytes | None:
    """What the branch must know of a file, as one line that sorts by log path.

    None for a sub-dataset, and for a file without locations: a key that nobody says where to get
    must not be claimed to be on the web.

    ``<hash directories>/<key file>.log NUL url NUL url …``; neither part can hold a newline or
    NUL, since keys and stored URLs do not. A URL that a special remote claims begins with a colon.
    """
    return None if placed.part is not None else _line(placed.key, placed.record.locations)


class _Record(msgspec.Struct, gc=False):
    """What the branch needs of a record line; the rest is not parsed."""

    key: str
    at: tuple[Location, ...] = ()
    sub: Subdataset | None = None


_load = msgspec.json.Decoder(_Record).decode


def annex_line_of(record_line: bytes) -> bytes | None:
    """Return :func:`annex_line` of the file that a record line holds."""
    record = _load(record_line)
    return None if record.sub is not None else _line(record.key, record.at)


def _line(key: str, locations: Sequence[Location]) -> bytes | None:
    if not locations:
        return None
    urls = [
        place.url.encode() if place.kind not in CLAIMED_KINDS else _CLAIMED + place.url.encode()
        for place in locations
    ]
    line = b"\0".join([log_path(key), *urls])
    if b"\n" in line or b"\r" in line:
        raise ValueError(f"a URL must not have a line break: {line!r}")
    return line


class AnnexBranch:
    """Writes the branch's trees from sorted lines of :func:`annex_line`.

    ``timestamp`` is that of new log lines, in whole seconds. ``root`` is the 20-byte id of the
    branch's last tree, or None; only trees and logs of keys in the lines are read. ``special`` is
    the UUID of the remote that gets what is claimed.
    """

    def __init__(
        self,
        pack: PackWriter,
        reader: ObjectReader,
        timestamp: int,
        root: bytes | None,
        special: str | None = None,
    ) -> None:
        self._pack = pack
        self._reader = reader
        self._timestamp = timestamp
        self._root = root
        self._special = special
        self._stamp = b"%ds 1 " % timestamp
        self._present_ids: dict[tuple[str, ...], bytes] = {}

    def write(self, lines: Iterable[bytes], settings: Mapping[bytes, Sequence[bytes]]) -> bytes:
        """The id of the branch's new root tree.

        ``settings`` are lines of files at the top (remote.log, uuid.log); one that is there
        already, whatever its timestamp, is left as it is.
        """
        if self._root is None:
            root = self._fresh(lines)
        else:
            root = self._old(self._root)
            for top, group in groupby(lines, key=lambda line: line[:3]):
                root[top] = (FOLDER, self._top(group, _folder(root, top)))
        for name, wanted in settings.items():
            if wanted:
                root[name] = (FILE, self._settings(root.get(name), wanted))
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
        holders = _WEB if _ANY_CLAIMED not in lines[0] else self._holders(urls)
        tree = b"100644 %s\0%s100644 %s.web\0%s" % (name, self._present(holders), name, web)
        return self._pack.add(TREE, tree)

    def _old(self, sha: bytes | None) -> Entries:
        return {} if sha is None else self._reader.tree(sha)

    def _settings(self, old: tuple[bytes, bytes] | None, wanted: Sequence[bytes]) -> bytes:
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
            holders = self._holders(urls)
            tree[name] = (FILE, self._location(tree.get(name), holders))
            if urls:
                web = name + b".web"
                tree[web] = (FILE, self._urls(tree.get(web), urls))
        return write_tree(self._pack, tree)

    def _holders(self, urls: Iterable[bytes]) -> tuple[str, ...]:
        """The remotes that have a content which these URLs lead to, sorted."""
        claimed = {url[:1] == _CLAIMED for url in urls}
        if True not in claimed:
            return _WEB
        if self._special is None:
            raise ValueError("a URL is claimed, and the snapshot names no special remote")
        return (*_WEB, self._special) if False in claimed else (self._special,)

    def _present(self, holders: tuple[str, ...]) -> bytes:
        """The id of the location log of a key that these remotes have."""
        known = self._present_ids.get(holders)
        if known is None:
            log = b"".join([location_log(self._timestamp, one) for one in sorted(holders)])
            known = self._present_ids[holders] = self._pack.add(BLOB, log)
        return known

    def _location(self, old: tuple[bytes, bytes] | None, holders: tuple[str, ...]) -> bytes:
        if old is None:
            return self._present(holders)
        have = merged = self._reader.read(old[1].hex())
        for one in holders:
            merged = merge_location_log(merged, self._timestamp, one)
        return old[1] if merged == have else self._pack.add(BLOB, merged)

    def _urls(self, old: tuple[bytes, bytes] | None, urls: list[bytes]) -> bytes:
        if old is None:
            return self._pack.add(BLOB, url_lines(urls, self._stamp))
        have = self._reader.read(old[1].hex())
        merged = merge_url_log(have, [url.decode() for url in urls], self._timestamp)
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


def _keys(lines: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Log path and URLs of each key: several paths may hold one content."""
    for path, group in groupby(lines, key=lambda line: line.partition(b"\0")[0]):
        urls: dict[bytes, None] = {}
        for line in group:
            urls.update(dict.fromkeys(line.split(b"\0")[1:]))
        yield path, list(urls)


__all__ = ["NAMES", "REMOTES", "AnnexBranch", "annex_line", "annex_line_of"]
