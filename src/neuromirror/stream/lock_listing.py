"""The files of one manifest of a lock file, looked up by path.

A manifest is verified as a whole when it is read for the first time, because its state digest
covers all its lines. A large one is then kept in the user's cache folder, in a form of which parts
can be read, so that opening one file of millions does not read the manifest again.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from neuromirror.cache import cache_folder
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestReader,
    PlainFile,
)
from neuromirror.mint import SortedLines, ZstdFrameError, names_in_folder, write_seekable_lines
from neuromirror.store.regular_files import open_regular
from neuromirror.stream.trees import FolderEntry

_LARGE: Final = 1 << 20
"""Size in bytes above which a manifest is kept in the cache."""

_HEAD: Final = b'{"listing"'

_FORMAT: Final = 2
_HEAD_KEY: Final = b"\xff"
"""Follows all paths, which are in UTF-8."""

_OWNER_MODE: Final = 0o700


class _Head(msgspec.Struct):
    """The last line: what is not an annexed file."""

    listing: int
    commit: str
    state: str
    documents: dict[str, str]
    subdatasets: list[ListedSubdataset]


class _Path(msgspec.Struct):
    path: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ListedFile).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_path = msgspec.json.Decoder(_Path).decode


class LockListing:
    """The files of a manifest. Thread-safe.

    Parameters
    ----------
    path
        The path of the manifest.
    commit, state
        The commit and state that the lock file pins.

    Attributes
    ----------
    path
        The path of the manifest.
    documents
        The plain files in git by path.
    subdatasets
        The subdatasets by path.

    Raises
    ------
    LockManifestMissingError, LockManifestDamagedError
        The manifest is missing, invalid, or of another state.
    """

    def __init__(self, path: Path, commit: str, state: str) -> None:
        self.path = path
        cached = _cached_path(path)
        lines = None if cached is None else _open_cached(cached, commit, state)
        if lines is None:
            lines = _read_manifest(path, commit, state, cached)
        self._lines = lines
        head = _decode_head(next(lines.lines_from(_HEAD_KEY)))
        self.documents = {
            name: base64.b64decode(content) for name, content in head.documents.items()
        }
        self.subdatasets = {one.path: one for one in head.subdatasets}

    def close(self) -> None:
        """Close the file with the lines."""
        self._lines.close()

    def file(self, path: str) -> ListedFile | None:
        """Return an annexed file; None if the manifest has no such file."""
        key = path.encode("utf-8", "surrogateescape")
        line = next(self._lines.lines_from(key), None)
        if line is None or _line_key(line) != key or key == _HEAD_KEY:
            return None
        return _decode(line)

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        """Return the entries of a folder, sorted by name; None if there is no such folder."""
        below = f"{folder}/" if folder else ""
        found: dict[str, FolderEntry] = {}
        for path, content in self.documents.items():
            _add(found, below, path, len(content))
        for path in self.subdatasets:
            _add(found, below, f"{path}/", None)
        for name, line in self._names_below(below.encode("utf-8", "surrogateescape")):
            file = None if line is None else _decode(line)
            found[name] = (
                FolderEntry(name, True)
                if file is None
                else FolderEntry(name, False, file.size, file.key)
            )
        if not found and folder:
            return None
        return iter([found[name] for name in sorted(found)])

    def _names_below(self, below: bytes) -> Iterator[tuple[str, bytes | None]]:
        """Yield the names in a folder, each with its line; None for a folder."""
        for name, line in names_in_folder(self._file_lines, _line_key, below):
            yield name.decode("utf-8", "surrogateescape"), line

    def _file_lines(self, start: bytes) -> Iterator[bytes]:
        """Return the lines of files from a path on."""
        return takewhile(lambda line: not line.startswith(_HEAD), self._lines.lines_from(start))


def _line_key(line: bytes) -> bytes:
    """Return the path of a line; that of the head follows all others."""
    if line.startswith(_HEAD):
        return _HEAD_KEY
    return _decode_path(line).path.encode("utf-8", "surrogateescape")


def _cached_path(path: Path) -> Path | None:
    """Return where a large manifest is kept, by the digest of its bytes; None if it is not."""
    if cache_folder() is None:
        return None
    from platformdirs import user_cache_path

    # not in the folder of the cache, which may be shared: unlike pieces, a listing is trusted
    folder = user_cache_path("neuromirror") / "listings"
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size < _LARGE:
                return None
            digest = hashlib.sha256()
            while block := file.read(_LARGE):
                digest.update(block)
    except OSError:
        return None  # the reader reports it
    return folder / f"{digest.hexdigest()}.jsonl.zst"


def _open_cached(cached: Path, commit: str, state: str) -> SortedLines | None:
    try:
        lines = SortedLines(cached, _line_key)
    except (OSError, ZstdFrameError):
        return None
    with suppress(OSError, ZstdFrameError, msgspec.DecodeError, StopIteration):
        head = _decode_head(next(lines.lines_from(_HEAD_KEY)))
        if (head.listing, head.commit, head.state) == (_FORMAT, commit, state):
            return lines
    lines.close()
    return None


def _read_manifest(path: Path, commit: str, state: str, cached: Path | None) -> SortedLines:
    """Verify a manifest and write its lines, to the cache or to an unnamed temporary file."""
    reader = LockManifestReader(path)
    if (reader.head.commit, reader.head.state) != (commit, state):
        raise LockManifestDamagedError(
            f"the manifest {path} is of state {reader.head.state}, but {state} is pinned; copy "
            "it from the source of the lock file, or pin the dataset again"
        )
    if cached is not None:
        with suppress(OSError):  # a full disk, or a folder without permissions
            return _write_cached(cached, _listing_lines(reader))
    file = cast(IO[bytes], tempfile.TemporaryFile(prefix="neuromirror-"))  # noqa: SIM115
    try:
        write_seekable_lines(file, _listing_lines(reader))
        file.flush()
    except BaseException:
        file.close()
        raise
    return SortedLines(file, _line_key)


def _listing_lines(reader: LockManifestReader) -> Iterator[bytes]:
    """Yield the lines of a listing; the reader compares the files with the state at its end."""
    head = _Head(_FORMAT, reader.head.commit, reader.head.state, {}, [])
    for one in reader.blocks():
        if isinstance(one, bytes):
            yield one[:-1]
        elif isinstance(one, PlainFile):
            head.documents[one.path] = base64.b64encode(one.content).decode()
        elif isinstance(one, ListedSubdataset):
            head.subdatasets.append(one)
        else:
            yield _encode(one)
    yield _encode(head)


def _write_cached(cached: Path, lines: Iterator[bytes]) -> SortedLines:
    cached.parent.mkdir(mode=_OWNER_MODE, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=".new-", dir=cached.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write_seekable_lines(file, lines)
        os.replace(draft, cached)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return SortedLines(cached, _line_key)


def _add(found: dict[str, FolderEntry], below: str, path: str, size: int | None) -> None:
    if path.startswith(below) and path != below:
        name, slash, _ = path[len(below) :].partition("/")
        found[name] = FolderEntry(name, True) if slash else FolderEntry(name, False, size)
