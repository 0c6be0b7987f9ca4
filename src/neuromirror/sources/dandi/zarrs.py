"""Zarr assets: each a dataset of its own, listed from the bucket and proved by its checksum.

The archive's own list of a Zarr's files is never asked: it knows no version ids, its ``prefix=1/``
returns ``10/`` too, and it may answer for an embargoed Zarr.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from neuromirror import __version__
from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    ExcludedEntry,
    FileRecord,
    Location,
    VersionKind,
    VersionRef,
)
from neuromirror.net import (
    AccessDeniedError,
    ContextThreadPool,
    NotFoundError,
    ObjectRow,
    ResponseHead,
    S3Bucket,
    S3Capabilities,
    Session,
)
from neuromirror.sources.dandi.buckets import BucketCache, ObjectAddress, parse_object_url
from neuromirror.sources.dandi.rows import EMBARGOED, is_embargoed
from neuromirror.sources.dandi.sorted_rows import SortedRows
from neuromirror.sources.dandi.zarr_checksum import (
    CHECKSUM_PATTERN,
    compute_zarr_checksum,
    parse_checksum,
)
from neuromirror.sources.errors import (
    ComponentMismatchError,
    ComponentRefusedError,
    ComponentUnavailableError,
    DatasetNotFoundError,
    MalformedIdError,
    UnexpectedReplyError,
    UnreliableListingError,
)
from neuromirror.sources.protocol import ComponentEntry, Listing, VisitContext
from neuromirror.sources.s3.history import burst_ends, moment_of, state_at, upstream_name
from neuromirror.sources.s3.listing_reader import ListingReader, ReaderRules
from neuromirror.sources.s3.object_claims import ClaimResolver
from neuromirror.sources.s3.plain import PLAIN

CURRENT: Final = "current"
LOCAL_PREFIX: Final = "zarr/"
CHECKSUM: Final = "zarr-checksum"
"""The attribute with the checksum of what was listed, whether the archive states one or not."""
PENDING: Final = "pending"
"""Why a part is left out whose files are being written: the archive has no checksum of it."""
FINALIZED: Final = "zarr-finalized"
"""The attribute that is ``no`` for a Zarr that the archive states no checksum of."""

_RULES: Final = 1
"""Number of the rules by which rows become records; raise it with them."""
_LOCAL_ID: Final = re.compile(
    rf"{LOCAL_PREFIX}([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})\Z"
)
_DIGEST: Final = "dandi:dandi-zarr-checksum"
_ATTEMPTS: Final = 3
_PROBE: Final = "zarr.json"
_EXISTING_STATUSES: Final = frozenset({200, 302, 401, 403})
"""Statuses of an answer about something that is there."""

ZarrEntry = FileRecord | ExcludedEntry | ComponentEntry


@dataclass(frozen=True, slots=True)
class ZarrState:
    """What the archive says of a Zarr: its checksum, None while it has none, and its name."""

    checksum: str | None
    name: str


class ZarrSource:
    """The Zarrs of one archive, ``api`` being its base; shared by threads.

    ``closed`` says that their objects may be listed and not be read, as under embargo: the
    checksum alone proves them then, and the API's address, which takes a token, is told too.
    """

    def __init__(
        self,
        session: Session,
        mirror: str,
        api: str,
        buckets: BucketCache,
        *,
        connections: int,
        history_gap: timedelta = timedelta(hours=1),
        objects_are_private: bool = False,
    ) -> None:
        self._session = session
        self._mirror = mirror
        self._api = api
        self._buckets = buckets
        self.connections = connections
        self.head_each = False
        self.objects_are_private = objects_are_private
        self._gap = history_gap

    # --- names

    def dataset(self, local_id: str) -> DatasetRef:
        """The dataset of ``zarr/<zarr id>``; raises :class:`MalformedIdError` (a ValueError)."""
        found = _LOCAL_ID.match(local_id)
        if found is None:
            raise MalformedIdError(
                f"{self._mirror}: {local_id[:80]!r} is no Zarr; one is zarr/<its id>"
            )
        return DatasetRef(self._mirror, local_id, f"{self._api}/zarr/{found[1]}/")

    def component(
        self, path: bytes, size: int, zarr_id: str, metadata: Mapping[str, Any]
    ) -> ComponentEntry | ExcludedEntry:
        """A row of an asset list as a part; no request is made."""
        dataset = self.dataset(f"{LOCAL_PREFIX}{zarr_id}")
        if is_embargoed(metadata):
            detail = f"Zarr asset {zarr_id}: it is under embargo"
            return ExcludedEntry(path, EMBARGOED, detail, size)
        digest = metadata.get("digest")
        stated = digest.get(_DIGEST) if isinstance(digest, dict) else None
        url = _prefix_url(metadata, zarr_id)
        if url is None or not (stated is None or _is_checksum(stated)):
            wrong = "no prefix in the bucket" if url is None else f"the checksum {stated!r:.80}"
            return ExcludedEntry(path, "malformed", f"Zarr asset {zarr_id} has {wrong}", size)
        version = self.version(dataset, stated)
        address = parse_object_url(url)
        return ComponentEntry(
            path, size, version, lambda known: self.listing(version, known, address)
        )

    def version(self, dataset: DatasetRef, checksum: str | None) -> VersionRef:
        """The state with this checksum, as the archive names it."""
        claimed = None if checksum is None else parse_checksum(checksum)
        return VersionRef(dataset, checksum or CURRENT, VersionKind.OBSERVED, None, claimed)

    # --- what the archive says

    def state(self, dataset: DatasetRef) -> ZarrState:
        """What the archive says of a Zarr now.

        One under embargo is not refused but denied to those who do not own it: a 404 alone says
        nothing, so the archive is asked for the Zarr's files, which it denies only of one that is
        not there. Raises :class:`ComponentRefusedError` and :class:`DatasetNotFoundError`.
        """
        try:
            row = self._session.get_json(dataset.source_uri)
        except NotFoundError as error:
            if error.detail is None:
                raise
            if self._first_object(dataset).status in _EXISTING_STATUSES:
                raise self._refused_error(dataset) from error
            raise DatasetNotFoundError(
                f"{dataset.name}: {error.url} says that there is no such Zarr, or none that it "
                f"would show: {error.detail}"
            ) from error
        except AccessDeniedError as error:
            if error.detail is None or "token" in error.detail.lower():
                raise
            raise self._refused_error(dataset) from error
        zarr_id = dataset.local_id.removeprefix(LOCAL_PREFIX)
        if not isinstance(row, dict) or str(row.get("zarr_id")).lower() != zarr_id:
            raise UnexpectedReplyError(f"{dataset.name}: the reply describes no such Zarr")
        checksum, name = row.get("checksum"), row.get("name")
        if not (checksum is None or _is_checksum(checksum)):
            raise UnexpectedReplyError(f"{dataset.name}: {checksum!r:.80} is no checksum of a Zarr")
        return ZarrState(checksum, name if isinstance(name, str) else "")

    def _refused_error(self, dataset: DatasetRef) -> ComponentRefusedError:
        return ComponentRefusedError(
            f"{dataset.name}: the archive does not show it (is it under embargo?)"
        )

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One Zarr's hint: its checksum; none while it has none.

        Asked for alone, one that is refused or hidden counts as embargoed: that is how the archive
        answers for a Zarr under embargo.
        """
        try:
            state = self.state(dataset)
        except ComponentRefusedError:
            return DatasetHint(dataset, EMBARGOED, unavailable=EMBARGOED)
        return DatasetHint(dataset, state.checksum, title=state.name)

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """The present state, as the archive names it."""
        return [self.version(dataset, self.state(dataset).checksum)]

    def _address(self, dataset: DatasetRef) -> ObjectAddress:
        """Where a Zarr's objects are, by the archive's own way to one of them."""
        reply = self._first_object(dataset)
        if reply.status in (401, 403):
            raise self._refused_error(dataset)
        plain = urlsplit(reply.headers.get("Location", ""))._replace(query="", fragment="").geturl()
        zarr_id = dataset.local_id.removeprefix(LOCAL_PREFIX)
        if not plain.endswith(f"/{zarr_id}/{_PROBE}"):
            raise UnexpectedReplyError(
                f"{dataset.name}: the archive does not say where its objects are"
            )
        return parse_object_url(plain.removesuffix(_PROBE))

    def _first_object(self, dataset: DatasetRef) -> ResponseHead:
        """The archive's way to an object of a Zarr, whether the Zarr has this one or not."""
        return self._session.head(f"{dataset.source_uri}files/?prefix={_PROBE}")

    # --- earlier states

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Earlier states from object versions and delete markers, oldest first.

        Changes with no longer pause between them than the gap make one state. None where the
        bucket does not list versions.
        """
        self.state(dataset)
        address = self._address(dataset)
        if not self._buckets.capabilities(address).versions_listable:
            return []
        listed = self._buckets.bucket(address).objects(
            address.key, versions=True, connections=self.connections
        )
        return [
            VersionRef(dataset, upstream_name(moment), VersionKind.OBSERVED, moment)
            for moment in burst_ends(listed.rows(), self._gap)[:-1]
            if since is None or moment > since
        ]

    # --- listing

    def listing(
        self, version: VersionRef, context: VisitContext, address: ObjectAddress | None = None
    ) -> Listing:
        """A Zarr's objects; the present ones, or those at the moment that the version names.

        Its ``version`` is set with the first entry: the archive may name another state by then.
        Raises :class:`ComponentUnavailableError`, :class:`ComponentRefusedError`, and
        :class:`ComponentMismatchError` where
        the objects do not add up to the checksum.
        """
        moment = moment_of(version.upstream)
        if (
            moment is None
            and version.upstream != CURRENT
            and not CHECKSUM_PATTERN.match(version.upstream)
        ):
            raise MalformedIdError(
                f"{version.dataset.name}: there is no version {version.upstream!r}"
            )
        with ContextThreadPool(1, thread_name_prefix="dandi-probe") as pool:
            # the bucket and the API are asked at the same time where the bucket is known already
            probed = None if address is None else pool.submit(self._buckets.capabilities, address)
            state = self.state(version.dataset)
        if address is None:
            address = self._address(version.dataset)
        allowed = self._buckets.capabilities(address) if probed is None else probed.result()
        if self.objects_are_private:
            if state.checksum is None:
                raise ComponentUnavailableError(
                    f"{version.dataset.name}: only a checksum can prove it under embargo, and it "
                    "has none yet",
                    PENDING,
                )
            allowed = replace(allowed, version_readable=None)
        reading = _ZarrReader(
            self,
            version if moment is not None else self.version(version.dataset, state.checksum),
            state,
            context,
            self._buckets.bucket(address),
            address.key,
            allowed,
        )
        listing = Listing(
            version=reading.version,
            facts=DatasetFacts(title=state.name),
            documents=(),
            entries=iter(()),
            confirm_version=reading.confirm_version,
        )
        listing.entries = reading.entries(listing, moment)
        if self.objects_are_private:
            listing.entries = map(self._add_api_location(version.dataset), listing.entries)
        if moment is None:
            listing.is_unchanged, listing.memo = reading.is_unchanged, reading.memo
        return listing

    def _add_api_location(self, dataset: DatasetRef) -> Callable[[ZarrEntry], ZarrEntry]:
        """Adds the API's address to a record's places."""
        start = f"{dataset.source_uri}files/?download=true&prefix="

        def add_location(entry: ZarrEntry) -> ZarrEntry:
            if not isinstance(entry, FileRecord):
                return entry
            location = Location(start + quote(entry.path, safe=""), "api")
            return msgspec.structs.replace(entry, locations=(*entry.locations, location))

        return add_location

    def require_heads(self) -> None:
        """From now on no ETag is taken for an MD5 before its object was asked about."""
        self.head_each = True


class _ZarrReader:
    """One reading of one Zarr."""

    def __init__(
        self,
        zarrs: ZarrSource,
        version: VersionRef,
        state: ZarrState,
        context: VisitContext,
        bucket: S3Bucket,
        prefix: bytes,
        capabilities: S3Capabilities,
    ) -> None:
        self.version = version
        self._zarrs = zarrs
        self._state = state
        self._context = context
        self._bucket = bucket
        self._prefix = prefix
        self._capabilities = capabilities
        self._name = version.dataset.name
        self._workspace = context.workspace if context.workspace.is_dir() else None
        bound, _, pages = (context.memo or b"").partition(b"\n")
        self._remembered = pages if pages and bound == self._context_digest() else None
        self._listed = self._open(self._workspace, self._remembered)
        self._reading: ListingReader | None = None

    def _open(self, workspace: Path | None, memo: bytes | None) -> Any:
        return self._bucket.objects(
            self._prefix,
            workspace=workspace,
            memo=memo,
            versions=self._capabilities.versions_listable,
            connections=self._zarrs.connections,
        )

    def _context_digest(self) -> bytes:
        """What the memo is of beside the pages."""
        shape = [_RULES, __version__, self._bucket.uri, self.version.upstream, self._state.name]
        shape += [self._capabilities.versions_listable, self._capabilities.version_readable]
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest().encode()

    def is_unchanged(self) -> bool:
        """Whether the bucket lists the Zarr as it is remembered, in the state remembered."""
        return self._remembered is not None and bool(self._listed.unchanged())

    def memo(self) -> bytes | None:
        """What :meth:`unchanged` takes; None where some object could not be asked about."""
        if self._reading is None or self._reading.degraded.is_set():
            return None
        pages: bytes = self._listed.memo()
        return self._context_digest() + b"\n" + pages

    def confirm_version(self) -> VersionRef:
        """The version again: proved by its checksum, or as the archive says now."""
        if self._state.checksum is not None or moment_of(self.version.upstream) is not None:
            return self.version
        now = self._zarrs.state(self.version.dataset)
        if now.checksum is not None:
            raise UnreliableListingError(f"{self._name}: it was finalized while it was listed")
        if self._reading is not None:
            try:
                self._reading.confirm_version()
            except UnreliableListingError as error:
                raise ComponentUnavailableError(
                    f"{error}; the archive has no checksum of it", PENDING
                ) from error
        return self.version

    def entries(
        self, listing: Listing, moment: datetime | None
    ) -> Iterator[FileRecord | ExcludedEntry]:
        """Yields the objects as records, once all of them were listed and proved."""
        proved = self._state.checksum is not None
        with TemporaryDirectory(prefix="zarr-", dir=self._workspace) as folder:
            listed: list[SortedRows] = []
            ladder = ClaimResolver(
                self._bucket, self._name, head_each=self._zarrs.head_each, etags_opaque=False
            )
            # Made before anything is listed: it notices what is written from now on.
            self._reading = reading = ListingReader(
                self._bucket,
                self.version,
                self._prefix,
                ladder,
                ReaderRules(
                    profile=PLAIN,
                    connections=self._zarrs.connections,
                    key_is_id=False,
                    versioned=self._capabilities.versions_listable
                    and self._capabilities.version_readable is not False,
                    # What adds up to the checksum needs no look at the clock,
                    exact=proved or moment is not None,
                    # and uploads are checked against the very sums that its ETags must be.
                    sample=not (proved or self._zarrs.head_each),
                ),
                self._context,
                workspace=self._workspace,
                rows=lambda: listed[0],
                on_opaque=self._zarrs.require_heads,
            )
            rows, checksum = self._verified_rows(Path(folder), moment)
            if not self._zarrs.objects_are_private:
                self._check_open(rows)
            listed.append(rows)
            attributes = [(CHECKSUM, checksum)]
            if moment is None and not proved:
                attributes.append((FINALIZED, "no"))
            facts = replace(listing.facts, attributes=tuple(sorted(attributes)))
            listing.version = self.version
            yield from reading.entries(listing)
            if ladder.denied.is_set() and not self._zarrs.objects_are_private:
                raise ComponentRefusedError(
                    f"{self._name}: some of its objects are listed, and refused, though the archive"
                    " states no embargo"
                )
            listing.facts = facts

    def _verified_rows(self, folder: Path, moment: datetime | None) -> tuple[SortedRows, str]:
        """All rows, and the checksum that they add up to: upstream's own, where it states one."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                # What is in the workspace was listed before.
                self._listed = self._open(None, None)
            attempt_folder = folder / str(attempt)
            attempt_folder.mkdir()
            rows = SortedRows(self._rows(moment, attempt_folder), attempt_folder)
            found = compute_zarr_checksum(rows, self._prefix)
            stated = self._state.checksum
            if moment is not None or stated in (None, found):
                return rows, found
            now = self._zarrs.state(self.version.dataset)
            moved = now.checksum != stated
            self._state = now
            if now.checksum is None:
                raise ComponentUnavailableError(
                    f"{self._name}: it is being written (the archive states no checksum any more)",
                    PENDING,
                )
            self.version = self._zarrs.version(self.version.dataset, now.checksum)
            if now.checksum == found:
                return rows, found
            if not moved and attempt:
                break
        raise ComponentMismatchError(
            f"{self._name}: its objects add up to the checksum {found}, but the archive states"
            f" {self._state.checksum}"
        )

    def _rows(self, moment: datetime | None, workspace: Path) -> Iterable[ObjectRow]:
        if moment is not None:
            return state_at(self._listed.rows(), moment, workspace)
        return (row for row in self._listed.rows() if row.latest and not row.deleted)

    def _check_open(self, rows: SortedRows) -> None:
        """Raise ComponentRefusedError where anybody may list the objects, but not read them.

        The first object is tried, unless the bucket's probe for this listing has just read it.
        """
        first = next(iter(rows), None)
        if first is None or (first.key, first.version_id) == self._capabilities.sample_version:
            return
        status = self._bucket.head(first.key, version_id=first.version_id).status
        if status in (401, 403):
            raise ComponentRefusedError(
                f"{self._name}: its objects are listed, and refused (HTTP {status}), though the "
                "archive states no embargo"
            )


def _is_checksum(value: object) -> bool:
    return isinstance(value, str) and CHECKSUM_PATTERN.match(value) is not None


def _prefix_url(metadata: Mapping[str, Any], zarr_id: str) -> str | None:
    """The address below which the objects are: the one that ends with the Zarr's id."""
    urls = metadata.get("contentUrl")
    for url in urls if isinstance(urls, list) else []:
        if not isinstance(url, str):
            continue
        plain = url.split("?", 1)[0].split("#", 1)[0]
        try:
            key = parse_object_url(plain).key
        except ValueError:
            continue
        if key.rstrip(b"/").lower().endswith(b"/" + zarr_id.encode()):
            return plain if plain.endswith("/") else f"{plain}/"
    return None
