"""What a source wants to know again next time, and what it keeps while a listing is under way.

::

    <store>/neuromirror/memos/<id[:3]>/<id[3:]>/<word>.memo     a JSON line, then the memo's bytes
    <store>/neuromirror/workspaces/<dataset id>/<word>/pages/   a folder of the source's own

``<word>`` stands for upstream's name of the version: the first 16 hex digits of its sha256. All of
it may be removed while nothing runs: the next visit then reads the whole listing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neuromirror.model import parse_json
from neuromirror.store.durable_files import make_folder, write_atomically

_FORMAT = 3
_MAX_IDLE_SECONDS = 24 * 3600.0
"""Seconds without a word written after which what is left of a listing is of no use any more."""


@dataclass(frozen=True, slots=True)
class StoredMemo:
    """A source's memo of a listing, and the commits (hex) of the state that was made of it.

    ``pending`` counts the files and Zarrs whose checksums upstream has yet to compute.
    """

    commit: str
    annex_commit: str
    content: bytes
    pending: int = 0


class MemoFolder:
    """The memos of all datasets of a store; the caller holds the dataset's lock to write."""

    def __init__(self, store: Path) -> None:
        self._root = store / "neuromirror" / "memos"

    def _path(self, dataset_id: str, upstream: str) -> Path:
        return self._root / dataset_id[:3] / dataset_id[3:] / f"{_file_name(upstream)}.memo"

    def read(self, dataset_id: str, upstream: str) -> StoredMemo | None:
        """The memo of a version, by upstream's word for it; None where none can be read."""
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
        """Keeps a memo in the place of an older one; None removes it.

        Nothing is written where it is the same.
        """
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
        # not forced to disk: its sum tells when it was cut off, and then the listing is read again
        make_folder(path.parent, durable=False)
        for left in path.parent.glob(".new-*"):
            left.unlink(missing_ok=True)
        line = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
        write_atomically(path, line + b"\n" + memo.content, durable=False)


class Workspace:
    """The folder in which a source keeps the pages of one version's listing while it reads.

    It is made when first asked for, and survives the process, so that a listing that was broken
    off can go on. The caller holds the dataset's lock.
    """

    def __init__(self, store: Path, dataset_id: str, upstream: str) -> None:
        self._dataset_folder = store / "neuromirror" / "workspaces" / dataset_id
        self._folder = self._dataset_folder / _file_name(upstream)

    def path(self) -> Path:
        """The folder; where nothing was written in it for a day or longer, it is empty."""
        pages = self._folder / "pages"
        with suppress(FileNotFoundError):
            # reading all of a large volume takes longer than that
            times = [one.stat().st_mtime for one in (pages, *pages.iterdir())]
            if abs(time.time() - max(times)) > _MAX_IDLE_SECONDS:
                self.remove()
        # not forced to disk: nothing is lost with it but time
        pages.mkdir(parents=True, exist_ok=True)
        return pages

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._remove_empty_parent()

    def remove_if_empty(self) -> None:
        """Removes the folder if nothing is in it."""
        with suppress(OSError):
            (self._folder / "pages").rmdir()
            self._folder.rmdir()
        self._remove_empty_parent()

    def _remove_empty_parent(self) -> None:
        with suppress(OSError):  # another version's folder is in it, or there is none
            self._dataset_folder.rmdir()


def _file_name(upstream: str) -> str:
    return hashlib.sha256(upstream.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _checksum(memo: StoredMemo) -> str:
    digest = hashlib.sha256(f"{memo.commit} {memo.annex_commit} {memo.pending}\n".encode())
    digest.update(memo.content)
    return digest.hexdigest()
