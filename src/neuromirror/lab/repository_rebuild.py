"""Rebuild the repository of a dataset from the manifest beside a lock file.

The result has the pinned commit, because the manifest has all data of the commit. It has no history
(a shallow repository in git's terms), and a git-annex branch of its own with the URLs of the
manifest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from neuromirror.annex import UrlRemote, link_target, log_path, parse_remote_log
from neuromirror.git import (
    BLOB,
    COMMIT,
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    SYMLINK_MODE,
    ObjectReader,
    PackWriter,
    TreeBuilder,
)
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestHead,
    LockManifestReader,
    ManifestEntry,
    PlainFile,
)
from neuromirror.mint import MINT_SPEC, LineSorter, commit_bytes
from neuromirror.mint.annex_branch import REMOTE_LOG, TRUST_LOG, UUID_LOG, AnnexBranchWriter
from neuromirror.model import path_to_text
from neuromirror.store import ANNEX_BRANCH, TAG_PREFIX

_COMMITTER_TIME = re.compile(r"^committer .* ([0-9]{1,12}) [+-][0-9]{4}$", re.MULTILINE)
_PARENT = re.compile(r"^parent ", re.MULTILINE)


class _Entry(NamedTuple):
    path: bytes
    mode: bytes
    sha: bytes


def rebuild_repository(manifest: LockManifestReader, git_dir: Path) -> dict[str, str]:
    """Write the objects of the commit of a manifest into an empty repository.

    Returns
    -------
    dict
        The commits by the names of their refs, which the caller creates.

    Raises
    ------
    LockManifestDamagedError
        The objects are not those that the head of the manifest names.
    """
    head = manifest.head
    packs = git_dir / "objects" / "pack"
    with PackWriter(packs) as pack, LineSorter(git_dir) as logs, ObjectReader(git_dir) as reader:
        tree = _write_tree(pack, manifest, logs)
        commit = pack.add(COMMIT, head.commit_object.encode())
        if (tree.hex(), commit.hex()) != (head.tree, head.commit):
            raise LockManifestDamagedError(
                f"the manifest of {head.dataset}@{head.version} has the tree {tree.hex()} and the "
                f"commit {commit.hex()}, but its head has {head.tree} and {head.commit}"
            )
        annex = _write_annex(pack, reader, head, logs)
        finished = pack.finish()
    assert finished is not None
    os.replace(finished.pack, packs / f"{finished.name}.pack")
    os.replace(finished.index, packs / f"{finished.name}.idx")
    if _PARENT.search(head.commit_object.partition("\n\n")[0]):
        (git_dir / "shallow").write_text(f"{head.commit}\n")
    return {f"{TAG_PREFIX}{head.version}": head.commit, ANNEX_BRANCH: annex.hex()}


def _write_tree(pack: PackWriter, manifest: LockManifestReader, logs: LineSorter) -> bytes:
    with closing(iter(manifest)) as lines:
        # plain files are first in a manifest
        plain: list[_Entry] = []
        listed: Iterator[_Entry] = iter(())
        for line in lines:
            if not isinstance(line, PlainFile):
                listed = _entries(pack, chain([line], lines), logs)
                break
            plain.append(
                _Entry(line.path.encode(), REGULAR_FILE_MODE, pack.add(BLOB, line.content))
            )
        trees = TreeBuilder(pack)
        for entry in _without_duplicates(merge(sorted(plain), listed)):
            trees.add(*entry)
        return trees.finish({})


def _without_duplicates(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Yield sorted entries.

    Raises
    ------
    LockManifestDamagedError
        A path occurs twice, or the path of a file or subdataset is also that of a folder.
    """
    prefixes: list[bytes] = []
    for entry in entries:
        # keep the prefixes of this path; entries are sorted, so that others cannot recur
        while prefixes and not entry.path.startswith(prefixes[-1]):
            prefixes.pop()
        if any(entry.path[len(one) : len(one) + 1] in (b"", b"/") for one in prefixes):
            raise LockManifestDamagedError(
                f"the manifest has {path_to_text(entry.path)!r} twice, or below the path of a file"
            )
        prefixes.append(entry.path)
        yield entry


def _entries(
    pack: PackWriter, lines: Iterable[ManifestEntry], logs: LineSorter
) -> Iterator[_Entry]:
    for one in lines:
        path = one.path.encode()
        if isinstance(one, ListedSubdataset):
            yield _Entry(path, GITLINK_MODE, bytes.fromhex(one.commit))
        elif isinstance(one, ListedFile) and one.in_git:
            if one.urls:
                urls = [url.encode() for url in one.urls]
                logs.add(b"\0".join([log_path(one.key), *urls]))
            yield _Entry(path, SYMLINK_MODE, pack.add(BLOB, link_target(one.key, path)))


def _write_annex(
    pack: PackWriter, reader: ObjectReader, head: LockManifestHead, logs: Iterable[bytes]
) -> bytes:
    found = _COMMITTER_TIME.search(head.commit_object)
    if found is None:
        raise LockManifestDamagedError(
            f"the manifest of {head.dataset} has a commit without a date"
        )
    stamp = int(found[1])
    holders = [
        UrlRemote(
            uuid,
            claims=config["type"] == "external",
            urlinclude=config.get("urlinclude"),
            urlexclude=config.get("urlexclude"),
        )
        for uuid, config in parse_remote_log(head.remotes.encode()).items()
        if config.get("type") in ("external", "web")
    ]
    logged = {REMOTE_LOG: head.remotes, UUID_LOG: head.names, TRUST_LOG: head.trust}
    settings = {
        name: [line.encode() for line in text.splitlines(keepends=True)]
        for name, text in logged.items()
    }
    try:
        tree = AnnexBranchWriter(pack, reader, stamp, None, holders).write(logs, settings)
    except ValueError as error:
        raise LockManifestDamagedError(
            f"the manifest of {head.dataset} is invalid: {error}"
        ) from error
    message = (
        f"{head.dataset} {head.version}, made again of its manifest\n\nMirror-Spec: {MINT_SPEC}\n"
    )
    mirror = head.dataset.partition(":")[0]
    return pack.add(COMMIT, commit_bytes(mirror, tree, None, stamp, message))
