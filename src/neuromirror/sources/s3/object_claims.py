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
from neuromirror.net import ObjectRow, ResponseHead, S3Bucket, content_length
from neuromirror.sources.errors import UnreliableListingError
from neuromirror.sources.protocol import KnownContent
from neuromirror.sources.s3.local_ids import display_key
from neuromirror.sources.s3.sidecars import is_plain

CLAIMED_BY: Final = "s3"
MD5: Final = re.compile(r"[0-9a-f]{32}\Z")
_MULTIPART: Final = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})\Z")
_NOTHING: Final = "d41d8cd98f00b204e9800998ecf8427e"
_MD5_OF_NOTHING: Final = Digest("md5", _NOTHING, CLAIMED_BY)
_SERVERS_WITHOUT_SWIFT_OBJECTS: Final = ("amazons3", "minio")
"""Servers, by their header, that have no large objects of Swift."""
_KMS: Final = frozenset({"aws:kms", "aws:kms:dsse", "aws:fsx"})
_REFUSED: Final = frozenset({400, 401, 403, 405})
"""400 is what SSE-C and SSE-KMS answer to a request without keys or signature."""


class ObjectClaims(msgspec.Struct, frozen=True, gc=False):
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
    contradicts_listing: bool = False
    size: int | None = None
    status: int = 200


class _ListingMismatchError(Exception):
    """HEAD contradicts the listing, and not because the object was written since."""


def part_count(row: ObjectRow) -> int | None:
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
            or (row.checksum_type is None and part_count(row) is None)
        )
    )


def _etag_digest(row: ObjectRow) -> Digest:
    """The ETag as a name of what was written, whatever it is a digest of."""
    return Digest("etag", row.etag, CLAIMED_BY)


def parts_fit(size: int, part_size: int, parts: int) -> bool:
    """Whether so many parts of a size make a whole, the last one shorter or equal."""
    return part_size > 0 and (parts - 1) * part_size < size <= parts * part_size


class ClaimResolver:
    """Finds the claims of objects of one listing; ``claims`` may be called by many threads.

    ``head_each`` says that single-part ETags are believed only after a ``HEAD`` of their own;
    ``never`` that they are not believed at all. ``head_empty`` says that a listed size of 0 is
    believed only after a ``HEAD``, unless the server is one of which that is known; ``doubted``
    are the keys of objects that are asked about in any case.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        name: str,
        *,
        head_each: bool,
        etags_opaque: bool,
        head_empty: bool = False,
        doubted: Collection[bytes] = (),
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._head_each = head_each
        self._etags_opaque = etags_opaque
        self._head_empty = head_empty
        self._doubted = set(doubted)
        self.denied = threading.Event()
        """Set when the bucket refused to be asked about an object (HTTP 401 or 403)."""

    def doubt(self, key: bytes) -> None:
        """Asks about an object in any case, from now on."""
        self._doubted.add(key)

    def claims_from_listing(
        self, row: ObjectRow, content: KnownContent | None
    ) -> ObjectClaims | None:
        """The claims where the listing, or an earlier visit, says enough; else None."""
        if row.size == 0:
            return None if self._head_empty else ObjectClaims((_MD5_OF_NOTHING,))
        if row.etag == _NOTHING or row.key in self._doubted:
            return None
        parts = part_count(row)
        if has_sha256(row):
            if (
                content is not None
                and content.sha256 is not None
                and content.size == row.size
                and parts is None
                and not (self._head_each or self._etags_opaque)
            ):
                sha256 = Digest("sha256", content.sha256.value, CLAIMED_BY)
                return ObjectClaims((sha256, Digest("md5", row.etag, CLAIMED_BY)))
            return None
        if parts is not None:
            size = None if content is None else content.part_size
            if size is not None and parts_fit(row.size, size, parts):
                return ObjectClaims((_etag_digest(row),), size)
            return None
        if self._etags_opaque or not MD5.match(row.etag):
            return ObjectClaims((_etag_digest(row),))
        return None if self._head_each else ObjectClaims((Digest("md5", row.etag, CLAIMED_BY),))

    def request_claims(self, row: ObjectRow, version_id: str | None) -> ObjectClaims:
        """The claims, asked for; raises a NetError, and UnreliableListingError for a changed
        object."""
        if row.size == 0 or row.etag == _NOTHING:
            return self._empty_object_claims(row, version_id)
        try:
            return self._head_claims(row, version_id)
        except _ListingMismatchError:
            return self._mismatch_claims(row, version_id)

    def _empty_object_claims(self, row: ObjectRow, version_id: str | None) -> ObjectClaims:
        """The claims of what was listed as empty, or with the MD5 of nothing."""
        reply = self._bucket.head(row.key, version_id=version_id)
        size = content_length(reply.headers)
        if reply.status == 200 and size == 0 == row.size:
            if reply.headers.get("Server", "").lower().startswith(_SERVERS_WITHOUT_SWIFT_OBJECTS):
                self._head_empty = False
            return ObjectClaims((_MD5_OF_NOTHING,))
        if self._is_refused(row, reply):
            return ObjectClaims(refused=True, contradicts_listing=row.size > 0)
        if reply.status != 200:
            self._check_listed(row, version_id, reply.status)
            return ObjectClaims(contradicts_listing=True, status=reply.status)
        etag = reply.headers.get("ETag", "").strip('"')
        known = etag != _NOTHING and (MD5.match(etag) or _MULTIPART.match(etag))
        return ObjectClaims(
            (Digest("etag", etag, CLAIMED_BY),) if known else (),
            contradicts_listing=True,
            size=size,
        )

    def _mismatch_claims(self, row: ObjectRow, version_id: str | None) -> ObjectClaims:
        """The claims of an object that HEAD describes otherwise than the listing."""
        reply = self._bucket.head(row.key, version_id=version_id)
        if reply.status != 200:
            return ObjectClaims(contradicts_listing=True, status=reply.status)
        return ObjectClaims(
            (_etag_digest(row),), contradicts_listing=True, size=content_length(reply.headers)
        )

    def _head_claims(self, row: ObjectRow, version_id: str | None) -> ObjectClaims:
        found: list[Digest] = []
        opaque = refused = False
        if has_sha256(row) or part_count(row) is None:
            reply = self._bucket.head(row.key, version_id=version_id, checksums=has_sha256(row))
            if self._is_refused(row, reply):
                return ObjectClaims((_etag_digest(row),), opaque=True, refused=True)
            self._check(row, version_id, reply)
            sha256 = _sha256(reply.headers) if has_sha256(row) else None
            if sha256 is not None:
                found.append(Digest("sha256", sha256, CLAIMED_BY))
            opaque = has_encrypted_etag(reply.headers)
            if not opaque and not self._etags_opaque and MD5.match(row.etag):
                found.append(Digest("md5", row.etag, CLAIMED_BY))
        if part_count(row) is None:
            return ObjectClaims(tuple(found) or (_etag_digest(row),), opaque=opaque)
        part_size, opaque, refused = self._part_size(row, version_id)
        if not (opaque and found):
            found.append(_etag_digest(row))
        return ObjectClaims(tuple(found), part_size, refused=refused)

    def headers(self, row: ObjectRow, version_id: str | None) -> Mapping[str, str] | None:
        """The headers of the very object; None where nobody may ask. Raises as ``claims`` does."""
        reply = self._bucket.head(row.key, version_id=version_id)
        if self._is_refused(row, reply):
            return None
        try:
            self._check(row, version_id, reply)
        except _ListingMismatchError:
            self.doubt(row.key)
            return reply.headers if reply.status == 200 else None
        return reply.headers

    def _part_size(self, row: ObjectRow, version_id: str | None) -> tuple[int | None, bool, bool]:
        """The size of the parts where all but the last have one, and opaque, and refused."""
        parts = part_count(row)
        assert parts is not None
        first = self._bucket.head(row.key, version_id=version_id, part_number=1)
        if self._is_refused(row, first):
            return None, True, True
        self._check(row, version_id, first, parts)
        if has_encrypted_etag(first.headers):
            return None, True, False
        size = content_length(first.headers)
        if size is None or not parts_fit(row.size, size, parts):
            return None, False, False
        if parts > 2:
            # Of parts that differ in the middle the sum may fit by chance: ask for the last too.
            last = self._bucket.head(row.key, version_id=version_id, part_number=parts)
            self._check(row, version_id, last, parts)
            if content_length(last.headers) != row.size - (parts - 1) * size:
                return None, False, False
        return size, False, False

    def _is_refused(self, row: ObjectRow, reply: ResponseHead) -> bool:
        """Whether nobody may ask, or something on the way does not take the key as it is."""
        if reply.status in (401, 403):
            self.denied.set()
        return reply.status in _REFUSED or (reply.status == 404 and not is_plain(row.key))

    def _check(
        self, row: ObjectRow, version_id: str | None, reply: ResponseHead, parts: int | None = None
    ) -> None:
        """Raises UnreliableListingError for an object that was written since, and _Odd for an odd
        one."""
        etag = reply.headers.get("ETag", "").strip('"')
        counted = reply.headers.get("x-amz-mp-parts-count")
        # moto gives a part's own ETag, S3 the object's.
        same = etag == row.etag or (parts is not None and counted == str(parts))
        if reply.status not in (200, 206) or not same:
            self._check_listed(row, version_id, reply.status)
            raise _ListingMismatchError

    def _check_listed(self, row: ObjectRow, version_id: str | None, status: int) -> None:
        """Raises UnreliableListingError unless the bucket still lists the object as it did."""
        now = self._bucket.find_object(row.key, version_id)
        if now is None or (now.size, now.etag, now.modified) != (row.size, row.etag, row.modified):
            raise UnreliableListingError(
                f"{self._name}: {display_key(row.key)!r} is no longer as it was listed (HTTP "
                f"{status})"
            )

    def still_listed(self, row: ObjectRow, version_id: str | None) -> bool:
        """Whether the bucket lists an object as it did, whatever it answers for it; doubts it."""
        try:
            self._check_listed(row, version_id, 0)
        except UnreliableListingError:
            return False
        self.doubt(row.key)
        return True


def has_encrypted_etag(headers: Mapping[str, str]) -> bool:
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
