"""The writer: it alone moves refs and writes journal and index, for jobs whose lease is valid.

Jobs propose refs and journal entries and query the index; see ADR 26.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from neuromirror.crawl import JournalRecorder
from neuromirror.crawl.plan import describe_unexpected
from neuromirror.crawl.recorder import Lease, LeaseLostError
from neuromirror.index import Schedule, answer_query
from neuromirror.model import NeuromirrorError
from neuromirror.service.jobs import Job
from neuromirror.service.logs import log_event
from neuromirror.service.writer_messages import (
    Done,
    Publish,
    Query,
    Request,
    decode_entries,
    decode_request,
    failed_reply,
)

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
