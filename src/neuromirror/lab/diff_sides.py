"""The two states of a comparison: versions of a store, or commits of a clone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from neuromirror.annex import record_of_key
from neuromirror.index import Index, UnknownDatasetError, UnknownVersionError, VersionRow
from neuromirror.lab.lock_manifests import ListedFile, ListedSubdataset
from neuromirror.lab.minted_commit import MintedCommit
from neuromirror.lab.stored_records import stored_record_lines
from neuromirror.model import (
    FileRecord,
    LinePair,
    SnapshotEntry,
    Subdataset,
    dump_snapshot_entry,
    is_in_git,
    load_snapshot_entry,
)
from neuromirror.store import Store


class DiffSide(Struct, frozen=True):
    """One of the two states that are compared.

    Attributes
    ----------
    name
        The name of the side in messages.
    git_dir
        The git directory that has the commit.
    commit
        The commit id in hex.
    form
        ``files``, or ``manifest`` for a dataset of which most files are only in the manifest.
    has_records
        Whether the record lines have more than git has; False for a clone.
    lines
        Returns the record lines, by git path.
    changes_since
        Returns the pairs of lines that differ from another commit of the dataset, or None if both
        states must be read in full.
    subdataset
        Returns the side of a subdataset, or None if it is not available.
    """

    name: str
    git_dir: Path
    commit: str
    form: str
    has_records: bool
    lines: Callable[[], Iterator[bytes]]
    changes_since: Callable[[str], Iterator[LinePair] | None]
    subdataset: Callable[[SnapshotEntry], DiffSide | None]


def version_side(store: Store, index: Index, row: VersionRow) -> DiffSide:
    """Return a version in a store as one side of a comparison.

    Parameters
    ----------
    store
        The store that has the version.
    index
        The index of the store.
    row
        The version, as returned by :meth:`Index.resolve`.

    Returns
    -------
    DiffSide
        The side, with the records of the index.
    """

    def subdataset(placed: SnapshotEntry) -> DiffSide | None:
        assert placed.subdataset is not None
        try:
            inner = index.resolve(
                f"{row.mirror}:{placed.subdataset.local_id}", placed.subdataset.commit
            )
        except (UnknownDatasetError, UnknownVersionError):
            return None  # withdrawn from the store
        return version_side(store, index, inner)

    dataset = row.dataset_ref
    has_records = store.has_records(dataset.dataset_id, row.records)
    return DiffSide(
        row.name,
        store.repository(dataset).path,
        row.commit,
        row.form or "files",
        has_records,
        lambda: stored_record_lines(store, row),
        lambda commit: store.records_between(dataset.dataset_id, commit, row.commit),
        subdataset,
    )


def clone_side(git_dir: Path, root: Path, commit: str) -> DiffSide:
    """Return a commit of a clone as one side of a comparison.

    Its records have only the fields that annex keys contain.

    Parameters
    ----------
    git_dir
        The clone's git directory.
    root
        The top of the clone's work tree.
    commit
        The commit id in hex.

    Returns
    -------
    DiffSide
        The side, without records of the index.
    """
    committed = MintedCommit(git_dir, commit)

    def lines() -> Iterator[bytes]:
        return (dump_snapshot_entry(_to_placed(one)) for one in committed.entries())

    def subdataset(placed: SnapshotEntry) -> DiffSide | None:
        assert placed.subdataset is not None
        folder = root / placed.git_path.decode()
        inner = folder / ".git"
        return clone_side(inner, folder, placed.subdataset.commit) if inner.is_dir() else None

    return DiffSide(
        str(root), git_dir, commit, committed.form, False, lines, lambda _: None, subdataset
    )


def lines_as_in_git(side: DiffSide) -> Iterator[bytes]:
    """Yield the record lines of a side, reduced to the fields and files in git."""
    for line in side.lines():
        placed = load_snapshot_entry(line)
        if not is_in_git(placed, side.form):
            continue
        if placed.subdataset is not None:
            yield dump_snapshot_entry(_entry_of_subdataset(placed.git_path, placed.subdataset))
        elif placed.key:
            yield dump_snapshot_entry(_entry_of_key(placed.git_path, placed.key))


def _to_placed(one: ListedFile | ListedSubdataset) -> SnapshotEntry:
    path = one.path.encode()
    if isinstance(one, ListedSubdataset):
        local_id = one.name.partition(":")[2]
        subdataset = Subdataset(
            one.dataset_id, local_id, one.commit, one.state, one.files, one.bytes
        )
        return _entry_of_subdataset(path, subdataset)
    return _entry_of_key(path, one.key)


def _entry_of_subdataset(path: bytes, subdataset: Subdataset) -> SnapshotEntry:
    return SnapshotEntry(path, "", FileRecord(path, None), subdataset)


def _entry_of_key(path: bytes, key: str) -> SnapshotEntry:
    return SnapshotEntry(path, key, record_of_key(key, path))
