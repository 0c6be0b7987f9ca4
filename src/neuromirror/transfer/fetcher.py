"""Download one content: from the first URL with the right bytes, resuming partial content."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from neuromirror.annex import allow_command, host_without_port
from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    CredentialsError,
    HostCircuitBreaker,
    HttpError,
    IncompleteResponseError,
    NetError,
    OpenBody,
    RequestTimeoutError,
    UnsafeAddressError,
)
from neuromirror.sources.volumes.errors import CutoutRefusedError
from neuromirror.transfer.annex_objects import InsufficientSpaceError, TransferBusyError
from neuromirror.transfer.block_bodies import BlockBodies, is_block_url
from neuromirror.transfer.cached_contents import CachedContents
from neuromirror.transfer.content_bodies import ContentBodies, ContentMismatchError
from neuromirror.transfer.content_checks import ContentCheck
from neuromirror.transfer.fetch_connections import FetchConnections
from neuromirror.transfer.fetch_tasks import FetchResult, FetchTask
from neuromirror.transfer.file_writers import DirectFileWriter, FileWriter
from neuromirror.transfer.host_errors import displayed_url, host_at_fault, host_of
from neuromirror.transfer.local_copies import open_local_copy
from neuromirror.transfer.object_sink import ObjectSink
from neuromirror.transfer.partial_content import PartialContent, body_timeout, update_check
from neuromirror.transfer.s3_access import MalformedS3UrlError
from neuromirror.vault.errors import CopyRefusedError, VaultError

MAX_IN_MEMORY: Final = 1 << 19
"""Maximum size in bytes of content that is held in memory until it is verified."""

_MAX_IDLE_ATTEMPTS: Final = 3
"""Consecutive attempts at one URL that may be cut off without a new byte."""

_MAX_RESTARTS: Final = 2
_REFUSED_STATUSES: Final = (401, 403)
_SPACE_CHECK_INTERVAL: Final = 1 << 26
"""Bytes between two checks of the free space, for content of unknown size."""


_FAILURES: Final = (NetError, CredentialsError, MalformedS3UrlError, ContentMismatchError)
"""Errors of one URL, after which the next one is tried."""


class TransferStoppedError(NeuromirrorError):
    """A download was stopped because the whole run was stopped."""


_STORE_FAILURES: Final = (
    *(InsufficientSpaceError, TransferBusyError, TransferStoppedError),
    *(VaultError, CopyRefusedError),
)
"""Errors after which no other URL is tried."""


class Fetcher:
    """Downloads one task after the other; for one thread.

    Parameters
    ----------
    connections
        Connections of this thread.
    blocks
        Opens blocks of volumes; shared by all threads.
    store
        Where content is stored.
    cached
        Contents that need no download.
    breaker
        Circuit breaker shared by all threads.
    stop
        Set when the run is stopped.
    report_bytes
        Called with a key and the number of bytes received; negative if received bytes are
        discarded.
    before_store
        Called with a key before its content is moved to its object path.
    pause
        Seconds to wait after a download was cut off.
    """

    def __init__(
        self,
        connections: FetchConnections,
        blocks: BlockBodies,
        store: ObjectSink,
        cached: CachedContents,
        breaker: HostCircuitBreaker,
        *,
        stop: threading.Event,
        report_bytes: Callable[[str, int], None],
        before_store: Callable[[str], None],
        pause: float,
    ) -> None:
        self._connections = connections
        self._bodies = ContentBodies(blocks, breaker)
        self._store = store
        self._writer = DirectFileWriter() if store.bypasses_page_cache else FileWriter()
        self._cached = cached
        self._stop = stop
        self._report_bytes = report_bytes
        self._before_store = before_store
        self._pause = pause

    def fetch(self, task: FetchTask) -> FetchResult:
        """Download the content of a task; errors are returned in the result."""
        found = FetchResult(task)
        try:
            if is_fetched_in_memory(task):
                assert task.size is not None
                self._fetch_small(task, task.size, found)
            else:
                self._fetch_large(task, found)
        except _STORE_FAILURES as error:
            found.store_error = error
            found.errors.append(str(error))
        except OSError as error:
            found.store_error = error
            where = os.fsdecode(error.filename) if error.filename else "the clone"
            found.errors.append(f"cannot write {where}: {error.strerror}")
        return found

    def _fetch_small(self, task: FetchTask, size: int, found: FetchResult) -> None:
        with self._store.reserve_space(size):
            if (cached := self._cached.read(task)) is not None:
                self._before_store(task.key)
                self._store.put(task.key, cached[0])
                found.check = cached[1]
                return
            for url in task.urls:
                try:
                    content, check = self._read_small(url, task, size)
                except _FAILURES as error:
                    self._record_error(found, url, error)
                    continue
                self._check_stopped()
                self._before_store(task.key)
                self._store.put(task.key, content)
                found.check, found.url = check, url
                return

    def _read_small(self, url: str, task: FetchTask, size: int) -> tuple[memoryview, ContentCheck]:
        """Return small content, valid until the connection is used again, and its check."""
        tries = _MAX_IDLE_ATTEMPTS
        while True:
            begun = False
            check = task.check()
            content = memoryview(b"")
            parts = bytearray()
            try:
                with self._open_body(task, url, 0, body_timeout(0)) as body:
                    begun = True
                    _check_length(size, body.start, body.length)
                    for piece in body.chunks:
                        update_check(check, piece)
                        if len(piece) == size:
                            content = piece
                            break
                        parts += piece
            except (IncompleteResponseError, RequestTimeoutError):
                tries -= 1
                if not begun or not tries:
                    raise
                self._wait_before_retry()
                continue
            if fault := check.mismatch():
                raise ContentMismatchError(fault)
            return content or memoryview(parts), check

    def _fetch_large(self, task: FetchTask, found: FetchResult) -> None:
        with self._store.open_partial(task.key) as file:
            there = os.fstat(file).st_size
            with self._store.reserve_space(task.size, there):
                if not there and self._copy_cached(task, file, found):
                    return
                growth = PartialContent(task, file, self._writer, self._report_bytes)
                growth.resume(self._check_stopped)
                for url in task.urls:
                    try:
                        self._extend(url, growth)
                    except _FAILURES as error:
                        self._record_error(found, url, error)
                        continue
                    self._check_stopped()
                    growth.check.record_digests()
                    self._before_store(task.key)
                    self._store.finish_partial(task.key, file)
                    found.check, found.url = growth.check, url
                    return
                if not growth.check.bytes_seen or not growth.check.has_digest:
                    self._store.discard_partial(task.key)

    def _copy_cached(self, task: FetchTask, file: int, found: FetchResult) -> bool:
        """Return whether the content was in the cache, and is stored."""
        check = self._cached.copy(task, file, lambda more: self._report_bytes(task.key, more))
        if check is None:
            return False
        self._check_stopped()
        self._before_store(task.key)
        self._store.finish_partial(task.key, file)
        found.check = check
        return True

    def _extend(self, url: str, growth: PartialContent) -> None:
        """Download the rest of partial content; raises NetError or ContentMismatchError."""
        idle = restarts = 0
        while True:
            if growth.is_complete and growth.check.mismatch() is None:
                return
            if growth.is_complete or not growth.check.has_digest:
                growth.restart()
            had = growth.check.bytes_seen
            begun = False
            try:
                timeout = growth.remaining_timeout()
                with self._open_body(growth.task, url, had, timeout) as body:
                    begun = True
                    growth.start_at(body.start)
                    _check_length(growth.task.size, body.start, body.length)
                    self._append(body, growth)
                fault = growth.check.mismatch()
            except (IncompleteResponseError, RequestTimeoutError):
                kept = growth.check.has_digest and growth.check.bytes_seen > had
                idle = 0 if kept else idle + 1
                if not begun or idle == _MAX_IDLE_ATTEMPTS:
                    raise
                self._wait_before_retry()
                continue
            except HttpError as error:
                if error.status != 416 or not had:
                    raise
                fault = "the URL has fewer bytes than an earlier attempt received"
            if fault is None:
                return
            growth.restart()
            # the bytes of an earlier attempt may be wrong
            restarts += 1
            if not had or restarts > _MAX_RESTARTS:
                raise ContentMismatchError(fault)

    def _append(self, body: OpenBody, growth: PartialContent) -> None:
        try:
            for piece in body.chunks:
                self._check_stopped()
                growth.append(piece)
                seen = growth.check.bytes_seen
                if growth.task.size is None and seen % _SPACE_CHECK_INTERVAL < len(piece):
                    self._store.check_space()
        finally:
            growth.flush()

    def _open_body(
        self, task: FetchTask, url: str, start: int, total: float | None
    ) -> AbstractContextManager[OpenBody]:
        if url in task.local_urls:
            return open_local_copy(url, start=start)
        return self._bodies.open(
            self._connections, url, task.key, task.size, start=start, total=total
        )

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise TransferStoppedError("the run was stopped")

    def _wait_before_retry(self) -> None:
        self._stop.wait(self._pause)
        self._check_stopped()

    def _record_error(self, found: FetchResult, url: str, error: NeuromirrorError) -> None:
        found.hosts.add(host_at_fault(error, url))
        if is_block_url(url) and isinstance(error, CutoutRefusedError):
            found.needs_credentials |= error.status in _REFUSED_STATUSES
        if isinstance(error, UnsafeAddressError) and not error.always_refused:
            _add_refused_host(found, host_of(error.url or url))
        elif isinstance(error, CredentialsError | NetError):
            message = self._connections.explain(url, error)
            if message not in found.errors:
                found.errors.append(message)
        else:
            found.errors.append(f"{displayed_url(url)}: {error}")


def is_fetched_in_memory(task: FetchTask) -> bool:
    """Return whether a content is held in memory until it is verified; its bytes are not reported.

    Parameters
    ----------
    task
        The download task.

    Returns
    -------
    bool
        Whether the content is small.
    """
    return task.size is not None and task.size <= MAX_IN_MEMORY


def _add_refused_host(found: FetchResult, host: str) -> None:
    """Record a host that may not be accessed; all such hosts have one message."""
    if found.refused_hosts:
        found.errors.remove(_refused_message(found.refused_hosts))
    if host not in found.refused_hosts:
        found.refused_hosts.append(host)
    found.errors.append(_refused_message(found.refused_hosts))


def _refused_message(hosts: Sequence[str]) -> str:
    named = list(dict.fromkeys(map(host_without_port, hosts)))
    return (
        f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} on this machine or a private "
        f"network, and not allowed; to allow that: {allow_command(hosts)}"
    )


def _check_length(size: int | None, start: int, length: int | None) -> None:
    if size is not None and length is not None and start + length != size:
        raise ContentMismatchError(f"the URL has {start + length} bytes, expected {size}")
