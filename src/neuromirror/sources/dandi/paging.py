"""Reading of paged lists, with checks for missing rows.

A page is ``{count, next, previous, results}``, selected by ``page`` and ``page_size``. The URL in
``next`` is only checked, never requested, so a cycle or another host in it has no effect.
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
"""Attempts at a page before smaller pages are requested."""


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
    """Yield the rows of each page, up to the count that the first page states.

    Parameters
    ----------
    session, url, params
        Where the list is.
    what
        The list's name, for messages.
    page_size
        Rows per page.
    key
        The field that identifies a row.
    shrink
        Whether to continue with pages a quarter as long if the server fails to return a page.
    on_page
        Called with number, size and content of each page.
    first
        A request for the first page that was sent earlier; repeated if it failed.

    Raises
    ------
    UnreliableListingError
        If rows are missing, repeated or too many, if a page other than the last is missing or not
        full, or if ``next`` names another host or page.
    ListingTooLongError
        Beyond the session's limits.
    NetError
        If a page cannot be read.
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
            # some servers return 404 for a page past the end
            if number == 1:
                raise
            raise UnreliableListingError(
                f"{what}: page {number} is missing, although the page before it is not the last"
            ) from error
        rows, stated, following = _parse_page(page, what)
        if stated is None and count is None:
            raise UnexpectedReplyError(f"{what}: the first page has no count")
        if count is not None and stated not in (None, count):
            raise UnreliableListingError(
                f"{what}: the count is {count} on the first page but {stated} on page {number}"
            )
        count = count if stated is None else stated
        assert count is not None
        bounds.check_stated_count(count)
        _check_next(following, url, number, what)
        if len(rows) > size or (following is not None and len(rows) != size):
            raise UnreliableListingError(
                f"{what}: page {number} has {len(rows)} rows instead of {size}"
                " (if this archive returns smaller pages, set page_size)"
            )
        names = [_name(row, key) for row in rows]
        seen = set(recent)
        if any(name not in seen for name in names[:skip]):
            raise UnreliableListingError(f"{what}: rows moved between pages during the listing")
        fresh = [name for name in names[skip:] if name is not None]
        if len(set(fresh)) < len(fresh) or not seen.isdisjoint(fresh):
            raise UnreliableListingError(f"{what}: page {number} repeats rows of earlier pages")
        recent.extend(names[skip:])
        offset += len(rows[skip:])
        if offset > count or (following is None and offset != count):
            raise UnreliableListingError(f"{what}: {offset} rows instead of {count}")
        if on_page is not None:
            on_page(number, size, page)
        yield rows[skip:]
        if following is None:
            return
        if not rows[skip:]:
            raise UnreliableListingError(f"{what}: page {number} is empty, but has a next page")


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
    """Return a page, unchecked; raise NetError.

    ``received`` is called with the size of each response body.
    """
    query = {**params, "page": number, "page_size": size}
    return session.get_json(url, query, attempts=attempts, check_size=received)


def _parse_page(page: Any, what: str) -> tuple[list[Any], int | None, str | None]:
    """Return rows, count and next of a page."""
    if not isinstance(page, dict) or not isinstance(page.get("results"), list):
        raise UnexpectedReplyError(f"{what}: the reply is not a page of a list")
    count, following = page.get("count"), page.get("next")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise UnexpectedReplyError(f"{what}: the page's count is not a number")
    if following is not None and not isinstance(following, str):
        raise UnexpectedReplyError(f"{what}: the page's next is not a URL")
    if "next" not in page:
        raise UnexpectedReplyError(f"{what}: the page lacks next")
    return page["results"], count, following


def _check_next(following: str | None, url: str, number: int, what: str) -> None:
    """Raise UnreliableListingError unless ``next`` names this host and the next number."""
    if following is None:
        return
    try:
        # the scheme may differ: behind a proxy, archives often use http in their URLs
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
