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

from neuromirror.net.bounds import ListingBounds, ListingLimits
from neuromirror.net.errors import ListingBroken
from neuromirror.net.s3_crew import Crew, Range, take_page
from neuromirror.net.s3_pages import ObjectRow, Page, parse_page
from neuromirror.net.s3_spool import Listed, Piece, Spool, page_digest
from neuromirror.net.traffic import CountedPool

_MEMO_MOST: Final = 2**28
_NO_MEMO: Final = "a listing can only be remembered after its last row"

T = TypeVar("T")


class _Memo(msgspec.Struct, frozen=True, array_like=True):
    listed: Listed
    starts: list[tuple[bytes, str]]
    digests: bytes

    def digest(self, at: int) -> bytes:
        """That of one page."""
        return self.digests[16 * at : 16 * at + 16]


class Bucket(Protocol):
    """What a listing needs of a bucket."""

    uri: str
    page_size: int

    def page(self, prefix: bytes, *, after: bytes = b"", delimiter: bytes = b"") -> Page:
        """One level of folders and objects after a key."""
        ...

    def page_body(
        self,
        prefix: bytes,
        *,
        after: bytes = b"",
        version: str | None = None,
        parse: Callable[[bytes], T],
    ) -> T:
        """A page of objects, or with a ``version`` (even "") of versions, as ``parse`` takes it."""
        ...

    def broken(self, what: str, after: bytes) -> ListingBroken:
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
        bucket: Bucket,
        prefix: bytes,
        *,
        workspace: Path | None = None,
        memo: bytes | None = None,
        versions: bool = False,
        connections: int = 8,
        bounds: ListingBounds | None = None,
    ) -> None:
        self._bucket = bucket
        self._bounds = bounds or ListingBounds(ListingLimits(), bucket.uri)
        self._prefix = prefix
        self._versions = versions
        self._connections = max(1, connections)
        self._listed = Listed(bucket.uri, prefix, versions, bucket.page_size)
        self._known = None if memo is None else _read_memo(memo, self._listed)
        self._remembered = memo
        self._workspace = workspace
        self._spool: Spool | None = None
        self._pieces: list[Piece] = []
        self._whole = False
        self._same = False

    def rows(self) -> Iterator[ObjectRow]:
        """Every object once; by ranges as they come, in the order of keys within a page.

        Raises a NetError; :class:`ListingBroken` where a page cannot be what the store holds.
        Only after the last row is the listing whole.
        """
        spool = self._opened()
        self._whole = False
        try:
            pieces, gaps = _account(spool.pieces(), self._versions)
            self._pieces = list(pieces)
            for piece, body in spool.bodies(pieces):
                start = Range(piece.start, piece.until, piece.version)
                yield from self._taken(start, self._counted(body)[0], piece.digest)[1]
            if len(gaps) == 1 and not pieces:
                yield from self._first(gaps)
            if gaps:
                for gap in gaps:
                    gap.level = self._prefix
                crew = Crew(
                    gaps,
                    prefix=self._prefix,
                    connections=1 if self._versions else self._connections,
                    versions=self._versions,
                    fetch=self._fetch,
                    look=self._look,
                    pack=self._pack,
                    keep=self._keep,
                    broken=self._bucket.broken,
                )
                # Its threads must be gone before the spool is closed.
                with closing(crew.rows()) as pages:
                    for rows in pages:
                        yield from rows
            self._whole = True
        except ListingBroken:
            # What else is kept may be as wrong.
            spool.forget()
            raise
        finally:
            spool.close()
            self._spool = None

    def _first(self, gaps: list[Range]) -> list[ObjectRow]:
        """The rows of the first page; most listings have no other, and need no threads."""
        page, body = self._fetch(gaps[0])
        piece, rows = self._taken(gaps[0], page, page_digest(body))
        self._keep(piece, self._pack(body))
        if piece.following is None:
            gaps.clear()
        else:
            gaps[0].at, gaps[0].version = piece.following, piece.following_version
            gaps[0].pages = 1
        return rows

    def unchanged(self) -> bool:
        """Whether every page is, byte for byte, as it was when the memo was made.

        Asks for those very pages in parallel, and for no more once one differs; what was
        fetched is not asked again by :meth:`rows`. False without a memo of this very listing.
        """
        known = self._known
        if known is None:
            return False
        spool = self._opened()
        have = {(piece.start, piece.version): piece.digest for piece in spool.pieces()}
        missing = [at for at, start in enumerate(known.starts) if start not in have]
        same = all(
            have.get(start, known.digest(at)) == known.digest(at)
            for at, start in enumerate(known.starts)
        )
        left = iter(missing)
        turn = threading.Lock()

        def compare() -> None:
            nonlocal same
            while True:
                with turn:
                    at = next(left, None) if same else None
                if at is None:
                    return
                equal = False
                try:
                    equal = self._compared(spool, known, at)
                finally:
                    same = same and equal

        with CountedPool(self._connections, "unchanged") as pool:
            for done in [pool.submit(compare) for _ in range(self._connections)]:
                done.result()
        if same:
            # The next visit must look again, not here.
            spool.forget()
            spool.close()
            self._spool = None
            self._same = True
        return same

    def _compared(self, spool: Spool, known: _Memo, at: int) -> bool:
        """Whether a page is as remembered; it is kept for :meth:`rows` in any case."""
        start, version = known.starts[at]
        until, version_after = known.starts[at + 1] if at + 1 < len(known.starts) else (None, "")
        asked = Range(start, None if self._versions else until, version)
        body = self._page(asked, bytes)
        digest = page_digest(body)
        if digest == known.digest(at):
            following = until if self._versions else None
            piece = Piece(start, version, asked.until, following, version_after, until, digest)
        else:
            try:
                page = self._parsed(body)[0]
            except ListingBroken:
                page, body = self._fetch(asked)
                digest = page_digest(body)
            piece = self._taken(asked, page, digest)[0]
        spool.append(piece, spool.packed(body))
        return digest == known.digest(at)

    def memo(self) -> bytes:
        """What :meth:`unchanged` needs next time: about 40 bytes a page.

        Raises RuntimeError before :meth:`rows` ended or :meth:`unchanged` was true.
        """
        if self._same and self._remembered is not None:
            return self._remembered
        if not self._whole:
            raise RuntimeError(_NO_MEMO)
        pieces = self._pieces if self._versions else _covering(self._pieces)
        starts = [(piece.start, piece.version) for piece in pieces]
        memo = _Memo(self._listed, starts, b"".join(piece.digest for piece in pieces))
        done: bytes = zstandard.ZstdCompressor(level=9).compress(msgspec.msgpack.encode(memo))
        return done

    def _opened(self) -> Spool:
        if self._spool is None:
            self._spool = Spool(self._workspace, self._listed)
            self._spool.resume()
        return self._spool

    def _page(self, start: Range, parse: Callable[[bytes], T]) -> T:
        version = start.version if self._versions else None
        return self._bucket.page_body(self._prefix, after=start.at, version=version, parse=parse)

    def _fetch(self, start: Range) -> tuple[Page, bytes]:
        return self._page(start, self._counted)

    def _counted(self, body: bytes) -> tuple[Page, bytes]:
        page = self._parsed(body)
        self._bounds.take(len(page[0].rows), len(body))
        return page

    def _parsed(self, body: bytes) -> tuple[Page, bytes]:
        page = parse_page(body, self._bucket.uri, versions=self._versions)
        rows = page.rows
        if rows and not (
            rows[0].key.startswith(self._prefix) and rows[-1].key.startswith(self._prefix)
        ):
            raise self._bucket.broken("keys outside of the prefix", rows[0].key)
        return page, body

    def _look(self, at: bytes, level: bytes) -> Page:
        return self._bucket.page(level, after=at, delimiter=b"/")

    def _pack(self, body: bytes) -> bytes:
        if self._workspace is None or self._spool is None:
            return b""
        return self._spool.packed(body)

    def _keep(self, piece: Piece, packed: bytes) -> None:
        self._pieces.append(piece)
        if self._workspace is not None and self._spool is not None:
            self._spool.append(piece, packed)

    def _taken(self, start: Range, page: Page, digest: bytes) -> tuple[Piece, list[ObjectRow]]:
        try:
            return take_page(start, page, digest, versions=self._versions)
        except ValueError as error:
            raise self._bucket.broken(str(error), start.at) from error


def _read_memo(memo: bytes, listed: Listed) -> _Memo | None:
    """The memo, if it is one of this very listing."""
    try:
        packed = zstandard.ZstdDecompressor().decompress(memo, max_output_size=_MEMO_MOST)
        found = msgspec.msgpack.decode(packed, type=_Memo)
    except (zstandard.ZstdError, msgspec.MsgspecError):
        return None
    fits = found.listed == listed and len(found.digests) == 16 * len(found.starts)
    return found if fits and found.starts[:1] == [(b"", "")] else None


def _account(pieces: list[Piece], versions: bool) -> tuple[list[Piece], list[Range]]:
    """The pieces that follow each other, and the ranges that they leave open."""
    if versions:
        return _chain(pieces)
    taken: list[Piece] = []
    gaps: list[Range] = []
    at: bytes | None = b""
    for piece in sorted(pieces, key=lambda piece: piece.start):
        # Two listings may have begun at the same place; what the first has is not taken again.
        if at is None or piece.start < at:
            continue
        if piece.start > at:
            gaps.append(Range(at, piece.start))
        taken.append(piece)
        at = piece.end
    if at is not None:
        gaps.append(Range(at, None))
    return taken, gaps


def _chain(pieces: list[Piece]) -> tuple[list[Piece], list[Range]]:
    """The pieces that lead from the first page on, and what is left behind the last of them."""
    starting = {(piece.start, piece.version): piece for piece in pieces}
    taken: list[Piece] = []
    at, version = b"", ""
    while (piece := starting.pop((at, version), None)) is not None:
        taken.append(piece)
        if piece.following is None:
            return taken, []
        at, version = piece.following, piece.following_version
    return taken, [Range(at, None, version)]


def _covering(pieces: list[Piece]) -> list[Piece]:
    """The fewest pages that together are the whole listing: each reaches the next one's start.

    Pages that found nothing of their own, because a range was cut behind its last key, are not
    among them.
    """
    chosen: list[Piece] = []
    at = b""
    best: Piece | None = None
    for piece in sorted(pieces, key=lambda piece: piece.start):
        if piece.start > at:
            if best is None or best.reach is None or best.reach < piece.start:
                break
            chosen.append(best)
            at, best = best.reach, None
        if best is None or (
            best.reach is not None and (piece.reach is None or piece.reach > best.reach)
        ):
            best = piece
    if best is None or best.reach is not None:
        raise RuntimeError("the pages of a whole listing do not cover it")
    return [*chosen, best]
