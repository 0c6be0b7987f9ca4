"""The session against misbehaving servers."""

import errno
import gzip
import json
import socket
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from neuromirror import __version__
from neuromirror.model import ConfigurationError
from neuromirror.net import (
    AccessDeniedError,
    HttpError,
    IncompleteResponseError,
    InvalidJsonError,
    NetError,
    NotFoundError,
    RequestTimeoutError,
    ResponseTooLargeError,
    RetryAfterTooLongError,
    ServerError,
    TooManyRequestsError,
    TrafficCounter,
    UnknownHostError,
    UnreachableError,
    count_traffic,
)
from support.loopback_http import send_reply
from support.stub_server import responds_in_turn, responds_with, responds_with_json


def test_json_comes_with_parameters_and_the_agent_string(server, make_session):
    server.answers["/list"] = responds_with_json({"results": [1, "ü"]})
    assert make_session().get_json(f"{server.url}/list?a=1", {"page": 2}) == {"results": [1, "ü"]}
    request = server.requests[0]
    assert request.path == "/list?a=1&page=2"
    assert request.headers["User-Agent"] == f"neuromirror/{__version__}"
    assert "Authorization" not in request.headers
    assert "Cookie" not in request.headers


def test_a_gzip_body_is_read(server, make_session):
    body = gzip.compress(json.dumps([1, 2]).encode())
    server.answers["/z"] = responds_with(200, body, Content_Encoding="gzip")
    assert make_session().get_json(f"{server.url}/z") == [1, 2]
    assert server.requests[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_transient_error_is_retried(server, make_session, status):
    server.answers["/x"] = responds_in_turn(
        responds_with(status), responds_with(status), responds_with_json("fine")
    )
    assert make_session().get_json(f"{server.url}/x") == "fine"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "error", "requests"),
    [
        (503, ServerError, 3),
        (429, TooManyRequestsError, 3),
        (400, HttpError, 1),
        (418, HttpError, 1),
    ],
)
def test_a_persistent_error_is_reported_with_its_status_and_a_permanent_one_is_not_retried(
    server, make_session, status, error, requests
):
    server.answers["/x"] = responds_with(status, b'{"detail": "Request was throttled."}')
    with pytest.raises(error, match=rf"{status}.*throttled") as caught:
        make_session().get_json(f"{server.url}/x")
    assert len(server.requests) == requests
    assert (caught.value.status, caught.value.url) == (status, f"{server.url}/x")


def record_waits(session, monkeypatch):
    """Record the waits between attempts instead of sleeping."""
    waits: list[float] = []
    monkeypatch.setattr("neuromirror.net.session.time", SimpleNamespace(sleep=waits.append))
    return waits


def in_40_seconds(days=0):
    """Return a server's date, and the Retry-After header for 40 seconds later."""
    now = datetime.now(UTC) + timedelta(days=days)
    then = format_datetime(now + timedelta(seconds=40), usegmt=True)
    return {"Retry_After": then, "Date": format_datetime(now, usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "body", "least", "most"),
    [
        ({"Retry_After": "7"}, b"", 7, 7),
        ({}, b'{"detail": "Expected available in 7 seconds."}', 7, 7),
        # relative to the clock of the server
        *((in_40_seconds(days), b"", 38, 41) for days in (0, 365, -365, 1)),
        # a useless one falls back to the usual wait
        *(
            ({"Retry_After": value}, b"", 0.0001, 0.02)
            for value in ("Thu, 01 Jan 1970 00:00:00 GMT", "soon", "-5", "")
        ),
    ],
)
def test_the_requested_time_is_waited(
    server, make_session, monkeypatch, headers, body, least, most
):
    session = make_session()
    waits = record_waits(session, monkeypatch)

    def busy(handler):
        handler.date_time_string = lambda: headers.get("Date", "")
        given = {name: value for name, value in headers.items() if name != "Date"}
        send_reply(handler, 429, body, **given)

    server.answers["/x"] = responds_in_turn(busy, responds_with_json(1))
    assert session.get_json(f"{server.url}/x") == 1
    assert len(waits) == 1
    assert least <= waits[0] <= most


@pytest.mark.parametrize(
    ("body", "headers", "most"),
    [
        (b"", {"Retry_After": "86400"}, 86400),
        (b"", {"Retry_After": "9" * 400}, 1e18),
        (b"", {"Retry_After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 1e12),
        (b'{"code": 3004, "message": "Expected available tomorrow."}', {}, 86400),
        (b'{"detail": "Expected available in 7200 seconds."}', {}, 7200),
    ],
    ids=["day", "digits", "date", "boss", "django"],
)
def test_a_requested_wait_above_the_limit_is_an_error_and_no_sleep(
    server, make_session, monkeypatch, body, headers, most
):
    session = make_session()
    waits = record_waits(session, monkeypatch)
    server.answers["/x"] = responds_with(429, body, **headers)
    with pytest.raises(RetryAfterTooLongError) as caught:
        session.get_json(f"{server.url}/x")
    assert waits == []
    assert 3600 < caught.value.retry_after <= most
    assert len(server.requests) == 1


def test_a_host_that_requests_a_long_wait_gets_no_further_requests(server, make_session):
    session = make_session()
    server.answers["/x"] = responds_with(429, Retry_After="7200")
    server.answers["/y"] = responds_with_json(1)
    for path in ("/x", "/y", "/x"):
        with pytest.raises(RetryAfterTooLongError) as caught:
            session.get_json(server.url + path)
        assert caught.value.retry_after == 7200
    with pytest.raises(RetryAfterTooLongError):
        session.anonymous().get_json(f"{server.url}/y")
    assert [request.path for request in server.requests] == ["/x"]


def test_waits_grow_and_are_not_all_the_same(server, make_session, monkeypatch):
    session = make_session(attempts=6, wait=1.0, wait_max=5.0)
    waits = record_waits(session, monkeypatch)
    server.answers["/x"] = responds_with(500)
    with pytest.raises(ServerError):
        session.get_json(f"{server.url}/x")
    assert len(waits) == 5
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, [1, 2, 4, 5, 5], strict=True))


GZIPPED = gzip.compress(json.dumps(list(range(5000))).encode())


@pytest.mark.parametrize(
    ("body", "headers", "error", "requests"),
    [
        (b"<!DOCTYPE html><p>Log in", {"kind": "text/html"}, InvalidJsonError, 1),
        (b"\n <html></html>", {}, InvalidJsonError, 1),
        (b"", {}, InvalidJsonError, 3),
        (b"[" * 200_000, {}, InvalidJsonError, 1),
        (b'{"a":' * 100_000, {}, InvalidJsonError, 1),
        *((body, {}, InvalidJsonError, 3) for body in (b"NaN", b"[-Infinity]", b"\xff\xfe")),
        (b"[" + b"9" * 5000 + b"]", {}, InvalidJsonError, 3),
        (b"[]", {"Content_Encoding": "gzip, gzip"}, InvalidJsonError, 1),
        (GZIPPED[:-20], {"Content_Encoding": "gzip"}, IncompleteResponseError, 3),
        (b"4\r\n[1,2\r\n", {"Transfer_Encoding": "chunked"}, UnreachableError, 3),
    ],
    ids=[
        *("login page", "html named json", "empty", "lists", "objects", "NaN", "Infinity"),
        *("not UTF-8", "digits", "encoding", "cut gzip", "cut chunks"),
    ],
)
def test_a_body_that_is_not_complete_json_is_an_error(
    server, make_session, body, headers, error, requests
):
    def answer(handler):
        send_reply(handler, 200, body, **headers)
        handler.close_connection = True

    server.answers["/x"] = answer
    with pytest.raises(error):
        make_session().get_json(f"{server.url}/x")
    assert len(server.requests) == requests


def test_truncated_json_is_retried(server, make_session):
    server.answers["/x"] = responds_in_turn(
        responds_with(200, b'{"results": [1, 2'), responds_with_json([1, 2, 3])
    )
    assert make_session().get_json(f"{server.url}/x") == [1, 2, 3]


def test_a_body_shorter_than_its_content_length_is_retried(server, make_session):
    def short(handler):
        send_reply(handler, 200, b'{"a": 1}', Content_Length="400")
        handler.close_connection = True

    server.answers["/x"] = responds_in_turn(short, responds_with_json("whole"))
    assert make_session().get_json(f"{server.url}/x") == "whole"
    server.answers["/x"] = short
    with pytest.raises(UnreachableError, match="8 "):
        make_session().get_json(f"{server.url}/x")


def test_a_json_bomb_is_cut_short(server, make_session):
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        for _ in range(2000):
            handler.wfile.write(b"[" * (1 << 16))
            sent.append(1)

    server.answers["/x"] = endless
    with pytest.raises(ResponseTooLargeError):
        make_session(json_bytes=1 << 20).get_json(f"{server.url}/x")
    assert len(sent) < 2000
    assert len(server.requests) == 1


def test_a_gzip_bomb_is_cut_short(server, make_session):
    body = gzip.compress(b" " * (16 << 20), 9)
    assert len(body) < 100_000
    server.answers["/x"] = responds_with(200, body, Content_Encoding="gzip")
    with pytest.raises(ResponseTooLargeError):
        make_session(json_bytes=1 << 20).get_json(f"{server.url}/x")


@pytest.fixture
def dripping(server):
    """Let the server send one byte after the other, in ``headers`` or ``body``, to the end."""
    begun, stop = threading.Event(), threading.Event()

    def start(part):
        def drip(handler):
            begun.set()
            head = b"Content-Length: 1000000\r\n\r\n" if part == "body" else b"X: "
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + head)
            while not stop.wait(0.05):
                handler.wfile.write(b" ")
                handler.wfile.flush()

        server.answers["/x"] = drip
        return begun

    yield start
    stop.set()


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_slow_drip_is_cut_off(server, make_session, dripping, part):
    dripping(part)
    with pytest.raises(RequestTimeoutError):
        make_session(attempts=1, read=30.0, total=0.3).get_json(f"{server.url}/x")


@pytest.mark.parametrize("part", ["headers", "body"])
def test_an_aborted_session_reads_no_more_of_a_slow_drip(server, make_session, dripping, part):
    begun = dripping(part)
    session = make_session(attempts=1, read=36_000.0, total=36_000.0)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(session.get_json, f"{server.url}/x")
        assert begun.wait(600)
        session.abort()
        with pytest.raises(RequestTimeoutError):
            asking.result(600)


def test_a_server_that_says_nothing_is_given_up(server, make_session):
    gone = threading.Event()
    server.answers["/x"] = lambda handler: gone.wait(3600)
    try:
        with pytest.raises(RequestTimeoutError):
            make_session(attempts=1, read=0.2).get_json(f"{server.url}/x")
    finally:
        gone.set()


def test_an_unknown_host_is_requested_twice(make_session):
    # a label of more than 63 characters fails without a DNS request
    host = f"{'x' * 64}.invalid"
    counter = TrafficCounter()
    with count_traffic(counter), pytest.raises(UnknownHostError) as caught:
        make_session(attempts=9).get_json(f"http://{host}/api")
    assert [one.requests for one in counter.hosts().values()] == [2]
    assert str(caught.value).startswith(f"{host} cannot be reached: unknown host name (")


def test_a_host_that_replied_before_gets_all_attempts(server, make_session, monkeypatch):
    server.answers["/x"] = responds_with(200, b'"fine"', Connection="close")
    session = make_session(attempts=4)
    assert session.get_json(f"{server.url}/x") == "fine"

    def offline(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    counter = TrafficCounter()
    with count_traffic(counter), pytest.raises(UnknownHostError, match="Temporary failure"):
        session.get_json(f"{server.url}/x")
    assert [host.requests for host in counter.hosts().values()] == [4]


def test_a_connection_that_this_machine_does_not_permit_is_tried_once(make_session, monkeypatch):
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    counter = TrafficCounter()
    with count_traffic(counter), pytest.raises(UnreachableError, match="not permitted"):
        make_session(attempts=9).get_json("http://127.0.0.1:9/x")
    assert [host.requests for host in counter.hosts().values()] == [1]


def test_a_refused_connection_is_unreachable_and_no_traceback_shows_a_signed_query(make_session):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        signed = f"http://127.0.0.1:{unused.getsockname()[1]}/x?X-Amz-Signature=5ee5ee&versionId=v1"
        with pytest.raises(UnreachableError) as caught:
            make_session().get_json(signed)
    shown = "".join(traceback.format_exception(caught.value))
    assert "5ee5ee" not in shown
    assert "versionId=v1" in shown


@pytest.mark.parametrize(
    ("status", "body", "detail"),
    [
        (404, b'{"detail": "Not found."}', "Not found."),
        (410, b"<html>", None),
        (
            404,
            b'{"code": 4005, "message": "em is marked for deletion"}',
            "em is marked for deletion",
        ),
        # of a gateway
        (404, b'{"message": "Missing Authentication Token"}', None),
    ],
)
def test_404_and_410_are_not_found_with_the_detail_of_the_archive(
    server, make_session, status, body, detail
):
    server.answers["/x"] = responds_with(status, body)
    with pytest.raises(NotFoundError) as caught:
        make_session().get_json(f"{server.url}/x")
    assert caught.value.detail == detail
    with pytest.raises(NotFoundError), make_session().stream(f"{server.url}/x"):
        pass


def test_the_detail_of_a_server_is_one_line(server, make_session):
    forged = "no\r\nok         dandi:000027  restored\n\n\u2028error"
    server.answers["/json"] = responds_with(404, json.dumps({"detail": forged}).encode())
    xml = f"<Error><Code>NoSuchKey</Code><Message>{forged}</Message></Error>"
    server.answers["/xml"] = responds_with(404, xml.encode(), "application/xml")
    for path in ("json", "xml"):
        with pytest.raises(NotFoundError) as caught:
            make_session().get_json(f"{server.url}/{path}")
        assert len(str(caught.value).splitlines()) == 1
        assert "no ok dandi:000027 restored error" in str(caught.value)


def test_a_missing_token_and_a_refused_one_raise_different_messages(
    server, make_session, monkeypatch
):
    server.answers["/x"] = responds_with(
        401, b'{"detail": "Authentication credentials were not provided."}'
    )
    session = make_session(tokens={server.url: "ARCHIVE_TOKEN"})
    with pytest.raises(AccessDeniedError, match="ARCHIVE_TOKEN"):
        session.get_json(f"{server.url}/x")
    monkeypatch.setenv("ARCHIVE_TOKEN", "s3cr3t-0123456789")
    server.answers["/x"] = responds_with(403, b'{"detail": "no, not s3cr3t-0123456789"}')
    with pytest.raises(AccessDeniedError, match="ARCHIVE_TOKEN") as caught:
        session.get_json(f"{server.url}/x")
    assert "s3cr3t" not in str(caught.value) + str(caught.value.detail)
    with pytest.raises(AccessDeniedError, match=r"401|403"):
        make_session().get_json(f"{server.url}/x")


def test_the_token_goes_to_its_own_host_only(server, other_server, make_session, monkeypatch):
    monkeypatch.setenv("ARCHIVE_TOKEN", "s3cr3t-0123456789")
    session = make_session(tokens={f"{server.url}/api": "ARCHIVE_TOKEN"})
    server.answers["/here"] = responds_with(302, Location="/there")
    server.answers["/there"] = responds_with(
        302, Location=f"{other_server.url}/x?X-Amz-Signature=abc"
    )
    other_server.answers["/x"] = responds_with_json("ok")
    assert session.get_json(f"{server.url}/here") == "ok"
    sent = [
        request.headers.get("Authorization") for request in server.requests + other_server.requests
    ]
    assert sent == ["token s3cr3t-0123456789"] * 2 + [None]


def test_a_token_that_could_break_the_header_is_refused(server, make_session, monkeypatch):
    monkeypatch.setenv("ARCHIVE_TOKEN", "abc\r\nX-Evil: 1")
    session = make_session(tokens={server.url: "ARCHIVE_TOKEN"})
    with pytest.raises(ConfigurationError, match="ARCHIVE_TOKEN") as caught:
        session.get_json(f"{server.url}/x")
    assert "abc" not in str(caught.value)
    assert server.requests == []


def test_a_netrc_in_the_home_is_not_used(server, make_session, isolated_home):
    (isolated_home / ".netrc").write_text("machine 127.0.0.1 login me password pw\n")
    (isolated_home / ".netrc").chmod(0o600)
    server.answers["/x"] = responds_with_json(1)
    make_session().get_json(f"{server.url}/x")
    assert "Authorization" not in server.requests[0].headers


def test_user_info_in_an_address_is_neither_sent_nor_shown(server, make_session):
    server.answers["/x"] = responds_with(400)
    with pytest.raises(HttpError) as caught:
        make_session().get_json(f"http://me:hunter2@127.0.0.1:{server.port}/x?token=abc&page=1")
    assert "hunter2" not in str(caught.value)
    assert caught.value.url == f"{server.url}/x?page=1"
    assert "Authorization" not in server.requests[0].headers


def test_redirects_end(server, make_session):
    server.answers["/x"] = responds_with(302, Location="/x")
    session = make_session()
    for ask in (session.get_json, lambda url: session.get_bytes(url, limit=9, parse=bytes)):
        server.requests.clear()
        with pytest.raises(UnreachableError, match="10"):
            ask(f"{server.url}/x")
        assert len(server.requests) == 11


@pytest.mark.parametrize("status", [302, 404])
def test_an_address_of_any_length_makes_a_message_of_bounded_length(server, make_session, status):
    long = f"{server.url}/{'a' * 50_000}"
    server.answers["/x"] = responds_with(302, Location=long)
    server.answers[long.removeprefix(server.url)] = responds_with(
        status, Location="file:///" + "b" * 50_000
    )
    with pytest.raises(NetError) as caught:
        make_session(attempts=1).get_json(f"{server.url}/x")
    assert len(str(caught.value)) < 10_000


def test_head_gives_any_status_and_follows_nothing(server, make_session):
    server.answers["/o"] = responds_with(200, b"12345", x_amz_version_id="v1")
    server.answers["/r"] = responds_with(302, Location="/o")
    session = make_session()
    found = session.head(f"{server.url}/o")
    assert (found.status, found.headers["X-Amz-Version-Id"]) == (200, "v1")
    assert found.headers["content-length"] == "5"
    assert session.head(f"{server.url}/r").status == 302
    assert session.head(f"{server.url}/r", redirects=3).status == 200
    assert session.head(f"{server.url}/none").status == 404
    assert {request.method for request in server.requests} == {"HEAD"}
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_heads_share_a_connection(server, make_session):
    peers = set()

    def note(handler):
        peers.add(handler.client_address)
        send_reply(handler, 200)

    server.answers["/o"] = note
    session = make_session()
    for _ in range(5):
        session.head(f"{server.url}/o")
    assert len(peers) == 1


def test_a_stream_gives_the_bytes_as_they_are(server, make_session):
    body = bytes(range(256)) * 1000
    server.answers["/o"] = responds_in_turn(
        responds_with(503), responds_with(200, body, "application/x-nwb")
    )
    with make_session().stream(f"{server.url}/o") as got:
        assert got.status == 200
        assert b"".join(got.chunks) == body
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_stream_cut_short_is_an_error(server, make_session):
    def short(handler):
        send_reply(handler, 200, b"12345", Content_Length="10")
        handler.close_connection = True

    server.answers["/o"] = short
    with make_session().stream(f"{server.url}/o") as got, pytest.raises(UnreachableError):
        list(got.chunks)


def _raw(*pieces):
    def answer(handler):
        for piece in pieces:
            handler.wfile.write(piece)

    return answer


def test_interim_replies_are_passed_over_and_answer_no_other_request(server, make_session):
    body = b'{"which": "first"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
    server.answers["/first"] = _raw(hints * 3, b"HTTP/1.1 100 Continue\r\n\r\n", head, body)
    server.answers["/second"] = responds_with_json({"which": "second"})
    session = make_session(attempts=1)
    for _ in range(2):
        assert session.get_json(f"{server.url}/first") == {"which": "first"}
        assert session.get_json(f"{server.url}/second") == {"which": "second"}
    assert session.head(f"{server.url}/second").status == 200


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_interim_replies_without_end_are_given_up(server, make_session, status):
    def endless(handler):
        for _ in range(100_000):
            handler.wfile.write(b"HTTP/1.1 %s\r\n\r\n" % status * 100)
        handler.close_connection = True

    server.answers["/x"] = endless
    with pytest.raises(UnreachableError, match="interim"):
        make_session(attempts=1).get_json(f"{server.url}/x")


def test_another_protocol_is_not_switched_to(server, make_session):
    server.answers["/x"] = _raw(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n[1]")
    with pytest.raises(UnreachableError):
        make_session(attempts=1).get_json(f"{server.url}/x")


@pytest.mark.parametrize("size", [b"-5", b"-1", b"x", b"f" * 40])
def test_a_chunk_of_an_impossible_size_is_an_error(server, make_session, size):
    def answer(handler):
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n[1]\r\n0\r\n\r\n" % size
        )
        handler.close_connection = True

    server.answers["/x"] = answer
    with pytest.raises(UnreachableError):
        make_session(attempts=1).get_json(f"{server.url}/x")
    with (
        make_session(attempts=1).stream(f"{server.url}/x") as reply,
        pytest.raises(UnreachableError),
    ):
        list(reply.chunks)
