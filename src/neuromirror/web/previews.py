"""Previews of files for the pages of a store: one bounded queue, and a cache by content."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from neuromirror.index import FileRow, Index, VersionRow
from neuromirror.model import environment_without_secrets
from neuromirror.previews import (
    FORMAT,
    Preview,
    PreviewFailure,
    PreviewTask,
    decode_outcome,
    preview_kind,
)
from neuromirror.store import Store
from neuromirror.store.store import preview_folder
from neuromirror.web.async_index import SharedResults, UnavailableError

MAX_RUNNING: Final = 2
"""Maximum number of preview processes."""
MAX_QUEUED: Final = 32
_SECONDS: Final = 45.0
_MAX_OUTPUT: Final = 8 << 20
_CACHE_BYTES: Final = 512 << 20
_WRITES_BETWEEN_PRUNES: Final = 200
_FAILURE_SECONDS: Final = 60.0
"""Seconds before a file that could not be read is tried again."""

_MAX_SEARCHED: Final = 100
"""Number of files among which one with a picture is searched."""
_GRACE: Final = 5.0
"""Additional seconds before a preview process is killed."""
_TIMED_OUT: Final = -1000
_TOO_MUCH_OUTPUT: Final = -1001
"""Results beside the exit status of a process, which is not below -64."""

_LASTING: Final = ("unreadable", "too-large")
"""Failures that the content itself causes, and that are cached as previews are."""


class ZarrFolder(Struct, frozen=True):
    """A Zarr to preview: its path for visitors, its folder in a version, a key of its content."""

    path: str
    folder: str
    key: str
    size: None = None


PreviewSource = FileRow | ZarrFolder


_MESSAGES: Final = {
    "unavailable": ("The archive does not return this file at present; try again later.", 502),
    "changed": ("The archive now returns other bytes than those of this version.", 502),
    "refused": ("The archive requires a token for this file, which this page does not use.", 403),
    "unreadable": ("The content does not have the form that the file name states.", 422),
    "too-large": ("A preview would need more data, time or memory than allowed here.", 422),
}


@cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


class PreviewService:
    """Makes previews of files in separate processes; for one event loop.

    The cache is the folder ``neuromirror/previews`` of the store, named by the file's key, so that
    one content has one preview, and may be deleted at any time. If it cannot be written, nothing is
    cached.

    Parameters
    ----------
    store
        The store, which is public.
    is_allowed
        Whether files may be requested from upstream.
    seconds
        Time limit of one preview.
    """

    def __init__(self, store: Store, *, is_allowed: bool = True, seconds: float = _SECONDS) -> None:
        self._store, self._seconds = store, seconds
        self.is_allowed = is_allowed
        self._folder = preview_folder(store)
        self._slots = asyncio.Semaphore(MAX_RUNNING)
        # they are kept in the cache on disk
        self._previews: SharedResults[Path, Preview] = SharedResults(
            0,
            failure_seconds=_FAILURE_SECONDS,
            max_pending=MAX_RUNNING + MAX_QUEUED,
            busy="Many previews are in progress; try again in half a minute.",
        )
        self._writes = 0

    def is_possible(self, file: PreviewSource) -> bool:
        """Return whether a file has a preview, made already or not."""
        kind = preview_kind(file.path, file.size)
        return self.is_allowed and kind is not None and all(map(_is_installed, kind.packages))

    def has_picture(self, file: FileRow) -> bool:
        """Return whether the preview of a file has a picture."""
        kind = preview_kind(file.path, file.size)
        return kind is not None and kind.has_picture and self.is_possible(file)

    def find_pictured(self, index: Index, row: VersionRow) -> str | None:
        """Return the path of a file whose preview has a picture, among the first of a version."""
        if not self.is_allowed or not row.indexed:
            return None
        for file in index.files.of(row, limit=_MAX_SEARCHED):
            if self.has_picture(file):
                return file.path
        subdatasets = (one.path for one in islice(index.versions.subdatasets(row), _MAX_SEARCHED))
        folders = (
            one.path for one in islice(index.files.folder_entries(row, "", "", 0), _MAX_SEARCHED)
        )
        found = (path for path in chain(subdatasets, folders) if path.lower().endswith(".zarr"))
        path = next(found, None)
        return path if path is not None and find_zarr(index, row, path) else None

    async def preview(self, row: VersionRow, file: PreviewSource) -> Preview:
        """Return the preview of a file; make it if necessary.

        Raises
        ------
        UnavailableError
            The file has no preview, or none can be made now.
        """
        if not self.is_possible(file):
            raise UnavailableError("This file has no preview.", 404)
        path = self._path(file)
        with suppress(OSError, msgspec.DecodeError):
            return _result(decode_outcome(path.read_bytes()))
        return await self._previews.get(path, lambda: self._make(row, file, path))

    def _path(self, file: PreviewSource) -> Path:
        # the ending decides how the content is read
        ending = file.path.rpartition(".")[2].lower()
        name = hashlib.sha256(f"{FORMAT} {ending} {file.key}".encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.json"

    async def _make(self, row: VersionRow, file: PreviewSource, path: Path) -> Preview:
        repository = self._store.repositories.of(row.dataset_ref)
        task = PreviewTask(
            repository=str(repository.path),
            commit=row.commit,
            annex_commit=row.annex_commit,
            version=row.name,
            host=row.source_uri.partition("://")[2].partition("/")[0],
            path=file.path,
            size=file.size,
            seconds=self._seconds,
            folder=file.folder if isinstance(file, ZarrFolder) else "",
        )
        async with self._slots:
            # the process exits after the time limit, unless it hangs
            status, output = await _run(msgspec.json.encode(task), self._seconds + _GRACE)
        if status == _TIMED_OUT:
            raise UnavailableError("Reading the file takes too long; try again later.", 504)
        if status > 0:  # the process prints why
            raise UnavailableError("Internal error of the catalogue.", 500)
        try:
            outcome = PreviewFailure("too-large") if status else decode_outcome(output)
        except msgspec.DecodeError as error:
            # a parser of hostile bytes may have overwritten the output; not cached
            logging.getLogger(__name__).warning("%s: no preview: %s", file.path, error)
            raise UnavailableError(*_MESSAGES["unreadable"]) from error
        if isinstance(outcome, Preview) or outcome.reason in _LASTING:
            await asyncio.to_thread(self._write, path, msgspec.json.encode(outcome))
        return _result(outcome)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file of the cache in one step; a store that is read-only has no cache."""
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            draft.replace(path)
        except OSError as error:
            logging.getLogger(__name__).warning("the preview cannot be cached: %s", error)
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            return
        self._writes += 1
        if self._writes % _WRITES_BETWEEN_PRUNES == 1:
            _prune(self._folder, _CACHE_BYTES)


def find_zarr(index: Index, row: VersionRow, path: str) -> tuple[VersionRow, ZarrFolder] | None:
    """Return the Zarr at a path of a version, with the version that has its files, if any.

    A Zarr is a folder, or a subdataset of its own.
    """
    if not path.lower().endswith(".zarr"):
        return None
    for subdataset in index.versions.subdatasets(row):
        if subdataset.path == path and subdataset.label is not None:
            inner = index.versions.resolve(subdataset.dataset, subdataset.label)
            return inner, ZarrFolder(path, "", inner.state)
    if not row.indexed or not any(islice(index.files.folder_entries(row, path, "", 0), 1)):
        return None
    return row, ZarrFolder(path, path, f"{row.state} {path}")


def _result(outcome: Preview | PreviewFailure) -> Preview:
    if isinstance(outcome, PreviewFailure):
        raise UnavailableError(*_MESSAGES[outcome.reason])
    return outcome


async def _run(task: bytes, seconds: float) -> tuple[int, bytes]:
    """Run a preview process; return its exit status, negative if it was killed, and its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "neuromirror.previews.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment_without_secrets(),
        limit=_MAX_OUTPUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            process.stdin.write(task)
            process.stdin.close()
            try:
                output = await process.stdout.readexactly(_MAX_OUTPUT)
            except asyncio.IncompleteReadError as ended:
                output = ended.partial
            else:
                return _TOO_MUCH_OUTPUT, b""
            return await process.wait(), output
    except TimeoutError:
        return _TIMED_OUT, b""
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _prune(folder: Path, most: int) -> None:
    """Delete the oldest files of the cache beyond its size limit."""
    found = []
    for path in folder.glob("*/*"):
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size
