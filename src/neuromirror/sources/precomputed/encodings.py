"""Paths of a layer's files, with a suffix for the encoding in which each object is stored.

CloudVolume stores compressed objects with a Content-Encoding, and git-annex downloads the stored
bytes. On disk, CloudVolume reads compressed files only if their names end in ``.br``, ``.gz`` and
similar (and looks them up by the name without it). So this suffix is part of the file's path, while
the URL remains that of the object.

Everything that works with paths (manifests, comparison, clones) therefore needs no knowledge of
encodings. The mapping back is exact: the URL contains the key, and ``.precomputed/encodings.json``
lists the added suffixes.

Listings do not state encodings, and a layer has too many objects to request each one. The objects
of a folder are usually written by one program in the same way, so a sample of them is requested,
chosen by a checksum of their keys: the same objects give the same sample. Meshes have their
manifests and fragments in one folder, with one and two colons in the names, which count as two
folders. If a sample has several encodings, every object of the folder is requested. Objects written
since the last visit are a second sample, so that a single replaced object is noticed.

The objects of an OME-Zarr or N5 volume keep their names: their encodings are in their metadata.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, ClassVar, Final

import msgspec
from msgspec import Struct, field

from neuromirror.model import Document, ExcludedEntry
from neuromirror.model.validation import analysed_type
from neuromirror.net import ContextThreadPool, ObjectRow
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.history import read_rows, write_row
from neuromirror.sources.s3.listing_reader import (
    FileNaming,
    PathOrException,
    RequestHeaders,
    RowSample,
)
from neuromirror.sources.volumes.content_codings import (
    CODING_ALIASES,
    CODING_SUFFIXES,
    ENCODINGS_DOCUMENT,
)

DOCUMENT_PATH: Final = ENCODINGS_DOCUMENT.encode()
_INFO: Final = b"info"
_ARRAY_FILES: Final = {b".zattrs", b"zarr.json", b"attributes.json", b"s0/attributes.json"}
_LAYER_DOCUMENT: Final = re.compile(rb"(?:.*/)?(?:info|provenance)|[^/]+\.json", re.DOTALL)
_ARRAY_DOCUMENT: Final = re.compile(
    rb"[^/]+\.json|(?:[^/]+/){0,2}(?:\.z(?:array|attrs|group|metadata)|(?:zarr|attributes)\.json)"
)
"""The documents of a volume; those of its labels, which are deeper, are not needed to read it."""
SAMPLE: Final = 8
"""Objects per folder that are requested."""
FRESH_SAMPLE: Final = 256
"""Objects per folder that are requested among those written since the last visit."""

_SUFFIXES: Final = {coding: suffix.encode() for coding, suffix in CODING_SUFFIXES.items()}
_READABLE: Final = ("", "gzip")
_IDENTITY: Final = "identity"
_FOLDERS: Final = 512
_DEEP: Final = 4


def encoding_of(headers: Mapping[str, str]) -> str:
    """Return the encoding that an object's headers state, such as ``gzip``; '' without one."""
    codings = headers.get("Content-Encoding", "").lower().split(",")
    stripped = [CODING_ALIASES.get(coding.strip(), coding.strip()) for coding in codings]
    return ",".join(coding for coding in stripped if coding)


def _suffix_of(encoding: str) -> bytes:
    return _SUFFIXES.get(encoding, b"")


_FolderKey = tuple[bytes, int]
"""A folder within the layer, and the number of colons in its names (at most two)."""


class _Folder(Struct):
    """The encodings of a folder's objects with the same number of colons in their names.

    Attributes
    ----------
    count
        The number of objects.
    older, fresh
        Samples of the objects written before and since the last visit.
    encoding
        The common encoding; None if every object is requested.
    found
        The encodings that were found.
    whole
        Whether the samples include every object.
    """

    count: int = 0
    older: RowSample = field(default_factory=lambda: RowSample(SAMPLE))
    fresh: RowSample = field(default_factory=lambda: RowSample(FRESH_SAMPLE))
    encoding: str | None = None
    found: set[str] = field(default_factory=set)
    whole: bool = False

    def merge(self, other: _Folder) -> None:
        """Add another folder's objects."""
        self.count += other.count
        for row in other.older.rows():
            self.older.add(row)
        for row in other.fresh.rows():
            self.fresh.add(row)

    def rows(self) -> list[ObjectRow]:
        """Return the objects to request."""
        return [*self.older.rows(), *self.fresh.rows()]


class EncodingNaming(FileNaming):
    """Assigns paths to a layer's objects: their keys, with a suffix such as ``.gz`` if encoded.

    Implements :class:`~neuromirror.sources.s3.listing_reader.FileNaming`.

    Rows are spooled to a file, because paths are known only after all rows.

    Parameters
    ----------
    prefix
        The layer's prefix.
    head_each
        Whether every object is requested to determine its encoding, instead of a sample per folder.
    memo
        The memo of the last visit.
    folder
        The folder for the spool; None for the system's temporary folder.
    """

    needs_headers: ClassVar[bool] = True

    def __init__(
        self, prefix: bytes, *, head_each: bool, memo: LayerMemo | None, folder: Path | None
    ) -> None:
        self._start = len(prefix)
        self._markers: set[bytes] = set()
        self._is_array = False
        self._head_each = head_each
        self._since = None if memo is None else memo.newest
        self._mixed = frozenset(() if memo is None else memo.mixed)
        self._spool = folder
        self._depth = _DEEP
        self._folders: dict[_FolderKey, _Folder] = {}
        self._newest: datetime | None = None
        self._encodings: dict[bytes, str] = {}
        self._path_conflicts: dict[bytes, ObjectRow] = {}
        self._lock = threading.Lock()

    # --- requests

    def prepare_rows(
        self, rows: Iterable[ObjectRow], request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> Iterator[ObjectRow]:
        """Yield the rows, after determining the encodings of each folder."""
        with TemporaryFile(prefix="rows-", dir=self._spool) as spool:
            for row in rows:
                write_row(spool, row)
                self._count(row)
            if self._markers and _INFO not in self._markers:
                self._is_array = True
                self._folders.clear()
            if not self._head_each:
                self._request_samples(request_headers, pool)
            if any(folder.encoding is None for folder in self._folders.values()):
                self._find_path_conflicts(spool)
            yield from _read(spool)

    def is_document(self, path: bytes) -> bool:
        """Return whether a file is a document, after all rows were prepared."""
        pattern = _ARRAY_DOCUMENT if self._is_array else _LAYER_DOCUMENT
        return pattern.fullmatch(path) is not None

    def _count(self, row: ObjectRow) -> None:
        name = row.key[self._start :]
        if name == _INFO or name in _ARRAY_FILES:
            self._markers.add(name)
        if self._newest is None or row.modified > self._newest:
            self._newest = row.modified
        key = self._folder_key(row.key)
        folder = self._folders.get(key)
        if folder is None:
            folder = self._folders[key] = _Folder()
            while len(self._folders) > _FOLDERS and self._depth:
                self._coarsen()
            folder = self._folders[self._folder_key(row.key)]
        folder.count += 1
        # an object with that very second may have been written after its page was listed
        is_fresh = self._since is not None and row.modified >= self._since
        (folder.fresh if is_fresh else folder.older).add(row)

    def _coarsen(self) -> None:
        """Merge the folders within a folder; the result does not depend on their order."""
        self._depth -= 1
        before, self._folders = self._folders, {}
        for (file_path, colons), folder in before.items():
            key = b"/".join(file_path.split(b"/")[: self._depth]), colons
            self._folders.setdefault(key, _Folder()).merge(folder)

    def _folder_key(self, key: bytes) -> _FolderKey:
        folder, _, name = key[self._start :].rpartition(b"/")
        if folder.count(b"/") >= self._depth:
            folder = b"/".join(folder.split(b"/")[: self._depth])
        return folder, min(2, name.count(b":"))

    def _request_samples(self, request_headers: RequestHeaders, pool: ContextThreadPool) -> None:
        sampled = [(folder, row) for folder in self._folders.values() for row in folder.rows()]
        answers = pool.map(lambda one: _stated_encoding(request_headers(one[1])), sampled)
        for (folder, row), encoding in zip(sampled, answers, strict=True):
            self._encodings[row.key] = encoding
            folder.found.add(encoding)
        for key, folder in self._folders.items():
            folder.whole = folder.count == len(folder.rows())
            known_mixed = _label(key) in self._mixed and not folder.whole
            if len(folder.found) == 1 and not known_mixed:
                (folder.encoding,) = folder.found

    def _find_path_conflicts(self, spool: IO[bytes]) -> None:
        """Find pairs such as ``a`` and ``a.br`` that could have the same path."""
        unpacked: dict[bytes, list[bytes]] = {}
        for row in _read(spool):
            for name in self.object_names(row.key)[1:]:
                if self._folders[self._folder_key(row.key)].encoding is None:
                    unpacked.setdefault(name, []).append(row.key)
        for row in _read(spool) if unpacked else ():
            for key in unpacked.get(row.key, ()):
                self._path_conflicts[key] = row

    # --- names

    def file_path(
        self, row: ObjectRow, name: bytes, request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> PathOrException | Future[PathOrException]:
        """Return the name with the suffix for the object's encoding, which may be requested."""
        if self._is_array:
            return name
        folder = self._folders[self._folder_key(row.key)]
        if folder.encoding is not None:
            return name + _suffix_of(folder.encoding)
        return pool.submit(self._request_path, row, name, request_headers, folder)

    def _request_path(
        self, row: ObjectRow, name: bytes, request_headers: RequestHeaders, folder: _Folder
    ) -> PathOrException:
        encoding = self._encoding(row, request_headers)
        with self._lock:
            folder.found.add(encoding)
        rival = self._path_conflicts.get(row.key)
        if rival is not None and not _suffix_of(encoding):
            taken = rival.key + _suffix_of(self._encoding(rival, request_headers))
            if taken == row.key:
                shown = local_ids.display_key(rival.key)
                why = f"the file of {shown!r}, which is stored compressed, is here"
                return ExcludedEntry(name, "name-taken", why, row.size)
        return name + _suffix_of(encoding)

    def _encoding(self, row: ObjectRow, request_headers: RequestHeaders) -> str:
        known = self._encodings.get(row.key)
        return _stated_encoding(request_headers(row)) if known is None else known

    def object_names(self, file_path: bytes) -> Sequence[bytes]:
        """Return the name itself, and the name without a suffix that may have been added."""
        for suffix in _SUFFIXES.values():
            if file_path.endswith(suffix) and len(file_path) > len(suffix):
                return file_path, file_path[: -len(suffix)]
        return (file_path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], file_path: bytes) -> bool:
        """Return whether the object's name and encoding give this path."""
        if self._is_array:
            return name == file_path
        encoding = encoding_of(headers)
        if name == file_path and encoding in _READABLE and self.is_document(file_path):
            return True
        return name + _suffix_of(encoding) == file_path

    # --- results

    def attributes(self) -> set[tuple[str, str]]:
        """Return the dataset's attributes about encodings, after the last entry."""
        found = {one for folder in self._folders.values() for one in folder.found}
        if not found:
            return set()
        learned = {self._describe_basis(one) for one in self._folders.values()}
        return {("encoding", one) for one in found if one} | {
            ("encoding-learnt", one) for one in learned
        }

    @property
    def newest(self) -> datetime | None:
        """The time of the newest object."""
        return self._newest

    @property
    def mixed(self) -> tuple[str, ...]:
        """The folders with more than one encoding."""
        found = (_label(key) for key, one in self._folders.items() if len(one.found) > 1)
        return tuple(sorted(found))

    def document(self) -> Document:
        """Return the document with each folder's encodings, after the last entry."""
        object_names = {
            _label(key): {
                "asked": self._describe_basis(folder),
                "encodings": sorted(one or _IDENTITY for one in folder.found),
            }
            for key, folder in self._folders.items()
        }
        content = {"endings": CODING_SUFFIXES, "objects": object_names}
        text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        return Document(DOCUMENT_PATH, text.encode())

    @staticmethod
    def _describe_basis(folder: _Folder) -> str:
        return "a sample" if folder.encoding is not None and not folder.whole else "each object"


def _stated_encoding(headers: Mapping[str, str] | None) -> str:
    # an object that is refused keeps its name
    return "" if headers is None else encoding_of(headers)


def _label(key: _FolderKey) -> str:
    """Return a folder as a shell pattern of the names in it."""
    path, colons = key
    folder = local_ids.display_key(path)
    return (f"{folder}/" if folder else "") + "*" + ":*" * colons


def _read(spool: IO[bytes]) -> Iterator[ObjectRow]:
    spool.seek(0)
    yield from read_rows(spool)


# --- the part of a layer's memo in addition to the pages: encodings and links


class LayerMemo(msgspec.Struct, frozen=True):
    """The memo of a layer: the data by which the next visit recognizes an unchanged layer.

    Attributes
    ----------
    shape
        A digest of the options for which it is valid.
    newest
        The time of the newest object; None without objects.
    mixed
        The folders whose chunks are stored with different content codings (``br``, ``gzip``).
    links
        The links of the dataset to viewers and data: (kind, URL) pairs.
    """

    shape: str
    newest: datetime | None
    mixed: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    def dump(self, pages: bytes) -> bytes:
        """Return a line of JSON, followed by the listing's memo."""
        return msgspec.json.encode(self) + b"\n" + pages


def load_layer_memo(memo: bytes | None, shape: str) -> tuple[LayerMemo | None, bytes | None]:
    """Return the layer's memo, and the memo of its bucket listing, from their common encoding.

    Returns (None, None) for an invalid memo, and for one with another ``shape``, written with other
    options.
    """
    head, newline, pages = (memo or b"").partition(b"\n")
    try:
        found = msgspec.json.decode(head, type=analysed_type(LayerMemo))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None, None
    return (found, pages) if newline and found.shape == shape else (None, None)
