"""A listing of a bucket: in parallel, whole or an error, resumable, and comparable to an earlier.

Pages are asked for by ``start-after``, never by S3's continuation tokens: those are opaque, so
neither could a killed listing go on from one, nor two listings be compared page by page. That
"start after this key" and "go on behind the page that ended with this key" are the same follows
from what S3 promises of a listing without a delimiter (keys greater than the start, in the order
of their UTF-8 bytes, all of them up to the last one given), and each page is checked for it: its
keys ascend, are greater than its start and begin with the prefix. Versions are gone through
serially by the markers that the store gives, since a key marker without a version is not treated
alike by all stores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
import zstandard

from neuromirror.net.errors import InvalidListingError
from neuromirror.net.listing_limits import ListingBudget, ListingLimits
from neuromirror.net.s3_pages import ObjectRow, Page, parse_page
from neuromirror.net.s3_parallel import KeyRange, ParallelLister, clip_page
from neuromirror.net.s3_spool import ListingIdentity, ListingSpool, PageCoverage, page_digest
from neuromirror.net.traffic import ContextThreadPool

_MAX_MEMO_BYTES: Final = 2**28
_NO_MEMO: Final = "a listing can only be remembered after its last row"

T = TypeVar("T")


class _Memo(msgspec.Struct, frozen=True, array_like=True):
    identity: ListingIdentity
    starts: list[tuple[bytes, str]]
    digests: bytes

    def digest(self, at: int) -> bytes:
        """That of one page."""
        return self.digests[16 * at : 16 * at + 16]


class ListableBucket(Protocol):
    """What a listing needs of a bucket."""

    uri: str
    page_size: int

    def page(self, prefix: bytes, *, after: bytes = b"", delimiter: bytes = b"") -> Page:
        """One level of folders and objects after a key."""
        ...

    def fetch_page(
        self,
        prefix: bytes,
        *,
        after: bytes = b"",
        version: str | None = None,
        parse: Callable[[bytes], T],
    ) -> T:
        """A page of objects, or with a ``version`` (even "") of versions, as ``parse`` takes it."""
        ...

    def invalid_listing_error(self, what: str, after: bytes) -> InvalidListingError:
        """An error."""
        ...


class S3Listing:
    """All objects (or versions) of a bucket whose keys begin with a prefix.

    With a ``workspace`` each page is kept there as it comes, and a listing that was killed goes
    on without asking for it again (for a day). ``memo`` is what :meth:`memo` gave earlier.
    ``bounds`` refuse a listing without end.
    """

    def __init__(
        self,
        bucket: ListableBucket,
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
        self._prefix = prefix
        self._versions = versions
        self._connections = max(1, connections)
        self._identity = ListingIdentity(bucket.uri, prefix, versions, bucket.page_size)
        self._previous = None if memo is None else _read_memo(memo, self._identity)
        self._previous_memo = memo
        self._workspace = workspace
        self._spool: ListingSpool | None = None
        self._pages_covered: list[PageCoverage] = []
        self._is_complete = False
        self._is_unchanged = False

    def rows(self) -> Iterator[ObjectRow]:
        """Every object once; by ranges as they come, in the order of keys within a page.

        Raises a NetError; :class:`InvalidListingError` where a page cannot be what the store holds.
        Only after the last row is the listing whole.
        """
        spool = self._open_spool()
        self._is_complete = False
        try:
            pieces, gaps = _coverage_and_gaps(spool.coverages(), self._versions)
            self._pages_covered = list(pieces)
            for piece, body in spool.bodies(pieces):
                start = KeyRange(piece.start, piece.until, piece.version)
                yield from self._clip_page(start, self._parse_and_count(body)[0], piece.digest)[1]
            if len(gaps) == 1 and not pieces:
                yield from self._first_rows(gaps)
            if gaps:
                for gap in gaps:
                    gap.level = self._prefix
                lister = ParallelLister(
                    gaps,
                    prefix=self._prefix,
                    connections=1 if self._versions else self._connections,
                    versions=self._versions,
                    fetch=self._fetch,
                    list_folders=self._list_folders,
                    compress=self._compress,
                    store=self._store_page,
                    invalid_listing_error=self._bucket.invalid_listing_error,
                )
                # Its threads must be gone before the spool is closed.
                with closing(lister.rows()) as pages:
                    for rows in pages:
                        yield from rows
            self._is_complete = True
        except InvalidListingError:
            # What else is kept may be as wrong.
            spool.delete()
            raise
        finally:
            spool.close()
            self._spool = None

    def _first_rows(self, gaps: list[KeyRange]) -> list[ObjectRow]:
        """The rows of the first page; most listings have no other, and need no threads."""
        page, body = self._fetch(gaps[0])
        piece, rows = self._clip_page(gaps[0], page, page_digest(body))
        self._store_page(piece, self._compress(body))
        if piece.next_key is None:
            gaps.clear()
        else:
            gaps[0].start, gaps[0].version = piece.next_key, piece.next_version
            gaps[0].pages = 1
        return rows

    def unchanged(self) -> bool:
        """Whether every page is, byte for byte, as it was when the memo was made.

        Asks for those very pages in parallel, and for no more once one differs; what was
        fetched is not asked again by :meth:`rows`. False without a memo of this very listing.
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

        with ContextThreadPool(self._connections, "unchanged") as pool:
            for done in [pool.submit(compare) for _ in range(self._connections)]:
                done.result()
        if same:
            # The next visit must look again, not here.
            spool.delete()
            spool.close()
            self._spool = None
            self._is_unchanged = True
        return same

    def _is_same_page(self, spool: ListingSpool, previous: _Memo, at: int) -> bool:
        """Whether a page is as remembered; it is kept for :meth:`rows` in any case."""
        start, version = previous.starts[at]
        until, version_after = (
            previous.starts[at + 1] if at + 1 < len(previous.starts) else (None, "")
        )
        requested = KeyRange(start, None if self._versions else until, version)
        body = self._request_page(requested, bytes)
        digest = page_digest(body)
        if digest == previous.digest(at):
            following = until if self._versions else None
            piece = PageCoverage(
                start, version, requested.until, following, version_after, until, digest
            )
        else:
            try:
                page = self._parse_page(body)[0]
            except InvalidListingError:
                page, body = self._fetch(requested)
                digest = page_digest(body)
            piece = self._clip_page(requested, page, digest)[0]
        spool.append(piece, spool.compress(body))
        return digest == previous.digest(at)

    def memo(self) -> bytes:
        """What :meth:`unchanged` needs next time: about 40 bytes a page.

        Raises RuntimeError before :meth:`rows` ended or :meth:`unchanged` was true.
        """
        if self._is_unchanged and self._previous_memo is not None:
            return self._previous_memo
        if not self._is_complete:
            raise RuntimeError(_NO_MEMO)
        pieces = self._pages_covered if self._versions else _minimal_cover(self._pages_covered)
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
        version = start.version if self._versions else None
        return self._bucket.fetch_page(
            self._prefix, after=start.start, version=version, parse=parse
        )

    def _fetch(self, start: KeyRange) -> tuple[Page, bytes]:
        return self._request_page(start, self._parse_and_count)

    def _parse_and_count(self, body: bytes) -> tuple[Page, bytes]:
        page = self._parse_page(body)
        self._budget.count_page(len(page[0].rows), len(body))
        return page

    def _parse_page(self, body: bytes) -> tuple[Page, bytes]:
        page = parse_page(body, self._bucket.uri, versions=self._versions)
        rows = page.rows
        if rows and not (
            rows[0].key.startswith(self._prefix) and rows[-1].key.startswith(self._prefix)
        ):
            raise self._bucket.invalid_listing_error("keys outside of the prefix", rows[0].key)
        return page, body

    def _list_folders(self, at: bytes, level: bytes) -> Page:
        return self._bucket.page(level, after=at, delimiter=b"/")

    def _compress(self, body: bytes) -> bytes:
        if self._workspace is None or self._spool is None:
            return b""
        return self._spool.compress(body)

    def _store_page(self, piece: PageCoverage, packed: bytes) -> None:
        self._pages_covered.append(piece)
        if self._workspace is not None and self._spool is not None:
            self._spool.append(piece, packed)

    def _clip_page(
        self, start: KeyRange, page: Page, digest: bytes
    ) -> tuple[PageCoverage, list[ObjectRow]]:
        try:
            return clip_page(start, page, digest, versions=self._versions)
        except ValueError as error:
            raise self._bucket.invalid_listing_error(str(error), start.start) from error


def _read_memo(memo: bytes, identity: ListingIdentity) -> _Memo | None:
    """The memo, if it is one of this very listing."""
    try:
        packed = zstandard.ZstdDecompressor().decompress(memo, max_output_size=_MAX_MEMO_BYTES)
        found = msgspec.msgpack.decode(packed, type=_Memo)
    except (zstandard.ZstdError, msgspec.MsgspecError):
        return None
    fits = found.identity == identity and len(found.digests) == 16 * len(found.starts)
    return found if fits and found.starts[:1] == [(b"", "")] else None


def _coverage_and_gaps(
    pieces: list[PageCoverage], versions: bool
) -> tuple[list[PageCoverage], list[KeyRange]]:
    """The pieces that follow each other, and the ranges that they leave open."""
    if versions:
        return _version_coverage_and_gaps(pieces)
    taken: list[PageCoverage] = []
    gaps: list[KeyRange] = []
    at: bytes | None = b""
    for piece in sorted(pieces, key=lambda piece: piece.start):
        # Two listings may have begun at the same place; what the first has is not taken again.
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
    """The pieces that lead from the first page on, and what is left behind the last of them."""
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
    """The fewest pages that together are the whole listing: each reaches the next one's start.

    Pages that found nothing of their own, because a range was cut behind its last key, are not
    among them.
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
        raise RuntimeError("the pages of a whole listing do not cover it")
    return [*chosen, best]
