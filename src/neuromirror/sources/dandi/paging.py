"""Reading of paged lists, with checks for missing rows.

A page is ``{count, next, previous, results}``, selected by ``page`` and ``page_size``. The URL in
``next`` is only checked, never requested, so a cycle or another host in it has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from neuromirror.net import (
    IncompleteResponseError,
    ListingBudget,
    NetError,
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
"""Attempts at a page that may be too large, before smaller pages are requested."""
_MAY_BE_TOO_LARGE: Final = (
    *(ServerError, RequestTimeoutError),
    *(IncompleteResponseError, ResponseTooLargeError),
)


def read_pages(
    session: Session,
    url: str,
    params: Mapping[str, str | int],
    *,
    what: str,
    page_size: int,
    key: str | tuple[str, ...],
    shrink: bool = False,
    on_page: Callable[[int, int, Any], object] | None = None,
    first: Future[Any] | None = None,
    on_growth: Callable[[str], object] | None = None,
) -> Iterator[list[Any]]:
    """Yield the rows of each page, at least as many as the first page states.

    Parameters
    ----------
    session, url, params
        Where the list is.
    what
        The list's name, for messages.
    page_size
        Rows per page.
    key
        The field, or fields, that identify a row.
    shrink
        Whether to continue with pages a quarter as long if the server fails to return a page.
    on_page
        Called with number, size and content of each page.
    first
        A request for the first page that was sent earlier; repeated if it failed.
    on_growth
        For a list to which rows may be added meanwhile: called with a message if rows are repeated,
        which are then left out, or more than stated.

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
    checker = _PageChecker(url, what, key, budget, on_growth)
    size = page_size
    while True:
        number, skip = checker.offset // size + 1, checker.offset % size
        may_shrink = shrink and size > _SMALLEST
        try:
            if first is not None and not first.cancelled() and first.exception() is None:
                page = first.result()
            else:
                page = fetch_page(
                    session,
                    url,
                    params,
                    number,
                    size,
                    attempts=_ATTEMPTS_BEFORE_SHRINKING if may_shrink else None,
                    limited=_MAY_BE_TOO_LARGE,
                    received=partial(budget.count_page, 0),
                )
            first = None
        except _MAY_BE_TOO_LARGE:
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


class _PageChecker:
    """Checks that the pages of a list are complete and consistent.

    ``offset`` is the position after the last page, and ``_rows`` counts the rows without repeated
    ones.
    """

    def __init__(
        self,
        url: str,
        what: str,
        key: str | tuple[str, ...],
        budget: ListingBudget,
        on_growth: Callable[[str], object] | None,
    ) -> None:
        self._url = url
        self._what = what
        self._key = key
        self._budget = budget
        self._count: int | None = None
        self._on_growth = on_growth
        self._seen: set[object] = set()
        self._rows = 0
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
        fresh = self._fresh_rows(rows, number, skip)
        if following is not None and not fresh:
            raise UnreliableListingError(f"{what}: page {number} has no new row, but a next page")
        self.offset = (number - 1) * size + len(rows)
        self._rows += len(fresh)
        message = f"{what}: {self._rows} rows instead of {count}"
        if self._rows > count:
            self._note(message)
        elif following is None and self._rows < count:
            raise UnreliableListingError(message)
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

    def _fresh_rows(self, rows: list[Any], number: int, skip: int) -> list[Any]:
        """Return the rows after the first ``skip`` ones that do not repeat earlier rows."""
        fresh = []
        for index, row in enumerate(rows):
            name = _name(row, self._key)
            is_known = name is not None and name in self._seen
            if is_known and index >= skip:
                self._note(f"{self._what}: page {number} repeats rows of earlier pages")
            elif not is_known and index < skip:
                self._note(f"{self._what}: rows moved between pages during the listing")
            if not is_known:
                self._seen.add(name)
                fresh.append(row)
        return fresh

    def _note(self, message: str) -> None:
        if self._on_growth is None:
            raise UnreliableListingError(message)
        self._on_growth(message)


def fetch_page(
    session: Session,
    url: str,
    params: Mapping[str, str | int],
    number: int,
    size: int,
    *,
    attempts: int | None = None,
    limited: tuple[type[NetError], ...] = (NetError,),
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
    attempts, limited
        Attempts of the request after these errors; None for the session's own number.
    received
        Called with the size of each response body in bytes.
    """
    query = {**params, "page": number, "page_size": size}
    return session.get_json(url, query, attempts=attempts, limited=limited, check_size=received)


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


def _name(row: Any, key: str | tuple[str, ...]) -> object:
    if isinstance(key, tuple):
        return tuple(_name(row, one) for one in key)
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, (str, int)) else None
