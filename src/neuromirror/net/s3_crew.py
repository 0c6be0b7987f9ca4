"""Several connections at one listing: ranges of keys, cut in two where a connection is idle.

A range is the keys greater than ``at`` and not greater than ``until``. It is cut at a key that
lies between: it then ends with that key, and a new range begins after it. So at any moment the
ranges and what was listed are everything, and nothing twice, wherever the cuts lie. Where they
lie well is found on the way: from the folders beside the one that is being listed, and where
there are none by halving the names.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from neuromirror.net.s3_pages import ObjectRow, Page
from neuromirror.net.s3_split import folder, scale
from neuromirror.net.s3_spool import Piece, page_digest
from neuromirror.net.traffic import CountedPool

_KEY: Final = attrgetter("key")
_BEFORE_SPLIT: Final = 3
"""Pages that a range must have had before it is thought to be long."""
_MISSES: Final = 10
"""Guesses that found nothing before a range is left alone for a while."""
_REST: Final = 16
"""That while, in pages."""
_PAGES_A_SPLIT: Final = 32
"""A cut or a look at folders costs up to one page; so many pages pay for one."""


@dataclass(eq=False, slots=True)
class Range:
    """Keys that are still to be listed, and what is known about where to cut them."""

    at: bytes
    until: bytes | None
    version: str = ""
    level: bytes = b""
    cuts: list[bytes] = field(default_factory=list)
    pages: int = 0
    misses: int = 0
    probing: bool = False
    flat: bool = False
    seen: list[bytes] = field(default_factory=list)
    parent: Range | None = None


def take_page(
    piece: Range, page: Page, digest: bytes, *, versions: bool
) -> tuple[Piece, list[ObjectRow]]:
    """What of a page belongs to a range, and where to go on.

    Raises ValueError for a page that cannot follow the range's start.
    """
    rows, start, until = page.rows, piece.at, piece.until
    if rows:
        first = rows[0].key
        if first < start or (first == start and start and not piece.version):
            raise ValueError("keys that it was not asked for")
    elif page.truncated:
        raise ValueError("a page that is cut short and empty")
    last = rows[-1].key if rows else start
    following, version = (last, "") if page.truncated else (None, "")
    if versions and page.truncated:
        if page.next_key is None or page.next_version is None or page.next_key < last:
            raise ValueError("a page that is cut short without a way on")
        following, version = page.next_key, page.next_version
        if (following, version) == (start, piece.version):
            raise ValueError("a page that leads back to itself")
    if until is not None and last >= until:
        rows, following, version = rows[: bisect_right(rows, until, key=_KEY)], None, ""
    reach = last if page.truncated else None
    return Piece(start, piece.version, until, following, version, reach, digest), rows


class Crew:
    """Lists ranges with ``connections`` threads; made for one listing and used once.

    ``fetch`` gives the page after a range's start with its body, ``look`` one level of folders
    below the second name, after the first; ``keep`` is given each piece, one at a time, with what
    ``pack`` made of the body. ``broken`` makes the error for a page that cannot be.
    """

    def __init__(
        self,
        ranges: list[Range],
        *,
        prefix: bytes,
        connections: int,
        versions: bool,
        fetch: Callable[[Range], tuple[Page, bytes]],
        look: Callable[[bytes, bytes], Page],
        pack: Callable[[bytes], bytes],
        keep: Callable[[Piece, bytes], None],
        broken: Callable[[str, bytes], Exception],
    ) -> None:
        self._waiting = deque(ranges)
        self._prefix = prefix
        self._busy: list[Range] = []
        self._connections = connections
        self._versions = versions
        self._fetch = fetch
        self._look = look
        self._pack = pack
        self._keep = keep
        self._broken = broken
        self._turn = threading.Condition()
        self._ready: deque[list[ObjectRow]] = deque()
        self._over = False
        self._pages = 0
        self._cuts = 0
        self._looks = 0
        self._misses = 0

    def rows(self) -> Generator[list[ObjectRow], None, None]:
        """Rows page by page as they come; the error of whichever thread fails first."""
        with CountedPool(self._connections, "listing") as pool:
            crew = [pool.submit(self._work) for _ in range(self._connections)]
            for one in crew:
                one.add_done_callback(self._wake)
            try:
                while (rows := self._next(crew)) is not None:
                    yield rows
            finally:
                with self._turn:
                    self._over = True
                    self._turn.notify_all()

    def _wake(self, _: Future[None]) -> None:
        with self._turn:
            self._turn.notify_all()

    def _next(self, crew: list[Future[None]]) -> list[ObjectRow] | None:
        with self._turn:
            while True:
                for one in crew:
                    if one.done():
                        one.result()
                if self._ready:
                    self._turn.notify_all()
                    return self._ready.popleft()
                if all(one.done() for one in crew):
                    return None
                self._turn.wait()

    def _work(self) -> None:
        while (piece := self._take()) is not None:
            while True:
                page, body = self._fetch(piece)
                digest, packed = page_digest(body), self._pack(body)
                if self._settle(piece, page, digest, packed):
                    break

    def _settle(self, piece: Range, page: Page, digest: bytes, packed: bytes) -> bool:
        """Keep a page and go on behind it; true when the range is done."""
        with self._turn:
            while len(self._ready) > 2 * self._connections and not self._over:
                self._turn.wait()
            if self._over:
                return True
            # Only now: the range may have been cut while its page was on the way.
            try:
                kept, rows = take_page(piece, page, digest, versions=self._versions)
            except ValueError as error:
                raise self._broken(str(error), piece.at) from error
            self._keep(kept, packed)
            self._pages += 1
            piece.pages += 1
            if rows:
                self._ready.append(rows)
                piece.seen = [*(row.key for row in rows[::50]), rows[-1].key]
            if piece.parent is not None:
                missed = 0 if rows else piece.parent.misses + 1
                piece.parent.misses = missed
                if missed:
                    piece.parent.pages = _BEFORE_SPLIT
                self._misses += missed > 0
                self._cuts -= missed > 0
                piece.parent = None
            if kept.following is None:
                self._busy.remove(piece)
            else:
                piece.at, piece.version = kept.following, kept.following_version
            self._turn.notify_all()
            return kept.following is None

    def _take(self) -> Range | None:
        """A range to list, cut off another if need be; None when there is no more to do."""
        while True:
            with self._turn:
                if self._over or not (self._waiting or self._busy):
                    return None
                if self._waiting:
                    self._busy.append(self._waiting.popleft())
                    return self._busy[-1]
                one = None if self._versions else self._longest()
                if one is None:
                    self._turn.wait()
                    continue
                cut = self._cut(one)
                if cut is not None:
                    return cut
                if one.pages < 0:
                    continue
                one.probing = True
                at, until, level = one.at, one.until, one.level
                self._looks += 1
            self._probe(one, at, until, level)

    def _longest(self) -> Range | None:
        """The range that is most worth cutting, if any is."""
        idle_reader = len(self._ready) <= self._connections
        spent = max(self._cuts, self._looks, self._misses)
        worth = spent < self._connections + self._pages // _PAGES_A_SPLIT
        if not (idle_reader and worth):
            return None
        fit = [
            one
            for one in self._busy
            if not one.probing and (one.cuts or one.pages >= _BEFORE_SPLIT)
        ]
        return max(fit, key=lambda one: (len(one.cuts), self._ahead(one)), default=None)

    def _ahead(self, one: Range) -> float:
        """About how many pages a range still has; for comparison."""
        if not one.flat and folder(one.at, one.level) is not None:
            return one.pages
        names = scale(one.at, one.until, above=one.level, seen=one.seen)
        return 0.0 if names is None else names.pages()

    def _cut(self, one: Range) -> Range | None:
        """The upper part of a range, cut off at the middle of the known places.

        None where no place is known: then a look at the folders helps, or nothing for a while.
        """
        while not one.at.startswith(one.level) and len(one.level) > len(self._prefix):
            above = one.level[:-1].rpartition(b"/")
            one.level, one.flat = max(above[0] + above[1], self._prefix, key=len), False
        one.cuts = [
            cut for cut in one.cuts if one.at < cut and (one.until is None or cut < one.until)
        ]
        deeper = folder(one.at, one.level)
        if one.flat and deeper is not None and one.seen[:1] and one.seen[0].startswith(deeper):
            # One of many folders, but itself longer than a page.
            one.level, one.flat = deeper, False
            deeper = folder(one.at, one.level)
        if one.cuts:
            middle = len(one.cuts) // 2
            cut = one.cuts[middle]
            upper = Range(cut, one.until, level=one.level, cuts=one.cuts[middle + 1 :])
            one.cuts = one.cuts[:middle]
        elif (one.flat or deeper is None) and one.seen:
            names = scale(one.at, one.until, above=one.level, seen=one.seen)
            cut = b"" if names is None else names.ahead(misses=one.misses)
            fits = one.at < cut and (one.until is None or cut < one.until)
            if names is None or not fits or names.pages() < 2 or one.misses + 1 >= _MISSES:
                one.pages, one.misses = -_REST, 0
                return None
            upper = Range(cut, one.until, level=one.level, flat=one.flat, seen=one.seen, parent=one)
        else:
            return None
        one.until, one.pages = cut, 0
        self._cuts += 1
        self._busy.append(upper)
        return upper

    def _probe(self, one: Range, at: bytes, until: bytes | None, level: bytes) -> None:
        """Look which folders follow the one that a range is in; if none, look deeper next."""
        try:
            page = self._look(at, level)
        finally:
            with self._turn:
                one.probing = False
        with self._turn:
            cuts = [cut for cut in page.prefixes if at < cut and (until is None or cut < until)]
            last = max([*page.prefixes[-1:], *map(_KEY, page.rows[-1:])], default=b"")
            if page.truncated and (until is None or last < until):
                # More than a page of folders is cut like names, not one by one.
                one.flat = True
            elif cuts:
                one.cuts = cuts
            else:
                one.level = folder(at, level) or level
            self._turn.notify_all()
