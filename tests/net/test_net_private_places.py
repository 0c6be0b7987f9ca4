"""Who may ask one address of a private network may not be led on to its neighbours."""

from __future__ import annotations

import pytest
from net_loopback import Loopback, gives, value

from neuromirror.net import Lanes, Limits, Manners, Session, UnsafeAddress, only_at


@pytest.fixture
def bound(server: Loopback) -> Session:
    """A session that may ask one server of this machine."""
    return Session(limits=Limits(attempts=1), private_at=only_at(server.url))


def test_a_redirect_to_another_private_address_is_not_followed(
    server: Loopback, other: Loopback, bound: Session
) -> None:
    server.answers["/away"] = gives(302, Location=f"{other.url}/x")
    server.answers["/here"] = gives(302, Location="/x")
    server.answers["/x"] = other.answers["/x"] = value("reached")
    with pytest.raises(UnsafeAddress, match="this machine itself"):
        bound.get_json(f"{server.url}/away")
    with pytest.raises(UnsafeAddress), bound.stream(f"{server.url}/away"):
        pass
    assert bound.get_json(f"{server.url}/here") == "reached"
    assert other.asked == []


def test_it_holds_for_sessions_made_of_it_too(
    server: Loopback, other: Loopback, bound: Session
) -> None:
    server.answers["/x"] = other.answers["/x"] = value("reached")
    for session in (bound.anonymous(), bound.politely(Manners(contact="mailto:me@example.org"))):
        assert session.get_json(f"{server.url}/x") == "reached"
        with pytest.raises(UnsafeAddress):
            session.get_json(f"{other.url}/x")
    assert other.asked == []


def test_it_holds_behind_a_proxy_where_the_address_is_written_out(
    server: Loopback, other: Loopback, bound: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", other.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(UnsafeAddress):
        bound.get_json(f"http://127.0.0.1:{server.port + 1}/x")
    with pytest.raises(UnsafeAddress):
        bound.get_json("http://localhost:1/x")
    assert other.asked == []


def test_it_holds_for_lanes_too(server: Loopback, other: Loopback, bound: Session) -> None:
    server.answers["/away"] = gives(302, Location=f"{other.url}/x")
    other.answers["/x"] = value("reached")
    lane = Lanes(lambda url: bound).lane()
    with pytest.raises(UnsafeAddress), lane.body(f"{server.url}/away"):
        pass
    assert other.asked == []
