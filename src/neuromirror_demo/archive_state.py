"""The state of the demo archive, and the steps of its operations."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromirror.model import NeuromirrorError
from neuromirror_demo.checksums import part_sizes
from neuromirror_demo.nwb import nwb_bytes, parse_recipe
from neuromirror_demo.records import (
    ArchiveClock,
    Asset,
    Blob,
    Dandiset,
    DandisetVersion,
    VersionSummary,
    Zarr,
    fixed_uuid,
)

if TYPE_CHECKING:
    from neuromirror_demo.dandi_bucket import DandiBucket

_CONTENT_TYPES = {
    ".nwb": "application/x-nwb",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".json": "application/json",
}


class DemoError(NeuromirrorError):
    """The demo archive does not have a requested item, or does not support an operation."""


class ArchiveState:
    """Dandisets, assets, blobs and Zarrs in memory, their bytes in a bucket."""

    def __init__(self, bucket: DandiBucket, cache: Path, clock: ArchiveClock | None = None) -> None:
        self.bucket = bucket
        self.clock = bucket.clock = ArchiveClock() if clock is None else clock
        self.dandisets: dict[str, Dandiset] = {}
        self.assets: dict[str, Asset] = {}
        self.blobs: dict[str, Blob] = {}
        self.zarrs: dict[str, Zarr] = {}
        self.lock = threading.RLock()
        self.members_only = False
        """Whether every request needs a token, as at LINC."""
        self.frozen_summaries: dict[tuple[str, str], VersionSummary] | None = None
        """If set, the outdated summary that lists report for each version."""
        self.manifests: Callable[[Dandiset, DandisetVersion], dict[str, bytes]] | None = None
        """Returns the documents that the archive writes to the bucket for a published version."""
        self._cache = cache
        self._uuid_counter = 0

    def is_embargoed(self, asset: Asset) -> bool:
        """Whether an asset is embargoed: a blob has its own status, a Zarr that of its dandiset."""
        if asset.blob is not None:
            return asset.blob.embargoed
        assert asset.zarr is not None
        return self.dandisets[asset.zarr.dandiset].embargoed

    @contextmanager
    def _draft(self, dandiset: str) -> Iterator[tuple[DandisetVersion, datetime]]:
        """Change a draft in a block: its ``modified`` changes unless the block raises."""
        with self.lock:
            draft = self._dandiset(dandiset).draft
            now = self.clock.now + self.clock.step
            yield draft, now
            self.clock.tick()
            draft.modified = now + timedelta(milliseconds=120)
            draft.status = "Valid" if draft.assets else "Invalid"

    def _dandiset(self, dandiset: str) -> Dandiset:
        if dandiset not in self.dandisets:
            raise DemoError(f"no dandiset {dandiset!r}: there are {', '.join(self.dandisets)}")
        return self.dandisets[dandiset]

    def _version(self, dandiset: str, label: str) -> DandisetVersion:
        version = self._dandiset(dandiset).version(label)
        if version is None:
            raise DemoError(f"dandiset {dandiset} has no version {label!r}")
        return version

    def _asset(self, dandiset: str, path: str, version: str = "draft") -> Asset:
        asset = self._version(dandiset, version).assets.get(path)
        if asset is None:
            raise DemoError(f"no {path!r} in {dandiset}/{version}")
        return asset

    def _blob(self, dandiset: str, path: str, version: str = "draft") -> Blob:
        blob = self._asset(dandiset, path, version).blob
        if blob is None:
            raise DemoError(f"{path!r} in {dandiset}/{version} is a Zarr")
        return blob

    def _uuid(self, kind: str) -> str:
        self._uuid_counter += 1
        return fixed_uuid(kind, self._uuid_counter)

    def _content(self, path: str, content: bytes | str | None, revision: int = 0) -> bytes:
        if isinstance(content, str):
            return content.encode()
        if content is not None:
            return content
        if path.endswith(".nwb"):
            return nwb_bytes(parse_recipe(path, revision), self._cache)
        return f"{path}, revision {revision}\n".encode()

    def _store(
        self,
        data: bytes,
        path: str,
        now: datetime,
        *,
        sha256_known: bool,
        objects: bool = True,
        embargoed: bool = False,
    ) -> Blob:
        kept = self.blobs.get(hashlib.sha256(data).hexdigest())
        if kept is None:
            content_type = _CONTENT_TYPES.get(Path(path).suffix, "application/octet-stream")
            kept = Blob(self._uuid("blob"), data, content_type, sha256_known, embargoed=embargoed)
            self.blobs[kept.sha256] = kept
        if objects and kept.version_id is None:
            kept.version_id = self.bucket.store(
                kept.key,
                data,
                etag=kept.etag,
                content_type=kept.content_type,
                modified=now,
                parts=part_sizes(len(data)),
                embargoed=kept.embargoed,
            )
        return kept

    def _put_asset(
        self, dandiset: str, path: str, data: bytes, now: datetime, sha256_known: bool
    ) -> str:
        embargoed = self._dandiset(dandiset).embargoed
        blob = self._store(data, path, now, sha256_known=sha256_known, embargoed=embargoed)
        return self._new_asset(dandiset, path, now, blob=blob)

    def _new_asset(
        self,
        dandiset: str,
        path: str,
        now: datetime,
        *,
        blob: Blob | None = None,
        zarr: Zarr | None = None,
    ) -> str:
        found = self._dandiset(dandiset)
        modified = now + timedelta(microseconds=24)
        asset = Asset(self._uuid("asset"), dandiset, path, now, modified, blob, zarr)
        self.assets[asset.asset_id] = asset
        found.draft.assets[path] = asset
        if blob is not None and not found.embargoed:
            self._open(blob)
        return asset.asset_id

    def _open(self, blob: Blob) -> None:
        """Make the bytes of an open dandiset public."""
        if blob.embargoed:
            blob.embargoed = False
            self.bucket.untag(blob.key)

    def _rewrite(self, blob: Blob, data: bytes) -> None:
        if blob.version_id is None:
            raise DemoError(f"blob {blob.blob_id} has no object in the bucket")
        self.bucket.overwrite(blob.key, blob.version_id, data)

    def _publish_activity(self, now: datetime) -> dict[str, Any]:
        return {
            "id": f"urn:uuid:{self._uuid('activity')}",
            "name": "DANDI publish",
            "endDate": now.isoformat(),
            "schemaKey": "PublishActivity",
            "startDate": now.isoformat(),
            "wasAssociatedWith": [
                {
                    "id": f"urn:uuid:{self._uuid('software')}",
                    "name": "DANDI API",
                    "version": "0.1.0",
                    "schemaKey": "Software",
                    "identifier": "RRID:SCR_017571",
                }
            ],
        }

    def _write_manifests(self, dandiset: Dandiset, version: DandisetVersion) -> None:
        if self.manifests is None:
            return
        for key, data in self.manifests(dandiset, version).items():
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self.bucket.put(
                key, data, etag=etag, content_type="text/plain", modified=version.modified
            )
