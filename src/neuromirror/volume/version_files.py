"""The files of a volume in a version of the store: metadata from git, blocks from their service."""

from __future__ import annotations

import hashlib
import mmap
import subprocess
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from neuromirror.annex import (
    ALLOWED_ADDRESSES,
    EtagDigest,
    is_all_zeros,
    is_private_host_allowed,
    key_digest,
    key_from_file_name,
    parse_key,
    parse_log,
    strip_claim_prefix,
    url_log_path,
)
from neuromirror.git import SYMLINK_MODE, TREE_MODE, CommitTree
from neuromirror.model import DatasetRef, NeuromirrorError, environment_without_secrets
from neuromirror.model.object_urls import url_version_id
from neuromirror.net import (
    HostCircuitBreaker,
    IncompleteResponseError,
    RequestLimits,
    Session,
    UnsafeAddressError,
    is_local_name,
    only_host_of,
)
from neuromirror.sources.volumes import (
    PARALLEL,
    BlockUrl,
    Volume,
    WrongVoxelsError,
    fetch_block,
    parse_url,
)
from neuromirror.transfer.range_file import RangeFile
from neuromirror.volume.callback_file import CallbackFile
from neuromirror.volume.content_check import map_file
from neuromirror.volume.errors import (
    BlockMismatchError,
    BlockUnavailableError,
    ExportFailedError,
    failure_group,
    summarize_failures,
)
from neuromirror.volume.geometry import block_box
from neuromirror.volume.tokens import token_from_environment, token_variable

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.store import Store

_LIMITS: Final = RequestLimits(per_host=4, read=300.0)
"""Limits of block requests: a service may take minutes before it sends the first byte."""

_ATTEMPTS: Final = 3
_MAX_LOCATIONS: Final = 5
"""Maximum number of URLs tried per block; identical blocks (such as zeros) share their URLs."""

_CACHED_BLOCKS: Final = 4
_CLOSED: Final = "the volume was closed"
_STRIPES: Final = 64

ByteLocation = BlockUrl | str
"""A location of bytes: a block of a service, or the web URL of an object."""


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
        The host of the source. It may be this machine or in a private network, because an operator
        named it; for other such hosts git's setting ``annex.security.allowed-ip-addresses``
        applies.
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
        self._token, self._limits = token, limits
        self._tree = CommitTree(repository, commit)
        self._source_host = host if is_local_name(_host_name(host)) else None
        self._allowed = _allowed_addresses(repository)
        self._public = Session(limits=limits)
        self._breaker = HostCircuitBreaker(failures=2, seconds=0.0)
        self._private: dict[str, Session] = {}
        self._cached_files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._closed = False
        weakref.finalize(self, _release, self._tree, self._cached_files)

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
        if entry is None or entry[0] == TREE_MODE:
            return None
        if entry[0] == SYMLINK_MODE:
            return bytes(self.block(path))
        return self._tree.read_blob(entry[1])

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
        return self._cached_block(path, self._block_key(path), self._urls)

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
        urls = self._urls(path, key)
        with self._cache_lock:
            is_kept = key in self._cached_files
        if is_kept or is_all_zeros(key) or len(urls) != 1:
            take(0, memoryview(self._cached_block(path, key, self._urls)))
        else:
            self._fetch(path, key, urls, lambda: cast(BinaryIO, CallbackFile(take)))

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
        return self._cached_block(path, key, self._web_urls)

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
        urls = self._web_urls(path, key)
        if size is None or not urls:
            raise BlockUnavailableError(path, self.where, "no size and URL are known for it")

        def session_for(url: str) -> Session:
            parts = urlsplit(url)
            return self._session(parts.netloc, f"{parts.scheme}://{parts.netloc}")

        return RangeFile(session_for, urls, size, max_bytes=max_bytes)

    def _cached_block(
        self, path: str, key: str, urls: Callable[[str, str], Sequence[ByteLocation]]
    ) -> mmap.mmap:
        with self._locks[hash(key) % _STRIPES]:
            with self._cache_lock:
                kept = self._cached_files.get(key)
                if kept is not None:
                    self._cached_files.move_to_end(key)
                    return map_file(kept)
            file = self._fetch(path, key, urls(path, key))
            with self._cache_lock:
                if self._closed:
                    raise BlockUnavailableError(path, self.where, _CLOSED, closed=True)
                self._cached_files[key] = file
                while len(self._cached_files) > _CACHED_BLOCKS:
                    self._cached_files.popitem(last=False)[1].close()
                return map_file(file)

    def has(self, path: str) -> bool:
        """Return whether the version has a file.

        Parameters
        ----------
        path
            The path in the version.

        Returns
        -------
        bool
            Whether the path is in the git tree.
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
        self._closed = True
        with self._cache_lock:
            sessions = (self._public, *self._private.values())
        for session in sessions:
            # otherwise a thread that reads a reply would wait for its end or its deadline
            session.abort()
        with self._cache_lock:
            _release(self._tree, self._cached_files)
        for session in sessions:
            session.close()

    # --- git

    def _known_urls(self, key: str) -> list[str]:
        """Return the URLs that git-annex knows for a key."""
        log = self._tree.find(url_log_path(key).decode(), self._annex_commit)
        return [line.value for line in parse_log(log or b"") if line.status == "1"]

    def _web_urls(self, path: str, key: str) -> list[str]:
        """Return the web URLs of an object, those of an object version first."""
        found = [one for one in self._known_urls(key) if one.startswith(("https://", "http://"))]
        found.sort(key=lambda url: url_version_id(url) is None)
        return found[:_MAX_LOCATIONS]

    def _urls(self, path: str, key: str) -> list[BlockUrl]:
        """Return the URLs of a block, its own location first."""
        found: list[BlockUrl] = []
        for address in self._known_urls(key):
            with suppress(NeuromirrorError):
                found.append(parse_url(strip_claim_prefix(address)))
        own = None if self.volume is None else block_box(self.volume, path)
        level = path.partition("/")[0]
        found.sort(key=lambda url: url.level != level or (url.box, url.time) != own)
        return found[:_MAX_LOCATIONS]

    # --- the service

    def _fetch(
        self,
        path: str,
        key: str,
        urls: Sequence[ByteLocation],
        make: Callable[[], BinaryIO] | None = None,
    ) -> BinaryIO:
        """Return a file with a block: from ``make``, by default an unnamed temporary file.

        Zeros need no request.
        """
        if make is None:
            make = partial(self._temporary_file, path)
        failures: list[tuple[str, str]] = []
        causes: list[NeuromirrorError] = []
        if is_all_zeros(key):
            file = make()
            file.truncate(parse_key(key).size)
            return file
        for url in urls:
            file = make()
            host = url.host if isinstance(url, BlockUrl) else urlsplit(url).netloc
            try:
                wrong = self._write_with_retries(url, key, file)
                group = ""
            except ExportFailedError:
                raise  # an error of the destination, not of the source
            except UnsafeAddressError as error:
                wrong = f"{error} (the git setting {ALLOWED_ADDRESSES} lists the allowed addresses)"
                group = failure_group(host, error)
            except NeuromirrorError as error:
                wrong, group = str(error), failure_group(host, error)
                causes.append(error)
            except OSError as error:
                file.close()
                raise self._no_space_error(path, error) from error
            if not wrong:
                return file
            file.close()
            failures.append((group or wrong, wrong))
        why = (
            summarize_failures(failures) or "no URL of it is known; 'neuromirror sync' may find one"
        )
        raise BlockUnavailableError(
            path, self.where, why, tuple(causes), closed=self._is_closed_or_late
        )

    def _temporary_file(self, path: str) -> BinaryIO:
        try:
            return cast(BinaryIO, tempfile.TemporaryFile(prefix="neuromirror-"))
        except OSError as error:
            raise self._no_space_error(path, error) from error

    def _no_space_error(self, path: str, error: OSError) -> BlockUnavailableError:
        return BlockUnavailableError(
            path,
            self.where,
            f"its temporary file in {tempfile.gettempdir()} cannot be written"
            f" ({error.strerror}); free some space there, or set TMPDIR to another folder",
        )

    def _write_with_retries(self, url: ByteLocation, key: str, file: BinaryIO) -> str:
        """Write a block, with retries of interrupted responses; return why it is wrong, or ""."""
        for left in reversed(range(_ATTEMPTS)):
            if self._is_closed_or_late:
                return _CLOSED
            file.seek(0)
            file.truncate()
            try:
                return self._write(url, key, file)
            except (IncompleteResponseError, WrongVoxelsError) as error:
                if not (left and error.transient):
                    raise
        return ""

    @property
    def _seconds_left(self) -> float | None:
        """Return the seconds that are left; None without a deadline."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    @property
    def _is_closed_or_late(self) -> bool:
        """Return whether the files are closed or the deadline has passed."""
        return self._closed or (self._seconds_left or 1.0) <= 0

    def _write(self, url: ByteLocation, key: str, file: BinaryIO) -> str:
        size, digest, hashing, done = parse_key(key).size, key_digest(key), _new_hash(key), 0
        with closing(self._pieces(url, size)) as pieces:
            for piece in pieces:
                if self._closed:
                    return _CLOSED
                done += len(piece)
                if size is not None and done > size:
                    break
                file.write(piece)
                if hashing is not None:
                    hashing.update(piece)
        file.flush()
        if size is not None and done != size:
            return (
                f"{url} now returns {'more' if done > size else 'fewer'} than the recorded "
                f"{size} bytes"
            )
        if hashing is not None and digest is not None and hashing.hexdigest() != digest[1]:
            channel = str(url)
            if isinstance(url, BlockUrl):
                channel = f"{url.scheme}://{url.host}/{url.path}"
            found = f"{digest[0]} {hashing.hexdigest()}"
            raise BlockMismatchError(str(url), channel, found, digest[1])
        return ""

    def _pieces(
        self, url: ByteLocation, size: int | None
    ) -> Generator[bytes | memoryview, None, None]:
        """Yield the bytes at a location as they arrive."""
        if isinstance(url, BlockUrl):
            session, token = self._session(url.host, url.origin), self._token(url.host)
            yield from fetch_block(
                session,
                url,
                size=size,
                token=token,
                token_name=token_variable(url.host),
                seconds=self._seconds_left,
                breaker=self._breaker,
                parallel=PARALLEL,
            )
            return
        parts = urlsplit(url)
        session = self._session(parts.netloc, f"{parts.scheme}://{parts.netloc}")
        with session.stream(url, total=self._seconds_left or self._limits.total) as reply:
            yield from reply.chunks

    def _session(self, host: str, origin: str) -> Session:
        """Return a session that may request this host, and no other private host."""
        if host != self._source_host and not is_private_host_allowed(host, self._allowed):
            return self._public
        with self._cache_lock:
            if origin not in self._private:
                made = Session(limits=self._limits, is_private_allowed=only_host_of(origin))
                self._private[origin] = made
            return self._private[origin]


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


def _new_hash(key: str) -> Any:
    """Return a hash object for the digest in a key; None if the key has none."""
    digest = key_digest(key)
    if digest is None:
        return None
    if digest[0] == "etag":
        return EtagDigest(int(parse_key(key).name.rpartition("-")[2]))
    return hashlib.new(digest[0], usedforsecurity=False)


def _release(tree: CommitTree, kept: OrderedDict[str, BinaryIO]) -> None:
    while kept:
        kept.popitem()[1].close()
    tree.close()


def _allowed_addresses(repository: Path) -> list[str]:
    """Return the addresses of private networks that git-annex may access, from git's settings."""
    command = ["git", "--git-dir", str(repository), "config", "--get", ALLOWED_ADDRESSES]
    environment = environment_without_secrets()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split()


def _host_name(host: str) -> str:
    """Return a host without its port and brackets."""
    return host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
