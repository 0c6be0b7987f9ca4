"""A public S3 bucket as a source of datasets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import ClassVar, Final

from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    VersionKind,
    VersionRef,
)
from neuromirror.net import (
    ListingBroken,
    NetError,
    ObjectRow,
    S3Bucket,
    S3Capabilities,
    S3Listing,
    Session,
)
from neuromirror.sources.errors import DatasetNotFound, MalformedId, UnexpectedReply
from neuromirror.sources.protocol import Estimate, Known, Listing
from neuromirror.sources.s3 import docdb, names
from neuromirror.sources.s3.aind import AIND
from neuromirror.sources.s3.discovery import Components, Plan, Strays, roots
from neuromirror.sources.s3.history import bursts, moment_of, state_at, upstream_name
from neuromirror.sources.s3.ladder import Ladder
from neuromirror.sources.s3.memo import Memo, load_memo
from neuromirror.sources.s3.options import S3Options
from neuromirror.sources.s3.plain import PLAIN
from neuromirror.sources.s3.profile import Profile
from neuromirror.sources.s3.reading import Reading, Rules

CURRENT: Final = "current"
_SPEC: Final = 2
"""Counted up when the same listing gives other records or documents than before."""
_PROFILES: Final[Mapping[str, Profile]] = {"plain": PLAIN, "aind": AIND}
_SHOWN: Final = 5
_TRIED: Final = 1000
"""Objects of a prefix among which a version id is looked for: one page."""


class S3Source:
    """A bucket as a :class:`~neuromirror.sources.Source`."""

    Options: ClassVar[type[S3Options]] = S3Options

    def __init__(self, mirror: str, options: S3Options, session: Session) -> None:
        self.mirror = mirror
        self.options = options
        self.session = session
        self.bucket = S3Bucket(
            session, options.bucket, region=options.region, endpoint=options.endpoint
        )
        # No slash at the end: the whole bucket as one dataset has that name.
        self.uri = self.bucket.uri + names.uri_path(options.prefix.encode("utf-8")).rstrip("/")
        self.uri = self.uri.rstrip("/")
        self._plan = Plan(options)
        self._lock = threading.Lock()
        self._allowed: S3Capabilities | None = None
        self._ask_each: set[bytes] = set()
        shaping = options.model_dump_json(
            include={"bucket", "region", "endpoint", "profile", "overwrites", "etags"}
        )
        self._shape = hashlib.sha256(f"{_SPEC} {shaping}".encode()).hexdigest()[:16]

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """The dataset at a prefix; raises :class:`MalformedId` (a ValueError)."""
        return self._ref(self._components(local_id), local_id)

    def _components(self, local_id: str) -> Components:
        if self._is_all and local_id == self.options.bucket:
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

    @property
    def _is_all(self) -> bool:
        """Whether the whole bucket is one dataset."""
        return self._plan.is_root(())

    def _ref(self, components: Components, local_id: str) -> DatasetRef:
        prefix = names.prefix_of(components)
        return DatasetRef(self.mirror, local_id, self.bucket.uri + names.uri_path(prefix))

    def _local_id(self, components: Components) -> str | None:
        return names.local_id(components) if components else self.options.bucket

    # --- discovery

    def datasets(self) -> Iterator[DatasetHint]:
        """Yields all datasets, in order of their prefixes, and notices about what is none.

        A notice has a local id that begins with ``==`` and says in ``unavailable`` what lies
        above the depth, or what DocDB and the bucket do not agree about.
        """
        times, trouble = self._docdb_times()
        strays = Strays()
        found: set[Components] = set()
        for components in roots(self.bucket, self._plan, strays):
            if times:
                found.add(components)
            yield self._hint(components, times.get(self._location(components)))
        notices = {"above": strays.told(), "docdb": trouble or self._missing(times, found)}
        for name, told in notices.items():
            if told is not None:
                ref = DatasetRef(self.mirror, f"{names.NOTICE}{name}", f"{self.uri}#{name}")
                yield DatasetHint(ref, None, unavailable=told)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One dataset's hint; raises :class:`DatasetNotFound` when its prefix lists empty."""
        components = self._components(dataset.local_id)
        reason = None
        if self._plan.is_excluded(components):
            reason = "excluded in the mirror's file"
        elif not self._plan.is_root(components):
            reason = "no dataset: the mirror's file puts the roots at another depth"
        if reason is not None:
            return DatasetHint(dataset, None, unavailable=reason)
        if next(self.bucket.level(names.prefix_of(components)), None) is None:
            raise DatasetNotFound(f"{dataset.name}: {dataset.source_uri} holds no object")
        time = None
        if self.options.docdb is not None:
            try:
                time = docdb.times_of(self.session, self.options.docdb, self._location(components))
            except (NetError, UnexpectedReply):
                time = None  # the bucket alone says what there is
        return self._hint(components, time)

    def _hint(self, components: Components, time: str | None) -> DatasetHint:
        local_id = self._local_id(components)
        if local_id is None:
            cut = hashlib.sha256(names.prefix_of(components)).hexdigest()[:8]
            ref = self._ref(components, f"{names.NOTICE}too-long-{cut}")
            return DatasetHint(
                ref, None, unavailable=f"the prefix is too long for a name: {ref.source_uri}"
            )
        # A change of the options that shape a dataset must not be skipped either.
        fingerprint = f"{time} {self._shape}" if time else None
        return DatasetHint(self._ref(components, local_id), fingerprint, title=local_id)

    def _location(self, components: Components) -> str:
        """Where DocDB says that an asset is."""
        path = b"/".join(components).decode("utf-8", "replace")
        return f"s3://{self.options.bucket}/{path}"

    def _docdb_times(self) -> tuple[Mapping[str, str], str | None]:
        if self.options.docdb is None:
            return {}, None
        try:
            where = f"s3://{self.options.bucket}/{self.options.prefix}"
            return docdb.all_times(self.session, self.options.docdb, where), None
        except (NetError, UnexpectedReply) as error:
            return {}, (
                f"DocDB gave no list ({error}), so nothing tells what changed and every dataset"
                " is visited"
            )

    def _missing(self, times: Mapping[str, str], found: set[Components]) -> str | None:
        """What DocDB knows and the bucket does not; None where there is nothing."""
        top = self._location(())
        listed = {self._location(components) for components in found}
        lost: list[str] = []
        for location in sorted(times.keys() - listed):
            path = location.removeprefix(top)
            components = tuple(path.encode("utf-8", "surrogatepass").split(b"/"))
            if not self._plan.is_excluded(components):
                lost.append(path)
        if not lost:
            return None
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        return (
            f"in DocDB, but no dataset of the bucket ({len(lost)}): "
            f"{', '.join(lost[:_SHOWN])}{more}"
        )

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
        listing = self.bucket.objects(prefix, versions=True, connections=self.options.connections)
        gap = timedelta(minutes=self.options.history_gap_minutes)
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
                self._allowed = self._probe(self.options.prefix.encode("utf-8"))
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
        moment = moment_of(version.upstream)
        if moment is None and version.upstream != CURRENT:
            raise MalformedId(f"{version.dataset.name}: there is no version {version.upstream!r}")
        prefix = names.prefix_of(self._components(version.dataset.local_id))
        memo = None if moment is not None else load_memo(known.memo, self._shape)
        versions = moment is not None or self._lists_versions(prefix, memo)
        if memo is not None and memo.versions != versions:
            memo = None
        with self._lock:
            if memo is not None and memo.ask_each:
                self._ask_each.add(prefix)
            ask_each = prefix in self._ask_each
        workspace = known.workspace if known.workspace.is_dir() else None
        listed = self.bucket.objects(
            prefix,
            workspace=workspace,
            memo=None if memo is None else memo.pages,
            versions=versions,
            connections=self.options.connections,
        )
        etags = self.options.etags
        reading = Reading(
            self.bucket,
            version,
            prefix,
            Ladder(
                self.bucket,
                version.dataset.name,
                ask_each=ask_each and etags == "probe",
                never=etags == "opaque",
            ),
            Rules(
                profile=_PROFILES[self.options.profile],
                connections=self.options.connections,
                key_is_id=self.options.overwrites_are_incidents and moment is None,
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
        )
        listing = Listing(
            version=version,
            facts=DatasetFacts(title=version.dataset.local_id),
            documents=(),
            entries=iter(()),
            closing=reading.closing,
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

    def _must_ask_each(self, prefix: bytes) -> None:
        with self._lock:
            self._ask_each.add(prefix)


def _newest(listed: S3Listing) -> Iterator[ObjectRow]:
    return (row for row in listed.rows() if row.latest and not row.deleted)


def _said(answer: bool | None, yes: str, no: str) -> str:
    return "nothing to try" if answer is None else yes if answer else no
