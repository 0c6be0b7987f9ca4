"""The common part of sources whose datasets are prefixes of a bucket."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from neuromirror.model import DatasetHint, DatasetRef, VersionKind, VersionRef
from neuromirror.net import (
    AccessDeniedError,
    GarbledListingError,
    InvalidListingError,
    ObjectRow,
    S3Bucket,
    S3Capabilities,
    S3Listing,
    Session,
    parse_aws_host,
    probe_bucket,
    probe_version_reads,
)
from neuromirror.sources.errors import MalformedIdError
from neuromirror.sources.protocol import Listing, Source, VisitContext
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.bucket_listing import (
    BucketListing,
    BucketMemo,
    BucketReading,
    load_memo,
)
from neuromirror.sources.s3.discovery import Segments
from neuromirror.sources.s3.history import burst_ends, moment_of, state_at, upstream_name
from neuromirror.sources.s3.listing_reader import (
    OBJECT_NAMING,
    FileNaming,
    ListingReader,
    ReaderRules,
)
from neuromirror.sources.s3.object_claims import ClaimResolver
from neuromirror.sources.s3.options import BucketOptions, Profile

CURRENT: Final = "current"
_SPEC: Final = 3
"""Version of the rules that turn a listing into records; increment it when they change."""
_SHAPING: Final = ("bucket", "region", "endpoint", "layout", "overwrites", "etags")
_ACCESS_HINT: Final = (
    'the bucket or object is not public; if you have access, set credentials = "aws" in the mirror '
    "file, and requester_pays = true for a bucket whose readers pay"
)
_PROBE_LIMIT: Final = 1000
"""Objects of a prefix that are checked for a version id: one page."""
_MAX_SAMPLES: Final = 5
"""Object versions that are requested until one is readable."""


class BucketSource(Source):
    """A bucket in which some prefixes are datasets; a subclass finds these.

    Parameters
    ----------
    mirror, options, session
        As for every :class:`~neuromirror.sources.Source`.
    profile
        The layout and metadata files of the datasets.
    whole_bucket
        Whether the bucket itself is the only dataset.
    is_private
        Whether this is the source for the private store.
    shaping
        Names of a subclass's options on which the records of a listing depend; a change of one
        makes memos invalid.
    """

    def __init__(
        self,
        mirror: str,
        options: BucketOptions,
        session: Session,
        profile: Profile,
        *,
        whole_bucket: bool,
        is_private: bool = False,
        shaping: tuple[str, ...] = (),
    ) -> None:
        self.mirror = mirror
        self.session = session
        self.bucket = S3Bucket(
            session,
            options.bucket,
            region=options.region,
            endpoint=options.endpoint,
            access_hint=_ACCESS_HINT,
        )
        self._is_private = is_private
        # without a final slash, which only the URI of the whole bucket as a dataset has
        self.uri = self.bucket.uri + local_ids.uri_path(options.prefix.encode("utf-8")).rstrip("/")
        self.uri = self.uri.rstrip("/")
        self.bucket_prefix = options.prefix.encode("utf-8")
        self._settings = options
        self._is_whole_bucket = whole_bucket
        self._profile = profile
        self._lock = threading.Lock()
        self._found_capabilities: S3Capabilities | None = None
        self._has_garbled_versions = False
        self._head_each: set[bytes] = set()
        self._head_parts: dict[bytes, bool] = {}
        """Whether each multipart upload is requested, by prefix, as the last sample showed."""
        self._mismatched: dict[bytes, frozenset[bytes]] = {}
        """Keys of objects that differed from their rows, by prefix."""
        dumped = options.model_dump(mode="json")
        shape = {name: dumped[name] for name in (*_SHAPING, *shaping) if name in dumped}
        text = json.dumps(shape, separators=(",", ":"), ensure_ascii=False)
        self._shape = hashlib.sha256(f"{_SPEC} {text}".encode()).hexdigest()[:16]

    # --- credentials

    @property
    def is_private_only(self) -> bool:
        """Whether the datasets may be in the private store only."""
        return self._settings.is_private

    def _has_private_source(self) -> bool:
        """Return whether there is a source for the private store, after checking the credentials.

        Raises
        ------
        CredentialsError
            If there are no valid credentials.
        """
        signer = self.session.signer
        if not self._is_concealed or signer is None:
            return False
        signer.check()
        return True

    def is_open(self, dataset: DatasetRef) -> bool:
        """Return whether the datasets may be public by the mirror file."""
        return not self._settings.is_private

    def may_be_public(self, dataset: DatasetRef) -> bool:
        """Return whether the datasets may be public by the mirror file."""
        return not self._settings.is_private

    @property
    def _is_concealed(self) -> bool:
        """Whether this is the public view of a bucket whose datasets are private."""
        return self._settings.is_private and not self._is_private

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the dataset at a prefix; raise MalformedIdError."""
        return self._ref(self._segments(local_id), local_id)

    def key_of(self, address: str) -> bytes | None:
        """Return the key or prefix that an ``s3://`` or HTTP URL names in this bucket."""
        return key_of(address, self._settings.bucket, self._settings.endpoint)

    def _segments(self, local_id: str) -> Segments:
        if self._is_whole_bucket and local_id == self._settings.bucket:
            return ()
        try:
            return local_ids.segments_of(local_id)
        except ValueError as error:
            raise MalformedIdError(
                f"{self.mirror}: {local_id[:200]!r} is not a dataset id; write the prefix in the"
                " bucket without its final slash, and every character except letters, digits and"
                f" . _ - + , as =XX ('neuromirror sync {self.mirror} --dry-run' lists all ids)"
            ) from error

    def _ref(self, segments: Segments, local_id: str) -> DatasetRef:
        prefix = local_ids.prefix_of(segments)
        return DatasetRef(self.mirror, local_id, self.bucket.uri + local_ids.uri_path(prefix))

    def _local_id(self, segments: Segments) -> str | None:
        return local_ids.local_id(segments) if segments else self._settings.bucket

    def _too_long_notice(self, segments: Segments) -> DatasetHint:
        """Return a hint that reports a prefix too long for a local id."""
        cut = hashlib.sha256(local_ids.prefix_of(segments)).hexdigest()[:8]
        ref = self._ref(segments, f"{local_ids.NOTICE}too-long-{cut}")
        why = f"the prefix is too long for a name: {ref.source_uri}"
        return DatasetHint(ref, None, unavailable=why)

    # --- versions

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return the current state; no request is made."""
        return [VersionRef(dataset, CURRENT, VersionKind.OBSERVED, None)]

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Return earlier states from object versions; empty if the bucket does not list them."""
        capabilities = self._capabilities()
        if not capabilities.versions_listable or capabilities.version_readable is False:
            return []
        prefix = local_ids.prefix_of(self._segments(dataset.local_id))
        listing = self.bucket.objects(prefix, versions=True, connections=self._settings.connections)
        gap = timedelta(minutes=self._settings.history_gap_minutes)
        earlier = burst_ends(listing.rows(), gap)[:-1]
        return [
            VersionRef(dataset, upstream_name(moment), VersionKind.OBSERVED, moment)
            for moment in earlier
            if since is None or moment > since
        ]

    def capabilities(self) -> Mapping[str, str]:
        """Return the capabilities of the bucket, tested on a few objects."""
        if self._is_concealed:
            return {}
        capabilities = self._capabilities()
        return {
            "versions": "listable"
            if capabilities.versions_listable
            else "invalid lists"
            if self._has_garbled_versions
            else "not listable",
            "version-reads": _describe_capability(
                capabilities.version_readable, "allowed", "refused"
            ),
            "checksums": _describe_capability(
                capabilities.checksums_returned, "returned", "not returned"
            ),
            "durability": "versioned-bucket"
            if capabilities.versions_listable and capabilities.version_readable
            else "mutable-bucket",
        }

    def _capabilities(self) -> S3Capabilities:
        with self._lock:
            if self._found_capabilities is None:
                try:
                    self._found_capabilities = probe_bucket(self.bucket, self.bucket_prefix)
                except GarbledListingError:
                    # some stores garble unusual keys in lists of versions, not of objects
                    self._has_garbled_versions = True
                    self._found_capabilities = S3Capabilities(False, None, None)
            return self._found_capabilities

    # --- listing

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """Return the listing of a state; raise MalformedIdError for another kind of version."""
        reading = self._read(version, context, context.memo, OBJECT_NAMING)
        return BucketListing(reading, is_private=self._is_private)

    def _read(
        self,
        version: VersionRef,
        context: VisitContext,
        stored_memo: bytes | None,
        naming: FileNaming,
        profile: Profile | None = None,
    ) -> BucketReading:
        """Prepare the reading of a state.

        ``stored_memo`` is an earlier :meth:`BucketListing.memo` of this version; ``profile`` has
        other rules than those of the source.
        """
        moment = moment_of(version.upstream)
        if moment is None and version.upstream != CURRENT:
            raise MalformedIdError(
                f"{version.dataset.name}: there is no version {version.upstream!r}"
            )
        prefix = local_ids.prefix_of(self._segments(version.dataset.local_id))
        memo = None if moment is not None else load_memo(stored_memo, self._shape)
        listed = moment is not None or self._lists_versions(prefix, memo, context)
        versions = listed is True
        if memo is not None and memo.versions != versions:
            memo = None
        workspace = context.workspace if context.workspace.is_dir() else None
        pages = self.bucket.objects(
            prefix,
            workspace=workspace,
            memo=None if memo is None else memo.pages,
            versions=versions,
            connections=self._settings.connections,
        )
        head_each, resolver = self._claim_resolver(version, prefix, memo, deep=context.deep)
        reader = ListingReader(
            self.bucket,
            version,
            prefix,
            resolver,
            ReaderRules(
                profile=profile or self._profile,
                connections=self._settings.connections,
                key_is_id=self._settings.overwrites_are_incidents and moment is None,
                versioned=versions,
                exact=moment is not None,
                sample=self._settings.etags == "probe" and not head_each,
                sample_parts=self._samples_parts,
                is_private=self._is_private,
            ),
            context,
            workspace=workspace,
            rows=partial(_newest, pages)
            if moment is None
            else lambda: state_at(pages.rows(), moment, workspace),
            on_opaque=partial(self._head_each.add, prefix),
            on_mismatch=partial(self._doubt_objects, prefix),
            on_parts=partial(self._head_parts.__setitem__, prefix),
            naming=naming,
        )
        if listed is None:
            reader.degraded.set()  # so that the next visit tests it again
        return BucketReading(
            version, reader, pages, memo, self._shape, moment is None, versions, head_each
        )

    def _claim_resolver(
        self, version: VersionRef, prefix: bytes, memo: BucketMemo | None, *, deep: bool
    ) -> tuple[bool, ClaimResolver]:
        """Return whether every object must be requested, and what finds their claims."""
        with self._lock:
            if memo is not None and memo.head_each:
                self._head_each.add(prefix)
            # Anonymous clients cannot read encrypted objects (SSE-KMS), whose ETag is no MD5. With
            # credentials they can, and a sample would miss single ones, and refused ones.
            head_each = prefix in self._head_each or self.session.signer is not None
            doubted = self._mismatched.get(prefix, frozenset())
            was = memo is not None and memo.head_parts
            head_parts = not self._samples_parts or self._head_parts.setdefault(prefix, was)
        etags = self._settings.etags
        return head_each, ClaimResolver(
            self.bucket,
            version.dataset.name,
            head_each=head_each and etags == "probe",
            etags_opaque=etags == "opaque",
            head_empty=self._settings.endpoint is not None,
            doubted=doubted,
            head_parts=head_parts,
            part_answers={} if memo is None or deep else dict(memo.part_answers),
        )

    @property
    def _samples_parts(self) -> bool:
        """Whether usual part sizes are claimed if a sample of the listing has them.

        With credentials, encrypted objects can be read, whose ETag is no MD5.
        """
        return self._settings.etags != "opaque" and self.session.signer is None

    def _lists_versions(
        self, prefix: bytes, memo: BucketMemo | None, context: VisitContext
    ) -> bool | None:
        """Return whether versions can be listed and read, so that URLs have version ids.

        None if this is unknown, because the bucket has refused the prefix's objects, or returned
        invalid lists of versions, for a day.

        Lists of versions cannot be read in parallel, so they are requested only if they have ids.
        """
        try:
            return self._test_versions(prefix, memo, context)
        except InvalidListingError as error:
            if error.url is None or not context.record_refusal(error.url):
                raise
            return None

    def _test_versions(
        self, prefix: bytes, memo: BucketMemo | None, context: VisitContext
    ) -> bool | None:
        """Return :meth:`_lists_versions`; raise InvalidListingError for an invalid list."""
        capabilities = self._capabilities()
        if capabilities.version_readable is None and capabilities.versions_listable:
            # The bucket's first objects have no version id; those of this prefix may have one.
            if memo is not None:
                return memo.versions
            return self._has_versions(prefix, context)
        if capabilities.versions_ignored and (memo is None or memo.versions):
            probe_bucket(self.bucket, prefix, checksums=False)  # this prefix may have version ids
        return capabilities.versions_listable and capabilities.version_readable is True

    def _has_versions(self, prefix: bytes, context: VisitContext) -> bool | None:
        """Return whether a prefix's first objects can be read by version id; None if unknown.

        Raises
        ------
        AccessDeniedError
            If the bucket refuses the objects, for less than a day. Without version ids, the records
            would be those of a state that the bucket never had.
        """
        rows = self.bucket.objects(prefix, versions=True, connections=1).rows()
        try:
            samples = [
                (row.key, row.version_id)
                for row in islice(rows, _PROBE_LIMIT)
                if row.version_id is not None and not row.deleted
            ][:_MAX_SAMPLES]
        except GarbledListingError:
            return False
        readable, _ = probe_version_reads(self.bucket, samples)
        if readable is None and samples:
            url = self.bucket.object_url(*samples[0])
            if not context.record_refusal(url):
                raise AccessDeniedError(
                    f"{url}: the bucket lists object versions but refuses to return them, with and"
                    " without a version id",
                    url=url,
                    status=403,
                )
            return None
        return readable is True

    def _doubt_objects(self, prefix: bytes, keys: Sequence[bytes]) -> None:
        """Request these objects in later listings; after a second call, all of the prefix."""
        with self._lock:
            if prefix in self._mismatched:
                self._head_each.add(prefix)
            self._mismatched[prefix] = self._mismatched.get(prefix, frozenset()) | set(keys)


def _newest(listed: S3Listing) -> Iterator[ObjectRow]:
    return (row for row in listed.rows() if row.latest and not row.deleted)


def _describe_capability(answer: bool | None, yes: str, no: str) -> str:
    return "not tested" if answer is None else yes if answer else no


_VERSION: Final = re.compile(r"\?versionId=[^&?]*\Z")


def key_of(address: str, bucket: str, endpoint: str | None) -> bytes | None:
    """Return the key or prefix that an address names in a bucket.

    An ``s3://`` address has the key as it is: ``#`` and ``%`` are part of it. In an HTTP URL it is
    encoded.

    Parameters
    ----------
    address
        The address.
    bucket
        The name of the bucket.
    endpoint
        The base URL of another service than AWS.

    Returns
    -------
    bytes or None
        None if it is not an address in this bucket.
    """
    if address.startswith("s3://"):
        name, _, key = address.removeprefix("s3://").partition("/")
        return _VERSION.sub("", key).encode("utf-8", "surrogateescape") if name == bucket else None
    if not address.startswith(("https://", "http://")):
        return None
    parts = urlsplit(address)
    host, path = parts.netloc.lower(), parts.path.lstrip("/")
    if endpoint is not None:
        base = urlsplit(endpoint)
        if host == base.netloc.lower():
            path = parts.path.removeprefix(base.path.rstrip("/")).lstrip("/")
            return _below(path, bucket)
        return unquote_to_bytes(path) if host == f"{bucket}.{base.netloc}".lower() else None
    aws = parse_aws_host(host)
    if aws is None or aws.bucket not in (None, bucket.lower()):
        return None
    return _below(path, bucket) if aws.bucket is None else unquote_to_bytes(path)


def _below(path: str, bucket: str) -> bytes | None:
    name, _, key = path.partition("/")
    return unquote_to_bytes(key) if name == bucket else None
