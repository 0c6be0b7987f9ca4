"""The write server: the only writer of journal and index, and the client that workers use.

Workers connect through a Unix socket, or TCP from other machines. Both ends authenticate with a
shared key. The messages are pickled, so a client with the key can run code in the service.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    answer_challenge,
    deliver_challenge,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from neuromirror.crawl import Recorder
from neuromirror.index import Index, IndexMissingError, Schedule
from neuromirror.model import JournalEntry, NeuromirrorError
from neuromirror.service.leases import Lease, LeaseLostError
from neuromirror.service.pending_connections import HANDSHAKE_SECONDS, PendingConnections

_T = TypeVar("_T")

_BACKLOG = 128
_POLL_SECONDS = 0.5
"""Seconds between two checks of unauthenticated connections."""


class WriteServerLostError(NeuromirrorError):
    """The write server of the service is gone; nothing more is written."""


@dataclass(frozen=True, slots=True)
class WriteServerAddress:
    """Address of a write server, a socket file or ``(host, port)``, and the shared key."""

    socket_address: str | tuple[str, int]
    key: bytes


class WriteServer:
    """Records the entries of workers whose lease is valid, and answers queries of the index.

    ``host`` is an address of this machine that remote workers can reach; without it only local
    processes can connect. A peer must authenticate within ``timeout`` seconds.
    """

    def __init__(
        self,
        recorder: Recorder,
        schedule: Schedule,
        host: str | None = None,
        *,
        timeout: float = HANDSHAKE_SECONDS,
    ) -> None:
        self._recorder = recorder
        self._schedule = schedule
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        key = secrets.token_bytes(32)
        if host is None:
            self._folder = tempfile.TemporaryDirectory(prefix="neuromirror-")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(os.path.join(self._folder.name, "write-server"))
            self._listener.listen(_BACKLOG)
        else:
            self._listener = socket.create_server((host, 0), backlog=_BACKLOG)
        self._listener.settimeout(_POLL_SECONDS)
        socket_address = cast("str | tuple[str, int]", self._listener.getsockname())
        self.address = WriteServerAddress(socket_address, key)
        self._closing = threading.Event()
        self._unauthenticated = PendingConnections(seconds=timeout)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name="write server", daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; workers notice at their next request."""
        self._closing.set()
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for one in self._connections:
                with suppress(OSError):
                    # closing it would not wake the thread that reads from it
                    one.shutdown(socket.SHUT_RDWR)
        if self._folder is not None:
            self._folder.cleanup()

    def _accept(self) -> None:
        while not self._closing.is_set():
            self._unauthenticated.cut_off_overdue()
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # the client disconnected, or no file descriptor is left
                self._closing.wait(_POLL_SECONDS)
                continue
            self._unauthenticated.add(sock)
            with self._lock:
                self._connections.add(sock)
            serving = threading.Thread(
                target=self._serve, args=(sock,), name="write server connection", daemon=True
            )
            try:
                serving.start()
            except RuntimeError:  # no thread left
                self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        self._unauthenticated.discard(sock)
        with self._lock:
            self._connections.discard(sock)
            sock.close()

    def _serve(self, sock: socket.socket) -> None:
        # authenticate here, so that a silent client cannot block accept()
        with (
            suppress(EOFError, OSError, AuthenticationError),
            closing(Connection(os.dup(sock.fileno()))) as connection,
        ):
            deliver_challenge(connection, self.address.key)
            answer_challenge(connection, self.address.key)
            self._unauthenticated.discard(sock)
            while True:
                verb, *arguments = connection.recv()
                try:
                    answer: tuple[bool, object] = (True, self._answer(verb, arguments))
                except (NeuromirrorError, OSError) as error:
                    answer = (False, error)
                try:
                    connection.send(answer)
                except (TypeError, AttributeError) as error:  # not picklable
                    connection.send(
                        (False, NeuromirrorError(f"the result cannot be sent: {error}"))
                    )
        self._forget(sock)

    def _answer(self, verb: str, arguments: list[Any]) -> object:
        if verb == "record":
            lease, entries = arguments
            self._check_lease(lease)
            self._recorder.record(*entries)
            return None
        if verb == "confirm":
            self._check_lease(*arguments)
            return None
        assert verb == "ask", verb
        name, args, named = arguments
        if name.startswith("_") or name in _FORBIDDEN_METHODS:
            raise NeuromirrorError(f"the index method {name!r} cannot be called remotely")
        return self._recorder.ask(lambda index: _query_index(index, name, args, named))

    def _check_lease(self, lease: Lease) -> None:
        if not self._schedule.holds(lease.name, lease.token):
            raise LeaseLostError(
                f"{lease.name}: the lease of this visit has expired and another worker has taken "
                "over the task; nothing more of this visit is written"
            )


_FORBIDDEN_METHODS = frozenset(
    {"open", "open_readonly", "of_contents", "close", "catch_up", "dump"}
)


def _query_index(
    index: Index, name: str, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[bool, object]:
    """Call a method of the index; return whether it gave an iterator, and the result."""
    found = getattr(index, name)
    if callable(found):
        found = found(*args, **named)
    return (True, list(found)) if isinstance(found, Iterator) else (False, found)


class RemoteRecorder:
    """A worker's recorder: writes through the write server, reads a local index directly.

    ``index_path`` is None on other machines, since SQLite files must not be read over a network.
    ``lease`` is the worker's right to write.
    """

    def __init__(self, address: WriteServerAddress, lease: Lease, index_path: Path | None) -> None:
        self._lease = lease
        self._path = index_path
        self._lock = threading.Lock()
        try:
            self._connection = Client(address.socket_address, authkey=address.key)
        except (OSError, EOFError, AuthenticationError) as error:
            raise WriteServerLostError(
                f"the service at {address.socket_address} cannot be reached: {error}"
            ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._index: Index | None = None

    def record(self, *entries: JournalEntry) -> None:
        """See :class:`~neuromirror.crawl.Recorder`."""
        self._call("record", self._lease, entries)

    def confirm(self) -> None:
        """Raise LeaseLostError if another worker has taken over the dataset."""
        self._call("confirm", self._lease)

    def ask(self, question: Callable[[Index], _T]) -> _T:
        """See :class:`~neuromirror.crawl.Recorder`."""
        if self._path is None:
            return question(self.reader())
        return self._thread.submit(self._ask, self._path, question).result()

    def _ask(self, path: Path, question: Callable[[Index], _T]) -> _T:
        if self._index is not None and self._index.is_replaced:
            self._index.close()
            self._index = None
        if self._index is None:
            self._index = self._open_index(path)
        return question(self._index)

    def _open_index(self, path: Path) -> Index:
        try:
            return Index.open_readonly(path)
        except IndexMissingError:
            # deleted while the service runs: its writer rebuilds it from the journal
            self.record()
            return Index.open_readonly(path)

    def reader(self) -> Index:
        """See :class:`~neuromirror.crawl.Recorder`."""
        if self._path is None:
            return cast(Index, _RemoteIndex(self._call))
        return self._open_index(self._path)

    def close(self) -> None:
        """Close the connection."""
        if self._index is not None:
            self._thread.submit(self._index.close).result()
        self._thread.shutdown()
        self._connection.close()

    def _call(self, *request: object) -> Any:
        try:
            with self._lock:
                self._connection.send(request)
                done, answer = self._connection.recv()
        except (OSError, EOFError) as error:
            raise WriteServerLostError(
                "the service exited during a visit; the next one repeats it"
            ) from error
        if not done:
            raise answer
        return answer


class _RemoteIndex:
    """Calls the methods of the index through the write server; iterators arrive as lists."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if not callable(getattr(Index, name)):
            return self._call("ask", name, (), {})[1]

        def query(*args: Any, **named: Any) -> Any:
            as_iterator, found = self._call("ask", name, args, named)
            return iter(found) if as_iterator else found

        return query
