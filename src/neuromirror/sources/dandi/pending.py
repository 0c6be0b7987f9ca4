"""The items that the archive has yet to complete in a draft: sha256 of files, checksums of Zarrs.

Both can appear without a new ``modified`` time of the draft. Each item is requested by its own URL
if that takes fewer requests than a visit of the dandiset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from neuromirror.model import ExcludedEntry, NeuromirrorError
from neuromirror.net import ContextThreadPool, Session
from neuromirror.sources.dandi.digests import SHA256
from neuromirror.sources.dandi.rows import Row
from neuromirror.sources.protocol import EMBARGOED, ComponentEntry

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
                *(pool.submit(asset_is_pending, one) for one in assets),
                *(pool.submit(zarr_is_pending, one) for one in zarrs),
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
