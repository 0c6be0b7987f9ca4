"""The canonical manifest and the state digest (docs/reference/manifest.md).

The manifest has one JSON object per line, in UTF-8, sorted by the bytes of the path, with sorted
keys and no spaces. The state digest is its sha256. It does not contain URLs, times and claims, so
moving a file to another URL does not change the state.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from neuromirror.model.records import Document, FileRecord, strongest_digest
from neuromirror.model.snapshot_entries import SnapshotEntry

_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*\Z')


def manifest_digest(record: FileRecord) -> str:
    """Return the strongest digest of a record in the manifest's notation.

    ``sha256:<hex>``, ``md5:<hex>``, ``etag:<md5>-<parts>-<part size>``, or ``none``.

    Parameters
    ----------
    record
        The record of the file.

    Returns
    -------
    str
        The digest with the name of its algorithm.
    """
    digest = strongest_digest(record)
    if digest is None:
        return "none"
    if digest.algorithm == "etag":
        return f"etag:{digest.value}-{record.part_size}"
    return f"{digest.algorithm}:{digest.value}"


def manifest_line(git_path: bytes, digest: str, size: int | None) -> bytes:
    """Return the manifest line of a file, with its newline.

    Parameters
    ----------
    git_path
        The path in git, in UTF-8.
    digest
        The digest, from :func:`manifest_digest`.
    size
        Size in bytes; None if unknown.

    Returns
    -------
    bytes
        The line.
    """
    count = b"null" if size is None else b"%d" % size
    if _PLAIN.match(git_path):
        return b'{"digest":"%s","path":"%s","size":%s}\n' % (digest.encode(), git_path, count)
    quoted = json.dumps(git_path.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    return b'{"digest":"%s","path":%s,"size":%s}\n' % (digest.encode(), quoted, count)


def entry_line(entry: SnapshotEntry) -> bytes:
    """Return the manifest line of a file or a subdataset, with its newline.

    Parameters
    ----------
    entry
        The entry.

    Returns
    -------
    bytes
        The line.
    """
    subdataset, record = entry.subdataset, entry.record
    if subdataset is not None:
        return subdataset_line(entry.git_path, subdataset.dataset_id, subdataset.state)
    return manifest_line(entry.git_path, manifest_digest(record), record.size)


def metadata_digest(documents: Iterable[Document]) -> str:
    """Return the metadata digest: the sha256 of the manifest lines of a state's documents.

    Without documents it is the digest of the empty string.

    Parameters
    ----------
    documents
        The documents of upstream, in any order.

    Returns
    -------
    str
        ``sha256:<hex>``.
    """
    digest = StateDigest()
    for document in sorted(documents, key=lambda one: one.path):
        content = f"sha256:{hashlib.sha256(document.content).hexdigest()}"
        digest.add(manifest_line(document.path, content, len(document.content)))
    return digest.value()


def subdataset_line(git_path: bytes, dataset_id: str, state: str) -> bytes:
    """Return the manifest line of a subdataset, with its newline.

    Parameters
    ----------
    git_path
        The path in git, in UTF-8.
    dataset_id
        The UUID of the subdataset.
    state
        The state digest of the subdataset, ``sha256:<hex>``.

    Returns
    -------
    bytes
        The line.
    """
    quoted = json.dumps(git_path.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    return b'{"dataset":"%s","path":%s,"state":"%s"}\n' % (
        dataset_id.encode(),
        quoted,
        state.encode(),
    )


class StateDigest:
    """Computes the state digest of manifest lines, which must be added in path order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, line: bytes) -> None:
        """Add the next line.

        Parameters
        ----------
        line
            The line, including its newline.
        """
        self._sha256.update(line)

    def value(self) -> str:
        """Return the digest of the lines so far.

        Returns
        -------
        str
            ``sha256:<hex>``.
        """
        return f"sha256:{self._sha256.hexdigest()}"
