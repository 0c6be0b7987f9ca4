"""The git-annex branch of a version, and the branch of copies in vaults.

Write the branch ``custody/git-annex``: which vaults have copies of a dataset's contents.

git-annex merges it into the clone's own branch, as it does with every ref of this name. The branch
has the location logs of copied keys, and the lines of the vaults in ``remote.log`` and
``uuid.log``. It depends on what the operator keeps, so that no other branch refers to it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import msgspec
from msgspec import Struct

from neuromirror.annex import (
    CLAIM_PREFIX,
    CLAIMED_LOCATION_KINDS,
    WEB_UUID,
    UrlRemote,
    UrlRemotes,
    key_from_file_name,
    location_log,
    log_path,
    merge_location_log,
    merge_url_log,
    parse_log,
    parse_remote_log,
    private_vault_config,
    remote_log,
    url_lines,
    uuid_line,
)
from neuromirror.git import (
    BLOB,
    COMMIT,
    REGULAR_FILE_MODE,
    TREE,
    TREE_MODE,
    KnownObjects,
    ObjectReader,
    Pack,
    PackWriter,
    write_tree,
)
from neuromirror.mint.documents import commit_bytes
from neuromirror.model import Location, SnapshotEntry, Subdataset

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
    entry = entries.get(name)
    return None if entry is None else entry[1]


def _group_by_key(lines: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield log path and values of each key; several files may have the same key."""
    for path, group in groupby(lines, key=lambda line: line.partition(b"\0")[0]):
        values: dict[bytes, None] = {}
        for line in group:
            values.update(dict.fromkeys(line.split(b"\0")[1:]))
        yield path, list(values)


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
        for remote in self._remotes:
            if remote.declared or remote.uuid in self._used_remotes:
                for name, line in remote.lines.items():
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
            log = b"".join([location_log(self._timestamp, holder) for holder in sorted(holders)])
            known = self._present_ids[holders] = self._pack.add(BLOB, log)
        return known

    def _merged_location_log(
        self, old: tuple[bytes, bytes] | None, holders: tuple[str, ...]
    ) -> bytes:
        if old is None:
            return self._new_location_log(holders)
        have = merged = self._reader.read(old[1].hex())
        for holder in holders:
            merged = merge_location_log(merged, self._timestamp, holder)
        return old[1] if merged == have else self._pack.add(BLOB, merged)

    def _merged_url_log(self, old: tuple[bytes, bytes] | None, urls: list[bytes]) -> bytes:
        if old is None:
            return self._pack.add(BLOB, url_lines(urls, self._stamp))
        have = self._reader.read(old[1].hex())
        merged = merge_url_log(have, [url.decode() for url in urls], self._timestamp)
        return old[1] if merged == have else self._pack.add(BLOB, merged)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FOLDER = re.compile(rb"[0-9a-f]{3}")
_KEPT, _REMOVED = b"1", b"0"
_CACHED_LOGS = 1024


class CustodyRemote(Struct, frozen=True):
    """A vault as clones see it.

    Attributes
    ----------
    uuid
        The UUID of the vault.
    name
        The name of the remote in clones.
    config
        The configuration in ``remote.log``; None if clones cannot use the vault. It has the same
        ``name``.

    Raises
    ------
    ValueError
        The UUID or the name is not valid.
    """

    uuid: str
    name: str
    config: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not _UUID.fullmatch(self.uuid):
            raise ValueError(f"{self.uuid!r} is not a UUID")
        if not _NAME.fullmatch(self.name) or self.name == "origin":
            raise ValueError(
                f"{self.name!r} cannot be the name of a remote: use letters, digits, '-' and '_'"
            )
        if self.config is not None and self.config.get("name") != self.name:
            raise ValueError(f"the configuration of the remote {self.name} has another name")


class CustodyCommit(Struct, frozen=True):
    """A new commit of the branch, with the pack of its objects.

    Attributes
    ----------
    commit
        The commit id in hex.
    pack
        The pack, under a temporary name; None if the repository has all objects.
    """

    commit: str
    pack: Pack | None


def write_custody_branch(
    repository: Path,
    parent: str | None,
    remote: CustodyRemote,
    kept: Iterable[str],
    removed: Iterable[str],
    scratch: Path,
    *,
    mirror: str,
    timestamp: int,
) -> CustodyCommit | None:
    """Write a commit that records which keys a vault has and no longer has."""
    uuid = remote.uuid.encode()
    known = KnownObjects(repository / "objects")
    try:
        with ObjectReader(repository) as reader, PackWriter(scratch, known) as pack:
            root = None if parent is None else reader.read_commit_tree(parent)
            lines = [b"%s\0%s%s" % (log_path(key), _KEPT, uuid) for key in kept]
            paths = _existing_logs(reader, root, map(log_path, removed))
            lines += [b"%s\0%s%s" % (path, _REMOVED, uuid) for path in paths]
            lines.sort()
            settings = {UUID_LOG: [uuid_line(remote.name, remote.uuid, timestamp)]}
            config = _remote_config(reader, parent, remote)
            if config is not None:
                settings[REMOTE_LOG] = [remote_log(remote.uuid, config, timestamp)]
            writer = _CustodyWriter(pack, reader, timestamp, root)
            tree = writer.write_root(writer.merge_lines(lines), settings)
            if tree == root:
                return None
            message = f"copies in {remote.name}\n"
            content = commit_bytes(mirror, tree, parent, timestamp, message)
            commit = pack.add(COMMIT, content).hex()
            return CustodyCommit(commit, pack.finish())
    finally:
        known.close()


def _remote_config(
    reader: ObjectReader, parent: str | None, remote: CustodyRemote
) -> dict[str, str] | None:
    """Return the configuration to write for a vault; None if the branch needs none.

    git-annex uses the newest line of a remote, so that a vault that clones can no longer read needs
    a line that replaces the one with its location.
    """
    if remote.config is not None:
        return dict(remote.config)
    old = {} if parent is None else read_custody_remotes(reader, parent)
    if remote.uuid not in old:
        return None
    return private_vault_config(remote.name, old[remote.uuid]["type"])


def _existing_logs(
    reader: ObjectReader, root: bytes | None, paths: Iterable[bytes]
) -> Iterator[bytes]:
    """Yield the paths of logs that the branch has; without them there is nothing to remove."""
    folders: dict[bytes, Entries] = {} if root is None else {b"": reader.read_tree(root)}

    def entries(above: bytes, name: bytes) -> Entries:
        path = above + name + b"/"
        if path not in folders:
            folder = folders.get(above, {}).get(name)
            folders[path] = {} if folder is None else reader.read_tree(folder[1])
        return folders[path]

    for path in sorted(paths):
        top, leaf, name = path.split(b"/", 2)
        entries(b"", top)
        if name in entries(top + b"/", leaf):
            yield path


class _CustodyWriter(LogTreeWriter):
    """Merges lines whose value is a status and the UUID of a vault."""

    def merge_logs(self, tree: Entries, name: bytes, values: list[bytes]) -> None:
        old = tree.get(name)
        have = merged = b"" if old is None else self._reader.read(old[1].hex())
        for value in values:
            status, uuid = value[:1].decode(), value[1:].decode()
            merged = merge_location_log(merged, self._timestamp, uuid, status=status)
        if merged != have:
            tree[name] = (REGULAR_FILE_MODE, self._pack.add(BLOB, merged))


def read_custody_remotes(reader: ObjectReader, commit: str) -> dict[str, dict[str, str]]:
    """Return the configurations of the vaults in the branch, by UUID."""
    found = reader.read_tree(reader.read_commit_tree(commit)).get(REMOTE_LOG.encode())
    return {} if found is None else parse_remote_log(reader.read(found[1].hex()))


def read_custody_locations(reader: ObjectReader, commit: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the key and the UUIDs of the vaults, for each key with a copy."""

    @lru_cache(_CACHED_LOGS)
    def read_uuids(blob: bytes) -> list[str]:
        # keys that were copied together have identical logs
        lines = parse_log(reader.read(blob.hex()))
        return [line.value for line in lines if line.status == _KEPT.decode()]

    root = reader.read_tree(reader.read_commit_tree(commit))
    for top, (_, top_id) in root.items():
        if not _FOLDER.fullmatch(top):
            continue
        for _, leaf_id in reader.read_tree(top_id).values():
            for name, (_, blob) in reader.read_tree(leaf_id).items():
                if uuids := read_uuids(blob):
                    yield key_from_file_name(name.removesuffix(b".log")), uuids
