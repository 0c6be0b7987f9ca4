"""Rebuild a dataset's repository from the manifest beside a lock file, or from upstream.

Mint states of a dataset again from upstream, in an empty store.

The scratch store is filled by the same code as a real one, without data of earlier visits: no
index, no memos, no known URLs.

Rebuild the git-annex branch of a dataset from the manifest beside a lock file.

This module is also the worker process that does so for a large manifest, beside the process that
rebuilds the commit.

Rebuild the repository of a dataset from the manifest beside a lock file.

The result has the pinned commit, because the manifest has all data of the commit. It has no history
(a shallow repository in git's terms), and a git-annex branch of its own with the URLs of the
manifest.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from msgspec.structs import replace
from pydantic import BaseModel

from neuromirror import git, model
from neuromirror.annex import (
    UrlRemote,
    find_pointer_key,
    key_from_file_name,
    link_target,
    log_path,
    parse_remote_log,
    record_of_key,
)
from neuromirror.config.mirror_files import GuardSettings
from neuromirror.crawl import Mirror, Recorder, Visit, VisitOutcome, release_hold, visit_dataset
from neuromirror.index import SubdatasetRow, VersionRow
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestHead,
    LockManifestReader,
    ManifestEntry,
    PlainFile,
)
from neuromirror.mint import MINT_SPEC, LineSorter, commit_bytes
from neuromirror.mint.annex_branch import REMOTE_LOG, TRUST_LOG, UUID_LOG, AnnexBranchWriter
from neuromirror.mint.annex_worker import AnnexWorker, run_worker
from neuromirror.sources import Listing, ListingEntry, Source, VisitContext
from neuromirror.store import ANNEX_BRANCH, TAG_PREFIX, Store

_FILES = (b"100644", b"100755", b"100664")
_MAX_POINTER_BYTES = 80 << 10
"""Maximum size in bytes of a file that git-annex reads as a pointer."""
# number of ids that always fit into a pipe: they are written at once, then the replies are read
_BATCH = 1000


class CommitUnreadableError(model.NeuromirrorError):
    """A commit was not minted by a mirror, or cannot be read by git."""


@dataclass(slots=True)
class MintedCommit:
    """A minted commit in the repository ``git_dir``.

    ``description`` is its ``.neuromirror/dataset.json``.

    Raises
    ------
    CommitUnreadableError
        The commit cannot be read, or was not minted.
    """

    git_dir: Path
    commit: str
    tree: str = field(init=False)
    description: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        with git.ObjectReader(self.git_dir) as reader:
            try:
                self.tree = reader.read_commit_tree(self.commit).hex()
                content = reader.read(f"{self.commit}:{model.DESCRIPTION_PATH}")
                self.description = model.parse_description(content, model.DESCRIPTION_PATH)
            except (git.ObjectMissingError, ValueError) as error:
                raise CommitUnreadableError(
                    f"commit {self.commit} in {self.git_dir} was not created by neuromirror: "
                    f"{error}"
                ) from error

    @property
    def form(self) -> str:
        """Return ``files``, or ``manifest`` for a huge Zarr, most of which is not in git."""
        return str(self.description.get("form", "files"))

    @property
    def manifest_only_files(self) -> int:
        """Return the number of files that are not in git."""
        return int(self.description.get("manifest-only", {}).get("files", 0))

    def entries(self) -> Iterator[ListedFile | ListedSubdataset]:
        """Yield the annexed files, from their keys, and the subdatasets, in the order of paths.

        Pointer files (unlocked files of git-annex) are annexed files too.

        Raises
        ------
        CommitUnreadableError
            The commit cannot be read.
        """
        with ExitStack() as stack:
            objects = stack.enter_context(git.BatchObjectReader(self.git_dir))
            sizes = stack.enter_context(
                git.start_git(self.git_dir, "cat-file", "--batch-check=%(objectsize)")
            )
            entries = stack.enter_context(closing(git.list_tree(self.git_dir, self.commit)))
            try:
                while some := list(islice(entries, _BATCH)):
                    yield from self._read(some, objects, sizes)
            except ValueError as error:
                raise CommitUnreadableError(
                    f"commit {self.commit} in {self.git_dir} was not created by neuromirror: "
                    f"{error}"
                ) from error
            except git.GitError as error:
                raise CommitUnreadableError(str(error)) from error

    def _read(
        self,
        entries: list[git.ListedEntry],
        objects: git.BatchObjectReader,
        sizes: subprocess.Popen[bytes],
    ) -> Iterator[ListedFile | ListedSubdataset]:
        assert sizes.stdin is not None
        assert sizes.stdout is not None
        files = [sha for mode, sha, _ in entries if mode in _FILES]
        sizes.stdin.write("".join(f"{sha}\n" for sha in files).encode())
        sizes.stdin.flush()
        small = set()
        for sha in files:
            if not (size := sizes.stdout.readline().strip()).isdigit():
                raise CommitUnreadableError(f"an object of a commit is missing: {size!r}")
            if int(size) <= _MAX_POINTER_BYTES:
                small.add(sha)

        def is_small(mode: bytes, sha: str) -> bool:
            return mode in _FILES and sha in small

        contents = objects.read(
            [
                sha.encode()
                for mode, sha, _ in entries
                if mode == git.SYMLINK_MODE or is_small(mode, sha)
            ]
        )
        for mode, sha, path in entries:
            if mode == git.SYMLINK_MODE:
                yield _file(path, _existing(next(contents)))
            elif is_small(mode, sha):
                key = find_pointer_key(_existing(next(contents)))
                if key is not None:
                    yield _listed(path, key)
            elif mode == git.GITLINK_MODE:
                yield self._subdataset(path, sha)

    def _subdataset(self, path: bytes, commit: str) -> ListedSubdataset:
        name = model.path_to_text(path)
        subdataset = self.description.get("parts", {}).get(name)
        if subdataset is None:
            raise CommitUnreadableError(
                f"the description of commit {self.commit} lacks the subdataset {name}"
            )
        mirror = self.description["dataset"].partition(":")[0]
        return ListedSubdataset(
            name,
            subdataset["id"],
            f"{mirror}:{subdataset['local-id']}",
            commit,
            subdataset["state"],
            subdataset["files"],
            subdataset["bytes"],
        )


def _existing(content: bytes | None) -> bytes:
    if content is None:
        raise CommitUnreadableError("an object of a commit is missing")
    return content


def _file(path: bytes, target: bytes) -> ListedFile:
    """Return a file from its link target.

    The target must be exactly the one that a mirror writes: a link to an object of another
    repository has the same key, but arbitrary content.
    """
    try:
        key = key_from_file_name(target.rpartition(b"/")[2])
    except ValueError as error:
        raise CommitUnreadableError(f"{path!r} was not created by a mirror: {error}") from error
    found = _listed(path, key)
    if target != link_target(key, path):
        raise CommitUnreadableError(
            f"{path!r} links to another path than the annex object of its key"
        )
    return found


def _listed(path: bytes, key: str) -> ListedFile:
    try:
        record = record_of_key(key, path)
        return ListedFile(path.decode(), key, model.manifest_digest(record), record.size)
    except ValueError as error:
        raise CommitUnreadableError(f"{path!r} was not created by a mirror: {error}") from error


class SelectedVersionsSource:
    """A source that lists only some versions of a dataset, so that a visit mints only these.

    Parameters
    ----------
    source
        The archive's source.
    versions
        The versions to mint, with their names in the store.
    upstream_versions
        Upstream's version by the name in the store, for versions of which upstream has another name
        (an earlier state).
    """

    Options: ClassVar[type[BaseModel]] = BaseModel

    def __init__(
        self,
        source: Source,
        versions: Sequence[model.VersionRef],
        upstream_versions: Mapping[str, model.VersionRef] | None = None,
    ) -> None:
        self._source = source
        self._versions = list(versions)
        self._upstream_versions = upstream_versions or {}
        self.mirror, self.uri = source.mirror, source.uri
        self.dataset, self.datasets, self.hint = source.dataset, source.datasets, source.hint
        self.capabilities, self.estimate = source.capabilities, source.estimate
        self.superdataset = source.superdataset

    def versions(self, dataset: model.DatasetRef) -> list[model.VersionRef]:
        """Return the selected versions."""
        return self._versions

    def history(self, dataset: model.DatasetRef, since: datetime | None) -> list[model.VersionRef]:
        """Return no earlier states; they are among the selected versions if requested."""
        return []

    def listing(self, version: model.VersionRef, context: VisitContext) -> Listing:
        """Return the listing of a version, or of an earlier state under its new name."""
        upstream_version = self._upstream_versions.get(version.upstream)
        if upstream_version is None:
            return self._source.listing(version, context)
        return _RenamedListing(self._source.listing(upstream_version, context), version.upstream)


class _RenamedListing(Listing):
    """A listing of an earlier state, with the upstream name of the version in the store."""

    def __init__(self, listing: Listing, upstream: str) -> None:
        vars(self).update(vars(listing), can_find_present=False)
        self._listing = listing
        self._upstream = upstream

    def entries(self) -> Iterator[ListingEntry]:
        yield from self._listing.entries()
        # the version is only known at the end of the listing
        self.version = replace(self._listing.version, upstream=self._upstream)
        self.facts, self.documents = self._listing.facts, self._listing.documents

    def confirm_version(self) -> model.VersionRef:
        return replace(self._listing.confirm_version(), upstream=self._upstream)

    def problems(self) -> Sequence[str]:
        return self._listing.problems()

    def refused_count(self) -> int:
        return self._listing.refused_count()


class Reminter:
    """Mints versions of one dataset again from upstream, in a scratch store without guards.

    Parameters
    ----------
    mirror, hint
        The mirror, and the dataset's entry in its archive's overview.
    scratch, recorder
        The scratch store and its recorder.
    """

    def __init__(
        self, mirror: Mirror, hint: model.DatasetHint, scratch: Store, recorder: Recorder
    ) -> None:
        # listings that a real store would hold are minted here
        guards = GuardSettings(max_removed_percent=100, settle_minutes=0)
        self._settings = mirror.settings.model_copy(update={"guards": guards})
        self._hint = hint
        self._recorder = recorder
        self.store = scratch

    def mint(self, source: Source, version: model.VersionRef) -> VersionRow:
        """Mint all versions of a source up to ``version``, the last one; return its row.

        Raises
        ------
        NeuromirrorError
            The version cannot be minted.
        NetError, UnreliableListingError
            The archive cannot be read.
        """
        dataset = self._hint.dataset
        with self.store.lock(dataset.dataset_id, dataset.name):
            visit = Visit(source, self.store, self._recorder, self._settings, dataset)
            visit_dataset(visit)
            outcome = visit.outcome
            if outcome.hold_messages:
                # release the hold: the result is only compared with the store
                for one in self._recorder.ask(lambda index: list(index.crawl.open_holds())):
                    release_hold(self._recorder, one.hold)
                outcome = VisitOutcome()
                visit_dataset(replace(visit, outcome=outcome))
        if outcome.problems:
            why = "; ".join(outcome.problems)
            raise model.NeuromirrorError(
                f"{dataset.name} {version.upstream} cannot be minted again: {why}"
            )
        published = version.kind is model.VersionKind.PUBLISHED
        minted = self._recorder.ask(
            lambda index: (
                index.versions.published(dataset.name, version.upstream)
                if published
                else index.versions.last(dataset.name, version.kind.value)
            )
        )
        if minted is None:
            problems = [*outcome.incidents, *outcome.hold_messages, outcome.waiting_reason]
            why = "; ".join(filter(None, problems)) or "the visit created no version"
            raise model.NeuromirrorError(
                f"{dataset.name} {version.upstream} cannot be minted again: {why}"
            )
        return minted

    def subdatasets(self, minted: VersionRow) -> list[SubdatasetRow]:
        """Return the subdatasets of a version in the scratch store."""
        return self._recorder.ask(lambda index: list(index.versions.subdatasets(minted)))

    def version_at(self, name: str, commit: str) -> VersionRow:
        """Return the version of a dataset in the scratch store that has a commit."""
        return self._recorder.ask(lambda index: index.versions.resolve(name, commit))


def annex_branch_worker(manifest: LockManifestReader, git_dir: Path) -> AnnexWorker:
    """Return a worker process that runs :func:`write_annex_branch`."""
    task = {
        "manifest": str(manifest.path.absolute()),
        "files": manifest.max_files,
        "sha256": manifest.sha256,
        "git_dir": str(git_dir.absolute()),
    }
    return AnnexWorker("neuromirror.lab.rebuild", task)


def write_annex_branch(
    manifest: LockManifestReader, git_dir: Path
) -> tuple[bytes, git.Pack | None]:
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
    with (
        git.PackWriter(packs) as pack,
        LineSorter(git_dir) as logs,
        git.ObjectReader(git_dir) as reader,
    ):
        for line in manifest.lines(check_tree=False):
            if isinstance(line, ListedFile) and line.in_git and line.urls:
                logs.add(b"\0".join([log_path(line.key), *(url.encode() for url in line.urls)]))
        return _write_branch(pack, reader, manifest.head, logs), pack.finish()


def _write_branch(
    pack: git.PackWriter, reader: git.ObjectReader, head: LockManifestHead, logs: Iterable[bytes]
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
    return pack.add(git.COMMIT, commit_bytes(mirror, tree, None, stamp, message))


def _work(task: dict[str, Any]) -> tuple[bytes, git.Pack | None]:
    manifest = LockManifestReader(Path(task["manifest"]), task["files"], task["sha256"])
    return write_annex_branch(manifest, Path(task["git_dir"]))


if __name__ == "__main__":
    run_worker(_work)


_MIN_WORKER_BYTES = 4 << 20
"""Minimum size in bytes of a manifest for which a worker process is started."""


class _Entry(NamedTuple):
    path: bytes
    mode: bytes
    sha: bytes


def rebuild_repository(manifest: LockManifestReader, git_dir: Path) -> dict[str, str]:
    """Write the objects of the commit of a manifest into an empty repository.

    Returns
    -------
    dict
        The commits by the names of their refs, which the caller creates.

    git checks the commit, its trees and its plain files. It has no checks for the other objects:
    the links and the git-annex branch, which are written from valid keys.

    Raises
    ------
    LockManifestDamagedError
        The objects are not those that the head of the manifest names.
    ObjectsRefusedError
        git rejects an object.
    AnnexWorkerError
        The process that writes the git-annex branch failed.
    """
    head = manifest.head
    if manifest.path.stat().st_size < _MIN_WORKER_BYTES:
        _write_commit(manifest, git_dir)
        annex, pack = write_annex_branch(manifest, git_dir)
    else:
        with annex_branch_worker(manifest, git_dir) as worker:
            _write_commit(manifest, git_dir)
            annex, pack = worker.result()
    assert pack is not None
    _move_pack(pack)
    return {f"{TAG_PREFIX}{head.version}": head.commit, ANNEX_BRANCH: annex.hex()}


def _write_commit(manifest: LockManifestReader, git_dir: Path) -> None:
    head = manifest.head
    packs = git_dir / "objects" / "pack"
    with git.PackWriter(packs) as checked, git.PackWriter(packs) as links:
        tree = _write_tree(checked, links, manifest)
        commit = checked.add(git.COMMIT, head.commit_object.encode())
        if (tree.hex(), commit.hex()) != (head.tree, head.commit):
            raise LockManifestDamagedError(
                f"the manifest {manifest.path} has the tree {tree.hex()} and the "
                f"commit {commit.hex()}, but its head has {head.tree} and {head.commit}"
            )
        finished = links.finish()
        if finished is not None:
            _move_pack(finished)
        finished = checked.finish()
        assert finished is not None
        path = _move_pack(finished)
    if head.parse_commit().parents:
        (git_dir / "shallow").write_text(f"{head.commit}\n")
    git.check_pack(git_dir, path)


def _move_pack(pack: git.Pack) -> Path:
    """Move a pack to its final name; return its path."""
    path = pack.pack.with_name(f"{pack.name}.pack")
    os.replace(pack.pack, path)
    os.replace(pack.index, path.with_suffix(".idx"))
    return path


def _write_tree(
    checked: git.PackWriter, links: git.PackWriter, manifest: LockManifestReader
) -> bytes:
    """Write trees and plain files to one pack, links to another; return the id of the root tree."""
    with closing(manifest.lines(check_tree=False)) as lines:
        # plain files are first in a manifest
        plain: list[_Entry] = []
        listed: Iterator[_Entry] = iter(())
        for line in lines:
            if not isinstance(line, PlainFile):
                listed = _entries(links, chain([line], lines))
                break
            plain.append(
                _Entry(
                    line.path.encode(), git.REGULAR_FILE_MODE, checked.add(git.BLOB, line.content)
                )
            )
        trees = git.TreeBuilder(checked)
        for entry in _without_duplicates(merge(sorted(plain), listed)):
            trees.add(*entry)
        return trees.finish({})


def _without_duplicates(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Yield sorted entries.

    Raises
    ------
    LockManifestDamagedError
        A path occurs twice, or the path of a file or subdataset is also that of a folder.
    """
    prefixes: list[bytes] = []
    for entry in entries:
        # keep the prefixes of this path; entries are sorted, so that others cannot recur
        while prefixes and not entry.path.startswith(prefixes[-1]):
            prefixes.pop()
        if any(entry.path[len(prefix) : len(prefix) + 1] in (b"", b"/") for prefix in prefixes):
            path = model.path_to_text(entry.path)
            raise LockManifestDamagedError(
                f"the manifest has {path!r} twice, or below the path of a file"
            )
        prefixes.append(entry.path)
        yield entry


def _entries(pack: git.PackWriter, lines: Iterable[ManifestEntry]) -> Iterator[_Entry]:
    for line in lines:
        path = line.path.encode()
        if isinstance(line, ListedSubdataset):
            yield _Entry(path, git.GITLINK_MODE, bytes.fromhex(line.commit))
        elif isinstance(line, ListedFile) and line.in_git:
            yield _Entry(path, git.SYMLINK_MODE, pack.add(git.BLOB, link_target(line.key, path)))
