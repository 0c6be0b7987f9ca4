"""Files and folders of versions for the gateway, and their verified content."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from itertools import islice
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Final, TypeVar, cast
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.annex import (
    VaultAddress,
    git_path,
    host_without_port,
    is_private_address,
    is_private_host_allowed,
    urls_with_copies,
)
from neuromirror.git import GitError, ObjectMissingError, read_refs
from neuromirror.index import FileRow, Index, LocationRow, UnknownFileError, VersionRow
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import NeuromirrorError
from neuromirror.model.records import has_downloads, url_version_id
from neuromirror.net import RequestLimits, clean_url, is_local_name, permanent_refusal
from neuromirror.sources.volumes.content_codings import CODING_SUFFIXES, ENCODINGS_DOCUMENT
from neuromirror.store import CUSTODY_BRANCH, Store, StoreDamagedError
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.stream import (
    AccessRules,
    ContentGoneError,
    FolderEntry,
    LocationsFailedError,
    StreamError,
    Transport,
    UnverifiableError,
    VerifiedObject,
    WrongBytesError,
    open_object,
    tree_of_version,
)
from neuromirror.stream.opening import excluded_file, read_excluded_paths
from neuromirror.stream.pieces import MAX_WHOLE, Verify
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.web.async_index import AsyncIndexReader, RecentResults, UnavailableError
from neuromirror.web.gateway.modes import GatewayMode, GatewayModes


class ContentChangedError(UnavailableError):
    """The archive returned other bytes than those of the version."""


class UnknownEntryError(NeuromirrorError):
    """A folder has no entry of the name after which a page of its entries should start."""


def visitor_urls(row: VersionRow, urls: Iterable[str], allowed: Sequence[str]) -> list[str]:
    """Return the URLs that need no credentials and do not lead into a visitor's network.

    A URL in a private network is left out, unless the archive is in one, or the setting allows its
    host. Names are not resolved.

    Parameters
    ----------
    row
        The version of the file.
    urls
        The URLs that the archive states.
    allowed
        The words of the setting ``annex.security.allowed-ip-addresses``.
    """
    source = urlsplit(row.source_uri).netloc
    is_private_archive = is_local_name(host_without_port(source))

    def may_be_visited(url: str) -> bool:
        try:
            if not url.startswith(("https://", "http://")) or clean_url(url) != url:
                return False
            host = urlsplit(url).netloc
        except ValueError:
            return False
        if permanent_refusal(url) is not None:
            return False
        is_public = not is_local_name(host_without_port(host))
        return is_public or is_private_archive or is_private_host_allowed(host, allowed)

    return list(filter(may_be_visited, urls))


def reachable_urls(locations: Iterable[LocationRow]) -> list[str]:
    """Return the URLs whose last probe did not fail."""
    return [location.url for location in locations if location.result in (None, "ok")]


MAX_OPEN: Final = 8
"""Maximum number of versions that stay open; each has a git process."""
WINDOW: Final = 8 << 20
"""Bytes of a content that are requested ahead and kept in memory, if its pieces are not larger."""
_MAX_MEMORY: Final = 32 << 20
"""Maximum size in bytes of the pieces of the contents of one version that are kept."""


_ContentName = tuple[str, tuple[str, ...]]
"""The key of a content and its locations, which change when a copy is made."""


class OpenVersion:
    """A version with the connections to its locations. Thread-safe.

    No token, header or signature of this machine is sent, because content that
    needs them is not public.
    """

    def __init__(self, store: Store, row: VersionRow, limits: RequestLimits) -> None:
        self.tree = tree_of_version(store, row)
        self._limits = limits
        # a block of a volume has no URL for a part of it, and is downloaded to the disk
        self._verify: Verify = "require" if has_downloads(row.source_uri) else "whole-objects"
        self._lock = threading.Lock()
        self._access: AccessRules | None = None
        self._transports: list[Transport] = []
        self._contents: OrderedDict[_ContentName, VerifiedObject] = OrderedDict()
        try:
            self.has_encodings = self.tree.document(ENCODINGS_DOCUMENT) is not None
            """Whether names of files have the encoding of the stored object at their ends."""
            self.excluded_paths = lru_cache(partial(read_excluded_paths, self.tree))
        except BaseException:
            self.tree.close()
            raise

    def content(self, file: ListedFile) -> VerifiedObject:
        """Open the content of a file, of which nothing is requested yet.

        The most recently used contents stay open, with their pieces in memory.

        Raises
        ------
        UnverifiableError
            No digest is known with which parts of the file could be verified.
        """
        name = _content_name(file)
        with self._lock:
            found = self._contents.get(name)
            if found is not None:
                self._contents.move_to_end(name)
                return found
        access = self.tree.access
        with self._lock:
            if access != self._access:  # a vault has been added, whose host may be private
                self._access = access
                self._transports.append(
                    Transport(access, limits=self._limits, has_credentials=False)
                )
            transport = self._transports[-1]
        # the cache of the machine: what one visitor reads, the next one need not wait for
        found = open_object(self.tree, file, transport, self._verify, memory=WINDOW)
        with self._lock:
            self._contents[name] = found
            held = sum(max(WINDOW, one.check.piece_size) for one in self._contents.values())
            while held > _MAX_MEMORY and len(self._contents) > 1:
                _, dropped = self._contents.popitem(last=False)
                held -= max(WINDOW, dropped.check.piece_size)
        return found

    def forget(self, file: ListedFile) -> None:
        """Close a content that could not be read: it may have other copies by the next request."""
        with self._lock:
            self._contents.pop(_content_name(file), None)

    def close(self) -> None:
        """Cancel requests in progress, and end the git processes."""
        with self._lock:
            for transport in self._transports:
                transport.close()
        self.tree.close()


def _content_name(file: ListedFile) -> _ContentName:
    return file.key or file.path, file.urls


class _Slot:
    """A version that is open, or is opened by its first user."""

    def __init__(self) -> None:
        self.opening = threading.Lock()
        self.version: OpenVersion | None = None
        self.users = 0


class OpenVersions:
    """Keeps the most recently used versions open, at most :data:`MAX_OPEN`. Thread-safe."""

    def __init__(self, store: Store, limits: RequestLimits) -> None:
        self._store, self._limits = store, limits
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, str, str], _Slot] = OrderedDict()

    @contextmanager
    def use(self, row: VersionRow) -> Iterator[OpenVersion]:
        """Provide a version; it stays open at least until the end of the block."""
        name = row.dataset_name, row.records, row.annex_commit
        with self._lock:
            slot = self._slots.pop(name, None) or _Slot()
            self._slots[name] = slot
            slot.users += 1
            idle = [one for one, other in self._slots.items() if not other.users]
            surplus = max(0, len(self._slots) - MAX_OPEN)
            closing = [self._slots.pop(one) for one in idle[:surplus]]
        _close(closing)
        try:
            # beside the lock, so that others need not wait
            with slot.opening:
                if slot.version is None:
                    slot.version = OpenVersion(self._store, row, self._limits)
            yield slot.version
        finally:
            with self._lock:
                slot.users -= 1

    def close(self) -> None:
        """Close all versions."""
        with self._lock:
            slots = list(self._slots.values())
            self._slots.clear()
        _close(slots)


def _close(slots: Iterable[_Slot]) -> None:
    for slot in slots:
        with slot.opening:
            if slot.version is not None:
                slot.version.close()


LIMITS: Final = RequestLimits(
    attempts=2, wait=0.5, wait_max=2.0, retry_after_max=5.0, connect=10.0, read=20.0, per_host=16
)
"""Limits of requests to archives."""
_SECONDS: Final = 60.0
"""Time limit for the next bytes of a content."""
_BLOCK: Final = 1 << 20
"""Bytes per message to a client."""
_THREADS: Final = 32
_MAX_LARGE: Final = 4
"""Maximum number of concurrent reads of contents whose pieces are larger than the window."""
_MAX_ROWS: Final = 256
_MAX_LOCATIONS: Final = 20

T = TypeVar("T")


class NamedVersion(Struct, frozen=True):
    """The version that an address names.

    Attributes
    ----------
    row
        The version.
    label
        The label in the address.
    is_pinned
        Whether this label always means the same state, unlike ``@draft``.
    """

    row: VersionRow
    label: str
    is_pinned: bool


class Document(Struct, frozen=True):
    """A file whose content is in git."""

    path: str
    content: bytes


class StoredFile(Struct, frozen=True):
    """A file whose content is at the archive.

    Attributes
    ----------
    path
        The path in the address.
    file
        The file. For a chunk of a precomputed layer that is stored with a content coding, its path
        has an ending that ``path`` lacks, such as ``.gz``.
    encoding
        The content coding of such a chunk, for ``Content-Encoding``; else empty.
    """

    path: str
    file: ListedFile
    encoding: str = ""


class Folder(Struct, frozen=True):
    """A page of the entries of a folder.

    Attributes
    ----------
    path
        The path of the folder, without a slash at its end.
    entries
        The entries, sorted by name.
    next
        The name of the last entry, after which the next page starts; None on the last page.
    """

    path: str
    entries: tuple[FolderEntry, ...]
    next: str | None


class GatewayService:
    """Looks up what an address below ``/at/`` names, and reads content; for one event loop.

    Parameters
    ----------
    store
        The store.
    reader
        Answers queries of the index.
    modes
        The mode in which files are delivered, by mirror.
    limits
        The limits of requests to archives.
    seconds
        Time limit in seconds for the next bytes of a content.
    relays
        Whether blocks of volumes, and small files for downloads, may be read from the archives in
        every mode but ``off``.

    Attributes
    ----------
    counts
        The number of responses by result (``document``, ``download``, ``folder``, ``redirect``,
        ``proxy``, or an error such as ``timeout``), and of verified ``bytes``.
    """

    def __init__(
        self,
        store: Store,
        reader: AsyncIndexReader,
        modes: GatewayModes,
        *,
        limits: RequestLimits = LIMITS,
        seconds: float = _SECONDS,
        relays: bool = False,
    ) -> None:
        self._store, self._reader, self._relays = store, reader, relays
        # the settings of the user
        self._allowed = AnnexSettings.of_user().allowed_addresses
        self._modes, self._seconds = modes, seconds
        self.counts: Counter[str] = Counter()
        self._digests = BlockDigestsFolder.of_store(store)
        self._versions = OpenVersions(store, limits)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gateway")
        self._large = asyncio.Semaphore(_MAX_LARGE)
        self._rows: RecentResults[tuple[object, ...], NamedVersion] = RecentResults(_MAX_ROWS)

    def mode(self, row: VersionRow) -> GatewayMode:
        """Return the mode in which the files of a version are delivered.

        No URL has the bytes of a block of a volume, so that no client can be redirected to it.
        """
        mode = self._modes.of(row.mirror)
        if mode == "redirect" and not has_downloads(row.source_uri):
            return "proxy" if self._relays else "off"
        return mode

    def can_deliver(self, row: VersionRow, file: FileRow, locations: Iterable[LocationRow]) -> bool:
        """Return whether the content of a file can be delivered, for links to it on pages.

        The answer does not need the content: in the mode ``redirect``, it is whether one of its
        locations is public, and in the mode ``proxy``, whether the file can be verified; an archive
        that does not respond is not noticed.
        """
        if (mode := self.mode(row)) == "proxy":
            return self.can_relay(row, file)
        return mode == "redirect" and bool(self.visitor_urls(row, locations))

    def can_relay(self, row: VersionRow, file: FileRow) -> bool:
        """Return whether this catalogue sends the content of a file to a visitor who saves it.

        In the mode ``proxy`` these are all files that can be verified, in other modes the small
        ones.
        """
        is_proxy, is_small = self.mode(row) == "proxy", (file.size or MAX_WHOLE + 1) <= MAX_WHOLE
        if file.digests and (is_small or not has_downloads(row.source_uri)):
            return is_proxy or self._relays
        return is_proxy and self._digests.has(file.key)

    def visitor_urls(self, row: VersionRow, locations: Iterable[LocationRow]) -> list[str]:
        """Return the URLs of a content at the archive that a browser may be sent to.

        Addresses in private networks come last.
        """
        found = visitor_urls(row, reachable_urls(locations), self._allowed)
        return sorted(found, key=is_private_address)

    async def version(self, name: str, label: str) -> NamedVersion:
        """Return the version that dataset ``name`` has by ``label``.

        Raises the errors of ``index.versions.resolve``. Results are kept until the index changes.
        """
        # a name may mean another version later, or a dataset may have been withdrawn
        key = name, label, self._reader.revision
        found = self._rows.get(key)
        if found is None:
            row = await self._reader.query(lambda index: index.versions.resolve(name, label))
            names = row.label, row.commit, f"state:{row.state}"
            found = NamedVersion(row, label, label in names)
            if self._reader.revision == key[2]:  # else it may be of either index
                self._rows.put(key, found)
        return found

    async def find_file(self, row: VersionRow, path: str) -> StoredFile | Document | None:
        """Return a file of a version; None if the version has no such file."""

        def find() -> StoredFile | Document | None:
            with self._versions.use(row) as version:
                content = version.tree.document(path)
                if content is not None:
                    return Document(path, content)
                file = version.tree.file(path)
                if file is not None:
                    return StoredFile(path, file)
                return _encoded_file(version, path)

        return await self._look(find)

    async def refuse_undelivered(self, row: VersionRow, path: str) -> None:
        """Raise UnavailableError for a path without a file that the archive may have.

        Programs read a chunk that is not found as the fill value, but the version may exclude it,
        or store it under a name with an ending, or escaped, as for an empty folder name.
        """

        def find() -> tuple[str, str] | None:
            with self._versions.use(row) as version:
                excluded = excluded_file(version.tree, path, version.excluded_paths)
                if excluded is not None:
                    return "excluded", str(excluded)
                stored = git_path(path.encode("utf-8", "surrogateescape"))
                stored_path = stored.decode("utf-8", "surrogateescape")
                if stored_path != path and version.tree.file(stored_path) is not None:
                    return "form", f"{row.name} has the archive's {path} at {stored_path}"
                other = version.has_encodings and version.tree.first_with_prefix(f"{path}.")
                if not other:
                    return None
                ending = other[len(path) :]
                why = f"chunks in files that end in {ending} are not supported"
                return "form", f"{row.name} has {other}; {why}"

        refused = await self._look(find)
        if refused is not None:
            raise self._failure(*refused, 406)

    async def list_folder(self, row: VersionRow, path: str, after: str, most: int) -> Folder | None:
        """Return the entries of a folder, sorted by name; None if the version has no such folder.

        Parameters
        ----------
        row
            The version.
        path
            The folder without a slash at its end; empty for the top folder.
        after
            The name after which to start; empty for the first page.
        most
            Maximum number of entries.

        Raises
        ------
        UnknownEntryError
            The folder has no entry of the name ``after``.
        """

        def find() -> Folder | None:
            with self._versions.use(row) as version:
                entries = version.tree.entries(path)
                if entries is None:
                    return None
                # by position: the order of entries is that of their paths, not of names
                if after and not any(entry.name == after for entry in entries):
                    raise UnknownEntryError(
                        f"{row.name}: the folder has no entry {after[:200]!r} after which a page "
                        "could start; start with the first page"
                    )
                found = tuple(islice(entries, most + 1))
            return Folder(path, found[:most], found[most - 1].name if len(found) > most else None)

        return await self._look(find)

    async def public_urls(self, row: VersionRow, file: ListedFile) -> list[str]:
        """Return the URLs of a file that need no credentials.

        Those of the archive that name the version of the object come first. URLs whose last probe
        failed are left out. Copies in vaults are last, or first if a vault is preferred,
        and addresses in private networks come after all others.
        """

        def look(index: Index) -> Sequence[str]:
            if not row.indexed:
                return file.urls
            try:
                found = index.files.get(row, file.path)
            except UnknownFileError:
                return file.urls  # in a subdataset
            if found.key != file.key:
                return file.urls
            return reachable_urls(index.locations.of(found.content, limit=_MAX_LOCATIONS))

        def find_vaults() -> list[VaultAddress]:
            with self._versions.use(row) as version:
                return [vault for vault in version.tree.vaults(file) if vault.is_url]

        vaults = await self._look(find_vaults)
        copies = {vault.copy_url(file.key) for vault in vaults}
        urls = [url for url in await self._reader.query(look) if url not in copies]
        public = visitor_urls(row, urls, self._allowed)
        public.sort(key=lambda url: url_version_id(url) is None)
        return sorted(urls_with_copies(file.key, public, vaults), key=is_private_address)

    async def has_copies(self, row: VersionRow) -> bool:
        """Return whether a vault with copies of the dataset's contents is published."""
        dataset = row.dataset_ref

        def find() -> bool:
            return CUSTODY_BRANCH in read_refs(self._store.repositories.of(dataset).path)

        return await self._look(find)

    async def content_size(self, row: VersionRow, file: ListedFile) -> int:
        """Return the size in bytes of a content that can be verified.

        Raises
        ------
        UnavailableError
            No digest is known with which parts of it could be verified.
        """

        def find() -> int:
            with self._versions.use(row) as version:
                return version.content(file).size

        return await self._run(find)

    async def read(
        self, row: VersionRow, file: ListedFile, start: int, stop: int
    ) -> AsyncIterator[bytes]:
        """Yield the verified bytes of a range; raises :class:`UnavailableError`."""
        piece_size = await self._run(partial(self._piece_size, row, file))
        while start < stop:
            if piece_size <= WINDOW:
                block = await self._run(partial(self._read, row, file, start, stop))
                self.counts["bytes"] += len(block)
                start += len(block)
                yield block
                continue
            # a copy for this response: other responses displace the piece from the memory of the
            # version, and a slow client would occupy the memory, or one of the few large reads
            end = min(stop, (start // piece_size + 1) * piece_size)
            with await self._run(partial(self._copy, row, file, start, end), self._large) as copy:
                while block := await self._run(partial(copy.read, _BLOCK)):
                    self.counts["bytes"] += len(block)
                    yield block
            start = end

    def _piece_size(self, row: VersionRow, file: ListedFile) -> int:
        with self._versions.use(row) as version:
            return version.content(file).check.piece_size

    def _read(self, row: VersionRow, file: ListedFile, start: int, stop: int) -> bytes:
        with self._content(row, file) as content:
            content.prefetch(start, min(stop, start + WINDOW))
            return content.read_ranges([(start, min(stop, start + _BLOCK))])[0]

    def _copy(self, row: VersionRow, file: ListedFile, start: int, stop: int) -> IO[bytes]:
        """Return a temporary file with the verified bytes of a range, in memory if they are few."""
        with self._content(row, file) as content:
            data = content.read_ranges([(start, stop)])[0]
        with ExitStack() as stack:
            copy = stack.enter_context(SpooledTemporaryFile(_BLOCK, prefix="neuromirror-gateway-"))
            try:
                copy.write(data)
                copy.seek(0)
            except OSError as error:
                message = (
                    f"{row.name}: {file.path}: {len(data)} bytes cannot be stored in "
                    f"{gettempdir()}: {error.strerror or error}; set TMPDIR to a folder with "
                    "enough space"
                )
                logging.getLogger(__name__).warning("%s", message)
                raise StreamError(message) from error
            stack.pop_all()
        return cast(IO[bytes], copy)

    @contextmanager
    def _content(self, row: VersionRow, file: ListedFile) -> Iterator[VerifiedObject]:
        with self._versions.use(row) as version:
            try:
                yield version.content(file)
            except StreamError:
                version.forget(file)
                raise

    async def _run(self, work: Callable[[], T], limit: asyncio.Semaphore | None = None) -> T:
        """Run ``work`` in a thread of the gateway, with the time limit.

        Work that has not started is dropped when its client disconnects; the limit counts work
        until it ends, also without a client.
        """
        loop = asyncio.get_running_loop()
        if limit is not None:
            await limit.acquire()
        running = self._threads.submit(work)
        if limit is not None:
            running.add_done_callback(lambda _: _release(loop, limit))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(running), self._seconds)
        except TimeoutError as error:
            raise self._failure(
                "timeout", "the archive takes too long to answer; try again later", 504
            ) from error
        except StreamError as error:
            name, message, status = _describe(error)
            self.counts[name] += 1
            kind = ContentChangedError if isinstance(error, WrongBytesError) else UnavailableError
            raise kind(message, status) from error

    async def _look(self, work: Callable[[], T]) -> T:
        """Run ``work`` that reads the store only, in a thread."""
        try:
            return await self._reader.run_in_thread(work)
        except (StreamError, StoreDamagedError, GitError, ObjectMissingError) as error:
            logging.getLogger(__name__).warning("%s", error)
            raise self._failure(
                "unreadable",
                "the store of this catalogue lacks a part of this version, such as a subdataset or "
                "a manifest; its operator finds the cause in the log",
                502,
            ) from error

    def _failure(self, name: str, message: str, status: int) -> UnavailableError:
        self.counts[name] += 1
        return UnavailableError(message, status)

    def close(self) -> None:
        """Drop work that has not started, and close the open versions."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._versions.close()


def _release(loop: asyncio.AbstractEventLoop, limit: asyncio.Semaphore) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(limit.release)


def _describe(error: StreamError) -> tuple[str, str, int]:
    """Return the name, public message and status of a failure; the error may have local paths."""
    if isinstance(error, WrongBytesError):
        return (
            "wrong",
            f"the archive now returns other bytes than those of this version, between "
            f"{error.start} and {error.stop}; nothing is delivered",
            502,
        )
    if isinstance(error, ContentGoneError):
        return "gone", "the archive no longer has this file, and no other location is known", 502
    if isinstance(error, UnverifiableError):
        return (
            "unverifiable",
            "no checksums of parts of this file are known, so that it cannot be verified here; "
            "download it from the archive, or get it in a clone, which verifies the whole file",
            502,
        )
    if isinstance(error, LocationsFailedError):
        return "failed", "the archive does not deliver this file at present; try again later", 502
    return "failed", "the file cannot be read at present; try again later", 502


def _encoded_file(version: OpenVersion, path: str) -> StoredFile | None:
    """Return a chunk of a precomputed layer that is stored with an encoding."""
    if not version.has_encodings:
        return None
    for encoding, ending in CODING_SUFFIXES.items():
        file = version.tree.file(path + ending)
        if file is not None:
            return StoredFile(path, file, encoding)
    return None
