"""The listing of one version of a dandiset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.model import DatasetFacts, ExcludedEntry, FileRecord, NeuromirrorError, VersionRef
from neuromirror.net import ContextThreadPool, Session
from neuromirror.sources.dandi.archive import (
    VERSION_PATTERN,
    AssetListMemo,
    DandiArchive,
    context_digest,
    load_memo,
)
from neuromirror.sources.dandi.objects import AssetEntry, ObjectLocator
from neuromirror.sources.dandi.rows import SHA256, BlobRow, Row
from neuromirror.sources.dandi.versions import DRAFT, MetadataShards, VersionInfo
from neuromirror.sources.errors import (
    MalformedIdError,
    UnreliableListingError,
    UpstreamChangingError,
)
from neuromirror.sources.protocol import EMBARGOED, ComponentEntry, Listing, VisitContext
from neuromirror.sources.volumes.urls import VOLUME_REMOTE

_MOST: Final = 1_000
"""Maximum items; a visit takes fewer requests."""
_REQUESTS_PER_VISIT: Final = 2
"""Requests of a visit of an unchanged draft, without its pages."""
_REQUESTS_PER_ZARR: Final = 3
"""Minimum requests per Zarr without checksum in such a visit."""


class PendingItems(Struct):
    """The items of a draft that the archive has yet to complete, collected from its asset list.

    Attributes
    ----------
    assets
        Ids of the assets without a sha256.
    zarrs
        Local ids of the Zarrs without a checksum.
    embargoed
        Whether a Zarr under embargo was left out. The end of the embargo shows only in the list of
        assets.
    """

    assets: list[str] = field(default_factory=list)
    zarrs: list[str] = field(default_factory=list)
    embargoed: bool = False

    def collect(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Collect the pending items of a page, and return its rows."""
        for row in rows:
            if len(self.assets) + len(self.zarrs) > _MOST:
                break
            if isinstance(row, ExcludedEntry):
                self.embargoed |= row.reason == EMBARGOED
            elif isinstance(row, ComponentEntry):
                if row.version.claimed_totals is None:
                    self.zarrs.append(row.dataset.local_id)
            elif row.record.digest("sha256") is None:
                self.assets.append(row.asset_id)
        return rows

    def dump(self, pages: int) -> bytes | None:
        """Return the items as JSON.

        None if nothing is pending, or if a visit, whose asset list has this number of ``pages``,
        takes no more requests.
        """
        count = len(self.assets) + len(self.zarrs)
        visit = _REQUESTS_PER_VISIT + pages + _REQUESTS_PER_ZARR * len(self.zarrs)
        if self.embargoed or not 0 < count <= visit:
            return None
        return msgspec.json.encode([self.assets, self.zarrs])


def is_still_pending(
    content: bytes,
    session: Session,
    api: str,
    zarr_checksum: Callable[[str], str | None],
    connections: int,
) -> bool:
    """Return whether all items that were pending at the last visit are still pending.

    The result is also False if an item cannot be requested: the visit then reports the problem.

    Parameters
    ----------
    content
        The pending items, from :meth:`PendingItems.dump`.
    session, api
        The archive's session, and the URL of its API.
    zarr_checksum
        Requests the checksum of a Zarr by its local id; returns None before it is computed.
    connections
        Maximum number of parallel requests.
    """

    def asset_is_pending(asset_id: str) -> bool:
        metadata = session.get_json(f"{api}/assets/{asset_id}/")
        digest = metadata.get("digest") if isinstance(metadata, dict) else None
        return isinstance(digest, dict) and not _is_sha256(digest.get("dandi:sha2-256"))

    def zarr_is_pending(local_id: str) -> bool:
        return zarr_checksum(local_id) is None

    try:
        assets, zarrs = msgspec.json.decode(content, type=tuple[list[str], list[str]])
        count = max(1, min(connections, len(assets) + len(zarrs)))
        with ContextThreadPool(count, thread_name_prefix="dandi-pending") as pool:
            futures = [
                *(pool.submit(asset_is_pending, asset) for asset in assets),
                *(pool.submit(zarr_is_pending, zarr) for zarr in zarrs),
            ]
            try:
                return all(future.result() for future in futures)
            finally:
                for future in futures:
                    future.cancel()
    except (NeuromirrorError, msgspec.DecodeError):
        return False


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and SHA256.match(value.lower()) is not None


class DandisetListing(Listing):
    """The listing of one version of a dandiset: its assets.

    :attr:`version` has the totals that upstream stated before the list was read. Facts and
    documents are complete after the last entry; they come from the reply that confirms the totals.

    A draft may grow while its list is read. Rows that were created after :attr:`version` are then
    left out, and the others are its assets at that time if they are as many as it states: assets
    are immutable and never return, so the rows that are old enough were all there.
    """

    def __init__(self, archive: DandiArchive, version: VersionRef, context: VisitContext) -> None:
        dataset, label = version.dataset, version.upstream
        if label != DRAFT and not VERSION_PATTERN.match(label):
            raise MalformedIdError(f"{dataset.name}: {label!r} is not a version of a dandiset")
        self._archive = archive
        self._context = context
        page = archive.prefetched_pages.pop(version)
        self._before = (
            None
            if archive.recent_versions.consume(version)
            else archive.fetch_version_info(dataset, label)
        )
        # The totals must be older than the list that they are compared with, so a page that was
        # fetched before them is of no use.
        self._first_page = page if self._before is None else None
        self._after: VersionInfo | None = None
        self._closing: Future[VersionInfo] | None = None
        """The request for the version after the last page."""
        self._row_count = 0
        self._assets = archive.asset_list(version)
        self._locator = ObjectLocator(
            archive.heads,
            context,
            archive.blob_versions,
            api=archive.options.api,
            connections=archive.options.connections,
        )
        self._shards = MetadataShards()
        self._pending = PendingItems()
        before = self._before
        super().__init__(
            version if before is None else before.version,
            DatasetFacts() if before is None else before.facts,
            () if before is None else (before.document,),
            web_remotes=archive.web_remotes,
            special_remotes=(VOLUME_REMOTE,) if archive.is_private else (),
            late_sha256=True,
        )

    def entries(self) -> Iterator[AssetEntry]:
        """Yield the assets with their locations."""
        is_private = self._archive.is_private
        is_published = self.version.upstream != DRAFT
        with ContextThreadPool(3, thread_name_prefix="dandi-prefetch") as pool:
            if is_published:
                pool.submit(self._archive.instance_config)
            collected: Iterator[Sequence[Row]] = map(self._pending.collect, self._rows(pool))
            if is_private:
                collected = map(_drop_object_urls, collected)
            located = self._locator.locate(collected)
            yield from map(_claim_api_url, located) if is_private else located
            self._has_changed()
        self.lacks_sizes = self._assets.has_unfinalized_zarrs
        info = self._before if self._has_changed() else self._after
        if info is not None:
            self.facts = info.facts
            self.documents = (info.document, *self._shards.documents())

    def _rows(self, pool: ContextThreadPool) -> Iterator[list[Row]]:
        """Yield the rows of each page, those after the draft's time only if it did not change."""
        options, is_published = self._archive.options, self.version.upstream != DRAFT

        def include_newer() -> bool:
            self._closing = self._request_ahead(pool)
            return bool(self._assets.newer_rows) and not self._has_changed()

        try:
            for rows in self._assets.rows(
                moment=None if is_published else self.version.time,
                page_size=options.page_size,
                to_component=self._archive.to_component if options.zarrs else None,
                on_rows=self._shards.add_rows if options.metadata else None,
                private=self._archive.is_private,
                first=self._first_page,
                include_newer=include_newer,
            ):
                self._row_count += len(rows)
                yield rows
        except UnreliableListingError as error:
            if not is_published and self._has_changed():
                raise UpstreamChangingError(str(error)) from error
            raise
        if self._assets.growth and not self._has_changed():
            raise UnreliableListingError(self._assets.growth)

    def _has_changed(self) -> bool:
        """Return whether the version's totals or time changed while the list was read."""
        if self._after is None:
            version = self.version
            self._after = (
                self._archive.fetch_version_info(version.dataset, version.upstream)
                if self._closing is None
                else self._closing.result()
            )
        return self._after.version != self.version

    def _request_ahead(self, pool: ContextThreadPool) -> Future[VersionInfo]:
        """Request the closing totals and the next version's first page, after the last page."""
        version = self.version
        info = pool.submit(self._archive.fetch_version_info, version.dataset, version.upstream)
        following = self._archive.recent_versions.next_version(version)
        if following is not None:
            page_size = self._archive.options.page_size
            page = pool.submit(self._archive.asset_list(following).first_page, page_size)
            self._archive.prefetched_pages.add(following, page)
        return info

    def confirm_version(self) -> VersionRef:
        """Return the version as of the end of the list, or of its beginning if that is proven."""
        claimed = self.version.claimed_totals
        if not self._has_changed() or (
            self._before is not None
            and self.version.upstream == DRAFT
            and claimed is not None
            and claimed.files == self._row_count
        ):
            return self.version
        assert self._after is not None
        return self._after.version

    def is_unchanged(self) -> bool:
        """Return whether totals, facts and every page of the list match the memo."""
        memo = load_memo(self._context.memo)
        if memo is None:
            return False
        if self._before is None:
            version = self.version
            self._before = self._archive.fetch_version_info(version.dataset, version.upstream)
            self.version = self._before.version
        return memo.context_digest == self._context_digest(self._before) and self._assets.matches(
            memo.pages
        )

    def memo(self) -> bytes | None:
        """Return the digests of the pages; None if an equal list could give other records."""
        is_complete = self._is_settled() and not self._assets.has_unfinalized_zarrs
        if not is_complete or self._after is None or self._has_changed():
            return None
        return AssetListMemo(self._context_digest(self._after), self._assets.page_digests).dump()

    def pending_items(self) -> bytes | None:
        """Return the assets without sha256 and the Zarrs without checksum."""
        if not self._is_settled():
            return None
        return self._pending.dump(len(self._assets.page_digests))

    def problems(self) -> Sequence[str]:
        """Return one line for each object that is missing or has another size."""
        return self._locator.problems()

    def _is_settled(self) -> bool:
        """Return whether the list was read and every version id is known."""
        return self._assets.is_complete and self._locator.is_settled

    def _context_digest(self, info: VersionInfo) -> str:
        return context_digest(
            self._archive.listing_options(),
            info.version,
            info.facts,
            (info.document,),
            self.web_remotes,
        )


def _claim_api_url(entry: AssetEntry) -> AssetEntry:
    """Return the entry with its API URL claimed by the special remote, which has the token."""
    if not isinstance(entry, FileRecord):
        return entry
    locations = tuple(msgspec.structs.replace(one, kind="api-private") for one in entry.locations)
    return msgspec.structs.replace(entry, locations=locations)


def _drop_object_urls(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without object URLs, because the bucket refuses these objects."""
    return [replace(row, object_url=None) if isinstance(row, BlobRow) else row for row in rows]
