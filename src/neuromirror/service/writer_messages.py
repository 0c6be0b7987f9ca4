"""The messages between a job and the writer, encoded as MessagePack.

A job sends one request at a time and waits for its reply. It cannot choose a lease: the writer
determines the job from the channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

import msgspec

from neuromirror.crawl import RefMove
from neuromirror.crawl.recorder import LeaseLostError
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
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
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
from neuromirror.store import NotAStoreError, RefsMovedError, StoreBusyError, StoreDamagedError


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
