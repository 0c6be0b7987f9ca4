"""Page-by-page reading that notices what is missing.

An archive's list is ``{count, next, previous, results}`` under ``page`` and ``page_size``. The
address in ``next`` is never asked: pages are numbered here, and ``next`` is only held against
what it should say. So neither a cycle nor another host in it can lead anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from neuromirror.net import (
    IncompleteResponseError,
    ListingBudget,
    NotFoundError,
    RequestTimeoutError,
    ResponseTooLargeError,
    ServerError,
    Session,
    origin,
)
from neuromirror.sources.errors import UnexpectedReplyError, UnreliableListingError

_SMALLEST: Final = 10
_SHRINK: Final = 4
_ATTEMPTS_BEFORE_SHRINKING: Final = 2
"""Attempts at a page that could still be asked for in smaller pieces."""


def read_pages(
    session: Session,
    url: str,
    params: Mapping[str, str | int],
    *,
    what: str,
    page_size: int,
    key: str,
    shrink: bool = False,
    on_page: Callable[[int, int, Any], object] | None = None,
    first: Future[Any] | None = None,
) -> Iterator[list[Any]]:
    """Yields the rows of each page, until all that the first page counted have come.

    ``what`` names the list in messages; ``key`` is the field that no two rows share. With
    ``shrink`` a page that the server cannot give is asked for in quarters, and so are the pages
    after it. ``fetched`` is told each page's number and size, and the page itself. ``first`` is
    the request for the first page, where it was made ahead; it is made again where that failed.

    Raises :class:`UnreliableListingError` when rows are short, repeated or too many, when a page
    before
    the last is not full or is not there, and when ``next`` names another host or page; another
    :class:`~neuromirror.net.NetError` when a page cannot be had,
    :class:`~neuromirror.net.ListingTooLongError` beyond the session's limits.
    """
    bounds = ListingBudget(session.limits.listing, what)
    size, offset = page_size, 0
    count: int | None = None
    recent: deque[object] = deque(maxlen=page_size)
    while True:
        number, skip = offset // size + 1, offset % size
        may_shrink = shrink and size > _SMALLEST
        try:
            attempts = session.limits.attempts
            if may_shrink:
                attempts = min(attempts, _ATTEMPTS_BEFORE_SHRINKING)
            if first is not None and not first.cancelled() and first.exception() is None:
                page = first.result()
            else:
                page = fetch_page(
                    session,
                    url,
                    params,
                    number,
                    size,
                    attempts=attempts,
                    received=partial(bounds.count_page, 0),
                )
            first = None
        except (ServerError, RequestTimeoutError, IncompleteResponseError, ResponseTooLargeError):
            if not may_shrink:
                raise
            size //= _SHRINK
            continue
        except NotFoundError as error:
            # Past the end some lists say 404, just as for something that is gone.
            if number == 1:
                raise
            raise UnreliableListingError(
                f"{what}: page {number} was promised, and is not there"
            ) from error
        rows, stated, following = _parse_page(page, what)
        if stated is None and count is None:
            raise UnexpectedReplyError(f"{what}: the first page does not say how many there are")
        if count is not None and stated not in (None, count):
            raise UnreliableListingError(
                f"{what}: {count} were promised on the first page and {stated} on page {number}"
            )
        count = count if stated is None else stated
        assert count is not None
        bounds.check_stated_count(count)
        _check_next(following, url, number, what)
        if len(rows) > size or (following is not None and len(rows) != size):
            raise UnreliableListingError(
                f"{what}: page {number} holds {len(rows)} rows instead of {size}"
                " (if this archive gives smaller pages, set page_size)"
            )
        names = [_name(row, key) for row in rows]
        seen = set(recent)
        if any(name not in seen for name in names[:skip]):
            raise UnreliableListingError(f"{what}: rows moved while they were read")
        fresh = [name for name in names[skip:] if name is not None]
        if len(set(fresh)) < len(fresh) or not seen.isdisjoint(fresh):
            raise UnreliableListingError(f"{what}: page {number} repeats rows that came before")
        recent.extend(names[skip:])
        offset += len(rows[skip:])
        if offset > count or (following is None and offset != count):
            raise UnreliableListingError(f"{what}: {count} were promised and {offset} came")
        if on_page is not None:
            on_page(number, size, page)
        yield rows[skip:]
        if following is None:
            return
        if not rows[skip:]:
            raise UnreliableListingError(
                f"{what}: page {number} is empty, and is said not to be the last"
            )


def fetch_page(
    session: Session,
    url: str,
    params: Mapping[str, str | int],
    number: int,
    size: int,
    *,
    attempts: int | None = None,
    received: Callable[[int], object] | None = None,
) -> Any:
    """The page of this number and size, unchecked; raises a NetError.

    ``received`` is called with the size of each body.
    """
    query = {**params, "page": number, "page_size": size}
    return session.get_json(url, query, attempts=attempts, check_size=received)


def _parse_page(page: Any, what: str) -> tuple[list[Any], int | None, str | None]:
    """Rows, count and next of a page."""
    if not isinstance(page, dict) or not isinstance(page.get("results"), list):
        raise UnexpectedReplyError(f"{what}: the reply is no page of a list")
    count, following = page.get("count"), page.get("next")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise UnexpectedReplyError(f"{what}: the page's count is no number")
    if following is not None and not isinstance(following, str):
        raise UnexpectedReplyError(f"{what}: the page's next is no address")
    if "next" not in page:
        raise UnexpectedReplyError(f"{what}: the page does not say whether it is the last")
    return page["results"], count, following


def _check_next(following: str | None, url: str, number: int, what: str) -> None:
    """Refuses a next page that is not on this host, or not the next."""
    if following is None:
        return
    try:
        # The scheme may differ: an archive behind a proxy often calls itself http.
        same = origin(following)[1] == origin(url)[1]
        next_numbers = parse_qs(urlsplit(following).query).get("page", [])
    except ValueError:
        same, next_numbers = False, []
    if not same:
        raise UnreliableListingError(f"{what}: page {number} names a next page on another host")
    if next_numbers != [str(number + 1)]:
        raise UnreliableListingError(
            f"{what}: page {number} names {' '.join(next_numbers)[:20] or 'no page'} as the next "
            f"page"
        )


def _name(row: Any, key: str) -> object:
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, (str, int)) else None
