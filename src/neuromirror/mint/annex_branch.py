"""Write the git-annex branch of a state: the logs of its keys, merged into the old branch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import msgspec

from neuromirror.annex import (
    CLAIM_PREFIX,
    CLAIMED_LOCATION_KINDS,
    WEB_UUID,
    UrlRemote,
    UrlRemotes,
    location_log,
    log_path,
    merge_location_log,
    merge_url_log,
    url_lines,
)
from neuromirror.git import BLOB, REGULAR_FILE_MODE, TREE, TREE_MODE, ObjectReader, PackWriter
from neuromirror.mint.log_trees import Entries, LogTreeWriter
from neuromirror.model import Location, SnapshotEntry, Subdataset

REMOTE_LOG = "remote.log"
UUID_LOG = "uuid.log"
TRUST_LOG = "trust.log"

_CLAIMED = CLAIM_PREFIX.encode()
_EXACT_VERSION = re.compile(rb"versionId=.{5}")  # not "null", which S3 may overwrite
_WEB = (WEB_UUID,)


def annex_line(placed: SnapshotEntry) -> bytes | None:
    """Return the line from which the branch's logs of a file are written.

    The line is ``<hash directories>/<key file>.log NUL url NUL url …``; lines sort by log path. A
    URL that a special remote claims starts with a colon. Keys and URLs have no newline or NUL.

    Returns
    -------
    bytes | None
        None for a subdataset, and for a file without locations: a location log must not claim that
        the web remote has a key without a URL.
    """
    return None if placed.subdataset is not None else _line(placed.key, placed.record.locations)


class _Record(msgspec.Struct, gc=False):
    """The fields of a record line that the branch needs; the rest is not parsed."""

    key: str
    locations: tuple[Location, ...] = ()
    subdataset: Subdataset | None = None


_load = msgspec.json.Decoder(_Record).decode


def annex_line_from_record(record_line: bytes) -> bytes | None:
    """Return the :func:`annex_line` of a file, from its record line.

    Like that function, it returns None for a subdataset and for a file without locations.
    """
    record = _load(record_line)
    return None if record.subdataset is not None else _line(record.key, record.locations)


def _line(key: str, locations: Sequence[Location]) -> bytes | None:
    if not locations:
        return None
    urls = [
        location.url.encode()
        if location.kind not in CLAIMED_LOCATION_KINDS
        else _CLAIMED + location.url.encode()
        for location in locations
    ]
    line = b"\0".join([log_path(key), *urls])
    if b"\n" in line or b"\r" in line:
        raise ValueError(f"a URL must not have a line break: {line!r}")
    return line


class AnnexBranchWriter(LogTreeWriter):
    """Writes the branch's trees from sorted lines of :func:`annex_line`.

    Of the old branch, only the trees and logs of keys in the lines are read.

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
    holders
        The remotes beside git-annex's own web remote.
    """

    def __init__(
        self,
        pack: PackWriter,
        reader: ObjectReader,
        timestamp: int,
        root: bytes | None,
        holders: Iterable[UrlRemote] = (),
    ) -> None:
        super().__init__(pack, reader, timestamp, root)
        self._remotes = tuple(holders)
        self._holders_of = UrlRemotes(self._remotes)
        self._used_remotes: set[str] = set()
        self._stamp = b"%ds 1 " % timestamp
        self._present_ids: dict[tuple[str, ...], bytes] = {}

    def write(
        self, lines: Iterable[bytes], settings: Mapping[str, Sequence[bytes]] | None = None
    ) -> bytes:
        """Write the branch; return the 20-byte id of its new root tree.

        Parameters
        ----------
        lines
            The sorted lines.
        settings
            Lines to add to the files in the root (remote.log, uuid.log, trust.log), beside those of
            the remotes in use. A line is not added where the newest line of its remote differs
            from it in the timestamp only.
        """
        root = self._write_new_root(lines) if self._root is None else self.merge_lines(lines)
        settings_lines = {name: list(lines) for name, lines in (settings or {}).items() if lines}
        for one in self._remotes:
            if one.declared or one.uuid in self._used_remotes:
                for name, line in one.lines.items():
                    settings_lines.setdefault(name, []).append(line.encode())
        return self.write_root(root, settings_lines)

    def _write_new_root(self, lines: Iterable[bytes]) -> Entries:
        """Return the root's entries of a new branch, where there is nothing to merge."""
        root: Entries = {}
        top, folders = b"", bytearray()
        for leaf, group in groupby(lines, key=lambda line: line[:7]):
            if leaf[:3] != top:
                if folders:
                    root[top] = (TREE_MODE, self._pack.add(TREE, bytes(folders)))
                    folders.clear()
                top = leaf[:3]
            folders += b"40000 %s\0%s" % (leaf[4:], self._write_new_leaf(list(group)))
        if folders:
            root[top] = (TREE_MODE, self._pack.add(TREE, bytes(folders)))
        return root

    def _write_new_leaf(self, lines: list[bytes]) -> bytes:
        if len(lines) > 1:
            return self.write_leaf_folder(lines, None)
        path, *urls = lines[0].split(b"\0")
        name = path[8:]
        web = self._pack.add(BLOB, url_lines(urls, self._stamp))
        holders = self._holders(urls)
        tree = b"100644 %s\0%s100644 %s.web\0%s" % (
            name,
            self._new_location_log(holders),
            name,
            web,
        )
        return self._pack.add(TREE, tree)

    def merge_logs(self, tree: Entries, name: bytes, values: list[bytes]) -> None:
        """Merge the URLs of a key, and the remotes that serve them, into its logs."""
        holders = self._holders(values)
        tree[name] = (REGULAR_FILE_MODE, self._merged_location_log(tree.get(name), holders))
        if values:
            web = name + b".web"
            tree[web] = (REGULAR_FILE_MODE, self._merged_url_log(tree.get(web), values))

    def _holders(self, urls: list[bytes]) -> tuple[str, ...]:
        """Return the UUIDs of the remotes that serve these URLs, sorted."""
        if len(urls) == 1 and urls[0][:1] != _CLAIMED and _EXACT_VERSION.search(urls[0]):
            return _WEB
        holders = self._holders_of.uuids_for(urls)
        self._used_remotes.update(holders)
        return holders

    def _new_location_log(self, holders: tuple[str, ...]) -> bytes:
        """Return the id of the location log of a new key that these remotes have."""
        known = self._present_ids.get(holders)
        if known is None:
            log = b"".join([location_log(self._timestamp, one) for one in sorted(holders)])
            known = self._present_ids[holders] = self._pack.add(BLOB, log)
        return known

    def _merged_location_log(
        self, old: tuple[bytes, bytes] | None, holders: tuple[str, ...]
    ) -> bytes:
        if old is None:
            return self._new_location_log(holders)
        have = merged = self._reader.read(old[1].hex())
        for one in holders:
            merged = merge_location_log(merged, self._timestamp, one)
        return old[1] if merged == have else self._pack.add(BLOB, merged)

    def _merged_url_log(self, old: tuple[bytes, bytes] | None, urls: list[bytes]) -> bytes:
        if old is None:
            return self._pack.add(BLOB, url_lines(urls, self._stamp))
        have = self._reader.read(old[1].hex())
        merged = merge_url_log(have, [url.decode() for url in urls], self._timestamp)
        return old[1] if merged == have else self._pack.add(BLOB, merged)
