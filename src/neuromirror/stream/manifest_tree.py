"""The files of a version that are in its manifest and not in git: the chunks of a huge Zarr.

They are looked up in the records of the store, which a state of millions of files has in frames
that are read one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from neuromirror.annex import strip_claim_prefix
from neuromirror.lab.lock_manifests import ListedFile, manifest_entry
from neuromirror.store import Store
from neuromirror.store.records import RecordLookup
from neuromirror.stream.errors import StreamError
from neuromirror.stream.trees import FolderEntry


class ManifestFiles:
    """The files of a version in the form ``manifest``. Thread-safe.

    Parameters
    ----------
    store
        The store; None for a clone, which lacks the list of these files.
    dataset_id
        The UUID of the dataset.
    commit
        The commit id in hex.
    name
        The name of the version, for messages.
    """

    def __init__(self, store: Store | None, dataset_id: str, commit: str, name: str) -> None:
        self._store = store
        self._dataset_id, self._commit = dataset_id, commit
        self._name = name
        self._lock = threading.Lock()
        self._lookup: RecordLookup | None = None

    def file(self, path: str, inner: str) -> ListedFile | None:
        """Return a file with its URLs, best first; None if the version has no such file.

        Parameters
        ----------
        path
            The path in the version around this dataset, which the file gets.
        inner
            The path in the dataset.

        Returns
        -------
        ListedFile or None
            The file.

        Raises
        ------
        StreamError
            The list of files is not available here.
        """
        entry = self._records().find(inner.encode("utf-8", "surrogateescape"))
        if entry is None or entry.subdataset is not None:
            return None
        found = manifest_entry(entry, "", "manifest")
        assert isinstance(found, ListedFile)
        urls = sorted(map(strip_claim_prefix, found.urls), key=_has_no_version)
        return ListedFile(
            path, found.key, found.digest, found.size, tuple(urls), found.checked, False
        )

    def entries(self, folder: str) -> Iterator[FolderEntry]:
        """Yield the entries of a folder in the order of paths; none for a missing folder.

        Parameters
        ----------
        folder
            The path of the folder in the dataset; empty for the top.

        Yields
        ------
        FolderEntry
            An entry.
        """
        for name, entry in self._records().entries(folder.encode("utf-8", "surrogateescape")):
            text = name.decode("utf-8", "surrogateescape")
            if entry is None or entry.subdataset is not None:
                yield FolderEntry(text, True)
            else:
                yield FolderEntry(text, False, entry.record.size, entry.key)

    def close(self) -> None:
        """Close the records."""
        with self._lock:
            if self._lookup is not None:
                self._lookup.close()

    def _records(self) -> RecordLookup:
        with self._lock:
            if self._lookup is None:
                if self._store is None:
                    raise StreamError(
                        f"{self._name}: its chunks are listed in the manifest of the mirror's "
                        "store, which a clone lacks; open the version in the store, or its lock "
                        "file"
                    )
                self._lookup = self._store.record_lookup(self._dataset_id, self._commit)
            return self._lookup


def _has_no_version(url: str) -> bool:
    return "versionId=" not in url
