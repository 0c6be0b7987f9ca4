"""Keys of git-annex: parsed, made from digests and ETags.

Compute S3's multipart ETag.

A multipart ETag is the MD5 of the concatenated binary MD5s of the parts, a dash, and the number of
parts. All parts except the last have the same size.

git-annex keys: text of the form ``BACKEND[-s<size>]--<name>``.

Format: git-annex's internals/key_format page.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

from neuromirror.model import Digest, FileRecord, Retention, usual_part_sizes

DANDI_EMPTY_ETAG: Final = "d41d8cd98f00b204e9800998ecf8427e-0"
"""The dandi-etag of no bytes, which has no part."""
S3_EMPTY_ETAG: Final = "59adb24ef3cdbe0297f05b395827453f-1"
"""The ETag that S3 returns for an upload of one empty part."""
_BLOCK = 1024**2


def ignore_progress(position: int) -> None:
    """Do nothing: the default for ``progress``."""


def etag_of(
    stream: BinaryIO,
    part_size: int,
    progress: Callable[[int], None] = ignore_progress,
    digest: Hasher | None = None,
) -> str:
    """Return the multipart ETag of the rest of a stream, in constant memory.

    An empty stream has no parts, as in dandi-etag: ``d41d8cd98f00b204e9800998ecf8427e-0``.

    Parameters
    ----------
    stream
        The stream.
    part_size
        The part size in bytes.
    progress
        Called with the number of bytes read so far, about once per MiB.
    digest
        Computes the ETag; the default has parts of ``part_size``.

    Returns
    -------
    str
        ``<md5 in hex>-<number of parts>``.

    Raises
    ------
    ValueError
        If the part size is not positive.
    """
    digest = digest or EtagDigest(part_size)
    position = 0
    while block := stream.read(_BLOCK):
        digest.update(block)
        position += len(block)
        progress(position)
    return digest.hexdigest()


class Hasher(Protocol):
    """An incremental hash, with the interface of :mod:`hashlib`."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add the next bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        ...


class EtagDigest:
    """An incremental multipart ETag, with the interface of :mod:`hashlib`.

    Parameters
    ----------
    part_size
        The part size in bytes.

    Raises
    ------
    ValueError
        If the part size is not positive.
    """

    def __init__(self, part_size: int) -> None:
        if part_size <= 0:
            raise ValueError(f"part size must be positive, not {part_size}")
        self._size = part_size
        self._left = part_size
        self._parts = 0
        self._joined = hashlib.md5(usedforsecurity=False)
        self._part = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes.

        Parameters
        ----------
        data
            The next bytes of the content; parts need not be aligned.
        """
        view = memoryview(data)
        while view:
            taken = view[: self._left]
            self._part.update(taken)
            self._left -= len(taken)
            view = view[len(taken) :]
            if not self._left:
                self._joined.update(self._part.digest())
                self._parts += 1
                self._part = hashlib.md5(usedforsecurity=False)
                self._left = self._size

    def hexdigest(self) -> str:
        """Return the ETag of the bytes so far.

        Returns
        -------
        str
            ``<md5>-<parts>``.
        """
        if self._left == self._size:
            return f"{self._joined.hexdigest()}-{self._parts}"
        joined = self._joined.copy()
        joined.update(self._part.digest())
        return f"{joined.hexdigest()}-{self._parts + 1}"


class ExpectedEtag:
    """A multipart ETag that is compared with content, with the interface of :mod:`hashlib`.

    The part size of a key is the most usual one that fits. If others fit too, they are tried: if
    the content has the same ETag in parts of another size, it is the right one.

    Parameters
    ----------
    etag
        ``<md5>-<parts>``.
    part_size
        The part size in the key, in bytes.
    size
        Size of the content in bytes; None if unknown.
    """

    def __init__(self, etag: str, part_size: int, size: int | None) -> None:
        parts = etag.partition("-")[2]
        usual = usual_part_sizes(size or 0, int(parts)) if parts.isdecimal() else []
        self._etag = etag
        self._digests = [EtagDigest(part_size)]
        if usual[:1] == [part_size]:
            self._digests += map(EtagDigest, usual[1:])

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add the next bytes."""
        for digest in self._digests:
            digest.update(data)

    def hexdigest(self) -> str:
        """Return the expected ETag if the bytes have it, else that in parts of the key's size."""
        found = [digest.hexdigest() for digest in self._digests]
        return self._etag if self._etag in found else found[0]


class Crc:
    """A CRC of 32 bits that S3 states, with the interface of :mod:`hashlib`."""

    def __init__(self, algorithm: str) -> None:
        self._extend: Callable[[bytes, int], int] = zlib.crc32
        if algorithm == "crc32c":
            from google_crc32c import extend

            self._extend = lambda data, crc: extend(crc, data)
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add the next bytes."""
        self._value = self._extend(bytes(data), self._value)

    def hexdigest(self) -> str:
        """Return the CRC of the bytes so far."""
        return f"{self._value:08x}"


_ROW = 2048
"""Words of 8 bytes that are folded at a time."""


@lru_cache(maxsize=1)
def _crc64_tables() -> tuple[list[int], list[Any]]:
    """Return the table of a byte, and those that advance each 16 bits of a CRC by a row."""
    import numpy

    table = list(range(256))
    for _ in range(8):
        table = [one >> 1 ^ (0x9A6C9329AC4BC9B5 if one & 1 else 0) for one in table]
    folds = [numpy.zeros(1, "<u8") for _ in range(4)]
    for bit in range(64):
        crc = 1 << bit
        for _ in range(8 * _ROW):
            crc = table[crc & 255] ^ crc >> 8
        fold = folds[bit // 16]
        folds[bit // 16] = numpy.concatenate([fold, fold ^ numpy.uint64(crc)])
    return table, folds


class Crc64Nvme:
    """S3's CRC64NVME, with the interface of :mod:`hashlib`; vectorized, 110 to 160 MB/s.

    A row of words is congruent to zeros of its length and a row that each word is advanced to, so
    that rows are folded into one, whose CRC is that of all.
    """

    def __init__(self) -> None:
        import numpy

        self._table, self._folds = _crc64_tables()
        self._row = numpy.zeros(_ROW, "<u8")
        self._row[0] = (1 << 64) - 1
        self._has_row = False
        self._rest = b""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add the next bytes."""
        import numpy

        data = self._rest + bytes(data)
        end = len(data) // (8 * _ROW) * (8 * _ROW)
        self._rest = data[end:]
        for words in numpy.frombuffer(data, "<u8", end // 8).reshape(-1, _ROW):
            if self._has_row:
                parts = self._row.view("<u2").reshape(-1, 4)
                self._row = self._folds[0].take(parts[:, 0])
                for number in (1, 2, 3):
                    self._row ^= self._folds[number].take(parts[:, number])
            self._row ^= words
            self._has_row = True

    def hexdigest(self) -> str:
        """Return the CRC of the bytes so far."""
        start, crc = (self._row.tobytes(), 0) if self._has_row else (b"", (1 << 64) - 1)
        for byte in start + self._rest:
            crc = self._table[(crc ^ byte) & 255] ^ crc >> 8
        return f"{crc ^ (1 << 64) - 1:016x}"


_EXTENSION_BYTES = bytes(byte for byte in range(256) if byte >= 0x80 or chr(byte).isalnum())
_LONGEST_EXTENSION = 4
_MOST_EXTENSIONS = 2

_URL_NAME_LIMIT = 64
_URL_NAME_KEPT = 31
_PLAIN_IN_URL_NAME = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_/%:"
)


class KeyParts(NamedTuple):
    """The parts of a key.

    Attributes
    ----------
    backend
        The name of the backend, such as ``SHA256E``.
    size
        Size in bytes; None if the key has none.
    name
        The part after ``--``.
    """

    backend: str
    size: int | None
    name: str


def key_extension(name: bytes | str) -> str:
    """Return the extension that git-annex's ``…E`` backends append to a key.

    At most two extensions of at most four bytes each, counted from the end. An extension with
    ASCII characters other than letters and digits is skipped, and leading dots are ignored.

    Parameters
    ----------
    name
        The name or path of the file, in UTF-8.

    Returns
    -------
    str
        The extension with its leading dots, or an empty text.
    """
    raw = name.encode("utf-8") if isinstance(name, str) else name
    _, dot, endings = raw[raw.rfind(b"/") + 1 :].lstrip(b".").partition(b".")
    return _extension(endings) if dot else ""


@lru_cache(maxsize=4096)
def _extension(endings: bytes) -> str:
    kept: list[bytes] = []
    for part in reversed(endings.split(b".")):
        if len(part) > _LONGEST_EXTENSION:
            break
        if not part.translate(None, _EXTENSION_BYTES):
            kept.append(part)
            if len(kept) == _MOST_EXTENSIONS:
                break
    return "".join([f".{part.decode('utf-8')}" for part in reversed(kept) if part])


def sha256e_key(size: int | None, hexdigest: str, name: bytes | str) -> str:
    """Return the SHA256E key of a file with this name or path.

    Parameters
    ----------
    size
        Size in bytes; None if unknown.
    hexdigest
        The sha256 in hex.
    name
        The name or path of the file, for the extension.

    Returns
    -------
    str
        The key.
    """
    return f"SHA256E{_size_field(size)}--{hexdigest}{key_extension(name)}"


def md5e_key(size: int | None, hexdigest: str, name: bytes | str) -> str:
    """Return the MD5E key of a file with this name or path.

    Parameters
    ----------
    size
        Size in bytes; None if unknown.
    hexdigest
        The MD5 in hex.
    name
        The name or path of the file, for the extension.

    Returns
    -------
    str
        The key.
    """
    return f"MD5E{_size_field(size)}--{hexdigest}{key_extension(name)}"


def xs3etag_key(size: int, etag: str, part_size: int) -> str:
    """Return the key of a multipart ETag.

    Parameters
    ----------
    size
        Size in bytes.
    etag
        ``<md5 in hex>-<number of parts>``.
    part_size
        The part size in bytes.

    Returns
    -------
    str
        The key, see docs/reference/xs3etag.md.

    Raises
    ------
    ValueError
        The text is not a multipart ETag.
    """
    md5, dash, parts = etag.partition("-")
    if not dash or len(md5) != 32 or not parts.isdecimal():
        raise ValueError(f"not a multipart ETag: {etag!r}")
    return f"XS3ETAG-s{size}--{etag}-{part_size}"


def url_key(url: str, size: int | None) -> str:
    """Return the VURL key that ``git annex addurl --fast`` creates for a URL.

    Parameters
    ----------
    url
        The URL.
    size
        Size in bytes; None if unknown.

    Returns
    -------
    str
        The key.
    """
    name = "".join(
        [
            char if char in _PLAIN_IN_URL_NAME else ",," if char == "," else f",{ord(char)}"
            for char in url
        ]
    )
    raw = url.encode("utf-8")
    if len(raw) > _URL_NAME_LIMIT:
        digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        name = f"{name[:_URL_NAME_KEPT]}-{digest}"
    return f"VURL{_size_field(size)}--{name}"


def key_for(record: FileRecord, git_path: bytes) -> str:
    """Return the annex key for a record: by its strongest digest, else by its first URL.

    The URL of an object in an unversioned bucket does not identify its content. The key then
    also contains the listed ETag, even if it is not a digest of the bytes.

    Parameters
    ----------
    record
        The record of the file.
    git_path
        The path of the file in git, for the extension of the key.

    Returns
    -------
    str
        The key.

    Raises
    ------
    ValueError
        If the record has neither a digest nor a location.
    """
    etag = None
    md5 = None
    for digest in record.digests:
        if digest.algorithm == "sha256":
            return sha256e_key(record.size, digest.value, git_path)
        if digest.algorithm == "md5":
            md5 = md5 or digest.value
        elif digest.algorithm == "etag":
            etag = etag or digest.value
    if md5 is not None:
        return md5e_key(record.size, md5, git_path)
    if etag is not None and record.part_size is not None and record.size is not None:
        return xs3etag_key(record.size, etag, record.part_size)
    if record.locations:
        url = record.locations[0].url
        if etag is not None and record.retention is Retention.MUTABLE_BUCKET:
            url = f"{url}#{etag}"
        return url_key(url, record.size)
    raise ValueError(f"no digest or location is known for {git_path!r}")


def parse_key(key: str) -> KeyParts:
    """Parse a key.

    Parameters
    ----------
    key
        The text of the key.

    Returns
    -------
    KeyParts
        Its backend, fields and name.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    head, dashes, name = key.partition("--")
    backend, *fields = head.split("-")
    if not dashes or not backend:
        raise ValueError(f"not a git-annex key: {key!r}")
    size = None
    for field in fields:
        if field[:1] not in ("s", "m", "S", "C") or not field[1:].isdecimal():
            raise ValueError(f"not a git-annex key: {key!r}")
        if field[0] == "s":
            size = int(field[1:])
    return KeyParts(backend, size, name)


def key_digest(key: str) -> tuple[str, str] | None:
    """Return the digest in a key, or None.

    Parameters
    ----------
    key
        The key.

    Returns
    -------
    tuple of (str, str) or None
        ``("sha256", hex)``, ``("md5", hex)`` or ``("etag", "<md5>-<parts>")``.
    """
    backend, _, name = parse_key(key)
    if backend in ("SHA256E", "SHA256"):
        return "sha256", name.partition(".")[0]
    if backend in ("MD5E", "MD5"):
        return "md5", name.partition(".")[0]
    if backend == "XS3ETAG":
        return "etag", name.rpartition("-")[0]
    return None


def record_of_key(key: str, path: bytes, claimed_by: str = "") -> FileRecord:
    """Return the record of a file with what its key states: the size and the digest.

    Parameters
    ----------
    key
        The key.
    path
        The path of the record.
    claimed_by
        The source of the claim of the digest.

    Returns
    -------
    FileRecord
        The record.

    Raises
    ------
    ValueError
        The text is not an annex key, or a key with a malformed digest.
    """
    size, digest = parse_key(key).size, key_digest(key)
    if digest is None:
        return FileRecord(path, size)
    part_size = None
    if digest[0] == "etag":
        part_size_text = key.rpartition("-")[2]
        part_size = int(part_size_text)
        if str(part_size) != part_size_text:
            raise ValueError(f"the key has a malformed part size: {key!r}")
    return FileRecord(path, size, (Digest(*digest, claimed_by),), part_size=part_size)


def _size_field(size: int | None) -> str:
    return "" if size is None else f"-s{size}"


_PIECE: Final = bytes(1 << 20)


def is_all_zeros(key: str) -> bool:
    """Return whether a key's sha256 is that of zero bytes of the key's size.

    The first call for a size hashes that many bytes; the digest is cached.

    Parameters
    ----------
    key
        A key of any backend.

    Returns
    -------
    bool
        Whether the content is known to consist of zero bytes; False for empty contents, and for
        keys without size or sha256.
    """
    size, digest = parse_key(key).size, key_digest(key)
    if not size or digest is None or digest[0] != "sha256":
        return False
    return digest[1] == _sha256_of_zeros(size)


@lru_cache(maxsize=64)
def _sha256_of_zeros(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size // len(_PIECE)):
        digest.update(_PIECE)
    digest.update(_PIECE[: size % len(_PIECE)])
    return digest.hexdigest()
