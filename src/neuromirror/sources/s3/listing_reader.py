"""One reading of a dataset's objects, whose rows become records and documents.

The paths of objects are their names, unless a source has other rules (:class:`FileNaming`).

Rows are processed in batches: known contents are looked up once per batch, and requests for single
objects run in parallel with the listing.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.model import (
    CLEANED,
    FOLDER_MARKER,
    DatasetFacts,
    Document,
    ExcludedEntry,
    FileRecord,
    Location,
    Retention,
    VersionRef,
)
from neuromirror.net import ContextThreadPool, ObjectRow, S3Bucket, parse_http_date
from neuromirror.net.responses import ARCHIVE_CLASSES
from neuromirror.sources.errors import UnreliableListingError, UpstreamChangingError
from neuromirror.sources.protocol import KnownContent, VisitContext
from neuromirror.sources.s3.local_ids import display_key
from neuromirror.sources.s3.object_claims import (
    MD5,
    ClaimResolver,
    DocumentReader,
    ObjectClaims,
    PartAnswer,
    has_sha256,
    part_count,
    usual_part_size,
)
from neuromirror.sources.s3.options import Profile
from neuromirror.sources.s3.sidecars import MAX_DOCUMENT_BYTES, DocumentSelection, is_plain

RequestHeaders = Callable[[ObjectRow], Mapping[str, str] | None]
"""Returns the headers of a row's object; None if the bucket refuses them.

Raises NetError, and UnreliableListingError if the object is no longer the listed one.
"""

PathOrException = bytes | ExcludedEntry
"""The path of a file, or the reason why an object has none."""


class FileNaming:
    """Assigns paths to the objects of one listing: their names, unless a subclass has other rules.

    Attributes
    ----------
    needs_headers
        Whether a path depends on more than the object's name.
    """

    needs_headers: ClassVar[bool] = False

    def prepare_rows(
        self, rows: Iterable[ObjectRow], request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> Iterable[ObjectRow]:
        """Yield the same rows, after requesting the headers that :meth:`file_path` depends on."""
        return rows

    def file_path(
        self, row: ObjectRow, name: bytes, request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> PathOrException | Future[PathOrException]:
        """Return the path for an object whose key within the dataset is ``name``."""
        return name

    def object_names(self, file_path: bytes) -> Sequence[bytes]:
        """Return the names of the objects that can have this path."""
        return (file_path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], file_path: bytes) -> bool:
        """Return whether an object with this name and these headers has this path."""
        return name == file_path


OBJECT_NAMING: Final = FileNaming()


_MAX_HEADS: Final = 1000
"""Paths above which the prefix is listed again instead of one request per object."""


def find_present(
    bucket: S3Bucket, prefix: bytes, naming: FileNaming, paths: Sequence[bytes], *, connections: int
) -> list[bytes]:
    """Return those of the given paths whose objects exist in the bucket.

    The caller gives paths that a listing lacks, to detect an incomplete listing. Many paths are
    looked up in a new listing of the prefix, a few with one request each.

    Parameters
    ----------
    bucket, prefix
        The location of the dataset's objects.
    naming
        Maps paths to names of objects.
    paths
        The paths.
    connections
        Number of parallel requests.
    """
    if len(paths) > _MAX_HEADS:
        keys = {prefix + name for path in paths for name in naming.object_names(path)}
        listed = {row.key for row in bucket.objects(prefix).rows() if row.key in keys}
        paths = [
            path
            for path in paths
            if any(prefix + name in listed for name in naming.object_names(path))
        ]
        if not naming.needs_headers:
            return list(paths)
    with ContextThreadPool(connections, thread_name_prefix="s3-object") as pool:
        present = list(pool.map(partial(_is_present, bucket, prefix, naming), paths))
    return [path for path, is_present in zip(paths, present, strict=True) if is_present]


def _is_present(bucket: S3Bucket, prefix: bytes, naming: FileNaming, path: bytes) -> bool:
    for name in naming.object_names(path):
        reply = bucket.head(prefix + name)
        if reply.status in (404, 410):
            continue
        # an object that is refused exists
        if reply.status != 200 or naming.is_file(name, reply.headers, path):
            return True
    return False


_START_FILE: Final = "began"


class WriteDetector:
    """Detects objects that were written while they were listed, by the bucket's clock.

    Parameters
    ----------
    bucket
        The bucket.
    workspace
        A folder that keeps the start of an interrupted listing, or None.
    """

    def __init__(self, bucket: S3Bucket, workspace: Path | None) -> None:
        self._bucket = bucket
        self._file = None if workspace is None else workspace / _START_FILE
        self._created = time.monotonic()
        self._started: datetime | None = None
        self._newest: datetime | None = None

    def start(self) -> None:
        """Determine the start of the listing; until then, :meth:`check` does nothing."""
        self._started = self._start_time()

    def add(self, modified: datetime) -> None:
        """Record the time of a listed object."""
        if self._newest is None or modified > self._newest:
            self._newest = modified

    def check(self, name: str) -> None:
        """Raise UpstreamChangingError if an object was written after the start."""
        if self._started is None or self._newest is None:
            return
        newest = self._newest.replace(microsecond=0)
        # A time in the future comes from a wrong clock and proves nothing.
        if newest > self._started and newest <= (self._server_time() or newest):
            raise UpstreamChangingError(
                f"{name}: objects were written while they were listed (at {newest.isoformat()})"
            )

    def _start_time(self) -> datetime | None:
        """Return a time before the first page was requested, by the bucket's clock.

        If this process resumes a listing, that is the time of the process that started it.
        """
        if self._file is not None and self._file.is_file():
            return datetime.fromisoformat(self._file.read_text("ascii"))
        now = self._server_time()
        if now is None:
            return None
        # The Date header is cut to whole seconds, so the time may be a second later.
        started = now + timedelta(seconds=1 - (time.monotonic() - self._created))
        started = started.replace(microsecond=0)
        if self._file is not None:
            self._file.write_text(started.isoformat(), "ascii")
        return started

    def _server_time(self) -> datetime | None:
        return parse_http_date(self._bucket.head(b"").headers.get("Date", ""))


_SAMPLES: Final = 8


class RowSample:
    """The rows whose keys have the lowest checksums, independent of the order of rows.

    Parameters
    ----------
    most
        The number of rows.
    is_wanted
        Returns whether a row may be in the sample.
    """

    __slots__ = ("_is_wanted", "_most", "_ranked")

    def __init__(self, most: int, is_wanted: Callable[[ObjectRow], object] = bool) -> None:
        self._most = most
        self._is_wanted = is_wanted
        self._ranked: list[tuple[int, bytes, ObjectRow]] = []

    def add(self, row: ObjectRow) -> None:
        """Consider a row."""
        rank = zlib.crc32(row.key)
        if len(self._ranked) == self._most and rank > self._ranked[-1][0]:
            return
        if self._is_wanted(row):
            insort(self._ranked, (rank, row.key, row), key=itemgetter(0, 1))
            del self._ranked[self._most :]

    def rows(self) -> list[ObjectRow]:
        """Return the sampled rows."""
        return [row for _, _, row in self._ranked]


ObjectEntry = FileRecord | ExcludedEntry
_BATCH: Final = 1000
"""Rows per batch."""
_PENDING_BATCHES: Final = 4
"""Batches that may wait for requests for their objects."""
_CACHED: Final = 50_000
_UNQUOTED: Final = re.compile(
    rb"[A-Za-z0-9_~-][A-Za-z0-9_~.-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9_~.-]*)*\Z"
)
"""Keys that need no quoting in a URL, which is slow."""
UNREADABLE: Final = "unreadable"
"""Why an object is left out that is listed but cannot be read."""


class ReaderRules(Struct, frozen=True):
    """How rows become records.

    Attributes
    ----------
    profile
        The bucket's layout and metadata files.
    connections
        Number of parallel requests.
    key_is_id
        Whether the key identifies the file, so that an overwritten object is an incident.
    versioned
        Whether objects can be read by version id.
    exact
        Whether the rows are a past or verified state, which later writes do not affect.
    sample
        Whether a sample of single-part ETags must be requested, to learn whether they are MD5s.
    sample_parts
        Whether a sample of multipart uploads decides if usual part sizes can be claimed.
    is_private
        Whether the objects need credentials, so that their URLs are ``s3://``.
    """

    profile: Profile
    connections: int
    key_is_id: bool
    versioned: bool
    exact: bool
    sample: bool
    sample_parts: bool = False
    is_private: bool = False


class _PendingObject(Struct, frozen=True):
    """An object whose path or claims are still being requested."""

    row: ObjectRow
    path: PathOrException | Future[PathOrException]
    claims: ObjectClaims | Future[ObjectClaims]


class ListingReader:
    """Turns the rows of one bucket listing into records and documents.

    Parameters
    ----------
    bucket, prefix, version
        The location of the objects, and the version to read.
    claim_resolver
        Finds the objects' digests.
    rules
        How rows become records.
    context
        Results of earlier visits.
    workspace
        A folder for files that an interrupted visit leaves for the next one, or None.
    rows
        Opens the listing; called once.
    on_opaque
        Called if ETags turned out not to be MD5s.
    on_mismatch
        Called with the keys of sampled objects that differ from their rows; the default calls
        ``on_opaque``.
    on_parts
        Called if the sample of multipart uploads shows that they need other requests; with whether
        each of them does.
    naming
        Assigns paths to objects.
    """

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
        on_parts: Callable[[bool], None] = lambda head_parts: None,
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
        self._rows = rows
        self._on_opaque = on_opaque
        self._on_mismatch = on_mismatch or (lambda keys: on_opaque())
        self._on_parts = on_parts
        self._naming = naming
        self._pending_claims: dict[str, Future[ObjectClaims]] = {}
        # one of each of eight groups of top-level folders
        self._sample = [RowSample(1, self._may_be_md5) for _ in range(_SAMPLES)]
        self._part_sample = RowSample(_SAMPLES, self._is_plain)
        self._has_opaque_etag = threading.Event()
        self._write_detector = WriteDetector(bucket, workspace)
        self.degraded = threading.Event()
        """Set if a request was refused that may be allowed in another visit."""
        self.unreadable: list[str] = []
        """One line per object that is listed but cannot be read."""
        self.refused_count = 0
        """Number of objects that the bucket lists but refuses to return."""
        self.head_parts = claim_resolver.head_parts
        """Whether each multipart upload is requested."""
        self.part_answers: dict[str, PartAnswer] = {}
        """Stated part sizes of the listed multipart uploads, by ETag."""
        self.archived_count = 0
        """Number of objects that must be restored before they can be read."""
        self.found_odd_object = False
        """Whether an object's ETag is not an MD5, or its row in the listing is wrong."""
        self.documents: tuple[Document, ...] = ()
        """The metadata files, after the last entry."""
        self.facts = DatasetFacts(title=version.dataset.local_id)
        """The facts, complete after the last entry."""

    def entries(self) -> Iterator[ObjectEntry]:
        """Yield everything but the documents; then set :attr:`documents` and :attr:`facts`."""
        if not self._rules.exact:
            self._write_detector.start()
        chosen = DocumentSelection(len(self._prefix))
        pool = ContextThreadPool(self._rules.connections, thread_name_prefix="s3-object")
        try:
            yield from self._build_entries(self._files(chosen, pool), pool)
            rows, others = chosen.split()
            reader = DocumentReader(
                self._name,
                self._bucket,
                self._prefix,
                self._rules.profile,
                self._claim_resolver,
                self._version_id,
                self._context.record_refusal,
            )
            read = list(pool.map(reader.read, rows))
            reader.check_refusals()
            unread = [row for row, entry in zip(rows, read, strict=True) if entry is None]
            yield from self._build_entries(others + unread, pool)
            refused = [entry for entry in read if isinstance(entry, ExcludedEntry)]
            if refused:
                self.degraded.set()  # so that the next visit requests them again
            self.unreadable += [
                f"{display_key(self._prefix + entry.path)}: {entry.detail}" for entry in refused
            ]
            yield from refused
            problems = [*self._part_problem(pool), *self._etag_problem(pool)]
            if problems:
                raise UnreliableListingError(f"{self._name}: {'; '.join(problems)}; try again")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        kept = [entry for entry in read if isinstance(entry, tuple)]
        documents = [document for document, _ in kept]
        unread_paths = [row.key[len(self._prefix) :] for row in unread]
        unread_paths += [entry.path for entry in refused]
        facts = self._rules.profile.facts(self._version.dataset.local_id, documents, unread_paths)
        cleaned = [(CLEANED, document.path.decode()) for document, differs in kept if differs]
        self.documents = tuple(documents)
        self.facts = replace(facts, attributes=tuple(sorted([*facts.attributes, *cleaned])))

    def confirm_version(self) -> VersionRef:
        """Return the version; raise UpstreamChangingError if objects were written meanwhile."""
        self._write_detector.check(self._name)
        return self._version

    def find_present(self, paths: Sequence[bytes]) -> list[bytes]:
        """Return the given paths that exist in the bucket."""
        return find_present(
            self._bucket, self._prefix, self._naming, paths, connections=self._rules.connections
        )

    # --- rows

    def _files(self, chosen: DocumentSelection, pool: ContextThreadPool) -> Iterator[ObjectRow]:
        """Yield the rows that are no documents; add the others to ``chosen``."""
        is_document = self._rules.profile.is_document
        start = len(self._prefix)
        for row in self._naming.prepare_rows(self._rows(), self._headers, pool):
            self._write_detector.add(row.modified)
            path = row.key[start:]
            if is_document(path) and row.size <= MAX_DOCUMENT_BYTES and is_plain(path):
                dropped = chosen.add(row)
                if dropped is not None:
                    yield dropped
            else:
                yield row

    def _build_entries(
        self, rows: Iterable[ObjectRow], pool: ContextThreadPool
    ) -> Iterator[ObjectEntry]:
        waiting: deque[list[ObjectEntry | _PendingObject]] = deque()
        every = iter(rows)
        while batch := list(islice(every, _BATCH)):
            waiting.append(self._batch(batch, pool))
            if len(waiting) > _PENDING_BATCHES:
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
                # the reply for one object with this ETag may not apply to the others
                claims = self._claim_resolver.request_claims(entry.row, self._version_id(entry.row))
        claimed = self._note(claims)
        return self._record(entry.row, named, claimed)

    def _batch(
        self, rows: list[ObjectRow], pool: ContextThreadPool
    ) -> list[ObjectEntry | _PendingObject]:
        known = self._contents(rows)
        return [self._row(row, known.get(row.etag), pool) for row in rows]

    def _contents(self, rows: list[ObjectRow]) -> dict[str, KnownContent]:
        """Return the known contents of objects that would have to be requested, by ETag."""
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
        contents = zip(etags, self._context.contents(etags), strict=True)
        return {etag: content for etag, content in contents if content is not None}

    def _row(
        self, row: ObjectRow, known: KnownContent | None, pool: ContextThreadPool
    ) -> ObjectEntry | _PendingObject:
        path = row.key[len(self._prefix) :]
        if not row.size and (not path or path.endswith(b"/")):
            detail = f"{display_key(row.key)!r} only says that there is a folder"
            return ExcludedEntry(path, FOLDER_MARKER, detail)
        named = self._naming.file_path(row, path, self._headers, pool)
        if self._rules.sample_parts and "-" in row.etag and usual_part_size(row):
            self._part_sample.add(row)
        claims = self._claim_resolver.claims_from_listing(row, known)
        if claims is None:
            return _PendingObject(row, named, self._request_claims(row, pool))
        if self._rules.sample and row.size and "-" not in row.etag:
            self._sample[zlib.crc32(path.partition(b"/")[0]) % _SAMPLES].add(row)
        if isinstance(named, Future):
            return _PendingObject(row, named, claims)
        return self._record(row, named, claims)

    def _headers(self, row: ObjectRow) -> Mapping[str, str] | None:
        """Return the headers of a row's object; None if the bucket refuses them."""
        headers = self._claim_resolver.headers(row, self._version_id(row))
        if headers is None:
            self.degraded.set()
        return headers

    def _request_claims(self, row: ObjectRow, pool: ContextThreadPool) -> Future[ObjectClaims]:
        """Request the claims of an object.

        Objects with equal multipart ETags have equal parts, so they share one request.
        """
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
            self._has_opaque_etag.set()
        self.found_odd_object |= claims.contradicts_listing or (
            claims.opaque and not claims.refused
        )
        self.refused_count += claims.refused
        if claims.refused or claims.status != 200:
            self.degraded.set()
        return claims

    def _version_id(self, row: ObjectRow) -> str | None:
        """Return the version id that selects this row's bytes; None for the newest."""
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
        if "-" in row.etag:
            self._remember_answer(row)
        version_id = self._version_id(row)
        url = self._url(row.key, version_id)
        if self._rules.is_private:
            url = f"s3://{self._bucket.name}/{url.removeprefix(self._base)}"
        identity = display_key(row.key) if self._rules.key_is_id else version_id
        # while versioning is suspended, the version "null" can be overwritten
        exact = None if version_id == "null" else version_id
        archived = row.storage_class if row.storage_class in ARCHIVE_CLASSES else None
        self.archived_count += archived is not None
        return FileRecord(
            path,
            claims.size if claims.contradicts_listing else row.size,
            claims.digests,
            (Location(url, "s3-private" if self._rules.is_private else "s3", exact),),
            claims.part_size,
            row.modified,
            identity,
            Retention.MUTABLE_BUCKET if exact is None else Retention.VERSIONED_BUCKET,
            archived,
        )

    def _url(self, key: bytes, version_id: str | None) -> str:
        if _UNQUOTED.match(key):
            plain = self._base + key.decode("ascii")
            return (
                plain if version_id is None else f"{plain}?versionId={quote(version_id, safe='')}"
            )
        return self._bucket.object_url(key, version_id)

    # --- samples

    def _is_plain(self, row: ObjectRow) -> bool:
        return is_plain(row.key[len(self._prefix) :])

    def _may_be_md5(self, row: ObjectRow) -> bool:
        return MD5.match(row.etag) is not None and self._is_plain(row)

    def _remember_answer(self, row: ObjectRow) -> None:
        answer = self._claim_resolver.part_answers.get(row.etag)
        if answer is not None and len(self.part_answers) < _CACHED:
            self.part_answers[row.etag] = answer

    def _part_problem(self, pool: ContextThreadPool) -> Iterator[str]:
        """Yield why the listing must be read again: the sample decides how parts are claimed.

        Only the sample of this listing counts, so that the same listing has the same records
        whatever was read before it.
        """
        rows = list({row.etag: row for row in self._part_sample.rows()}.values())
        ids = [self._version_id(row) for row in rows]
        usual = all(list(pool.map(self._claim_resolver.has_usual_parts, rows, ids)))
        for row in rows:
            self._remember_answer(row)
        if rows and usual is self.head_parts:
            self._on_parts(not usual)
            have, request = ("usual", "none") if usual else ("unusual", "all")
            yield (
                f"sampled multipart uploads have parts of {have} sizes, so the next attempt"
                f" requests those of {request}"
            )

    def _etag_problem(self, pool: ContextThreadPool) -> Iterator[str]:
        """Yield why ETags that were taken for MD5s may be none."""
        rows = [row for sample in self._sample for row in sample.rows()]
        if not rows:
            return
        mismatched: list[bytes] = []
        if not self._has_opaque_etag.is_set():
            ids = [self._version_id(row) for row in rows]
            answers = list(pool.map(self._claim_resolver.request_claims, rows, ids))
            if not any(claims.opaque for claims in answers):
                mismatched = [
                    row.key
                    for row, claims in zip(rows, answers, strict=True)
                    if claims.contradicts_listing
                ]
                if not mismatched:
                    return
        if mismatched:
            self._on_mismatch(mismatched)
            yield (
                f"{display_key(mismatched[0])!r} differs from its row in the listing, so the next"
                " attempt requests it"
            )
            return
        self._on_opaque()
        yield (
            "some ETags are no MD5s (the objects are encrypted), so the next attempt requests every"
            " object"
        )
