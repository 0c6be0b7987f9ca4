"""Write superdatasets: one per mirror with its datasets, and one with all mirrors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import zstandard
from msgspec import Struct

from neuromirror.git import (
    BLOB,
    COMMIT,
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    TREE_MODE,
    KnownObjects,
    ObjectReader,
    PackWriter,
    Submodule,
    TreeBuilder,
    gitmodules_content,
    list_tree,
    parse_commit,
    write_tree,
)
from neuromirror.mint import MINT_SPEC, commit_bytes, next_commit_second
from neuromirror.model import DatasetRef
from neuromirror.store.durable_files import make_folder, write_atomically
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.foreign_commits import (
    ForeignRef,
    RepositoryIncompleteError,
    check_commits,
    check_packs,
    is_own_commit,
)
from neuromirror.store.repository import MAIN_BRANCH, Repository, run_git
from neuromirror.store.store import Store


class SuperdatasetMember(Struct, frozen=True):
    """A subdataset of a superdataset.

    Attributes
    ----------
    path
        The subdataset's path in the superdataset.
    dataset
        The dataset.
    commit
        The subdataset's newest commit in hex.
    date
        The commit's date in seconds since the epoch; None if upstream has no time of the state.
    url
        The subdataset's URL, relative to that of the superdataset.
    """

    path: str
    dataset: DatasetRef
    commit: str
    date: int | None
    url: str


_ENDING = ".jsonl.zst"


class SuperdatasetCommit(Struct, frozen=True):
    """A line of a superdataset's log, from which its commit can be written again.

    ``<store>/neuromirror/superdatasets/<alias>.jsonl.zst`` is appended to after the ref was moved.

    Attributes
    ----------
    dataset_id
        The UUID of the superdataset.
    commit, parent
        Commit ids in hex; ``parent`` is None for the first commit and for the one that replaces it.
    date
        The date of the commit in seconds since the epoch.
    complete
        Whether the commit is not marked as incomplete.
    changed
        URL, dataset id and commit of each new or changed member by path; None for a removed one.
    """

    dataset_id: str
    commit: str
    parent: str | None
    date: int
    complete: bool
    changed: dict[str, tuple[str, str, str] | None]


Members = dict[str, tuple[str, str, str]]
"""URL, dataset id and commit (hex) of each member of a superdataset, by path."""


class SuperdatasetLog:
    """The log of a superdataset's commits.

    Attributes
    ----------
    commits
        The commits, oldest first.
    members
        The members at the last commit.
    """

    def __init__(self, store: Store, alias: str) -> None:
        self.alias = alias
        self.path = log_path(store, alias)
        self.commits: list[SuperdatasetCommit] = []
        self.members: Members = {}
        try:
            content = zstandard.ZstdDecompressor().decompress(self.path.read_bytes())
            for line in content.splitlines():
                self._apply(msgspec.json.decode(line, type=SuperdatasetCommit))
        except FileNotFoundError:
            return
        except (zstandard.ZstdError, msgspec.MsgspecError) as error:
            raise StoreDamagedError(
                f"{self.path} cannot be read ({error}); run 'neuromirror repair {alias}'"
            ) from error

    def _apply(self, commit: SuperdatasetCommit) -> None:
        self.commits.append(commit)
        for path, member in commit.changed.items():
            if member is None:
                self.members.pop(path, None)
            else:
                self.members[path] = member

    def append(self, commit: SuperdatasetCommit) -> None:
        """Append a commit and fsync the log."""
        make_folder(self.path.parent)
        self._apply(commit)
        lines = b"".join(msgspec.json.encode(one) + b"\n" for one in self.commits)
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        write_atomically(self.path, compressor.compress(lines))

    def changes_to(self, members: Members) -> dict[str, tuple[str, str, str] | None]:
        """Return the changes from the members at the last commit to others."""
        removed = dict.fromkeys(self.members.keys() - members.keys())
        changed = {path: one for path, one in members.items() if self.members.get(path) != one}
        return {**removed, **changed}


_INCOMPLETE_TRAILER = "Incomplete: visits of some datasets failed\n"
"""The trailer of an incomplete first commit, which the next one replaces."""


def log_path(store: Store, alias: str) -> Path:
    """Return the path of a superdataset's log."""
    return store.root / "neuromirror" / "superdatasets" / f"{alias}{_ENDING}"


def logged_superdatasets(store: Store) -> list[str]:
    """Return the aliases of the superdatasets that have a log, sorted."""
    paths = log_path(store, "").parent.glob(f"*{_ENDING}")
    return sorted(path.name.removesuffix(_ENDING) for path in paths)


@contextmanager
def superdataset_commit(
    store: Store,
    top: DatasetRef,
    alias: str,
    members: Sequence[SuperdatasetMember],
    *,
    complete: bool = True,
) -> Iterator[tuple[str | None, str | None]]:
    """Commit the current state of a superdataset's members; the block moves ``main`` to it.

    The superdataset is locked during the block.

    The commit has the date of the newest member, so that equal members give equal trees and dates.
    Where upstream has no time of any member, the Nth commit is dated N seconds after the epoch.

    Parameters
    ----------
    store
        The store.
    top
        The superdataset.
    alias
        The superdataset's alias in the store.
    members
        The superdataset's subdatasets.
    complete
        Whether all members were visited without a failure. If not, a first commit is marked as
        incomplete, and the next commit replaces it.

    Yields
    ------
    str | None
        The commit at ``main``.
    str | None
        The new commit, or None when nothing changed.

    Raises
    ------
    RepositoryIncompleteError
        The repository lacks a commit that the superdataset has had.
    """
    with store.lock(top.dataset_id, f"the superdataset {alias}", wait=60):
        repository, log = store.repositories.of(top), SuperdatasetLog(store, alias)
        if log.commits:
            check_packs(repository, alias)
        repository.create()
        repository.remove_stale_files()
        refs = repository.refs()
        catch_up_log(log, repository, top.dataset_id, refs.get(MAIN_BRANCH))
        check_commits(repository, alias, refs)
        tip, commit = _write_commit(store, top, alias, members, log, complete=complete)
        yield tip, None if commit is None else commit.commit
        if commit is not None:
            log.append(commit)
        repository.update_server_info()
        store.repositories.alias(top, alias)


def catch_up_log(
    log: SuperdatasetLog, repository: Repository, dataset_id: str, tip: str | None
) -> None:
    """Append the commits up to ``tip`` that a killed process could not append, or a lost log had.

    Raises RepositoryIncompleteError if the branch is not at the last commit of the log or after it.
    """
    last = log.commits[-1].commit if log.commits else None
    if tip == last:
        return
    if tip is None or any(one.commit == tip for one in log.commits):
        missing = f"{MAIN_BRANCH} is at {tip}, the log of the superdataset has it at {last}"
        raise RepositoryIncompleteError(log.alias, repository.path, missing)
    if not is_own_commit(repository.path, tip):
        raise ForeignRef(MAIN_BRANCH, tip, last, is_foreign=True).error(log.alias, repository.path)
    listed = run_git(repository.path, "rev-list", "--reverse", tip, *[f"^{last}"] * bool(last))
    with ObjectReader(repository.path) as reader:
        for commit in listed.split():
            content = reader.read(commit)
            parsed = parse_commit(content)
            log.append(
                SuperdatasetCommit(
                    *(dataset_id, commit, next(iter(parsed.parents), None), parsed.committed_at),
                    not content.endswith(_INCOMPLETE_TRAILER.encode()),
                    log.changes_to(_read_members(repository.path, commit)),
                )
            )


def _read_members(repository: Path, commit: str) -> Members:
    """Return the members of a superdataset's commit."""
    modules: dict[str, dict[str, str]] = {}
    options = ("config", "-z", "--blob", f"{commit}:.gitmodules", "--list")
    for item in run_git(repository, *options).split("\0")[:-1]:
        name, _, value = item.partition("\n")
        module, _, field = name.rpartition(".")
        modules.setdefault(module, {})[field] = value
    commits = {
        path.decode(): sha
        for mode, sha, path in list_tree(repository, commit)
        if mode == GITLINK_MODE
    }
    return {
        one["path"]: (one["url"], one["datalad-id"], commits[one["path"]])
        for one in modules.values()
    }


def remint_superdataset(
    store: Store, repository: Repository, alias: str, commits: Sequence[SuperdatasetCommit]
) -> Iterator[SuperdatasetCommit]:
    """Write the commits of a superdataset's log again; yield those that became other commits."""
    members: Members = {}
    for commit in commits:
        members |= {path: member for path, member in commit.changed.items() if member is not None}
        for path in (path for path, member in commit.changed.items() if member is None):
            members.pop(path, None)
        with _packing(store, repository) as pack:
            tree = _write_tree(pack, commit.dataset_id, members)
            message = _message(alias, len(members), complete=commit.complete)
            content = commit_bytes(alias, tree, commit.parent, commit.date, message)
            if pack.add(COMMIT, content).hex() != commit.commit:
                yield commit
            finished = pack.finish()
            if finished is not None:
                repository.add_pack(finished)


@contextmanager
def _packing(store: Store, repository: Repository) -> Iterator[PackWriter]:
    known = KnownObjects(repository.path / "objects")
    with closing(known), store.scratch() as scratch, PackWriter(scratch, known) as pack:
        yield pack


def _message(alias: str, count: int, *, complete: bool) -> str:
    message = f"{alias}: {count} datasets\n\nMirror-Spec: {MINT_SPEC}\n"
    return message if complete else message + _INCOMPLETE_TRAILER


def has_complete_commit(store: Store, alias: str) -> bool:
    """Return whether a superdataset has a newest commit that is not marked as incomplete."""
    commits = SuperdatasetLog(store, alias).commits
    return bool(commits) and commits[-1].complete


def _write_commit(
    store: Store,
    top: DatasetRef,
    alias: str,
    members: Sequence[SuperdatasetMember],
    log: SuperdatasetLog,
    *,
    complete: bool,
) -> tuple[str | None, SuperdatasetCommit | None]:
    """Return the last commit of the log, and the new one if there is one."""
    repository = store.repositories.of(top)
    last = log.commits[-1] if log.commits else None
    tip = None if last is None else last.commit
    # only a first commit may be incomplete, so its replacement has no parent
    parent = None if last is None or not last.complete else last.commit
    new = {one.path: (one.url, one.dataset.dataset_id, one.commit) for one in members}
    changed = log.changes_to(new)
    complete = complete or parent is not None
    if last is not None and not changed and (last.complete or not complete):
        return tip, None
    dates = [member.date for member in members if member.date is not None]
    date = max(dates) if dates else next_commit_second(repository.path, parent)
    with _packing(store, repository) as pack:
        tree = _write_tree(pack, top.dataset_id, new)
        message = _message(alias, len(new), complete=complete)
        commit = pack.add(COMMIT, commit_bytes(alias, tree, parent, date, message)).hex()
        finished = pack.finish()
        if finished is not None:
            repository.add_pack(finished)
    return tip, SuperdatasetCommit(top.dataset_id, commit, parent, date, complete, changed)


def _write_tree(pack: PackWriter, dataset_id: str, members: Members) -> bytes:
    config = f'[datalad "dataset"]\n\tid = {dataset_id}\n'.encode()
    modules = gitmodules_content(
        Submodule(path, url, member_id) for path, (url, member_id, _) in members.items()
    )
    attributes = b"* -text\n* annex.backend=SHA256E\n**/.git* annex.largefiles=nothing\n"
    trees = TreeBuilder(pack)
    for path in sorted(members, key=str.encode):
        trees.add(path.encode(), GITLINK_MODE, bytes.fromhex(members[path][2]))
    folder = write_tree(pack, {b"config": (REGULAR_FILE_MODE, pack.add(BLOB, config))})
    return trees.finish(
        {
            b".datalad": (TREE_MODE, folder),
            b".gitmodules": (REGULAR_FILE_MODE, pack.add(BLOB, modules)),
            b".gitattributes": (REGULAR_FILE_MODE, pack.add(BLOB, attributes)),
        }
    )
