"""Git bundles of pinned states: a dataset in one file, from which git alone can clone.

A bundle holds the pinned commit with its history (``HEAD``, ``main`` and the version's tag) and the
git-annex branch as it was when the version was minted. Its bytes depend on git's release; the
objects in it do not.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from neuromirror.index import VersionRow
from neuromirror.model import DatasetRef, NeuromirrorError, environment_without_secrets
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, TAG_PREFIX, SafeFolder, Store
from neuromirror.transfer.git_commands import ref_creation_commands, try_git

_MODE = 0o644


class BundleError(NeuromirrorError):
    """git could not write a bundle."""


def bundle_refs(row: VersionRow) -> dict[str, str]:
    """What the bundle of a version names: ref → commit."""
    return {
        MAIN_BRANCH: row.commit,
        f"{TAG_PREFIX}{row.label}": row.commit,
        ANNEX_BRANCH: row.annex_commit,
    }


def write_bundle(store: Store, row: VersionRow, into: SafeFolder, name: str) -> None:
    """Writes the bundle of a version; one that is there and names the same commits stays.

    Nothing is written to the store's own repository. Raises BundleError, and UnsafePathError for a
    symlink in its place.
    """
    refs = bundle_refs(row)
    into.refuse_symlink(name)
    if read_bundle_refs(into.path / name) == {"HEAD": row.commit, **refs}:
        return
    repository = store.repository(DatasetRef(row.mirror, row.local_id, row.source_uri)).path
    with into.scratch() as folder:
        bare = folder.path.absolute() / "git"
        draft = folder.path.absolute() / name
        _git(bare, "init", "-q", "--bare", str(bare))
        borrowed = bare / "objects" / "info" / "alternates"
        borrowed.write_bytes(os.fsencode(repository.absolute() / "objects") + b"\n")
        (bare / "HEAD").write_text(f"ref: {MAIN_BRANCH}\n")
        _git(bare, "update-ref", "--stdin", "-z", lines=ref_creation_commands(refs))
        _git(bare, "bundle", "create", "-q", str(draft), "HEAD", *refs)
        draft.chmod(_MODE)
        folder.replace(name, into, name)


def read_bundle_refs(bundle: Path) -> dict[str, str]:
    """The refs that a bundle names; empty where there is none, or none that can be read."""
    if not bundle.is_file():
        return {}
    done = subprocess.run(
        ["git", "bundle", "list-heads", str(bundle.absolute())],
        env=environment_without_secrets(),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    pairs = (line.partition(" ") for line in done.stdout.split("\n") if line)
    return {name: commit for commit, _, name in pairs}


def _git(repository: Path, *arguments: str, lines: str = "") -> None:
    done = try_git(repository, *arguments, lines=lines)
    if done.returncode:
        raise BundleError(
            f"no bundle could be made: 'git {arguments[0]}' failed: {done.stderr.strip()}"
        )
