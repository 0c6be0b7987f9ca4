"""``verify``: compare datasets, or the datasets of a lock file, with their pinned state."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror import model
from neuromirror.annex import parse_link_target, parse_pointer, record_of_key, strip_claim_prefix
from neuromirror.git import GITLINK_MODE
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestMissingError,
    PinnedState,
    PlainFile,
    canonical_line,
    store_contradiction,
)
from neuromirror.transfer.outcomes import NOT_HERE, EvidenceStatus, Finding, Outcome, Status
from neuromirror.transfer.url_health import ClaimLookup, no_claims
from neuromirror.transfer.verified_repository import (
    CommitDescription,
    EntryInspector,
    InspectedEntry,
    Item,
    NotADatasetError,
    ObjectDamagedError,
    PinnedFile,
    VerifiedEntry,
    VerifiedRepository,
    VerifyScope,
    select_all,
    unreadable_entry,
)
from neuromirror.transfer.work_tree import WorkTreeInspector, verify_plain_files

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock, Pin
    from neuromirror.store import Store
    from neuromirror.transfer.annex_objects import BlockDigestsRecorder
    from neuromirror.transfer.url_sessions import UrlSessions


class EvidenceSummary(Struct):
    """Counts how many files a restore fetched, by evidence, and formats the counts for the user.

    Attributes
    ----------
    fetched
        Number of fetched files by evidence, and by whether they were checked.
    present
        Number of files that were there before.
    failed
        Number of files that could not be fetched.
    """

    fetched: Counter[tuple[model.Evidence, EvidenceStatus]] = field(default_factory=Counter)
    present: int = 0
    failed: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of a file."""
        if outcome.failed:
            self.failed += 1
        elif outcome.status == "notneeded":
            self.present += 1
        else:
            evidence = outcome.evidence or model.Evidence.NONE
            checked = outcome.checked == "checked" and evidence is not model.Evidence.NONE
            self.fetched[evidence, "checked" if checked else "claimed"] += 1

    def messages(self) -> list[str]:
        """Return the counts as text."""
        unverified = sum(count for (_, how), count in self.fetched.items() if how == "claimed")
        counts = [
            *((self.fetched[one, "checked"], f"verified by {one.value}") for one in model.Evidence),
            (unverified, "not verified (no checksum)"),
            (self.present, "already present, not verified again"),
            (self.failed, "not available"),
        ]
        return [f"{model.count_of(count, 'file')} {what}" for count, what in counts if count]


def annexed_file_line(path: bytes, key: str) -> bytes:
    """Return the line of the canonical manifest for an annexed file.

    Parameters
    ----------
    path
        The path in git.
    key
        The annex key, which contains the digest and the size.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    record = record_of_key(key, path)
    return model.manifest_line(path, model.manifest_digest(record), record.size)


def walk(
    inspector: EntryInspector,
    scope: VerifyScope,
    clone: VerifiedRepository,
    expected: PinnedState,
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
    where = model.path_to_text(below[:-1]) or "."
    try:
        described = clone.describe(expected.commit)
    except ObjectDamagedError as error:
        yield Finding(status="error", path=where, kind="commit", message=str(error))
        return
    yield Finding(path=where, kind="commit", message=described.commit, checked="checked")
    if expected.tree and expected.tree != described.tree:
        message = f"the commit has tree {described.tree}, expected {expected.tree}"
        yield Finding(status="error", path=where, kind="tree", message=message)
    digest = model.StateDigest()
    parts: list[VerifiedEntry] = []
    try:
        for looked in inspector.inspect(clone, below, clone.entries(described.tree)):
            entry, key = looked.entry, looked.key
            if entry.mode == GITLINK_MODE:
                parts.append(entry)
                subdataset = _subdataset(described, entry)
                try:
                    line = model.subdataset_line(
                        entry.path, subdataset.dataset_id, subdataset.state
                    )
                except UnicodeError as error:
                    raise ObjectDamagedError(
                        f"{clone.git_dir}: subdataset {entry.path!r} is malformed: its name, id or "
                        "state is not UTF-8"
                    ) from error
                digest.add(line)
            elif key is not None:
                with suppress(ValueError):  # the file has a finding, and the digest will differ
                    digest.add(annexed_file_line(entry.path, key))
            yield from looked.items
    except ObjectDamagedError as error:
        yield Finding(status="error", path=where, kind="tree", message=str(error))
        return
    yield Finding(path=where, kind="tree", message=described.tree, checked="checked")
    yield from _state(digest.value(), expected, described, scope, where)
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
    document = described.subdatasets.get(model.path_to_text(entry.path))
    if not isinstance(document, dict):
        return _Subdataset(entry, "", "", 0)
    files = document.get("files")
    count = files if isinstance(files, int) else 0
    return _Subdataset(entry, str(document.get("id", "")), str(document.get("state", "")), count)


def _state(
    found: str, expected: PinnedState, described: CommitDescription, scope: VerifyScope, where: str
) -> Iterator[Finding]:
    """Yield whether the files have the expected state; ``found`` is that of the files in git."""
    state = expected.state or described.state
    if not state:
        return  # no state digest to compare with
    only = described.manifest_only_files
    if described.form == "files":
        if found == state:
            yield Finding(path=where, kind="state", message=found, checked="checked")
        else:
            message = f"the files in git have state {found}, expected {state}"
            yield Finding(status="error", path=where, kind="state", message=message)
    elif expected.has_manifest:
        # whether the manifest has the state, and the tree of the commit, which git has
        try:
            for _ in replace(expected, state=state).open_manifest().blocks():
                pass
            yield Finding(path=where, kind="state", message=state, checked="checked")
        except (LockManifestDamagedError, LockManifestMissingError) as error:
            yield Finding(status="error", path=where, kind="state", message=str(error))
    else:
        message = (
            f"{only} of its files are not in git, and the manifest that lists them is only "
            "available for a lock file: neither they nor the state digest can be verified"
        )
        yield Finding(status=scope.missing_status, path=where, kind="state", message=message)
        return
    if only:
        message = f"{NOT_HERE}: {only} files that are not in git but in the manifest"
        yield Finding(status=scope.missing_status, path=where, kind="subdataset", message=message)


def _walk_subdataset(
    inspector: EntryInspector,
    scope: VerifyScope,
    clone: VerifiedRepository,
    expected: PinnedState,
    part: _Subdataset,
    below: bytes,
) -> Iterator[Item]:
    path = below + part.entry.path
    folder = (
        None if clone.work_tree is None else clone.work_tree / model.path_to_text(part.entry.path)
    )
    try:
        if folder is None or not (folder / ".git").exists():
            raise NotADatasetError(f"{NOT_HERE}: a subdataset of {part.files} files")
        inner = VerifiedRepository.at(folder)
    except NotADatasetError as error:
        yield Finding(
            status=scope.missing_status,
            path=model.path_to_text(path),
            kind="subdataset",
            message=str(error),
        )
        return
    with inner:
        commit = part.entry.sha
        if (found := inner.head()) != commit:
            message = f"the subdataset is at commit {found}, expected {commit}"
            yield Finding(
                status="error", path=model.path_to_text(path), kind="subdataset", message=message
            )
            if not inner.has_commit(commit):
                return
        pinned = replace(expected.of_subdataset(commit, part.state, part.files), files=None)
        yield from walk(inspector, scope, inner, pinned, path + b"/")


class GitUrlCollector(Struct, frozen=True):
    """Collects the annexed files of clones with their URLs, to be verified there."""

    scope: VerifyScope

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
                yield unreadable_entry(entry, model.path_to_text(path), error)
                continue
            key = parse_link_target(content) or parse_pointer(content)
            if key is None or not self.scope.is_selected(path):
                yield InspectedEntry(entry, key)
            else:
                copies = (*self.scope.copies(key), *clone.copies(key))
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
    scope: VerifyScope, expected: PinnedState, counts: PinnedCounts, below: bytes = b""
) -> Iterator[Item]:
    """Yield findings and files for a manifest and those of its subdatasets.

    State digest and git tree are recomputed from its lines, the commit id from its commit object.

    Parameters
    ----------
    scope
        The part of the dataset to verify.
    expected
        Expected state, with its manifest.
    counts
        Totals, to which the pinned files are added.
    below
        Path in the outermost dataset, with a slash at its end.
    """
    where = model.path_to_text(below[:-1]) or "."
    parts: list[ListedSubdataset] = []
    try:
        reader = expected.open_manifest()
        yield Finding(path=where, kind="commit", message=expected.commit, checked="checked")
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
    yield Finding(path=where, kind="tree", message=reader.head.tree, checked="checked")
    yield Finding(path=where, kind="state", message=reader.head.state, checked="checked")
    for part in parts:
        inner = expected.of_subdataset(part.commit, part.state, part.files)
        yield from walk_manifest(scope, inner, counts, below + part.path.encode() + b"/")


def pinned_items(lock: Lock, pin: Pin) -> Iterator[Item]:
    """Yield the pinned files of a dataset, and findings, from the manifests beside a lock file.

    Parameters
    ----------
    lock, pin
        The lock file, and a pin of it.
    """
    scope = VerifyScope(is_selected=pin.matches, reaches=pin.reaches)
    return walk_manifest(scope, PinnedState.of_pin(lock, pin), PinnedCounts())


def check_manifest(
    expected: PinnedState, scope: VerifyScope, counts: PinnedCounts, below: bytes = b""
) -> Finding:
    """Return whether a manifest is complete and that of the expected state.

    A missing one is ``notneeded``: a clone has the commit, whose state digest is verified anyway.
    Manifests of subdatasets are read only if a part of them is pinned.

    Parameters
    ----------
    expected
        Expected state, with its manifest.
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
        reader = expected.open_manifest()
        for entry in reader.entries():
            at = below + entry.path.encode()
            if isinstance(entry, ListedFile):
                if scope.is_selected(at):
                    counts.add(1, entry.size or 0)
            elif whole:
                counts.add(entry.files, entry.bytes)
            elif scope.reaches(at):
                parts.append(entry)
    except LockManifestMissingError as error:
        counts.is_complete = False
        return Finding(status="notneeded", kind="manifest", message=str(error))
    except LockManifestDamagedError as error:
        counts.is_complete = False
        return Finding(status="error", kind="manifest", message=str(error))
    for part in parts:
        prefix = below + part.path.encode() + b"/"
        inner = expected.of_subdataset(part.commit, part.state, part.files)
        if (found := check_manifest(inner, scope, counts, prefix)).failed:
            return found
    return Finding(kind="manifest", message=reader.head.state, checked="checked")


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
        return Finding(status="error", path=model.path_to_text(path), key=one.key, message=message)
    web_urls = tuple(url for url in one.urls if url.startswith(("https://", "http://")))
    return PinnedFile(path, one.key, tuple(map(strip_claim_prefix, one.urls)), web_urls)


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
    store: Store | None = None,
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
        Where the datasets of the lock file were restored; by default the lock file's folder, and
        for a dataset that is not there, the one folder in it that has this dataset.
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
    store
        The user's own store, whose published versions must agree with the lock file.

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
    processors = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    jobs = jobs or (len(processors) if mode == "local" else _DEFAULT_REQUESTS)
    verifier = _Verifier(mode, missing_status, jobs, token, claims, digests)
    if isinstance(target, Path):
        if target.is_dir():
            yield from verifier.dataset(target)
            return
        # imported late: not needed to verify a folder
        from neuromirror.lab.lockfile import load_lock

        target = load_lock(target)
    beside = target.path.absolute().parent
    for pin in target.datasets:
        folder = (within or beside) / pin.dataset.alias
        near = [] if within or folder.is_dir() else list(beside.glob(f"*/{folder.name}/.git"))
        if len(near) == 1:
            folder = near[0].parent
        findings = verifier.pin(target, pin, folder)
        if why := store_contradiction(store, pin):
            findings = chain([Finding(status="error", kind="lock", message=why)], findings)
        for finding in findings:
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
                clone, VerifyScope(missing_status=self.missing_status), PinnedState(commit)
            )
            findings = separate_own_changes(self._findings(items, folder), clone, commit, head)
            for finding in findings:
                yield finding.for_version(described.dataset, described.label)

    def pin(self, lock: Lock, pin: Pin, folder: Path) -> Iterator[Finding]:
        """Yield findings for a dataset, compared with its pin."""
        expected = PinnedState.of_pin(lock, pin)
        manifest = expected.manifest
        vaults = tuple(copy.address for copy in pin.copies)
        scope = VerifyScope(missing_status=self.missing_status, vaults=vaults)
        if pin.paths:
            scope = replace(scope, is_selected=pin.matches, reaches=pin.reaches)
        counted = PinnedCounts()
        if self.mode != "local" and manifest.exists():
            items = walk_manifest(scope, expected, counted)
            yield from self._findings(items, manifest.parent)
            yield from _check_counts(pin, counted)
            return
        yield check_manifest(expected, scope, counted)
        yield from _check_counts(pin, counted)
        try:
            clone = VerifiedRepository.at(folder)
        except NotADatasetError:
            if folder.is_dir() and not (folder / ".git").exists() and manifest.exists():
                # files without git, which another program downloaded
                items = walk_manifest(scope, expected, PinnedCounts())
                yield from verify_plain_files(items, folder, scope.missing_status, self.jobs)
                return
            message = f"{NOT_HERE}: dataset {folder} does not exist; use 'neuromirror restore'"
            if near := sorted(folder.parent.glob(f"*/{folder.name}/.git")):
                message += f", or specify --in {near[0].parent.parent}"
            # not subject to allow_missing: a wrong folder must not pass as missing content
            yield Finding(status="impossible", kind="subdataset", message=message)
            return
        with clone:
            yield from self._of_clone(clone, pin, scope, expected, folder)

    def _of_clone(
        self,
        clone: VerifiedRepository,
        pin: Pin,
        scope: VerifyScope,
        expected: PinnedState,
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
        with suppress(ObjectDamagedError):  # walk() yields the error
            document = clone.describe(pin.commit).document
            if document and (why := pin.contradictions(document)):
                message = f"{why}; was the lock edited by hand?"
                yield Finding(status="error", kind="lock", message=message)
        clone.use_annex_commit(pin.annex_commit)
        findings = self._findings(self._walk(clone, scope, expected), folder)
        yield from (
            separate_own_changes(findings, clone, pin.commit, head)
            if found == pin.commit
            else findings
        )

    def _walk(
        self, clone: VerifiedRepository, scope: VerifyScope, expected: PinnedState
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
        from neuromirror.transfer.url_health import check_urls

        full = self.mode == "full"
        with closing(open_url_sessions(self.token)) as sessions:
            yield from check_urls(
                *(items, sessions, self.claims),
                jobs=self.jobs,
                full=full,
                digests=self.digests if full else None,
            )


def open_url_sessions(token: Callable[[str], str | None] | None) -> UrlSessions:
    """Return sessions with the addresses and hosts that the user's configuration of git allows.

    Parameters
    ----------
    token
        As for :func:`verify`.
    """
    from neuromirror.transfer.annex_branch import AnnexSettings
    from neuromirror.transfer.url_sessions import UrlSessions, host_tokens, no_token

    settings = AnnexSettings.of_user()
    return UrlSessions(
        *(tuple(settings.allowed_addresses), token or no_token),
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
            path = model.path_to_text(entry.path)
            if path in added:
                if entry.mode != GITLINK_MODE:
                    clone.read("blob", entry.sha)
                message = "not from the mirror: added by the clone's own commits"
                yield Finding(status="notneeded", path=path, kind="local", message=message)
    except ObjectDamagedError as error:
        yield Finding(status="error", kind="tree", message=str(error))


def _is_setting(path: str) -> bool:
    return path in (".gitattributes", ".gitmodules") or path.startswith(".datalad/")


def _check_counts(pin: Pin, counted: PinnedCounts) -> Iterator[Finding]:
    """Yield a finding if the totals in the lock file are not those of the pinned files."""
    if counted.is_complete and (counted.files, counted.bytes) != (pin.files, pin.bytes):
        message = (
            f"the lock file pins {pin.files} files with {pin.bytes} bytes, but its commit and "
            f"paths have {counted.files} with {counted.bytes}; was it edited by hand?"
        )
        yield Finding(status="error", kind="lock", message=message)
