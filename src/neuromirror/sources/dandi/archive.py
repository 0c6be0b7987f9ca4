"""The state that a source of a DANDI archive shares with its listings."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

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
from neuromirror.net import NetError, Session
from neuromirror.sources.dandi.blob_versions import BlobVersionLookup, BucketCache
from neuromirror.sources.dandi.document import published_doi
from neuromirror.sources.dandi.objects import ObjectHeads
from neuromirror.sources.dandi.options import DandiOptions
from neuromirror.sources.dandi.paging import fetch_page, read_pages
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
)
from neuromirror.sources.dandi.zarrs import ZarrSource
from neuromirror.sources.protocol import ComponentEntry

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
        "documents": [[one.path.hex(), _digest(one.content)] for one in documents],
        "web_remotes": [to_builtins(one) for one in web_remotes],
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
