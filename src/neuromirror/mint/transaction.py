"""The part that both writers of states share, with the canonical manifest of a state."""

from __future__ import annotations

import heapq
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

import zstandard
from msgspec import Struct
from msgspec.structs import replace

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
from neuromirror.mint.documents import (
    StateCounts,
    annex_message,
    commit_bytes,
    dataset_json,
    sorted_documents,
    version_message,
    write_root_entries,
)
from neuromirror.model import (
    FileTotals,
    SnapshotEntry,
    SnapshotHeader,
    StateDigest,
    VersionKind,
    WebRemote,
    epoch,
    metadata_digest,
)


class LineSorter:
    """Collects byte strings without newline and yields them sorted; a context manager.

    Beyond ``limit`` bytes of memory, sorted runs are written to unnamed temporary files in
    ``directory``, and merged while reading. The end of the block removes the files.
    """

    def __init__(self, directory: Path, limit: int = 24 << 20) -> None:
        self._directory = directory
        self._limit = limit
        self._lines: list[bytes] = []
        self._size = 0
        self._runs: list[IO[bytes]] = []

    def __enter__(self) -> LineSorter:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.close()
        self._runs.clear()
        self._lines.clear()

    def add(self, line: bytes) -> None:
        """Add a line.

        Parameters
        ----------
        line
            The line, in bytes.
        """
        self._lines.append(line)
        # 41: the size of a bytes object without its content, and of its list element
        self._size += len(line) + 41
        if self._size > self._limit:
            self._spill()

    def _spill(self) -> None:
        self._lines.sort()
        run: IO[bytes] = tempfile.TemporaryFile(dir=self._directory, buffering=1 << 18)  # noqa: SIM115
        self._runs.append(run)
        run.writelines(line + b"\n" for line in self._lines)
        self._lines = []
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines sorted by their bytes; may be called more than once."""
        self._lines.sort()
        if not self._runs:
            yield from self._lines
            return
        yield from heapq.merge(*(_read_run(run) for run in self._runs), self._lines)


def _read_run(run: IO[bytes]) -> Iterator[bytes]:
    run.seek(0)
    for line in run:
        yield line[:-1]


_UNVERSIONED_REMOTE = WebRemote("unversioned", "*", 250, urlexclude="*versionId=?????*")
"""The remote of URLs without a version id of at least six characters.

The version ``null`` is overwritten while a bucket's versioning is suspended; all other ids are
longer.
"""


class ParentCommits(Struct, frozen=True):
    """The parent commits of a mint, as ids in hex.

    Attributes
    ----------
    branch
        The parent on the branch; None for a new branch.
    annex
        The parent on the git-annex branch; None for a new branch.
    """

    branch: str | None = None
    annex: str | None = None


def next_commit_second(repository: Path, parent: str | None) -> int:
    """Return the date of a commit whose state has no upstream time, in seconds since the epoch.

    The Nth commit of a branch has the date N, which depends on the history alone.

    Parameters
    ----------
    repository
        The bare repository.
    parent
        The branch's last commit in hex; None for a new branch.

    Returns
    -------
    int
        Seconds since 1970: N for the Nth commit.

    Raises
    ------
    ObjectMissingError
        git cannot count the commits, because one is missing.
    """
    if parent is None:
        return 1
    done = try_git(repository, "rev-list", "--count", "--first-parent", parent)
    if done.returncode:
        raise ObjectMissingError(
            f"{repository}: git cannot count the commits up to {parent} ({done.stderr.strip()}); "
            "run 'neuromirror repair'"
        )
    return int(done.stdout) + 1


class MintResult(Struct, frozen=True):
    """The objects of a state, in packs under temporary names; ids in hex.

    The listing is the sum of ``files``, ``in_subdatasets``, documents and exceptions.

    Attributes
    ----------
    commit, annex_commit
        The commits of the two branches; the parent itself if its tree did not change.
    tree
        The tree of ``commit``.
    state
        The state digest.
    label
        The label of the version.
    files, bytes, evidence
        Number and size of the state's files, and their number by evidence, without subdatasets.
    manifest_only
        Number and size of the files that are in the manifest but not in git.
    in_subdatasets
        The files in subdatasets.
    metadata
        The metadata digest.
    manifest
        The canonical manifest (zstd).
    packs
        The packs with the new objects.
    """

    commit: str
    tree: str
    annex_commit: str
    state: str
    label: str
    files: int
    bytes: int
    evidence: dict[str, int]
    manifest_only: FileTotals
    in_subdatasets: FileTotals
    metadata: str
    manifest: Path
    packs: tuple[Pack, ...]

    def discard(self) -> None:
        """Remove the files, if the state is already the current one."""
        self.manifest.unlink(missing_ok=True)
        for pack in self.packs:
            pack.discard()


def tree_entry(pack: PackWriter, placed: SnapshotEntry) -> tuple[bytes, bytes]:
    """Return the mode and the 20-byte id with which an entry is in a git tree.

    A file is a symlink, which is written to ``pack``; a subdataset is a gitlink. Raises ValueError
    for a subdataset without a commit.
    """
    if placed.subdataset is None:
        return SYMLINK_MODE, pack.add(BLOB, link_target(placed.key, placed.git_path))
    commit = bytes.fromhex(placed.subdataset.commit)
    if len(commit) != 20:
        raise ValueError(f"the subdataset at {placed.git_path!r} has no commit")
    return GITLINK_MODE, commit


class MintTransaction:
    """A mint in progress; a context manager that removes all files unless it is finished.

    Attributes
    ----------
    pack
        Where new objects are written.
    reader
        Reads the objects of the repository.
    manifest
        Where manifest lines are written.
    documents
        Upstream's documents, sorted by path.
    holders
        The remotes beside git-annex's own web remote.
    annex_root
        The 20-byte id of the old git-annex branch's tree; None for a new branch.
    timestamp
        The date of the commits, in whole seconds since the epoch.
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
            raise ValueError(f"unknown form of a dataset: {header.form!r}")
        if len(header.special_remotes) > 1:
            raise ValueError("a dataset has at most one special remote")
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

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _find_holders(self) -> tuple[UrlRemote, ...]:
        """Return the remotes beside git-annex's own web remote that may serve URLs of this state.

        Further web remotes have a UUID per dataset; a special remote has the same UUID everywhere.
        Before a drop git-annex compares only sizes, so a web remote whose URLs may return other
        bytes later is untrusted. For a bucket without versions that is git-annex's own.
        """
        header, stamp = self.header, self.timestamp
        holders = [
            UrlRemote(
                remote.uuid,
                claims=True,
                declared=True,
                lines={
                    REMOTE_LOG: special_remote(
                        remote.name, remote.externaltype, remote.uuid, stamp
                    ).decode(),
                    UUID_LOG: uuid_line(remote.name, remote.uuid, stamp).decode(),
                },
            )
            for remote in header.special_remotes
        ]
        holders += [replace(self._web_holder(one), declared=True) for one in header.web_remotes]
        unversioned = self._web_holder(_UNVERSIONED_REMOTE)
        remotes, trust = self._read_log(REMOTE_LOG), self._read_log(TRUST_LOG)
        # the branch has logs of earlier keys, so an untrusted remote stays untrusted
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
        """Return a file in the root of the old git-annex branch; empty if it is missing."""
        if self.annex_root is None:
            return ""
        found = self.reader.read_tree(self.annex_root).get(name.encode())
        return "" if found is None else self.reader.read(found[1].hex()).decode()

    def write_annex_tree(self, lines: Iterable[bytes]) -> bytes:
        """Write the git-annex branch's trees from sorted annex lines; return the root's id."""
        branch = AnnexBranchWriter(
            self.pack, self.reader, self.timestamp, self.annex_root, self.holders
        )
        return branch.write(lines)

    def write_root_entries(self, sums: StateCounts) -> dict[bytes, tuple[bytes, bytes]]:
        """Write the files that are in every root tree; return their entries: name → (mode, id).

        All manifest lines must have been added, since one of the files has the state digest.
        """
        state = self.manifest.state()
        description = dataset_json(self.header, self.documents, self.within, state, sums)
        return write_root_entries(self.pack, self.header, description, sums)

    def finish(
        self,
        sums: StateCounts,
        tree: bytes,
        annex_tree: bytes,
        label: Callable[[str], str],
        packs: tuple[Pack, ...] = (),
    ) -> MintResult:
        """Write the commits of changed trees, and complete the files.

        Parameters
        ----------
        sums
            The state's counts.
        tree
            The main branch's tree.
        annex_tree
            The git-annex branch's tree.
        label
            Returns the version's label for a state digest.
        packs
            Finished packs that belong to the state as well.
        """
        state = self.manifest.state()
        name = label(state)
        mirror = self.header.version.dataset.mirror
        commit, annex = self.parents.branch, self.parents.annex
        observed = self.header.version.kind is VersionKind.OBSERVED
        if commit is None or not observed or self.reader.read_commit_tree(commit) != tree:
            message = version_message(self.header, name, state, sums.files, sums.bytes)
            commit = self._write_commit(mirror, tree, commit, message)
        if annex is None or self.annex_root != annex_tree:
            message = annex_message(self.header, name)
            annex = self._write_commit(mirror, annex_tree, annex, message)
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
            label=name,
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


class CanonicalManifestWriter:
    """Digests and compresses manifest lines in one pass; a context manager.

    The file has a temporary name in ``directory``. Without a call of :meth:`finish` it is removed
    at the end of the block.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="tmp_manifest_", dir=directory)
        self._path = Path(name)
        self._file = os.fdopen(handle, "wb")
        # one thread and no content size: equal lines give equal bytes on every machine
        self._zstd = zstandard.ZstdCompressor(level=3).stream_writer(self._file, closefd=False)
        self._digest = StateDigest()
        self._is_finished = False

    def __enter__(self) -> CanonicalManifestWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_finished:
            try:
                self._file.close()
            finally:
                # close() flushes the buffer, which fails on a full disk
                self._path.unlink(missing_ok=True)

    def add(self, line: bytes) -> None:
        """Add the next line, newline included."""
        self._digest.add(line)
        self._zstd.write(line)

    def state(self) -> str:
        """Return the state digest of the lines so far, ``sha256:<hex>``."""
        return self._digest.value()

    def finish(self) -> Path:
        """Complete the file; return its temporary path."""
        self._zstd.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        self._file.close()
        self._is_finished = True
        return self._path
