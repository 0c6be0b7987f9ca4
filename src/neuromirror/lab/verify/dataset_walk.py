"""Verification of a dataset's commit, trees and state digest, and iteration over its entries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from neuromirror.git import GITLINK_MODE
from neuromirror.lab.lock_manifests import sibling_path
from neuromirror.lab.verify.state_checks import (
    GitStateCheck,
    ManifestStateCheck,
    StateCheck,
    annexed_file_line,
)
from neuromirror.model import path_to_text, subdataset_line
from neuromirror.transfer.findings import NOT_HERE, Finding
from neuromirror.transfer.verified_repository import (
    CommitDescription,
    NotADatasetError,
    ObjectDamagedError,
    VerifiedEntry,
    VerifiedRepository,
)
from neuromirror.transfer.verify_items import EntryInspector, Item, VerifyScope


class ExpectedState(Struct, frozen=True):
    """The expected state of a dataset. Empty fields are unknown and are not compared.

    Attributes
    ----------
    commit, tree, state
        Commit, tree and state digest.
    manifest
        Path of the manifest of this state, None if missing.
    """

    commit: str
    tree: str = ""
    state: str = ""
    manifest: Path | None = None


def walk(
    inspector: EntryInspector,
    scope: VerifyScope,
    clone: VerifiedRepository,
    expected: ExpectedState,
    below: bytes = b"",
) -> Iterator[Item]:
    """Yield findings and files for a dataset: its files in order of path, then its subdatasets.

    Parameters
    ----------
    inspector
        Strategy for inspecting the entries.
    scope
        The part of the dataset to verify.
    clone
        Repository of the dataset.
    expected
        The expected state of the dataset.
    below
        Path in the outermost dataset, with a slash at its end; empty for the outermost one.
    """
    where = path_to_text(below[:-1]) or "."
    try:
        described = clone.describe(expected.commit)
    except ObjectDamagedError as error:
        yield Finding(status="error", path=where, kind="commit", message=str(error))
        return
    yield Finding(path=where, kind="commit", message=described.commit, checked="checked")
    if expected.tree and expected.tree != described.tree:
        message = f"the commit has tree {described.tree}, expected {expected.tree}"
        yield Finding(status="error", path=where, kind="tree", message=message)
    state = _state_check(expected, described)
    parts: list[VerifiedEntry] = []
    try:
        for looked in inspector.inspect(clone, below, clone.entries(described.tree)):
            entry, key = looked.entry, looked.key
            if entry.mode == GITLINK_MODE:
                parts.append(entry)
                subdataset = _subdataset(described, entry)
                state.add(entry.path, _subdataset_line(clone, subdataset))
            elif key is not None:
                state.add(entry.path, _line(entry.path, key))
            yield from looked.items
    except ObjectDamagedError as error:
        yield Finding(status="error", path=where, kind="tree", message=str(error))
        return
    yield Finding(path=where, kind="tree", message=described.tree, checked="checked")
    yield from _state(state, expected, described, scope, where)
    for entry in parts:
        if scope.reaches(below + entry.path):
            yield from _walk_subdataset(
                inspector, scope, clone, expected, _subdataset(described, entry), below
            )


class _Subdataset(NamedTuple):
    """A subdataset, as described by its superdataset."""

    entry: VerifiedEntry
    dataset_id: str
    state: str
    files: int


def _subdataset(described: CommitDescription, entry: VerifiedEntry) -> _Subdataset:
    document = described.subdatasets.get(path_to_text(entry.path))
    if not isinstance(document, dict):
        return _Subdataset(entry, "", "", 0)
    files = document.get("files")
    count = files if isinstance(files, int) else 0
    return _Subdataset(entry, str(document.get("id", "")), str(document.get("state", "")), count)


def _subdataset_line(clone: VerifiedRepository, part: _Subdataset) -> bytes:
    """Return the line of a subdataset in the canonical manifest; raises ObjectDamagedError."""
    try:
        return subdataset_line(part.entry.path, part.dataset_id, part.state)
    except UnicodeError as error:
        raise ObjectDamagedError(
            f"{clone.git_dir}: subdataset {part.entry.path!r} is malformed: its name, id or state "
            "is not UTF-8"
        ) from error


def _state_check(expected: ExpectedState, described: CommitDescription) -> StateCheck:
    state = expected.state or described.state
    if described.form != "files" and expected.manifest is not None:
        return ManifestStateCheck(state, expected.manifest)
    return GitStateCheck(state)


def _state(
    state: StateCheck,
    expected: ExpectedState,
    described: CommitDescription,
    scope: VerifyScope,
    where: str,
) -> Iterator[Finding]:
    if not (expected.state or described.state):
        return  # no state digest to compare with
    only = described.manifest_only_files
    if described.form != "files" and expected.manifest is None:
        message = (
            f"{only} of its files are not in git, and the manifest that lists them is only "
            "available for a lock file: neither they nor the state digest can be verified"
        )
        yield Finding(status=scope.missing_status, path=where, kind="state", message=message)
        return
    found = state.finding()
    yield found.at_path(where)
    if only:
        message = f"{NOT_HERE}: {only} files that are not in git but in the manifest"
        yield Finding(status=scope.missing_status, path=where, kind="subdataset", message=message)


def _line(path: bytes, key: str) -> bytes:
    try:
        return annexed_file_line(path, key)
    except ValueError:
        return b""  # the file has a finding of its own, and the digest will not match


def _walk_subdataset(
    inspector: EntryInspector,
    scope: VerifyScope,
    clone: VerifiedRepository,
    expected: ExpectedState,
    part: _Subdataset,
    below: bytes,
) -> Iterator[Item]:
    path = below + part.entry.path
    folder = None if clone.work_tree is None else clone.work_tree / path_to_text(part.entry.path)
    try:
        if folder is None or not (folder / ".git").exists():
            raise NotADatasetError(f"{NOT_HERE}: a subdataset of {part.files} files")
        inner = VerifiedRepository.at(folder)
    except NotADatasetError as error:
        yield Finding(
            status=scope.missing_status,
            path=path_to_text(path),
            kind="subdataset",
            message=str(error),
        )
        return
    with inner:
        commit = part.entry.sha
        if (found := inner.head()) != commit:
            message = f"the subdataset is at commit {found}, expected {commit}"
            yield Finding(
                status="error", path=path_to_text(path), kind="subdataset", message=message
            )
            if not inner.has_commit(commit):
                return
        manifest = expected.manifest and sibling_path(expected.manifest, commit)
        there = manifest if manifest is not None and manifest.exists() else None
        yield from walk(
            inspector,
            scope,
            inner,
            ExpectedState(commit, state=part.state, manifest=there),
            path + b"/",
        )
