"""The writer: it alone moves refs and writes journal and index, for jobs whose lease is valid.

Jobs propose refs and journal entries and query the index; see ADR 26. A job sends one request at a
time, encoded as MessagePack, and waits for its reply. It cannot choose a lease: the writer
determines the job from the channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuromirror.service.jobs import Job

import logging
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

import msgspec

from neuromirror.crawl import JournalRecorder, RefMove
from neuromirror.crawl.plan import describe_unexpected
from neuromirror.crawl.recorder import Lease, LeaseLostError
from neuromirror.index import (
    AmbiguousNameError,
    DatasetWithdrawnError,
    FilesNotIndexedError,
    IndexBusyError,
    IndexDamagedError,
    IndexMissingError,
    IndexUnusableError,
    JournalDamagedError,
    MalformedQueryError,
    QueryStoppedError,
    Schedule,
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
    answer_query,
)
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    JournalEntry,
    NeuromirrorError,
    dump_entry,
    escape_surrogates,
    load_entry,
)
from neuromirror.service.logs import log_event
from neuromirror.store import NotAStoreError, RefsMovedError, StoreBusyError, StoreDamagedError

# --- messages


class Channel(Protocol):
    """Sends the requests of one job to the writer, and returns the replies."""

    def request(self, message: bytes) -> bytes:
        """Return the encoded reply to an encoded request; thread-safe.

        Raises WriterLostError if the service is gone.
        """
        ...


job_channel: Final[ContextVar[Channel]] = ContextVar("job_channel")
"""The channel of the job that runs in this context; set by its worker."""


class WriterLostError(NeuromirrorError):
    """The service that started a job has exited; the job can write nothing more."""


class MalformedMessageError(NeuromirrorError):
    """A message does not have the expected form."""


class Record(msgspec.Struct, frozen=True, tag=True):
    """A request to append journal entries (lines of the journal)."""

    entries: list[bytes]


class Publish(msgspec.Struct, frozen=True, tag=True):
    """A request to move refs of a dataset's repository, and then to append journal entries.

    ``entries`` are lines of the journal.
    """

    dataset: DatasetRef
    move: RefMove
    entries: list[bytes]


class Query(msgspec.Struct, frozen=True, tag=True):
    """A request to run a query of the index: a method of :class:`~neuromirror.index.RemoteIndex`.

    ``arguments`` are the encoded arguments, by name.
    """

    name: str
    arguments: dict[str, msgspec.Raw]


Request = Record | Publish | Query


class Done(msgspec.Struct, frozen=True, tag=True):
    """The reply to a request that succeeded, with the result of a query."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The writer's reply to a request that failed: an error of one of the classes in ``ERRORS``.

    ``kind`` is the name of the class; ``problem``, ``hint`` and ``suggestions`` are those of the
    error.
    """

    kind: str
    problem: str
    hint: str = ""
    suggestions: tuple[str, ...] = ()


class SystemFailed(msgspec.Struct, frozen=True, tag=True):
    """The reply to a request that failed with an OSError, such as a full disk.

    ``number`` is its errno, ``text`` its message, ``path`` the file.
    """

    number: int | None
    text: str
    path: str | None


ERRORS: Final[Mapping[str, type[NeuromirrorError]]] = {
    one.__name__: one
    for one in (
        *(NeuromirrorError, ConfigurationError, MalformedMessageError, LeaseLostError),
        *(NotAStoreError, RefsMovedError, StoreBusyError, StoreDamagedError),
        *(IndexBusyError, IndexDamagedError, IndexMissingError, IndexUnusableError),
        *(AmbiguousNameError, DatasetWithdrawnError, FilesNotIndexedError, JournalDamagedError),
        *(MalformedQueryError, QueryStoppedError, UnknownDatasetError, UnknownMirrorError),
        UnknownVersionError,
    )
}
"""The error classes that a job receives unchanged, by name; others become their nearest base.

Their constructors are those of NeuromirrorError.
"""

_requests: Final = msgspec.msgpack.Decoder(Request)
_replies: Final = msgspec.msgpack.Decoder(Done | Failed | SystemFailed)


def encode_entries(entries: Iterable[JournalEntry]) -> list[bytes]:
    """Return journal entries as lines of the journal."""
    return list(map(dump_entry, entries))


def decode_entries(lines: Iterable[bytes]) -> list[JournalEntry]:
    """Parse lines of the journal to entries; raise MalformedMessageError for an invalid line."""
    try:
        return list(map(load_entry, lines))
    except ValueError as error:
        raise _malformed("a journal entry of a job", error) from error


def decode_request(message: bytes) -> Request:
    """Decode a job's message to the writer; raise MalformedMessageError if it is invalid."""
    try:
        request: Request = _requests.decode(message)
    except (TypeError, ValueError) as error:
        raise _malformed("a request of a job", error) from error
    return request


def _malformed(what: str, error: Exception) -> MalformedMessageError:
    return MalformedMessageError(
        f"{what} cannot be read: {error}; install the same release of neuromirror on all machines, "
        "then restart the service and its workers"
    )


def failed_reply(error: NeuromirrorError | OSError) -> bytes:
    """Return the encoded reply to a request that raised an error."""
    if isinstance(error, OSError):
        path = None if error.filename is None else escape_surrogates(str(error.filename))
        text = escape_surrogates(error.strerror or str(error))
        return msgspec.msgpack.encode(SystemFailed(error.errno, text, path))
    kind = next(one for one in type(error).__mro__ if ERRORS.get(one.__name__) is one)
    suggestions = tuple(map(escape_surrogates, error.suggestions))
    return msgspec.msgpack.encode(
        Failed(
            kind.__name__,
            escape_surrogates(error.problem),
            escape_surrogates(error.hint),
            suggestions,
        )
    )


def send_request(channel: Channel, request: Request) -> msgspec.Raw:
    """Send a request to the writer, and return the result in its reply.

    If the writer failed, its error is raised here.
    """
    answer = channel.request(msgspec.msgpack.encode(request))
    try:
        reply = _replies.decode(answer)
    except ValueError as error:
        raise _malformed("a reply of the writer", error) from error
    if isinstance(reply, Done):
        return reply.result
    if isinstance(reply, SystemFailed):
        raise OSError(reply.number, reply.text, reply.path)
    kind = ERRORS.get(reply.kind, NeuromirrorError)
    raise kind(reply.problem, hint=reply.hint, suggestions=reply.suggestions)


def encode_arguments(arguments: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Encode the arguments of a query, each for itself, for a :class:`Query`."""
    return {name: msgspec.Raw(msgspec.msgpack.encode(one)) for name, one in arguments.items()}


# --- the writer

_NO_LEASE = Lease("", 0)


class Writer:
    """Applies the requests of jobs to refs, journal and index; there is one per service.

    A request is refused if its job's lease is no longer valid.

    Parameters
    ----------
    recorder
        Writes refs, journal and index.
    schedule
        Has the leases.
    """

    def __init__(self, recorder: JournalRecorder, schedule: Schedule) -> None:
        self._recorder = recorder
        self._schedule = schedule
        self._lock = threading.Lock()
        self._open: set[JobWriter] = set()
        self._closed = False

    def open(self, job: Job | None) -> JobWriter:
        """Return the channel of a job; the caller closes it.

        Without a job, the channel belongs to a function that sends no requests.
        """
        channel = JobWriter(self, _NO_LEASE if job is None else job.lease)
        with self._lock:
            if not self._closed:
                self._open.add(channel)
                return channel
        channel.close()
        return channel

    def close(self) -> None:
        """Close the channels of all jobs; recorder and schedule may be closed after that.

        An executor is left while its jobs run, and a ref must not move without its journal entry.
        """
        with self._lock:
            self._closed = True
            left = list(self._open)
        for one in left:
            one.close()

    def forget(self, channel: JobWriter) -> None:
        """Forget a channel that is closed."""
        with self._lock:
            self._open.discard(channel)

    def apply(self, request: Request, lease: Lease) -> msgspec.Raw | None:
        """Check the lease and apply a request; return the result of a query."""
        if isinstance(request, Query):
            name, arguments = request.name, request.arguments
            return msgspec.Raw(
                self._recorder.ask(lambda index: answer_query(index, name, arguments))
            )
        entries = decode_entries(request.entries)
        # no other process takes an expired lease between the check and the journal entry
        with self._schedule.leases.holding(lease.name, lease.token) as is_held:
            if not is_held:
                raise LeaseLostError(
                    f"{lease.name}: the lease of this visit has expired and another worker has "
                    "taken over the task; nothing more of this visit is written"
                )
            if isinstance(request, Publish):
                self._recorder.move_refs(request.dataset, request.move, *entries)
            else:
                self._recorder.append(*entries)
        self._recorder.catch_up()
        return None


class JobWriter:
    """The connection of one job to the :class:`Writer`, in the service's process.

    The requests of one job are applied one after the other; requests of different jobs may be
    applied concurrently.
    """

    def __init__(self, writer: Writer, lease: Lease) -> None:
        self._writer = writer
        self._lease = lease
        self._lock = threading.Lock()
        self._closed = False

    def request(self, message: bytes) -> bytes:
        """Return the encoded reply to an encoded request; errors are replies too."""
        with self._lock:
            try:
                if self._closed:
                    raise LeaseLostError(
                        f"{self._lease.name}: the job has ended; nothing is written"
                    )
                result = self._writer.apply(decode_request(message), self._lease)
                return msgspec.msgpack.encode(Done() if result is None else Done(result))
            except (NeuromirrorError, OSError) as error:
                return failed_reply(error)
            except Exception as error:  # noqa: BLE001 - the job must get a reply
                reason = describe_unexpected(error)
                name = self._lease.name
                log_event("request failed", reason, level=logging.ERROR, dataset=name)
                return failed_reply(NeuromirrorError(f"{name}: {reason}"))

    def close(self) -> None:
        """Refuse all further requests, and wait for the one that is being applied."""
        self._closed = True
        with self._lock:
            self._writer.forget(self)
