"""Which URLs may be requested, and the redaction of URLs."""

import socket
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromirror.model.archive_metadata import plain_text, split_person_names
from neuromirror.net import (
    ConnectionFactory,
    RequestLimits,
    RequestPolicy,
    Session,
    UnreachableError,
    UnsafeAddressError,
    clean_url,
    is_local_name,
    only_host_of,
    redact,
)
from neuromirror.sources.dandi.versions import clean, may_need_cleaning
from neuromirror.sources.s3.sidecars import without_secrets
from support.stub_server import StubServer, responds_with, responds_with_json

SIGNED = (
    "https://me:pw@bucket.s3.amazonaws.com/a%20b/c+d?versionId=v.1&X-Amz-Algorithm=AWS4"
    "&X-Amz-Signature=5ee5&x-amz-security-token=t&response-content-disposition=x&AWSAccessKeyId=AK"
    "&Signature=s&Expires=1&page=2#part"
)


def test_a_clean_url_keeps_the_version_and_nothing_secret():
    assert clean_url(SIGNED) == "https://bucket.s3.amazonaws.com/a%20b/c+d?versionId=v.1&page=2"


def test_a_shared_access_signature_is_removed_but_its_parameters_stay_without_one():
    assert clean_url("https://h/x?sv=2020&sp=r&sig=abc&v=1") == "https://h/x?v=1"
    assert clean_url("https://h/x?sp=r&v=1") == "https://h/x?sp=r&v=1"


@pytest.mark.parametrize("name", ["Token", "X%2DAmz%2DSignature", "access_token", "SIG", "sig+"])
def test_spelling_does_not_hide_a_secret(name):
    assert clean_url(f"https://h/x?{name}=secret&a=1") == "https://h/x?a=1"


@given(st.text(alphabet="abcXYZ-_.~/%20?&=+:,;()!$'*", max_size=60))
def test_cleaning_twice_changes_nothing_more(rest):
    url = f"https://host.example/{rest}"
    once = clean_url(url)
    assert clean_url(once) == once


def test_messages_are_redacted_wherever_the_secret_stands():
    text = redact(
        f"failed ({SIGNED}), then /blobs/x?X-Amz-Signature=abc&versionId=7"
        " with Authorization: token 0123abcd and Bearer eyJ0.abc, token=zzz"
    )
    assert "https://bucket.s3.amazonaws.com/a%20b/c+d?versionId=v.1&page=2" in text
    assert "versionId=7" in text
    for secret in ("5ee5", "=abc", "0123abcd", "eyJ0", "zzz", "pw@"):
        assert secret not in text


@pytest.mark.parametrize(
    "text",
    [
        '{"token": "HUSH", "path": "x"}',
        "{'password': 'HUSH and HUSH'}",
        'password=\'HUSH\' api_key = "HUSH\\"HUSH"',
        'Authorization: Basic "HUSH=="',
        "ssh://me:HUSH@host/x and git+ssh://me:HUSH@host and postgresql://:HUSH@db",
        "https://a/x?next=https%3A%2F%2Fs3%2Fb%3FX-Amz-Signature%3DHUSH%26versionId%3Dv3",
        "https%3A%2F%2Fs3%2Fb%3Fversion%3D3%26sig%3DHUSH",
        "x=https%253A%252F%252Fh%252F%253Ftoken%253DHUSH",
        "to=ssh%3A%2F%2Fme%3AHUSH%40host",
    ],
)
def test_secrets_in_quotes_and_within_other_urls_are_redacted(text):
    assert "HUSH" not in redact(text)
    assert "versionId" not in text or "versionId%3Dv3" in redact(text)


def test_ordinary_text_is_not_redacted():
    text = "a token is needed: see https://docs.example/x?page=1, then the code expires; ssh://git@host:22/x"
    assert redact(text) == text


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "gopher://host/",
        "/relative",
        "http://",
        "http://[::1",
        "http://host:99999/x",
        "data:,x",
    ],
)
def test_only_http_urls_are_requested(make_session, url):
    with pytest.raises(UnsafeAddressError):
        make_session().get_json(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "localhost",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[fec0::1]",
        "[fd00:ec2::254]",
        "224.0.0.1",
    ],
)
def test_no_address_of_this_machine_or_network_is_requested(make_session, host):
    with pytest.raises(UnsafeAddressError):
        make_session(allow_private=False).head(f"http://{host}:1/x")


METADATA_ADDRESSES = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.169.254.",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "100.100.100.200",
    "0x646464c8",
    "[::ffff:100.100.100.200]",
    "[64:ff9b::6464:64c8]",
    "[2002:6464:64c8::1]",
    "192.0.0.192",
    "0300.0.0.0300",
    "168.63.129.16",
    "[fe80::1]",
    "[fe80::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "[FD00:0EC2:0:0::254]",
    "[fd00:42::42]",
    "[fd00:100::100:200]",
    "[fd00:a9fe:a9fe::1]",
    "[fd00:c1::a9fe:a9fe]",
    "[fd20:ce::254]",
    "0.0.0.0",
]
METADATA_NAMES = [
    *("metadata.google.internal", "METADATA.google.internal.", "metadata.goog", "metadata"),
    *("instance-data.ec2.internal", "metadata.tencentyun.com"),
]


@pytest.fixture
def no_network(monkeypatch):
    """Record connection attempts, and resolve every name to a given address."""
    connected = []
    real = socket.getaddrinfo

    def resolve(host, port, *args, **named):
        known = "8.8.8.8" if host.rstrip(".").lower() in METADATA_NAMES else host
        return real(known, port, *args, **named)

    def connect(address, *_args, **_named):
        connected.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr("neuromirror.net.guarded_connections.create_connection", connect)
    return connected


def refuse(session, url):
    """Check that a session and its persistent connections refuse a URL; return the error."""
    with pytest.raises(UnsafeAddressError) as caught:
        session.head(url, redirects=1)
    connection = ConnectionFactory(lambda url: session).new_connection()
    with pytest.raises(UnsafeAddressError), connection.stream(url):
        pass
    return caught.value


@pytest.mark.parametrize("host", [*METADATA_ADDRESSES, *METADATA_NAMES])
def test_metadata_services_are_never_requested(server, make_session, no_network, monkeypatch, host):
    session = make_session(allow_private=True, attempts=1)
    assert refuse(session, f"http://{host}:1/x").always_refused
    assert no_network == []
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert refuse(session, f"http://{host}:1/x").always_refused
    assert server.requests == []


@pytest.mark.parametrize(
    "target",
    [
        *(
            "http://169.254.169.254/latest/meta-data/",
            "//169.254.169.254/x",
            "http://0xc00000c0:1/x",
        ),
        *(
            "file:///etc/passwd",
            "http://100.100.100.200:1/x",
            "http://metadata.google.internal:1/x",
        ),
    ],
)
def test_a_redirect_to_a_forbidden_address_is_not_followed(server, make_session, target):
    server.answers["/x"] = responds_with(302, Location=target)
    refuse(make_session(attempts=1), f"{server.url}/x")
    assert len(server.requests) == 2


def test_a_name_that_resolves_to_this_machine_is_refused(server, make_session, monkeypatch):
    server.answers["/x"] = responds_with_json("reached")
    real = socket.getaddrinfo

    def resolve(host, port, *args, **named):
        return real("127.0.0.1" if host == "archive.example" else host, port, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"http://archive.example:{server.port}/x"
    with pytest.raises(UnsafeAddressError, match=r"archive\.example.* 127\.0\.0\.1 "):
        make_session(allow_private=False).get_json(url)
    assert server.requests == []
    assert make_session().get_json(url) == "reached"


def test_a_name_is_resolved_once_so_that_rebinding_gains_nothing(make_session, monkeypatch):
    """The connection uses the checked address, not the result of another lookup."""
    answers = iter(["8.8.8.8", "127.0.0.1", "127.0.0.1", "127.0.0.1"])
    resolved, connected = [], []

    def resolve(host, port, *_args, **_named):
        resolved.append(next(answers))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (resolved[-1], port))]

    def connect(address, *_args, **_named):
        connected.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("neuromirror.net.guarded_connections.create_connection", connect)
    with pytest.raises(UnreachableError):
        make_session(allow_private=False, attempts=1).get_json("http://archive.example:8000/x")
    assert resolved == ["8.8.8.8"]
    assert connected == [("8.8.8.8", 8000)]


def test_one_forbidden_address_among_good_ones_is_enough_to_refuse(make_session, monkeypatch):
    def resolve(host, port, *_args, **_named):
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("8.8.8.8", port)), (*kind, ("10.1.2.3", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(UnsafeAddressError, match="private network"):
        make_session(allow_private=False).get_json("http://archive.example:8000/x")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("x.localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("192.168.0.3", True),
        ("fec0::1", True),
        ("api.dandiarchive.org", False),
        ("8.8.8.8", False),
        ("localhost.example", False),
    ],
)
def test_local_names_are_known_without_dns(host, local):
    assert is_local_name(host) is local


@pytest.fixture
def restricted_session(server: StubServer) -> Session:
    """Return a session that may request one server on this machine."""
    return Session(limits=RequestLimits(attempts=1), is_private_allowed=only_host_of(server.url))


def test_a_redirect_to_another_private_address_is_not_followed(
    server: StubServer, other_server: StubServer, restricted_session: Session
) -> None:
    server.answers["/away"] = responds_with(302, Location=f"{other_server.url}/x")
    server.answers["/here"] = responds_with(302, Location="/x")
    server.answers["/x"] = other_server.answers["/x"] = responds_with_json("reached")
    with pytest.raises(UnsafeAddressError, match="this machine itself"):
        restricted_session.get_json(f"{server.url}/away")
    connection = ConnectionFactory(lambda url: restricted_session).new_connection()
    for one in (restricted_session, connection):
        with pytest.raises(UnsafeAddressError), one.stream(f"{server.url}/away"):
            pass
    assert restricted_session.get_json(f"{server.url}/here") == "reached"
    assert other_server.requests == []


def test_the_restriction_applies_to_derived_sessions(
    server: StubServer, other_server: StubServer, restricted_session: Session
) -> None:
    server.answers["/x"] = other_server.answers["/x"] = responds_with_json("reached")
    for session in (
        restricted_session.anonymous(),
        restricted_session.with_policy(RequestPolicy(contact="mailto:me@example.org")),
    ):
        assert session.get_json(f"{server.url}/x") == "reached"
        with pytest.raises(UnsafeAddressError):
            session.get_json(f"{other_server.url}/x")
    assert other_server.requests == []


def test_the_restriction_applies_to_ip_literals_behind_a_proxy(
    server: StubServer,
    other_server: StubServer,
    restricted_session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", other_server.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(UnsafeAddressError):
        restricted_session.get_json(f"http://127.0.0.1:{server.port + 1}/x")
    with pytest.raises(UnsafeAddressError):
        restricted_session.get_json("http://localhost:1/x")
    assert other_server.requests == []


SHORT, LONG = 1_000, 16_000


def of_sidecar(text: str) -> object:
    return without_secrets(b'"%s"' % text.encode())


TEXTS: dict[str, tuple[Callable[[str], object], Callable[[int], str]]] = {
    "addresses": (clean, lambda count: "http://a?x" * count),
    "addresses without a query": (may_need_cleaning, lambda count: "=" + "https://a" * count),
    "addresses in a sidecar": (of_sidecar, lambda count: "s3://a?x " * 2 + "s3://a?x" * count),
    "schemes in a sidecar": (of_sidecar, lambda count: "://" + "a.b" * count),
    "scripts": (plain_text, lambda count: "<script>" * count),
    "scripts without an end": (plain_text, lambda count: "<script " * count),
    "spaces": (split_person_names, lambda count: "A" + " " * count + "B"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_sixteen_times_the_length_takes_no_more_than_its_share(name: str) -> None:
    read, text = TEXTS[name]

    def seconds(count: int) -> float:
        made = text(count)
        began = time.process_time()
        read(made)
        return time.process_time() - began

    # in quadratic time it would take 256 times as long
    assert seconds(LONG) < 1.0 + 64 * seconds(SHORT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see http://u:p@h/x now", "see http://h/x now"),
        ("http://h/x?a=1&token=t2 and http://k", "http://h/x?a=1 and http://k"),
        ("http://a,http://u:p@h/x", "http://a,http://h/x"),
        ("http://[u@x", "***"),
        ("no http:// address", "no http:// address"),
    ],
)
def test_secrets_are_removed(text: str, expected: str) -> None:
    assert clean({"a": [text]}) == {"a": [expected]}
