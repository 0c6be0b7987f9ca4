"""Super-datasets: one a mirror, with a dataset each as sub-dataset, and one above the mirrors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from neuromirror.mint import (
    BLOB,
    COMMIT,
    FILE,
    FOLDER,
    SPEC,
    SUBDATASET,
    KnownObjects,
    Module,
    ObjectReader,
    PackWriter,
    TreeBuilder,
    commit_bytes,
    modules_file,
    next_second,
    write_tree,
)
from neuromirror.model import DatasetRef
from neuromirror.store.repository import MAIN
from neuromirror.store.store import Store


@dataclass(frozen=True, slots=True)
class Member:
    """A sub-dataset: its path in the super-dataset, what it is, and its newest commit.

    ``date`` is the commit's, in whole seconds, None where upstream has no time of the state;
    ``url`` is relative to the super-dataset's own.
    """

    path: str
    dataset: DatasetRef
    commit: str
    date: int | None
    url: str


_INCOMPLETE = "Incomplete: visits of some datasets failed\n"
"""The trailer of a first commit that is to be replaced."""


def update_superdataset(
    store: Store,
    top: DatasetRef,
    alias: str,
    members: Sequence[Member],
    *,
    complete: bool = True,
) -> str | None:
    """Bring a super-dataset's ``main`` to its members' commits.

    The commit is dated like the newest member, so that equal members give an equal tree and date.
    Where upstream has no time of any member, it is second N of 1970 for the Nth commit. Where not
    ``complete``, the commit is marked as one that the next takes the place of.

    Returns
    -------
    str | None
        The new commit id, or None when nothing changed.
    """
    with store.lock(top.dataset_id, f"the super-dataset {alias}", wait=60):
        repository = store.repository(top)
        repository.create()
        repository.clean()
        made = _write(store, top, alias, members, complete=complete)
        repository.refresh()
        store.alias(top, alias)
        return made


def may_wait(store: Store, top: DatasetRef) -> bool:
    """Return whether a super-dataset has a complete commit, which may stay its newest."""
    repository = store.repository(top)
    tip = repository.refs().get(MAIN)
    if tip is None:
        return False
    with ObjectReader(repository.path) as reader:
        return not _is_incomplete(reader, tip)


def _is_incomplete(reader: ObjectReader, commit: str) -> bool:
    return reader.read(commit).endswith(_INCOMPLETE.encode())


def _write(
    store: Store, top: DatasetRef, alias: str, members: Sequence[Member], *, complete: bool
) -> str | None:
    repository = store.repository(top)
    tip = repository.refs().get(MAIN)
    known = KnownObjects(repository.path / "objects")
    with (
        closing(known),
        ObjectReader(repository.path) as reader,
        store.scratch() as scratch,
        PackWriter(scratch, known) as pack,
    ):
        # only the first commit is ever incomplete: it has no parent
        parent = None if tip is None or _is_incomplete(reader, tip) else tip
        tree = _tree(pack, top, members)
        if parent is not None and reader.commit_tree(parent) == tree:
            return None
        message = f"{alias}: {len(members)} datasets\n\nMirror-Spec: {SPEC}\n"
        if not complete and parent is None:
            message += _INCOMPLETE
        dates = [member.date for member in members if member.date is not None]
        date = max(dates) if dates else next_second(repository.path, parent)
        commit = pack.add(COMMIT, commit_bytes(alias, tree, parent, date, message)).hex()
        if commit == tip:
            return None
        finished = pack.finish()
        if finished is not None:
            repository.place(finished)
    repository.publish({MAIN: tip}, {MAIN: commit})
    return commit


def _tree(pack: PackWriter, top: DatasetRef, members: Sequence[Member]) -> bytes:
    config = f'[datalad "dataset"]\n\tid = {top.dataset_id}\n'.encode()
    ordered = sorted(members, key=lambda member: member.path.encode())
    modules = modules_file(
        Module(member.path, member.url, member.dataset.dataset_id) for member in ordered
    )
    attributes = b"* annex.backend=SHA256E\n**/.git* annex.largefiles=nothing\n"
    trees = TreeBuilder(pack)
    for member in ordered:
        trees.add(member.path.encode(), SUBDATASET, bytes.fromhex(member.commit))
    folder = write_tree(pack, {b"config": (FILE, pack.add(BLOB, config))})
    return trees.finish(
        {
            b".datalad": (FOLDER, folder),
            b".gitmodules": (FILE, pack.add(BLOB, modules)),
            b".gitattributes": (FILE, pack.add(BLOB, attributes)),
        }
    )
