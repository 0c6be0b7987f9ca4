"""What the whole-state writer and the delta writer share: a mint under way."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from neuromirror.annex import (
    WEB_UUID,
    UrlRemote,
    link_target,
    special_remote,
    untrusted_line,
    uuid_line,
    web_remote,
)
from neuromirror.git import (
    BLOB,
    COMMIT,
    GITLINK_MODE,
    SYMLINK_MODE,
    KnownObjects,
    ObjectMissingError,
    ObjectReader,
    Pack,
    PackWriter,
    try_git,
)
from neuromirror.mint.annex_branch import REMOTE_LOG, TRUST_LOG, UUID_LOG, AnnexBranchWriter
from neuromirror.mint.commits import annex_message, commit_bytes, version_message
from neuromirror.mint.documents import dataset_json, sorted_documents, write_root_entries
from neuromirror.mint.manifest_writer import CanonicalManifestWriter
from neuromirror.mint.state_counts import StateCounts
from neuromirror.model import (
    FileTotals,
    SnapshotEntry,
    SnapshotHeader,
    VersionKind,
    WebRemote,
    epoch,
    metadata_digest,
)

_UNVERSIONED_REMOTE = WebRemote("unversioned", "*", 250, urlexclude="*versionId=?????*")
"""Gets the URLs that name no version of an object, and those of the version ``null``.

S3 overwrites that version while versioning is suspended. All other version ids are longer.
"""


@dataclass(frozen=True, slots=True)
class ParentCommits:
    """What a mint builds on, as commit ids in hex; None where the branch begins."""

    branch: str | None = None
    annex: str | None = None


def next_commit_second(repository: Path, parent: str | None) -> int:
    """Return the date of a commit whose state has no upstream time.

    It is second N of 1970 for the Nth commit of the branch, so that it follows from the chain
    alone. ``parent`` is the branch's last commit in hex, None where the branch begins.
    """
    if parent is None:
        return 1
    done = try_git(repository, "rev-list", "--count", "--first-parent", parent)
    if done.returncode:
        raise ObjectMissingError(
            f"{repository}: git cannot count the commits up to {parent} ({done.stderr.strip()}); "
            "restore the repository from a backup"
        )
    return int(done.stdout) + 1


@dataclass(frozen=True, slots=True)
class MintResult:
    """The objects of a state, waiting in packs under temporary names; ids in hex.

    ``commit`` equals the parent where the tree is the parent's (nothing changed), and the same
    holds for ``annex_commit``. ``manifest`` is a zstd file of the canonical manifest, ``metadata``
    the metadata digest. ``files``, ``bytes`` and ``evidence`` are of the state's own files;
    ``manifest_only`` of those among them that have no place in git, ``in_subdatasets`` of those
    that are
    not its own but its sub-datasets'. So what was listed is ``files`` and ``in_subdatasets``,
    documents
    and named exceptions; and what is committed here is ``files`` but for ``manifest_only``.
    """

    commit: str
    tree: str
    annex_commit: str
    state: str
    files: int
    bytes: int
    evidence: dict[str, int]
    manifest_only: FileTotals
    in_subdatasets: FileTotals
    metadata: str
    manifest: Path
    packs: tuple[Pack, ...]

    def discard(self) -> None:
        """Removes the files, when the state turned out to be nothing new."""
        self.manifest.unlink(missing_ok=True)
        for pack in self.packs:
            pack.discard()


def tree_entry(pack: PackWriter, placed: SnapshotEntry) -> tuple[bytes, bytes]:
    """Return mode and 20-byte id of an entry's symlink, which is written, or gitlink."""
    if placed.subdataset is None:
        return SYMLINK_MODE, pack.add(BLOB, link_target(placed.key, placed.git_path))
    commit = bytes.fromhex(placed.subdataset.commit)
    if len(commit) != 20:
        raise ValueError(f"the subdataset at {placed.git_path!r} has no commit")
    return GITLINK_MODE, commit


class MintTransaction:
    """A mint under way: objects go to ``pack``, manifest lines to ``manifest``.

    A context manager; what is not finished leaves nothing behind. ``reader`` reads the objects
    that the repository has. ``documents`` are upstream's, in order of path; ``holders`` are the
    remotes beside the plain web one.
    """

    def __init__(
        self,
        header: SnapshotHeader,
        repository: Path,
        parents: ParentCommits,
        scratch: Path,
        within: str = "",
    ) -> None:
        if header.form not in ("files", "manifest"):
            raise ValueError(f"there is no form {header.form!r} of a dataset")
        if len(header.special_remotes) > 1:
            raise ValueError("a dataset has one special remote at most")
        self.header = header
        self.within = within
        self.documents = sorted_documents(header)
        self.parents = parents
        time = header.version.time
        self.timestamp = (
            next_commit_second(repository, parents.branch) if time is None else epoch(time)
        )
        with ExitStack() as stack:
            known = KnownObjects(repository / "objects")
            stack.callback(known.close)
            self.reader = stack.enter_context(ObjectReader(repository))
            self.pack = stack.enter_context(PackWriter(scratch, known))
            self.manifest = stack.enter_context(CanonicalManifestWriter(scratch))
            annex = parents.annex
            self.annex_root = None if annex is None else self.reader.read_commit_tree(annex)
            self.holders = self._find_holders()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _find_holders(self) -> tuple[UrlRemote, ...]:
        """Return the remotes beside the plain web one that URLs of this state may lead to.

        A web remote of one dataset has a UUID of its own, a special remote the same everywhere.
        git-annex compares no more than sizes before a drop, so a web remote of URLs that may get
        other bytes is untrusted. In a bucket without versions that is the plain one.
        """
        header, stamp = self.header, self.timestamp
        holders = [
            UrlRemote(
                one.uuid,
                claims=True,
                declared=True,
                lines={
                    REMOTE_LOG: special_remote(
                        one.name, one.externaltype, one.uuid, stamp
                    ).decode(),
                    UUID_LOG: uuid_line(one.name, one.uuid, stamp).decode(),
                },
            )
            for one in header.special_remotes
        ]
        holders += [replace(self._web_holder(one), declared=True) for one in header.web_remotes]
        unversioned = self._web_holder(_UNVERSIONED_REMOTE)
        remotes, trust = self._read_log(REMOTE_LOG), self._read_log(TRUST_LOG)
        # what a log says of earlier keys must stay right
        is_untrusted = any(line.startswith(f"{WEB_UUID} 0 ") for line in trust.splitlines())
        if is_untrusted or (header.unversioned and unversioned.uuid not in remotes):
            line = untrusted_line(WEB_UUID, stamp).decode()
            holders.append(UrlRemote(WEB_UUID, lines={TRUST_LOG: line}))
        else:
            holders.append(unversioned)
        return tuple(holders)

    def _web_holder(self, web: WebRemote) -> UrlRemote:
        dataset = uuid.UUID(self.header.version.dataset.dataset_id)
        own = str(uuid.uuid5(dataset, f"remote {web.name}"))
        include, exclude, stamp = web.urlinclude, web.urlexclude, self.timestamp
        remote = web_remote(
            web.name, web.cost, stamp, uuid=own, urlinclude=include, urlexclude=exclude
        )
        lines = {
            REMOTE_LOG: remote.decode(),
            UUID_LOG: uuid_line(web.name, own, stamp).decode(),
            TRUST_LOG: untrusted_line(own, stamp).decode(),
        }
        return UrlRemote(own, urlinclude=include, urlexclude=exclude, lines=lines)

    def _read_log(self, name: str) -> str:
        """Return a file at the top of the git-annex branch as it was, empty where there is none."""
        if self.annex_root is None:
            return ""
        found = self.reader.read_tree(self.annex_root).get(name.encode())
        return "" if found is None else self.reader.read(found[1].hex()).decode()

    def write_annex_tree(self, lines: Iterable[bytes]) -> bytes:
        """Writes the git-annex branch's trees from sorted lines (see annex_line)."""
        branch = AnnexBranchWriter(
            self.pack, self.reader, self.timestamp, self.annex_root, self.holders
        )
        return branch.write(lines)

    def write_root_entries(self, sums: StateCounts) -> dict[bytes, tuple[bytes, bytes]]:
        """Writes the root's own files, once all manifest lines are in: name → (mode, id)."""
        state = self.manifest.state()
        description = dataset_json(self.header, self.documents, self.within, state, sums)
        return write_root_entries(self.pack, self.header, self.documents, description, sums)

    def finish(
        self,
        sums: StateCounts,
        tree: bytes,
        write_annex_tree: bytes,
        label: Callable[[str], str],
        packs: tuple[Pack, ...] = (),
    ) -> MintResult:
        """Writes the commits, where there is something new, and completes the files.

        ``packs`` are finished ones that belong to the state too.
        """
        state = self.manifest.state()
        name = label(state)
        mirror = self.header.version.dataset.mirror
        commit, annex = self.parents.branch, self.parents.annex
        observed = self.header.version.kind is VersionKind.OBSERVED
        if commit is None or not observed or self.reader.read_commit_tree(commit) != tree:
            message = version_message(self.header, name, state, sums.files, sums.bytes)
            commit = self._write_commit(mirror, tree, commit, message)
        if annex is None or self.annex_root != write_annex_tree:
            annex = self._write_commit(
                mirror, write_annex_tree, annex, annex_message(self.header, name)
            )
        manifest_path = self.manifest.finish()
        with ExitStack() as undo:
            undo.callback(manifest_path.unlink, missing_ok=True)
            own = self.pack.finish()
            undo.pop_all()
        return MintResult(
            commit=commit,
            tree=tree.hex(),
            annex_commit=annex,
            state=state,
            files=sums.files,
            bytes=sums.bytes,
            evidence=sums.evidence,
            manifest_only=sums.manifest_only,
            in_subdatasets=sums.in_subdatasets,
            metadata=metadata_digest(self.documents),
            manifest=manifest_path,
            packs=packs if own is None else (*packs, own),
        )

    def _write_commit(self, mirror: str, tree: bytes, parent: str | None, message: str) -> str:
        content = commit_bytes(mirror, tree, parent, self.timestamp, message)
        return self.pack.add(COMMIT, content).hex()
