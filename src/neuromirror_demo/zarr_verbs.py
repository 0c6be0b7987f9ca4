"""Operations on Zarrs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from neuromirror_demo.archive_state import ArchiveState, DemoError
from neuromirror_demo.checksums import multipart_etag
from neuromirror_demo.records import Asset, Zarr, ZarrEntry


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
            if zarr_id not in self.zarrs:
                raise DemoError(f"no Zarr {zarr_id!r} in the archive")
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
            if content is None and entry not in zarr.entries:
                raise DemoError(f"the Zarr {path} has no entry {entry}")
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
            if zarr.checksum is None:
                raise DemoError(f"the Zarr {path} was never finalized: it has no checksum")
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
