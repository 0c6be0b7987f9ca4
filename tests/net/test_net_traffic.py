"""Traffic counters count the requests of their context."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from neuromirror.model import Traffic, dump_traffic, load_traffic, total_traffic
from neuromirror.net import (
    ContextThreadPool,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
    TrafficCounter,
    UnreachableError,
    count_traffic,
)
from neuromirror.net.traffic import OTHER_HOSTS, record_traffic
from support.stub_server import responds_in_turn, responds_with, responds_with_json

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce.</Message></Error>"


def host(server) -> str:
    return f"127.0.0.1:{server.port}"


def measure_traffic(session, url, *, error=None) -> dict[str, Traffic]:
    counter = TrafficCounter()
    with count_traffic(counter):
        if error is None:
            session.get_json(url)
        else:
            with pytest.raises(error):
                session.get_json(url)
    return counter.hosts()


def test_requests_and_the_bytes_of_bodies_are_counted_by_host(server, make_session):
    body = b'["what comes"]'
    server.answers["/x"] = responds_with(200, body)
    found = measure_traffic(make_session(), f"{server.url}/x")
    assert found == {host(server): Traffic(requests=1, bytes=len(body))}


def test_each_step_of_a_redirect_counts_where_it_goes(server, other_server, make_session):
    server.answers["/x"] = responds_with(302, b"gone", Location=f"{other_server.url}/y")
    other_server.answers["/y"] = responds_with_json(1)
    found = measure_traffic(make_session(), f"{server.url}/x")
    assert found[host(server)].requests == 1
    assert found[host(other_server)] == Traffic(requests=1, bytes=1)


def test_retries_and_their_waits_are_counted(server, make_session, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("neuromirror.net.session.time", SimpleNamespace(sleep=waits.append))
    server.answers["/x"] = responds_in_turn(
        responds_with(429, Retry_After="7"), responds_with(502), responds_with_json(1)
    )
    (found,) = measure_traffic(make_session(), f"{server.url}/x").values()
    assert (found.requests, found.retries, found.throttled) == (3, 2, 1)
    assert found.waited == pytest.approx(sum(waits), abs=0.1)
    assert found.waited >= 7


@pytest.mark.parametrize(
    ("answer", "error", "throttled"),
    [
        (responds_with(429), TooManyRequestsError, 3),
        (responds_with(503, Retry_After="0"), ServerError, 3),
        (responds_with(503, SLOW_DOWN, "application/xml"), ServerError, 3),
        (responds_with(503), ServerError, 0),
        (responds_with(500), ServerError, 0),
    ],
    ids=["429", "503 with Retry-After", "SlowDown", "503", "500"],
)
def test_only_replies_that_ask_for_it_count_as_throttled(
    server, make_session, answer, error, throttled
):
    server.answers["/x"] = answer
    (found,) = measure_traffic(make_session(), f"{server.url}/x", error=error).values()
    assert (found.requests, found.retries, found.throttled) == (3, 2, throttled)


def test_failed_requests_are_counted_too(server, make_session):
    (found,) = measure_traffic(make_session(), f"{server.url}/none", error=NotFoundError).values()
    assert found.requests == 1
    assert found.bytes == len(b'{"detail": "Not found."}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        unused_address = f"127.0.0.1:{free.getsockname()[1]}"
        found = measure_traffic(
            make_session(), f"http://{unused_address}/x", error=UnreachableError
        )
    (refused,) = found.values()
    assert (list(found), refused.requests, refused.retries) == ([unused_address], 3, 2)


def test_visits_side_by_side_count_their_own_and_the_run_counts_all(server, make_session):
    session, run = make_session(), TrafficCounter()
    server.answers["/x"] = responds_with_json(1)
    together = threading.Barrier(3)

    def visit(times: int) -> TrafficCounter:
        own = TrafficCounter()
        with count_traffic(run), count_traffic(own), ContextThreadPool(4) as pool:
            together.wait()
            list(pool.map(lambda _: session.get_json(f"{server.url}/x"), range(times)))
        session.get_json(f"{server.url}/x")  # after the visit
        return own

    with ThreadPoolExecutor(3) as pool:
        visits = list(pool.map(visit, (3, 7, 12)))
    assert [total_traffic(one.hosts()).requests for one in visits] == [3, 7, 12]
    assert total_traffic(run.hosts()).requests == 22
    assert len(server.requests) == 25


def test_an_archive_cannot_name_hosts_without_end():
    counter = TrafficCounter()
    with count_traffic(counter):
        for number in range(1000):
            record_traffic(f"{number}.example.org", Traffic(requests=1))
    found = counter.hosts()
    assert len(found) < 50
    assert found[OTHER_HOSTS].requests > 900
    assert total_traffic(found).requests == 1000


def test_traffic_comes_back_from_its_journal_form():
    found = {"b": Traffic(1, 2, 0, 0, 0.0), "a": Traffic(5, 0, 3, 2, 1.5)}
    document = dump_traffic(found)
    assert document == {
        "a": {"requests": 5, "retries": 3, "throttled": 2, "waited": 1.5},
        "b": {"bytes": 2, "requests": 1},
    }
    assert list(document) == ["a", "b"]
    assert load_traffic(document) == found
    with pytest.raises(TypeError):
        load_traffic({"a": {"cost": 1}})
