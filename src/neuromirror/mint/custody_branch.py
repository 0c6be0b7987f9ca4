"""Write the branch ``custody/git-annex``: which vaults have copies of a dataset's contents.

git-annex merges it into the clone's own branch, as it does with every ref of this name. The branch
has the location logs of copied keys, and the lines of the vaults in ``remote.log`` and
``uuid.log``. It depends on what the operator keeps, so that no other branch refers to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from neuromirror.annex import (
    key_from_file_name,
    log_path,
    merge_location_log,
    parse_log,
    parse_remote_log,
    private_vault_config,
    remote_log,
    uuid_line,
)
from neuromirror.git import (
    BLOB,
    COMMIT,
    REGULAR_FILE_MODE,
    KnownObjects,
    ObjectReader,
    Pack,
    PackWriter,
)
from neuromirror.mint.annex_branch import REMOTE_LOG, UUID_LOG
from neuromirror.mint.commits import commit_bytes
from neuromirror.mint.log_trees import Entries, LogTreeWriter

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
            found = folders.get(above, {}).get(name)
            folders[path] = {} if found is None else reader.read_tree(found[1])
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
