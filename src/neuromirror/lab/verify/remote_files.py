"""Files to verify at their URLs: those of a clone, or of the manifest beside a lock file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from neuromirror.annex import parse_link_target, parse_pointer, strip_claim_prefix
from neuromirror.git import GITLINK_MODE
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestMissingError,
    LockManifestReader,
    PlainFile,
    canonical_line,
    sibling_path,
)
from neuromirror.lab.verify.dataset_walk import ExpectedState
from neuromirror.lab.verify.state_checks import annexed_file_line
from neuromirror.model import path_to_text
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.verified_repository import (
    ObjectDamagedError,
    VerifiedEntry,
    VerifiedRepository,
    object_id,
)
from neuromirror.transfer.verify_items import (
    InspectedEntry,
    Item,
    PinnedFile,
    VerifyScope,
    select_all,
    unreadable_entry,
)

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock, Pin


class GitUrlCollector:
    """Collects the annexed files of clones with their URLs, to be verified there."""

    def __init__(self, scope: VerifyScope) -> None:
        self._scope = scope
        self._is_selected = scope.is_selected

    def inspect(
        self, clone: VerifiedRepository, below: bytes, entries: Iterable[VerifiedEntry]
    ) -> Iterator[InspectedEntry]:
        """Yield the key and URLs of each entry, in order."""
        for entry in entries:
            if entry.mode == GITLINK_MODE:
                yield InspectedEntry(entry, None)
                continue
            path = below + entry.path
            try:
                content = clone.read("blob", entry.sha)
            except ObjectDamagedError as error:
                yield unreadable_entry(entry, path_to_text(path), error)
                continue
            key = parse_link_target(content) or parse_pointer(content)
            if key is None or not self._is_selected(path):
                yield InspectedEntry(entry, key)
            else:
                copies = (*self._scope.copies(key), *clone.copies(key))
                file = PinnedFile(path, key, tuple(clone.urls(key)), copies=copies)
                yield InspectedEntry(entry, key, (file,))


class PinnedCounts(Struct):
    """Totals of pinned files, from the manifests; ``is_complete`` is False if one is unreadable."""

    files: int = 0
    bytes: int = 0
    is_complete: bool = True

    def add(self, files: int, size: int) -> None:
        """Add files and bytes."""
        self.files += files
        self.bytes += size


def walk_manifest(
    scope: VerifyScope, expected: ExpectedState, counts: PinnedCounts, below: bytes = b""
) -> Iterator[Item]:
    """Yield findings and files for a manifest and those of its subdatasets.

    The state digest is recomputed from its lines, the commit id from the commit object in it.

    Parameters
    ----------
    scope
        The part of the dataset to verify.
    expected
        Expected state, with the path of the manifest.
    counts
        Totals, to which the pinned files are added.
    below
        Path in the outermost dataset, with a slash at its end.
    """
    where = path_to_text(below[:-1]) or "."
    path = expected.manifest
    assert path is not None
    parts: list[ListedSubdataset] = []
    try:
        reader = LockManifestReader(path)
        yield from _check_head(reader, expected, where)
        for one in reader:
            if isinstance(one, PlainFile):
                continue
            at = below + one.path.encode()
            if isinstance(one, ListedSubdataset):
                if scope.reaches(at):
                    parts.append(one)
            elif scope.is_selected(at):
                counts.add(1, one.size or 0)
                item = manifest_item(one, at)
                if scope.vaults and isinstance(item, PinnedFile):
                    item = item._replace(copies=scope.copies(one.key))
                yield item
    except (LockManifestDamagedError, LockManifestMissingError) as error:
        counts.is_complete = False
        yield Finding(status="error", path=where, kind="manifest", message=str(error))
        return
    if reader.head.state == expected.state:
        message = reader.head.state
        yield Finding(path=where, kind="state", message=message, checked="checked")
    else:
        counts.is_complete = False
    for part in parts:
        yield from walk_manifest(
            scope,
            ExpectedState(part.commit, state=part.state, manifest=sibling_path(path, part.commit)),
            counts,
            below + part.path.encode() + b"/",
        )


def pinned_items(lock: Lock, pin: Pin) -> Iterator[Item]:
    """Yield the pinned files of a dataset, and findings, from the manifests beside a lock file.

    Parameters
    ----------
    lock, pin
        The lock file, and a pin of it.
    """
    scope = VerifyScope(is_selected=pin.matches, reaches=pin.reaches)
    expected = ExpectedState(pin.commit, pin.tree, pin.state, lock.manifest_path(pin))
    return walk_manifest(scope, expected, PinnedCounts())


def check_manifest(
    path: Path, state: str, scope: VerifyScope, counts: PinnedCounts, below: bytes = b""
) -> Finding:
    """Return whether a manifest is complete and has the expected state.

    A missing one is ``notneeded``: a clone has the commit, whose state digest is verified anyway.
    Manifests of subdatasets are read only if a part of them is pinned.

    Parameters
    ----------
    path
        Path of the manifest.
    state
        Expected state digest.
    scope
        The part of the dataset that is pinned.
    counts
        Totals, to which the pinned files are added.
    below
        Path in the outermost dataset, with a slash at its end.
    """
    parts: list[ListedSubdataset] = []
    whole = scope.is_selected is select_all
    try:
        reader = LockManifestReader(path)
        for one in reader.entries():
            at = below + one.path.encode()
            if isinstance(one, ListedFile):
                if scope.is_selected(at):
                    counts.add(1, one.size or 0)
            elif whole:
                counts.add(one.files, one.bytes)
            elif scope.reaches(at):
                parts.append(one)
        found = reader.head.state
    except LockManifestMissingError as error:
        counts.is_complete = False
        return Finding(status="notneeded", kind="manifest", message=str(error))
    except LockManifestDamagedError as error:
        counts.is_complete = False
        return Finding(status="error", kind="manifest", message=str(error))
    if found != state:
        counts.is_complete = False
        message = f"the manifest has state {found}, expected {state}"
        return Finding(status="error", kind="manifest", message=message)
    for part in parts:
        prefix = below + part.path.encode() + b"/"
        check_manifest(sibling_path(path, part.commit), part.state, scope, counts, prefix)
    return Finding(kind="manifest", message=found, checked="checked")


def manifest_item(one: ListedFile, path: bytes) -> Item:
    """Return the file to verify, or an error if its key contradicts the manifest line.

    The state digest covers the line's checksum and size, not the key.
    """
    try:
        same = annexed_file_line(one.path.encode(), one.key) == canonical_line(one)
    except ValueError:
        same = False
    if not same:
        message = (
            f"its key in the manifest ({one.key or 'none'}) does not match its checksum and size"
        )
        return Finding(status="error", path=path_to_text(path), key=one.key, message=message)
    web_urls = tuple(url for url in one.urls if url.startswith(("https://", "http://")))
    return PinnedFile(path, one.key, tuple(map(strip_claim_prefix, one.urls)), web_urls)


def _check_head(
    reader: LockManifestReader, expected: ExpectedState, where: str
) -> Iterator[Finding]:
    """Yield findings for the commit, tree and state in a manifest's header."""
    head = reader.head
    commit = object_id("commit", head.commit_object.encode())
    if commit != expected.commit:
        message = f"the manifest has commit {commit}, expected {expected.commit}"
        yield Finding(status="error", path=where, kind="commit", message=message)
    else:
        yield Finding(path=where, kind="commit", message=commit, checked="checked")
    described = head.parse_commit()
    tree = described.tree
    if expected.tree and tree != expected.tree:
        message = f"the commit has tree {tree}, expected {expected.tree}"
        yield Finding(status="error", path=where, kind="tree", message=message)
    if head.state != expected.state or f"\nState: {head.state}\n" not in described.message:
        message = f"the manifest has state {head.state}, expected {expected.state}"
        if head.state == expected.state:
            message = f"the commit does not have state {head.state}"
        yield Finding(status="error", path=where, kind="state", message=message)
