"""The state of the demo archive, and all operations that change it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from neuromirror_demo.archive_state import DemoError
from neuromirror_demo.records import Dandiset, DandisetVersion, Description
from neuromirror_demo.zarr_verbs import ZarrVerbs

__all__ = ["Archive", "DemoError"]


class Archive(ZarrVerbs):
    """Dandisets in memory, their bytes in a bucket, and the operations that change them.

    Every operation is one change at one moment of the archive's own clock. ``dandiset`` is a
    six-digit id, and ``path`` the path of an asset in its draft unless stated otherwise. All raise
    :class:`DemoError` for a missing dandiset, version or path.
    """

    # -- dandisets

    def create_dandiset(
        self, description: Description, *, identifier: str | None = None, embargoed: bool = False
    ) -> str:
        """Create an empty dandiset; return its id, by default the next free one."""
        with self.lock:
            if identifier is None:
                identifier = f"{max((int(name) for name in self.dandisets), default=0) + 1:06d}"
            if identifier in self.dandisets:
                raise DemoError(f"dandiset {identifier} exists already: choose another id")
            now = self.clock.tick()
            later = now + timedelta(milliseconds=14)
            draft = DandisetVersion("draft", description, later, later, status="Invalid")
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
        """Change the metadata of the draft."""
        given = {"title": title, "text": text, "license": license}
        changed: dict[str, Any] = {name: value for name, value in given.items() if value}
        with self._draft(dandiset) as (draft, _):
            draft.description = replace(draft.description, **changed)

    def touch(self, dandiset: str) -> None:
        """Validate the draft again: only its ``modified`` changes."""
        with self._draft(dandiset):
            pass

    def unembargo(self, dandiset: str) -> None:
        """Make the dandiset and its bytes public.

        As upstream does, this untags only the current version of each object; replaced versions
        stay private. The draft's ``modified`` changes, those of dandiset and assets do not.
        """
        with self._draft(dandiset):
            found = self._dandiset(dandiset)
            if not found.embargoed:
                raise DemoError(f"dandiset {dandiset} is under no embargo")
            found.embargoed = False
            for asset in found.draft.assets.values():
                if asset.blob is not None:
                    self._open(asset.blob)
                if asset.zarr is not None:
                    for entry in asset.zarr.entries:
                        self.bucket.untag(asset.zarr.key(entry))

    def delete_dandiset(self, dandiset: str) -> None:
        """Delete the dandiset and its assets; they are 404 from now on."""
        with self.lock:
            self._dandiset(dandiset)
            for asset in self.assets.values():
                if asset.zarr and asset.zarr.dandiset == dandiset != asset.dandiset:
                    raise DemoError(f"dandiset {asset.dandiset} uses a Zarr of {dandiset}")
            self.clock.tick()
            del self.dandisets[dandiset]
            for asset_id in [i for i, one in self.assets.items() if one.dandiset == dandiset]:
                del self.assets[asset_id]
            for zarr_id in [i for i, one in self.zarrs.items() if one.dandiset == dandiset]:
                del self.zarrs[zarr_id]

    def publish(self, dandiset: str) -> str:
        """Publish the draft; return the label ``0.YYMMDD.HHMM``.

        Assets keep their ids; those not published before get ``publishedBy``, ``datePublished`` and
        a new ``modified``.
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
            version = DandisetVersion(
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

    def unpublish(self, dandiset: str, version: str) -> None:
        """Delete a published version; its assets stay readable by their ids."""
        with self.lock:
            found = self._version(dandiset, version)
            if found not in self._dandiset(dandiset).published:
                raise DemoError(f"dandiset {dandiset} has not published its draft")
            self._dandiset(dandiset).published.remove(found)

    # -- files of a draft

    def add_file(
        self,
        dandiset: str,
        path: str,
        content: bytes | str | None = None,
        *,
        sha256_known: bool = True,
    ) -> str:
        """Upload a file to the draft; return its asset id.

        Without ``content`` a path that ends in ``.nwb`` gets a real NWB file, any other path a line
        of text. Equal bytes are stored once: the asset then uses the blob of the earlier upload and
        its ``sha256_known``.
        """
        with self._draft(dandiset) as (draft, now):
            if path in draft.assets:
                raise DemoError(f"{path} is in the draft of {dandiset}: use change_file")
            return self._put_asset(dandiset, path, self._content(path, content), now, sha256_known)

    def change_file(self, dandiset: str, path: str, content: bytes | str | None = None) -> str:
        """Replace a file of the draft; return the new asset id."""
        with self._draft(dandiset) as (draft, now):
            self._asset(dandiset, path)
            data = self._content(path, content, revision=self._uuid_counter + 1)
            del draft.assets[path]
            return self._put_asset(dandiset, path, data, now, sha256_known=True)

    def remove_file(self, dandiset: str, path: str) -> None:
        """Remove a file from the draft; the asset itself stays readable by its id."""
        with self._draft(dandiset) as (draft, _):
            self._asset(dandiset, path)
            del draft.assets[path]

    def rename_file(self, dandiset: str, path: str, new_path: str) -> str:
        """Move a file of the draft: create a new asset of the same blob or Zarr; return its id."""
        with self._draft(dandiset) as (draft, now):
            old = self._asset(dandiset, path)
            if new_path in draft.assets:
                raise DemoError(f"{new_path} is in the draft of {dandiset} already")
            del draft.assets[path]
            return self._new_asset(dandiset, new_path, now, blob=old.blob, zarr=old.zarr)

    def reveal_sha256(self, dandiset: str, path: str) -> None:
        """Make the sha256 of a file available; neither asset nor version is modified."""
        with self.lock:
            self._blob(dandiset, path).sha256_known = True

    def expire_blobs(self) -> int:
        """Delete the assets and blobs that no version contains; return the number of blobs.

        Upstream does so some time after they were replaced. Nothing is modified.
        """
        with self.lock:
            held = [
                asset
                for dandiset in self.dandisets.values()
                for version in dandiset.versions
                for asset in version.assets.values()
            ]
            self.assets = {asset.asset_id: asset for asset in held}
            kept = {asset.blob.blob_id for asset in held if asset.blob is not None}
            gone = [blob for blob in self.blobs.values() if blob.blob_id not in kept]
            for blob in gone:
                self.bucket.expire(blob.key)
                del self.blobs[blob.sha256]
            return len(gone)

    # -- violations of the archive's promises

    def tamper_published(
        self,
        dandiset: str,
        version: str,
        path: str,
        content: bytes | str | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """Replace the bytes and checksums of an asset of a published version.

        With ``quiet`` the version's ``modified`` does not change. All versions, and the draft, that
        share the asset are affected.
        """
        with self.lock:
            found = self._version(dandiset, version)
            asset = self._asset(dandiset, path, version)
            now = self.clock.tick()
            data = self._content(path, content, revision=self._uuid_counter + 1)
            asset.blob = self._store(data, path, now, sha256_known=True)
            if not quiet:
                found.modified = now

    def corrupt_blob(self, dandiset: str, path: str, version: str = "draft") -> None:
        """Make the bucket return wrong bytes of the right size for a file, with the same ETag."""
        with self.lock:
            blob = self._blob(dandiset, path, version)
            self._rewrite(blob, bytes(byte ^ 0xFF for byte in blob.data))

    def heal_blob(self, dandiset: str, path: str, version: str = "draft") -> None:
        """Undo :meth:`corrupt_blob`."""
        with self.lock:
            blob = self._blob(dandiset, path, version)
            self._rewrite(blob, blob.data)

    # -- scale

    def make_many(
        self, dandiset: str | None, n_files: int, *, objects: bool = True, folder: str = "many"
    ) -> str:
        """Add ``n_files`` small text files to a draft, created if it is missing; return its id.

        Without ``objects`` nothing is put in the bucket: the files can be listed, but not fetched.
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
                    blob = self._store(
                        data,
                        path,
                        moment,
                        objects=objects,
                        sha256_known=True,
                        embargoed=self.dandisets[dandiset].embargoed,
                    )
                    self._new_asset(dandiset, path, moment, blob=blob)
            return dandiset

    def make_dandisets(self, n: int, *, objects: bool = True) -> list[str]:
        """Add ``n`` dandisets with one small text file each; return their ids."""
        made = []
        for _ in range(n):
            identifier = self.create_dandiset(Description("One small file (demo)"))
            made.append(self.make_many(identifier, 1, objects=objects, folder="one"))
        return made

    def let_time_pass(self, hours: float) -> None:
        """Advance the clock without a change."""
        with self.lock:
            self.clock.now += timedelta(hours=hours)

    # -- queries

    def freeze_summaries(self) -> None:
        """Freeze the summary that lists report of each version at its present value."""
        with self.lock:
            self.frozen_summaries = {
                (one.identifier, version.label): version.summary
                for one in self.dandisets.values()
                for version in one.versions
            }

    def sha256(self, dandiset: str, path: str, version: str = "draft") -> str:
        """Return the true sha256 of a file, even if the archive does not show it yet."""
        return self._blob(dandiset, path, version).sha256

    def paths(self, dandiset: str, version: str = "draft") -> list[str]:
        """Return the asset paths of a version, sorted."""
        return sorted(self._version(dandiset, version).assets)
