"""Rebuild the git-annex branch of a dataset from the manifest beside a lock file.

This module is also the worker process that does so for a large manifest, beside the process that
rebuilds the commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neuromirror.annex import UrlRemote, log_path, parse_remote_log
from neuromirror.git import COMMIT, ObjectReader, Pack, PackWriter
from neuromirror.lab.lock_manifests import (
    ListedFile,
    LockManifestDamagedError,
    LockManifestHead,
    LockManifestReader,
)
from neuromirror.mint import MINT_SPEC, LineSorter, commit_bytes
from neuromirror.mint.annex_branch import REMOTE_LOG, TRUST_LOG, UUID_LOG, AnnexBranchWriter
from neuromirror.mint.annex_worker import AnnexWorker, run_worker


def annex_branch_worker(manifest: LockManifestReader, git_dir: Path) -> AnnexWorker:
    """Return a worker process that runs :func:`write_annex_branch`."""
    task = {
        "manifest": str(manifest.path.absolute()),
        "files": manifest.max_files,
        "git_dir": str(git_dir.absolute()),
    }
    return AnnexWorker("neuromirror.lab.annex_rebuild", task)


def write_annex_branch(manifest: LockManifestReader, git_dir: Path) -> tuple[bytes, Pack | None]:
    """Write the git-annex branch with the URLs of a manifest.

    Returns
    -------
    tuple
        The 20-byte id of the commit, and the pack with all objects.

    Raises
    ------
    LockManifestDamagedError
        The manifest is invalid.
    """
    packs = git_dir / "objects" / "pack"
    with PackWriter(packs) as pack, LineSorter(git_dir) as logs, ObjectReader(git_dir) as reader:
        for one in manifest.entries():
            if isinstance(one, ListedFile) and one.in_git and one.urls:
                logs.add(b"\0".join([log_path(one.key), *(url.encode() for url in one.urls)]))
        return _write_branch(pack, reader, manifest.head, logs), pack.finish()


def _write_branch(
    pack: PackWriter, reader: ObjectReader, head: LockManifestHead, logs: Iterable[bytes]
) -> bytes:
    stamp = head.parse_commit().committed_at
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


def _work(task: dict[str, Any]) -> tuple[bytes, Pack | None]:
    manifest = LockManifestReader(Path(task["manifest"]), task["files"])
    return write_annex_branch(manifest, Path(task["git_dir"]))


if __name__ == "__main__":
    run_worker(_work)
