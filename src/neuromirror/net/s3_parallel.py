"""List a bucket over several connections, by splitting ranges of keys while workers are idle.

A range contains the keys greater than ``start`` and not greater than ``until``. It is split at
a key in between: it then ends with that key, and a new range starts after it. At any time the
remaining ranges and the listed pages cover every key exactly once, wherever the splits are. Good
split keys are found during the listing: from the sibling folders of the current one, or, without
folders, by interpolation between keys.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
import time
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from math import isqrt
from operator import attrgetter
from pathlib import Path
from string import digits
from typing import IO, TYPE_CHECKING, Final

import msgspec
import zstandard
from msgspec import Struct, field

from neuromirror.model.validation import analysed_type
from neuromirror.net.s3_pages import ObjectRow, Page
from neuromirror.net.traffic import ContextThreadPool

if TYPE_CHECKING:
    from neuromirror.net.s3_listing import S3Listing

FORMAT: Final = 1
MAX_AGE_SECONDS: Final = 24 * 3600.0
"""Age at which stored pages expire, in seconds."""

_HEAD: Final = struct.Struct("<II")
_COVERAGE_LENGTH: Final = struct.Struct("<I")
_MAX_RECORD_BYTES: Final = 64 * 2**20
_MAX_PAGE_BYTES: Final = 2**25


class ListingIdentity(msgspec.Struct, frozen=True, array_like=True):
    """The properties of a listing that must be equal to resume it from the pages in a spool.

    Attributes
    ----------
    uri, prefix, versions, page_size
        The bucket, the prefix, whether object versions are listed, and the rows per page.
    format
        The version of the file's format.
    started
        The start of the listing, in POSIX seconds; it may differ.
    """

    uri: str
    prefix: bytes
    versions: bool
    page_size: int
    format: int = FORMAT
    started: float = 0.0


class PageCoverage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The keys that one page covers.

    Attributes
    ----------
    start, version
        The key (and, in a listing of versions, the version id) after which the page starts.
    until
        The last key of the range; None for an open range.
    next_key, next_version
        Where the next page of the range starts; ``next_key`` is None after the last page.
    last_key
        The last key of the page; None for the last page of the listing.
    digest
        The digest of the page; see :func:`page_digest`.
    """

    start: bytes
    version: str
    until: bytes | None
    next_key: bytes | None
    next_version: str
    last_key: bytes | None
    digest: bytes

    @property
    def end(self) -> bytes | None:
        """The last key that the page covers; None for the end of the listing."""
        return self.until if self.next_key is None else self.next_key


def page_digest(body: bytes) -> bytes:
    """Return a 16-byte digest of a page's body without its tokens, which change per request."""
    hashed = hashlib.sha256()
    rest = body
    for name in (b"NextContinuationToken", b"ContinuationToken"):
        before, opened, after = rest.partition(b"<%s>" % name)
        if opened:
            rest = before + after.partition(b"</%s>" % name)[2]
    hashed.update(rest)
    return hashed.digest()[:16]


class ListingSpool:
    """The received pages of a listing, with the keys that each covers, in a file.

    Parameters
    ----------
    workspace
        The directory of the file; None for a temporary file.
    identity
        Identifies the listing; pages of another one are discarded.
    """

    def __init__(self, workspace: Path | None, identity: ListingIdentity) -> None:
        # Several listings may share a workspace.
        name = hashlib.sha256(msgspec.msgpack.encode(identity)).hexdigest()[:16]
        self._path = None if workspace is None else workspace / f"{name}.listing"
        self._identity = identity
        self._file: IO[bytes] | None = None
        self._positions: list[tuple[PageCoverage, int, int]] = []
        self._lock = threading.Lock()
        self._compressor = threading.local()

    def coverages(self) -> list[PageCoverage]:
        """Return the coverage of each stored page."""
        return [piece for piece, *_ in self._positions]

    def resume(self) -> None:
        """Load the pages of an earlier process if they are of this listing, recent and intact."""
        if self._path is None or not self._path.is_file():
            return
        file = self._path.open("r+b")
        positions, end = self._read(file)
        if positions is None:
            file.close()
            self._path.unlink()
            return
        file.truncate(end)
        file.seek(end)
        self._file, self._positions = file, positions

    def _read(self, file: IO[bytes]) -> tuple[list[tuple[PageCoverage, int, int]] | None, int]:
        """Return the coverages with offset and length of each body, and the end of the last record.

        The coverages are None if the file is unusable.
        """
        positions: list[tuple[PageCoverage, int, int]] = []
        identity = piece = None
        end = 0
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, crc = _HEAD.unpack(head)
            if length > _MAX_RECORD_BYTES:
                return None, 0
            payload = file.read(length)
            if len(payload) < length:
                break
            if zlib.crc32(payload) != crc:
                return None, 0
            try:
                if identity is None:
                    identity = msgspec.msgpack.decode(payload, type=analysed_type(ListingIdentity))
                    if not self._fits(identity):
                        return None, 0
                else:
                    (coverage_length,) = _COVERAGE_LENGTH.unpack_from(payload)
                    body = _COVERAGE_LENGTH.size + coverage_length
                    piece = msgspec.msgpack.decode(
                        payload[_COVERAGE_LENGTH.size : body], type=analysed_type(PageCoverage)
                    )
                    positions.append((piece, end + _HEAD.size + body, length - body))
            except (msgspec.MsgspecError, struct.error):
                return None, 0
            end += _HEAD.size + length
        return (None, 0) if identity is None else (positions, end)

    def _fits(self, identity: ListingIdentity) -> bool:
        age = time.time() - identity.started
        return (
            0 <= age < MAX_AGE_SECONDS
            and msgspec.structs.replace(identity, started=0.0) == self._identity
        )

    def compress(self, body: bytes) -> bytes:
        """Compress a body for :meth:`append`. Thread-safe."""
        compressor = getattr(self._compressor, "zstd", None)
        if compressor is None:
            compressor = self._compressor.zstd = zstandard.ZstdCompressor(level=1)
        compressed: bytes = compressor.compress(body)
        return compressed

    def append(self, piece: PageCoverage, compressed: bytes) -> None:
        """Store a page so that it survives the end of the process.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        encoded = msgspec.msgpack.encode(piece)
        payload = _COVERAGE_LENGTH.pack(len(encoded)) + encoded + compressed
        with self._lock:
            if self._file is None:
                self._file = self._create()
            at = self._file.seek(0, os.SEEK_END)
            self._write(payload)
            position = at + _HEAD.size + len(payload) - len(compressed)
            self._positions.append((piece, position, len(compressed)))

    def _create(self) -> IO[bytes]:
        # Closed by close(), since it is used until the listing is finished.
        file = tempfile.TemporaryFile() if self._path is None else self._path.open("w+b")  # noqa: SIM115
        self._file = file
        self._write(
            msgspec.msgpack.encode(msgspec.structs.replace(self._identity, started=time.time()))
        )
        return file

    def _write(self, payload: bytes) -> None:
        if self._file is not None:
            self._file.write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            self._file.flush()

    def bodies(self, coverages: list[PageCoverage]) -> Iterator[tuple[PageCoverage, bytes]]:
        """Yield the stored pages among ``coverages``, with their bodies."""
        requested = set(map(id, coverages))
        for piece, position, length in list(self._positions):
            if id(piece) in requested and self._file is not None:
                with self._lock:
                    self._file.seek(position)
                    compressed = self._file.read(length)
                yield (
                    piece,
                    zstandard.ZstdDecompressor().decompress(
                        compressed, max_output_size=_MAX_PAGE_BYTES
                    ),
                )

    def delete(self) -> None:
        """Delete the file. An open one stays readable until :meth:`close`."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


_DIGITS: Final = 16
_NOT_ASCII: Final = 0x80
_LOWEST: Final = 0x21
_HIGHEST: Final = 0x7E


def common_prefix_length(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix of two names."""
    most = min(len(one), len(other))
    for at in range(most):
        if one[at] != other[at]:
            return at
    return most


def folder_below(key: bytes, above: bytes) -> bytes | None:
    """Return the subfolder of ``above`` that contains ``key``, with its slash.

    The result is None if the key is directly in ``above``, or not below it.
    """
    slash = key.find(b"/", len(above))
    return None if slash < 0 or not key.startswith(above) else key[: slash + 1]


class KeyInterpolator(Struct, frozen=True):
    """Estimates keys ahead in a range, by reading what follows their common prefix as numbers.

    Attributes
    ----------
    prefix
        The common prefix.
    alphabet
        The characters that are the digits of the numbers, in byte order.
    low, high
        The numbers of the current position and of the estimated end.
    page_distance
        The difference between ``low`` and the number of the first key of the last page.
    """

    prefix: bytes
    alphabet: bytes
    low: int
    high: int
    page_distance: int

    def estimate_pages(self) -> float:
        """Estimate the number of remaining pages, at the density of the last page."""
        return (self.high - self.low) / self.page_distance

    def key_ahead(self, *, misses: int) -> bytes:
        """Return a key at which to split the remaining range.

        Without ``misses`` (earlier splits with nothing after them) it is the middle, which suits
        hashes. After a miss it is the geometric mean of one page and the whole range, which suits
        numbers with constant leading digits.
        """
        far = self.high - self.low
        far = isqrt(self.page_distance * max(1, far)) if misses else far // 2
        number = min(self.low + far, len(self.alphabet) ** _DIGITS - 1)
        name = bytearray()
        for _ in range(_DIGITS):
            number, digit = divmod(number, len(self.alphabet))
            name.append(self.alphabet[digit])
        return self.prefix + bytes(reversed(name)).rstrip(self.alphabet[:1])


def fit_interpolator(
    at: bytes, until: bytes | None, *, above: bytes, seen: Sequence[bytes]
) -> KeyInterpolator | None:
    """Fit an interpolator to the keys of a page, to estimate where to split a range of keys.

    A split key is the common prefix of the keys of the range, which must be valid UTF-8, followed
    by printable ASCII characters that occur in the page: every store accepts such a start key.

    Parameters
    ----------
    at, until
        The range of keys that is still to be listed, without ``at``; ``until`` is None for an open
        range.
    above
        The folder that contains the range, with its slash.
    seen
        Keys of the last page.

    Returns
    -------
    KeyInterpolator or None
        The interpolator. None if the common prefix is not UTF-8, if ``at`` is outside of the
        folder, or if fewer than two different printable ASCII characters follow the prefix.
    """
    base = above
    if until is not None and until.startswith(above):
        base = at[: max(len(above), common_prefix_length(at, until))]
    while len(base) < len(at) and at[len(base)] >= _NOT_ASCII:
        base = at[: len(base) + 1]
    if base != at[: len(base)] or not _is_utf8(base):
        return None
    known = until is not None and until.startswith(base)
    tails = [key[len(base) :] for key in seen if key.startswith(base)]
    found = {byte for byte in b"".join(tails) if _LOWEST <= byte <= _HIGHEST}
    if not found.isdisjoint(digits.encode()):
        # If some digits occur, further pages may contain the others.
        found.update(digits.encode())
    letters = bytes(sorted(found))
    if len(letters) < 2:
        return None
    low = _number_of(at[len(base) :], letters)
    high = len(letters) ** _DIGITS
    if known and until is not None:
        high = _number_of(until[len(base) :], letters)
    return KeyInterpolator(base, letters, low, high, max(1, low - _number_of(tails[0], letters)))


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _number_of(name: bytes, letters: bytes) -> int:
    value = 0
    for at in range(_DIGITS):
        digit = bisect_right(letters, name[at]) - 1 if at < len(name) else 0
        value = value * len(letters) + max(0, digit)
    return value


_KEY: Final = attrgetter("key")
_BEFORE_SPLIT: Final = 3
"""Pages that a range must have before it is considered long."""
_MISSES: Final = 10
"""Splits with nothing after them before a range is not split for a while."""
_PAUSE_PAGES: Final = 16
"""Pages for which such a range is not split."""
_PAGES_PER_SPLIT: Final = 32
"""Minimum number of pages per split or list of folders, each of which costs up to one page."""


class KeyRange(Struct, eq=False):
    """A range of keys that is not listed yet, with what is known for splitting it.

    Attributes
    ----------
    start, version
        The key (and version id) after which the range starts.
    until
        The last key of the range; None for an open range.
    level
        The folder in which keys for a split are looked for.
    split_keys
        Keys at which the range can be split.
    pages
        The number of pages that were read of it.
    misses
        The number of splits at keys with nothing behind them.
    probing
        Whether a worker is looking for keys for a split.
    flat
        Whether the range has no folders to split at.
    seen_keys
        Keys of the last page.
    parent
        The range from which it was split.
    """

    start: bytes
    until: bytes | None
    version: str = ""
    level: bytes = b""
    split_keys: list[bytes] = field(default_factory=list)
    pages: int = 0
    misses: int = 0
    probing: bool = False
    flat: bool = False
    seen_keys: list[bytes] = field(default_factory=list)
    parent: KeyRange | None = None


def clip_page(
    key_range: KeyRange, page: Page, digest: bytes, *, versions: bool
) -> tuple[PageCoverage, list[ObjectRow]]:
    """Remove the rows of a page beyond the end of its range, and determine where to continue.

    Parameters
    ----------
    key_range
        The range for which the page was requested.
    page
        The page.
    digest
        The digest of the page's body.
    versions
        Whether the page is one of a listing of versions.

    Returns
    -------
    coverage : PageCoverage
        The keys that the page covers, and the key after which the next page starts.
    rows : list of ObjectRow
        The rows in the range.

    Raises
    ------
    ValueError
        If the page cannot follow the start of the range.
    """
    rows, start, until = page.rows, key_range.start, key_range.until
    if rows:
        first = rows[0].key
        if first < start or (first == start and start and not key_range.version):
            raise ValueError("keys outside of the requested range")
    elif page.truncated:
        raise ValueError("an empty truncated page")
    last = rows[-1].key if rows else start
    following, version = (last, "") if page.truncated else (None, "")
    if versions and page.truncated:
        if page.next_key is None or page.next_version is None or page.next_key < last:
            raise ValueError("a truncated page without a valid next marker")
        following, version = page.next_key, page.next_version
        if (following, version) == (start, key_range.version):
            raise ValueError("a page whose next marker is its own start")
    if until is not None and last >= until:
        rows, following, version = rows[: bisect_right(rows, until, key=_KEY)], None, ""
    reach = last if page.truncated else None
    return PageCoverage(start, key_range.version, until, following, version, reach, digest), rows


class ParallelLister:
    """Lists ranges of a bucket's keys in parallel; splits ranges while workers are idle.

    Parameters
    ----------
    listing
        The listing, which requests and stores the pages. Ranges of one of object versions are not
        split.
    ranges
        The ranges.
    """

    def __init__(self, listing: S3Listing, ranges: list[KeyRange]) -> None:
        self._listing = listing
        self._waiting = deque(ranges)
        self._busy: list[KeyRange] = []
        self._connections = 1 if listing.versions else listing.connections
        self._condition = threading.Condition()
        self._ready: deque[list[ObjectRow]] = deque()
        self._is_stopped = False
        self._pages = 0
        self._cuts = 0
        self._folder_lists = 0
        self._misses = 0

    def rows(self) -> Generator[list[ObjectRow], None, None]:
        """Yield the rows of each page as it arrives; raises the first error of any worker."""
        with ContextThreadPool(self._connections, "listing") as pool:
            futures = [pool.submit(self._work) for _ in range(self._connections)]
            for future in futures:
                future.add_done_callback(self._wake)
            try:
                while (rows := self._next_rows(futures)) is not None:
                    yield rows
            finally:
                with self._condition:
                    self._is_stopped = True
                    self._condition.notify_all()

    def _wake(self, _: Future[None]) -> None:
        with self._condition:
            self._condition.notify_all()

    def _next_rows(self, futures: list[Future[None]]) -> list[ObjectRow] | None:
        with self._condition:
            while True:
                for future in futures:
                    if future.done():
                        future.result()
                if self._ready:
                    self._condition.notify_all()
                    return self._ready.popleft()
                if all(one.done() for one in futures):
                    return None
                self._condition.wait()

    def _work(self) -> None:
        while (key_range := self._next_range()) is not None:
            while True:
                page, body = self._listing.fetch(key_range)
                digest, packed = page_digest(body), self._listing.compress(body)
                if self._record_page(key_range, page, digest, packed):
                    break

    def _record_page(self, key_range: KeyRange, page: Page, digest: bytes, packed: bytes) -> bool:
        """Store a page and advance the range; return whether the range is finished."""
        with self._condition:
            while len(self._ready) > 2 * self._connections and not self._is_stopped:
                self._condition.wait()
            if self._is_stopped:
                return True
            # Clip under the lock: the range may have been split during the request.
            coverage, rows = self._listing.clip_page(key_range, page, digest)
            self._listing.store_page(coverage, packed)
            self._pages += 1
            key_range.pages += 1
            if rows:
                self._ready.append(rows)
                key_range.seen_keys = [*(row.key for row in rows[::50]), rows[-1].key]
            if key_range.parent is not None:
                missed = 0 if rows else key_range.parent.misses + 1
                key_range.parent.misses = missed
                if missed:
                    key_range.parent.pages = _BEFORE_SPLIT
                self._misses += missed > 0
                self._cuts -= missed > 0
                key_range.parent = None
            if coverage.next_key is None:
                self._busy.remove(key_range)
            else:
                key_range.start, key_range.version = coverage.next_key, coverage.next_version
            self._condition.notify_all()
            return coverage.next_key is None

    def _next_range(self) -> KeyRange | None:
        """Return a range to list, split from another one if needed; None if nothing is left."""
        while True:
            with self._condition:
                if self._is_stopped or not (self._waiting or self._busy):
                    return None
                if self._waiting:
                    self._busy.append(self._waiting.popleft())
                    return self._busy[-1]
                one = None if self._listing.versions else self._longest()
                if one is None:
                    self._condition.wait()
                    continue
                cut = self._split(one)
                if cut is not None:
                    return cut
                if one.pages < 0:
                    continue
                one.probing = True
                at, until, level = one.start, one.until, one.level
                self._folder_lists += 1
            self._find_folders(one, at, until, level)

    def _longest(self) -> KeyRange | None:
        """Return the range with the most remaining pages, if splitting it is worthwhile."""
        idle_reader = len(self._ready) <= self._connections
        spent = max(self._cuts, self._folder_lists, self._misses)
        worth = spent < self._connections + self._pages // _PAGES_PER_SPLIT
        if not (idle_reader and worth):
            return None
        fit = [
            one
            for one in self._busy
            if not one.probing and (one.split_keys or one.pages >= _BEFORE_SPLIT)
        ]
        return max(
            fit, key=lambda one: (len(one.split_keys), self._estimate_pages(one)), default=None
        )

    def _estimate_pages(self, one: KeyRange) -> float:
        """Estimate the remaining pages of a range, for comparison only."""
        if not one.flat and folder_below(one.start, one.level) is not None:
            return one.pages
        names = fit_interpolator(one.start, one.until, above=one.level, seen=one.seen_keys)
        return 0.0 if names is None else names.estimate_pages()

    def _split(self, one: KeyRange) -> KeyRange | None:
        """Split a range at the middle of its candidate keys and return the upper part.

        None if there are no candidates: then its folders must be listed, or the range is not
        split for a while (``pages`` is negative).
        """
        while not one.start.startswith(one.level) and len(one.level) > len(self._listing.prefix):
            above = one.level[:-1].rpartition(b"/")
            one.level, one.flat = max(above[0] + above[1], self._listing.prefix, key=len), False
        one.split_keys = [
            cut
            for cut in one.split_keys
            if one.start < cut and (one.until is None or cut < one.until)
        ]
        deeper = folder_below(one.start, one.level)
        if (
            one.flat
            and deeper is not None
            and one.seen_keys[:1]
            and one.seen_keys[0].startswith(deeper)
        ):
            # One of many folders, and itself longer than a page.
            one.level, one.flat = deeper, False
            deeper = folder_below(one.start, one.level)
        if one.split_keys:
            middle = len(one.split_keys) // 2
            cut = one.split_keys[middle]
            upper = KeyRange(
                cut, one.until, level=one.level, split_keys=one.split_keys[middle + 1 :]
            )
            one.split_keys = one.split_keys[:middle]
        elif (one.flat or deeper is None) and one.seen_keys:
            names = fit_interpolator(one.start, one.until, above=one.level, seen=one.seen_keys)
            cut = b"" if names is None else names.key_ahead(misses=one.misses)
            fits = one.start < cut and (one.until is None or cut < one.until)
            if names is None or not fits or names.estimate_pages() < 2 or one.misses + 1 >= _MISSES:
                one.pages, one.misses = -_PAUSE_PAGES, 0
                return None
            upper = KeyRange(
                cut, one.until, level=one.level, flat=one.flat, seen_keys=one.seen_keys, parent=one
            )
        else:
            return None
        one.until, one.pages = cut, 0
        self._cuts += 1
        self._busy.append(upper)
        return upper

    def _find_folders(self, one: KeyRange, at: bytes, until: bytes | None, level: bytes) -> None:
        """Find folders at which to split a range; if none is found, go one level deeper."""
        try:
            page = self._listing.list_folders(at, level)
        finally:
            with self._condition:
                one.probing = False
        with self._condition:
            cuts = [cut for cut in page.prefixes if at < cut and (until is None or cut < until)]
            last = max([*page.prefixes[-1:], *map(_KEY, page.rows[-1:])], default=b"")
            if page.truncated and (until is None or last < until):
                # More than a page of folders is split by interpolation.
                one.flat = True
            elif cuts:
                one.split_keys = cuts
            else:
                one.level = folder_below(at, level) or level
            self._condition.notify_all()
