"""What all sources that take prefixes of a bucket for datasets have in common."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final

from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    VersionKind,
    VersionRef,
)
from neuromirror.net import (
    InvalidListingError,
    ObjectRow,
    S3Bucket,
    S3Capabilities,
    S3Listing,
    Session,
)
from neuromirror.sources.errors import MalformedIdError
from neuromirror.sources.protocol import Estimate, Listing, VisitContext
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.discovery import Segments
from neuromirror.sources.s3.file_naming import OBJECT_NAMING, FileNaming
from neuromirror.sources.s3.history import burst_ends, moment_of, state_at, upstream_name
from neuromirror.sources.s3.listing_reader import ListingReader, ReaderRules
from neuromirror.sources.s3.memo import BucketMemo, load_memo
from neuromirror.sources.s3.object_claims import ClaimResolver
from neuromirror.sources.s3.options import BucketOptions
from neuromirror.sources.s3.profile import Profile

CURRENT: Final = "current"
_SPEC: Final = 2
"""Counted up when the same listing gives other records or documents than before."""
_SHAPING: Final = ("bucket", "region", "endpoint", "profile", "overwrites", "etags")
_PROBE_LIMIT: Final = 1000
"""Objects of a prefix among which a version id is looked for: one page."""


class BucketSource:
    """A bucket in which some prefixes are datasets, but for how these are found.

    ``profile`` says what is known of their objects, ``whole`` that the bucket itself is the one
    dataset; ``shaping`` names options, beside those of every bucket, by which the same listing
    gives other records.
    """

    def __init__(
        self,
        mirror: str,
        options: BucketOptions,
        session: Session,
        profile: Profile,
        *,
        whole_bucket: bool,
        shaping: tuple[str, ...] = (),
    ) -> None:
        self.mirror = mirror
        self.session = session
        self.bucket = S3Bucket(
            session, options.bucket, region=options.region, endpoint=options.endpoint
        )
        # No slash at the end: the whole bucket as one dataset has that name.
        self.uri = self.bucket.uri + local_ids.uri_path(options.prefix.encode("utf-8")).rstrip("/")
        self.uri = self.uri.rstrip("/")
        self.bucket_prefix = options.prefix.encode("utf-8")
        self._settings = options
        self._is_whole_bucket = whole_bucket
        self._profile = profile
        self._lock = threading.Lock()
        self._allowed: S3Capabilities | None = None
        self._head_each: set[bytes] = set()
        self._mismatched: dict[bytes, frozenset[bytes]] = {}
        """Keys of objects that were found to be odd, by prefix."""
        dumped = options.model_dump(mode="json")
        shape = {name: dumped[name] for name in (*_SHAPING, *shaping) if name in dumped}
        text = json.dumps(shape, separators=(",", ":"), ensure_ascii=False)
        self._shape = hashlib.sha256(f"{_SPEC} {text}".encode()).hexdigest()[:16]

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """The dataset at a prefix; raises :class:`MalformedIdError` (a ValueError)."""
        return self._ref(self._segments(local_id), local_id)

    def _segments(self, local_id: str) -> Segments:
        if self._is_whole_bucket and local_id == self._settings.bucket:
            return ()
        try:
            return local_ids.segments_of(local_id)
        except ValueError as error:
            raise MalformedIdError(
                f"{self.mirror}: {local_id[:200]!r} is no dataset's name; it is the prefix in the"
                " bucket without its last slash, with other signs than letters, digits, . _ - + ,"
                " written as =XX ('neuromirror sync "
                f"{self.mirror} --dry-run' names all)"
            ) from error

    def _ref(self, segments: Segments, local_id: str) -> DatasetRef:
        prefix = local_ids.prefix_of(segments)
        return DatasetRef(self.mirror, local_id, self.bucket.uri + local_ids.uri_path(prefix))

    def _local_id(self, segments: Segments) -> str | None:
        return local_ids.local_id(segments) if segments else self._settings.bucket

    def _too_long_notice(self, segments: Segments) -> DatasetHint:
        """The notice about a prefix that is too long for a name."""
        cut = hashlib.sha256(local_ids.prefix_of(segments)).hexdigest()[:8]
        ref = self._ref(segments, f"{local_ids.NOTICE}too-long-{cut}")
        why = f"the prefix is too long for a name: {ref.source_uri}"
        return DatasetHint(ref, None, unavailable=why)

    # --- versions

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """The current state, which is all that a bucket names; no request is made."""
        return [VersionRef(dataset, CURRENT, VersionKind.OBSERVED, None)]

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Earlier states from object versions; none where the bucket does not list them."""
        allowed = self._capabilities()
        if not allowed.versions_listable or allowed.version_readable is False:
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
        """What the bucket allows, tried on a few objects."""
        allowed = self._capabilities()
        return {
            "versions": "listable" if allowed.versions_listable else "not listable",
            "version-reads": _describe_capability(allowed.version_readable, "allowed", "refused"),
            "checksums": _describe_capability(
                allowed.checksums_returned, "returned", "not returned"
            ),
            "durability": "versioned-bucket"
            if allowed.versions_listable and allowed.version_readable
            else "mutable-bucket",
        }

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """None: only the listing tells."""
        return None

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """None: all datasets are the mirror's own."""
        return None

    def _capabilities(self) -> S3Capabilities:
        with self._lock:
            if self._allowed is None:
                self._allowed = self._probe(self._settings.prefix.encode("utf-8"))
            return self._allowed

    def _probe(self, prefix: bytes) -> S3Capabilities:
        try:
            return self.bucket.probe(prefix)
        except InvalidListingError:
            # Some stores garble odd keys in their list of versions, and not in that of objects.
            return S3Capabilities(False, None, None)

    # --- listing

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """The objects of a state; raises :class:`MalformedIdError` for a version of another
        kind."""
        return self._listing(version, context, context.memo, OBJECT_NAMING)

    def _listing(
        self,
        version: VersionRef,
        context: VisitContext,
        stored_memo: bytes | None,
        naming: FileNaming,
    ) -> Listing:
        """The objects of a state; ``kept`` is what the memo of this very listing was."""
        moment = moment_of(version.upstream)
        if moment is None and version.upstream != CURRENT:
            raise MalformedIdError(
                f"{version.dataset.name}: there is no version {version.upstream!r}"
            )
        prefix = local_ids.prefix_of(self._segments(version.dataset.local_id))
        memo = None if moment is not None else load_memo(stored_memo, self._shape)
        versions = moment is not None or self._lists_versions(prefix, memo)
        if memo is not None and memo.versions != versions:
            memo = None
        with self._lock:
            if memo is not None and memo.head_each:
                self._head_each.add(prefix)
            ask_each = prefix in self._head_each
            doubted = self._mismatched.get(prefix, frozenset())
        workspace = context.workspace if context.workspace.is_dir() else None
        listed = self.bucket.objects(
            prefix,
            workspace=workspace,
            memo=None if memo is None else memo.pages,
            versions=versions,
            connections=self._settings.connections,
        )
        etags = self._settings.etags
        reading = ListingReader(
            self.bucket,
            version,
            prefix,
            ClaimResolver(
                self.bucket,
                version.dataset.name,
                head_each=ask_each and etags == "probe",
                etags_opaque=etags == "opaque",
                head_empty=self._settings.endpoint is not None,
                doubted=doubted,
            ),
            ReaderRules(
                profile=self._profile,
                connections=self._settings.connections,
                key_is_id=self._settings.overwrites_are_incidents and moment is None,
                versioned=versions,
                exact=moment is not None,
                sample=etags == "probe" and not ask_each,
            ),
            context,
            workspace=workspace,
            rows=partial(_newest, listed)
            if moment is None
            else lambda: state_at(listed.rows(), moment, workspace),
            on_opaque=partial(self._require_heads, prefix),
            on_mismatch=partial(self._doubt_objects, prefix),
            naming=naming,
        )
        listing = Listing(
            version=version,
            facts=DatasetFacts(title=version.dataset.local_id),
            documents=(),
            entries=iter(()),
            confirm_version=reading.confirm_version,
            unversioned=not versions,
        )
        listing.entries = reading.entries(listing)
        if moment is None:

            def remembered() -> bytes | None:
                if reading.degraded.is_set():
                    return None
                return BucketMemo(self._shape, versions, ask_each, listed.memo()).dump()

            listing.is_unchanged = lambda: memo is not None and listed.unchanged()
            listing.memo = remembered
            listing.find_present = reading.find_present
            listing.problems = lambda: reading.unreadable
            listing.refused_count = lambda: reading.refused_count
        return listing

    def _lists_versions(self, prefix: bytes, memo: BucketMemo | None) -> bool:
        """Whether versions can be listed and read, so that each object has an exact address.

        A list of versions cannot be read in parallel: it is asked for only where it gives some.
        """
        allowed = self._capabilities()
        if allowed.version_readable is None and allowed.versions_listable:
            # The first objects of the bucket had no version id; those of this prefix may.
            if memo is not None:
                return memo.versions
            return self._has_versions(prefix)
        return allowed.versions_listable and allowed.version_readable is True

    def _has_versions(self, prefix: bytes) -> bool:
        """Whether the first objects of a prefix have version ids by which they can be read."""
        rows = self.bucket.objects(prefix, versions=True, connections=1).rows()
        try:
            for row in islice(rows, _PROBE_LIMIT):
                if row.version_id is not None and not row.deleted:
                    reply = self.bucket.head(row.key, version_id=row.version_id)
                    return reply.status == 200
        except InvalidListingError:
            return False
        return False

    def _doubt_objects(self, prefix: bytes, keys: Sequence[bytes]) -> None:
        """Doubts some objects from now on; all of them, where that was said before."""
        with self._lock:
            if prefix in self._mismatched:
                self._head_each.add(prefix)
            self._mismatched[prefix] = self._mismatched.get(prefix, frozenset()) | set(keys)

    def _require_heads(self, prefix: bytes) -> None:
        with self._lock:
            self._head_each.add(prefix)


def _newest(listed: S3Listing) -> Iterator[ObjectRow]:
    return (row for row in listed.rows() if row.latest and not row.deleted)


def _describe_capability(answer: bool | None, yes: str, no: str) -> str:
    return "nothing to try" if answer is None else yes if answer else no
