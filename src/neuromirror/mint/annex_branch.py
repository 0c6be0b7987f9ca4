"""The git-annex branch of a state: log files of its keys, merged into the branch as it was."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from neuromirror.annex import (
    CLAIMED,
    CLAIMED_KINDS,
    WEB_UUID,
    Holder,
    Holders,
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

REMOTES = "remote.log"
NAMES = "uuid.log"
TRUST = "trust.log"

_CLAIMED = CLAIMED.encode()
_EXACT = re.compile(rb"versionId=.{5}")  # not "null", which S3 may overwrite
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
    branch's last tree, or None; only trees and logs of keys in the lines are read. ``holders`` are
    the remotes beside the plain web one.
    """

    def __init__(
        self,
        pack: PackWriter,
        reader: ObjectReader,
        timestamp: int,
        root: bytes | None,
        holders: Iterable[Holder] = (),
    ) -> None:
        self._pack = pack
        self._reader = reader
        self._timestamp = timestamp
        self._root = root
        self._remotes = tuple(holders)
        self._holders_of = Holders(self._remotes)
        self._used: set[str] = set()
        self._stamp = b"%ds 1 " % timestamp
        self._present_ids: dict[tuple[str, ...], bytes] = {}

    def write(
        self, lines: Iterable[bytes], settings: Mapping[str, Sequence[bytes]] | None = None
    ) -> bytes:
        """Write the branch; return the id of its new root tree.

        ``settings`` are lines of files at the top (remote.log, uuid.log, trust.log), beside those
        of the remotes that hold something now. Of a remote whose newest line says the same
        already, whatever its timestamp, no line is added.
        """
        if self._root is None:
            root = self._fresh(lines)
        else:
            root = self._old(self._root)
            for top, group in groupby(lines, key=lambda line: line[:3]):
                root[top] = (FOLDER, self._top(group, _folder(root, top)))
        wanted = {name: list(lines) for name, lines in (settings or {}).items() if lines}
        for one in self._remotes:
            if one.declared or one.uuid in self._used:
                for name, line in one.lines.items():
                    wanted.setdefault(name, []).append(line.encode())
        for name, added in wanted.items():
            root[name.encode()] = (FILE, self._settings(root.get(name.encode()), added))
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
        holders = self._holders(urls)
        tree = b"100644 %s\0%s100644 %s.web\0%s" % (name, self._present(holders), name, web)
        return self._pack.add(TREE, tree)

    def _old(self, sha: bytes | None) -> Entries:
        return {} if sha is None else self._reader.tree(sha)

    def _settings(self, old: tuple[bytes, bytes] | None, wanted: Sequence[bytes]) -> bytes:
        have = b"" if old is None else self._reader.read(old[1].hex())
        newest: dict[bytes, tuple[int, bytes]] = {}
        for line in have.splitlines():
            said, when = _timed(line)
            uuid = said.partition(b" ")[0]
            if uuid not in newest or when >= newest[uuid][0]:
                newest[uuid] = when, said
        for line in wanted:
            said, when = _timed(line)
            uuid = said.partition(b" ")[0]
            last, known = newest.get(uuid, (when - 1, b""))
            if said != known:
                # of several lines of one remote the newest counts
                newest[uuid] = max(when, last + 1), said
                have += b"%s timestamp=%ds\n" % (said, newest[uuid][0])
        return self._pack.add(BLOB, have)

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

    def _holders(self, urls: list[bytes]) -> tuple[str, ...]:
        """Return the remotes that have a content which these URLs lead to, sorted."""
        if len(urls) == 1 and urls[0][:1] != _CLAIMED and _EXACT.search(urls[0]):
            return _WEB
        holders = self._holders_of.of(urls)
        self._used.update(holders)
        return holders

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


def _timed(line: bytes) -> tuple[bytes, int]:
    """Return a line of remote.log and the like without its timestamp, and that in seconds."""
    said, _, when = line.strip().rpartition(b" timestamp=")
    return said, int(when.removesuffix(b"s").partition(b".")[0])


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


__all__ = ["NAMES", "REMOTES", "TRUST", "AnnexBranch", "annex_line", "annex_line_of"]
