"""The demo archive's state, and everything that can happen to it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromirror.demo.nwb import nwb_bytes, recipe_of
from neuromirror.demo.records import (
    ArchiveClock,
    Asset,
    Blob,
    Dandiset,
    Description,
    Summary,
    Version,
    Zarr,
    ZarrEntry,
    fixed_uuid,
)
from neuromirror.model import NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.demo.bucket import Bucket

_CONTENT_TYPES = {
    ".nwb": "application/x-nwb",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".json": "application/json",
}


class DemoError(NeuromirrorError):
    """The demo archive was asked for something it does not hold or cannot do."""


class Archive:
    """Dandisets in memory, their bytes in a bucket, and the verbs that change them.

    Every verb is one change at one moment of the archive's own clock. ``dandiset`` is a six-digit
    id, ``path`` an asset's path in its draft unless said otherwise. All raise
    :class:`DemoError` for a dandiset, version or path that is not there.
    """

    def __init__(self, bucket: Bucket, cache: Path, clock: ArchiveClock | None = None) -> None:
        self.bucket = bucket
        self.clock = ArchiveClock() if clock is None else clock
        self.dandisets: dict[str, Dandiset] = {}
        self.assets: dict[str, Asset] = {}
        self.blobs: dict[str, Blob] = {}
        self.zarrs: dict[str, Zarr] = {}
        self.lock = threading.RLock()
        self.frozen_summaries: dict[tuple[str, str], Summary] | None = None
        """Where set, what the lists tell of each version in place of the truth."""
        self._cache = cache
        self._made = 0

    # -- dandisets

    def create_dandiset(
        self, description: Description, *, identifier: str | None = None, embargoed: bool = False
    ) -> str:
        """Make an empty dandiset; returns its id, by default the next free one."""
        with self.lock:
            if identifier is None:
                identifier = f"{max((int(name) for name in self.dandisets), default=0) + 1:06d}"
            if identifier in self.dandisets:
                raise DemoError(f"dandiset {identifier} exists already: choose another id")
            now = self.clock.tick()
            later = now + timedelta(milliseconds=14)
            draft = Version("draft", description, later, later, status="Invalid")
            self.dandisets[identifier] = Dandiset(
                identifier, now, now + timedelta(microseconds=27), draft, embargoed=embargoed
            )
            return identifier

    def set_metadata(
        self,
        dandiset: str,
        *,
        title: str | None = None,
        text: str | None = None,
        license: str | None = None,
    ) -> None:
        """Change what the draft says about itself."""
        given = {"title": title, "text": text, "license": license}
        changed: dict[str, Any] = {name: value for name, value in given.items() if value}
        with self._draft(dandiset) as (draft, _):
            draft.description = replace(draft.description, **changed)

    def touch(self, dandiset: str) -> None:
        """Validate the draft anew: its ``modified`` moves, nothing else."""
        with self._draft(dandiset):
            pass

    def unembargo(self, dandiset: str) -> None:
        """Open the dandiset and its bytes to everyone."""
        with self._draft(dandiset) as (_, now):
            found = self._dandiset(dandiset)
            found.embargoed = False
            found.modified = now
            self.bucket.allow(self._keys(found))

    def delete_dandiset(self, dandiset: str) -> None:
        """Take the dandiset and its assets away; from now on they are 404."""
        with self.lock:
            self._dandiset(dandiset)
            self.clock.tick()
            del self.dandisets[dandiset]
            for asset_id in [i for i, one in self.assets.items() if one.dandiset == dandiset]:
                del self.assets[asset_id]
            for zarr_id in [i for i, one in self.zarrs.items() if one.dandiset == dandiset]:
                del self.zarrs[zarr_id]

    def publish(self, dandiset: str) -> str:
        """Publish the draft; returns the label ``0.YYMMDD.HHMM``.

        Assets keep their ids; those not published before get ``publishedBy`` and
        ``datePublished``, and a new ``modified``.
        """
        with self.lock:
            found = self._dandiset(dandiset)
            if found.embargoed or not found.draft.assets:
                raise DemoError(f"dandiset {dandiset} is embargoed or empty: it is not published")
            if any(asset.zarr is not None for asset in found.draft.assets.values()):
                raise DemoError(f"dandiset {dandiset} holds a Zarr: the archive publishes none")
            now = self.clock.tick()
            label = now.strftime("0.%y%m%d.%H%M")
            if found.version(label) is not None:
                raise DemoError(f"dandiset {dandiset} has a version {label}: let the clock go on")
            created = now + timedelta(milliseconds=153)
            version = Version(
                label,
                found.draft.description,
                created,
                created + timedelta(milliseconds=294),
                dict(found.draft.assets),
                published_by=self._publish_activity(now),
            )
            activity = self._publish_activity(now + timedelta(milliseconds=31))
            for number, asset in enumerate(version.assets.values()):
                if asset.published_by is None:
                    asset.published_by = activity
                    asset.modified = now + timedelta(milliseconds=160, microseconds=number)
            found.published.append(version)
            found.draft.status = "Published"
            found.draft.modified = now + timedelta(milliseconds=500)
            self._write_manifests(found, version)
            return label

    # -- files of a draft

    def add_file(
        self,
        dandiset: str,
        path: str,
        content: bytes | str | None = None,
        *,
        sha256_known: bool = True,
    ) -> str:
        """Upload a file to the draft; returns its asset id.

        Without ``content`` a path that ends in ``.nwb`` gets a real NWB file, another a line of
        text. Equal bytes are stored once: the blob is then that of the earlier upload, whose
        ``sha256_known`` stands.
        """
        with self._draft(dandiset) as (draft, now):
            if path in draft.assets:
                raise DemoError(f"{path} is in the draft of {dandiset}: use change_file")
            return self._place(dandiset, path, self._content(path, content), now, sha256_known)

    def change_file(self, dandiset: str, path: str, content: bytes | str | None = None) -> str:
        """Replace a file of the draft; returns the new asset id."""
        with self._draft(dandiset) as (draft, now):
            self._asset(dandiset, path)
            data = self._content(path, content, revision=self._made + 1)
            del draft.assets[path]
            return self._place(dandiset, path, data, now, sha256_known=True)

    def remove_file(self, dandiset: str, path: str) -> None:
        """Take a file out of the draft; the asset itself stays readable by its id."""
        with self._draft(dandiset) as (draft, _):
            self._asset(dandiset, path)
            del draft.assets[path]

    def rename_file(self, dandiset: str, path: str, new_path: str) -> str:
        """Move a file of the draft: a new asset of the same blob or Zarr; returns its id."""
        with self._draft(dandiset) as (draft, now):
            old = self._asset(dandiset, path)
            if new_path in draft.assets:
                raise DemoError(f"{new_path} is in the draft of {dandiset} already")
            del draft.assets[path]
            return self._new_asset(dandiset, new_path, now, blob=old.blob, zarr=old.zarr)

    def reveal_sha256(self, dandiset: str, path: str) -> None:
        """Let the archive know the file's sha256; neither asset nor version is modified."""
        with self.lock:
            self._blob(dandiset, path).sha256_known = True

    # -- Zarrs

    def add_zarr(self, dandiset: str, path: str, entries: Mapping[str, bytes]) -> str:
        """Upload a Zarr to the draft; returns its zarr id."""
        with self._draft(dandiset) as (_, now):
            zarr = Zarr(self._uuid("zarr"), path, dandiset)
            self.zarrs[zarr.zarr_id] = zarr
            for name, data in sorted(entries.items()):
                self._put_entry(zarr, name, data, now)
            self._new_asset(dandiset, path, now, zarr=zarr)
            return zarr.zarr_id

    def change_zarr(
        self, dandiset: str, path: str, entry: str, content: bytes | None, *, quiet: bool = False
    ) -> None:
        """Change, add or (``content`` None) delete one entry of a Zarr; ids stay.

        With ``quiet`` neither asset nor draft is modified, as happens with deletions upstream.
        """
        with self.lock:
            asset = self._asset(dandiset, path)
            zarr = asset.zarr
            if zarr is None:
                raise DemoError(f"{path} of dandiset {dandiset} is not a Zarr")
            if content is None and entry not in zarr.entries:
                raise DemoError(f"the Zarr {path} has no entry {entry}")
            now = self.clock.tick()
            if content is None:
                del zarr.entries[entry]
                self.bucket.delete(zarr.key(entry))
            else:
                self._put_entry(zarr, entry, content, now)
            if not quiet:
                asset.modified = self._dandiset(dandiset).draft.modified = now

    # -- what must not happen

    def tamper_published(
        self,
        dandiset: str,
        version: str,
        path: str,
        content: bytes | str | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Put other bytes, with other checksums, under an asset of a published version.

        With ``quiet`` the version's ``modified`` does not move. Versions and the draft that
        share the asset show the same.
        """
        with self.lock:
            found = self._version(dandiset, version)
            asset = self._asset(dandiset, path, version)
            now = self.clock.tick()
            data = self._content(path, content, revision=self._made + 1)
            asset.blob = self._store(data, path, now, sha256_known=True)
            if not quiet:
                found.modified = now

    def corrupt_blob(self, dandiset: str, path: str, version: str = "draft") -> None:
        """Let the bucket give wrong bytes of the right size for a file; its ETag stays."""
        with self.lock:
            blob = self._blob(dandiset, path, version)
            self._rewrite(blob, bytes(byte ^ 0xFF for byte in blob.data))

    def heal_blob(self, dandiset: str, path: str, version: str = "draft") -> None:
        """Take back :meth:`corrupt_blob`."""
        with self.lock:
            blob = self._blob(dandiset, path, version)
            self._rewrite(blob, blob.data)

    # -- scale

    def make_many(
        self, dandiset: str | None, n_files: int, *, objects: bool = True, folder: str = "many"
    ) -> str:
        """Add ``n_files`` small text files to a draft, made if it is not there; returns its id.

        Without ``objects`` nothing is put in the bucket: the files can be listed, not fetched.
        """
        with self.lock:
            if dandiset is None or dandiset not in self.dandisets:
                title = Description(f"{n_files} small files (demo)", "Made-up text files.")
                dandiset = self.create_dandiset(title, identifier=dandiset)
            with self._draft(dandiset) as (draft, now):
                for number in range(n_files):
                    path = f"{folder}/{number // 1000:04d}/file-{number:07d}.txt"
                    data = f"file {number} of {dandiset} {folder}\n".encode()
                    if path in draft.assets:
                        raise DemoError(f"{path} is in {dandiset} already: choose another folder")
                    moment = now + timedelta(microseconds=number)
                    blob = self._store(data, path, moment, objects=objects, sha256_known=True)
                    self._new_asset(dandiset, path, moment, blob=blob)
            return dandiset

    def make_dandisets(self, n: int, *, objects: bool = True) -> list[str]:
        """Add ``n`` dandisets of one small text file each; returns their ids."""
        made = []
        for _ in range(n):
            identifier = self.create_dandiset(Description("One small file (demo)"))
            made.append(self.make_many(identifier, 1, objects=objects, folder="one"))
        return made

    # -- looking

    def freeze_summaries(self) -> None:
        """From now on the lists tell of each version what is true at this moment."""
        with self.lock:
            self.frozen_summaries = {
                (one.identifier, version.label): version.summary
                for one in self.dandisets.values()
                for version in one.versions
            }

    def sha256(self, dandiset: str, path: str, version: str = "draft") -> str:
        """The true sha256 of a file, whether the archive shows it or not."""
        return self._blob(dandiset, path, version).sha256

    def paths(self, dandiset: str, version: str = "draft") -> list[str]:
        """The asset paths of a version, sorted."""
        return sorted(self._version(dandiset, version).assets)

    # -- parts

    @contextmanager
    def _draft(self, dandiset: str) -> Iterator[tuple[Version, datetime]]:
        """A change of a draft: its ``modified`` moves if the change went well."""
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

    def _version(self, dandiset: str, label: str) -> Version:
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
        self._made += 1
        return fixed_uuid(kind, self._made)

    def _content(self, path: str, content: bytes | str | None, revision: int = 0) -> bytes:
        if isinstance(content, str):
            return content.encode()
        if content is not None:
            return content
        if path.endswith(".nwb"):
            return nwb_bytes(recipe_of(path, revision), self._cache)
        return f"{path}, revision {revision}\n".encode()

    def _store(
        self, data: bytes, path: str, now: datetime, *, sha256_known: bool, objects: bool = True
    ) -> Blob:
        kept = self.blobs.get(hashlib.sha256(data).hexdigest())
        if kept is None:
            content_type = _CONTENT_TYPES.get(Path(path).suffix, "application/octet-stream")
            kept = Blob(self._uuid("blob"), data, content_type, sha256_known)
            self.blobs[kept.sha256] = kept
        if objects and kept.version_id is None:
            kept.version_id = self.bucket.put(
                kept.key, data, etag=kept.etag, content_type=kept.content_type, modified=now
            )
        return kept

    def _place(
        self, dandiset: str, path: str, data: bytes, now: datetime, sha256_known: bool
    ) -> str:
        blob = self._store(data, path, now, sha256_known=sha256_known)
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
        if found.embargoed:
            self.bucket.deny(_asset_keys([asset]))
        return asset.asset_id

    def _put_entry(self, zarr: Zarr, name: str, data: bytes, now: datetime) -> None:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        version_id = self.bucket.put(
            zarr.key(name), data, etag=etag, content_type="binary/octet-stream", modified=now
        )
        zarr.entries[name] = ZarrEntry(data, etag, now, version_id)

    def _rewrite(self, blob: Blob, data: bytes) -> None:
        if blob.version_id is None:
            raise DemoError(f"blob {blob.blob_id} has no object in the bucket")
        self.bucket.overwrite(blob.key, blob.version_id, data)

    def _keys(self, dandiset: Dandiset) -> list[str]:
        return [
            key for version in dandiset.versions for key in _asset_keys(version.assets.values())
        ]

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

    manifests: Callable[[Dandiset, Version], dict[str, bytes]] | None = None
    """Gives the documents that the archive leaves in the bucket for a published version."""

    def _write_manifests(self, dandiset: Dandiset, version: Version) -> None:
        if self.manifests is None:
            return
        for key, data in self.manifests(dandiset, version).items():
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self.bucket.put(
                key, data, etag=etag, content_type="text/plain", modified=version.modified
            )


def _asset_keys(assets: Iterable[Asset]) -> list[str]:
    keys = []
    for asset in assets:
        if asset.blob is not None:
            keys.append(asset.blob.key)
        if asset.zarr is not None:
            keys += [asset.zarr.key(name) for name in asset.zarr.entries]
    return keys
