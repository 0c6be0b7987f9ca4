"""Keep foreign refs, commits and files when a repository is repaired.

::

    <store>/neuromirror/quarantine/<alias>/<time>/    mode 0700
        refs.json         {"at": …, "refs": {name: {"actual": …, "expected": …}}}
        foreign.bundle    the foreign commits with their refs, for 'git fetch'
        config, annex/    files of a git-annex that was initialized in the repository
        journal.jsonl     journal entries of foreign commits

The objects stay in the repository as well, unreachable from its refs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from neuromirror.git import create_bundle
from neuromirror.store.durable_files import fsync_path, fsync_tree, make_folder, write_atomically
from neuromirror.store.foreign_commits import CommitHistory, ForeignRef
from neuromirror.store.ref_transaction import update_refs
from neuromirror.store.repository import Repository
from neuromirror.store.store import Store
from neuromirror.store.write_protection import CONFIG, protect

_OWNER_MODE = 0o700


def quarantine_foreign_refs(
    store: Store,
    alias: str,
    repository: Repository,
    refs: Sequence[ForeignRef],
    history: CommitHistory,
    at: str,
) -> Path:
    """Save foreign refs and their commits in a new folder of the store, and return its path.

    Only the store's owner can read the folder.

    Parameters
    ----------
    store, alias, repository
        The store, and the alias and repository of the dataset.
    refs
        The refs to save.
    history
        The repository's commits, by which the foreign ones are known.
    at
        The time of the repair (ISO 8601), for the name of the folder.
    """
    parent = store.root / "neuromirror" / "quarantine"
    make_folder(parent)
    parent.chmod(_OWNER_MODE)
    folder = _new_folder(parent / alias, at.replace(":", "").replace("-", ""))
    refs_json = {one.name: {"actual": one.found, "expected": one.expected} for one in refs}
    content = json.dumps({"at": at, "refs": refs_json}, indent=1, sort_keys=True)
    write_atomically(folder / "refs.json", content.encode() + b"\n")
    foreign = [
        one.name for one in refs if one.found is not None and one.found not in history.own_commits
    ]
    if foreign:
        own = {one for one in repository.refs().values() if one in history.own_commits}
        own |= {one.expected for one in refs if one.expected is not None}
        bundle = folder / "foreign.bundle"
        create_bundle(repository.path, bundle, foreign, sorted(own))
        bundle.chmod(0o600)
        fsync_path(bundle)
    fsync_path(folder)
    return folder


def quarantine_annex_files(repository: Repository, folder: Path) -> None:
    """Move the files of an initialized git-annex, annexed content included, to ``folder``."""
    config = repository.path / "config"
    write_atomically(folder / "config", config.read_bytes())
    annex = repository.path / "annex"
    if annex.exists():
        fsync_tree(annex)
        os.rename(annex, folder / "annex")
        fsync_path(folder)
        fsync_path(repository.path)
    write_atomically(config, CONFIG.encode())


def restore_refs(repository: Repository, refs: Sequence[ForeignRef]) -> None:
    """Move refs to their expected commits, and protect the repository; the caller has its lock."""
    protect(repository.path)
    found: Mapping[str, str | None] = {one.name: one.found for one in refs}
    update_refs(repository.path, found, {one.name: one.expected for one in refs})
    repository.update_server_info()


def _new_folder(parent: Path, name: str) -> Path:
    """Create a folder; append a number to the name if it exists."""
    make_folder(parent)
    number, folder = 1, parent / name
    while folder.exists():
        number, folder = number + 1, parent / f"{name}-{number}"
    folder.mkdir(_OWNER_MODE)
    return folder
