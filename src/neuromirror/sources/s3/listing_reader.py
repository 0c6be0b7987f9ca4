"""One reading of a dataset's objects: rows of a listing become records and documents.

Rows are looked at in pieces, so that what earlier visits know is asked for once a piece, and the
requests about single objects run beside the listing.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import quote

from neuromirror.model import (
    FOLDER_MARKER,
    Document,
    ExcludedEntry,
    FileRecord,
    Location,
    Retention,
    VersionRef,
)
from neuromirror.net import (
    AccessDeniedError,
    ContextThreadPool,
    InvalidJsonError,
    NotFoundError,
    ObjectChangedError,
    ObjectRow,
    ResponseTooLargeError,
    S3Bucket,
    parse_http_date,
)
from neuromirror.sources.errors import UnreliableListingError
from neuromirror.sources.protocol import KnownContent, Listing, VisitContext
from neuromirror.sources.s3.file_naming import OBJECT_NAMING, FileNaming, PathOrException
from neuromirror.sources.s3.local_ids import display_key
from neuromirror.sources.s3.object_claims import (
    MD5,
    ClaimResolver,
    ObjectClaims,
    has_sha256,
    part_count,
)
from neuromirror.sources.s3.profile import Profile
from neuromirror.sources.s3.sidecars import (
    MAX_DOCUMENT_BYTES,
    DocumentSelection,
    is_plain,
    without_secrets,
)

ObjectEntry = FileRecord | ExcludedEntry
_PIECE: Final = 1000
_AHEAD: Final = 4
"""Pieces that wait for requests about their objects."""
_CACHED: Final = 50_000
_SAME_IN_A_URL: Final = re.compile(
    rb"[A-Za-z0-9_~-][A-Za-z0-9_~.-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9_~.-]*)*\Z"
)
"""Keys that stand in an address as they are, which is quicker than to quote them."""
_SAMPLES: Final = 8
_START_FILE: Final = "began"
UNREADABLE: Final = "unreadable"
"""Why an object is left out that is listed and not there when it is asked for."""


@dataclass(frozen=True, slots=True)
class ReaderRules:
    """How the rows of one reading are taken.

    ``versioned`` says that version ids can be read, ``exact`` that each row is the state at a
    moment and no longer the newest; ``sample`` that single-part ETags must be tried on a few.
    """

    profile: Profile
    connections: int
    key_is_id: bool
    versioned: bool
    exact: bool
    sample: bool


@dataclass(frozen=True, slots=True)
class _PendingObject:
    """An object that the bucket is asked about."""

    row: ObjectRow
    path: PathOrException | Future[PathOrException]
    claims: ObjectClaims | Future[ObjectClaims]


class ListingReader:
    """Reads the rows of one state; ``rows`` is called once."""

    def __init__(
        self,
        bucket: S3Bucket,
        version: VersionRef,
        prefix: bytes,
        claim_resolver: ClaimResolver,
        rules: ReaderRules,
        context: VisitContext,
        *,
        workspace: Path | None,
        rows: Callable[[], Iterable[ObjectRow]],
        on_opaque: Callable[[], None],
        on_mismatch: Callable[[Sequence[bytes]], None] | None = None,
        naming: FileNaming = OBJECT_NAMING,
    ) -> None:
        self._bucket = bucket
        self._base = bucket.object_url(b"")
        self._version = version
        self._name = version.dataset.name
        self._prefix = prefix
        self._claim_resolver = claim_resolver
        self._rules = rules
        self._context = context
        self._workspace = workspace
        self._rows = rows
        self._on_opaque = on_opaque
        self._on_mismatch = on_mismatch or (lambda keys: on_opaque())
        self._naming = naming
        self._pending_claims: dict[str, Future[ObjectClaims]] = {}
        self._samples: dict[int, tuple[int, ObjectRow]] = {}
        self._worst = 0
        self._opaque = threading.Event()
        self._created = time.monotonic()
        self._started: datetime | None = None
        self._newest: datetime | None = None
        self.degraded = threading.Event()
        """Set when something could not be asked for that may be allowed another time."""
        self.unreadable: list[str] = []
        """What is listed and cannot be read, a line each."""
        self.refused_count = 0
        """How many objects the bucket lists and refuses to be asked about."""

    def entries(self, listing: Listing) -> Iterator[ObjectEntry]:
        """Yields all but the documents, which are put on the listing at the end, with the facts."""
        if not self._rules.exact:
            self._started = self._start_time()
        chosen = DocumentSelection(len(self._prefix))
        pool = ContextThreadPool(self._rules.connections, thread_name_prefix="s3-object")
        try:
            yield from self._build_entries(self._files(chosen, pool), pool)
            rows, others = chosen.split()
            read = list(pool.map(self._document, rows))
            others += [row for row, one in zip(rows, read, strict=True) if one is None]
            yield from self._build_entries(others, pool)
            self._check_samples(pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        documents = [one[0] for one in read if one is not None]
        start = len(self._prefix)
        refused_count = [
            row.key[start:] for row, one in zip(rows, read, strict=True) if one is None
        ]
        facts = self._rules.profile.facts(self._version.dataset.local_id, documents, refused_count)
        cleaned = [("cleaned", one[0].path.decode()) for one in read if one is not None and one[1]]
        listing.documents = tuple(documents)
        listing.facts = replace(facts, attributes=tuple(sorted([*facts.attributes, *cleaned])))

    def confirm_version(self) -> VersionRef:
        """The version again; raises UnreliableListingError when the listing shows its own
        disturbance."""
        if self._started is not None and self._newest is not None:
            newest = self._newest.replace(microsecond=0)
            # Times to come are a clock's fault, and say nothing about now.
            if newest > self._started and newest <= (self._server_time() or newest):
                raise UnreliableListingError(
                    f"{self._name}: objects were written while they were listed"
                    f" (at {newest.isoformat()})"
                )
        return self._version

    def find_present(self, paths: Sequence[bytes]) -> list[bytes]:
        """Those of some paths that the bucket has after all; it is asked for each, or for all."""
        if len(paths) > _PIECE:
            keys = {
                self._prefix + name for path in paths for name in self._naming.object_names(path)
            }
            found = {
                row.key for row in self._bucket.objects(self._prefix).rows() if row.key in keys
            }
            paths = [
                path
                for path in paths
                if any(self._prefix + name in found for name in self._naming.object_names(path))
            ]
            if not self._naming.needs_headers:
                return paths
        with ContextThreadPool(self._rules.connections, thread_name_prefix="s3-object") as pool:
            there = list(pool.map(self._is_there, paths))
        return [path for path, is_there in zip(paths, there, strict=True) if is_there]

    def _is_there(self, path: bytes) -> bool:
        for name in self._naming.object_names(path):
            reply = self._bucket.head(self._prefix + name)
            if reply.status in (404, 410):
                continue
            # What is refused is there: the bucket lets anybody list it.
            if reply.status != 200 or self._naming.is_file(name, reply.headers, path):
                return True
        return False

    def _start_time(self) -> datetime | None:
        """When the first page may have been asked for, by the bucket's clock.

        That was in an earlier process, where this one goes on with what it left.
        """
        kept = None if self._workspace is None else self._workspace / _START_FILE
        if kept is not None and kept.is_file():
            return datetime.fromisoformat(kept.read_text("ascii"))
        now = self._server_time()
        if now is None:
            return None
        # It says whole seconds, so it may be nearly one second later by now.
        began = now + timedelta(seconds=1 - (time.monotonic() - self._created))
        began = began.replace(microsecond=0)
        if kept is not None:
            kept.write_text(began.isoformat(), "ascii")
        return began

    def _server_time(self) -> datetime | None:
        return parse_http_date(self._bucket.head(b"").headers.get("Date", ""))

    # --- rows

    def _files(self, chosen: DocumentSelection, pool: ContextThreadPool) -> Iterator[ObjectRow]:
        """Yields the rows that are no documents; keeps those that may be in ``chosen``."""
        is_document = self._rules.profile.is_document
        start = len(self._prefix)
        for row in self._naming.prepare_rows(self._rows(), self._headers, pool):
            if self._newest is None or row.modified > self._newest:
                self._newest = row.modified
            path = row.key[start:]
            if is_document(path) and row.size <= MAX_DOCUMENT_BYTES and is_plain(path):
                spilt = chosen.add(row)
                if spilt is not None:
                    yield spilt
            else:
                yield row

    def _build_entries(
        self, rows: Iterable[ObjectRow], pool: ContextThreadPool
    ) -> Iterator[ObjectEntry]:
        waiting: deque[list[ObjectEntry | _PendingObject]] = deque()
        every = iter(rows)
        while piece := list(islice(every, _PIECE)):
            waiting.append(self._piece(piece, pool))
            if len(waiting) > _AHEAD:
                yield from map(self._resolve, waiting.popleft())
        for left in waiting:
            yield from map(self._resolve, left)

    def _resolve(self, entry: ObjectEntry | _PendingObject) -> ObjectEntry:
        if not isinstance(entry, _PendingObject):
            return entry
        path, claims = entry.path, entry.claims
        named = path.result() if isinstance(path, Future) else path
        if isinstance(claims, Future):
            claims = claims.result()
            if claims.contradicts_listing and part_count(entry.row) is not None:
                # what was asked about one object of this ETag may not hold for the others
                claims = self._claim_resolver.request_claims(entry.row, self._version_id(entry.row))
        claimed = self._note(claims)
        return self._record(entry.row, named, claimed)

    def _piece(
        self, rows: list[ObjectRow], pool: ContextThreadPool
    ) -> list[ObjectEntry | _PendingObject]:
        known = self._contents(rows)
        return [self._row(row, known.get(row.etag), pool) for row in rows]

    def _contents(self, rows: list[ObjectRow]) -> dict[str, KnownContent]:
        """What is known of the contents that would have to be asked about."""
        etags = sorted(
            {
                row.etag
                for row in rows
                if (row.checksum_algorithm is not None or "-" in row.etag)
                and (part_count(row) is not None or has_sha256(row))
            }
            - self._pending_claims.keys()
        )
        if not etags:
            return {}
        found = zip(etags, self._context.contents(etags), strict=True)
        return {etag: one for etag, one in found if one is not None}

    def _row(
        self, row: ObjectRow, known: KnownContent | None, pool: ContextThreadPool
    ) -> ObjectEntry | _PendingObject:
        path = row.key[len(self._prefix) :]
        if not row.size and (not path or path.endswith(b"/")):
            return ExcludedEntry(
                path, FOLDER_MARKER, f"{display_key(row.key)!r} only says that there is a folder"
            )
        named = self._naming.file_path(row, path, self._headers, pool)
        claims = self._claim_resolver.claims_from_listing(row, known)
        if claims is None:
            return _PendingObject(row, named, self._request_claims(row, pool))
        if self._rules.sample and row.size and "-" not in row.etag:
            self._maybe_sample(row, path)
        if isinstance(named, Future):
            return _PendingObject(row, named, claims)
        return self._record(row, named, claims)

    def _headers(self, row: ObjectRow) -> Mapping[str, str] | None:
        """The headers of the very object of a row; None where nobody may ask for them."""
        headers = self._claim_resolver.headers(row, self._version_id(row))
        if headers is None:
            self.degraded.set()
        return headers

    def _request_claims(self, row: ObjectRow, pool: ContextThreadPool) -> Future[ObjectClaims]:
        """The claims to come; equal multipart ETags are of equal parts, and asked for once."""
        if part_count(row) is None or has_sha256(row):
            return pool.submit(self._claim_resolver.request_claims, row, self._version_id(row))
        if len(self._pending_claims) > _CACHED:
            self._pending_claims.clear()
        name = f"{row.etag} {row.size}"
        if name not in self._pending_claims:
            self._pending_claims[name] = pool.submit(
                self._claim_resolver.request_claims, row, self._version_id(row)
            )
        return self._pending_claims[name]

    def _note(self, claims: ObjectClaims) -> ObjectClaims:
        if claims.opaque and not claims.refused:
            self._opaque.set()
        self.refused_count += claims.refused
        if claims.refused or claims.status != 200:
            self.degraded.set()
        return claims

    def _version_id(self, row: ObjectRow) -> str | None:
        """What must be asked for to get this very row's bytes; None for the newest."""
        if self._rules.versioned and row.version_id is not None:
            return row.version_id
        return "null" if self._rules.exact and not row.latest else None

    def _record(self, row: ObjectRow, path: PathOrException, claims: ObjectClaims) -> ObjectEntry:
        if isinstance(path, ExcludedEntry):
            return path
        if claims.status != 200:
            detail = f"it is listed, and asked for it the bucket answers HTTP {claims.status}"
            self.unreadable.append(f"{display_key(row.key)}: {detail}")
            return ExcludedEntry(path, UNREADABLE, detail, row.size)
        version_id = self._version_id(row)
        url = self._url(row.key, version_id)
        identity = display_key(row.key) if self._rules.key_is_id else version_id
        # the version "null" is overwritten while versioning is suspended
        exact = None if version_id == "null" else version_id
        return FileRecord(
            path,
            claims.size if claims.contradicts_listing else row.size,
            claims.digests,
            (Location(url, "s3", exact),),
            claims.part_size,
            row.modified,
            identity,
            Retention.MUTABLE_BUCKET if exact is None else Retention.VERSIONED_BUCKET,
        )

    def _url(self, key: bytes, version_id: str | None) -> str:
        if _SAME_IN_A_URL.match(key):
            plain = self._base + key.decode("ascii")
            return (
                plain if version_id is None else f"{plain}?versionId={quote(version_id, safe='')}"
            )
        return self._bucket.object_url(key, version_id)

    # --- documents

    def _document(self, row: ObjectRow) -> tuple[Document, bool] | None:
        """A document, and whether secrets were taken out; None where it may not be read."""
        path = row.key[len(self._prefix) :]
        try:
            content = self._bucket.read(
                row.key,
                version_id=self._version_id(row),
                etag=row.etag,
                limit=MAX_DOCUMENT_BYTES + 1,
            )
        except AccessDeniedError:
            self.degraded.set()
            return None
        except (InvalidJsonError, ResponseTooLargeError):
            return None  # stored in an encoding that is not undone, or that swells
        except (NotFoundError, ObjectChangedError) as error:
            if self._claim_resolver.still_listed(row, self._version_id(row)):
                return None
            raise UnreliableListingError(f"{self._name}: {error}") from error
        if len(content) != row.size and not self._is_encoded(row):
            if self._claim_resolver.still_listed(row, self._version_id(row)):
                return None
            raise UnreliableListingError(
                f"{self._name}: {display_key(row.key)!r} was listed with {row.size} bytes and gave"
                f" {len(content)}"
            )
        kept = self._rules.profile.normalize(path, content)
        clean = without_secrets(kept)
        return Document(path, clean, row.modified), clean != kept

    def _is_encoded(self, row: ObjectRow) -> bool:
        """Whether an object is stored in an encoding that was undone when it was read."""
        headers = self._headers(row) or {}
        return bool(headers.get("Content-Encoding"))

    # --- single-part ETags

    def _maybe_sample(self, row: ObjectRow, path: bytes) -> None:
        """Keeps one row of every eighth of the folders, the same in whatever order they come."""
        rank = zlib.crc32(row.key)
        if rank >= self._worst and len(self._samples) == _SAMPLES:
            return
        group = zlib.crc32(path.partition(b"/")[0]) % _SAMPLES
        best = self._samples.get(group)
        if best is not None and (best[0], best[1].key) <= (rank, row.key):
            return
        if MD5.match(row.etag) and is_plain(path):
            self._samples[group] = (rank, row)
            self._worst = max(rank for rank, _ in self._samples.values())

    def _check_samples(self, pool: ContextThreadPool) -> None:
        """Raises UnreliableListingError when ETags that were taken for MD5s may be none."""
        if not self._rules.sample or not self._samples:
            return
        if not self._opaque.is_set():
            rows = [row for _, row in self._samples.values()]
            ids = [self._version_id(row) for row in rows]
            found = list(pool.map(self._claim_resolver.request_claims, rows, ids))
            odd = [
                row.key
                for row, claims in zip(rows, found, strict=True)
                if claims.contradicts_listing
            ]
            if not odd and not any(claims.opaque for claims in found):
                return
            if not any(claims.opaque for claims in found):
                self._on_mismatch(odd)
                raise UnreliableListingError(
                    f"{self._name}: {display_key(odd[0])!r} is not what its listing says, so it "
                    f"must be"
                    " asked about; try again"
                )
        self._on_opaque()
        raise UnreliableListingError(
            f"{self._name}: some ETags are no MD5s (objects are encrypted), so each object must be"
            " asked about; try again"
        )
