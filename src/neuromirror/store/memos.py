"""Keep a source's data between visits (memos) and during a listing (workspaces).

::

    <store>/neuromirror/memos/<id[:3]>/<id[3:]>/<version>.memo     a JSON line, then the content
    <store>/neuromirror/workspaces/<dataset id>/<version>/pages/   a folder for the source

``<version>`` is the first 16 hex digits of the sha256 of upstream's name of the version. All of it
may be removed while no visit runs: the next visit then reads the whole listing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from neuromirror.model import parse_json
from neuromirror.store.durable_files import make_folder, write_atomically

_FORMAT = 3
_MAX_IDLE_SECONDS = 24 * 3600.0
"""Seconds since the last write after which the pages of an interrupted listing are discarded."""


class StoredMemo(Struct, frozen=True):
    """The memo of a listing, by which a source recognizes in the next visit that it is unchanged.

    Attributes
    ----------
    commit, annex_commit
        The commits (hex) of the state that was minted from the listing.
    content
        The memo, as the source wrote it.
    pending
        The number of files and Zarrs whose checksums upstream has not computed yet.
    """

    commit: str
    annex_commit: str
    content: bytes
    pending: int = 0


class Memos:
    """Reads and writes the memos of all datasets of a store.

    To write a memo, the caller must hold the dataset's lock.
    """

    def __init__(self, store: Path) -> None:
        self._root = store / "neuromirror" / "memos"

    def _path(self, dataset_id: str, upstream: str) -> Path:
        return self._root / dataset_id[:3] / dataset_id[3:] / f"{_file_name(upstream)}.memo"

    def read(self, dataset_id: str, upstream: str) -> StoredMemo | None:
        """Return the memo of a version by upstream's name; None if it is missing or damaged."""
        try:
            head, _, content = self._path(dataset_id, upstream).read_bytes().partition(b"\n")
            found = parse_json(head, "memo")
            if (found["format"], found["version"]) != (_FORMAT, upstream):
                return None
            memo = StoredMemo(found["commit"], found["annex"], content, found["pending"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return memo if found.get("checksum") == _checksum(memo) else None

    def write(self, dataset_id: str, upstream: str, memo: StoredMemo | None) -> None:
        """Write or replace a memo, unless it is unchanged; None removes it."""
        path = self._path(dataset_id, upstream)
        if memo is None:
            path.unlink(missing_ok=True)
            return
        if self.read(dataset_id, upstream) == memo:
            return
        head = {
            "format": _FORMAT,
            "version": upstream,
            "commit": memo.commit,
            "annex": memo.annex_commit,
            "pending": memo.pending,
            "checksum": _checksum(memo),
        }
        # no fsync: a truncated memo fails its checksum, and then the listing is read again
        make_folder(path.parent, durable=False)
        for left in path.parent.glob(".new-*"):
            left.unlink(missing_ok=True)
        line = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
        write_atomically(path, line + b"\n" + memo.content, durable=False)


class Workspace:
    """The folder in which a source keeps the pages of a version's listing while it reads them.

    It survives the process, so that an interrupted listing can be resumed. The caller holds the
    dataset's lock.

    Parameters
    ----------
    store
        The folder of the store.
    dataset_id
        The DataLad id of the dataset.
    upstream
        Upstream's name of the version.
    """

    def __init__(self, store: Path, dataset_id: str, upstream: str) -> None:
        self._dataset_folder = store / "neuromirror" / "workspaces" / dataset_id
        self._folder = self._dataset_folder / _file_name(upstream)

    def path(self) -> Path:
        """Return the folder; create it if needed, and empty it a day after the last write."""
        pages = self._folder / "pages"
        with suppress(FileNotFoundError):
            # the newest page counts: a large volume is listed for more than a day
            times = [one.stat().st_mtime for one in (pages, *pages.iterdir())]
            if abs(time.time() - max(times)) > _MAX_IDLE_SECONDS:
                self.remove()
        # no fsync: a lost page costs only time
        pages.mkdir(parents=True, exist_ok=True)
        return pages

    def remove(self) -> None:
        """Remove the folder and its content."""
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._remove_empty_parent()

    def remove_if_empty(self) -> None:
        """Remove the folder if it is empty."""
        with suppress(OSError):
            (self._folder / "pages").rmdir()
            self._folder.rmdir()
        self._remove_empty_parent()

    def _remove_empty_parent(self) -> None:
        with suppress(OSError):  # not empty, or missing
            self._dataset_folder.rmdir()


def _file_name(upstream: str) -> str:
    return hashlib.sha256(upstream.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _checksum(memo: StoredMemo) -> str:
    digest = hashlib.sha256(f"{memo.commit} {memo.annex_commit} {memo.pending}\n".encode())
    digest.update(memo.content)
    return digest.hexdigest()
