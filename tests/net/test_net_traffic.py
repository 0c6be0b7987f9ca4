"""What is asked is counted, for whoever has it asked."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest
from net_loopback import gives, in_turn, reply, value

from neuromirror.model import Traffic, dump_traffic, load_traffic, total_traffic
from neuromirror.net import (
    CountedPool,
    NotFound,
    S3Bucket,
    ServerTrouble,
    TooManyRequests,
    TrafficCounter,
    Unreachable,
    counted,
)
from neuromirror.net.traffic import OTHERS, count

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce.</Message></Error>"


def host(server) -> str:
    return f"127.0.0.1:{server.port}"


def asked(session, url, *, error=None) -> dict[str, Traffic]:
    counter = TrafficCounter()
    with counted(counter):
        if error is None:
            session.get_json(url)
        else:
            with pytest.raises(error):
                session.get_json(url)
    return counter.hosts()


def test_requests_and_the_bytes_of_bodies_are_counted_by_host(server, quick):
    body = b'["what comes"]'
    server.answers["/x"] = gives(200, body)
    found = asked(quick(), f"{server.url}/x")
    assert found == {host(server): Traffic(requests=1, bytes=len(body))}


def test_each_step_of_a_redirect_counts_where_it_goes(server, other, quick):
    server.answers["/x"] = gives(302, b"gone", Location=f"{other.url}/y")
    other.answers["/y"] = value(1)
    found = asked(quick(), f"{server.url}/x")
    assert found[host(server)].requests == 1
    assert found[host(other)] == Traffic(requests=1, bytes=1)


def test_what_is_sent_again_counts_again_and_so_do_the_waits(server, quick, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    server.answers["/x"] = in_turn(gives(429, Retry_After="7"), gives(502), value(1))
    (found,) = asked(quick(), f"{server.url}/x").values()
    assert (found.requests, found.retries, found.throttled) == (3, 2, 1)
    assert found.waited == pytest.approx(sum(waits), abs=0.1)
    assert found.waited >= 7


@pytest.mark.parametrize(
    ("answer", "error", "throttled"),
    [
        (gives(429), TooManyRequests, 3),
        (gives(503, Retry_After="0"), ServerTrouble, 3),
        (gives(503, SLOW_DOWN, "application/xml"), ServerTrouble, 3),
        (gives(503), ServerTrouble, 0),
        (gives(500), ServerTrouble, 0),
    ],
    ids=["429", "503 with Retry-After", "SlowDown", "503", "500"],
)
def test_only_replies_that_ask_for_it_count_as_throttled(server, quick, answer, error, throttled):
    server.answers["/x"] = answer
    (found,) = asked(quick(), f"{server.url}/x", error=error).values()
    assert (found.requests, found.retries, found.throttled) == (3, 2, throttled)


def test_what_failed_counts_too(server, quick):
    (found,) = asked(quick(), f"{server.url}/none", error=NotFound).values()
    assert found.requests == 1
    assert found.bytes == len(b'{"detail": "Not found."}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
        found = asked(quick(), f"http://{nobody}/x", error=Unreachable)
    (refused,) = found.values()
    assert (list(found), refused.requests, refused.retries) == ([nobody], 3, 2)


def test_heads_count_without_bytes(server, quick):
    server.answers["/x"] = gives(200, b"never sent")
    counter = TrafficCounter()
    with counted(counter):
        quick().head(f"{server.url}/x")
    assert counter.hosts() == {host(server): Traffic(requests=1)}


def test_visits_side_by_side_count_their_own_and_the_run_counts_all(server, quick):
    session, run = quick(), TrafficCounter()
    server.answers["/x"] = value(1)
    together = threading.Barrier(3)

    def visit(times: int) -> TrafficCounter:
        own = TrafficCounter()
        with counted(run), counted(own), CountedPool(4) as pool:
            together.wait()
            list(pool.map(lambda _: session.get_json(f"{server.url}/x"), range(times)))
        session.get_json(f"{server.url}/x")  # after the visit
        return own

    with ThreadPoolExecutor(3) as pool:
        visits = list(pool.map(visit, (3, 7, 12)))
    assert [total_traffic(one.hosts()).requests for one in visits] == [3, 7, 12]
    assert total_traffic(run.hosts()).requests == 22
    assert len(server.asked) == 25


def test_a_listing_in_parallel_counts_for_the_one_who_lists(server, quick):
    keys = [f"f{folder}/{number:03}" for folder in range(4) for number in range(25)]

    def page(handler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        after, prefix = query.get("start-after", [""])[0], query.get("prefix", [""])[0]
        rest = [key for key in keys if key > after and key.startswith(prefix)]
        rows = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{'0' * 32}&quot;</ETag><Size>1</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in rest[:3]
        )
        cut = str(len(rest) > 3).lower()
        reply(
            handler,
            200,
            (
                "<ListBucketResult><EncodingType>url</EncodingType>"
                f"<IsTruncated>{cut}</IsTruncated>{rows}</ListBucketResult>"
            ).encode(),
            "application/xml",
        )

    bucket = S3Bucket(quick(), "b0cket", endpoint=server.url, page_size=3)
    server.answers["/b0cket/"] = page
    counter = TrafficCounter()
    with counted(counter):
        rows = list(bucket.objects(b"", connections=4).rows())
    assert len(rows) == len(keys)
    assert total_traffic(counter.hosts()).requests == len(server.asked) > 30


def test_an_archive_cannot_name_hosts_without_end():
    counter = TrafficCounter()
    with counted(counter):
        for number in range(1000):
            count(f"{number}.example.org", Traffic(requests=1))
    found = counter.hosts()
    assert len(found) < 50
    assert found[OTHERS].requests > 900
    assert total_traffic(found).requests == 1000


def test_nobody_counting_is_no_error(server, quick):
    server.answers["/x"] = value(1)
    assert quick().get_json(f"{server.url}/x") == 1


def test_traffic_comes_back_from_the_journals_words():
    found = {"b": Traffic(1, 2, 0, 0, 0.0), "a": Traffic(5, 0, 3, 2, 1.5)}
    words = dump_traffic(found)
    assert words == {
        "a": {"requests": 5, "retries": 3, "throttled": 2, "waited": 1.5},
        "b": {"bytes": 2, "requests": 1},
    }
    assert list(words) == ["a", "b"]
    assert load_traffic(words) == found
    with pytest.raises(TypeError):
        load_traffic({"a": {"cost": 1}})
