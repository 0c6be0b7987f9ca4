"""A permission for one address of a private network does not extend to others."""

from __future__ import annotations

import pytest

from neuromirror.net import (
    ConnectionFactory,
    RequestLimits,
    RequestPolicy,
    Session,
    UnsafeAddressError,
    only_host_of,
)
from support.stub_server import StubServer, responds_with, responds_with_json


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
