"""The state that a source of a DANDI archive shares with its listings."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import to_builtins

from neuromirror import __version__
from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Document,
    ExcludedEntry,
    VersionRef,
    WebRemote,
)
from neuromirror.model.validation import analysed_type
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
from neuromirror.sources.dandi.objects import BlobVersionLookup, BucketCache, ObjectHeads
from neuromirror.sources.dandi.options import DandiOptions
from neuromirror.sources.dandi.rows import (
    Row,
    ToComponent,
    is_unfinalized_zarr,
    moment_or_none,
    parse_row,
)
from neuromirror.sources.dandi.versions import (
    DRAFT,
    RecentVersions,
    VersionInfo,
    parse_version_info,
    published_doi,
)
from neuromirror.sources.dandi.zarr_listing import ZarrSource
from neuromirror.sources.errors import UnexpectedReplyError, UnreliableListingError
from neuromirror.sources.protocol import ComponentEntry

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
        self._seen: set[bytes | None] = set()
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
            if name is not None:  # as a digest: millions of rows with their paths need gigabytes
                name = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
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


_RULES: Final = 1
"""Version of the rules that turn replies into records; increment it when they change."""


class PageDigest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One page: its number and size as requested, and the sha256 (hex) of its content."""

    number: int
    size: int
    digest: str

    @classmethod
    def of(cls, number: int, size: int, page: Any) -> PageDigest:
        """Return the digest of a parsed page, which depends on the order of members."""
        try:
            encoded = msgspec.json.encode(page)
        except (ValueError, OverflowError):
            # for lone surrogates and very long numbers; ten times as slow
            encoded = json.dumps(page).encode("ascii")
        return cls(number, size, _digest(encoded))


class AssetListMemo(msgspec.Struct, frozen=True, gc=False):
    """The memo by which an unchanged asset list is recognized: its page digests and context digest.

    See :func:`context_digest`.
    """

    context_digest: str
    pages: list[PageDigest]

    def dump(self) -> bytes:
        """Return the memo as JSON."""
        return msgspec.json.encode(self)


def load_memo(memo: bytes | None) -> AssetListMemo | None:
    """Return the memo from :meth:`AssetListMemo.dump`; None if it is invalid or has no pages."""
    try:
        found = (
            None if memo is None else msgspec.json.decode(memo, type=analysed_type(AssetListMemo))
        )
    except ValueError:
        return None
    return found if found is not None and found.pages else None


def context_digest(
    options: Mapping[str, Any],
    version: VersionRef,
    facts: DatasetFacts,
    documents: Iterable[Document],
    web_remotes: Iterable[WebRemote],
) -> str:
    """Return a digest of everything on which a listing depends, except the pages of the asset list.

    These are the options, this program's version, and upstream's totals, time, facts and documents.
    A memo with another digest is void.
    """
    parts = {
        "rules": [_RULES, __version__],
        "options": options,
        "version": to_builtins(version),
        "facts": to_builtins(facts),
        "documents": [[document.path.hex(), _digest(document.content)] for document in documents],
        "web_remotes": [to_builtins(remote) for remote in web_remotes],
    }
    return _digest(json.dumps(parts, sort_keys=True, default=str).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
    growth
        A message if rows were repeated or too many: others were added while a draft was read.
    newer_rows
        The unparsed rows of a draft that were created after the given moment.
    """

    def __init__(self, session: Session, url: str, name: str) -> None:
        self._session = session
        self._url = url
        self._name = name
        self.page_digests: list[PageDigest] = []
        self.is_complete = False
        self.has_unfinalized_zarrs = False
        self.growth = ""
        self.newer_rows: list[Any] = []

    def rows(
        self,
        *,
        moment: datetime | None,
        page_size: int,
        to_component: ToComponent | None = None,
        on_rows: Callable[[Sequence[Any]], object] | None = None,
        private: bool = False,
        first: Future[Any] | None = None,
        include_newer: Callable[[], bool] = lambda: True,
    ) -> Iterator[list[Row]]:
        """Yield the parsed rows of each page; raise as :func:`read_pages` does.

        Parameters
        ----------
        moment
            The time of a draft before the list is read; None for a published version. Rows that
            were created later come last, if at all.
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
        include_newer
            Called after the last page: whether to yield the newer rows.
        """
        numbers = count(1)

        def parse(rows: list[Any]) -> list[Row]:
            if on_rows is not None:
                on_rows(rows)
            self.has_unfinalized_zarrs |= any(map(is_unfinalized_zarr, rows))
            return [
                parse_row(
                    row,
                    next(numbers),
                    published=moment is None,
                    allow_private=self._session.allow_private,
                    to_component=to_component,
                    private=private,
                )
                for row in rows
            ]

        def note_growth(message: str) -> None:
            self.growth = self.growth or message

        def add_digest(number: int, size: int, page: Any) -> None:
            self.page_digests.append(PageDigest.of(number, size, page))

        for rows in read_pages(
            self._session,
            self._url,
            _QUERY,
            what=f"{self._name}: the list of assets",
            page_size=page_size,
            key="path" if moment is None else ("path", "asset_id"),
            shrink=True,
            on_page=add_digest,
            first=first,
            on_growth=None if moment is None else note_growth,
        ):
            newer = [row for row in rows if moment is not None and _created_after(row, moment)]
            self.newer_rows += newer
            yield parse([row for row in rows if row not in newer] if newer else rows)
        if include_newer() and self.newer_rows:
            yield parse(self.newer_rows)
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


def _created_after(row: Any, moment: datetime) -> bool:
    created = moment_or_none(row.get("created")) if isinstance(row, dict) else None
    return created is not None and created > moment


class PrefetchedPages:
    """Requests for the first page of the version that a visit reads next. Thread-safe.

    While a thread reads one version, it sends the request for the next one. At most one request per
    dandiset is kept, and each is returned once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, tuple[str, Future[Any]]] = {}

    def add(self, version: VersionRef, page: Future[Any]) -> None:
        """Keep the request for the first page of a version."""
        with self._lock:
            self._pages[version.dataset.local_id] = version.upstream, page

    def pop(self, version: VersionRef) -> Future[Any] | None:
        """Return the request for the first page of a version; drop any other of its dandiset."""
        with self._lock:
            upstream, page = self._pages.pop(version.dataset.local_id, ("", None))
        return page if upstream == version.upstream else None


VERSION_PATTERN: Final = re.compile(r"0\.[0-9]{6}\.[0-9]{4}\Z")
"""The version number of a published dandiset."""


class DandiArchive:
    """The session, options and caches of one DANDI archive, which its listings share. Thread-safe.

    With ``is_private`` only embargoed dandisets are read, whose objects need a token.
    """

    def __init__(
        self, mirror: str, options: DandiOptions, session: Session, *, is_private: bool = False
    ) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.is_private = is_private
        self.recent_versions = RecentVersions()
        self.prefetched_pages = PrefetchedPages()
        self.heads = ObjectHeads(session)
        buckets = BucketCache(session)
        self.blob_versions = BlobVersionLookup(buckets, connections=options.connections)
        self.zarrs = ZarrSource(
            session,
            mirror,
            options.api,
            buckets,
            connections=options.connections,
            history_gap=timedelta(minutes=options.history_gap_minutes),
            objects_are_private=is_private,
        )
        self._info: Any = None
        self._instance_lock = threading.Lock()

    @property
    def web_remotes(self) -> tuple[WebRemote, ...]:
        """The remote for the API's download URLs.

        It is separate from the buckets' because git-annex tries no second URL of a remote if the
        first one returns wrong bytes.
        """
        api = self.options.api.replace("[", "[[]")
        return (WebRemote(f"{self.mirror}-api", f"{api}/assets/*/download/"),)

    def listing_options(self) -> dict[str, Any]:
        """Return the options that affect the records of a listing."""
        found = self.options.model_dump(
            mode="json", include={"api", "page_size", "zarrs", "metadata"}
        )
        found["allow_private"] = self.session.allow_private
        if self.is_private:
            found["embargoed"] = self.options.embargoed
        return found

    def asset_list(self, version: VersionRef) -> AssetList:
        """Return the asset list of a version; no request is made."""
        dataset, label = version.dataset, version.upstream
        url = f"{dataset.source_uri}versions/{label}/assets/"
        return AssetList(self.session, url, f"{dataset.name}@{label}")

    def fetch_version_info(self, dataset: DatasetRef, label: str) -> VersionInfo:
        """Fetch a version's current totals, facts and document."""
        info = self.session.get_json(f"{dataset.source_uri}versions/{label}/info/")
        doi = None
        if label != DRAFT:
            doi = published_doi(self.instance_config(), dataset.local_id, label)
        return parse_version_info(dataset, label, info, doi=doi, private=self.is_private)

    def instance_config(self) -> Mapping[str, Any]:
        """Return ``instance_config`` of the API's ``/info/``, which is fetched once."""
        return self._info_part(None, "instance_config")

    def web_pages(self) -> str:
        """Return the URL of the archive's web pages; empty if ``/info/`` does not state it."""
        try:
            url = self._info_part(1, "services", "webui").get("url")
        except NetError:
            return ""
        return url if isinstance(url, str) else ""

    def _info_part(self, attempts: int | None, *names: str) -> Mapping[str, Any]:
        """Return an object in the API's ``/info/``, which is fetched once."""
        with self._instance_lock:
            if self._info is None:
                self._info = self.session.get_json(f"{self.options.api}/info/", attempts=attempts)
            part = self._info
        for name in names:
            part = part.get(name) if isinstance(part, dict) else None
        return part if isinstance(part, dict) else {}

    def to_component(
        self, path: bytes, size: int, zarr_id: str, metadata: Mapping[str, Any]
    ) -> ComponentEntry | ExcludedEntry:
        """Return the entry of a Zarr asset."""
        if self.is_private:
            # every asset is under embargo here: that excludes none
            metadata = {name: value for name, value in metadata.items() if name != "access"}
        return self.zarrs.component(path, size, zarr_id, metadata)
