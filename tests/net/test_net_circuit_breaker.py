"""The circuit breaker per host: when it opens, lets a probe through and closes again."""

from __future__ import annotations

import threading

import pytest

from neuromirror.net import CircuitOpenError, HostCircuitBreaker, UnreachableError

URL = "http://archive.example:8080/file"
FAILURE = UnreachableError("connection refused", url=URL, status=None)


@pytest.fixture
def clock(monkeypatch):
    """A list whose only item is the time that the circuit breaker reads."""
    now = [1000.0]
    monkeypatch.setattr("neuromirror.net.circuit_breaker.time.monotonic", lambda: now[0])
    return now


def fail(breaker, times):
    for _ in range(times):
        breaker.record_failure(URL, FAILURE)


def test_the_circuit_opens_after_enough_failures_over_enough_time(clock):
    breaker = HostCircuitBreaker(failures=3, seconds=10.0, retry_after=None)
    fail(breaker, 2)
    clock[0] += 10.0
    breaker.check(URL)
    breaker.record_success(URL)  # resets the failures
    fail(breaker, 3)
    breaker.check(URL)
    clock[0] += 10.0
    for _ in range(2):
        with pytest.raises(CircuitOpenError) as refused:
            breaker.check(URL)
        assert refused.value.host == "archive.example:8080"
        assert refused.value.cause is FAILURE
        assert not refused.value.transient
        clock[0] += 1e6  # without an interval no probe is let through


def test_a_decisive_failure_opens_the_circuit_at_once():
    breaker = HostCircuitBreaker()
    breaker.record_failure(URL, FAILURE, decisive=True)
    with pytest.raises(CircuitOpenError):
        breaker.check(URL)


def test_other_hosts_and_ports_are_not_affected():
    breaker = HostCircuitBreaker(failures=1, seconds=0.0)
    fail(breaker, 1)
    for url in ("http://other.example:8080/", "http://archive.example/", "not a URL"):
        breaker.check(url)
    with pytest.raises(CircuitOpenError):
        breaker.check("https://user:password@archive.example:8080/other")


def test_one_probe_per_interval_is_let_through_and_its_success_closes_the_circuit(clock):
    breaker = HostCircuitBreaker(failures=1, seconds=0.0, retry_after=30.0)
    fail(breaker, 1)
    clock[0] += 31.0
    breaker.check(URL)
    with pytest.raises(CircuitOpenError):
        breaker.check(URL)
    breaker.record_success(URL)
    breaker.check(URL)


def test_refusals_are_not_recorded_as_failures(clock):
    breaker = HostCircuitBreaker(failures=1, seconds=0.0, retry_after=30.0)
    fail(breaker, 1)
    with pytest.raises(CircuitOpenError) as refused:
        breaker.check(URL)
    breaker.record_failure(URL, refused.value)
    with pytest.raises(CircuitOpenError) as repeated:
        breaker.check(URL)
    assert repeated.value.cause is FAILURE


def test_the_first_requests_to_a_host_are_serialized():
    breaker = HostCircuitBreaker(failures=1, seconds=0.0)
    refusals = []
    requests = []

    def request():
        try:
            with breaker.attempt(URL):
                requests.append(1)
                breaker.record_failure(URL, FAILURE)
        except CircuitOpenError as error:
            refusals.append(error)

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(requests), len(refusals)) == (1, 7)


def test_requests_run_concurrently_once_the_host_has_answered():
    breaker = HostCircuitBreaker()
    with breaker.attempt(URL) as record_answer:
        record_answer()
    both = threading.Barrier(2, timeout=60)

    def request():
        with breaker.attempt(URL):
            both.wait()

    threads = [threading.Thread(target=request) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken


def test_the_message_is_the_same_whichever_url_failed_first():
    """So that commands fold the failures of many files into one message."""
    texts = set()
    for name in ("one", "two"):
        first = f"http://archive.example:8080/{name}"
        breaker = HostCircuitBreaker(failures=1, seconds=0.0)
        error = UnreachableError(f"{first} cannot be reached: refused", url=first, status=None)
        breaker.record_failure(first, error)
        with pytest.raises(CircuitOpenError) as refused:
            breaker.check(URL)
        texts.add(str(refused.value))
    assert len(texts) == 1
