"""Zarr assets: each is a dataset of its own, listed from the bucket and verified by its checksum.

The API's list of a Zarr's files is not used: it has no version ids, its ``prefix=1/`` also returns
``10/``, and it may answer for an embargoed Zarr.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from neuromirror.model import DatasetHint, DatasetRef, ExcludedEntry, VersionKind, VersionRef
from neuromirror.net import ContextThreadPool, Session
from neuromirror.sources.dandi.blob_versions import BucketCache, ObjectAddress, parse_object_url
from neuromirror.sources.dandi.rows import is_embargoed, stated_zarr_checksum
from neuromirror.sources.dandi.zarr_listing import (
    CHECKSUM_PATTERN,
    CURRENT,
    LOCAL_PREFIX,
    PENDING,
    ZarrApi,
    ZarrListing,
    ZarrState,
    is_checksum,
    prefix_url,
)
from neuromirror.sources.errors import (
    ComponentRefusedError,
    ComponentUnavailableError,
    MalformedIdError,
)
from neuromirror.sources.protocol import EMBARGOED, ComponentEntry, VisitContext
from neuromirror.sources.s3.history import burst_ends, moment_of, upstream_name


class ZarrSource:
    """The Zarrs of one archive. Thread-safe.

    Parameters
    ----------
    session, mirror, api
        The archive: its session, the mirror's name, and the base URL of its API.
    buckets
        The archive's buckets.
    connections
        Number of parallel requests.
    history_gap
        Changes with shorter pauses between them count as one earlier state.
    objects_are_private
        Whether the objects can be listed but not read, as under embargo.
    """

    def __init__(
        self,
        session: Session,
        mirror: str,
        api: str,
        buckets: BucketCache,
        *,
        connections: int,
        history_gap: timedelta = timedelta(hours=1),
        objects_are_private: bool = False,
    ) -> None:
        self._api = ZarrApi(session, mirror, api)
        self._buckets = buckets
        self._connections = connections
        self._gap = history_gap
        self._objects_are_private = objects_are_private
        self._must_head = threading.Event()

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the dataset of ``zarr/<zarr id>``; raise MalformedIdError."""
        return self._api.dataset(local_id)

    def state(self, dataset: DatasetRef) -> ZarrState:
        """Return a Zarr's current state, as :meth:`ZarrApi.state` does."""
        return self._api.state(dataset)

    def component(
        self, path: bytes, size: int, zarr_id: str, metadata: Mapping[str, Any]
    ) -> ComponentEntry | ExcludedEntry:
        """Return the entry for a Zarr's row in an asset list; no request is made."""
        dataset = self.dataset(f"{LOCAL_PREFIX}{zarr_id}")
        if is_embargoed(metadata):
            detail = f"Zarr asset {zarr_id}: it is under embargo"
            return ExcludedEntry(path, EMBARGOED, detail, size)
        checksum = stated_zarr_checksum(metadata)
        url = prefix_url(metadata, zarr_id)
        if url is None or not (checksum is None or is_checksum(checksum)):
            wrong = "no prefix in the bucket" if url is None else f"the checksum {checksum!r:.80}"
            return ExcludedEntry(path, "malformed", f"Zarr asset {zarr_id} has {wrong}", size)
        version = self._api.version(dataset, None if checksum is None else str(checksum))
        address = parse_object_url(url)
        return ComponentEntry(
            path, size, version, lambda context: self.listing(version, context, address)
        )

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return one Zarr's hint; its fingerprint is the checksum, if there is one.

        A Zarr that is refused or hidden counts as embargoed, since that is how the archive replies
        for an embargoed Zarr.
        """
        try:
            state = self.state(dataset)
        except ComponentRefusedError:
            return DatasetHint(dataset, EMBARGOED, unavailable=EMBARGOED)
        return DatasetHint(dataset, state.checksum, title=state.name)

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return the current state."""
        return [self._api.version(dataset, self.state(dataset).checksum)]

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Return earlier states from object versions and delete markers, oldest first.

        Empty if the bucket does not list versions.
        """
        self.state(dataset)
        address = self._api.address(dataset)
        if not self._buckets.capabilities(address).versions_listable:
            return []
        pages = self._buckets.bucket(address).objects(
            address.key, versions=True, connections=self._connections
        )
        return [
            VersionRef(dataset, upstream_name(moment), VersionKind.OBSERVED, moment)
            for moment in burst_ends(pages.rows(), self._gap)[:-1]
            if since is None or moment > since
        ]

    def listing(
        self, version: VersionRef, context: VisitContext, address: ObjectAddress | None = None
    ) -> ZarrListing:
        """Return the listing of a Zarr's current objects, or of those at the version's time.

        Raises
        ------
        ComponentUnavailableError
            If the Zarr is under embargo and has no checksum.
        ComponentRefusedError
            If the archive does not show it.
        MalformedIdError
            If the version's name is neither a checksum nor a time.
        """
        dataset = version.dataset
        if (
            moment_of(version.upstream) is None
            and version.upstream != CURRENT
            and not CHECKSUM_PATTERN.match(version.upstream)
        ):
            raise MalformedIdError(f"{dataset.name}: there is no version {version.upstream!r}")
        with ContextThreadPool(1, thread_name_prefix="dandi-probe") as pool:
            # request bucket and API in parallel if the bucket is known
            probed = None if address is None else pool.submit(self._buckets.capabilities, address)
            state = self.state(dataset)
        if address is None:
            address = self._api.address(dataset)
        capabilities = self._buckets.capabilities(address) if probed is None else probed.result()
        if self._objects_are_private:
            if state.checksum is None:
                raise ComponentUnavailableError(
                    f"{dataset.name}: it is under embargo and has no checksum yet to verify it by",
                    PENDING,
                )
            capabilities = replace(capabilities, version_readable=None)
        return ZarrListing(
            self._api,
            version,
            state,
            context,
            self._buckets.bucket(address),
            address.key,
            capabilities,
            connections=self._connections,
            objects_are_private=self._objects_are_private,
            must_head=self._must_head,
        )
