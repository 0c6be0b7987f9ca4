"""A circuit breaker per host, so that a host that is down fails thousands of requests quickly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.net.errors import CircuitOpenError, NetError

_FAILURES: Final = 8
_SECONDS: Final = 30.0


class _HostFailures(Struct):
    since: float
    count: int = 0
    last_try: float = 0.0
    decisive: bool = False
    cause: NetError | None = None


class HostCircuitBreaker:
    """Refuses requests to hosts that keep failing. Thread-safe.

    The circuit of a host opens after `failures` consecutive failures over at least `seconds`, or
    after one decisive failure. A successful request closes it.

    Parameters
    ----------
    failures
        Consecutive failures that open the circuit.
    seconds
        Minimum time between the first and the last of these failures.
    retry_after
        While the circuit is open, one request per this many seconds is allowed as a probe. None for
        no probes.
    """

    def __init__(
        self,
        failures: int = _FAILURES,
        seconds: float = _SECONDS,
        retry_after: float | None = _SECONDS,
    ) -> None:
        self._failures = failures
        self._seconds = seconds
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self._failures_by_host: dict[str, _HostFailures] = {}
        self._responsive_hosts: set[str] = set()
        self._first_request_locks: dict[str, threading.Lock] = {}

    def check(self, url: str) -> None:
        """Raise CircuitOpenError if the circuit of the URL's host is open.

        Parameters
        ----------
        url
            The URL of the next request.

        Raises
        ------
        CircuitOpenError
            If the circuit is open. With ``retry_after``, one request is allowed each time that
            many seconds have passed.
        """
        if not self._failures_by_host:
            return
        host = _host(url)
        now = time.monotonic()
        with self._lock:
            found = self._failures_by_host.get(host)
            if found is None or not self._is_open(found, now):
                return
            if self._retry_after is not None and now - found.last_try > self._retry_after:
                found.last_try = now
                return
        raise CircuitOpenError(host, now - found.since, found.cause, url)

    @contextmanager
    def attempt(self, url: str) -> Iterator[Callable[[], None]]:
        """Guard one request.

        Requests to a host are serialized until its first reply: if many threads start at the same
        time, only one of them waits for the timeout of a host that is down.

        Parameters
        ----------
        url
            The URL of the request.

        Yields
        ------
        callable
            Call it as soon as the host has replied.

        Raises
        ------
        CircuitOpenError
            If the circuit of the URL's host is open.
        """
        with ExitStack() as stack:
            host = _host(url)
            if host not in self._responsive_hosts:
                with self._lock:
                    first_request = self._first_request_locks.setdefault(host, threading.Lock())
                stack.enter_context(first_request)
                if host in self._responsive_hosts:
                    stack.close()
            self.check(url)

            def record_answer() -> None:
                self.record_success(url)
                stack.close()

            yield record_answer

    def record_success(self, url: str) -> None:
        """Record that the host replied, and close its circuit.

        Parameters
        ----------
        url
            The URL of the request.
        """
        host = _host(url)
        self._responsive_hosts.add(host)
        if self._failures_by_host:
            with self._lock:
                self._failures_by_host.pop(host, None)

    def record_failure(
        self, url: str, cause: NetError | None = None, *, decisive: bool = False
    ) -> None:
        """Record a failed request.

        A refusal by this circuit breaker is not a failure of the host and is ignored.

        Parameters
        ----------
        url
            The requested URL.
        cause
            The error, quoted in later refusals.
        decisive
            True if the error applies to every URL of the host; opens the circuit at once.
        """
        if isinstance(cause, CircuitOpenError):
            return
        now = time.monotonic()
        with self._lock:
            found = self._failures_by_host.setdefault(_host(url), _HostFailures(now, last_try=now))
            found.count += 1
            found.cause = cause
            found.decisive |= decisive

    def _is_open(self, found: _HostFailures, now: float) -> bool:
        has_enough_failures = found.count >= self._failures and now - found.since >= self._seconds
        return found.decisive or has_enough_failures


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""
