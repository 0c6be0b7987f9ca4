"""The asset list of one version, read page by page, and its comparison with a memo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final

from neuromirror.net import NetError, Session
from neuromirror.sources.dandi.memo import PageDigest
from neuromirror.sources.dandi.paging import fetch_page, read_pages
from neuromirror.sources.dandi.rows import Row, ToComponent, parse_row
from neuromirror.sources.protocol import ComponentEntry

_QUERY: Final = {"metadata": "true", "order": "path"}


class AssetList:
    """Reads the asset list of a version page by page, and compares it with a memo.

    ``url`` is the list's address; ``name`` is the version's name, for messages.

    Attributes
    ----------
    page_digests
        Digests of the pages that were read.
    is_complete
        Whether all pages were read.
    has_unfinalized_zarrs
        Whether a row is a Zarr without checksum, which can change although its row does not.
    """

    def __init__(self, session: Session, url: str, name: str) -> None:
        self._session = session
        self._url = url
        self._name = name
        self.page_digests: list[PageDigest] = []
        self.is_complete = False
        self.has_unfinalized_zarrs = False

    def rows(
        self,
        *,
        published: bool,
        page_size: int,
        to_component: ToComponent | None = None,
        on_rows: Callable[[Sequence[Any]], object] | None = None,
        private: bool = False,
        first: Future[Any] | None = None,
    ) -> Iterator[list[Row]]:
        """Yield the parsed rows of each page; raise as :func:`read_pages` does.

        Parameters
        ----------
        published
            Whether the version is published.
        page_size
            Rows per page.
        to_component
            Returns the entry for a Zarr asset; None to exclude Zarrs.
        on_rows
            Called with the unparsed rows of each page.
        private
            Whether rows under embargo are included; else each becomes an excluded entry.
        first
            A request by :meth:`first_page` that was sent earlier.
        """

        def add_digest(number: int, size: int, page: Any) -> None:
            self.page_digests.append(PageDigest.of(number, size, page))

        before = 0
        for rows in read_pages(
            self._session,
            self._url,
            _QUERY,
            what=f"{self._name}: the list of assets",
            page_size=page_size,
            key="path",
            shrink=True,
            on_page=add_digest,
            first=first,
        ):
            if on_rows is not None:
                on_rows(rows)
            found = [
                parse_row(
                    row,
                    number,
                    published=published,
                    allow_private=self._session.allow_private,
                    to_component=to_component,
                    private=private,
                )
                for number, row in enumerate(rows, before + 1)
            ]
            self.has_unfinalized_zarrs |= any(
                isinstance(one, ComponentEntry) and not one.version.claimed_totals for one in found
            )
            yield found
            before += len(rows)
        self.is_complete = True

    def first_page(self, page_size: int) -> Any:
        """Return the first page, unchecked; raise NetError."""
        return fetch_page(self._session, self._url, _QUERY, 1, page_size, attempts=1)

    def matches(self, remembered: Sequence[PageDigest]) -> bool:
        """Return whether every page matches a memo; stop at the first that does not.

        The result is also False if a page cannot be read; :meth:`rows` then handles or reports the
        error.
        """
        try:
            return all(
                one == PageDigest.of(one.number, one.size, self._page(one)) for one in remembered
            )
        except NetError:
            return False

    def _page(self, one: PageDigest) -> Any:
        return fetch_page(self._session, self._url, _QUERY, one.number, one.size)
