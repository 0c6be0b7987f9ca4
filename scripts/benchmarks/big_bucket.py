"""Listings of the synthetic archive's bucket."""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from benchmarks.big_keys import BUCKET, BlobKeys, Keys, NoKeys
from benchmarks.big_plan import ArchivePlan
from benchmarks.big_zarrs import BigZarr

_BLOB_PREFIX: Final = b"blobs/"
_ZARR_PREFIX: Final = re.compile(rb"zarr/([0-9a-f-]{36})/")


class Keyspace:
    """Finds the keys for a prefix or a key."""

    def __init__(self, plan: ArchivePlan, zarr: type[BigZarr] = BigZarr) -> None:
        self._plan = plan
        self._zarr = zarr
        self._blobs = BlobKeys(plan.blobs)

    def below(self, prefix: bytes) -> Keys | None:
        """Return the keys of which some have the prefix; None for a mixture of kinds."""
        if prefix.startswith(_BLOB_PREFIX):
            return self._blobs
        found = _ZARR_PREFIX.match(prefix)
        if found is None:
            mixed = _BLOB_PREFIX.startswith(prefix) or b"zarr/".startswith(prefix[:5])
            return None if mixed else NoKeys()
        rank = self._plan.zarrs.find(found[1].decode())
        return NoKeys() if rank is None else self.zarr(self._plan.zarrs.number(rank))

    @lru_cache(16)  # noqa: B019 - there is one keyspace in a process
    def zarr(self, number: int) -> BigZarr:
        """Return the keys of a Zarr."""
        zarr_id = self._plan.zarrs.uuid(self._plan.zarrs.rank(number))
        return self._zarr(number, self._plan.entries[number], f"zarr/{zarr_id}/".encode())


def bucket_page(keyspace: Keyspace, query: Mapping[str, bytes], *, versions: bool) -> str | None:
    """Return one page of a listing, without the XML declaration.

    None for unsupported requests: delimiters, and prefixes that include more than blobs or one
    Zarr.
    """
    prefix = query.get("prefix", b"")
    keys = keyspace.below(prefix)
    if keys is None or "delimiter" in query:
        return None
    marker = query.get("key-marker" if versions else "start-after", b"")
    if "continuation-token" in query and not versions:
        try:
            marker = base64.urlsafe_b64decode(query["continuation-token"])
        except binascii.Error:
            return None
    most = min(int(query.get("max-keys", b"1000")), 1000)
    start = max(bisect_left(keys, prefix), bisect_right(keys, marker) if marker else 0)
    stop = bisect_left(keys, prefix[:-1] + bytes([prefix[-1] + 1]))
    end = max(start, min(stop, start + most))
    rows = keys.listing_rows(start, end, versions=versions)
    more = end < stop and end > start
    last = keys[end - 1] if more else b""
    shown = f"<Name>{BUCKET}</Name><Prefix>{prefix.decode('latin-1')}</Prefix>"
    shown += f"<MaxKeys>{most}</MaxKeys><EncodingType>url</EncodingType>"
    shown += f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
    if more and versions:
        version = keys.facts(end - 1)[2]
        shown += f"<NextKeyMarker>{last.decode()}</NextKeyMarker>"
        shown += f"<NextVersionIdMarker>{version}</NextVersionIdMarker>"
    elif more:
        token = base64.urlsafe_b64encode(last).decode()
        shown += f"<NextContinuationToken>{token}</NextContinuationToken>"
    elif not versions:
        shown += f"<KeyCount>{end - start}</KeyCount>"
    root = "ListVersionsResult" if versions else "ListBucketResult"
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<{root} xmlns="{space}">{shown}{rows}</{root}>'
