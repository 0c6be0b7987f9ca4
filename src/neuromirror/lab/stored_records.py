"""The records of a version in a store."""

from __future__ import annotations

from collections.abc import Iterator

from neuromirror.index import VersionRow
from neuromirror.store import Store, read_records_from_git


def stored_record_lines(store: Store, row: VersionRow) -> Iterator[bytes]:
    """Return the record lines of a version, from the store or, if they are missing, from git.

    Raises
    ------
    StoreDamagedError, ObjectMissingError
        The store or the repository cannot be read.
    """
    dataset = row.dataset_ref
    if store.has_records(dataset.dataset_id, row.records):
        return store.record_lines(dataset.dataset_id, row.records)
    return read_records_from_git(store.repository(dataset), row.commit, row.annex_commit, row.kind)
