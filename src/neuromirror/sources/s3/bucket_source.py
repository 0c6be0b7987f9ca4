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
    ListingBroken,
    ObjectRow,
    S3Bucket,
    S3Capabilities,
    S3Listing,
    Session,
)
from neuromirror.sources.errors import MalformedId
from neuromirror.sources.protocol import Estimate, Known, Listing
from neuromirror.sources.s3 import names
from neuromirror.sources.s3.discovery import Components
from neuromirror.sources.s3.history import bursts, moment_of, state_at, upstream_name
from neuromirror.sources.s3.ladder import Ladder
from neuromirror.sources.s3.memo import Memo, load_memo
from neuromirror.sources.s3.naming import AS_LISTED, Naming
from neuromirror.sources.s3.options import BucketOptions
from neuromirror.sources.s3.profile import Profile
from neuromirror.sources.s3.reading import Reading, Rules

CURRENT: Final = "current"
_SPEC: Final = 2
"""Counted up when the same listing gives other records or documents than before."""
_SHAPING: Final = ("bucket", "region", "endpoint", "profile", "overwrites", "etags")
_TRIED: Final = 1000
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
        whole: bool,
        shaping: tuple[str, ...] = (),
    ) -> None:
        self.mirror = mirror
        self.session = session
        self.bucket = S3Bucket(
            session, options.bucket, region=options.region, endpoint=options.endpoint
        )
        # No slash at the end: the whole bucket as one dataset has that name.
        self.uri = self.bucket.uri + names.uri_path(options.prefix.encode("utf-8")).rstrip("/")
        self.uri = self.uri.rstrip("/")
        self.bucket_prefix = options.prefix.encode("utf-8")
        self._settings = options
        self._is_all = whole
        self._profile = profile
        self._lock = threading.Lock()
        self._allowed: S3Capabilities | None = None
        self._ask_each: set[bytes] = set()
        self._odd: dict[bytes, frozenset[bytes]] = {}
        """Keys of objects that were found to be odd, by prefix."""
        said = options.model_dump(mode="json")
        shape = {name: said[name] for name in (*_SHAPING, *shaping) if name in said}
        text = json.dumps(shape, separators=(",", ":"), ensure_ascii=False)
        self._shape = hashlib.sha256(f"{_SPEC} {text}".encode()).hexdigest()[:16]

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """The dataset at a prefix; raises :class:`MalformedId` (a ValueError)."""
        return self._ref(self._components(local_id), local_id)

    def _components(self, local_id: str) -> Components:
        if self._is_all and local_id == self._settings.bucket:
            return ()
        try:
            return names.components_of(local_id)
        except ValueError as error:
            raise MalformedId(
                f"{self.mirror}: {local_id[:200]!r} is no dataset's name; it is the prefix in the"
                " bucket without its last slash, with other signs than letters, digits, . _ - + ,"
                " written as =XX ('neuromirror sync "
                f"{self.mirror} --dry-run' names all)"
            ) from error

    def _ref(self, components: Components, local_id: str) -> DatasetRef:
        prefix = names.prefix_of(components)
        return DatasetRef(self.mirror, local_id, self.bucket.uri + names.uri_path(prefix))

    def _local_id(self, components: Components) -> str | None:
        return names.local_id(components) if components else self._settings.bucket

    def _too_long(self, components: Components) -> DatasetHint:
        """The notice about a prefix that is too long for a name."""
        cut = hashlib.sha256(names.prefix_of(components)).hexdigest()[:8]
        ref = self._ref(components, f"{names.NOTICE}too-long-{cut}")
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
        prefix = names.prefix_of(self._components(dataset.local_id))
        listing = self.bucket.objects(prefix, versions=True, connections=self._settings.connections)
        gap = timedelta(minutes=self._settings.history_gap_minutes)
        earlier = bursts(listing.rows(), gap)[:-1]
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
            "version-reads": _said(allowed.version_readable, "allowed", "refused"),
            "checksums": _said(allowed.checksums_returned, "returned", "not returned"),
            "durability": "versioned-bucket"
            if allowed.versions_listable and allowed.version_readable
            else "mutable-bucket",
        }

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """None: only the listing tells."""
        return None

    def group(self, local_ids: str) -> DatasetRef | None:
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
        except ListingBroken:
            # Some stores garble odd keys in their list of versions, and not in that of objects.
            return S3Capabilities(False, None, None)

    # --- listing

    def listing(self, version: VersionRef, known: Known) -> Listing:
        """The objects of a state; raises :class:`MalformedId` for a version of another kind."""
        return self._listing(version, known, known.memo, AS_LISTED)

    def _listing(
        self, version: VersionRef, known: Known, kept: bytes | None, naming: Naming
    ) -> Listing:
        """The objects of a state; ``kept`` is what the memo of this very listing was."""
        moment = moment_of(version.upstream)
        if moment is None and version.upstream != CURRENT:
            raise MalformedId(f"{version.dataset.name}: there is no version {version.upstream!r}")
        prefix = names.prefix_of(self._components(version.dataset.local_id))
        memo = None if moment is not None else load_memo(kept, self._shape)
        versions = moment is not None or self._lists_versions(prefix, memo)
        if memo is not None and memo.versions != versions:
            memo = None
        with self._lock:
            if memo is not None and memo.ask_each:
                self._ask_each.add(prefix)
            ask_each = prefix in self._ask_each
            doubted = self._odd.get(prefix, frozenset())
        workspace = known.workspace if known.workspace.is_dir() else None
        listed = self.bucket.objects(
            prefix,
            workspace=workspace,
            memo=None if memo is None else memo.pages,
            versions=versions,
            connections=self._settings.connections,
        )
        etags = self._settings.etags
        reading = Reading(
            self.bucket,
            version,
            prefix,
            Ladder(
                self.bucket,
                version.dataset.name,
                ask_each=ask_each and etags == "probe",
                never=etags == "opaque",
                ask_empty=self._settings.endpoint is not None,
                doubted=doubted,
            ),
            Rules(
                profile=self._profile,
                connections=self._settings.connections,
                key_is_id=self._settings.overwrites_are_incidents and moment is None,
                versioned=versions,
                exact=moment is not None,
                sample=etags == "probe" and not ask_each,
            ),
            known,
            workspace=workspace,
            rows=partial(_newest, listed)
            if moment is None
            else lambda: state_at(listed.rows(), moment, workspace),
            found_opaque=partial(self._must_ask_each, prefix),
            found_odd=partial(self._must_ask_about, prefix),
            naming=naming,
        )
        listing = Listing(
            version=version,
            facts=DatasetFacts(title=version.dataset.local_id),
            documents=(),
            entries=iter(()),
            closing=reading.closing,
            unversioned=not versions,
        )
        listing.entries = reading.entries(listing)
        if moment is None:

            def remembered() -> bytes | None:
                if reading.degraded.is_set():
                    return None
                return Memo(self._shape, versions, ask_each, listed.memo()).dump()

            listing.unchanged = lambda: memo is not None and listed.unchanged()
            listing.memo = remembered
            listing.still_there = reading.still_there
            listing.problems = lambda: reading.unreadable
            listing.refused = lambda: reading.refused
        return listing

    def _lists_versions(self, prefix: bytes, memo: Memo | None) -> bool:
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
            for row in islice(rows, _TRIED):
                if row.version_id is not None and not row.deleted:
                    reply = self.bucket.head(row.key, version_id=row.version_id)
                    return reply.status == 200
        except ListingBroken:
            return False
        return False

    def _must_ask_about(self, prefix: bytes, keys: Sequence[bytes]) -> None:
        """Doubts some objects from now on; all of them, where that was said before."""
        with self._lock:
            if prefix in self._odd:
                self._ask_each.add(prefix)
            self._odd[prefix] = self._odd.get(prefix, frozenset()) | set(keys)

    def _must_ask_each(self, prefix: bytes) -> None:
        with self._lock:
            self._ask_each.add(prefix)


def _newest(listed: S3Listing) -> Iterator[ObjectRow]:
    return (row for row in listed.rows() if row.latest and not row.deleted)


def _said(answer: bool | None, yes: str, no: str) -> str:
    return "nothing to try" if answer is None else yes if answer else no
