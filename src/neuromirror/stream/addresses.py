"""Open the files of a version at any address that commands accept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from neuromirror.stream.errors import AddressUnresolvedError
from neuromirror.stream.git_tree import GitTree
from neuromirror.stream.trees import VersionTree

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.store import Store

StrPath = str | os.PathLike[str]


def open_tree(address: StrPath | VersionTree, *, store: StrPath | None = None) -> VersionTree:
    """Open the files of a version.

    Parameters
    ----------
    address
        A version of the store, such as ``dandi:000027@0.210831.2033``. A tree is returned as it is.
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``.

    Returns
    -------
    VersionTree
        The files; close it after use.

    Raises
    ------
    AddressUnresolvedError
        There is no version at the address.
    """
    if isinstance(address, VersionTree):
        return address
    text = os.fspath(address)
    dataset, _, label = text.partition("@")
    if ":" not in dataset:
        raise AddressUnresolvedError(
            f"'{text}' is not a version; specify one such as dandi:000027@0.210831.2033"
        )
    return _version_tree(dataset, label or "latest", store)


def tree_of_version(store: Store, row: VersionRow) -> GitTree:
    """Open the files of a version of the store.

    Parameters
    ----------
    store
        The store.
    row
        The version, as returned by :meth:`Index.resolve`.

    Returns
    -------
    GitTree
        The files; close it after use.
    """
    from neuromirror.model import DatasetRef

    repository = store.repository(DatasetRef(row.mirror, row.local_id, row.source_uri))
    host = row.source_uri.partition("://")[2].partition("/")[0]
    return GitTree(repository.path, row.commit, row.annex_commit, row.name, host, store.root)


def _version_tree(dataset: str, label: str, store: StrPath | None) -> GitTree:
    from neuromirror.index import Index
    from neuromirror.store import Store

    opened = Store.open(Path(store or os.environ.get("NEUROMIRROR_STORE") or "store"))
    with Index.open_readonly(opened.index_path) as index:
        row = index.resolve(dataset, label)
    return tree_of_version(opened, row)
