"""The files of a volume in a version of the store: metadata from git, blocks from their service."""

from __future__ import annotations

import io
import mmap
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from neuromirror.annex import (
    is_all_zeros,
    is_private_host_allowed,
    key_from_file_name,
    parse_key,
    parse_log,
    strip_claim_prefix,
    url_log_path,
)
from neuromirror.git import SYMLINK_MODE, TREE_MODE, CommitTree
from neuromirror.model import DatasetRef, NeuromirrorError
from neuromirror.model.records import url_version_id
from neuromirror.net import (
    RequestLimits,
)
from neuromirror.sources.volumes.grid import Volume
from neuromirror.sources.volumes.tokens import token_from_environment
from neuromirror.sources.volumes.urls import BlockUrl, parse_url
from neuromirror.transfer.annex_branch import PublishedCopies, local_hosts
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.partial_content import RangeFile
from neuromirror.volume.content_downloads import CLOSED, ByteLocation, ContentDownloader, CopyUrl
from neuromirror.volume.contents import MAX_SHARD, map_file, slice_content
from neuromirror.volume.errors import (
    BlockUnavailableError,
)
from neuromirror.volume.geometry import block_box

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.store import Store

_LIMITS: Final = RequestLimits(per_host=4, read=300.0)
"""Limits of block requests: a service may take minutes before it sends the first byte."""

_MAX_LOCATIONS: Final = 5
"""Maximum number of URLs tried per block; identical blocks (such as zeros) share their URLs."""

_CACHED_BLOCKS: Final = 4
_STRIPES: Final = 64


class VersionFiles:
    """Returns the files of a volume in a version of the store (:class:`VolumeFiles`).

    A block is fetched from the service that its URLs on the git-annex branch name, and is verified
    with its key before it is returned. The most recently used blocks are kept in unnamed temporary
    files, because an array is often read plane by plane. An object can be pickled, and used by
    several threads.

    Parameters
    ----------
    repository
        The bare repository.
    commit
        The commit id in hex.
    annex_commit
        The commit of the git-annex branch in hex.
    where
        The name of the version, for messages.
    host
        The host of the source. It and the hosts of vaults may be this machine or in a private
        network, because an operator named them; for other such hosts git's setting
        ``annex.security.allowed-ip-addresses`` applies.
    token
        Returns the token for a host, or None.
    limits
        Timeouts, retries and concurrency limits of the requests.
    seconds
        Seconds after which no further block is fetched and requests in progress are cancelled; None
        for no limit.
    """

    def __init__(
        self,
        repository: Path,
        commit: str,
        annex_commit: str,
        where: str,
        host: str,
        *,
        token: Callable[[str], str | None] = token_from_environment,
        limits: RequestLimits = _LIMITS,
        seconds: float | None = None,
    ) -> None:
        self.where = where
        self.volume: Volume | None = None
        """Record the location of each block once it is known."""
        self._arguments = (repository, commit, annex_commit, where, host)
        self._factory = partial(VersionFiles, token=token, limits=limits, seconds=seconds)
        self._annex_commit = annex_commit
        self._tree = CommitTree(repository, commit)
        self._cached_files: OrderedDict[str, BinaryIO] = OrderedDict()
        weakref.finalize(self, _release, self._tree, self._cached_files)
        self._cache_lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._copies = PublishedCopies(self._tree, annex_commit, None)
        allowed = AnnexSettings.load(repository).allowed_addresses
        is_allowed = partial(_is_host_allowed, host, self._copies, allowed)
        self._downloader = ContentDownloader(
            where, is_allowed, token=token, limits=limits, seconds=seconds
        )

    def __reduce__(self) -> tuple[Callable[..., VersionFiles], tuple[Path, str, str, str, str]]:
        return self._factory, self._arguments

    def document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the version lacks the file.

        Parameters
        ----------
        path
            The path in the version.

        Returns
        -------
        bytes | None
            The content.
        """
        entry = self._tree.entry(path)
        if entry is not None and entry[0] == SYMLINK_MODE:
            return bytes(self.block(path))
        return self.git_document(path)

    def git_document(self, path: str) -> bytes | None:
        """Return the content of a document that is in git; no request is made.

        Parameters
        ----------
        path
            The path in the version.

        Returns
        -------
        bytes | None
            The content; None if the version lacks the file or it is not in git.
        """
        entry = self._tree.entry(path)
        if entry is None or entry[0] in (TREE_MODE, SYMLINK_MODE):
            return None
        return self._tree.read_blob(entry[1])

    def block(self, path: str) -> mmap.mmap:
        """Return the verified bytes of a block.

        Parameters
        ----------
        path
            The path of the block, such as ``0/c/3/0/2``.

        Returns
        -------
        mmap.mmap
            The bytes of the file.

        Raises
        ------
        BlockUnavailableError
            The block is unavailable or differs from the version.
        """
        return self._cached_block(path, self._block_key(path), self._block_locations)

    def copy(self, path: str, take: Callable[[int, memoryview], None]) -> None:
        """Pass the bytes of a block to a function, in order.

        They are verified when this returns, not before. An attempt that failed starts again at 0.

        Parameters
        ----------
        path
            The path of the block.
        take
            Called with the offset and the bytes.

        Raises
        ------
        BlockUnavailableError
            The block is unavailable or differs from the version.
        """
        key = self._block_key(path)
        locations = self._block_locations(path, key)
        with self._cache_lock:
            is_kept = key in self._cached_files
        if is_kept or is_all_zeros(key) or len(locations) != 1:
            take(0, memoryview(self._cached_block(path, key, self._block_locations)))
        else:
            file = cast(BinaryIO, CallbackFile(take))
            self._downloader.download(path, key, locations, lambda: file)

    def _block_key(self, path: str) -> str:
        """Return the annex key of a block, or raise BlockUnavailableError."""
        entry = self._tree.entry(path)
        if entry is None or entry[0] != SYMLINK_MODE:
            raise BlockUnavailableError(path, self.where, "the version has no such file")
        return key_from_file_name(self._tree.read_blob(entry[1]).rpartition(b"/")[2])

    def read_object(self, path: str, max_bytes: int) -> mmap.mmap | None:
        """Return the verified bytes of an annexed file; None if the version lacks the file.

        git looks it up, because its folder may contain very many files.

        Parameters
        ----------
        path
            The path in the version.
        max_bytes
            Maximum size in bytes.

        Returns
        -------
        mmap.mmap | None
            The bytes of the file.

        Raises
        ------
        BlockUnavailableError
            The file is unavailable, has more than ``max_bytes``, or is of unknown size.
        """
        target = self._tree.find(path)
        if target is None:
            return None
        key = key_from_file_name(target.rpartition(b"/")[2])
        size = parse_key(key).size
        if size is None or not 0 < size <= max_bytes:
            size_text = "of unknown size" if size is None else f"of {size} bytes"
            raise BlockUnavailableError(
                path, self.where, f"it is {size_text}, expected 1 to {max_bytes} bytes"
            )
        return self._cached_block(path, key, self._object_locations)

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return verified bytes of an annexed file, which is fetched whole; None without the file.

        Parameters
        ----------
        path
            The path in the version.
        start, stop
            Offsets of the first byte, and after the last byte.

        Raises
        ------
        BlockUnavailableError
            The file is unavailable, larger than a shard may be, or ends before ``stop``.
        """
        content = self.read_object(path, MAX_SHARD)
        return None if content is None else slice_content(content, path, start, stop, self.where)

    def open_ranges(self, path: str, max_bytes: int) -> RangeFile:
        """Open an annexed file for random access by range requests; its bytes are not verified.

        Parameters
        ----------
        path
            The path in the version.
        max_bytes
            Maximum number of bytes to request.

        Returns
        -------
        RangeFile
            The file.

        Raises
        ------
        BlockUnavailableError
            The version lacks the file, or its size or URL is unknown.
        """
        key = self._block_key(path)
        size = parse_key(key).size
        urls = [one for one in self._object_locations(path, key) if isinstance(one, str)]
        if size is None or not urls:
            raise BlockUnavailableError(path, self.where, "no size and URL are known for it")

        return RangeFile(self._downloader.session_for, urls, size, max_bytes=max_bytes)

    def _cached_block(
        self, path: str, key: str, locate: Callable[[str, str], Sequence[ByteLocation]]
    ) -> mmap.mmap:
        with self._locks[hash(key) % _STRIPES]:
            with self._cache_lock:
                kept = self._cached_files.get(key)
                if kept is not None:
                    self._cached_files.move_to_end(key)
                    return map_file(kept)
            file = self._downloader.download(path, key, locate(path, key))
            with self._cache_lock:
                if self._downloader.is_closed:
                    raise BlockUnavailableError(path, self.where, CLOSED, closed=True)
                self._cached_files[key] = file
                while len(self._cached_files) > _CACHED_BLOCKS:
                    self._cached_files.popitem(last=False)[1].close()
                return map_file(file)

    def has(self, path: str) -> bool:
        """Return whether the git tree of the version has a path.

        Parameters
        ----------
        path
            The path in the version.

        Returns
        -------
        bool
            Whether it has a file or folder there.
        """
        return self._tree.entry(path) is not None

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder.

        Parameters
        ----------
        folder
            The path of the folder; empty for the top.

        Yields
        ------
        tuple[str, bool]
            The name, and whether it is a folder.
        """
        found = self._tree.folder(folder)
        if found is not None:
            yield from ((name.decode(), mode == TREE_MODE) for name, (mode, _) in found.items())

    def close(self) -> None:
        """Cancel requests in progress; nothing can be read afterwards."""
        self._downloader.close()
        with self._cache_lock:
            _release(self._tree, self._cached_files)

    # --- git

    def _known_urls(self, key: str) -> list[str]:
        """Return the URLs that git-annex knows for a key."""
        log = self._tree.find(url_log_path(key).decode(), self._annex_commit)
        return [line.value for line in parse_log(log or b"") if line.status == "1"]

    def _object_locations(self, path: str, key: str) -> list[ByteLocation]:
        """Return the locations of an object, the URLs of an object version first."""
        found = [one for one in self._known_urls(key) if one.startswith(("https://", "http://"))]
        found.sort(key=lambda url: url_version_id(url) is None)
        return self._with_copies(key, found[:_MAX_LOCATIONS])

    def _block_locations(self, path: str, key: str) -> list[ByteLocation]:
        """Return the locations of a block, its own URL first."""
        found: list[BlockUrl] = []
        for address in self._known_urls(key):
            with suppress(NeuromirrorError):
                found.append(parse_url(strip_claim_prefix(address)))
        own = None if self.volume is None else block_box(self.volume, path)
        level = path.partition("/")[0]
        found.sort(key=lambda url: url.level != level or (url.box, url.time) != own)
        return self._with_copies(key, found[:_MAX_LOCATIONS])

    def _with_copies(self, key: str, upstream: Sequence[ByteLocation]) -> list[ByteLocation]:
        """Return locations with those in vaults: after upstream, or first if one is preferred."""
        found = [
            (vault.prefer, vault.copy_path(key) or CopyUrl(vault.copy_url(key)))
            for vault in self._copies.vaults(key)
        ]
        first = [one for is_first, one in found if is_first]
        return [*first, *upstream, *(one for is_first, one in found if not is_first)]


def open_version_files(
    store: Store,
    row: VersionRow,
    *,
    token: Callable[[str], str | None] = token_from_environment,
    limits: RequestLimits = _LIMITS,
    seconds: float | None = None,
) -> VersionFiles:
    """Open the files of a version in the store.

    Parameters
    ----------
    store
        The store that has the version.
    row
        The version, as returned by :meth:`Index.resolve`.
    token
        Returns the token for a host, or None.
    limits
        Timeouts, retries and concurrency limits of the requests.
    seconds
        Seconds after which no further block is fetched; None for no limit.

    Returns
    -------
    VersionFiles
        The files; close them after use.
    """
    repository = store.repository(DatasetRef(row.mirror, row.local_id, row.source_uri))
    host = row.source_uri.partition("://")[2].partition("/")[0]
    given = repository.path, row.commit, row.annex_commit, row.name, host
    return VersionFiles(*given, token=token, limits=limits, seconds=seconds)


def _release(tree: CommitTree, kept: OrderedDict[str, BinaryIO]) -> None:
    while kept:
        kept.popitem()[1].close()
    tree.close()


def _is_host_allowed(
    source_host: str, copies: PublishedCopies, allowed: Sequence[str], host: str
) -> bool:
    """Return whether a host may be this machine or in a private network."""
    named = local_hosts((source_host, *copies.hosts()))
    return host in named or is_private_host_allowed(host, allowed)


# --- A file that passes on what is written to it


class CallbackFile(io.RawIOBase):
    """A file object that passes the bytes written to it to a function, and stores nothing."""

    def __init__(self, take: Callable[[int, memoryview], None]) -> None:
        super().__init__()
        self._take = take
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the offset of the next write."""
        self._at = offset
        return offset

    def truncate(self, size: int | None = None) -> int:
        """Do nothing: bytes that were already passed on are written again."""
        return self._at

    def write(self, data: Any) -> int:
        """Pass the bytes to the function."""
        view = memoryview(data)
        self._take(self._at, view)
        self._at += len(view)
        return len(view)
