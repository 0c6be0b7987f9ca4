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
    budget = ListingBudget(session.limits.listing, what)
    checker = _PageChecker(url, what, key, page_size, budget)
    size = page_size
    while True:
        number, skip = checker.offset // size + 1, checker.offset % size
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
                    received=partial(budget.count_page, 0),
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
        rows, is_last = checker.check(page, number, size, skip)
        if on_page is not None:
            on_page(number, size, page)
        yield rows
        if is_last:
            return
        if not rows:
            raise UnreliableListingError(f"{what}: page {number} is empty, but has a next page")


class _PageChecker:
    """Checks that the pages of a list are complete and consistent; ``offset`` counts rows."""

    def __init__(
        self, url: str, what: str, key: str, page_size: int, budget: ListingBudget
    ) -> None:
        self._url = url
        self._what = what
        self._key = key
        self._budget = budget
        self._count: int | None = None
        self._recent: deque[object] = deque(maxlen=page_size)
        self.offset = 0

    def check(self, page: Any, number: int, size: int, skip: int) -> tuple[list[Any], bool]:
        """Return a page's rows after the first ``skip`` ones, and whether it is the last page.

        The skipped rows were on an earlier, larger page.
        """
        what = self._what
        rows, stated, following = _parse_page(page, what)
        count = self._check_count(stated, number)
        _check_next(following, self._url, number, what)
        if len(rows) > size or (following is not None and len(rows) != size):
            raise UnreliableListingError(
                f"{what}: page {number} has {len(rows)} rows instead of {size}"
                " (if this archive returns smaller pages, set page_size)"
            )
        self._check_names([_name(row, self._key) for row in rows], number, skip)
        fresh = rows[skip:]
        self.offset += len(fresh)
        if self.offset > count or (following is None and self.offset != count):
            raise UnreliableListingError(f"{what}: {self.offset} rows instead of {count}")
        return fresh, following is None

    def _check_count(self, stated: int | None, number: int) -> int:
        if self._count is None:
            if stated is None:
                raise UnexpectedReplyError(f"{self._what}: the first page has no count")
            self._count = stated
        elif stated not in (None, self._count):
            raise UnreliableListingError(
                f"{self._what}: the count is {self._count} on the first page but {stated} on page"
                f" {number}"
            )
        self._budget.check_stated_count(self._count)
        return self._count

    def _check_names(self, names: list[object], number: int, skip: int) -> None:
        """Raise UnreliableListingError if rows moved or repeat earlier ones."""
        seen = set(self._recent)
        if any(name not in seen for name in names[:skip]):
            raise UnreliableListingError(
                f"{self._what}: rows moved between pages during the listing"
            )
        fresh = [name for name in names[skip:] if name is not None]
        if len(set(fresh)) < len(fresh) or not seen.isdisjoint(fresh):
            raise UnreliableListingError(
                f"{self._what}: page {number} repeats rows of earlier pages"
            )
        self._recent.extend(names[skip:])


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
    """Return the JSON value of one page of a list, without validation.

    Raises NetError if the page cannot be read.

    Parameters
    ----------
    session, url, params
        Where the list is, and the other parameters of its query.
    number, size
        The number of the page, from 1, and the number of rows per page.
    attempts
        Attempts of the request; None for the session's own number.
    received
        Called with the size of each response body in bytes.
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
