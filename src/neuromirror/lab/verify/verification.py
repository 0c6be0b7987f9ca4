"""``verify``: compare datasets, or the datasets of a lock file, with their pinned state."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.git import GITLINK_MODE
from neuromirror.lab.verify.dataset_walk import ExpectedState, walk
from neuromirror.lab.verify.remote_files import (
    GitUrlCollector,
    PinnedCounts,
    check_manifest,
    walk_manifest,
)
from neuromirror.model import path_to_text
from neuromirror.transfer.findings import NOT_HERE, Finding
from neuromirror.transfer.outcomes import Status
from neuromirror.transfer.url_claims import ClaimLookup, no_claims
from neuromirror.transfer.verified_repository import (
    CommitDescription,
    NotADatasetError,
    ObjectDamagedError,
    VerifiedRepository,
)
from neuromirror.transfer.verify_items import Item, VerifyScope
from neuromirror.transfer.work_tree import WorkTreeInspector, verify_plain_files

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock, Pin
    from neuromirror.transfer.block_digest_recorder import BlockDigestsRecorder
    from neuromirror.transfer.url_sessions import UrlSessions

Mode = Literal["local", "remote", "full"]
"""Hash local content, ask servers about their copies, or download and hash their copies."""

_DEFAULT_REQUESTS: Final = 8
_MAX_NAMED: Final = 5
"""Maximum number of removed files in a message."""


def verify(
    target: Path | Lock,
    mode: Mode = "local",
    *,
    within: Path | None = None,
    allow_missing: bool = False,
    jobs: int | None = None,
    token: Callable[[str], str | None] | None = None,
    claims: ClaimLookup = no_claims,
    digests: BlockDigestsRecorder | None = None,
) -> Iterator[Finding]:
    """Verify a dataset, or all datasets of a lock file; yield findings.

    Findings come in order of path, then those of subdatasets.

    Parameters
    ----------
    target
        A clone, which is compared with its own commit; or a lock file, opened or as a path.
    mode
        ``local``, ``remote`` or ``full``. For a lock file, URLs come from the manifest beside it,
        so that no clone is needed.
    within
        Where the datasets of the lock file were restored, by default the lock file's folder.
    allow_missing
        Whether missing content and subdatasets are accepted. A whole missing dataset is not.
    jobs
        Number of threads; by default one per processor, or 8 for URLs.
    token
        Returns the token for a volume host, or None. Without it, no host is sent a token that is
        named after it, or that a keyring has.
    claims
        Returns further checksums of a key's content, to compare with those of servers.
    digests
        Records block digests of files that are downloaded in the mode ``full``; None not to.

    Yields
    ------
    Finding
        A finding; ``failed`` is true where something differs.

    Raises
    ------
    NotADatasetError
        The folder is not a dataset.
    LockUnusableError
        The file is not a lock file.
    """
    missing_status: Status = "notneeded" if allow_missing else "impossible"
    jobs = jobs or (_processors() if mode == "local" else _DEFAULT_REQUESTS)
    verifier = _Verifier(mode, missing_status, jobs, token, claims, digests)
    if isinstance(target, Path):
        if target.is_dir():
            yield from verifier.dataset(target)
            return
        # imported late: not needed to verify a folder
        from neuromirror.lab.lockfile import load_lock

        target = load_lock(target)
    above = within or target.path.absolute().parent
    for pin in target.datasets:
        for finding in verifier.pin(target, pin, above / pin.dataset.alias):
            yield finding.for_version(pin.name, pin.resolved.version)


class _Verifier(Struct, frozen=True):
    """Verifies datasets in one mode; fields as the parameters of :func:`verify`."""

    mode: Mode
    missing_status: Status
    jobs: int
    token: Callable[[str], str | None] | None
    claims: ClaimLookup
    digests: BlockDigestsRecorder | None

    def dataset(self, folder: Path) -> Iterator[Finding]:
        """Yield findings for a clone, compared with its own commit."""
        with VerifiedRepository.at(folder) as clone:
            head = clone.head()
            commit = clone.newest_minted(head) or head
            try:
                described = clone.describe(commit)
            except ObjectDamagedError:
                described = CommitDescription(commit, "")  # walk() yields the error
            items = self._walk(
                clone, VerifyScope(missing_status=self.missing_status), ExpectedState(commit)
            )
            findings = separate_own_changes(self._findings(items, folder), clone, commit, head)
            for finding in findings:
                yield finding.for_version(described.dataset, described.label)

    def pin(self, lock: Lock, pin: Pin, folder: Path) -> Iterator[Finding]:
        """Yield findings for a dataset, compared with its pin."""
        manifest = lock.manifest_path(pin)
        expected = ExpectedState(pin.commit, pin.tree, pin.state, manifest)
        vaults = tuple(one.address for one in pin.copies)
        scope = VerifyScope(missing_status=self.missing_status, vaults=vaults)
        if pin.paths:
            scope = replace(scope, is_selected=pin.matches, reaches=pin.reaches)
        counted = PinnedCounts()
        if self.mode != "local" and manifest.exists():
            items = walk_manifest(scope, expected, counted)
            yield from self._findings(items, manifest.parent)
            yield from _check_counts(pin, counted)
            return
        yield check_manifest(manifest, pin.state, scope, counted)
        yield from _check_counts(pin, counted)
        try:
            clone = VerifiedRepository.at(folder)
        except NotADatasetError:
            if folder.is_dir() and not (folder / ".git").exists() and manifest.exists():
                yield from self._of_plain_folder(scope, expected, folder)
                return
            message = f"{NOT_HERE}: dataset {folder} does not exist; use 'neuromirror restore'"
            found = sorted(folder.parent.glob(f"*/{folder.name}"))
            # the folder of the manifests has one of the same name
            of_manifest = manifest.resolve().parents
            if near := [one for one in found if one.resolve() not in of_manifest]:
                message += f", or specify --in {near[0].parent}"
            # not subject to allow_missing: a wrong folder must not pass as missing content
            yield Finding(status="impossible", kind="subdataset", message=message)
            return
        with clone:
            yield from self._of_clone(clone, pin, scope, expected, folder)

    def _of_plain_folder(
        self, scope: VerifyScope, expected: ExpectedState, folder: Path
    ) -> Iterator[Finding]:
        """Yield findings for files without git, which another program downloaded."""
        items = walk_manifest(scope, expected, PinnedCounts())
        yield from verify_plain_files(items, folder, scope.missing_status, self.jobs)

    def _of_clone(
        self,
        clone: VerifiedRepository,
        pin: Pin,
        scope: VerifyScope,
        expected: ExpectedState,
        folder: Path,
    ) -> Iterator[Finding]:
        try:
            found = clone.head()
        except NotADatasetError as error:
            found = str(error)
        head = found
        if clone.newest_minted(found) == pin.commit:
            found = pin.commit  # the clone has commits of its own on top of it
        if found != pin.commit:
            message = f"{folder} is at commit {found}, expected {pin.commit}"
            yield Finding(status="error", kind="commit", message=message)
            if not clone.has_commit(pin.commit):
                return
        yield from _contradictions(pin, clone)
        clone.use_annex_commit(pin.annex_commit)
        there = expected.manifest is not None and expected.manifest.exists()
        items = self._walk(clone, scope, expected if there else replace(expected, manifest=None))
        findings = self._findings(items, folder)
        yield from (
            separate_own_changes(findings, clone, pin.commit, head)
            if found == pin.commit
            else findings
        )

    def _walk(
        self, clone: VerifiedRepository, scope: VerifyScope, expected: ExpectedState
    ) -> Iterator[Item]:
        if self.mode != "local":
            return walk(GitUrlCollector(scope), scope, clone, expected)
        if clone.work_tree is None:
            raise NotADatasetError(f"{clone.git_dir} is a bare repository: it has no work tree")
        return walk(WorkTreeInspector(scope, self.jobs), scope, clone, expected)

    def _findings(self, items: Iterable[Item], folder: Path) -> Iterator[Finding]:
        """Yield findings for items; in remote modes, check the URLs of files in threads."""
        if self.mode == "local":
            yield from (item for item in items if isinstance(item, Finding))
            return
        # imported late: the network modules are not needed in local mode
        from neuromirror.transfer.url_checks import check_urls

        full = self.mode == "full"
        with closing(open_url_sessions(folder, self.token)) as sessions:
            yield from check_urls(
                *(items, sessions, self.claims),
                jobs=self.jobs,
                full=full,
                digests=self.digests if full else None,
            )


def open_url_sessions(folder: Path, token: Callable[[str], str | None] | None) -> UrlSessions:
    """Return sessions with the addresses and hosts that git's configuration in a folder allows.

    Parameters
    ----------
    folder
        The folder.
    token
        As for :func:`verify`.
    """
    from neuromirror.transfer.annex_settings import settings_in_folder
    from neuromirror.transfer.url_sessions import (
        UrlSessions,
        host_tokens,
        no_token,
        setting_command,
    )

    settings = settings_in_folder(folder)
    return UrlSessions(
        *(tuple(settings.allowed_addresses), token or no_token),
        setting=setting_command(folder),
        host_token=no_token if token is None else host_tokens(settings),
    )


def separate_own_changes(
    findings: Iterable[Finding], clone: VerifiedRepository, commit: str, head: str
) -> Iterator[Finding]:
    """Yield findings on a mirror's commit, then the changes of the clone's own commits.

    Own commits are those that the user added to the clone. A message about a file that they changed
    mentions this; removed files make the state a failure. Added files, and settings of git and
    DataLad, have findings of kind ``local``. Objects of own commits are hashed like the mirror's.
    """
    if head == commit:
        yield from findings
        return
    try:
        changed = clone.changed_paths(commit, head)
    except ObjectDamagedError as error:
        yield from findings
        yield Finding(status="error", kind="commit", message=str(error))
        return
    removed = [path for path, kind in changed.items() if kind == "D" and not _is_setting(path)]
    for finding in findings:
        path = finding.path
        if path not in changed or not finding.failed:
            yield finding
        elif _is_setting(path) or path in removed:
            verb = "removed" if changed[path] == "D" else "changed"
            message = f"{verb} by the clone's own commits"
            yield Finding(status="notneeded", path=path, kind="local", message=message)
        else:
            message = f"{finding.message}; changed by the clone's own commits"
            yield replace(finding, message=message)
    if removed:
        named = ", ".join(removed[:_MAX_NAMED]) + (", …" if len(removed) > _MAX_NAMED else "")
        message = f"the clone's own commits removed {len(removed)} of the mirror's files: {named}"
        yield Finding(status="error", kind="state", message=message)
    yield from _own_files(clone, head, {path for path, kind in changed.items() if kind == "A"})


def _own_files(clone: VerifiedRepository, head: str, added: set[str]) -> Iterator[Finding]:
    """Yield findings for files that own commits added; their trees and blobs are hashed."""
    try:
        for entry in clone.entries(clone.describe(head).tree):
            path = path_to_text(entry.path)
            if path in added:
                if entry.mode != GITLINK_MODE:
                    clone.read("blob", entry.sha)
                message = "not from the mirror: added by the clone's own commits"
                yield Finding(status="notneeded", path=path, kind="local", message=message)
    except ObjectDamagedError as error:
        yield Finding(status="error", kind="tree", message=str(error))


def _is_setting(path: str) -> bool:
    return path in (".gitattributes", ".gitmodules") or path.startswith(".datalad/")


def _processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _contradictions(pin: Pin, clone: VerifiedRepository) -> Iterator[Finding]:
    """Yield the differences between the pinned commit's description and the lock file."""
    try:
        document = clone.describe(pin.commit).document
    except ObjectDamagedError:
        return  # walk() yields the error
    if document and (why := pin.contradictions(document)):
        message = f"{why}; was the lock edited by hand?"
        yield Finding(status="error", kind="lock", message=message)


def _check_counts(pin: Pin, counted: PinnedCounts) -> Iterator[Finding]:
    """Yield a finding if the totals in the lock file are not those of the pinned files."""
    if counted.is_complete and (counted.files, counted.bytes) != (pin.files, pin.bytes):
        message = (
            f"the lock file pins {pin.files} files with {pin.bytes} bytes, but its commit and "
            f"paths have {counted.files} with {counted.bytes}; was it edited by hand?"
        )
        yield Finding(status="error", kind="lock", message=message)
