"""Rebuild the repository of a dataset from the manifest beside a lock file.

The result has the pinned commit, because the manifest has all data of the commit. It has no history
(a shallow repository in git's terms), and a git-annex branch of its own with the URLs of the
manifest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from neuromirror.annex import link_target
from neuromirror.git import (
    BLOB,
    COMMIT,
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    SYMLINK_MODE,
    Pack,
    PackWriter,
    TreeBuilder,
    check_pack,
)
from neuromirror.lab.annex_rebuild import annex_branch_worker, write_annex_branch
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestReader,
    ManifestEntry,
    PlainFile,
)
from neuromirror.model import path_to_text
from neuromirror.store import ANNEX_BRANCH, TAG_PREFIX

_MIN_WORKER_BYTES = 4 << 20
"""Minimum size in bytes of a manifest for which a worker process is started."""


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

    git checks the commit, its trees and its plain files. It has no checks for the other objects:
    the links and the git-annex branch, which are written from valid keys.

    Raises
    ------
    LockManifestDamagedError
        The objects are not those that the head of the manifest names.
    ObjectsRefusedError
        git rejects an object.
    AnnexWorkerError
        The process that writes the git-annex branch failed.
    """
    head = manifest.head
    if manifest.path.stat().st_size < _MIN_WORKER_BYTES:
        _write_commit(manifest, git_dir)
        annex, pack = write_annex_branch(manifest, git_dir)
    else:
        with annex_branch_worker(manifest, git_dir) as worker:
            _write_commit(manifest, git_dir)
            annex, pack = worker.result()
    assert pack is not None
    _move_pack(pack)
    return {f"{TAG_PREFIX}{head.version}": head.commit, ANNEX_BRANCH: annex.hex()}


def _write_commit(manifest: LockManifestReader, git_dir: Path) -> None:
    head = manifest.head
    packs = git_dir / "objects" / "pack"
    with PackWriter(packs) as checked, PackWriter(packs) as links:
        tree = _write_tree(checked, links, manifest)
        commit = checked.add(COMMIT, head.commit_object.encode())
        if (tree.hex(), commit.hex()) != (head.tree, head.commit):
            raise LockManifestDamagedError(
                f"the manifest of {head.dataset}@{head.version} has the tree {tree.hex()} and the "
                f"commit {commit.hex()}, but its head has {head.tree} and {head.commit}"
            )
        finished = links.finish()
        if finished is not None:
            _move_pack(finished)
        finished = checked.finish()
        assert finished is not None
        path = _move_pack(finished)
    if head.parse_commit().parents:
        (git_dir / "shallow").write_text(f"{head.commit}\n")
    check_pack(git_dir, path)


def _move_pack(pack: Pack) -> Path:
    """Move a pack to its final name; return its path."""
    path = pack.pack.with_name(f"{pack.name}.pack")
    os.replace(pack.pack, path)
    os.replace(pack.index, path.with_suffix(".idx"))
    return path


def _write_tree(checked: PackWriter, links: PackWriter, manifest: LockManifestReader) -> bytes:
    """Write trees and plain files to one pack, links to another; return the id of the root tree."""
    with closing(iter(manifest)) as lines:
        # plain files are first in a manifest
        plain: list[_Entry] = []
        listed: Iterator[_Entry] = iter(())
        for line in lines:
            if not isinstance(line, PlainFile):
                listed = _entries(links, chain([line], lines))
                break
            plain.append(
                _Entry(line.path.encode(), REGULAR_FILE_MODE, checked.add(BLOB, line.content))
            )
        trees = TreeBuilder(checked)
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


def _entries(pack: PackWriter, lines: Iterable[ManifestEntry]) -> Iterator[_Entry]:
    for one in lines:
        path = one.path.encode()
        if isinstance(one, ListedSubdataset):
            yield _Entry(path, GITLINK_MODE, bytes.fromhex(one.commit))
        elif isinstance(one, ListedFile) and one.in_git:
            yield _Entry(path, SYMLINK_MODE, pack.add(BLOB, link_target(one.key, path)))
