"""The canonical manifest and the state digest (design, section 3).

One JSON object a line, sorted by path bytes, keys sorted, no spaces, UTF-8; the state digest is
the sha256 of all of it. URLs, times and claims are not in it: a moved file keeps its state.
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
    """The strongest digest as the manifest spells it.

    ``sha256:<hex>``, ``md5:<hex>``, ``etag:<md5>-<parts>-<part size>``, else ``none``.
    """
    digest = strongest_digest(record)
    if digest is None:
        return "none"
    if digest.algorithm == "etag":
        return f"etag:{digest.value}-{record.part_size}"
    return f"{digest.algorithm}:{digest.value}"


def manifest_line(git_path: bytes, digest: str, size: int | None) -> bytes:
    """A file's line, newline included; ``git_path`` must be UTF-8 (the escaping sees to it)."""
    count = b"null" if size is None else b"%d" % size
    if _PLAIN.match(git_path):
        return b'{"digest":"%s","path":"%s","size":%s}\n' % (digest.encode(), git_path, count)
    quoted = json.dumps(git_path.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    return b'{"digest":"%s","path":%s,"size":%s}\n' % (digest.encode(), quoted, count)


def entry_line(entry: SnapshotEntry) -> bytes:
    """The line of a file or a sub-dataset, newline included."""
    subdataset, record = entry.subdataset, entry.record
    if subdataset is not None:
        return subdataset_line(entry.git_path, subdataset.dataset_id, subdataset.state)
    return manifest_line(entry.git_path, manifest_digest(record), record.size)


def metadata_digest(documents: Iterable[Document]) -> str:
    """``sha256:<hex>`` of the manifest lines of a state's documents, as the state digest is made.

    Of no documents it is the digest of nothing.
    """
    digest = StateDigest()
    for document in sorted(documents, key=lambda one: one.path):
        content = f"sha256:{hashlib.sha256(document.content).hexdigest()}"
        digest.add(manifest_line(document.path, content, len(document.content)))
    return digest.value()


def subdataset_line(git_path: bytes, dataset_id: str, state: str) -> bytes:
    """A sub-dataset's line, newline included; ``state`` is ``sha256:<hex>``."""
    quoted = json.dumps(git_path.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    return b'{"dataset":"%s","path":%s,"state":"%s"}\n' % (
        dataset_id.encode(),
        quoted,
        state.encode(),
    )


class StateDigest:
    """Takes manifest lines in order of path and gives ``sha256:<hex>``."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, line: bytes) -> None:
        """The next line."""
        self._sha256.update(line)

    def value(self) -> str:
        """The digest of the lines so far."""
        return f"sha256:{self._sha256.hexdigest()}"
