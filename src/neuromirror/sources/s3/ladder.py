"""What S3 itself says of an object's bytes, without a download.

- A FULL_OBJECT SHA256 (``HEAD`` with ``x-amz-checksum-mode: ENABLED``), asked for where the
  listing names the algorithm. A COMPOSITE one is a digest of digests, and none of the content.
- The ETag of an object put in one piece is its MD5, unless SSE-KMS or SSE-C hides it; only
  ``HEAD`` tells that.
- The ETag of a multipart upload, with the size of its parts (``HEAD ?partNumber=1``), where all
  parts but the last are of one size.
- Else the size. The ETag as it was listed goes with it, as an ``etag`` without a part size: of the
  bytes it proves nothing, but another one says that the object was written again.

An object is odd where ``HEAD`` contradicts the listing and the listing, read again, still says the
same. The size is then what ``HEAD`` says, and nothing else is claimed. Large objects of Swift are
odd in one known way: Ceph's gateway and others list the size of the manifest, or 0, with the MD5 of
nothing, and ``HEAD`` and ``GET`` answer for the whole object.

Formats: S3 API reference, "Object" (ETag), "HeadObject"; S3 user guide, "Checking object
integrity".
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from neuromirror.model import Digest
from neuromirror.net import ObjectRow, Reply, S3Bucket, stated_length
from neuromirror.sources.errors import ListingNotProven
from neuromirror.sources.protocol import KnownContent
from neuromirror.sources.s3.names import shown
from neuromirror.sources.s3.sidecars import is_plain

CLAIMED_BY: Final = "s3"
MD5: Final = re.compile(r"[0-9a-f]{32}\Z")
_MULTIPART: Final = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})\Z")
_NOTHING: Final = "d41d8cd98f00b204e9800998ecf8427e"
_MD5_OF_NOTHING: Final = Digest("md5", _NOTHING, CLAIMED_BY)
_HONEST_SERVERS: Final = ("amazons3", "minio")
"""Servers, by their header, that have no large objects of Swift."""
_KMS: Final = frozenset({"aws:kms", "aws:kms:dsse", "aws:fsx"})
_REFUSED: Final = frozenset({400, 401, 403, 405})
"""400 is what SSE-C and SSE-KMS answer to a request without keys or signature."""


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What is claimed of one object; ``part_size`` in bytes, of a multipart ETag.

    ``opaque`` says that its ETag was found to be no MD5; ``refused`` that the bucket did not
    let anybody ask. ``odd`` says that the object is not what the listing says: ``size`` in bytes is
    then what it has, None where that is unknown, and ``status`` the HTTP status of the answer where
    it cannot be read at all.
    """

    digests: tuple[Digest, ...] = ()
    part_size: int | None = None
    opaque: bool = False
    refused: bool = False
    odd: bool = False
    size: int | None = None
    status: int = 200


class _Odd(Exception):
    """HEAD contradicts the listing, and not because the object was written since."""


def parts_of(row: ObjectRow) -> int | None:
    """How many parts a multipart object has; None for one put in one piece."""
    found = _MULTIPART.match(row.etag) if "-" in row.etag else None
    return int(found[1]) if found else None


def has_sha256(row: ObjectRow) -> bool:
    """Whether the listing lets one hope for a sha256 of the content."""
    return (
        row.checksum_algorithm is not None
        and "SHA256" in row.checksum_algorithm.upper().split(",")
        and (
            row.checksum_type == "FULL_OBJECT"
            or (row.checksum_type is None and parts_of(row) is None)
        )
    )


def _listed(row: ObjectRow) -> Digest:
    """The ETag as a name of what was written, whatever it is a digest of."""
    return Digest("etag", row.etag, CLAIMED_BY)


def fits(size: int, part_size: int, parts: int) -> bool:
    """Whether so many parts of a size make a whole, the last one shorter or equal."""
    return part_size > 0 and (parts - 1) * part_size < size <= parts * part_size


class Ladder:
    """Finds the claims of objects of one listing; ``claims`` may be called by many threads.

    ``ask_each`` says that single-part ETags are believed only after a ``HEAD`` of their own;
    ``never`` that they are not believed at all. ``ask_empty`` says that a listed size of 0 is
    believed only after a ``HEAD``, unless the server is one of which that is known; ``doubted``
    are the keys of objects that are asked about in any case.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        name: str,
        *,
        ask_each: bool,
        never: bool,
        ask_empty: bool = False,
        doubted: Collection[bytes] = (),
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._ask_each = ask_each
        self._never = never
        self._ask_empty = ask_empty
        self._doubted = set(doubted)
        self.denied = threading.Event()
        """Set when the bucket refused to be asked about an object (HTTP 401 or 403)."""

    def doubt(self, key: bytes) -> None:
        """Asks about an object in any case, from now on."""
        self._doubted.add(key)

    def without_asking(self, row: ObjectRow, known: KnownContent | None) -> Claims | None:
        """The claims where the listing, or an earlier visit, says enough; else None."""
        if row.size == 0:
            return None if self._ask_empty else Claims((_MD5_OF_NOTHING,))
        if row.etag == _NOTHING or row.key in self._doubted:
            return None
        parts = parts_of(row)
        if has_sha256(row):
            if (
                known is not None
                and known.sha256 is not None
                and known.size == row.size
                and parts is None
                and not (self._ask_each or self._never)
            ):
                sha256 = Digest("sha256", known.sha256.value, CLAIMED_BY)
                return Claims((sha256, Digest("md5", row.etag, CLAIMED_BY)))
            return None
        if parts is not None:
            size = None if known is None else known.part_size
            if size is not None and fits(row.size, size, parts):
                return Claims((_listed(row),), size)
            return None
        if self._never or not MD5.match(row.etag):
            return Claims((_listed(row),))
        return None if self._ask_each else Claims((Digest("md5", row.etag, CLAIMED_BY),))

    def claims(self, row: ObjectRow, version_id: str | None) -> Claims:
        """The claims, asked for; raises a NetError, and ListingNotProven for a changed object."""
        if row.size == 0 or row.etag == _NOTHING:
            return self._stored(row, version_id)
        try:
            return self._asked(row, version_id)
        except _Odd:
            return self._odd(row, version_id)

    def _stored(self, row: ObjectRow, version_id: str | None) -> Claims:
        """The claims of what was listed as empty, or with the MD5 of nothing."""
        reply = self._bucket.head(row.key, version_id=version_id)
        size = stated_length(reply.headers)
        if reply.status == 200 and size == 0 == row.size:
            if reply.headers.get("Server", "").lower().startswith(_HONEST_SERVERS):
                self._ask_empty = False
            return Claims((_MD5_OF_NOTHING,))
        if self._is_refused(row, reply):
            return Claims(refused=True, odd=row.size > 0)
        if reply.status != 200:
            self._check_listed(row, version_id, reply.status)
            return Claims(odd=True, status=reply.status)
        etag = reply.headers.get("ETag", "").strip('"')
        known = etag != _NOTHING and (MD5.match(etag) or _MULTIPART.match(etag))
        return Claims((Digest("etag", etag, CLAIMED_BY),) if known else (), odd=True, size=size)

    def _odd(self, row: ObjectRow, version_id: str | None) -> Claims:
        """The claims of an object that HEAD describes otherwise than the listing."""
        reply = self._bucket.head(row.key, version_id=version_id)
        if reply.status != 200:
            return Claims(odd=True, status=reply.status)
        return Claims((_listed(row),), odd=True, size=stated_length(reply.headers))

    def _asked(self, row: ObjectRow, version_id: str | None) -> Claims:
        found: list[Digest] = []
        opaque = refused = False
        if has_sha256(row) or parts_of(row) is None:
            reply = self._bucket.head(row.key, version_id=version_id, checksums=has_sha256(row))
            if self._is_refused(row, reply):
                return Claims((_listed(row),), opaque=True, refused=True)
            self._check(row, version_id, reply)
            sha256 = _sha256(reply.headers) if has_sha256(row) else None
            if sha256 is not None:
                found.append(Digest("sha256", sha256, CLAIMED_BY))
            opaque = hidden(reply.headers)
            if not opaque and not self._never and MD5.match(row.etag):
                found.append(Digest("md5", row.etag, CLAIMED_BY))
        if parts_of(row) is None:
            return Claims(tuple(found) or (_listed(row),), opaque=opaque)
        part_size, opaque, refused = self._part_size(row, version_id)
        if not (opaque and found):
            found.append(_listed(row))
        return Claims(tuple(found), part_size, refused=refused)

    def headers(self, row: ObjectRow, version_id: str | None) -> Mapping[str, str] | None:
        """The headers of the very object; None where nobody may ask. Raises as ``claims`` does."""
        reply = self._bucket.head(row.key, version_id=version_id)
        if self._is_refused(row, reply):
            return None
        try:
            self._check(row, version_id, reply)
        except _Odd:
            self.doubt(row.key)
            return reply.headers if reply.status == 200 else None
        return reply.headers

    def _part_size(self, row: ObjectRow, version_id: str | None) -> tuple[int | None, bool, bool]:
        """The size of the parts where all but the last have one, and opaque, and refused."""
        parts = parts_of(row)
        assert parts is not None
        first = self._bucket.head(row.key, version_id=version_id, part_number=1)
        if self._is_refused(row, first):
            return None, True, True
        self._check(row, version_id, first, parts)
        if hidden(first.headers):
            return None, True, False
        size = stated_length(first.headers)
        if size is None or not fits(row.size, size, parts):
            return None, False, False
        if parts > 2:
            # Of parts that differ in the middle the sum may fit by chance: ask for the last too.
            last = self._bucket.head(row.key, version_id=version_id, part_number=parts)
            self._check(row, version_id, last, parts)
            if stated_length(last.headers) != row.size - (parts - 1) * size:
                return None, False, False
        return size, False, False

    def _is_refused(self, row: ObjectRow, reply: Reply) -> bool:
        """Whether nobody may ask, or something on the way does not take the key as it is."""
        if reply.status in (401, 403):
            self.denied.set()
        return reply.status in _REFUSED or (reply.status == 404 and not is_plain(row.key))

    def _check(
        self, row: ObjectRow, version_id: str | None, reply: Reply, parts: int | None = None
    ) -> None:
        """Raises ListingNotProven for an object that was written since, and _Odd for an odd one."""
        etag = reply.headers.get("ETag", "").strip('"')
        counted = reply.headers.get("x-amz-mp-parts-count")
        # moto gives a part's own ETag, S3 the object's.
        same = etag == row.etag or (parts is not None and counted == str(parts))
        if reply.status not in (200, 206) or not same:
            self._check_listed(row, version_id, reply.status)
            raise _Odd

    def _check_listed(self, row: ObjectRow, version_id: str | None, status: int) -> None:
        """Raises ListingNotProven unless the bucket still lists the object as it did."""
        now = self._bucket.listed(row.key, version_id)
        if now is None or (now.size, now.etag, now.modified) != (row.size, row.etag, row.modified):
            raise ListingNotProven(
                f"{self._name}: {shown(row.key)!r} is no longer as it was listed (HTTP {status})"
            )

    def still_listed(self, row: ObjectRow, version_id: str | None) -> bool:
        """Whether the bucket lists an object as it did, whatever it answers for it; doubts it."""
        try:
            self._check_listed(row, version_id, 0)
        except ListingNotProven:
            return False
        self.doubt(row.key)
        return True


def hidden(headers: Mapping[str, str]) -> bool:
    """Whether the ETag that comes with these headers is one of encrypted bytes."""
    return (
        headers.get("x-amz-server-side-encryption", "") in _KMS
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )


def _sha256(headers: Mapping[str, str]) -> str | None:
    """The sha256 of the whole content in these headers."""
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        raw = base64.b64decode(headers.get("x-amz-checksum-sha256", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None
