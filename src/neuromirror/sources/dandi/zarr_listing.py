"""The listing of one Zarr's objects, verified by its checksum."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from heapq import merge
from operator import attrgetter
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuromirror import __version__
from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    ExcludedEntry,
    FileRecord,
    FileTotals,
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
    S3Listing,
    Session,
)
from neuromirror.sources.dandi.objects import BucketCache, ObjectAddress, parse_object_url
from neuromirror.sources.dandi.rows import is_embargoed, stated_zarr_checksum
from neuromirror.sources.errors import (
    ComponentMismatchError,
    ComponentRefusedError,
    ComponentUnavailableError,
    DatasetNotFoundError,
    MalformedIdError,
    UnexpectedReplyError,
    UnreliableListingError,
)
from neuromirror.sources.protocol import EMBARGOED, ComponentEntry, Listing, VisitContext
from neuromirror.sources.s3.history import (
    burst_ends,
    moment_of,
    read_rows,
    state_at,
    upstream_name,
    write_row,
)
from neuromirror.sources.s3.listing_reader import ListingReader, ReaderRules
from neuromirror.sources.s3.object_claims import ClaimResolver
from neuromirror.sources.s3.options import PLAIN
from neuromirror.sources.volumes.urls import VOLUME_REMOTE

CHECKSUM_PATTERN: Final = re.compile(
    r"(?P<md5>[0-9a-f]{32})-(?P<files>[0-9]{1,19})--(?P<bytes>[0-9]{1,19})\Z"
)
_MAX_IN_MEMORY: Final = 1 << 24
"""Bytes of the listing of one folder's files; longer ones are on disk."""
_CHUNK: Final = 1 << 20


class _Entry(NamedTuple):
    digest: str
    name: str
    size: int


def parse_checksum(checksum: str) -> FileTotals:
    """Return the number of files and bytes that a Zarr checksum states.

    Raises
    ------
    ValueError
        The text is no Zarr checksum.
    """
    found = CHECKSUM_PATTERN.match(checksum)
    if found is None:
        raise ValueError(f"{checksum[:80]!r} is not a checksum of a Zarr")
    return FileTotals(int(found["files"]), int(found["bytes"]))


def compute_zarr_checksum(rows: Iterable[ObjectRow], prefix: bytes) -> str:
    """Return the checksum of a Zarr's objects; ``rows`` are sorted by the bytes of their keys.

    In this order everything below a folder is contiguous, so only the open folders are in memory.
    The listing of a folder with many files is spooled to disk.
    """
    open_folders = [_Folder("")]
    for row in rows:
        # split paths like pathlib, as the archive does
        *above, name = [
            one for one in decode_key(row.key[len(prefix) :]).split("/") if one not in ("", ".")
        ] or [""]
        depth = 0
        while (
            depth < len(above)
            and depth + 1 < len(open_folders)
            and open_folders[depth + 1].name == above[depth]
        ):
            depth += 1
        _close(open_folders, depth + 1)
        open_folders += [_Folder(one) for one in above[depth:]]
        open_folders[-1].add(_Entry(row.etag, name, row.size))
    _close(open_folders, 1)
    return open_folders[0].entry().digest


def decode_key(key: bytes) -> str:
    """Decode an object key to text, so that bytes that are not UTF-8 can be restored."""
    return key.decode("utf-8", "surrogateescape")


def _close(open_folders: list[_Folder], until: int) -> None:
    while len(open_folders) > until:
        done = open_folders.pop().entry()
        open_folders[-1].folders.append(done)


class _Folder:
    """A folder whose entries are being added: files in order of name, folders in any order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folders: list[_Entry] = []
        self._files = SpooledTemporaryFile(_MAX_IN_MEMORY)  # noqa: SIM115 - closed after hashing
        self._count = self._bytes = 0

    def add(self, file: _Entry) -> None:
        self._files.write(b"," * bool(self._count) + _json(file))
        self._count += 1
        self._bytes += file.size

    def entry(self) -> _Entry:
        md5 = hashlib.md5(b'{"directories":[', usedforsecurity=False)
        for number, folder in enumerate(sorted(self.folders, key=lambda one: one.name)):
            md5.update(b"," * bool(number) + _json(folder))
            self._count += parse_checksum(folder.digest).files
            self._bytes += folder.size
        md5.update(b'],"files":[')
        with self._files as files:
            files.seek(0)
            while chunk := files.read(_CHUNK):
                md5.update(chunk)
        md5.update(b"]}")
        digest = f"{md5.hexdigest()}-{self._count}--{self._bytes}"
        return _Entry(digest, self.name, self._bytes)


def _json(entry: _Entry) -> bytes:
    return json.dumps(entry._asdict(), separators=(",", ":")).encode("ascii")


CURRENT: Final = "current"
"""The upstream name of the current state of a Zarr without checksum."""
LOCAL_PREFIX: Final = "zarr/"
_LOCAL_ID: Final = re.compile(
    rf"{LOCAL_PREFIX}([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})\Z"
)
_PROBE: Final = "zarr.json"
_EXISTING_STATUSES: Final = frozenset({200, 302, 401, 403})
"""HTTP statuses of replies about a Zarr that exists."""


class ZarrState(Struct, frozen=True):
    """A Zarr's state according to the archive; ``checksum`` is None until it is finalized."""

    checksum: str | None
    name: str


class ZarrApi:
    """Requests the ids, checksums and object addresses of Zarrs from a DANDI API. Thread-safe.

    ``session`` sends the requests, ``mirror`` is the name of the mirror, and ``api`` the base URL
    of the API.
    """

    def __init__(self, session: Session, mirror: str, api: str) -> None:
        self._session = session
        self._mirror = mirror
        self._api = api

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the dataset of ``zarr/<zarr id>``; raise MalformedIdError."""
        found = _LOCAL_ID.match(local_id)
        if found is None:
            raise MalformedIdError(
                f"{self._mirror}: {local_id[:80]!r} is no Zarr; write zarr/<its id>"
            )
        return DatasetRef(self._mirror, local_id, f"{self._api}/zarr/{found[1]}/")

    def version(self, dataset: DatasetRef, checksum: str | None) -> VersionRef:
        """Return the version with this checksum."""
        claimed = None if checksum is None else parse_checksum(checksum)
        return VersionRef(dataset, checksum or CURRENT, VersionKind.OBSERVED, None, claimed)

    def state(self, dataset: DatasetRef) -> ZarrState:
        """Return a Zarr's current state.

        For an embargoed Zarr the archive returns 404, except to its owners. So after a 404 one of
        the Zarr's files is requested, which returns 404 only if the Zarr does not exist.

        Raises
        ------
        ComponentRefusedError
            If the Zarr exists but is not readable.
        DatasetNotFoundError
            If it does not exist.
        """
        try:
            row = self._session.get_json(dataset.source_uri)
        except NotFoundError as error:
            if error.detail is None:
                raise
            if self._request_object(dataset).status in _EXISTING_STATUSES:
                raise _refused_error(dataset) from error
            raise DatasetNotFoundError(
                f"{dataset.name}: {error.url} reports no such Zarr, or one that it hides: "
                f"{error.detail}"
            ) from error
        except AccessDeniedError as error:
            if error.detail is None or "token" in error.detail.lower():
                raise
            raise _refused_error(dataset) from error
        zarr_id = dataset.local_id.removeprefix(LOCAL_PREFIX)
        if not isinstance(row, dict) or str(row.get("zarr_id")).lower() != zarr_id:
            raise UnexpectedReplyError(f"{dataset.name}: the reply describes no such Zarr")
        checksum, name = row.get("checksum"), row.get("name")
        if not (checksum is None or is_checksum(checksum)):
            raise UnexpectedReplyError(
                f"{dataset.name}: {checksum!r:.80} is not a checksum of a Zarr"
            )
        return ZarrState(checksum, name if isinstance(name, str) else "")

    def address(self, dataset: DatasetRef) -> ObjectAddress:
        """Return the address of a Zarr's objects, from the API's redirect to one of them."""
        reply = self._request_object(dataset)
        if reply.status in (401, 403):
            raise _refused_error(dataset)
        plain = urlsplit(reply.headers.get("Location", ""))._replace(query="", fragment="").geturl()
        zarr_id = dataset.local_id.removeprefix(LOCAL_PREFIX)
        if not plain.endswith(f"/{zarr_id}/{_PROBE}"):
            raise UnexpectedReplyError(
                f"{dataset.name}: the archive does not redirect to the Zarr's objects"
            )
        return parse_object_url(plain.removesuffix(_PROBE))

    def _request_object(self, dataset: DatasetRef) -> ResponseHead:
        """Request a file of a Zarr, which redirects whether the Zarr has this file or not."""
        return self._session.head(f"{dataset.source_uri}files/?prefix={_PROBE}")


def _refused_error(dataset: DatasetRef) -> ComponentRefusedError:
    return ComponentRefusedError(
        f"{dataset.name}: the archive does not show it (is it under embargo?)"
    )


def is_checksum(value: object) -> bool:
    """Return whether a JSON value is a Zarr checksum."""
    return isinstance(value, str) and CHECKSUM_PATTERN.match(value) is not None


def prefix_url(metadata: Mapping[str, Any], zarr_id: str) -> str | None:
    """Return the URL of the folder with a Zarr's objects, with a final slash; None if unknown.

    It is the content URL in the asset's metadata that ends with the Zarr's id.
    """
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


CHECKSUM: Final = "zarr-checksum"
"""The attribute with the checksum of the listed objects, also if the archive states none."""
FINALIZED: Final = "zarr-finalized"
"""The attribute that is ``no`` if the archive states no checksum."""
PENDING: Final = "pending"
"""Why a Zarr is left out that is still being written, so that the archive has no checksum."""

_RULES: Final = 1
"""Version of the rules that turn rows into records; increment it when they change."""
_ATTEMPTS: Final = 3


class ZarrListing(Listing):
    """The objects of a Zarr: the current ones, or those at the time that the version names.

    :attr:`version` is replaced with the first entry if the archive states another checksum by then.

    Parameters
    ----------
    api
        The archive's Zarr endpoints.
    version, state
        The version to list, and the archive's state of the Zarr.
    context
        Results of earlier visits.
    bucket, prefix, capabilities
        The address of the objects, and what the bucket allows.
    connections
        Number of parallel requests.
    objects_are_private
        Whether the objects can be listed but not read, as under embargo. Then only the checksum
        verifies them, and records get the API's URL too, which accepts the token.
    must_head
        Set once an ETag turned out not to be an MD5: then every object is requested.
    """

    def __init__(
        self,
        api: ZarrApi,
        version: VersionRef,
        state: ZarrState,
        context: VisitContext,
        bucket: S3Bucket,
        prefix: bytes,
        capabilities: S3Capabilities,
        *,
        connections: int,
        objects_are_private: bool,
        must_head: threading.Event,
    ) -> None:
        self._moment = moment_of(version.upstream)
        if self._moment is None:
            version = api.version(version.dataset, state.checksum)
        super().__init__(
            version,
            DatasetFacts(title=state.name),
            special_remotes=(VOLUME_REMOTE,) if objects_are_private else (),
        )
        self._api = api
        self._state = state
        self._context = context
        self._bucket = bucket
        self._prefix = prefix
        self._capabilities = capabilities
        self._connections = connections
        self._is_private = objects_are_private
        self._must_head = must_head
        self._name = version.dataset.name
        self._workspace = context.workspace if context.workspace.is_dir() else None
        self._stated_version = version
        """The version as the archive states it now."""
        digest, _, pages = (context.memo or b"").partition(b"\n")
        self._stored_pages = pages if pages and digest == self._context_digest() else None
        self._pages = self._open(self._workspace, self._stored_pages)
        self._reader: ListingReader | None = None

    def _open(self, workspace: Path | None, memo: bytes | None) -> S3Listing:
        return self._bucket.objects(
            self._prefix,
            workspace=workspace,
            memo=memo,
            versions=self._capabilities.versions_listable,
            connections=self._connections,
        )

    def _context_digest(self) -> bytes:
        """Return a digest of everything but the pages on which the records depend."""
        shape = [
            *(_RULES, __version__, self._bucket.uri),
            *(self._stated_version.upstream, self._state.name),
            *(self._capabilities.versions_listable, self._capabilities.version_readable),
        ]
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest().encode()

    def is_unchanged(self) -> bool:
        """Return whether the Zarr has the same checksum and the bucket the same objects."""
        if self._moment is not None or self._stored_pages is None:
            return False
        return self._pages.unchanged()

    def memo(self) -> bytes | None:
        """Return the pages' memo; None for a past state, or if an object could not be read."""
        if self._moment is not None or self._reader is None or self._reader.degraded.is_set():
            return None
        return self._context_digest() + b"\n" + self._pages.memo()

    def confirm_version(self) -> VersionRef:
        """Return the version: verified by its checksum, else as the archive states it now.

        Raises
        ------
        ComponentUnavailableError
            If objects were written during the listing, and there is no checksum to verify them.
        UnreliableListingError
            If the Zarr was finalized during the listing.
        """
        version = self._stated_version
        if self._state.checksum is not None or self._moment is not None:
            return version
        now = self._api.state(version.dataset)
        if now.checksum is not None:
            raise UnreliableListingError(f"{self._name}: it was finalized while it was listed")
        if self._reader is not None:
            try:
                self._reader.confirm_version()
            except UnreliableListingError as error:
                raise ComponentUnavailableError(
                    f"{error}; the archive has no checksum of it", PENDING
                ) from error
        return version

    def entries(self) -> Iterator[FileRecord | ExcludedEntry]:
        """Yield the objects as records, after all of them were listed and verified.

        Raises
        ------
        ComponentUnavailableError
            If the Zarr is being written.
        ComponentRefusedError
            If the bucket refuses objects although the archive states no embargo.
        ComponentMismatchError
            If the objects do not match the checksum.
        """
        has_checksum = self._state.checksum is not None
        with TemporaryDirectory(prefix="zarr-", dir=self._workspace) as folder:
            verified: list[SortedRows] = []
            resolver = ClaimResolver(
                self._bucket, self._name, head_each=self._must_head.is_set(), etags_opaque=False
            )
            # Created before the objects are listed: it notices what is written from now on.
            self._reader = reader = ListingReader(
                self._bucket,
                self._stated_version,
                self._prefix,
                resolver,
                self._reader_rules(has_checksum),
                self._context,
                workspace=self._workspace,
                rows=lambda: verified[0],
                on_opaque=self._must_head.set,
            )
            rows, checksum = self._verified_rows(Path(folder))
            if not self._is_private:
                self._check_readable(rows)
            verified.append(rows)
            attributes = [(CHECKSUM, checksum)]
            if self._moment is None and not has_checksum:
                attributes.append((FINALIZED, "no"))
            self.version = self._stated_version
            yield from map(self._add_api_location, reader.entries())
            if resolver.denied.is_set() and not self._is_private:
                raise ComponentRefusedError(
                    f"{self._name}: the bucket lists some of its objects but refuses to return "
                    "them, and the archive states no embargo"
                )
            self.facts = replace(self.facts, attributes=tuple(sorted(attributes)))

    def _reader_rules(self, has_checksum: bool) -> ReaderRules:
        return ReaderRules(
            profile=PLAIN,
            connections=self._connections,
            key_is_id=False,
            versioned=self._capabilities.versions_listable
            and self._capabilities.version_readable is not False,
            # The checksum verifies what the listing's times would have to,
            exact=has_checksum or self._moment is not None,
            # and that the ETags are MD5s, since it is computed from MD5s.
            sample=not (has_checksum or self._must_head.is_set()),
        )

    def _add_api_location(self, entry: FileRecord | ExcludedEntry) -> FileRecord | ExcludedEntry:
        """Return a record with the API's URL, if the object itself is private."""
        if not self._is_private or not isinstance(entry, FileRecord):
            return entry
        start = f"{self.version.dataset.source_uri}files/?download=true&prefix="
        location = Location(start + quote(entry.path, safe=""), "api-private")
        return msgspec.structs.replace(entry, locations=(*entry.locations, location))

    def _verified_rows(self, folder: Path) -> tuple[SortedRows, str]:
        """Return all rows and their checksum, which is the archive's if it states one."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                # the workspace has pages of the attempt before
                self._pages = self._open(None, None)
            attempt_folder = folder / str(attempt)
            attempt_folder.mkdir()
            rows = SortedRows(self._rows(attempt_folder), attempt_folder)
            found = compute_zarr_checksum(rows, self._prefix)
            stated = self._state.checksum
            if self._moment is not None or stated in (None, found):
                return rows, found
            now = self._api.state(self.version.dataset)
            has_moved = now.checksum != stated
            self._state = now
            if now.checksum is None:
                raise ComponentUnavailableError(
                    f"{self._name}: it is being written (the archive no longer states a checksum)",
                    PENDING,
                )
            self._stated_version = self._api.version(self.version.dataset, now.checksum)
            if now.checksum == found:
                return rows, found
            if not has_moved and attempt:
                break
        raise ComponentMismatchError(
            f"{self._name}: its objects have the checksum {found}, but the archive states"
            f" {self._state.checksum}"
        )

    def _rows(self, workspace: Path) -> Iterable[ObjectRow]:
        if self._moment is not None:
            return state_at(self._pages.rows(), self._moment, workspace)
        return (row for row in self._pages.rows() if row.latest and not row.deleted)

    def _check_readable(self, rows: SortedRows) -> None:
        """Raise ComponentRefusedError if the objects can be listed but not read.

        The first object is requested, unless the probe for this listing has just read it.
        """
        first = next(iter(rows), None)
        if first is None or (first.key, first.version_id) == self._capabilities.sample_version:
            return
        status = self._bucket.head(first.key, version_id=first.version_id).status
        if status in (401, 403):
            raise ComponentRefusedError(
                f"{self._name}: the bucket lists its objects but refuses to return them (HTTP "
                f"{status}), and the archive states no embargo"
            )


_RUN: Final = 50_000

_key = attrgetter("key")


class SortedRows:
    """Rows sorted by key, which can be iterated repeatedly.

    The constructor reads all ``rows``. From 50,000 rows on they are stored in files in ``folder``,
    which the caller removes.
    """

    def __init__(self, rows: Iterable[ObjectRow], folder: Path) -> None:
        self._folder = folder
        self._runs: list[Path] = []
        self._left: list[ObjectRow] = []
        for row in rows:
            self._left.append(row)
            if len(self._left) >= _RUN:
                self._write()
        self._left.sort(key=_key)

    def _write(self) -> None:
        self._left.sort(key=_key)
        path = self._folder / f"run-{len(self._runs)}"
        with path.open("xb", buffering=1 << 18) as file:
            for row in self._left:
                write_row(file, row)
        self._runs.append(path)
        self._left = []

    def __iter__(self) -> Iterator[ObjectRow]:
        if not self._runs:
            return iter(self._left)
        return merge(*map(_read, self._runs), self._left, key=_key)


def _read(path: Path) -> Iterator[ObjectRow]:
    with path.open("rb", buffering=1 << 16) as file:
        yield from read_rows(file)


class ZarrSource:
    """The Zarrs of one archive. Thread-safe.

    Parameters
    ----------
    session, mirror, api
        The archive: its session, the mirror's name, and the base URL of its API.
    buckets
        The archive's buckets.
    connections
        Number of parallel requests.
    history_gap
        Changes with shorter pauses between them count as one earlier state.
    objects_are_private
        Whether the objects can be listed but not read, as under embargo.
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
        self._api = ZarrApi(session, mirror, api)
        self._buckets = buckets
        self._connections = connections
        self._gap = history_gap
        self._objects_are_private = objects_are_private
        self._must_head = threading.Event()

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the dataset of ``zarr/<zarr id>``; raise MalformedIdError."""
        return self._api.dataset(local_id)

    def state(self, dataset: DatasetRef) -> ZarrState:
        """Return a Zarr's current state, as :meth:`ZarrApi.state` does."""
        return self._api.state(dataset)

    def component(
        self, path: bytes, size: int, zarr_id: str, metadata: Mapping[str, Any]
    ) -> ComponentEntry | ExcludedEntry:
        """Return the entry for a Zarr's row in an asset list; no request is made."""
        dataset = self.dataset(f"{LOCAL_PREFIX}{zarr_id}")
        if is_embargoed(metadata):
            detail = f"Zarr asset {zarr_id}: it is under embargo"
            return ExcludedEntry(path, EMBARGOED, detail, size)
        checksum = stated_zarr_checksum(metadata)
        url = prefix_url(metadata, zarr_id)
        if url is None or not (checksum is None or is_checksum(checksum)):
            wrong = "no prefix in the bucket" if url is None else f"the checksum {checksum!r:.80}"
            return ExcludedEntry(path, "malformed", f"Zarr asset {zarr_id} has {wrong}", size)
        version = self._api.version(dataset, None if checksum is None else str(checksum))
        address = parse_object_url(url)
        return ComponentEntry(
            path, size, version, lambda context: self.listing(version, context, address)
        )

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return one Zarr's hint; its fingerprint is the checksum, if there is one.

        A Zarr that is refused or hidden counts as embargoed, since that is how the archive replies
        for an embargoed Zarr.
        """
        try:
            state = self.state(dataset)
        except ComponentRefusedError:
            return DatasetHint(dataset, EMBARGOED, unavailable=EMBARGOED)
        return DatasetHint(dataset, state.checksum, title=state.name)

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return the current state."""
        return [self._api.version(dataset, self.state(dataset).checksum)]

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Return earlier states from object versions and delete markers, oldest first.

        Empty if the bucket does not list versions.
        """
        self.state(dataset)
        address = self._api.address(dataset)
        if not self._buckets.capabilities(address).versions_listable:
            return []
        pages = self._buckets.bucket(address).objects(
            address.key, versions=True, connections=self._connections
        )
        return [
            VersionRef(dataset, upstream_name(moment), VersionKind.OBSERVED, moment)
            for moment in burst_ends(pages.rows(), self._gap)[:-1]
            if since is None or moment > since
        ]

    def listing(
        self, version: VersionRef, context: VisitContext, address: ObjectAddress | None = None
    ) -> ZarrListing:
        """Return the listing of a Zarr's current objects, or of those at the version's time.

        Raises
        ------
        ComponentUnavailableError
            If the Zarr is under embargo and has no checksum.
        ComponentRefusedError
            If the archive does not show it.
        MalformedIdError
            If the version's name is neither a checksum nor a time.
        """
        dataset = version.dataset
        if (
            moment_of(version.upstream) is None
            and version.upstream != CURRENT
            and not CHECKSUM_PATTERN.match(version.upstream)
        ):
            raise MalformedIdError(f"{dataset.name}: there is no version {version.upstream!r}")
        with ContextThreadPool(1, thread_name_prefix="dandi-probe") as pool:
            # request bucket and API in parallel if the bucket is known
            probed = None if address is None else pool.submit(self._buckets.capabilities, address)
            state = self.state(dataset)
        if address is None:
            address = self._api.address(dataset)
        capabilities = self._buckets.capabilities(address) if probed is None else probed.result()
        if self._objects_are_private:
            if state.checksum is None:
                raise ComponentUnavailableError(
                    f"{dataset.name}: it is under embargo and has no checksum yet to verify it by",
                    PENDING,
                )
            capabilities = replace(capabilities, version_readable=None)
        return ZarrListing(
            self._api,
            version,
            state,
            context,
            self._buckets.bucket(address),
            address.key,
            capabilities,
            connections=self._connections,
            objects_are_private=self._objects_are_private,
            must_head=self._must_head,
        )
