"""Write superdatasets: one per mirror with its datasets, and one with all mirrors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

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
    write_tree,
)
from neuromirror.mint import MINT_SPEC, commit_bytes, next_commit_second
from neuromirror.model import DatasetRef
from neuromirror.store.repository import MAIN_BRANCH
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


_INCOMPLETE_TRAILER = "Incomplete: visits of some datasets failed\n"
"""The trailer of an incomplete first commit, which the next one replaces."""


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
    """
    with store.lock(top.dataset_id, f"the superdataset {alias}", wait=60):
        repository = store.repository(top)
        repository.create()
        repository.remove_stale_files()
        yield _write_commit(store, top, alias, members, complete=complete)
        repository.update_server_info()
        store.alias(top, alias)


def has_complete_commit(store: Store, top: DatasetRef) -> bool:
    """Return whether the newest commit of a superdataset is complete.

    Parameters
    ----------
    store
        The store.
    top
        The superdataset.

    Returns
    -------
    bool
        False if there is no commit, or the newest one is marked as incomplete.
    """
    repository = store.repository(top)
    tip = repository.refs().get(MAIN_BRANCH)
    if tip is None:
        return False
    with ObjectReader(repository.path) as reader:
        return not _is_incomplete(reader, tip)


def _is_incomplete(reader: ObjectReader, commit: str) -> bool:
    return reader.read(commit).endswith(_INCOMPLETE_TRAILER.encode())


def _write_commit(
    store: Store,
    top: DatasetRef,
    alias: str,
    members: Sequence[SuperdatasetMember],
    *,
    complete: bool,
) -> tuple[str | None, str | None]:
    repository = store.repository(top)
    tip = repository.refs().get(MAIN_BRANCH)
    known = KnownObjects(repository.path / "objects")
    with (
        closing(known),
        ObjectReader(repository.path) as reader,
        store.scratch() as scratch,
        PackWriter(scratch, known) as pack,
    ):
        # only a first commit may be incomplete, so its replacement has no parent
        parent = None if tip is None or _is_incomplete(reader, tip) else tip
        tree = _write_tree(pack, top, members)
        if parent is not None and reader.read_commit_tree(parent) == tree:
            return tip, None
        message = f"{alias}: {len(members)} datasets\n\nMirror-Spec: {MINT_SPEC}\n"
        if not complete and parent is None:
            message += _INCOMPLETE_TRAILER
        dates = [member.date for member in members if member.date is not None]
        date = max(dates) if dates else next_commit_second(repository.path, parent)
        commit = pack.add(COMMIT, commit_bytes(alias, tree, parent, date, message)).hex()
        if commit == tip:
            return tip, None
        finished = pack.finish()
        if finished is not None:
            repository.add_pack(finished)
    return tip, commit


def _write_tree(pack: PackWriter, top: DatasetRef, members: Sequence[SuperdatasetMember]) -> bytes:
    config = f'[datalad "dataset"]\n\tid = {top.dataset_id}\n'.encode()
    ordered = sorted(members, key=lambda member: member.path.encode())
    modules = gitmodules_content(
        Submodule(member.path, member.url, member.dataset.dataset_id) for member in ordered
    )
    attributes = b"* annex.backend=SHA256E\n**/.git* annex.largefiles=nothing\n"
    trees = TreeBuilder(pack)
    for member in ordered:
        trees.add(member.path.encode(), GITLINK_MODE, bytes.fromhex(member.commit))
    folder = write_tree(pack, {b"config": (REGULAR_FILE_MODE, pack.add(BLOB, config))})
    return trees.finish(
        {
            b".datalad": (TREE_MODE, folder),
            b".gitmodules": (REGULAR_FILE_MODE, pack.add(BLOB, modules)),
            b".gitattributes": (REGULAR_FILE_MODE, pack.add(BLOB, attributes)),
        }
    )
