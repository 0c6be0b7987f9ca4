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
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, ClassVar, Final

import msgspec

from neuromirror.model import Document, FileRecord, NamedException
from neuromirror.net import CountedPool, ObjectRow
from neuromirror.sources.precomputed.memo import Remembered
from neuromirror.sources.protocol import Listing, Part
from neuromirror.sources.s3 import names
from neuromirror.sources.s3.naming import Ask, Named

PATH: Final = b".precomputed/encodings.json"
SAMPLE: Final = 8
"""Objects of each folder that are asked about."""
FRESH: Final = 256
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
    words = headers.get("Content-Encoding", "").lower().split(",")
    stripped = [_SAME.get(word.strip(), word.strip()) for word in words]
    return ",".join(word for word in stripped if word)


def _ending(encoding: str) -> bytes:
    return _SUFFIXES.get(encoding, b"")


_Place = tuple[bytes, int]
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
    fresh: _Sample = field(default_factory=lambda: _Sample(FRESH))
    encoding: str | None = None
    found: set[str] = field(default_factory=set)
    whole: bool = False

    def join(self, other: _Folder) -> None:
        """Takes another one in."""
        self.count += other.count
        for row in other.older.rows():
            self.older.add(row)
        for row in other.fresh.rows():
            self.fresh.add(row)

    def rows(self) -> list[ObjectRow]:
        """Those to ask about."""
        return [*self.older.rows(), *self.fresh.rows()]


class Encodings:
    """The naming of one listing of a layer (:class:`~neuromirror.sources.s3.naming.Naming`).

    ``prefix`` is the layer's. With ``each`` all objects are asked about, and no sample. Rows go
    through a file in ``folder`` (None: the system's place for such), because nothing can be named
    before all of them are known.
    """

    by_headers: ClassVar[bool] = True

    def __init__(
        self,
        prefix: bytes,
        is_document: Callable[[bytes], bool],
        *,
        each: bool,
        remembered: Remembered | None,
        folder: Path | None,
    ) -> None:
        self._start = len(prefix)
        self._is_document = is_document
        self._each = each
        self._since = None if remembered is None else remembered.newest
        self._mixed = frozenset(() if remembered is None else remembered.mixed)
        self._spool = folder
        self._depth = _DEEP
        self._folders: dict[_Place, _Folder] = {}
        self._newest: datetime | None = None
        self._answers: dict[bytes, str] = {}
        self._rivals: dict[bytes, ObjectRow] = {}
        self._lock = threading.Lock()

    # --- what is asked

    def rows(self, rows: Iterable[ObjectRow], ask: Ask, pool: CountedPool) -> Iterator[ObjectRow]:
        """Yields the rows, once it is known how the objects of each folder are stored."""
        with TemporaryFile(prefix="rows-", dir=self._spool) as spool:
            for row in rows:
                line = _encode(row)
                spool.write(len(line).to_bytes(_LENGTH, "big") + line)
                self._count(row)
            if not self._each:
                self._ask_some(ask, pool)
            if any(folder.encoding is None for folder in self._folders.values()):
                self._find_rivals(spool)
            yield from _read(spool)

    def _count(self, row: ObjectRow) -> None:
        if self._newest is None or row.modified > self._newest:
            self._newest = row.modified
        place = self._place(row.key)
        folder = self._folders.get(place)
        if folder is None:
            folder = self._folders[place] = _Folder()
            while len(self._folders) > _FOLDERS and self._depth:
                self._coarsen()
            folder = self._folders[self._place(row.key)]
        folder.count += 1
        # One of that very second may have been written after its page was listed.
        is_fresh = self._since is not None and row.modified >= self._since
        (folder.fresh if is_fresh else folder.older).add(row)

    def _coarsen(self) -> None:
        """Takes folders in one folder for one; in whatever order they came, it ends the same."""
        self._depth -= 1
        before, self._folders = self._folders, {}
        for (path, colons), folder in before.items():
            place = b"/".join(path.split(b"/")[: self._depth]), colons
            self._folders.setdefault(place, _Folder()).join(folder)

    def _place(self, key: bytes) -> _Place:
        folder, _, name = key[self._start :].rpartition(b"/")
        if folder.count(b"/") >= self._depth:
            folder = b"/".join(folder.split(b"/")[: self._depth])
        return folder, min(2, name.count(b":"))

    def _ask_some(self, ask: Ask, pool: CountedPool) -> None:
        asked = [(folder, row) for folder in self._folders.values() for row in folder.rows()]
        answers = pool.map(lambda one: _told(ask(one[1])), asked)
        for (folder, row), encoding in zip(asked, answers, strict=True):
            self._answers[row.key] = encoding
            folder.found.add(encoding)
        for place, folder in self._folders.items():
            folder.whole = folder.count == len(folder.rows())
            known_mixed = _label(place) in self._mixed and not folder.whole
            if len(folder.found) == 1 and not known_mixed:
                (folder.encoding,) = folder.found

    def _find_rivals(self, spool: IO[bytes]) -> None:
        """Finds pairs such as ``a`` and ``a.br`` of which both may want the same path."""
        unpacked: dict[bytes, list[bytes]] = {}
        for row in _read(spool):
            for name in self.objects(row.key)[1:]:
                if self._folders[self._place(row.key)].encoding is None:
                    unpacked.setdefault(name, []).append(row.key)
        for row in _read(spool) if unpacked else ():
            for key in unpacked.get(row.key, ()):
                self._rivals[key] = row

    # --- names

    def path(
        self, row: ObjectRow, name: bytes, ask: Ask, pool: CountedPool
    ) -> Named | Future[Named]:
        """The name with the ending of the object's encoding, known or asked for."""
        folder = self._folders[self._place(row.key)]
        if folder.encoding is not None:
            return name + _ending(folder.encoding)
        return pool.submit(self._asked, row, name, ask, folder)

    def _asked(self, row: ObjectRow, name: bytes, ask: Ask, folder: _Folder) -> Named:
        encoding = self._encoding(row, ask)
        with self._lock:
            folder.found.add(encoding)
        rival = self._rivals.get(row.key)
        if rival is not None and not _ending(encoding):
            taken = rival.key + _ending(self._encoding(rival, ask))
            if taken == row.key:
                why = f"the file of {names.shown(rival.key)!r}, which is stored compressed, is here"
                return NamedException(name, "name-taken", why, row.size)
        return name + _ending(encoding)

    def _encoding(self, row: ObjectRow, ask: Ask) -> str:
        known = self._answers.get(row.key)
        return _told(ask(row)) if known is None else known

    def objects(self, path: bytes) -> Sequence[bytes]:
        """The name itself, and that without an ending that may have been added."""
        for suffix in _ENCODINGS:
            if path.endswith(suffix) and len(path) > len(suffix):
                return path, path[: -len(suffix)]
        return (path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], path: bytes) -> bool:
        """Whether the object's encoding makes its name into that path."""
        encoding = encoding_of(headers)
        if name == path and encoding in _READABLE and self._is_document(path):
            return True
        return name + _ending(encoding) == path

    # --- what was learnt

    def told_after(
        self, entries: Iterator[FileRecord | NamedException | Part], listing: Listing
    ) -> Iterator[FileRecord | NamedException | Part]:
        """Yields the entries; then puts what was learnt into the listing's documents and facts."""
        yield from entries
        listing.documents = (*listing.documents, self._document())
        found = {one for folder in self._folders.values() for one in folder.found}
        attributes = {("encoding", one) for one in found if one}
        attributes |= {("encoding-learnt", self._learnt(one)) for one in self._folders.values()}
        kept = listing.facts.attributes
        listing.facts = replace(
            listing.facts, attributes=tuple(sorted({*kept, *(attributes if found else ())}))
        )

    @property
    def newest(self) -> datetime | None:
        """The time of the newest object."""
        return self._newest

    @property
    def mixed(self) -> tuple[str, ...]:
        """The folders whose objects differ."""
        found = (_label(place) for place, one in self._folders.items() if len(one.found) > 1)
        return tuple(sorted(found))

    def _document(self) -> Document:
        objects = {
            _label(place): {
                "asked": self._learnt(folder),
                "encodings": sorted(one or _IDENTITY for one in folder.found),
            }
            for place, folder in self._folders.items()
        }
        added = {one: _SUFFIXES[one].decode() for one in _SUFFIXES}
        content = {"endings": added, "objects": objects}
        text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        return Document(PATH, text.encode())

    @staticmethod
    def _learnt(folder: _Folder) -> str:
        return "a sample" if folder.encoding is not None and not folder.whole else "each object"


def _told(headers: Mapping[str, str] | None) -> str:
    # What nobody may ask for is called as it is listed.
    return "" if headers is None else encoding_of(headers)


def _label(place: _Place) -> str:
    """A folder as a shell pattern of the names in it."""
    path, colons = place
    folder = names.shown(path)
    return (f"{folder}/" if folder else "") + "*" + ":*" * colons


def _read(spool: IO[bytes]) -> Iterator[ObjectRow]:
    spool.seek(0)
    while head := spool.read(_LENGTH):
        yield _decode(spool.read(int.from_bytes(head, "big")))
