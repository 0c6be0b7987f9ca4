"""The files of a lock file's pins, from its manifests: neither store nor clone is needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from neuromirror.annex import VaultAddress, find_local_copy, urls_with_copies
from neuromirror.lab.lock_block_digests import LockBlockDigests
from neuromirror.lab.lock_manifests import ListedFile, sibling_path
from neuromirror.lab.lockfile import Lock, load_lock
from neuromirror.model import BlockDigests
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.stream.lock_listing import LockListing
from neuromirror.stream.trees import AccessRules, FolderEntry
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.vault.own_vaults import own_vaults


class LockTree:
    """The files of the pins of a lock file. Thread-safe.

    With one pin, paths are those of its dataset; with several, they start with the name of a
    dataset. A manifest is read as a whole, once, because its state digest covers all its lines.

    Parameters
    ----------
    path
        The path of the lock file.

    Raises
    ------
    LockUnusableError
        The file is not a valid lock file.
    ConfigurationError
        A vault file of the user is invalid.
    """

    def __init__(self, path: Path) -> None:
        self._lock: Lock = load_lock(path)
        self._vaults = own_vaults().addresses
        settings = AnnexSettings.load(Path(os.devnull))
        self._access = AccessRules(settings, vaults=tuple(self._vaults))
        self._digests = BlockDigestsFolder.of_user()
        self._listings: dict[str, LockListing] = {}
        self._pinned: list[LockBlockDigests] | None = None
        self._reading = threading.Lock()

    @property
    def name(self) -> str:
        """The version of the only pin, or the path of the lock file."""
        pins = self._lock.datasets
        return pins[0].version if len(pins) == 1 else str(self._lock.path)

    def path_of(self, dataset: str, path: str) -> str:
        """Return the path by which :meth:`file` finds a file of a pinned dataset.

        Parameters
        ----------
        dataset
            The name of the dataset.
        path
            The path in the dataset.

        Returns
        -------
        str
            The same path if there is only one pin; else it starts with the name of the dataset.
        """
        return path if len(self._lock.datasets) == 1 else f"{dataset}/{path}"

    def pinned_path(self, path: str) -> tuple[str, str]:
        """Return the lock file, and the path in its dataset, as commands accept them.

        Parameters
        ----------
        path
            The path as for :meth:`file`.

        Returns
        -------
        tuple of (str, str)
            The path of the lock file, and the path without the name of the dataset.
        """
        pins = self._lock.datasets
        inner = [path[len(pin.name) + 1 :] for pin in pins if path.startswith(f"{pin.name}/")]
        return str(self._lock.path), inner[0] if inner else path

    @property
    def access(self) -> AccessRules:
        """The rules for requests: the user's configuration of git."""
        return self._access

    def file(self, path: str) -> ListedFile | None:
        """Return an annexed file with its URLs; None if there is no such annexed file."""
        found = self._locate(path)
        if found is None:
            return None
        listing, inner, vaults = found
        file = listing.file(inner)
        if file is None:
            return None
        if vaults:
            # whether they have a copy is known when the other locations have failed
            urls = urls_with_copies(file.key, file.urls, vaults)
            file = msgspec.structs.replace(file, urls=urls)
        return replace_path(file, path)

    def document(self, path: str) -> bytes | None:
        """Return the content of a plain file in git; None if there is no such file."""
        found = self._locate(path)
        return None if found is None else found[0].documents.get(found[1])

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        """Return the entries of a folder, sorted by name; None if there is no such folder."""
        folder = folder.strip("/")
        found = self._locate(folder)
        if found is not None:
            return found[0].entries(found[1])
        below = f"{folder}/" if folder else ""
        names = {
            pin.name[len(below) :].partition("/")[0]
            for pin in self._lock.datasets
            if pin.name.startswith(below)
        }
        return (FolderEntry(name, True) for name in sorted(names)) if names or not folder else None

    def block_digests(self, file: ListedFile) -> BlockDigests | None:
        """Return the block digests of a file; None if there are none."""
        if not file.key:
            return None
        for pinned in self._pinned_digests():
            if (found := pinned.read(file.key)) is not None:
                return found
        return self._digests.read(file.key)

    def local_content(self, file: ListedFile) -> Path | None:
        """Return the path of a copy in one of the user's own vaults; None without one."""
        return find_local_copy(file.key, self._vaults)

    def close(self) -> None:
        """Release the listings and the block digests."""
        with self._reading:
            for listing in self._listings.values():
                listing.close()
            self._listings.clear()
        for pinned in self._pinned or ():
            pinned.close()
        self._pinned = None

    def _pinned_digests(self) -> list[LockBlockDigests]:
        """Return the block digests beside the lock file, which are compared with it once."""
        with self._reading:
            if self._pinned is None:
                paths = map(self._lock.block_digests_path, self._lock.datasets)
                self._pinned = [LockBlockDigests(path) for path in paths if path is not None]
            return self._pinned

    def _locate(self, path: str) -> tuple[LockListing, str, list[VaultAddress]] | None:
        """Return the listing of the innermost dataset that has a path, and the path in it.

        The third item are the vaults of the pin.
        """
        path = path.strip("/")
        pins = self._lock.datasets
        for pin in pins:
            if path == pin.name or path.startswith(f"{pin.name}/"):
                path = path[len(pin.name) + 1 :]
                break
        else:
            if len(pins) != 1:
                return None
            pin = pins[0]
        own = (one for one in self._vaults if one.is_url)
        vaults = [*(one.address for one in pin.copies), *own]
        listing = self._listing(self._lock.manifest_path(pin), pin.commit, pin.state)
        return *self._inner(listing, path), vaults

    def _inner(self, listing: LockListing, path: str) -> tuple[LockListing, str]:
        for inner, subdataset in listing.subdatasets.items():
            if path == inner or path.startswith(f"{inner}/"):
                manifest = sibling_path(listing.path, subdataset.commit)
                below = self._listing(manifest, subdataset.commit, subdataset.state)
                return self._inner(below, path[len(inner) + 1 :])
        return listing, path

    def _listing(self, path: Path, commit: str, state: str) -> LockListing:
        with self._reading:
            found = self._listings.get(str(path))
            if found is None:
                found = self._listings[str(path)] = LockListing(path, commit, state)
            return found


def replace_path(file: ListedFile, path: str) -> ListedFile:
    """Return the description of a file of a subdataset, with its path in the outermost dataset.

    Parameters
    ----------
    file
        The file, with its path in the subdataset.
    path
        The path in the outermost dataset.

    Returns
    -------
    ListedFile
        The same file, with ``path``.
    """
    return file if file.path == path else msgspec.structs.replace(file, path=path)
