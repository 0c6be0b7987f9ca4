"""The digests and sizes that S3 states for an object, without a download.

- A FULL_OBJECT SHA256 (``HEAD`` with ``x-amz-checksum-mode: ENABLED``), requested if the listing
  names the algorithm. A COMPOSITE one is a digest of digests, not of the content.
- The ETag of a single-part upload is its MD5, except with SSE-KMS or SSE-C, which only ``HEAD``
  shows.
- The ETag of a multipart upload, with its part size, if all parts but the last have the same size:
  the most usual one that fits the size and the number of parts, or if none does, or the sample of
  the listing has others, the stated one (``HEAD ?partNumber=1``).
- Otherwise the size, with the listed ETag as an ``etag`` without a part size. It does not identify
  the bytes, but a different one shows that the object was overwritten.

An object contradicts its listing if ``HEAD`` differs and the listing, read again, does not. Then
the size is that of ``HEAD``, and there are no digests. Large Swift objects are a known case: Ceph's
gateway and others list the size of the manifest, or 0, with the MD5 of empty input, while ``HEAD``
and ``GET`` return the whole object.

Formats: S3 API reference, "Object" (ETag), "HeadObject"; S3 user guide, "Checking object
integrity".
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec
from msgspec import Struct, field

from neuromirror.annex import find_pointer_key
from neuromirror.model import Digest, Document, ExcludedEntry, usual_part_sizes
from neuromirror.net import (
    AccessDeniedError,
    CredentialsRefusedError,
    HttpError,
    InvalidJsonError,
    NotFoundError,
    ObjectChangedError,
    ObjectRow,
    ResponseHead,
    ResponseTooLargeError,
    S3Bucket,
    WrongRegionError,
    content_length,
)
from neuromirror.net.responses import has_encrypted_etag, stated_checksums
from neuromirror.sources.errors import UnreliableListingError
from neuromirror.sources.protocol import KnownContent
from neuromirror.sources.s3.local_ids import display_key
from neuromirror.sources.s3.options import Profile
from neuromirror.sources.s3.sidecars import MAX_DOCUMENT_BYTES, is_plain, without_secrets

CLAIMED_BY: Final = "s3"
MD5: Final = re.compile(r"[0-9a-f]{32}\Z")
_MULTIPART: Final = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})\Z")
_NOTHING: Final = "d41d8cd98f00b204e9800998ecf8427e"
_MD5_OF_NOTHING: Final = Digest("md5", _NOTHING, CLAIMED_BY)
_SERVERS_WITHOUT_SWIFT_OBJECTS: Final = ("amazons3", "minio")
"""Servers without Swift's large objects, as named in the ``Server`` header."""
REFUSED_STATUSES: Final = frozenset({400, 401, 403, 405})
"""400 is the status with SSE-C and SSE-KMS for a request without key or signature."""


class ObjectClaims(msgspec.Struct, frozen=True, gc=False):
    """The stated properties of one object.

    Attributes
    ----------
    digests
        The digests.
    part_size
        Part size in bytes, of a multipart ETag; None if unknown.
    opaque
        Whether the ETag turned out not to be an MD5.
    refused
        Whether the bucket refused the request.
    contradicts_listing
        Whether the object differs from its row in the listing.
    size
        The object's real size in bytes if it contradicts the listing; None if unknown.
    status
        The HTTP status, if the object cannot be read.
    """

    digests: tuple[Digest, ...] = ()
    part_size: int | None = None
    opaque: bool = False
    refused: bool = False
    contradicts_listing: bool = False
    size: int | None = None
    status: int = 200


class PartAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a bucket states of a multipart upload.

    Attributes
    ----------
    part_size
        Part size in bytes; None if it is not uniform.
    digests
        The CRCs of the whole object, requested if there is no part size.
    """

    part_size: int | None
    digests: tuple[Digest, ...] = ()


class _ListingMismatchError(Exception):
    """HEAD contradicts the listing although the object was not overwritten."""


def part_count(row: ObjectRow) -> int | None:
    """Return the number of parts of a multipart upload; None for a single-part upload."""
    multipart = _MULTIPART.match(row.etag) if "-" in row.etag else None
    return int(multipart[1]) if multipart else None


def has_sha256(row: ObjectRow) -> bool:
    """Return whether the listing indicates a sha256 of the content."""
    return (
        row.checksum_algorithm is not None
        and "SHA256" in row.checksum_algorithm.upper().split(",")
        and (
            row.checksum_type == "FULL_OBJECT"
            or (row.checksum_type is None and part_count(row) is None)
        )
    )


def _etag_digest(row: ObjectRow) -> Digest:
    """Return the ETag as an identifier of this upload."""
    return Digest("etag", row.etag, CLAIMED_BY)


def parts_fit(size: int, part_size: int, parts: int) -> bool:
    """Return whether an object of a size can have a number of parts of a size.

    Only the last part may be smaller.
    """
    return part_size > 0 and (parts - 1) * part_size < size <= parts * part_size


def usual_part_size(row: ObjectRow) -> int | None:
    """Return the most usual part size that fits a multipart upload; None if none does, or else."""
    parts = part_count(row)
    if parts is None or row.size == 0 or has_sha256(row):
        return None
    return next(iter(usual_part_sizes(row.size, parts)), None)


class ClaimResolver:
    """Determines the digests and sizes that S3 states for the objects in one listing. Thread-safe.

    Parameters
    ----------
    bucket
        The bucket.
    name
        The dataset's name, for messages.
    head_each
        Whether a single-part ETag counts as an MD5 only after a ``HEAD`` request.
    etags_opaque
        Whether single-part ETags never count as MD5s.
    head_empty
        Whether a listed size of 0 must be confirmed by ``HEAD``, unless the server is known.
    doubted
        Keys of objects whose rows may be wrong, so that each is requested.
    head_parts
        Whether the part size of each multipart upload is requested, not only where no usual one
        fits.
    part_answers
        The stated part sizes by multipart ETag, as far as earlier visits requested them; new
        answers are added.
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
        head_parts: bool = True,
        part_answers: dict[str, PartAnswer] | None = None,
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._head_each = head_each
        self._etags_opaque = etags_opaque
        self._head_empty = head_empty
        self._doubted = set(doubted)
        self.head_parts = head_parts
        self.part_answers = {} if part_answers is None else part_answers
        self.denied = threading.Event()
        """Set once the bucket refused a request for an object (HTTP 401 or 403)."""

    def doubt(self, key: bytes) -> None:
        """Request this object in any case from now on."""
        self._doubted.add(key)

    def claims_from_listing(
        self, row: ObjectRow, content: KnownContent | None
    ) -> ObjectClaims | None:
        """Return the claims if the listing or an earlier visit suffices; else None."""
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
            known = self._known_parts(row, parts, content)
            if known is None:
                return None
            return ObjectClaims((_etag_digest(row), *known.digests), known.part_size)
        if self._etags_opaque or not MD5.match(row.etag):
            return ObjectClaims((_etag_digest(row),))
        return None if self._head_each else ObjectClaims((Digest("md5", row.etag, CLAIMED_BY),))

    def _known_parts(
        self, row: ObjectRow, parts: int, content: KnownContent | None
    ) -> PartAnswer | None:
        """Return what needs no request; None if it does."""
        usual = usual_part_size(row)
        if usual is not None and not self.head_parts:
            return PartAnswer(usual)
        size = None if content is None else content.part_size
        # the usual size may be the claim of another listing, which nobody stated
        if size not in (None, usual) and parts_fit(row.size, size, parts):
            return PartAnswer(size)
        return self.part_answers.get(row.etag)

    def has_usual_parts(self, row: ObjectRow, version_id: str | None) -> bool:
        """Return whether the bucket states the usual part size for an object, now or before."""
        answer = self.part_answers.get(row.etag) or self.request_claims(row, version_id)
        return answer.part_size == usual_part_size(row)

    def request_claims(self, row: ObjectRow, version_id: str | None) -> ObjectClaims:
        """Request an object's claims.

        Raises
        ------
        UnreliableListingError
            If the object is no longer the listed one.
        NetError
            If the bucket cannot be read.
        """
        if row.size == 0 or row.etag == _NOTHING:
            return self._empty_object_claims(row, version_id)
        try:
            return self._head_claims(row, version_id)
        except _ListingMismatchError:
            return self._mismatch_claims(row, version_id)

    def _empty_object_claims(self, row: ObjectRow, version_id: str | None) -> ObjectClaims:
        """Return the claims of an object listed as empty, or with the MD5 of empty input."""
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
        """Return the claims of an object for which HEAD contradicts the listing."""
        reply = self._bucket.head(row.key, version_id=version_id)
        if reply.status != 200:
            return ObjectClaims(contradicts_listing=True, status=reply.status)
        return ObjectClaims(
            (_etag_digest(row),), contradicts_listing=True, size=content_length(reply.headers)
        )

    def _head_claims(self, row: ObjectRow, version_id: str | None) -> ObjectClaims:
        digests: list[Digest] = []
        opaque = refused = False
        if has_sha256(row) or part_count(row) is None:
            reply = self._bucket.head(
                row.key, version_id=version_id, checksums=row.checksum_algorithm is not None
            )
            if self._is_refused(row, reply):
                return ObjectClaims((_etag_digest(row),), opaque=True, refused=True)
            self._check(row, version_id, reply)
            digests += _stated_digests(reply)
            opaque = has_encrypted_etag(reply.headers)
            if not opaque and not self._etags_opaque and MD5.match(row.etag):
                digests.append(Digest("md5", row.etag, CLAIMED_BY))
        if part_count(row) is None:
            if not any(digest.algorithm in ("sha256", "md5") for digest in digests):
                digests.append(_etag_digest(row))
            return ObjectClaims(tuple(digests), opaque=opaque)
        part_size, opaque, refused = self._part_size(row, version_id)
        crcs: list[Digest] = []
        if part_size is None and not refused and row.checksum_type == "FULL_OBJECT" and not digests:
            # a reply about a part states no checksum of the whole
            reply = self._bucket.head(row.key, version_id=version_id, checksums=True)
            self._check(row, version_id, reply)
            crcs = _stated_digests(reply)
        if not refused:
            self.part_answers[row.etag] = PartAnswer(part_size, tuple(crcs))
        if not (opaque and digests):
            digests.append(_etag_digest(row))
        return ObjectClaims((*digests, *crcs), part_size, refused=refused)

    def headers(self, row: ObjectRow, version_id: str | None) -> Mapping[str, str] | None:
        """Return the object's headers; None if refused. Raise as :meth:`request_claims` does."""
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
        """Return the part size, if uniform except for the last part; ``opaque``; ``refused``."""
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
            # parts of different sizes may fit by chance, so the last part is requested too
            last = self._bucket.head(row.key, version_id=version_id, part_number=parts)
            self._check(row, version_id, last, parts)
            if content_length(last.headers) != row.size - (parts - 1) * size:
                return None, False, False
        return size, False, False

    def _is_refused(self, row: ObjectRow, reply: ResponseHead) -> bool:
        """Return whether the request was refused, or an intermediary mangled the key."""
        if reply.status in (401, 403):
            self.denied.set()
        return reply.status in REFUSED_STATUSES or (reply.status == 404 and not is_plain(row.key))

    def _check(
        self, row: ObjectRow, version_id: str | None, reply: ResponseHead, parts: int | None = None
    ) -> None:
        """Raise an error if a reply is not about the listed object.

        UnreliableListingError if the object was overwritten, else _ListingMismatchError.
        """
        etag = reply.headers.get("ETag", "").strip('"')
        counted = reply.headers.get("x-amz-mp-parts-count")
        # for a part, moto returns the part's ETag and S3 the object's
        same = etag == row.etag or (parts is not None and counted == str(parts))
        if reply.status not in (200, 206) or not same:
            self._check_listed(row, version_id, reply.status)
            raise _ListingMismatchError

    def _check_listed(self, row: ObjectRow, version_id: str | None, status: int) -> None:
        """Raise UnreliableListingError unless the bucket still lists the object unchanged."""
        now = self._bucket.find_object(row.key, version_id)
        if now is None or (now.size, now.etag, now.modified) != (row.size, row.etag, row.modified):
            raise UnreliableListingError(
                f"{self._name}: {display_key(row.key)!r} has changed since it was listed (HTTP "
                f"{status})"
            )

    def still_listed(self, row: ObjectRow, version_id: str | None) -> bool:
        """Return whether the bucket still lists the object unchanged; if so, :meth:`doubt` it."""
        try:
            self._check_listed(row, version_id, 0)
        except UnreliableListingError:
            return False
        self.doubt(row.key)
        return True


def _stated_digests(reply: ResponseHead) -> list[Digest]:
    return [
        Digest(algorithm, value, CLAIMED_BY)
        for algorithm, value in stated_checksums(reply.headers).items()
    ]


SIDECAR_REFUSED: Final = "sidecar-refused"
"""Why a document is left out that its bucket lists and refuses to return."""
REFUSED_DETAIL: Final = "the bucket lists the metadata file, and refuses to return it"
"""Part of the format: it is committed in ``dataset.json``."""


class DocumentReader(Struct, frozen=True):
    """Reads the documents of one listing. Thread-safe.

    Attributes
    ----------
    dataset_name
        The dataset's name, for messages.
    bucket, prefix
        The dataset's objects.
    profile
        Normalizes the documents' content.
    claim_resolver
        Looks up objects again that could not be read.
    version_id
        Returns the version id by which a row's object is read; None for the newest.
    record_refusal
        Records the URL of a refused document; returns whether the refusal is lasting.
    """

    dataset_name: str
    bucket: S3Bucket
    prefix: bytes
    profile: Profile
    claim_resolver: ClaimResolver
    version_id: Callable[[ObjectRow], str | None]
    record_refusal: Callable[[str], bool]
    _passing: list[AccessDeniedError] = field(default_factory=list)

    def check_refusals(self) -> None:
        """Raise AccessDeniedError if a document was refused and the refusal may be temporary.

        Call it after all documents were read, so that every refusal is recorded.
        """
        if self._passing:
            raise self._passing[0]

    def read(self, row: ObjectRow) -> tuple[Document, bool] | ExcludedEntry | None:
        """Return a document and whether upstream's differs; None if it cannot be one.

        A document that the bucket refuses is an exception; see :meth:`check_refusals`.

        Raises
        ------
        UnreliableListingError
            If the object is not the listed one.
        """
        path = row.key[len(self.prefix) :]
        version_id = self.version_id(row)
        try:
            content = self.bucket.read(
                row.key, version_id=version_id, etag=row.etag, limit=MAX_DOCUMENT_BYTES + 1
            )
        except (InvalidJsonError, ResponseTooLargeError):
            return None  # an unsupported content encoding, or too large once decoded
        except (NotFoundError, ObjectChangedError) as error:
            if self.claim_resolver.still_listed(row, version_id):
                return None
            raise UnreliableListingError(f"{self.dataset_name}: {error}") from error
        except HttpError as error:
            if error.status not in REFUSED_STATUSES or isinstance(
                error, CredentialsRefusedError | WrongRegionError
            ):
                raise
            return self._refused_entry(row, error)
        if len(content) != row.size:
            headers = self.claim_resolver.headers(row, version_id)
            if headers is None:
                return self._refused_entry(row)
            if not headers.get("Content-Encoding"):  # which reading the object decodes
                if self.claim_resolver.still_listed(row, version_id):
                    return None
                raise UnreliableListingError(
                    f"{self.dataset_name}: {display_key(row.key)!r} was listed with {row.size}"
                    f" bytes, but has {len(content)}"
                )
        cleaned = without_secrets(self.profile.normalize(path, content))
        if find_pointer_key(cleaned) is not None:
            return None  # git-annex would take a plain file for the pointer of another file
        return Document(path, cleaned, row.modified), cleaned != content

    def _refused_entry(self, row: ObjectRow, error: HttpError | None = None) -> ExcludedEntry:
        """Return the exception for a refused document, and record the refusal."""
        # the plain URL, so that all versions of a document count as one object
        url = self.bucket.object_url(row.key)
        if not self.record_refusal(url):
            refused = AccessDeniedError(
                f"{url}: the bucket refuses the sidecar, which it lists ({error or 'HEAD'}); the"
                " next sync requests it again",
                url=url,
                status=None if error is None else error.status,
            )
            self._passing.append(refused)
        path = row.key[len(self.prefix) :]
        return ExcludedEntry(path, SIDECAR_REFUSED, REFUSED_DETAIL, row.size)
