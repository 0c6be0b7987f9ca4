"""The state of the demo DANDI archive, and the operations on it.

Its NWB files are small, real and reproducible: equal recipes and equal versions of pynwb, hdmf and
h5py give equal bytes; other versions may lay a file out differently.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromirror.model import NeuromirrorError
from neuromirror_demo.records import (
    ArchiveClock,
    Asset,
    Blob,
    Dandiset,
    DandisetVersion,
    Description,
    Zarr,
    ZarrEntry,
    fixed_uuid,
    multipart_etag,
    part_sizes,
)

if TYPE_CHECKING:
    from neuromirror_demo.s3 import DandiBucket

__all__ = ["Archive", "DemoError"]

_LAYOUT = 1
"""Increment it when the written bytes change, so that no outdated cached file is used."""

_PATH = re.compile(r"sub-(?P<subject>[^_/]+)_ses-(?P<session>[^_/]+)(_(?P<kind>[a-z]+))?\.nwb$")


@dataclass(frozen=True, slots=True)
class NwbRecipe:
    """The contents of a file; another ``revision`` has other data for the same session."""

    subject: str
    session: str
    kind: str = "ecephys"
    revision: int = 0


def parse_recipe(path: str, revision: int = 0) -> NwbRecipe:
    """Return the recipe for an asset path such as ``sub-101/sub-101_ses-01_ecephys.nwb``."""
    match = _PATH.search(path)
    if match is None:
        return NwbRecipe(Path(path).stem, "01", revision=revision)
    return NwbRecipe(match["subject"], match["session"], match["kind"] or "ecephys", revision)


def session_start(recipe: NwbRecipe) -> datetime:
    """Return the start time of the session (UTC)."""
    days = int(fixed_uuid("start", recipe.subject, recipe.session)[:6], 16) % 300
    return datetime(2021, 5, 3, 10, tzinfo=UTC) + timedelta(days=days)


def nwb_bytes(recipe: NwbRecipe, cache: Path) -> bytes:
    """Return the bytes of the file, from ``cache`` if they were written before."""
    # the releases of these packages determine the bytes
    releases = [version(package) for package in ("pynwb", "hdmf", "h5py")]
    name = repr((_LAYOUT, sorted(asdict(recipe).items()), releases))
    kept = cache / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.nwb"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _write(recipe, Path(scratch, "new.nwb"))
            os.replace(Path(scratch, "new.nwb"), kept)
    return kept.read_bytes()


def _write(recipe: NwbRecipe, target: Path) -> None:
    import numpy
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.ecephys import ElectricalSeries
    from pynwb.file import Subject

    seed = int(fixed_uuid("nwb", *asdict(recipe).values())[:6], 16) | 1
    start = session_start(recipe)
    nwb = NWBFile(
        session_description=f"Demo session {recipe.session}: made-up signals, no animal was used.",
        identifier=fixed_uuid("session", *asdict(recipe).values()),
        session_start_time=start,
        file_create_date=[start + timedelta(days=1)],
        session_id=recipe.session,
        experimenter=["Doe, Jane"],
        lab="Example Lab",
        institution="Example Institute",
        keywords=["demo"],
    )
    nwb.subject = Subject(
        subject_id=recipe.subject, species="Mus musculus", sex="M", age="P90D", description="none"
    )
    samples = (numpy.arange(2000, dtype="uint64") * numpy.uint64(seed) // numpy.uint64(7)) % 4093
    if recipe.kind == "behavior":
        # Quarters are exact in binary, so no rounding differs between machines.
        speed = samples.astype("float64") / 4
        nwb.add_acquisition(
            TimeSeries(name="running_speed", data=speed, unit="cm/s", rate=50.0, starting_time=0.0)
        )
    else:
        probe = nwb.create_device(name="probe0", description="a made-up silicon probe")
        shank = nwb.create_electrode_group(
            "shank0", description="one shank", location="CA1", device=probe
        )
        for number in range(4):
            nwb.add_electrode(group=shank, location="CA1", x=0.0, y=20.0 * number, z=0.0)
        electrodes = nwb.create_electrode_table_region([0, 1, 2, 3], "all four")
        voltage = samples.astype("int16").reshape(500, 4)
        nwb.add_acquisition(
            ElectricalSeries(
                name="ElectricalSeries",
                data=voltage,
                electrodes=electrodes,
                rate=1000.0,
                starting_time=0.0,
                conversion=1e-6,
            )
        )
    with NWBHDF5IO(str(target), "w") as io:
        # The cached specification would be nine tenths of the file.
        io.write(nwb, cache_spec=False)
    _fix_object_ids(target, recipe)


def _fix_object_ids(target: Path, recipe: NwbRecipe) -> None:
    """Replace the random object ids that hdmf gives every group and dataset."""
    import h5py

    def fix(name: str, node: Any) -> None:
        if "object_id" in node.attrs:
            node.attrs.modify("object_id", fixed_uuid("object", *asdict(recipe).values(), name))

    with h5py.File(target, "r+") as file:
        fix("/", file)
        file.visititems(fix)


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


class ZarrVerbs(ArchiveState):
    """The operations on Zarrs; ``path`` is that of a Zarr asset, ``entry`` a path in the Zarr."""

    def add_zarr(
        self,
        dandiset: str,
        path: str,
        entries: Mapping[str, bytes | str],
        *,
        part_sizes: Mapping[str, int] | None = None,
        finalize: bool = True,
    ) -> str:
        """Upload a Zarr to the draft; return its Zarr id.

        Entries in ``part_sizes`` are uploaded in parts of these sizes. Without ``finalize`` the
        archive computes neither checksum nor size.
        """
        with self._draft(dandiset) as (_, now):
            zarr = Zarr(self._uuid("zarr"), path, dandiset)
            self.zarrs[zarr.zarr_id] = zarr
            for name, data in sorted(entries.items()):
                self._put_entry(zarr, name, data, now, (part_sizes or {}).get(name))
            if finalize:
                zarr.finalize()
            self._new_asset(dandiset, path, now, zarr=zarr)
            return zarr.zarr_id

    def share_zarr(self, dandiset: str, path: str, zarr_id: str) -> str:
        """Add a Zarr of another dandiset to a draft; return the asset id."""
        with self._draft(dandiset) as (draft, now):
            if path in draft.assets:
                raise DemoError(f"{path} is in the draft of {dandiset} already")
            return self._new_asset(dandiset, path, now, zarr=self.zarrs[zarr_id])

    def change_zarr(
        self,
        dandiset: str,
        path: str,
        entry: str,
        content: bytes | str | None,
        *,
        quiet: bool = False,
        finalize: bool = True,
        part_size: int | None = None,
    ) -> None:
        """Change, add or (``content`` None) delete one entry of a Zarr; ids stay the same.

        With ``quiet`` neither asset nor draft is modified, as happens with deletions upstream.
        Without ``finalize`` the archive has no checksum until :meth:`finalize_zarr`, and nothing is
        modified before that.
        """
        with self.lock:
            asset, zarr = self._zarr_asset(dandiset, path)
            now = self.clock.tick()
            if content is None:
                del zarr.entries[entry]
                self.bucket.delete(zarr.key(entry), now)
            else:
                self._put_entry(zarr, entry, content, now, part_size)
            if finalize:
                self._finalized(asset, zarr, None if quiet else now)
            else:
                zarr.mark_pending()

    def finalize_zarr(self, dandiset: str, path: str, *, quiet: bool = False) -> str:
        """Finalize a Zarr; return the checksum.

        With ``quiet`` neither asset nor draft is modified.
        """
        with self.lock:
            asset, zarr = self._zarr_asset(dandiset, path)
            now = self.clock.tick()
            self._finalized(asset, zarr, None if quiet else now)
            assert zarr.checksum is not None
            return zarr.checksum

    def misstate_zarr(self, dandiset: str, path: str, checksum: str | None = None) -> str:
        """State a wrong checksum until the Zarr is finalized again; return it.

        By default it has the same number of files and bytes.
        """
        with self.lock:
            zarr = self._zarr_asset(dandiset, path)[1]
            assert zarr.checksum is not None
            md5, dash, rest = zarr.checksum.partition("-")
            zarr.checksum = f"{md5[::-1]}{dash}{rest}" if checksum is None else checksum
            return zarr.checksum

    def find_zarr(self, dandiset: str, path: str) -> Zarr:
        """Return the Zarr of a draft's asset."""
        return self._zarr_asset(dandiset, path)[1]

    # -- helpers

    def _zarr_asset(self, dandiset: str, path: str) -> tuple[Asset, Zarr]:
        asset = self._asset(dandiset, path)
        if asset.zarr is None:
            raise DemoError(f"{path} of dandiset {dandiset} is not a Zarr")
        return asset, asset.zarr

    def _finalized(self, asset: Asset, zarr: Zarr, now: datetime | None) -> None:
        zarr.finalize()
        if now is None:
            return
        # If two dandisets use a Zarr, only its own draft is notified.
        self._dandiset(zarr.dandiset).draft.modified = now
        asset.modified = now
        for one in self.assets.values():
            if one.zarr is zarr:
                one.modified = now

    def _put_entry(
        self, zarr: Zarr, name: str, data: bytes | str, now: datetime, part_size: int | None
    ) -> None:
        data = data.encode() if isinstance(data, str) else data
        etag, parts = multipart_etag(data, part_size)
        version_id = self.bucket.store(
            zarr.key(name),
            data,
            etag=etag,
            content_type="binary/octet-stream",
            modified=now,
            parts=parts,
            embargoed=self._dandiset(zarr.dandiset).embargoed,
        )
        zarr.entries[name] = ZarrEntry(data, etag, now, version_id)


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

    def corrupt_blob(
        self, dandiset: str, path: str, version: str = "draft", *, heal: bool = False
    ) -> None:
        """Make the bucket return wrong bytes of the right size for a file, with the same ETag.

        With ``heal`` it returns the right ones again.
        """
        with self.lock:
            blob = self._blob(dandiset, path, version)
            assert blob.version_id is not None
            data = blob.data if heal else bytes(byte ^ 0xFF for byte in blob.data)
            self.bucket.overwrite(blob.key, blob.version_id, data)

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
            with self._draft(dandiset) as (_, now):
                for number in range(n_files):
                    path = f"{folder}/{number // 1000:04d}/file-{number:07d}.txt"
                    data = f"file {number} of {dandiset} {folder}\n".encode()
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

    def sha256(self, dandiset: str, path: str, version: str = "draft") -> str:
        """Return the true sha256 of a file, even if the archive does not show it yet."""
        return self._blob(dandiset, path, version).sha256

    def paths(self, dandiset: str, version: str = "draft") -> list[str]:
        """Return the asset paths of a version, sorted."""
        return sorted(self._version(dandiset, version).assets)
