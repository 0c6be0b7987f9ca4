"""Open the files of a version at any address that commands accept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from neuromirror.index import Index
from neuromirror.lab.addresses import find_address, version_at
from neuromirror.model import DatasetRef
from neuromirror.store import NotAStoreError, Store
from neuromirror.store.default_folder import default_store_folder
from neuromirror.store.private_store import is_private_store
from neuromirror.stream.catalogue_tree import CatalogueTree, parse_catalogue_address
from neuromirror.stream.clone_tree import CloneTree
from neuromirror.stream.errors import AddressUnresolvedError
from neuromirror.stream.git_tree import GitTree
from neuromirror.stream.lock_tree import LockTree
from neuromirror.stream.trees import VersionTree

if TYPE_CHECKING:
    from neuromirror.index import VersionRow

StrPath = str | os.PathLike[str]


def open_tree(address: StrPath | VersionTree, *, store: StrPath | None = None) -> VersionTree:
    """Open the files of a version.

    Parameters
    ----------
    address
        One of these: a version of the store (a name such as ``dandi:000027@0.210831.2033``, a DOI,
        or a URL of the archive); the path of a lock file; the folder of a clone; the URL of a page
        of a catalogue, or of a file in its gateway. An open version is returned as it is.
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.

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
    path = Path(address)
    if path.is_dir():
        return CloneTree(path)
    text = os.fspath(address)
    if path.is_file() or (text.endswith(".lock") and ":" not in text):
        return LockTree(path)
    catalogue = parse_catalogue_address(text)
    if catalogue is not None:
        return CatalogueTree(*catalogue)
    return _version_tree(text, store)


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
    repository = store.repository(DatasetRef(row.mirror, row.local_id, row.source_uri))
    host = row.source_uri.partition("://")[2].partition("/")[0]
    return GitTree(repository.path, row.commit, row.annex_commit, row.name, host, store)


def _version_tree(text: str, store: StrPath | None) -> GitTree:
    try:
        opened = Store.open(_store_folder(store))
    except NotAStoreError as error:
        raise AddressUnresolvedError(
            f"{text}: {error}; specify a store, a lock file or the folder of a clone"
        ) from error
    named = os.environ.get("NEUROMIRROR_INDEX")
    own = store is not None or named is None or is_private_store(opened.root)
    with Index.open_readonly(opened.index_path if own else Path(named or "")) as index:
        # local mirror files are not read by default: another user may have written them
        mirrors = Path(os.environ.get("NEUROMIRROR_MIRRORS") or f"{os.devnull}/none")
        return tree_of_version(opened, version_at(index, find_address(text, mirrors, index)))


def _store_folder(store: StrPath | None) -> Path:
    given = store or os.environ.get("NEUROMIRROR_STORE")
    return default_store_folder() if given is None else Path(given)
