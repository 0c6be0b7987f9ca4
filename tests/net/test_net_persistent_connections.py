"""Persistent connections, and the fallback to the session."""

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

from neuromirror.net import (
    AccessDeniedError,
    ConnectionFactory,
    IncompleteResponseError,
    NotFoundError,
    PersistentConnection,
    RequestTimeoutError,
    Session,
    TrafficCounter,
    UnreachableError,
    UnsafeAddressError,
    count_traffic,
)
from support.loopback_http import QuietHandler, send_reply
from support.stub_server import StubServer, responds_in_turn, responds_with

LONG = bytes(range(256)) * 12_000  # longer than the buffer of a connection


@pytest.fixture
def connection(make_session: Callable[..., Session]) -> PersistentConnection:
    session = make_session()
    return ConnectionFactory(lambda url: session).new_connection()


def download(connection: PersistentConnection, url: str, **options: object) -> bytes:
    with connection.stream(url, **options) as body:  # type: ignore[arg-type]
        return b"".join(bytes(piece) for piece in body.chunks)


def count_connections(server: StubServer) -> Callable[[], int]:
    """Count the connections opened from now on."""
    seen: set[object] = set()
    for path, answer in list(server.answers.items()):

        def noting(handler: BaseHTTPRequestHandler, answer=answer) -> None:  # type: ignore[no-untyped-def]
            seen.add(handler.client_address)
            answer(handler)

        server.answers[path] = noting
    return lambda: len(seen)


def test_many_bodies_come_over_one_connection(
    server: StubServer, connection: PersistentConnection
) -> None:
    server.answers = {
        f"/{number}": responds_with(200, b"%d" % number * 1000) for number in range(20)
    }
    opened = count_connections(server)
    assert [download(connection, f"{server.url}/{n}") for n in range(20)] == [
        b"%d" % n * 1000 for n in range(20)
    ]
    assert opened() == 1


def test_a_body_longer_than_the_buffer_comes_in_pieces(
    server: StubServer, connection: PersistentConnection
) -> None:
    server.answers["/long"] = responds_with(200, LONG)
    digest = hashlib.sha256()
    with connection.stream(f"{server.url}/long") as body:
        assert (body.start, body.length) == (0, len(LONG))
        pieces = 0
        for piece in body.chunks:
            digest.update(piece)
            pieces += 1
    assert digest.digest() == hashlib.sha256(LONG).digest()
    assert pieces > 1


def test_an_empty_body_is_received(server: StubServer, connection: PersistentConnection) -> None:
    server.answers = {"/empty": responds_with(200), "/next": responds_with(200, b"next")}
    assert download(connection, f"{server.url}/empty") == b""
    assert download(connection, f"{server.url}/next") == b"next"


def test_a_body_that_is_not_read_to_its_end_does_not_spoil_the_next(
    server: StubServer, connection: PersistentConnection
) -> None:
    server.answers = {"/long": responds_with(200, LONG), "/next": responds_with(200, b"next")}
    with connection.stream(f"{server.url}/long") as body:
        next(body.chunks)
    assert download(connection, f"{server.url}/next") == b"next"


def test_a_partial_response_states_its_offset(
    server: StubServer, connection: PersistentConnection
) -> None:
    def part(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Range"] == "bytes=4-"
        send_reply(handler, 206, b"efgh", Content_Range="bytes 4-7/8")

    server.answers["/x"] = part
    with connection.stream(f"{server.url}/x", start=4) as body:
        assert (body.start, body.length) == (4, 4)
        assert b"".join(map(bytes, body.chunks)) == b"efgh"


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(
    server: StubServer, connection: PersistentConnection
) -> None:
    def once(handler: BaseHTTPRequestHandler) -> None:
        send_reply(handler, 200, b"once")
        handler.close_connection = True

    server.answers["/x"] = once
    assert download(connection, f"{server.url}/x") == b"once"
    time.sleep(0.05)
    assert download(connection, f"{server.url}/x") == b"once"


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (403, AccessDeniedError)])
def test_an_error_status_raises_the_error_of_the_session(
    server: StubServer, connection: PersistentConnection, status: int, error: type[Exception]
) -> None:
    server.answers["/x"] = responds_with(status, b'{"detail": "never"}')
    with pytest.raises(error, match="never"):
        download(connection, f"{server.url}/x")


def test_transient_errors_are_retried(server: StubServer, connection: PersistentConnection) -> None:
    server.answers["/x"] = responds_in_turn(
        responds_with(503), responds_with(429), responds_with(200, b"there")
    )
    assert download(connection, f"{server.url}/x") == b"there"


def test_a_body_in_chunks_is_read_too(server: StubServer, connection: PersistentConnection) -> None:
    def chunks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    server.answers["/x"] = chunks
    assert download(connection, f"{server.url}/x") == b"abcde"


def test_a_truncated_body_yields_the_received_bytes_and_fails(
    server: StubServer, connection: PersistentConnection
) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 600)
        handler.close_connection = True

    server.answers["/x"] = cut
    with connection.stream(f"{server.url}/x") as body:
        assert bytes(next(body.chunks)) == b"x" * 600
        with pytest.raises(IncompleteResponseError, match="600 bytes"):
            next(body.chunks)


def test_no_message_holds_a_secret(server: StubServer, connection: PersistentConnection) -> None:
    server.answers["/x"] = responds_with(404)
    with pytest.raises(NotFoundError) as raised:
        download(connection, f"{server.url}/x?X-Amz-Signature=hush-hush")
    assert "hush-hush" not in str(raised.value)


def test_a_server_that_drips_is_cut_off(
    server: StubServer, make_session: Callable[..., Session]
) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * 10)
            time.sleep(0.02)

    server.answers["/x"] = drip
    session = make_session(read=0.1)
    connection = ConnectionFactory(lambda url: session).new_connection()
    with pytest.raises(RequestTimeoutError):
        download(connection, f"{server.url}/x", total=0.3)


def test_a_redirect_is_followed_with_the_session_of_each_address(
    server: StubServer, other_server: StubServer, make_session: Callable[..., Session]
) -> None:
    server.answers["/x"] = responds_with(302, Location=f"{other_server.url}/y")
    other_server.answers["/y"] = responds_with(200, b"moved")
    sessions = {server.url: make_session(), other_server.url: make_session(allow_private=False)}
    connection = ConnectionFactory(lambda url: sessions[url.rpartition("/")[0]]).new_connection()
    with pytest.raises(UnsafeAddressError):
        download(connection, f"{server.url}/x")
    assert other_server.requests == []
    sessions[other_server.url] = make_session()
    assert download(connection, f"{server.url}/x") == b"moved"


def test_headers_stay_with_the_origin_they_are_for(
    server: StubServer, other_server: StubServer, connection: PersistentConnection
) -> None:
    server.answers["/x"] = responds_with(302, Location=f"{other_server.url}/y")
    other_server.answers["/y"] = responds_with(200, b"moved")
    assert download(connection, f"{server.url}/x", headers={"X-Key": "hush"}) == b"moved"
    assert server.requests[0].headers["X-Key"] == "hush"
    assert "X-Key" not in other_server.requests[0].headers


def test_endless_redirects_end(server: StubServer, connection: PersistentConnection) -> None:
    server.answers["/x"] = responds_with(302, Location="/x")
    with pytest.raises(UnreachableError, match="redirects more than"):
        download(connection, f"{server.url}/x")


def test_a_url_with_unusual_characters_is_requested_by_the_session(
    server: StubServer, connection: PersistentConnection
) -> None:
    server.answers["/a%20b"] = responds_with(200, b"odd")
    assert download(connection, f"{server.url}/a b") == b"odd"


def test_requests_and_bytes_are_counted(
    server: StubServer, connection: PersistentConnection
) -> None:
    server.answers["/x"] = responds_with(200, b"x" * 500)
    counter = TrafficCounter()
    with count_traffic(counter):
        download(connection, f"{server.url}/x")
        download(connection, f"{server.url}/x")
    (host,) = counter.hosts().values()
    assert (host.requests, host.bytes) == (2, 1000)


def test_no_more_requests_than_allowed_are_at_a_host_at_a_time(
    server: StubServer, make_session: Callable[..., Session]
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
        send_reply(handler, 200, b"x")

    server.answers["/x"] = slow
    session = make_session(per_host=2)
    factory = ConnectionFactory(lambda url: session)
    threads = [
        threading.Thread(target=lambda: download(factory.new_connection(), f"{server.url}/x"))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(at_once) <= 2


def test_a_connection_can_be_aborted_from_another_thread(
    server: StubServer, connection: PersistentConnection
) -> None:
    begun, over = threading.Event(), threading.Event()

    def never(handler: BaseHTTPRequestHandler) -> None:
        begun.set()
        over.wait(3600)

    server.answers |= {"/x": never, "/first": responds_with(200, b"first")}
    assert download(connection, f"{server.url}/first") == b"first"
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            download(connection, f"{server.url}/x")
        except IncompleteResponseError as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(600)
    connection.abort()
    asking.join(600)
    over.set()
    assert not asking.is_alive()
    assert len(raised) == 1


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve over TLS; yields the server and its certificate."""
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

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            send_reply(self, 200, LONG)

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


def test_a_body_comes_through_tls_where_the_certificate_is_trusted(
    tls_server: tuple[str, Path], connection: PersistentConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = tls_server
    with pytest.raises(UnreachableError):
        download(connection, url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    fresh = ConnectionFactory(connection._factory.session_for).new_connection()
    assert download(fresh, url) == LONG
    assert len(fresh._idle_sockets) == 1
    assert download(fresh, url) == LONG
