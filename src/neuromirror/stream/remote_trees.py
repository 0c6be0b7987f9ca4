"""The files of a version without a store: in a catalogue, or of a lock file's pins.

The files of a version in a catalogue, read through its gateway: no store is needed.

The catalogue says which key a path has; this machine verifies the bytes against the key, wherever
they come from.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import IO, Final, TypeVar, cast
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from neuromirror.annex import VaultAddress, find_local_copy, parse_key, urls_with_copies
from neuromirror.cache import cache_folder
from neuromirror.config.addresses import Address, catalogue_page
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    LockBlockDigests,
    LockManifestReader,
    PinnedState,
    PlainFile,
)
from neuromirror.lab.lockfile import Lock, load_lock
from neuromirror.mint import SortedLines, ZstdFrameError, names_in_folder, write_seekable_lines
from neuromirror.model import BlockDigests
from neuromirror.model.block_digests import MAX_ENCODED_BYTES
from neuromirror.model.validation import analysed_type
from neuromirror.net import NetError, NotFoundError, Response, Session, only_host_of
from neuromirror.store.block_digests import OwnBlockDigests, block_digests_name, check_encoded
from neuromirror.stream.errors import AddressUnresolvedError, StreamError
from neuromirror.stream.git_tree import AccessRules, FolderEntry, listed_file
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.vault.own_vaults import own_vaults

_MAX_JSON: Final = 64 << 20
_MAX_DOCUMENT: Final = 1 << 30
"""Maximum size in bytes of a JSON document, and of a plain file in git."""
_MAX_FILES: Final = 10_000
"""Maximum number of files whose descriptions are kept."""
_AT: Final = "/at/"
_WEB: Final = ("https://", "http://")

T = TypeVar("T", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    """A version in the response of the API."""

    name: str
    commit: str


class _File(msgspec.Struct):
    """The description of a file by the gateway: ``key`` is null for a document in git."""

    size: int | None
    key: str | None
    digest: str | None
    delivered: str
    locations: list[str]


class _Entry(msgspec.Struct):
    name: str
    type: str
    size: int | None
    key: str | None


class _Folder(msgspec.Struct):
    entries: list[_Entry]
    next: str | None


class CatalogueTree:
    """The files of a version in a catalogue. Thread-safe.

    Parameters
    ----------
    base
        The URL of the catalogue.
    version
        The name of a version. If it moves, such as ``@draft``, the files are those of the state
        that it means now.

    Raises
    ------
    AddressUnresolvedError
        The catalogue has no such version, or cannot be reached.
    """

    def __init__(self, base: str, version: str) -> None:
        self._base = base
        self._session = Session(is_private_allowed=only_host_of(base))
        self._digests = OwnBlockDigests()
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File | None] = OrderedDict()
        dataset, _, label = version.partition("@")
        named = f"{quote(dataset, safe=':')}@{quote(label or 'latest', safe='')}"
        try:
            found = self._get(f"{base}/api/v1/datasets/{named}", _Version)
            if found is None:
                raise AddressUnresolvedError(f"{base} has no version {version}")
        except NetError as error:
            self._session.close()
            raise AddressUnresolvedError(f"{version}: {error}") from error
        except BaseException:
            self._session.close()
            raise
        self._name = found.name
        # a label may move meanwhile, a commit cannot
        self._at = f"{base}{_AT}{quote(dataset, safe='/:')}@{found.commit}/"
        host = urlsplit(base).netloc
        self._access = AccessRules(AnnexSettings.of_user(), frozenset((host,)))

    @property
    def name(self) -> str:
        """The name of the version."""
        return self._name

    @property
    def access(self) -> AccessRules:
        """The rules for requests: the user's configuration of git."""
        return self._access

    def file(self, path: str) -> ListedFile | None:
        """Return an annexed file with its URLs; None if there is no such annexed file."""
        found = self._describe(path)
        if found is None or found.key is None:
            return None
        urls = [url for url in found.locations if url.startswith(_WEB)]
        if found.delivered == "proxy":
            urls.append(self._at + quote(path, safe="/"))
        try:
            return listed_file(path, found.key, tuple(urls))
        except ValueError as error:
            raise StreamError(
                f"{self._at}{quote(path, safe='/')}: not the response of a catalogue: {error}"
            ) from error

    def document(self, path: str) -> bytes | None:
        """Return the content of a plain file in git; None if there is no such file."""
        found = self._describe(path)
        if found is None or found.key is not None:
            return None
        content = self._get_bytes(self._at + quote(path, safe="/"), _MAX_DOCUMENT)
        if content is None or found.digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise StreamError(f"{self._name}: {path}: the catalogue returns other bytes", path)
        return content

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        """Return the entries of a folder, sorted by name; None if there is no such folder."""
        inner = folder.strip("/")
        address = self._at + quote(f"{inner}/" if inner else "", safe="/")
        first = self._get(f"{address}?format=json", _Folder)
        return None if first is None else self._pages(address, first)

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return None: the catalogue refuses a path of which it has only another form."""
        return None

    def block_digests(self, file: ListedFile) -> BlockDigests | None:
        """Return the block digests of a file: those of this machine, or the catalogue's claim."""
        found = self._digests.find(file.key)
        if found is not None:
            return found
        name = block_digests_name(file.key)
        url = f"{self._base}/block-digests/{name[:2]}/{name[2:]}"
        content = self._get_bytes(url, MAX_ENCODED_BYTES)
        if content is None:
            return None
        claimed = check_encoded(content, url, file.key)[1]
        return msgspec.structs.replace(claimed, sender=self._base)

    def local_content(self, file: ListedFile) -> Path | None:
        """Return None: a catalogue is on another machine."""
        return None

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _describe(self, path: str) -> _File | None:
        with self._lock:
            if path in self._files:
                self._files.move_to_end(path)
                return self._files[path]
        # a folder has no description
        is_name = bool(path) and not path.endswith("/")
        url = f"{self._at}{quote(path, safe='/')}?format=json"
        # the address of a folder without a slash leads to the list of its entries
        found = self._get(url, _File, other="entries") if is_name else None
        with self._lock:
            self._files[path] = found
            while len(self._files) > _MAX_FILES:
                self._files.popitem(last=False)
        return found

    def _pages(self, address: str, page: _Folder) -> Iterator[FolderEntry]:
        while True:
            for entry in page.entries:
                if "/" in entry.name or entry.name in ("", ".", ".."):
                    raise StreamError(f"{address}: the catalogue lists an invalid name")
                try:
                    size = entry.size if entry.key is None else parse_key(entry.key).size
                except ValueError as error:
                    raise StreamError(f"{address}: the catalogue lists {error}") from error
                yield FolderEntry(entry.name, entry.type == "folder", size, entry.key or "")
            if page.next is None or not page.entries:
                return
            # built here, because a link may lead anywhere
            query = urlencode({"format": "json", "after": page.entries[-1].name})
            following = self._get(f"{address}?{query}", _Folder)
            if following is None:
                raise StreamError(f"{address}: the catalogue returned a part of the list only")
            page = following

    def _get(self, url: str, kind: type[T], other: str = "") -> T | None:
        """Return a validated JSON document; None if there is none, or it has ``other``."""
        content = self._get_bytes(url, _MAX_JSON)
        if content is None:
            return None
        try:
            document = msgspec.json.decode(content)
            if other and isinstance(document, dict) and other in document:
                return None
            return msgspec.convert(document, analysed_type(kind))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StreamError(
                f"{url}: not the response of a catalogue with a gateway: {error}"
            ) from error

    def _get_bytes(self, url: str, limit: int) -> bytes | None:
        def content(reply: Response) -> bytes:
            return reply.content

        try:
            return self._session.get_bytes(url, limit=limit, parse=content)
        except NotFoundError:
            return None


def parse_catalogue_address(text: str) -> tuple[str, str] | None:
    """Split the URL of a page of a catalogue, or of a file in its gateway.

    Parameters
    ----------
    text
        Any text.

    Returns
    -------
    tuple[str, str] or None
        The URL of the catalogue, and the name of the version; None for any other text.
    """
    if not text.startswith(_WEB):
        return None
    parts = urlsplit(text)
    above, at, rest = parts.path.partition(_AT)
    if at and parts.netloc:
        dataset, sign, below = rest.replace("%40", "@").partition("@")
        if not sign or ":" not in unquote(dataset):
            return None
        base = urlunsplit((parts.scheme, parts.netloc, above, "", ""))
        return base, f"{unquote(dataset)}@{unquote(below.partition('/')[0])}"
    found = catalogue_page(text)
    return None if found is None else (found[0], _version(found[1]))


def _version(address: Address) -> str:
    return f"{address.dataset}@{address.version or 'latest'}"


class LockTree:
    """The files of the pins of a lock file. Thread-safe.

    With one pin, paths are those of its dataset; with several, they start with the name of a
    dataset. A manifest is read as a whole, once, because its state digest covers all its lines.

    Parameters
    ----------
    path
        The path of the lock file.

    Raises
    ------
    LockUnusableError
        The file is not a valid lock file.
    ConfigurationError
        A vault file of the user is invalid.
    """

    def __init__(self, path: Path) -> None:
        self._lock: Lock = load_lock(path)
        self._vaults = own_vaults().addresses
        settings = AnnexSettings.of_user()
        self._access = AccessRules(settings, vaults=tuple(self._vaults))
        self._digests = OwnBlockDigests()
        self._listings: dict[Path, LockListing] = {}
        self._pinned: list[LockBlockDigests] | None = None
        self._reading = threading.Lock()

    @property
    def name(self) -> str:
        """The version of the only pin, or the path of the lock file."""
        pins = self._lock.datasets
        return pins[0].version if len(pins) == 1 else str(self._lock.path)

    def pinned_path(self, path: str) -> tuple[str, str]:
        """Return the lock file, and the path in its dataset, as commands accept them.

        Parameters
        ----------
        path
            The path as for :meth:`file`.

        Returns
        -------
        tuple of (str, str)
            The path of the lock file, and the path without the name of the dataset.
        """
        pins = self._lock.datasets
        inner = [path[len(pin.name) + 1 :] for pin in pins if path.startswith(f"{pin.name}/")]
        return str(self._lock.path), inner[0] if inner else path

    @property
    def access(self) -> AccessRules:
        """The rules for requests: the user's configuration of git."""
        return self._access

    def file(self, path: str) -> ListedFile | None:
        """Return an annexed file with its URLs; None if there is no such annexed file."""
        found = self._locate(path)
        if found is None:
            return None
        listing, inner, vaults = found
        file = listing.file(inner)
        if file is None:
            return None
        # whether vaults have a copy is known when the other locations have failed
        urls = urls_with_copies(file.key, file.urls, vaults) if vaults else file.urls
        return msgspec.structs.replace(file, path=path, urls=urls)

    def document(self, path: str) -> bytes | None:
        """Return the content of a plain file in git; None if there is no such file."""
        found = self._locate(path)
        return None if found is None else found[0].documents.get(found[1])

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path that starts with a text, of a file; None without one."""
        found = self._locate(prefix)
        path = None if found is None else found[0].first_with_prefix(found[1])
        return None if found is None or path is None else prefix + path[len(found[1]) :]

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        """Return the entries of a folder, sorted by name; None if there is no such folder."""
        folder = folder.strip("/")
        found = self._locate(folder)
        if found is not None:
            return found[0].entries(found[1])
        below = f"{folder}/" if folder else ""
        names = {
            pin.name[len(below) :].partition("/")[0]
            for pin in self._lock.datasets
            if pin.name.startswith(below)
        }
        return (FolderEntry(name, True) for name in sorted(names)) if names or not folder else None

    def block_digests(self, file: ListedFile) -> BlockDigests | None:
        """Return the block digests of a file: those of this machine, or the sender's claim."""
        if not file.key:
            return None
        if (own := self._digests.find(file.key)) is not None:
            return own
        claims = (pinned.read(file.key) for pinned in self._pinned_digests())
        return next(filter(None, claims), None)

    def local_content(self, file: ListedFile) -> Path | None:
        """Return the path of a copy in one of the user's own vaults; None without one."""
        return find_local_copy(file.key, self._vaults)

    def close(self) -> None:
        """Release the listings and the block digests."""
        with self._reading:
            for listing in self._listings.values():
                listing.close()
            self._listings.clear()
        for pinned in self._pinned or ():
            pinned.close()
        self._pinned = None

    def _pinned_digests(self) -> list[LockBlockDigests]:
        """Return the block digests beside the lock file, which are compared with it once."""
        with self._reading:
            if self._pinned is None:
                paths = map(self._lock.block_digests_path, self._lock.datasets)
                self._pinned = [LockBlockDigests(path) for path in paths if path is not None]
            return self._pinned

    def _locate(self, path: str) -> tuple[LockListing, str, list[VaultAddress]] | None:
        """Return the listing of the innermost dataset that has a path, and the path in it.

        The third item are the vaults of the pin.
        """
        path = path.strip("/")
        pins = self._lock.datasets
        for pin in pins:
            if path == pin.name or path.startswith(f"{pin.name}/"):
                path = path[len(pin.name) + 1 :]
                break
        else:
            if len(pins) != 1:
                return None
            pin = pins[0]
        own = (vault for vault in self._vaults if vault.is_url)
        vaults = [*(copy.address for copy in pin.copies), *own]
        listing = self._listing(PinnedState.of_pin(self._lock, pin))
        return *self._inner(listing, path), vaults

    def _inner(self, listing: LockListing, path: str) -> tuple[LockListing, str]:
        for inner, subdataset in listing.subdatasets.items():
            if path == inner or path.startswith(f"{inner}/"):
                pinned = listing.pinned.of_subdataset(
                    subdataset.commit, subdataset.state, subdataset.files
                )
                return self._inner(self._listing(pinned), path[len(inner) + 1 :])
        return listing, path

    def _listing(self, pinned: PinnedState) -> LockListing:
        with self._reading:
            found = self._listings.get(pinned.manifest)
            if found is None:
                found = self._listings[pinned.manifest] = LockListing(pinned)
            return found


# --- the files of one manifest of a lock file, looked up by path


_LARGE: Final = 1 << 20
"""Size in bytes above which a manifest is kept in the cache."""

_HEAD: Final = b'{"listing"'

_FORMAT: Final = 3
_HEAD_KEY: Final = b"\xff"
"""Follows all paths, which are in UTF-8."""

_OWNER_MODE: Final = 0o700


class _Head(msgspec.Struct):
    """The last line: what is not an annexed file."""

    listing: int
    commit: str
    state: str
    documents: dict[str, str]
    subdatasets: list[ListedSubdataset]


class _Path(msgspec.Struct):
    path: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ListedFile).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_path = msgspec.json.Decoder(_Path).decode


class LockListing:
    """The files of a manifest. Thread-safe.

    Parameters
    ----------
    pinned
        The state that the lock file pins, with its manifest.

    Attributes
    ----------
    pinned
        The state.
    documents
        The plain files in git by path.
    subdatasets
        The subdatasets by path.

    Raises
    ------
    LockManifestMissingError, LockManifestDamagedError
        The manifest is missing, invalid, or another than the lock file states.
    """

    def __init__(self, pinned: PinnedState) -> None:
        self.pinned = pinned
        reader = pinned.open_manifest()
        cached = _cached_path(reader)
        lines = None if cached is None else _open_cached(cached, pinned)
        if lines is None:
            lines = _read_manifest(reader, cached)
        self._lines = lines
        head = _decode_head(next(lines.lines_from(_HEAD_KEY)))
        self.documents = {
            name: base64.b64decode(content) for name, content in head.documents.items()
        }
        self.subdatasets = {subdataset.path: subdataset for subdataset in head.subdatasets}

    def close(self) -> None:
        """Close the file with the lines."""
        self._lines.close()

    def file(self, path: str) -> ListedFile | None:
        """Return an annexed file; None if the manifest has no such file."""
        key = path.encode("utf-8", "surrogateescape")
        line = next(self._lines.lines_from(key), None)
        if line is None or _line_key(line) != key or key == _HEAD_KEY:
            return None
        return _decode(line)

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path that starts with a text, of a file; None without one."""
        lines = self._file_lines(prefix.encode("utf-8", "surrogateescape"))
        path = next((_decode(line).path for line in lines), "")
        return path if path.startswith(prefix) else None

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        """Return the entries of a folder, sorted by name; None if there is no such folder."""
        below = f"{folder}/" if folder else ""
        found: dict[str, FolderEntry] = {}
        for path, content in self.documents.items():
            _add(found, below, path, len(content))
        for path in self.subdatasets:
            _add(found, below, f"{path}/", None)
        start = below.encode("utf-8", "surrogateescape")
        for path_name, line in names_in_folder(self._file_lines, _line_key, start):
            name = path_name.decode("utf-8", "surrogateescape")
            if line is None:
                found[name] = FolderEntry(name, True)
            else:
                file = _decode(line)
                found[name] = FolderEntry(name, False, file.size, file.key)
        if not found and folder:
            return None
        return iter([found[name] for name in sorted(found)])

    def _file_lines(self, start: bytes) -> Iterator[bytes]:
        """Return the lines of files from a path on."""
        return takewhile(lambda line: not line.startswith(_HEAD), self._lines.lines_from(start))


def _line_key(line: bytes) -> bytes:
    """Return the path of a line; that of the head follows all others."""
    if line.startswith(_HEAD):
        return _HEAD_KEY
    return _decode_path(line).path.encode("utf-8", "surrogateescape")


def _cached_path(reader: LockManifestReader) -> Path | None:
    """Return where a large manifest is kept, by the sha256 of its bytes; None if it is not."""
    if cache_folder() is None or reader.path.stat().st_size < _LARGE:
        return None
    from platformdirs import user_cache_path

    # not in the folder of the cache, which may be shared: unlike pieces, a listing is trusted
    return user_cache_path("neuromirror") / "listings" / f"{reader.sha256}.jsonl.zst"


def _open_cached(cached: Path, pinned: PinnedState) -> SortedLines | None:
    try:
        lines = SortedLines(cached, _line_key)
    except (OSError, ZstdFrameError):
        return None
    with suppress(OSError, ZstdFrameError, msgspec.DecodeError, StopIteration):
        head = _decode_head(next(lines.lines_from(_HEAD_KEY)))
        if (head.listing, head.commit, head.state) == (_FORMAT, pinned.commit, pinned.state):
            return lines
    lines.close()
    return None


def _read_manifest(reader: LockManifestReader, cached: Path | None) -> SortedLines:
    """Verify a manifest and write its lines, to the cache or to an unnamed temporary file."""
    if cached is not None:
        with suppress(OSError):  # a full disk, or a folder without permissions
            return _write_cached(cached, _listing_lines(reader))
    file = cast(IO[bytes], tempfile.TemporaryFile(prefix="neuromirror-"))  # noqa: SIM115
    try:
        write_seekable_lines(file, _listing_lines(reader))
        file.flush()
    except BaseException:
        file.close()
        raise
    return SortedLines(file, _line_key)


def _listing_lines(reader: LockManifestReader) -> Iterator[bytes]:
    """Yield the lines of a listing; the reader compares the files with the state at its end."""
    head = _Head(_FORMAT, reader.head.commit, reader.head.state, {}, [])
    for block in reader.blocks():
        if isinstance(block, bytes):
            yield block[:-1]
        elif isinstance(block, PlainFile):
            head.documents[block.path] = base64.b64encode(block.content).decode()
        elif isinstance(block, ListedSubdataset):
            head.subdatasets.append(block)
        else:
            yield _encode(block)
    yield _encode(head)


def _write_cached(cached: Path, lines: Iterator[bytes]) -> SortedLines:
    cached.parent.mkdir(mode=_OWNER_MODE, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=".new-", dir=cached.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write_seekable_lines(file, lines)
        os.replace(draft, cached)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return SortedLines(cached, _line_key)


def _add(found: dict[str, FolderEntry], below: str, path: str, size: int | None) -> None:
    if path.startswith(below) and path != below:
        name, slash, _ = path[len(below) :].partition("/")
        found[name] = FolderEntry(name, True) if slash else FolderEntry(name, False, size)
