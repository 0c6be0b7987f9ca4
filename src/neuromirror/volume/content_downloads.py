"""Downloads of whole contents from volume services, web servers and vaults, verified by key."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, cast
from urllib.parse import urlsplit

from neuromirror.annex import ALLOWED_ADDRESSES, is_all_zeros, key_digest, parse_key
from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    HostCircuitBreaker,
    IncompleteResponseError,
    RequestLimits,
    Session,
    UnsafeAddressError,
    only_host_of,
)
from neuromirror.sources.volumes.fetching import PARALLEL, fetch_block
from neuromirror.sources.volumes.urls import BlockUrl, WrongVoxelsError, token_variable
from neuromirror.transfer.content_bodies import key_checksum
from neuromirror.volume.errors import (
    BlockMismatchError,
    BlockUnavailableError,
    CopyUnreadableError,
    DamagedCopyError,
    ExportFailedError,
    failure_group,
    summarize_failures,
)

MAX_SHARD: Final = 1 << 30
"""Maximum size of a shard in bytes."""


def check_content(file: BufferedReader, key: str) -> str:
    """Return how the content of a file differs from its annex key, as text; empty if it does not.

    A key without a sha256 or MD5 is compared by size only.
    """
    size, has = parse_key(key).size, os.fstat(file.fileno()).st_size
    if size is not None and size != has:
        return f"it has {has} bytes, not {size}"
    digest = key_digest(key)
    if digest is None or digest[0] == "etag":
        return ""
    algorithm, value = digest
    file.seek(0)
    found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found == value else f"its {algorithm} is {found}, not {value}"


def slice_content(content: mmap.mmap, path: str, start: int, stop: int, where: str) -> bytes:
    """Return a part of a shard; raise BlockUnavailableError if its index names other bytes."""
    if not 0 <= start <= stop <= len(content):
        why = f"it ends before byte {stop}, which its index names"
        raise BlockUnavailableError(path, where, why)
    return content[start:stop]


def map_file(file: BinaryIO) -> mmap.mmap:
    """Map a whole file into memory, for reading."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


CLOSED: Final = "the volume was closed"
_ATTEMPTS: Final = 3
_PIECE: Final = 1 << 20


class CopyUrl(str):
    """The URL of a copy in a vault."""

    __slots__ = ()


ByteLocation = BlockUrl | str | Path
"""A location of bytes: a block of a service, the web URL of an object or the path of a copy."""


class ContentDownloader:
    """Downloads contents, and verifies them with their keys. Thread-safe.

    Parameters
    ----------
    where
        The name of the version, for messages.
    is_host_allowed
        Returns whether a host, with its port, may be this machine or in a private network.
    token
        Returns the token for a host, or None.
    limits
        Timeouts, retries and concurrency limits of the requests.
    seconds
        Seconds after which no further content is fetched and requests in progress are cancelled;
        None for no limit.
    """

    def __init__(
        self,
        where: str,
        is_host_allowed: Callable[[str], bool],
        *,
        token: Callable[[str], str | None],
        limits: RequestLimits,
        seconds: float | None,
    ) -> None:
        self.is_closed = False
        self._where = where
        self._is_host_allowed = is_host_allowed
        self._token, self._limits = token, limits
        self._public = Session(limits=limits)
        self._private: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._breaker = HostCircuitBreaker(failures=2, seconds=0.0)
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        """Cancel requests in progress; all later ones fail."""
        self.is_closed = True
        with self._lock:
            sessions = (self._public, *self._private.values())
        for session in sessions:
            # otherwise a thread that reads a reply would wait for its end or its deadline
            session.abort()
        for session in sessions:
            session.close()

    def download(
        self,
        path: str,
        key: str,
        locations: Sequence[ByteLocation],
        make: Callable[[], BinaryIO] | None = None,
    ) -> BinaryIO:
        """Return a file with a content. Zeros need no request.

        Parameters
        ----------
        path
            The path of the file, for messages.
        key
            The annex key.
        locations
            The locations, in the order in which to try them.
        make
            Returns the file to write to; by default an unnamed temporary file.

        Returns
        -------
        BinaryIO
            The file.

        Raises
        ------
        BlockUnavailableError
            No location has the content.
        """
        if make is None:
            make = partial(self._temporary_file, path)
        failures: list[tuple[str, str]] = []
        causes: list[NeuromirrorError] = []
        if is_all_zeros(key):
            file = make()
            file.truncate(parse_key(key).size)
            return file
        for url in locations:
            file = make()
            host = url.host if isinstance(url, BlockUrl) else urlsplit(str(url)).netloc
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
                if isinstance(url, CopyUrl) and not isinstance(error, CopyUnreadableError):
                    causes.append(CopyUnreadableError(wrong))  # not a failure of the archive
                else:
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
            path, self._where, why, tuple(causes), closed=self._is_closed_or_late
        )

    def _temporary_file(self, path: str) -> BinaryIO:
        try:
            return cast(BinaryIO, tempfile.TemporaryFile(prefix="neuromirror-"))
        except OSError as error:
            raise self._no_space_error(path, error) from error

    def _no_space_error(self, path: str, error: OSError) -> BlockUnavailableError:
        return BlockUnavailableError(
            path,
            self._where,
            f"its temporary file in {tempfile.gettempdir()} cannot be written"
            f" ({error.strerror}); free some space there, or set TMPDIR to another folder",
        )

    def _write_with_retries(self, url: ByteLocation, key: str, file: BinaryIO) -> str:
        """Write a block, with retries of interrupted responses; return why it is wrong, or ""."""
        for left in reversed(range(_ATTEMPTS)):
            if self._is_closed_or_late:
                return CLOSED
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
        return self.is_closed or (self._seconds_left or 1.0) <= 0

    def _write(self, url: ByteLocation, key: str, file: BinaryIO) -> str:
        checksum = key_checksum(key)
        size, hashing, done = checksum.size, checksum.hasher(), 0
        with closing(self._pieces(url, size)) as pieces:
            for piece in pieces:
                if self.is_closed:
                    return CLOSED
                done += len(piece)
                if size is not None and done > size:
                    break
                file.write(piece)
                if hashing is not None:
                    hashing.update(piece)
        file.flush()
        is_copy = isinstance(url, (CopyUrl, Path))
        if size is not None and done != size:
            if is_copy:
                wrong = f"{'more' if done > size else 'fewer'} than {size} bytes"
                raise DamagedCopyError(str(url), wrong)
            return (
                f"{url} now returns {'more' if done > size else 'fewer'} than the recorded "
                f"{size} bytes"
            )
        if hashing is not None and not checksum.matches(hashing.hexdigest(), done):
            channel = str(url)
            if isinstance(url, BlockUrl):
                channel = f"{url.scheme}://{url.host}/{url.path}"
            found = f"{checksum.algorithm} {hashing.hexdigest()}"
            if is_copy:
                raise DamagedCopyError(str(url), f"{found}, not {checksum.value}")
            raise BlockMismatchError(str(url), channel, found, checksum.value)
        return ""

    def _pieces(
        self, url: ByteLocation, size: int | None
    ) -> Generator[bytes | memoryview, None, None]:
        """Yield the bytes at a location as they arrive."""
        if isinstance(url, Path):
            yield from _read_copy(url)
            return
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
        total = self._seconds_left or self._limits.total
        with self.session_for(url).stream(url, total=total) as reply:
            yield from reply.chunks

    def session_for(self, url: str) -> Session:
        """Return the session for the URL of an object."""
        parts = urlsplit(url)
        return self._session(parts.netloc, f"{parts.scheme}://{parts.netloc}")

    def _session(self, host: str, origin: str) -> Session:
        """Return a session that may request this host, and no other private host."""
        if not self._is_host_allowed(host):
            return self._public
        with self._lock:
            if origin not in self._private:
                made = Session(limits=self._limits, is_private_allowed=only_host_of(origin))
                self._private[origin] = made
            return self._private[origin]


def _read_copy(path: Path) -> Generator[bytes, None, None]:
    """Yield the bytes of a copy on this machine."""
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise CopyUnreadableError(f"{path}: {error.strerror}") from error
