"""A dataset's repository made again of the manifest beside a lock, and of nothing else.

What comes out has the very commit that was pinned, since the manifest holds all that the commit is
made of. It has no history (git calls that shallow), and a git-annex branch of its own, which knows
the places that the manifest names.
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
    """Writes the objects of a manifest's commit into an empty repository; gives its refs.

    Raises ManifestDamaged where what comes out is not what the manifest's head names, and what
    reading it raises. Refs are for the caller to set.
    """
    head = manifest.head
    packs = git_dir / "objects" / "pack"
    with PackWriter(packs) as pack, LineSorter(git_dir) as logs, ObjectReader(git_dir) as reader:
        tree = _write_tree(pack, manifest, logs)
        commit = pack.add(COMMIT, head.commit_object.encode())
        if (tree.hex(), commit.hex()) != (head.tree, head.commit):
            raise LockManifestDamagedError(
                f"the manifest of {head.dataset}@{head.version} gives the tree {tree.hex()} and "
                f"the commit {commit.hex()}, and not {head.tree} and {head.commit} as it says"
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
        # plain files come first
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
    """Yield sorted entries; raises ManifestDamaged for a path that is there twice.

    That includes a file, or a sub-dataset, whose path is also a folder's. No tree may hold both.
    """
    begun: list[bytes] = []
    for entry in entries:
        # what this path begins with: everything else cannot be met again
        while begun and not entry.path.startswith(begun[-1]):
            begun.pop()
        if any(entry.path[len(one) : len(one) + 1] in (b"", b"/") for one in begun):
            raise LockManifestDamagedError(
                f"the manifest has {path_to_text(entry.path)!r} twice, or within a file"
            )
        begun.append(entry.path)
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
            f"the manifest of {head.dataset} holds a commit without a date"
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
            f"the manifest of {head.dataset} cannot be used: {error}"
        ) from error
    message = (
        f"{head.dataset} {head.version}, made again of its manifest\n\nMirror-Spec: {MINT_SPEC}\n"
    )
    mirror = head.dataset.partition(":")[0]
    return pack.add(COMMIT, commit_bytes(mirror, tree, None, stamp, message))
