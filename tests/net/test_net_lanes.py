"""Lanes: bodies over kept connections, and all that is not plain left to the session."""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from net_loopback import Loopback, gives, in_turn, reply

from neuromirror.net import (
    BrokenOff,
    Forbidden,
    Lane,
    Lanes,
    NotFound,
    Session,
    TimedOut,
    TrafficCounter,
    Unreachable,
    UnsafeAddress,
    counted,
)

LONG = bytes(range(256)) * 12_000  # longer than a lane's buffer


@pytest.fixture
def lane(quick: Callable[..., Session]) -> Lane:
    session = quick()
    return Lanes(lambda url: session).lane()


def got(lane: Lane, url: str, **options: object) -> bytes:
    with lane.body(url, **options) as body:  # type: ignore[arg-type]
        return b"".join(bytes(piece) for piece in body.pieces)


def connections(server: Loopback) -> Callable[[], int]:
    """Counts the connections that are opened from now on."""
    seen: set[object] = set()
    for path, answer in list(server.answers.items()):

        def noting(handler: BaseHTTPRequestHandler, answer=answer) -> None:  # type: ignore[no-untyped-def]
            seen.add(handler.client_address)
            answer(handler)

        server.answers[path] = noting
    return lambda: len(seen)


def test_many_bodies_come_over_one_connection(server: Loopback, lane: Lane) -> None:
    server.answers = {f"/{number}": gives(200, b"%d" % number * 1000) for number in range(20)}
    opened = connections(server)
    assert [got(lane, f"{server.url}/{n}") for n in range(20)] == [
        b"%d" % n * 1000 for n in range(20)
    ]
    assert opened() == 1


def test_a_body_longer_than_the_buffer_comes_in_pieces(server: Loopback, lane: Lane) -> None:
    server.answers["/long"] = gives(200, LONG)
    digest = hashlib.sha256()
    with lane.body(f"{server.url}/long") as body:
        assert (body.start, body.length) == (0, len(LONG))
        pieces = 0
        for piece in body.pieces:
            digest.update(piece)
            pieces += 1
    assert digest.digest() == hashlib.sha256(LONG).digest()
    assert pieces > 1


def test_an_empty_body_is_one(server: Loopback, lane: Lane) -> None:
    server.answers = {"/empty": gives(200), "/next": gives(200, b"next")}
    assert got(lane, f"{server.url}/empty") == b""
    assert got(lane, f"{server.url}/next") == b"next"


def test_a_body_that_is_not_read_to_its_end_does_not_spoil_the_next(
    server: Loopback, lane: Lane
) -> None:
    server.answers = {"/long": gives(200, LONG), "/next": gives(200, b"next")}
    with lane.body(f"{server.url}/long") as body:
        next(body.pieces)
    assert got(lane, f"{server.url}/next") == b"next"


def test_a_part_says_where_it_begins(server: Loopback, lane: Lane) -> None:
    def part(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Range"] == "bytes=4-"
        reply(handler, 206, b"efgh", Content_Range="bytes 4-7/8")

    server.answers["/x"] = part
    with lane.body(f"{server.url}/x", start=4) as body:
        assert (body.start, body.length) == (4, 4)
        assert b"".join(map(bytes, body.pieces)) == b"efgh"


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(
    server: Loopback, lane: Lane
) -> None:
    def once(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, b"once")
        handler.close_connection = True

    server.answers["/x"] = once
    assert got(lane, f"{server.url}/x") == b"once"
    time.sleep(0.05)
    assert got(lane, f"{server.url}/x") == b"once"


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (403, Forbidden)])
def test_what_is_not_there_is_told_in_the_words_of_the_session(
    server: Loopback, lane: Lane, status: int, error: type[Exception]
) -> None:
    server.answers["/x"] = gives(status, b'{"detail": "never"}')
    with pytest.raises(error, match="never"):
        got(lane, f"{server.url}/x")


def test_troubles_that_pass_are_waited_for(server: Loopback, lane: Lane) -> None:
    server.answers["/x"] = in_turn(gives(503), gives(429), gives(200, b"there"))
    assert got(lane, f"{server.url}/x") == b"there"


def test_a_body_in_chunks_is_read_too(server: Loopback, lane: Lane) -> None:
    def chunks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    server.answers["/x"] = chunks
    assert got(lane, f"{server.url}/x") == b"abcde"


def test_a_body_that_is_cut_gives_what_came_and_says_so(server: Loopback, lane: Lane) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 600)
        handler.close_connection = True

    server.answers["/x"] = cut
    with lane.body(f"{server.url}/x") as body:
        assert bytes(next(body.pieces)) == b"x" * 600
        with pytest.raises(BrokenOff, match="600 bytes"):
            next(body.pieces)


def test_no_message_holds_a_secret(server: Loopback, lane: Lane) -> None:
    server.answers["/x"] = gives(404)
    with pytest.raises(NotFound) as raised:
        got(lane, f"{server.url}/x?X-Amz-Signature=hush-hush")
    assert "hush-hush" not in str(raised.value)


def test_a_server_that_drips_is_cut_off(server: Loopback, quick: Callable[..., Session]) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * 10)
            time.sleep(0.02)

    server.answers["/x"] = drip
    session = quick(read=0.1)
    lane = Lanes(lambda url: session).lane()
    with pytest.raises(TimedOut):
        got(lane, f"{server.url}/x", total=0.3)


def test_a_redirect_is_followed_and_each_address_asks_its_own_session(
    server: Loopback, other: Loopback, quick: Callable[..., Session]
) -> None:
    server.answers["/x"] = gives(302, Location=f"{other.url}/y")
    other.answers["/y"] = gives(200, b"moved")
    sessions = {server.url: quick(), other.url: quick(allow_private=False)}
    lane = Lanes(lambda url: sessions[url.rpartition("/")[0]]).lane()
    with pytest.raises(UnsafeAddress):
        got(lane, f"{server.url}/x")
    assert other.asked == []
    sessions[other.url] = quick()
    assert got(lane, f"{server.url}/x") == b"moved"


def test_headers_stay_with_the_origin_they_are_for(
    server: Loopback, other: Loopback, lane: Lane
) -> None:
    server.answers["/x"] = gives(302, Location=f"{other.url}/y")
    other.answers["/y"] = gives(200, b"moved")
    assert got(lane, f"{server.url}/x", headers={"X-Key": "hush"}) == b"moved"
    assert server.asked[0].headers["X-Key"] == "hush"
    assert "X-Key" not in other.asked[0].headers


def test_endless_redirects_end(server: Loopback, lane: Lane) -> None:
    server.answers["/x"] = gives(302, Location="/x")
    with pytest.raises(Unreachable, match="redirects more than"):
        got(lane, f"{server.url}/x")


def test_an_address_with_odd_characters_is_asked_as_the_session_asks(
    server: Loopback, lane: Lane
) -> None:
    server.answers["/a%20b"] = gives(200, b"odd")
    assert got(lane, f"{server.url}/a b") == b"odd"


def test_what_is_asked_is_counted(server: Loopback, lane: Lane) -> None:
    server.answers["/x"] = gives(200, b"x" * 500)
    counter = TrafficCounter()
    with counted(counter):
        got(lane, f"{server.url}/x")
        got(lane, f"{server.url}/x")
    (host,) = counter.hosts().values()
    assert (host.requests, host.bytes) == (2, 1000)


def test_no_more_requests_than_allowed_are_at_a_host_at_a_time(
    server: Loopback, quick: Callable[..., Session]
) -> None:
    at_once: list[int] = []
    now = 0
    lock = threading.Lock()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        nonlocal now
        with lock:
            now += 1
            at_once.append(now)
        time.sleep(0.02)
        with lock:
            now -= 1
        reply(handler, 200, b"x")

    server.answers["/x"] = slow
    session = quick(per_host=2)
    lanes = Lanes(lambda url: session)
    threads = [
        threading.Thread(target=lambda: got(lanes.lane(), f"{server.url}/x")) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(at_once) <= 2


def test_a_lane_can_be_broken_off_from_outside(server: Loopback, lane: Lane) -> None:
    begun, over = threading.Event(), threading.Event()

    def never(handler: BaseHTTPRequestHandler) -> None:
        begun.set()
        over.wait(3600)

    server.answers |= {"/x": never, "/first": gives(200, b"first")}
    assert got(lane, f"{server.url}/first") == b"first"
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            got(lane, f"{server.url}/x")
        except BrokenOff as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(600)
    lane.break_off()
    asking.join(600)
    over.set()
    assert not asking.is_alive()
    assert len(raised) == 1


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server behind TLS, and the certificate by which it is known."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    shown, secret = tmp_path / "certificate.pem", tmp_path / "key.pem"
    shown.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            reply(self, 200, LONG)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, secret)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        yield f"https://127.0.0.1:{httpd.server_address[1]}/x", shown
        httpd.shutdown()
        thread.join()


def test_a_body_comes_through_tls_from_whom_a_certificate_vouches_for(
    secure: tuple[str, Path], lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = secure
    with pytest.raises(Unreachable):
        got(lane, url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    fresh = Lanes(lane._lanes.session_for).lane()
    assert got(fresh, url) == LONG
    assert len(fresh._kept) == 1
    assert got(fresh, url) == LONG
