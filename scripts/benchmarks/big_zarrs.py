"""Zarrs of any size without a byte of them: names, sizes, ETags, versions and true checksums.

Each is an OME-Zarr of format 2: ``.zattrs``, ``.zgroup``, an array ``0`` of planes of 25 × 40
chunks, and an array ``1`` with the chunks that make no whole plane. What a plane's chunks have for
ETags and version ids is drawn at once, and text is made of templates, a plane at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from benchmarks.big_keys import Keys, row

_ROWS, _COLUMNS = 25, 40
PLANE: Final = _ROWS * _COLUMNS
"""Chunks per plane."""
_HEAD: Final = (b".zattrs", b".zgroup", b"0/.zarray")
_TAIL: Final = b"1/.zarray"
_DOCUMENT_SIZE: Final = 343

READABLE_CHUNK: Final = 8
"""Rows and columns of a chunk with a content."""

_Y: Final = sorted(map(str, range(_ROWS)))
_X: Final = sorted(map(str, range(_COLUMNS)))
_CHUNKS: Final = [f"{y}/{x}" for y in _Y for x in _X]
"""The chunks of a plane in the order of their names."""
_SIZES: Final = tuple(1_000_000 + number * 7919 % 5_000_000 for number in range(PLANE))
"""Sizes of chunks in bytes; a row of a plane has 40 chunks."""


class BigZarr(Keys):
    """The keys of a Zarr below ``prefix``, in the order of their bytes.

    ``number`` sets all that is drawn; it has so many ``entries``, at least 4.
    """

    sizes: tuple[int, ...] = _SIZES

    def __init__(self, number: int, entries: int, prefix: bytes) -> None:
        self.number = number
        self.entries = entries
        self.prefix = prefix
        self.planes, self.rest = divmod(entries - len(_HEAD) - 1, PLANE)

    def __len__(self) -> int:
        return self.entries

    def _key(self, at: int) -> bytes:
        return self.prefix + self._name(at)

    def _name(self, at: int) -> bytes:
        if at < len(_HEAD):
            return _HEAD[at]
        plane, chunk = divmod(at - len(_HEAD), PLANE)
        if plane < self.planes:
            return f"0/{_names(self.planes)[plane]}/{_CHUNKS[chunk]}".encode()
        return f"1/0/{_CHUNKS[chunk - 1]}".encode() if chunk else _TAIL

    def facts(self, at: int) -> tuple[int, str, str]:
        """Return bytes, ETag and version id of an entry."""
        plane, chunk = self._plane_and_chunk(at)
        if chunk < 0:
            return _DOCUMENT_SIZE, self._document("etag", at), self._document("version", at)
        etags, versions = (self._drawn(kind, plane) for kind in ("etag", "version"))
        return self.sizes[chunk], etags[chunk], versions[chunk]

    def _plane_and_chunk(self, at: int) -> tuple[int, int]:
        """Return plane and chunk; the plane after all whole ones is that of array 1."""
        plane, chunk = divmod(at - len(_HEAD), PLANE)
        if at < len(_HEAD):
            return 0, -1
        return (plane, chunk) if plane < self.planes else (plane, chunk - 1)

    def _document(self, kind: str, at: int) -> str:
        seed = f"{kind} {self.number} {at}".encode()
        return hashlib.md5(seed, usedforsecurity=False).hexdigest()

    def _drawn(self, kind: str, plane: int) -> list[str]:
        """Return 32 hex digits for each chunk of a plane."""
        seed = f"{kind} {self.number} plane {plane}".encode()
        text = hashlib.shake_128(seed).hexdigest(16 * PLANE)
        return [text[start : start + 32] for start in range(0, 32 * PLANE, 32)]

    # -- the bucket's lists

    def listing_rows(self, start: int, end: int, *, versions: bool) -> str:
        """Return the rows of entries from ``start`` to ``end``, as S3 writes them."""
        found: list[str] = []
        at = start
        while at < end:
            plane, chunk = self._plane_and_chunk(at)
            if chunk < 0:
                size, etag, version = self.facts(at)
                name = (self.prefix + self._name(at)).decode()
                found.append(row(name, size, etag, version, versions=versions))
                at += 1
                continue
            most = PLANE if plane < self.planes else self.rest
            until = min(chunk + end - at, most)
            etags = self._drawn("etag", plane)[chunk:until]
            folder = f"0/{_names(self.planes)[plane]}" if plane < self.planes else "1/0"
            text = _rows(self.sizes, chunk, until, versions).replace(
                "\0", f"{self.prefix.decode()}{folder}/"
            )
            if versions:
                drawn = self._drawn("version", plane)[chunk:until]
                both = [one for pair in zip(drawn, etags, strict=True) for one in pair]
                found.append(text % tuple(both))
            else:
                found.append(text % tuple(etags))
            at += until - chunk
        return "".join(found)

    # -- the archive's checksum

    @property
    def size(self) -> int:
        """Return the bytes of all entries."""
        documents = (len(_HEAD) + 1) * _DOCUMENT_SIZE
        return documents + self.planes * sum(self.sizes) + sum(self.sizes[: self.rest])

    def checksum(self) -> str:
        """Return ``<md5>-<files>--<bytes>``, as the library ``compute_zarr_checksum`` does."""
        planes = [
            _item(self._plane_digest(plane, PLANE), name)
            for plane, name in enumerate(_names(self.planes))
        ]
        arrays = [("0", planes, 2)]
        rest = [_item(self._plane_digest(self.planes, self.rest), "0")] if self.rest else []
        arrays.append(("1", rest, self.entries - 1 - self.rest))
        folders = [
            _item(_digest(inside, [self._documented(at, ".zarray")]), name)
            for name, inside, at in arrays
        ]
        return _digest(folders, [self._documented(0, ".zattrs"), self._documented(1, ".zgroup")])

    def _documented(self, at: int, name: str) -> str:
        digest = self._document("etag", at)
        return f'{{"digest":"{digest}","name":"{name}","size":{_DOCUMENT_SIZE}}}'

    def _plane_digest(self, plane: int, chunks: int) -> str:
        etags = tuple(self._drawn("etag", plane)[:chunks])
        rows = []
        texts = (_plane_json(self.sizes, chunks) % etags).split("\n")
        for number, text in enumerate(texts):
            used = min(_COLUMNS, chunks - number * _COLUMNS)
            size = sum(self.sizes[number * _COLUMNS : number * _COLUMNS + used])
            md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
            name = _Y[number]
            rows.append(f'{{"digest":"{md5}-{used}--{size}","name":"{name}","size":{size}}}')
        text = f'{{"directories":[{",".join(rows)}],"files":[]}}'
        md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        return f"{md5}-{chunks}--{sum(self.sizes[:chunks])}"


class ReadableZarr(BigZarr):
    """A Zarr with contents: chunks of 8 × 8 random voxels, and valid documents."""

    sizes = (2 * READABLE_CHUNK**2,) * PLANE

    def content(self, at: int) -> bytes:
        """Return the content of an entry."""
        plane, chunk = self._plane_and_chunk(at)
        return self._content_of_document(at) if chunk < 0 else self._chunk(plane, chunk)

    def region(self, index: int, rows: int, columns: int) -> bytes:
        """Return the first rows and columns of a plane of array 0, in whole chunks."""
        plane = _names(self.planes).index(str(index))
        lines = []
        for y in range(rows // READABLE_CHUNK):
            chunks = [
                self._chunk(plane, _CHUNKS.index(f"{y}/{x}"))
                for x in range(columns // READABLE_CHUNK)
            ]
            width = 2 * READABLE_CHUNK
            for start in range(0, width * READABLE_CHUNK, width):
                lines += [chunk[start : start + width] for chunk in chunks]
        return b"".join(lines)

    def _chunk(self, plane: int, chunk: int) -> bytes:
        seed = f"chunk {self.number} {plane} {chunk}".encode()
        return hashlib.shake_128(seed).digest(self.sizes[chunk])

    def _content_of_document(self, at: int) -> bytes:
        documents: dict[bytes, dict[str, object]] = {b".zattrs": {}, b".zgroup": {"zarr_format": 2}}
        planes = self.planes if self._name(at) == b"0/.zarray" else 1
        array = {
            "zarr_format": 2,
            "shape": [planes, _ROWS * READABLE_CHUNK, _COLUMNS * READABLE_CHUNK],
            "chunks": [1, READABLE_CHUNK, READABLE_CHUNK],
            "dtype": "<u2",
            "order": "C",
            "fill_value": 0,
            "compressor": None,
            "filters": None,
            "dimension_separator": "/",
        }
        text = json.dumps(documents.get(self._name(at), array))
        return text.encode().ljust(_DOCUMENT_SIZE)

    def _document(self, kind: str, at: int) -> str:
        if kind != "etag":
            return super()._document(kind, at)
        return hashlib.md5(self._content_of_document(at), usedforsecurity=False).hexdigest()

    def _drawn(self, kind: str, plane: int) -> list[str]:
        return super()._drawn(kind, plane) if kind != "etag" else self._etags(plane)

    @lru_cache(4)  # noqa: B019 - a keyspace keeps its Zarrs
    def _etags(self, plane: int) -> list[str]:
        return [
            hashlib.md5(self._chunk(plane, chunk), usedforsecurity=False).hexdigest()
            for chunk in range(PLANE)
        ]


@lru_cache(64)
def _names(planes: int) -> list[str]:
    """Return the names of this many planes, in order."""
    return sorted(map(str, range(planes)))


@lru_cache(2 * PLANE)
def _rows(sizes: tuple[int, ...], start: int, end: int, versions: bool) -> str:
    """A template of rows: NUL for what is before a chunk's name, then its version id, its ETag."""
    return "".join(
        row(f"\0{name}", size, "%s", "%s", versions=versions)
        for name, size in zip(_CHUNKS[start:end], sizes[start:end], strict=True)
    )


@lru_cache(PLANE)
def _plane_json(sizes: tuple[int, ...], chunks: int) -> str:
    """Return a template of the listings of a plane's folders, one per line, without ETags."""
    files = [
        f'{{"digest":"%s","name":"{_X[number % _COLUMNS]}","size":{sizes[number]}}}'
        for number in range(chunks)
    ]
    return "\n".join(
        f'{{"directories":[],"files":[{",".join(files[start : start + _COLUMNS])}]}}'
        for start in range(0, chunks, _COLUMNS)
    )


def _item(digest: str, name: str) -> str:
    size = digest.rpartition("--")[2]
    return f'{{"digest":"{digest}","name":"{name}","size":{size}}}'


def _digest(folders: Sequence[str], files: Sequence[str]) -> str:
    """Return the checksum of a folder, from the items of its listing."""
    text = f'{{"directories":[{",".join(folders)}],"files":[{",".join(files)}]}}'
    md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    count = size = 0
    for item in folders:
        digest = item.split('"', 4)[3]
        count += int(digest.partition("-")[2].partition("--")[0])
        size += int(digest.rpartition("--")[2])
    count += len(files)
    size += len(files) * _DOCUMENT_SIZE
    return f"{md5}-{count}--{size}"
