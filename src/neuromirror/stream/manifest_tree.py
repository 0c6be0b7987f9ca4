"""The files of a version in the records of the store, which have each file with its URLs.

They also have what is in the manifest and not in git: the chunks of a huge Zarr. The records of a
state of millions of files are read in frames, one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

from neuromirror.annex import strip_claim_prefix
from neuromirror.lab.lock_manifests import ListedFile, manifest_entry
from neuromirror.model.object_urls import url_rank
from neuromirror.store.records import RecordLookup
from neuromirror.stream.trees import FolderEntry


class ManifestFiles:
    """The files of a version, from its records. Thread-safe.

    Parameters
    ----------
    records
        The records, which are closed with the object.
    """

    def __init__(self, records: RecordLookup) -> None:
        self._records = records

    def file(self, path: str, inner: str) -> ListedFile | None:
        """Return a file with its URLs, best first; None if the version has no such file.

        Parameters
        ----------
        path
            The path of the file in the outermost dataset, for the result.
        inner
            The path of the file in this dataset, which is looked up.

        Returns
        -------
        ListedFile or None
            The file.
        """
        entry = self._records.find(inner.encode("utf-8", "surrogateescape"))
        if entry is None or entry.subdataset is not None:
            return None
        found = manifest_entry(entry, "", "manifest")
        assert isinstance(found, ListedFile)
        urls = sorted(map(strip_claim_prefix, found.urls), key=url_rank)
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
        for name, entry in self._records.entries(folder.encode("utf-8", "surrogateescape")):
            text = name.decode("utf-8", "surrogateescape")
            if entry is None or entry.subdataset is not None:
                yield FolderEntry(text, True)
            else:
                yield FolderEntry(text, False, entry.record.size, entry.key)

    def close(self) -> None:
        """Close the records."""
        self._records.close()
