"""Files of a layer are called by the encoding in which their objects are stored.

CloudVolume writes an object compressed and puts that into its Content-Encoding; what git-annex gets
are the bytes as they are stored. From a disk CloudVolume reads such bytes only where the file's
name ends in ``.br``, ``.gz`` or their like (and then asks for the name without it). So that ending
is in the path of the file; its address stays the object's own.

The path of a record therefore is the file's and not the object's name. So all that goes by paths
(manifests, comparison, clones) needs to know nothing of encodings; and the way back is exact: the
address holds the key, and ``.precomputed/encodings.json`` says which endings were added.

No listing tells an encoding, and a layer has too many objects to ask for each. Those of a folder
are mostly written by one program in one way, so a sample of them is asked, chosen by lot of their
keys: the same objects, the same sample. Meshes keep their lists and their pieces in one folder,
under names with one and with two colons; these count as different folders. Where a sample is of
more than one mind, each object is asked about. What was written since the last visit is a sample
of its own, so that a single object that was put again is noticed.
"""

from __future__ import annotations

import json
import threading
import zlib
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, ClassVar, Final

import msgspec

from neuromirror.model import Document, ExcludedEntry
from neuromirror.net import ContextThreadPool, ObjectRow
from neuromirror.sources.precomputed.memo import LayerMemo
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.file_naming import PathOrException, RequestHeaders

DOCUMENT_PATH: Final = b".precomputed/encodings.json"
SAMPLE: Final = 8
"""Objects of each folder that are asked about."""
FRESH_SAMPLE: Final = 256
"""The same, of those written since the last visit."""

_SUFFIXES: Final = {
    **{"br": b".br", "gzip": b".gz", "zstd": b".zstd", "xz": b".xz", "bzip2": b".bz2"},
}
"""What CloudVolume looks for on a disk, by Content-Encoding."""
_ENCODINGS: Final = {suffix: encoding for encoding, suffix in _SUFFIXES.items()}
_SAME: Final = {"x-gzip": "gzip", "identity": "", "aws-chunked": "", "utf-8": ""}
_READABLE: Final = ("", "gzip")
_IDENTITY: Final = "identity"
_FOLDERS: Final = 512
_DEEP: Final = 4
_LENGTH: Final = 4

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ObjectRow).decode


def encoding_of(headers: Mapping[str, str]) -> str:
    """The encoding that an object's headers tell; empty for bytes as they are."""
    codings = headers.get("Content-Encoding", "").lower().split(",")
    stripped = [_SAME.get(coding.strip(), coding.strip()) for coding in codings]
    return ",".join(coding for coding in stripped if coding)


def _suffix_of(encoding: str) -> bytes:
    return _SUFFIXES.get(encoding, b"")


_FolderKey = tuple[bytes, int]
"""A folder within the layer, and how many colons its names have (two stand for more)."""


class _Sample:
    """The rows with the lowest lots of all that came: the same in whatever order."""

    __slots__ = ("_lots", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._lots: list[tuple[int, bytes, ObjectRow]] = []

    def add(self, row: ObjectRow) -> None:
        """One more."""
        lot = zlib.crc32(row.key)
        if len(self._lots) == self._most and lot > self._lots[-1][0]:
            return
        insort(self._lots, (lot, row.key, row), key=itemgetter(0, 1))
        del self._lots[self._most :]

    def rows(self) -> list[ObjectRow]:
        """What is in it."""
        return [row for _, _, row in self._lots]


@dataclass(slots=True)
class _Folder:
    """The objects of a folder with as many colons in their names: how they are stored.

    ``encoding`` is None where each is asked; ``found`` are those that were met.
    """

    count: int = 0
    older: _Sample = field(default_factory=lambda: _Sample(SAMPLE))
    fresh: _Sample = field(default_factory=lambda: _Sample(FRESH_SAMPLE))
    encoding: str | None = None
    found: set[str] = field(default_factory=set)
    whole: bool = False

    def merge(self, other: _Folder) -> None:
        """Takes another one in."""
        self.count += other.count
        for row in other.older.rows():
            self.older.add(row)
        for row in other.fresh.rows():
            self.fresh.add(row)

    def rows(self) -> list[ObjectRow]:
        """Those to ask about."""
        return [*self.older.rows(), *self.fresh.rows()]


class EncodingNaming:
    """The naming of one listing of a layer
    (:class:`~neuromirror.sources.s3.file_naming.FileNaming`).

    ``prefix`` is the layer's. With ``each`` all objects are asked about, and no sample. Rows go
    through a file in ``folder`` (None: the system's place for such), because nothing can be named
    before all of them are known.
    """

    needs_headers: ClassVar[bool] = True

    def __init__(
        self,
        prefix: bytes,
        is_document: Callable[[bytes], bool],
        *,
        head_each: bool,
        memo: LayerMemo | None,
        folder: Path | None,
    ) -> None:
        self._start = len(prefix)
        self._is_document = is_document
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

    # --- what is asked

    def prepare_rows(
        self,
        prepare_rows: Iterable[ObjectRow],
        request_headers: RequestHeaders,
        pool: ContextThreadPool,
    ) -> Iterator[ObjectRow]:
        """Yields the rows, once it is known how the objects of each folder are stored."""
        with TemporaryFile(prefix="rows-", dir=self._spool) as spool:
            for row in prepare_rows:
                line = _encode(row)
                spool.write(len(line).to_bytes(_LENGTH, "big") + line)
                self._count(row)
            if not self._head_each:
                self._request_samples(request_headers, pool)
            if any(folder.encoding is None for folder in self._folders.values()):
                self._find_path_conflicts(spool)
            yield from _read(spool)

    def _count(self, row: ObjectRow) -> None:
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
        # One of that very second may have been written after its page was listed.
        is_fresh = self._since is not None and row.modified >= self._since
        (folder.fresh if is_fresh else folder.older).add(row)

    def _coarsen(self) -> None:
        """Takes folders in one folder for one; in whatever order they came, it ends the same."""
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
        """Finds pairs such as ``a`` and ``a.br`` of which both may want the same path."""
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
        """The name with the ending of the object's encoding, known or asked for."""
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
        """The name itself, and that without an ending that may have been added."""
        for suffix in _ENCODINGS:
            if file_path.endswith(suffix) and len(file_path) > len(suffix):
                return file_path, file_path[: -len(suffix)]
        return (file_path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], file_path: bytes) -> bool:
        """Whether the object's encoding makes its name into that path."""
        encoding = encoding_of(headers)
        if name == file_path and encoding in _READABLE and self._is_document(file_path):
            return True
        return name + _suffix_of(encoding) == file_path

    # --- what was learnt

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
        """The folders whose objects differ."""
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
        added = {one: _SUFFIXES[one].decode() for one in _SUFFIXES}
        content = {"endings": added, "objects": object_names}
        text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        return Document(DOCUMENT_PATH, text.encode())

    @staticmethod
    def _describe_basis(folder: _Folder) -> str:
        return "a sample" if folder.encoding is not None and not folder.whole else "each object"


def _stated_encoding(headers: Mapping[str, str] | None) -> str:
    # What nobody may ask for is called as it is listed.
    return "" if headers is None else encoding_of(headers)


def _label(key: _FolderKey) -> str:
    """A folder as a shell pattern of the names in it."""
    path, colons = key
    folder = local_ids.display_key(path)
    return (f"{folder}/" if folder else "") + "*" + ":*" * colons


def _read(spool: IO[bytes]) -> Iterator[ObjectRow]:
    spool.seek(0)
    while head := spool.read(_LENGTH):
        yield _decode(spool.read(int.from_bytes(head, "big")))
