"""A listing of a bucket: parallel, complete or an error, resumable, and comparable to a memo.

Pages are requested with ``start-after``, not with S3's continuation tokens. Tokens are opaque: an
interrupted listing could not resume from one, and two listings could not be compared page by
page. Starting after the last key of a page is equivalent to following its token, because S3
guarantees that a page without delimiter contains all keys between its start and its last key, in
the order of their UTF-8 bytes. Each page is checked: its keys ascend, are greater than its start
and have the prefix. Versions are listed serially, by the markers that the store returns, because
stores interpret a key marker without a version marker differently.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import zstandard

from neuromirror.model.validation import analysed_type
from neuromirror.net.errors import InvalidListingError
from neuromirror.net.request_limits import ListingBudget, ListingLimits
from neuromirror.net.s3_pages import ObjectRow, Page, parse_page
from neuromirror.net.s3_parallel import (
    KeyRange,
    ListingIdentity,
    ListingSpool,
    PageCoverage,
    ParallelLister,
    clip_page,
    page_digest,
)
from neuromirror.net.traffic import ContextThreadPool

if TYPE_CHECKING:
    from neuromirror.net.s3_bucket import S3Bucket

_MAX_MEMO_BYTES: Final = 2**28
_NO_MEMO: Final = "no memo before the last row of the listing"

T = TypeVar("T")


class _Memo(msgspec.Struct, frozen=True, array_like=True):
    identity: ListingIdentity
    starts: list[tuple[bytes, str]]
    digests: bytes

    def digest(self, at: int) -> bytes:
        """Return the digest of one page."""
        return self.digests[16 * at : 16 * at + 16]


class S3Listing:
    """A listing of all objects (or versions) of a bucket with a prefix.

    Parameters
    ----------
    bucket
        The bucket.
    prefix
        The prefix of the keys.
    workspace
        A directory for received pages. An interrupted listing resumes from it within a day,
        without requesting these pages again. None for a temporary file.
    memo
        The result of :meth:`memo` of an earlier listing.
    versions
        Whether to list object versions instead of objects.
    connections
        Maximum number of concurrent requests.
    budget
        Limits the size of the listing.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        prefix: bytes,
        *,
        workspace: Path | None = None,
        memo: bytes | None = None,
        versions: bool = False,
        connections: int = 8,
        budget: ListingBudget | None = None,
    ) -> None:
        self._bucket = bucket
        self._budget = budget or ListingBudget(ListingLimits(), bucket.uri)
        self.prefix = prefix
        self.versions = versions
        self.connections = max(1, connections)
        self._identity = ListingIdentity(bucket.uri, prefix, versions, bucket.page_size)
        self._previous = None if memo is None else _read_memo(memo, self._identity)
        self._previous_memo = memo
        self._workspace = workspace
        self._spool: ListingSpool | None = None
        self._pages_covered: list[PageCoverage] = []
        self._is_complete = False
        self._is_unchanged = False

    def rows(self) -> Iterator[ObjectRow]:
        """List every object once. The listing is complete only after the last row.

        Yields
        ------
        ObjectRow
            The objects, in key order within a page; pages are in no particular order.

        Raises
        ------
        NetError
            If a request fails.
        InvalidListingError
            If a page is inconsistent.
        """
        spool = self._open_spool()
        self._is_complete = False
        try:
            pieces, gaps = _coverage_and_gaps(spool.coverages(), self.versions)
            self._pages_covered = list(pieces)
            for piece, body in spool.bodies(pieces):
                start = KeyRange(piece.start, piece.until, piece.version)
                yield from self.clip_page(start, self._parse_and_count(body)[0], piece.digest)[1]
            if len(gaps) == 1 and not pieces:
                yield from self._first_rows(gaps)
            if gaps:
                for gap in gaps:
                    gap.level = self.prefix
                # Its threads must have stopped before the spool is closed.
                with closing(ParallelLister(self, gaps).rows()) as pages:
                    for rows in pages:
                        yield from rows
            self._is_complete = True
        except InvalidListingError:
            # The stored pages may be inconsistent, too.
            spool.delete()
            raise
        finally:
            spool.close()
            self._spool = None

    def _first_rows(self, gaps: list[KeyRange]) -> list[ObjectRow]:
        """Fetch the first page without threads, since most listings have a single page."""
        page, body = self.fetch(gaps[0])
        piece, rows = self.clip_page(gaps[0], page, page_digest(body))
        self.store_page(piece, self.compress(body))
        if piece.next_key is None:
            gaps.clear()
        else:
            gaps[0].start, gaps[0].version = piece.next_key, piece.next_version
            gaps[0].pages = 1
        return rows

    def unchanged(self) -> bool:
        """Compare the bucket with the listing of the memo.

        Requests the pages in parallel and stops at the first difference; :meth:`rows` does not
        request them again.

        Returns
        -------
        bool
            Whether every page is byte-identical; False without a memo of the same listing.
        """
        previous = self._previous
        if previous is None:
            return False
        spool = self._open_spool()
        digests_by_start = {
            (piece.start, piece.version): piece.digest for piece in spool.coverages()
        }
        missing = [at for at, start in enumerate(previous.starts) if start not in digests_by_start]
        same = all(
            digests_by_start.get(start, previous.digest(at)) == previous.digest(at)
            for at, start in enumerate(previous.starts)
        )
        remaining = iter(missing)
        lock = threading.Lock()

        def compare() -> None:
            nonlocal same
            while True:
                with lock:
                    at = next(remaining, None) if same else None
                if at is None:
                    return
                equal = False
                try:
                    equal = self._is_same_page(spool, previous, at)
                finally:
                    same = same and equal

        with ContextThreadPool(self.connections, "unchanged") as pool:
            for done in [pool.submit(compare) for _ in range(self.connections)]:
                done.result()
        if same:
            # The next visit must request the pages again.
            spool.delete()
            spool.close()
            self._spool = None
            self._is_unchanged = True
        return same

    def _is_same_page(self, spool: ListingSpool, previous: _Memo, at: int) -> bool:
        """Return whether a page is unchanged; store it for :meth:`rows` in either case."""
        start, version = previous.starts[at]
        until, version_after = (
            previous.starts[at + 1] if at + 1 < len(previous.starts) else (None, "")
        )
        requested = KeyRange(start, None if self.versions else until, version)
        body = self._request_page(requested, bytes)
        digest = page_digest(body)
        if digest == previous.digest(at):
            following = until if self.versions else None
            piece = PageCoverage(
                start, version, requested.until, following, version_after, until, digest
            )
        else:
            try:
                page = self._parse_page(body)[0]
            except InvalidListingError:
                page, body = self.fetch(requested)
                digest = page_digest(body)
            piece = self.clip_page(requested, page, digest)[0]
        spool.append(piece, spool.compress(body))
        return digest == previous.digest(at)

    def memo(self) -> bytes:
        """Return the digests of all pages, for a later :meth:`unchanged`.

        Returns
        -------
        bytes
            The memo, about 40 bytes per page.

        Raises
        ------
        RuntimeError
            If neither :meth:`rows` has finished nor :meth:`unchanged` returned True.
        """
        if self._is_unchanged and self._previous_memo is not None:
            return self._previous_memo
        if not self._is_complete:
            raise RuntimeError(_NO_MEMO)
        pieces = self._pages_covered if self.versions else _minimal_cover(self._pages_covered)
        starts = [(piece.start, piece.version) for piece in pieces]
        memo = _Memo(self._identity, starts, b"".join(piece.digest for piece in pieces))
        done: bytes = zstandard.ZstdCompressor(level=9).compress(msgspec.msgpack.encode(memo))
        return done

    def _open_spool(self) -> ListingSpool:
        if self._spool is None:
            self._spool = ListingSpool(self._workspace, self._identity)
            self._spool.resume()
        return self._spool

    def _request_page(self, start: KeyRange, parse: Callable[[bytes], T]) -> T:
        version = start.version if self.versions else None
        return self._bucket.fetch_page(self.prefix, after=start.start, version=version, parse=parse)

    def fetch(self, start: KeyRange) -> tuple[Page, bytes]:
        """Request the page after the start of a range, and return it with its body."""
        return self._request_page(start, self._parse_and_count)

    def _parse_and_count(self, body: bytes) -> tuple[Page, bytes]:
        page = self._parse_page(body)
        self._budget.count_page(len(page[0].rows), len(body))
        return page

    def _parse_page(self, body: bytes) -> tuple[Page, bytes]:
        page = parse_page(body, self._bucket.uri, versions=self.versions)
        rows = page.rows
        if rows and not (
            rows[0].key.startswith(self.prefix) and rows[-1].key.startswith(self.prefix)
        ):
            raise self._bucket.invalid_listing_error("keys outside of the prefix", rows[0].key)
        return page, body

    def list_folders(self, at: bytes, level: bytes) -> Page:
        """Request a page of the folders directly below a folder, after a key."""
        return self._bucket.page(level, after=at, delimiter=b"/")

    def compress(self, body: bytes) -> bytes:
        """Compress a body for :meth:`store_page`; called concurrently."""
        if self._workspace is None or self._spool is None:
            return b""
        return self._spool.compress(body)

    def store_page(self, piece: PageCoverage, packed: bytes) -> None:
        """Store the coverage of a page and its compressed body; not called concurrently."""
        self._pages_covered.append(piece)
        if self._workspace is not None and self._spool is not None:
            self._spool.append(piece, packed)

    def clip_page(
        self, start: KeyRange, page: Page, digest: bytes
    ) -> tuple[PageCoverage, list[ObjectRow]]:
        """Return the coverage of a page and its rows in the range; raises InvalidListingError."""
        try:
            return clip_page(start, page, digest, versions=self.versions)
        except ValueError as error:
            raise self._bucket.invalid_listing_error(str(error), start.start) from error


def _read_memo(memo: bytes, identity: ListingIdentity) -> _Memo | None:
    """Decode a memo; return None if it belongs to another listing."""
    try:
        packed = zstandard.ZstdDecompressor().decompress(memo, max_output_size=_MAX_MEMO_BYTES)
        found = msgspec.msgpack.decode(packed, type=analysed_type(_Memo))
    except (zstandard.ZstdError, msgspec.MsgspecError):
        return None
    fits = found.identity == identity and len(found.digests) == 16 * len(found.starts)
    return found if fits and found.starts[:1] == [(b"", "")] else None


def _coverage_and_gaps(
    pieces: list[PageCoverage], versions: bool
) -> tuple[list[PageCoverage], list[KeyRange]]:
    """Return the pages that cover the listing without overlap, and the ranges not covered."""
    if versions:
        return _version_coverage_and_gaps(pieces)
    taken: list[PageCoverage] = []
    gaps: list[KeyRange] = []
    at: bytes | None = b""
    for piece in sorted(pieces, key=lambda piece: piece.start):
        # Two pages may start at the same key; the first one counts.
        if at is None or piece.start < at:
            continue
        if piece.start > at:
            gaps.append(KeyRange(at, piece.start))
        taken.append(piece)
        at = piece.end
    if at is not None:
        gaps.append(KeyRange(at, None))
    return taken, gaps


def _version_coverage_and_gaps(
    pieces: list[PageCoverage],
) -> tuple[list[PageCoverage], list[KeyRange]]:
    """Return the contiguous pages from the first one on, and the range after the last one."""
    starting = {(piece.start, piece.version): piece for piece in pieces}
    taken: list[PageCoverage] = []
    at, version = b"", ""
    while (piece := starting.pop((at, version), None)) is not None:
        taken.append(piece)
        if piece.next_key is None:
            return taken, []
        at, version = piece.next_key, piece.next_version
    return taken, [KeyRange(at, None, version)]


def _minimal_cover(pieces: list[PageCoverage]) -> list[PageCoverage]:
    """Return the smallest set of pages that covers the listing.

    Pages without rows of their own, from a range that was split after its last key, are left out.
    """
    chosen: list[PageCoverage] = []
    at = b""
    best: PageCoverage | None = None
    for piece in sorted(pieces, key=lambda piece: piece.start):
        if piece.start > at:
            if best is None or best.last_key is None or best.last_key < piece.start:
                break
            chosen.append(best)
            at, best = best.last_key, None
        if best is None or (
            best.last_key is not None and (piece.last_key is None or piece.last_key > best.last_key)
        ):
            best = piece
    if best is None or best.last_key is not None:
        raise RuntimeError("the pages of a complete listing do not cover it")
    return [*chosen, best]
