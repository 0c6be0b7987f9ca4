"""DANDI and archives that speak its API (EMBER, LINC, the sandbox), asked directly.

The API is described at ``<api>/docs/swagger/``; what it does beyond that was learnt from the
archive's source and is said where it matters.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

from neuromirror.model import (
    ConfigurationError,
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    ExcludedEntry,
    VersionKind,
    VersionRef,
    WebRemote,
)
from neuromirror.net import AccessDeniedError, ContextThreadPool, NotFoundError, Session
from neuromirror.sources.dandi.asset_list import AssetList
from neuromirror.sources.dandi.blob_versions import BlobVersionLookup
from neuromirror.sources.dandi.buckets import BucketCache
from neuromirror.sources.dandi.document import clean, published_doi
from neuromirror.sources.dandi.memo import AssetListMemo, context_digest, load_memo
from neuromirror.sources.dandi.metadata_shards import MetadataShards
from neuromirror.sources.dandi.object_locations import AssetEntry, ObjectLocator
from neuromirror.sources.dandi.objects import ObjectHeads
from neuromirror.sources.dandi.options import DandiOptions
from neuromirror.sources.dandi.paging import read_pages
from neuromirror.sources.dandi.pending import PendingItems, is_still_pending
from neuromirror.sources.dandi.prefetch import PrefetchedPages, yield_then_call
from neuromirror.sources.dandi.rows import EMBARGOED, BlobRow, Row
from neuromirror.sources.dandi.versions import (
    DRAFT,
    OPEN,
    RecentVersions,
    VersionInfo,
    fingerprint,
    parse_version,
    parse_version_info,
)
from neuromirror.sources.dandi.zarrs import LOCAL_PREFIX, ZarrSource
from neuromirror.sources.errors import DatasetNotFoundError, MalformedIdError, UnexpectedReplyError
from neuromirror.sources.protocol import ComponentEntry, Estimate, Listing, VisitContext

_ID: Final = re.compile(r"[0-9]{6}\Z")
_VERSION: Final = re.compile(r"0\.[0-9]{6}\.[0-9]{4}\Z")
OPENED: Final = "opened"
"""Why one that is not under embargo is unavailable among those that are."""


class DandiSource:
    """A DANDI archive as a :class:`~neuromirror.sources.Source`.

    It shows of a dandiset under embargo that it is embargoed, and no more; :meth:`private` gives
    the source that shows these, and no others.
    """

    Options: ClassVar[type[DandiOptions]] = DandiOptions

    def __init__(self, mirror: str, options: DandiOptions, session: Session) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.uri = f"{options.api}/"
        self._instance: Mapping[str, Any] | None = None
        self._instance_lock = threading.Lock()
        self._is_private = False
        self._recent_versions = RecentVersions()
        self._prefetched_pages = PrefetchedPages()
        self._buckets = BucketCache(session)
        self._blob_versions = BlobVersionLookup(self._buckets, connections=options.connections)
        self._heads = ObjectHeads(session)
        self._zarrs = self._make_zarr_source(closed=False)

    def _make_zarr_source(self, *, closed: bool) -> ZarrSource:
        return ZarrSource(
            self.session,
            self.mirror,
            self.options.api,
            self._buckets,
            connections=self.options.connections,
            history_gap=timedelta(minutes=self.options.history_gap_minutes),
            objects_are_private=closed,
        )

    def dataset(self, local_id: str) -> DatasetRef:
        """The reference of a dandiset, or of ``zarr/<id>``; raises :class:`MalformedIdError`."""
        if local_id.startswith(LOCAL_PREFIX):
            return self._zarrs.dataset(local_id)
        if not _ID.match(local_id):
            raise MalformedIdError(
                f"{self.mirror}: {local_id!r} is no dandiset id; one has six digits, like 000027"
            )
        return DatasetRef(self.mirror, local_id, f"{self.options.api}/dandisets/{local_id}/")

    def private(self) -> DandiSource | None:
        """The dandisets under embargo, as the token may read them; None where they are skipped.

        It tells no place of a file but the API's download address, which takes the token too.
        Raises ConfigurationError where there is no token.
        """
        options = self.options
        if options.embargoed == "skip" or self._is_private:
            return None
        if not options.has_token:
            # where nothing is open, "skip" would put all of it into the public store
            otherwise = ', or write embargoed = "skip"' if options.embargoed == "private" else ""
            raise ConfigurationError(
                f'mirror {self.mirror!r}: embargoed = "{options.embargoed}" needs a token; set the '
                f"environment variable {options.token_env}{otherwise}, or sync the other mirrors by"
                " name"
            )
        private = type(self)(self.mirror, options, self.session)
        private._is_private = True
        private._zarrs = private._make_zarr_source(closed=True)
        return private

    def is_open(self, dataset: DatasetRef) -> bool:
        """Whether anybody may read the dandiset and its draft's assets: asked without the token."""
        with self.session.anonymous() as session:
            try:
                row = session.get_json(dataset.source_uri)
                session.get_json(f"{dataset.source_uri}versions/{DRAFT}/assets/?page_size=1")
            except (AccessDeniedError, NotFoundError):
                return False
        return isinstance(row, dict) and row.get("embargo_status") == OPEN

    def may_be_public(self, dataset: DatasetRef) -> bool:
        """Whether a dataset that the archive calls open may be shown to anybody.

        With a token the archive is asked once without it, for a dandiset and its draft's assets; a
        Zarr is asked about by :meth:`hint`. Without a token all requests are a stranger's.
        """
        if not self.options.has_token or _is_zarr(dataset):
            return True
        return self.is_open(dataset)

    def is_listed(self, dataset: DatasetRef) -> bool:
        """Whether the list of dandisets would name it: a Zarr is only ever asked about."""
        return not _is_zarr(dataset)

    def _is_shown(self, zarr: DatasetRef) -> bool:
        """Whether the archive shows a Zarr to those without the token, as not under embargo."""
        if self.options.embargoed == "all":
            return False
        with self.session.anonymous() as session:
            try:
                session.get_json(zarr.source_uri)
            except (AccessDeniedError, NotFoundError):
                return False
        return True

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all dandisets that are not hidden, in order of id.

        With a token those under embargo that it may read are among them, as unavailable.
        The list is proven only when the iterator ends: :class:`UnreliableListingError` may come
        after
        some of it. A dandiset deleted and another made between two pages would go unnoticed, so
        ask :meth:`hint` about one that is missing before believing that it is gone.
        """
        what = f"{self.mirror}: the list of dandisets"
        query = {"ordering": "id", "draft": "true", "empty": "true"}
        if self.options.has_token:
            query["embargoed"] = "true"
        for rows in read_pages(
            self.session,
            f"{self.options.api}/dandisets/",
            query,
            what=what,
            page_size=self.options.page_size,
            key="identifier",
            shrink=True,
        ):
            for row in rows:
                identifier = row.get("identifier") if isinstance(row, dict) else None
                if not isinstance(identifier, str) or not _ID.match(identifier):
                    raise UnexpectedReplyError(f"{what} holds a row without a dandiset id")
                published = row.get("most_recent_published_version")
                hint = self._hint(self.dataset(identifier), row, published)
                if not (self._is_private and hint.unavailable):
                    yield hint

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One dandiset's hint; raises :class:`DatasetNotFoundError`.

        An embargoed dandiset is hidden from the list and known only by the refusal to show it.
        """
        if _is_zarr(dataset):
            found = self._zarrs.hint(dataset)
            if self.options.has_token and not self._is_private and not self._is_shown(dataset):
                return DatasetHint(dataset, EMBARGOED, unavailable=EMBARGOED)
            return found
        try:
            row = self.session.get_json(dataset.source_uri)
            published = None
            if isinstance(row, dict) and row.get("most_recent_published_version") is not None:
                # The list means the version made last, this reply the one saved last: they differ
                # once an older version is saved again. The list's is what both must say.
                versions = self._version_rows(dataset)
                published = max(
                    (one for one in versions if one.get("version") != DRAFT),
                    key=lambda one: (str(one.get("created")), str(one.get("version"))),
                    default=None,
                )
        except NotFoundError as error:
            raise self._not_found_error(dataset, error) from error
        except AccessDeniedError as error:
            if error.detail is None or "token" in error.detail.lower():
                raise
            # an archive that shows nobody anything refuses its list, too, which this then raises
            self.session.get_json(f"{self.options.api}/dandisets/?page_size=1")
            return DatasetHint(dataset, EMBARGOED, unavailable=EMBARGOED)
        if not isinstance(row, dict) or row.get("identifier") != dataset.local_id:
            raise UnexpectedReplyError(f"{dataset.name}: the reply describes no such dandiset")
        return self._hint(dataset, row, published)

    def _not_found_error(self, dataset: DatasetRef, error: NotFoundError) -> Exception:
        """What a 404 means: only the archive's own (JSON with a detail) says that it is gone."""
        if error.detail is None:
            return error
        missing = DatasetNotFoundError(
            f"{dataset.name}: {error.url} says that there is no such dandiset: {error.detail}"
        )
        missing.owner_may_delete = True
        return missing

    def _hint(self, dataset: DatasetRef, row: Mapping[str, Any], published: Any) -> DatasetHint:
        draft = row.get("draft_version")
        embargo = row.get("embargo_status")
        if not isinstance(embargo, str):
            raise UnexpectedReplyError(f"{dataset.name}: the reply lacks the embargo status")
        if self._is_private != (embargo != OPEN or self.options.embargoed == "all"):
            # nothing else is told of it, so that nothing else can get anywhere
            reason = OPENED if self._is_private else EMBARGOED
            return DatasetHint(dataset, reason, unavailable=reason)
        if not isinstance(draft, dict):
            # its own visit will tell what is wrong, and keeps no other from being visited
            return DatasetHint(dataset, None)
        name = draft.get("name")
        return DatasetHint(
            dataset,
            fingerprint(draft, published, embargo),
            title=str(clean(name)) if isinstance(name, str) else "",
        )

    def _version_rows(self, dataset: DatasetRef) -> list[dict[str, Any]]:
        what = f"{dataset.name}: the list of versions"
        found: list[dict[str, Any]] = []
        for rows in read_pages(
            self.session,
            f"{dataset.source_uri}versions/",
            {"order": "created"},
            what=what,
            page_size=self.options.page_size,
            key="version",
            shrink=True,
        ):
            for row in rows:
                label = row.get("version") if isinstance(row, dict) else None
                if not isinstance(label, str) or not (label == DRAFT or _VERSION.match(label)):
                    raise UnexpectedReplyError(f"{what} holds a row without a version")
                found.append(row)
        if not any(row["version"] == DRAFT for row in found):
            # Every dandiset has a draft: without one the list is not all of it.
            raise UnexpectedReplyError(f"{what} lacks the draft")
        return found

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Published versions, oldest first, then the draft; raises :class:`DatasetNotFoundError`.

        Of a Zarr, its present state.
        """
        if _is_zarr(dataset):
            return self._zarrs.versions(dataset)
        try:
            rows = self._version_rows(dataset)
        except NotFoundError as error:
            raise self._not_found_error(dataset, error) from error
        refs = [self._version(dataset, row["version"], row) for row in rows]
        refs.sort(key=lambda ref: (ref.kind is VersionKind.OBSERVED, ref.time, ref.upstream))
        self._recent_versions.remember(refs)
        return refs

    def _version(self, dataset: DatasetRef, label: str, row: Any) -> VersionRef:
        return parse_version(dataset, label, row, private=self._is_private)

    def _fetch_version_info(self, dataset: DatasetRef, label: str) -> VersionInfo:
        """A version as upstream has it now."""
        info = self.session.get_json(f"{dataset.source_uri}versions/{label}/info/")
        doi = None
        if label != DRAFT:
            doi = published_doi(self._instance_config(), dataset.local_id, label)
        return parse_version_info(dataset, label, info, doi=doi, private=self._is_private)

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Of a Zarr, its earlier states; none of a draft, whose own are kept nowhere."""
        return self._zarrs.history(dataset, since) if _is_zarr(dataset) else []

    def capabilities(self) -> Mapping[str, str]:
        """None to tell: the API allows the same everywhere."""
        return {}

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """None: only the listing tells."""
        return None

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """None: all datasets are the mirror's own."""
        return None

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """The assets of a version; its ``version`` holds upstream's summary as of now.

        Now is when :meth:`versions` told of it, where that was a moment ago. Facts and documents
        are there after the last entry, from the reply that shows that nothing moved meanwhile. Of
        a Zarr, its objects.
        """
        if _is_zarr(version.dataset):
            return self._zarrs.listing(version, context)
        dataset, label = version.dataset, version.upstream
        if label != DRAFT and not _VERSION.match(label):
            raise MalformedIdError(f"{dataset.name}: {label!r} is no version of a dandiset")
        page = self._prefetched_pages.pop(version)
        first = (
            None
            if self._recent_versions.consume(version)
            else self._fetch_version_info(dataset, label)
        )
        # upstream's summary from before the list proves it, so a page must not be older
        page = page if first is None else None
        closed: VersionInfo | None = None
        # git-annex tries no second URL of one remote when the first gives wrong bytes.
        web_remotes = (
            WebRemote(
                f"{self.mirror}-api",
                f"{self.options.api.replace('[', '[[]')}/assets/*/download/",
            ),
        )
        shaping = self.options.model_dump(
            mode="json", include={"api", "page_size", "zarrs", "metadata"}
        )
        shaping["allow_private"] = self.session.allow_private
        if self._is_private:
            shaping["embargoed"] = self.options.embargoed
        assets = self._assets(version)
        locator = ObjectLocator(
            self._heads,
            context,
            self._blob_versions,
            api=self.options.api,
            connections=self.options.connections,
        )
        shards = MetadataShards()
        items = PendingItems()
        page_size = self.options.page_size

        def bound_to(stated: VersionInfo) -> str:
            return context_digest(
                shaping, stated.version, stated.facts, (stated.document,), web_remotes
            )

        def closing() -> VersionRef:
            stated = closed or self._fetch_version_info(dataset, label)
            return stated.version

        def unchanged() -> bool:
            nonlocal first
            memo = load_memo(context.memo)
            if memo is None:
                return False
            if first is None:
                first = self._fetch_version_info(dataset, label)
                listing.version = first.version
            return memo.context_digest == bound_to(first) and assets.matches(memo.pages)

        def memo() -> bytes | None:
            # version ids are learnt apart from the pages
            whole = assets.is_complete and locator.is_settled and not assets.has_unfinalized_zarrs
            return (
                AssetListMemo(bound_to(closed), assets.page_digests).dump()
                if whole and closed
                else None
            )

        def pending() -> bytes | None:
            return (
                items.dump(len(assets.page_digests))
                if assets.is_complete and locator.is_settled
                else None
            )

        def entries() -> Iterator[AssetEntry]:
            nonlocal closed
            summary: list[Future[VersionInfo]] = []
            with ContextThreadPool(3, thread_name_prefix="dandi-ahead") as pool:
                if label != DRAFT:
                    pool.submit(self._instance_config)

                def after_pages() -> None:
                    summary.append(pool.submit(self._fetch_version_info, dataset, label))
                    following = self._recent_versions.next_version(version)
                    if following is not None:
                        ahead = pool.submit(self._assets(following).first_page, page_size)
                        self._prefetched_pages.add(following, ahead)

                rows = assets.rows(
                    published=label != DRAFT,
                    page_size=page_size,
                    to_component=self._to_component if self.options.zarrs else None,
                    on_rows=shards.add_rows if self.options.metadata else None,
                    private=self._is_private,
                    first=page,
                )
                taken: Iterator[Sequence[Row]] = map(
                    items.collect, yield_then_call(rows, after_pages)
                )
                if self._is_private:
                    taken = map(_drop_object_urls, taken)
                yield from locator.locate(taken)
                closed = summary[0].result()
            listing.facts, listing.documents = closed.facts, (closed.document, *shards.documents())

        listing = Listing(
            version=version if first is None else first.version,
            facts=DatasetFacts() if first is None else first.facts,
            documents=() if first is None else (first.document,),
            entries=entries(),
            confirm_version=closing,
            late_sha256=True,
            web_remotes=web_remotes,
            is_unchanged=unchanged,
            memo=memo,
            pending_items=pending,
            problems=locator.problems,
        )
        return listing

    def _assets(self, version: VersionRef) -> AssetList:
        dataset, label = version.dataset, version.upstream
        url = f"{dataset.source_uri}versions/{label}/assets/"
        return AssetList(self.session, url, f"{dataset.name}@{label}")

    def is_still_pending(self, dataset: DatasetRef, pending: bytes) -> bool:
        """Whether the archive has completed nothing of what was pending in the draft."""
        return is_still_pending(
            pending,
            self.session,
            self.options.api,
            lambda local_id: self._zarrs.state(self.dataset(local_id)).checksum,
            self.options.connections,
        )

    def _to_component(
        self, path: bytes, size: int, zarr_id: str, metadata: Mapping[str, Any]
    ) -> ComponentEntry | ExcludedEntry:
        if self._is_private:
            metadata = {name: value for name, value in metadata.items() if name != "access"}
        return self._zarrs.component(path, size, zarr_id, metadata)

    def _instance_config(self) -> Mapping[str, Any]:
        """``instance_config`` of the API's ``/info/``, asked for once."""
        with self._instance_lock:
            if self._instance is None:
                info = self.session.get_json(f"{self.options.api}/info/")
                found = info.get("instance_config") if isinstance(info, dict) else None
                self._instance = found if isinstance(found, dict) else {}
            return self._instance


def _is_zarr(dataset: DatasetRef) -> bool:
    return dataset.local_id.startswith(LOCAL_PREFIX)


def _drop_object_urls(rows: Sequence[Row]) -> list[Row]:
    """The rows of blobs that the bucket gives to nobody, without their objects' addresses."""
    return [replace(row, object_url=None) if isinstance(row, BlobRow) else row for row in rows]
