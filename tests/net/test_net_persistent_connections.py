"""Persistent connections, and the fallback to the session."""

import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from neuromirror_demo.web import stop_serving
from support.loopback_http import QuietHandler, send_reply
from support.stub_server import (
    StubServer,
    count_concurrent_requests,
    responds_in_turn,
    responds_with,
)

LONG = bytes(range(256)) * 12_000  # longer than the buffer of a connection


@pytest.fixture
def connection(make_session: Callable[..., Session]) -> PersistentConnection:
    session = make_session()
    return ConnectionFactory(lambda url: session).new_connection()


def download(connection: PersistentConnection, url: str, **options: object) -> bytes:
    with connection.stream(url, **options) as body:  # type: ignore[arg-type]
        return b"".join(bytes(piece) for piece in body.chunks)


def test_many_bodies_come_over_one_connection_and_are_counted(
    server: StubServer, connection: PersistentConnection
) -> None:
    bodies = [b"%d" % number * 1000 for number in range(20)] + [b"", b"after an empty one"]
    peers: set[object] = set()

    def send(handler: BaseHTTPRequestHandler) -> None:
        peers.add(handler.client_address)
        send_reply(handler, 200, bodies[int(handler.path[1:])])

    server.answers = {f"/{number}": send for number in range(len(bodies))}
    counter = TrafficCounter()
    with count_traffic(counter):
        found = [download(connection, f"{server.url}/{n}") for n in range(len(bodies))]
    assert found == bodies
    assert len(peers) == 1
    (host,) = counter.hosts().values()
    assert (host.requests, host.bytes) == (len(bodies), sum(map(len, bodies)))


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
    with pytest.raises(error, match="never") as raised:
        download(connection, f"{server.url}/x?X-Amz-Signature=hush-hush")
    assert "hush-hush" not in str(raised.value)


def test_other_replies_are_those_of_the_session(
    server: StubServer, connection: PersistentConnection
) -> None:
    def chunks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    server.answers = {
        "/retried": responds_in_turn(
            responds_with(503), responds_with(429), responds_with(200, b"there")
        ),
        "/chunks": chunks,
        "/a%20b": responds_with(200, b"unusual characters"),
    }
    assert download(connection, f"{server.url}/retried") == b"there"
    assert download(connection, f"{server.url}/chunks") == b"abcde"
    assert download(connection, f"{server.url}/a b") == b"unusual characters"


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


def test_no_more_requests_than_allowed_are_at_a_host_at_a_time(
    server: StubServer, make_session: Callable[..., Session]
) -> None:
    most = count_concurrent_requests(server, 0.02)
    session = make_session(per_host=2)
    factory = ConnectionFactory(lambda url: session)
    with ThreadPoolExecutor(6) as pool:
        urls = [f"{server.url}/x"] * 6
        assert (
            list(pool.map(lambda url: download(factory.new_connection(), url), urls)) == [b"1"] * 6
        )
    assert most == [2]


def test_a_connection_can_be_aborted_from_another_thread(
    server: StubServer, connection: PersistentConnection
) -> None:
    begun, over = threading.Event(), threading.Event()

    def never(handler: BaseHTTPRequestHandler) -> None:
        begun.set()
        over.wait(3600)

    server.answers |= {"/x": never, "/first": responds_with(200, b"first")}
    assert download(connection, f"{server.url}/first") == b"first"
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(download, connection, f"{server.url}/x")
        assert begun.wait(600)
        connection.abort()
        with pytest.raises(IncompleteResponseError):
            asking.result(600)
        over.set()


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
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{httpd.server_address[1]}/x", shown
        stop_serving(httpd)
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
