"""Datasets and locks looked at: what is here, what places say, or what they give."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from neuromirror.lab.results import Status
from neuromirror.lab.verify.clone import Clone, Damaged, Described, NotADataset
from neuromirror.lab.verify.findings import NOT_HERE, Finding
from neuromirror.lab.verify.looking import WorkTree
from neuromirror.lab.verify.remote import Counted, InGit, in_manifest, read_manifest
from neuromirror.lab.verify.walking import Expected, Item, Scope, walk
from neuromirror.mint import SUBDATASET
from neuromirror.model import Digest, text

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock, Pin

Mode = Literal["local", "remote", "full"]
"""What is looked at: the bytes here, what places say of theirs, or the bytes that places give."""

Claims = Callable[[str], Iterable[Digest]]
"""What is known of a key's bytes besides what the key says."""

_ASKING: Final = 8
_NAMED: Final = 5
"""Removed files that a message names."""


def no_token(host: str) -> str | None:
    """None: nobody is shown a token."""
    return None


def nothing_more(key: str) -> Iterable[Digest]:
    """Nothing besides what the key says."""
    return ()


def verify(
    target: Path | Lock,
    mode: Mode = "local",
    *,
    within: Path | None = None,
    allow_missing: bool = False,
    jobs: int | None = None,
    token: Callable[[str], str | None] = no_token,
    claims: Claims = nothing_more,
) -> Iterator[Finding]:
    """Yields what there is to say of a dataset, or of all datasets of a lock.

    ``target`` is the folder of a clone, which is compared with its own commit, or a lock, or the
    file of one. Its datasets are in ``within`` as ``restore`` puts them, by default beside the
    lock; what places have is asked for by the manifest beside it, so that no clone is needed then.
    Files come in order of path, then sub-datasets.

    ``allow_missing`` makes content and sub-datasets that are not here no failure, but not a dataset
    of a lock that is not there as a whole; ``jobs`` is how many threads look (None: as many as
    there are processors, or 8 where places are asked). ``token`` gives the token for a host of
    volumes, ``claims`` more checksums of a key's bytes, for places to be compared with.

    Raises :class:`NotADataset`, and LockUnusable for a file that is no lock.
    """
    verifier = _Verifier(mode, allow_missing, jobs, token, claims)
    if isinstance(target, Path):
        if target.is_dir():
            yield from verifier.dataset(target)
            return
        # who looks at a folder need not wait for all that a lock's URLs are checked with
        from neuromirror.lab.lockfile import load_lock

        target = load_lock(target)
    above = within or target.path.absolute().parent
    for pin in target.datasets:
        for finding in verifier.pin(target, pin, above / pin.dataset.alias):
            yield finding.of(pin.name, pin.resolved.version)


class _Verifier:
    """Looks at datasets in one mode; see :func:`verify`."""

    def __init__(
        self,
        mode: Mode,
        allow_missing: bool,
        jobs: int | None,
        token: Callable[[str], str | None],
        claims: Claims,
    ) -> None:
        self._mode = mode
        self._absent: Status = "notneeded" if allow_missing else "impossible"
        self._jobs = jobs or (_ASKING if mode != "local" else _processors())
        self._token = token
        self._claims = claims

    def dataset(self, folder: Path) -> Iterator[Finding]:
        """Yields what there is to say of a clone, beside its own commit."""
        with Clone.at(folder) as clone:
            head = clone.head()
            commit = clone.minted(head) or head
            try:
                described = clone.described(commit)
            except Damaged:
                described = Described(commit, "")  # told below
            items = self._walk(clone, Scope(absent=self._absent), Expected(commit))
            findings = own_apart(self._findings(items, folder), clone, commit, head)
            for finding in findings:
                yield finding.of(described.dataset, described.label)

    def pin(self, lock: Lock, pin: Pin, folder: Path) -> Iterator[Finding]:
        """Yields what there is to say of a dataset, beside what a lock pins."""
        manifest = lock.manifest_path(pin)
        expected = Expected(pin.commit, pin.tree, pin.state, manifest)
        scope = Scope(absent=self._absent)
        if pin.paths:
            scope = replace(scope, wanted=pin.matches, reaches=pin.reaches)
        counted = Counted()
        if self._mode != "local" and manifest.exists():
            items = in_manifest(scope, expected, counted)
            yield from self._findings(items, manifest.parent)
            yield from _counts(pin, counted)
            return
        yield read_manifest(manifest, pin.state, scope, counted)
        yield from _counts(pin, counted)
        try:
            clone = Clone.at(folder)
        except NotADataset:
            message = f"{NOT_HERE}: there is no dataset {folder}; 'neuromirror restore' brings it"
            # a dataset in another place than where one looks must not pass for missing content
            yield Finding(status="impossible", what="part", message=message)
            return
        with clone:
            yield from self._of_clone(clone, pin, scope, expected, folder)

    def _of_clone(
        self, clone: Clone, pin: Pin, scope: Scope, expected: Expected, folder: Path
    ) -> Iterator[Finding]:
        try:
            found = clone.head()
        except NotADataset as error:
            found = str(error)
        head = found
        if clone.minted(found) == pin.commit:
            found = pin.commit  # the clone's own commits stand on it
        if found != pin.commit:
            message = f"{folder} is at commit {found}, pinned is {pin.commit}"
            yield Finding(status="error", what="commit", message=message)
            if not clone.has(pin.commit):
                return
        yield from _contradictions(pin, clone)
        clone.ask_annex(pin.annex_commit)
        there = expected.manifest is not None and expected.manifest.exists()
        items = self._walk(clone, scope, expected if there else replace(expected, manifest=None))
        findings = self._findings(items, folder)
        yield from own_apart(findings, clone, pin.commit, head) if found == pin.commit else findings

    def _walk(self, clone: Clone, scope: Scope, expected: Expected) -> Iterator[Item]:
        if self._mode != "local":
            return walk(InGit(scope), scope, clone, expected)
        if clone.root is None:
            raise NotADataset(f"{clone.git_dir} is a bare repository: no files lie there")
        return walk(WorkTree(scope, self._jobs), scope, clone, expected)

    def _findings(self, items: Iterable[Item], folder: Path) -> Iterator[Finding]:
        """What there is to say of each item; places are asked by threads of their own."""
        if self._mode == "local":
            yield from (item for item in items if isinstance(item, Finding))
            return
        # whoever looks at what is here need not wait for all that speaks to a network
        from neuromirror.lab.verify.asking import (
            Sessions,
            allowed_addresses,
            asked,
            setting_command,
        )

        setting = setting_command(folder)
        allowed = allowed_addresses(folder)
        with closing(Sessions(allowed, self._token, setting=setting)) as sessions:
            yield from asked(
                items, sessions, self._claims, jobs=self._jobs, full=self._mode == "full"
            )


def own_apart(
    findings: Iterable[Finding], clone: Clone, commit: str, head: str
) -> Iterator[Finding]:
    """Yield findings on a mirror's commit, then what the clone's own commits on top of it changed.

    A file of the mirror that they changed is a failure that says so; of those that they removed,
    the state is. Files that they added, and settings of git and DataLad, are listed apart. Objects
    of the own commits are hashed like those of the mirror's.
    """
    if head == commit:
        yield from findings
        return
    try:
        changed = clone.changed(commit, head)
    except Damaged as error:
        yield from findings
        yield Finding(status="error", what="commit", message=str(error))
        return
    removed = [path for path, kind in changed.items() if kind == "D" and not _is_setting(path)]
    for finding in findings:
        path = finding.path
        if path not in changed or not finding.failed:
            yield finding
        elif _is_setting(path) or path in removed:
            verb = "removed" if changed[path] == "D" else "changed"
            message = f"the clone's own commits {verb} it"
            yield Finding(status="notneeded", path=path, what="own", message=message)
        else:
            message = f"{finding.message}; the clone's own commits changed it"
            yield replace(finding, message=message)
    if removed:
        named = ", ".join(removed[:_NAMED]) + (", …" if len(removed) > _NAMED else "")
        message = f"the clone's own commits removed {len(removed)} of the mirror's files: {named}"
        yield Finding(status="error", what="state", message=message)
    yield from _own_files(clone, head, {path for path, kind in changed.items() if kind == "A"})


def _own_files(clone: Clone, head: str, added: set[str]) -> Iterator[Finding]:
    """Yield the files that own commits added; their trees and blobs are hashed."""
    try:
        for entry in clone.entries(clone.described(head).tree):
            path = text(entry.path)
            if path in added:
                if entry.mode != SUBDATASET:
                    clone.read("blob", entry.sha)
                message = "not from the mirror: the clone's own commits added it"
                yield Finding(status="notneeded", path=path, what="own", message=message)
    except Damaged as error:
        yield Finding(status="error", what="tree", message=str(error))


def _is_setting(path: str) -> bool:
    return path in (".gitattributes", ".gitmodules") or path.startswith(".datalad/")


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _contradictions(pin: Pin, clone: Clone) -> Iterator[Finding]:
    """What the pinned commit says of itself that the lock says otherwise."""
    try:
        said = clone.described(pin.commit).said
    except Damaged:
        return  # told by who walks through it
    if said and (why := pin.contradicted(said)):
        message = f"{why}; was the lock edited by hand?"
        yield Finding(status="error", what="lock", message=message)


def _counts(pin: Pin, counted: Counted) -> Iterator[Finding]:
    """What is pinned, beside how much the lock says that it is."""
    if counted.known and (counted.files, counted.bytes) != (pin.files, pin.bytes):
        message = (
            f"the lock says that {pin.files} files with {pin.bytes} bytes are pinned, but its "
            f"commit and paths make {counted.files} with {counted.bytes}; was it edited by hand?"
        )
        yield Finding(status="error", what="lock", message=message)
