"""The pace of requests: contact, concurrency and rate limits, and the circuit breaker per host."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuromirror import __version__
from neuromirror.net import (
    CircuitOpenError,
    HostCircuitBreaker,
    RequestPolicy,
    UnreachableError,
    validate_contact,
)
from support.loopback_http import send_reply
from support.stub_server import count_concurrent_requests, responds_with_json

CONTACT = "mailto:mirror@institute.example"


def request_concurrently(session, url: str, times: int) -> list[object]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: session.get_json(url), range(times)))


def test_a_contact_is_in_the_agent_string_of_every_request(server, make_session):
    session = make_session().with_policy(RequestPolicy(contact=CONTACT))
    server.answers["/x"] = responds_with_json(1)
    session.get_json(f"{server.url}/x")
    session.head(f"{server.url}/x")
    with session.anonymous() as anonymous_session:
        anonymous_session.get_json(f"{server.url}/x")
    agents = {request.headers["User-Agent"] for request in server.requests}
    assert agents == {f"neuromirror/{__version__} (+{CONTACT})"}


def test_without_a_contact_the_agent_string_names_no_address(server, make_session):
    server.answers["/x"] = responds_with_json(1)
    make_session().with_policy(RequestPolicy()).get_json(f"{server.url}/x")
    assert server.requests[0].headers["User-Agent"] == f"neuromirror/{__version__}"


@pytest.mark.parametrize(
    "contact", [CONTACT, "https://institute.example/mirror", "http://[::1]:80/", "mailto:a+b@c"]
)
def test_mail_and_web_addresses_are_contacts(contact):
    assert validate_contact(contact) == contact


@pytest.mark.parametrize(
    ("contact", "message"),
    [
        ("", "ASCII"),
        ("me", "mailto:"),
        ("me@institute.example", "mailto:"),
        ("mailto:", "mailto:"),
        ("mailto:a@b?subject=x", "mailto:"),
        ("ftp://institute.example", "mailto:"),
        ("https://", "mailto:"),
        ("https://[institute/", "mailto:"),
        ("https://institute.example/a b", "ASCII"),
        ("https://institute.example/\r\nX-Header:1", "ASCII"),
        ("https://institute.example/\x00", "ASCII"),
        ("https://institute.example/ü", "ASCII"),
        ("https://institute.example/)(", "ASCII"),
        (f"https://institute.example/{'x' * 200}", "200"),
        ("https://me:hunter2@institute.example/", "secret"),
        ("https://institute.example/?token=hunter2", "secret"),
        ("https://institute.example/?X-Amz-Signature=hunter2", "secret"),
    ],
)
def test_an_invalid_contact_is_refused_and_not_repeated(contact, message):
    with pytest.raises(ValueError, match=message) as caught:
        validate_contact(contact)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("most", [1, 3])
def test_concurrent_requests_to_one_host_stay_within_the_limit(server, make_session, most):
    seen = count_concurrent_requests(server, 0.05)
    session = make_session().with_policy(RequestPolicy(connections_per_host=most))
    assert request_concurrently(session, f"{server.url}/x", 8) == [1] * 8
    assert seen == [most]


def test_an_anonymous_session_shares_the_connection_limit_of_its_origin(server, make_session):
    seen = count_concurrent_requests(server, 0.05)
    session = make_session().with_policy(RequestPolicy(connections_per_host=1))
    with session.anonymous() as anonymous_session, ThreadPoolExecutor(6) as pool:
        both = [session, anonymous_session] * 3
        list(pool.map(lambda one: one.get_json(f"{server.url}/x"), both))
    assert seen == [1]


def test_a_session_without_tokens_sends_none(server, make_session, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "s3cret-word")
    server.answers["/x"] = responds_with_json(1)
    session = make_session(tokens={server.url: "A_TOKEN"}).with_policy(
        RequestPolicy(connections_per_host=2)
    )
    session.get_json(f"{server.url}/x")
    with session.anonymous() as anonymous_session:
        anonymous_session.get_json(f"{server.url}/x")
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == ["token s3cret-word", None]


def test_waiting_for_a_connection_does_not_use_up_the_time_for_the_reply(server, make_session):
    count_concurrent_requests(server, 0.4)
    session = make_session(total=1.5, attempts=1).with_policy(RequestPolicy(connections_per_host=1))
    # the last request waits longer than the response timeout
    assert request_concurrently(session, f"{server.url}/x", 6) == [1] * 6


def test_waiting_for_the_rate_limit_does_not_use_up_the_time_for_the_reply_either(
    server, make_session
):
    server.answers["/x"] = responds_with_json(1)
    session = make_session(total=1.0, attempts=1).with_policy(
        RequestPolicy(requests_per_second=0.8)
    )
    assert request_concurrently(session, f"{server.url}/x", 2) == [1, 1]


def test_requests_to_a_host_start_no_faster_than_the_rate_limit(
    server, other_server, make_session, monkeypatch
):
    waits: list[float] = []
    monkeypatch.setattr("neuromirror.net.request_limits.time.sleep", waits.append)
    session = make_session(total=5.0, attempts=1).with_policy(
        RequestPolicy(requests_per_second=0.1)
    )
    for one in (server, other_server):
        one.answers["/x"] = responds_with_json(1)
    for _ in range(3):
        session.get_json(f"{server.url}/x")
    # requests wait for each other
    assert [round(wait, -1) for wait in waits] == [10, 20]
    session.get_json(f"{other_server.url}/x")
    assert len(waits) == 2
    assert len(server.requests) == 3


def test_redirects_and_repeats_keep_the_pace_too(server, make_session, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("neuromirror.net.request_limits.time.sleep", waits.append)
    session = make_session().with_policy(RequestPolicy(requests_per_second=0.1))
    server.answers["/from"] = lambda handler: send_reply(handler, 302, Location="/x")
    server.answers["/x"] = responds_with_json(1)
    session.get_json(f"{server.url}/from")
    assert [round(wait, -1) for wait in waits] == [10]


def test_an_empty_request_policy_leaves_the_limits_of_the_source(make_session):
    session = make_session(per_host=40)
    assert session.with_policy(RequestPolicy()).limits == session.limits
    assert session.with_policy(RequestPolicy(requests_per_second=2.0)).limits.per_host == 40


URL = "http://archive.example:8080/file"
FAILURE = UnreachableError("connection refused", url=URL, status=None)


@pytest.fixture
def clock(monkeypatch):
    """A list whose only item is the time that the circuit breaker reads."""
    now = [1000.0]
    monkeypatch.setattr("neuromirror.net.request_limits.time.monotonic", lambda: now[0])
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
