"""The files of a version in a catalogue, read through its gateway: no store is needed.

The catalogue says which key a path has; this machine verifies the bytes against the key, wherever
they come from.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from neuromirror.annex import parse_key
from neuromirror.config.addresses import Address, catalogue_page
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import BlockDigests
from neuromirror.model.block_digests import MAX_ENCODED_BYTES
from neuromirror.model.validation import analysed_type
from neuromirror.net import NetError, NotFoundError, Response, Session, only_host_of
from neuromirror.store.block_digests import BlockDigestsFolder, block_digests_name, check_encoded
from neuromirror.stream.errors import AddressUnresolvedError, StreamError
from neuromirror.stream.trees import AccessRules, FolderEntry, listed_file
from neuromirror.transfer.annex_settings import AnnexSettings

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
        self._digests = BlockDigestsFolder.of_user()
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
        self._access = AccessRules(AnnexSettings.load(Path(os.devnull)), frozenset((host,)))

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

    def block_digests(self, file: ListedFile) -> BlockDigests | None:
        """Return the block digests of a file, from the user's folder or the catalogue."""
        found = self._digests.read(file.key)
        if found is not None:
            return found
        name = block_digests_name(file.key)
        url = f"{self._base}/block-digests/{name[:2]}/{name[2:]}"
        content = self._get_bytes(url, MAX_ENCODED_BYTES)
        return None if content is None else check_encoded(content, url, file.key)[1]

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
            for one in page.entries:
                if "/" in one.name or one.name in ("", ".", ".."):
                    raise StreamError(f"{address}: the catalogue lists an invalid name")
                try:
                    size = one.size if one.key is None else parse_key(one.key).size
                except ValueError as error:
                    raise StreamError(f"{address}: the catalogue lists {error}") from error
                yield FolderEntry(one.name, one.type == "folder", size, one.key or "")
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
