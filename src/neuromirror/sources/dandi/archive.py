"""The state that a source of a DANDI archive shares with its listings."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from neuromirror.model import DatasetRef, ExcludedEntry, VersionRef, WebRemote
from neuromirror.net import Session
from neuromirror.sources.dandi.asset_list import AssetList
from neuromirror.sources.dandi.blob_versions import BlobVersionLookup
from neuromirror.sources.dandi.buckets import BucketCache
from neuromirror.sources.dandi.document import published_doi
from neuromirror.sources.dandi.objects import ObjectHeads
from neuromirror.sources.dandi.options import DandiOptions
from neuromirror.sources.dandi.prefetch import PrefetchedPages
from neuromirror.sources.dandi.versions import (
    DRAFT,
    RecentVersions,
    VersionInfo,
    parse_version_info,
)
from neuromirror.sources.dandi.zarrs import ZarrSource
from neuromirror.sources.protocol import ComponentEntry

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
        self._instance: Mapping[str, Any] | None = None
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
        with self._instance_lock:
            if self._instance is None:
                info = self.session.get_json(f"{self.options.api}/info/")
                found = info.get("instance_config") if isinstance(info, dict) else None
                self._instance = found if isinstance(found, dict) else {}
            return self._instance

    def to_component(
        self, path: bytes, size: int, zarr_id: str, metadata: Mapping[str, Any]
    ) -> ComponentEntry | ExcludedEntry:
        """Return the entry of a Zarr asset."""
        if self.is_private:
            # every asset is under embargo here: that excludes none
            metadata = {name: value for name, value in metadata.items() if name != "access"}
        return self.zarrs.component(path, size, zarr_id, metadata)
