"""Who asks, and how hard: what an operator can set."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from net_loopback import reply, value

from neuromirror import __version__
from neuromirror.net import Manners, checked_contact

CONTACT = "mailto:mirror@institute.example"


def crowd(server, delay: float):
    """An answer that takes a while; gives how many were under way at a time."""
    lock, now, most = threading.Lock(), [0], [0]

    def answer(handler) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(delay)
        with lock:
            now[0] -= 1
        reply(handler, 200, b"1")

    server.answers["/x"] = answer
    return most


def ask_at_once(session, url: str, times: int) -> list[object]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: session.get_json(url), range(times)))


def test_a_contact_is_in_the_agent_string_of_every_request(server, quick):
    session = quick().politely(Manners(contact=CONTACT))
    server.answers["/x"] = value(1)
    session.get_json(f"{server.url}/x")
    session.head(f"{server.url}/x")
    with session.anonymous() as stranger:
        stranger.get_json(f"{server.url}/x")
    agents = {one.headers["User-Agent"] for one in server.asked}
    assert agents == {f"neuromirror/{__version__} (+{CONTACT})"}


def test_without_a_contact_the_agent_string_names_no_address(server, quick):
    server.answers["/x"] = value(1)
    quick().politely(Manners()).get_json(f"{server.url}/x")
    assert server.asked[0].headers["User-Agent"] == f"neuromirror/{__version__}"


@pytest.mark.parametrize(
    "contact", [CONTACT, "https://institute.example/mirror", "http://[::1]:80/", "mailto:a+b@c"]
)
def test_mail_and_web_addresses_are_contacts(contact):
    assert checked_contact(contact) == contact


@pytest.mark.parametrize(
    ("contact", "words"),
    [
        ("", "plain letters"),
        ("me", "mailto:"),
        ("me@institute.example", "mailto:"),
        ("mailto:", "mailto:"),
        ("mailto:a@b?subject=x", "mailto:"),
        ("ftp://institute.example", "mailto:"),
        ("https://", "mailto:"),
        ("https://[institute/", "mailto:"),
        ("https://institute.example/a b", "plain letters"),
        ("https://institute.example/\r\nX-Header:1", "plain letters"),
        ("https://institute.example/\x00", "plain letters"),
        ("https://institute.example/ü", "plain letters"),
        ("https://institute.example/)(", "plain letters"),
        (f"https://institute.example/{'x' * 200}", "200"),
        ("https://me:hunter2@institute.example/", "secret"),
        ("https://institute.example/?token=hunter2", "secret"),
        ("https://institute.example/?X-Amz-Signature=hunter2", "secret"),
    ],
)
def test_what_is_no_contact_is_refused_and_not_repeated(contact, words):
    with pytest.raises(ValueError, match=words) as caught:
        checked_contact(contact)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_requests_go_to_one_host_at_a_time_than_were_asked_for(server, quick, most):
    seen = crowd(server, 0.05)
    session = quick().politely(Manners(connections_per_host=most))
    assert ask_at_once(session, f"{server.url}/x", 8) == [1] * 8
    assert seen == [most]


def test_a_session_without_tokens_shares_the_places_of_the_one_it_is_of(server, quick):
    seen = crowd(server, 0.05)
    session = quick().politely(Manners(connections_per_host=1))
    with session.anonymous() as stranger, ThreadPoolExecutor(6) as pool:
        both = [session, stranger] * 3
        list(pool.map(lambda one: one.get_json(f"{server.url}/x"), both))
    assert seen == [1]


def test_a_session_without_tokens_sends_none(server, quick, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "s3cret-word")
    server.answers["/x"] = value(1)
    session = quick(tokens={server.url: "A_TOKEN"}).politely(Manners(connections_per_host=2))
    session.get_json(f"{server.url}/x")
    with session.anonymous() as stranger:
        stranger.get_json(f"{server.url}/x")
    sent = [one.headers.get("Authorization") for one in server.asked]
    assert sent == ["token s3cret-word", None]


def test_waiting_for_a_place_does_not_use_up_the_time_for_the_reply(server, quick):
    crowd(server, 0.4)
    session = quick(total=1.5, attempts=1).politely(Manners(connections_per_host=1))
    # the last one waits longer than one reply may take
    assert ask_at_once(session, f"{server.url}/x", 6) == [1] * 6


def test_waiting_for_its_turn_does_not_use_up_the_time_for_the_reply_either(server, quick):
    server.answers["/x"] = value(1)
    session = quick(total=1.0, attempts=1).politely(Manners(requests_per_second=0.8))
    assert ask_at_once(session, f"{server.url}/x", 2) == [1, 1]


def test_requests_to_a_host_begin_no_faster_than_was_asked_for(server, other, quick, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("neuromirror.net.manners.time.sleep", waits.append)
    session = quick(total=5.0, attempts=1).politely(Manners(requests_per_second=0.1))
    for one in (server, other):
        one.answers["/x"] = value(1)
    for _ in range(3):
        session.get_json(f"{server.url}/x")
    # each waits for the one before it
    assert [round(one, -1) for one in waits] == [10, 20]
    session.get_json(f"{other.url}/x")
    assert len(waits) == 2
    assert len(server.asked) == 3


def test_redirects_and_repeats_keep_the_pace_too(server, quick, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("neuromirror.net.manners.time.sleep", waits.append)
    session = quick().politely(Manners(requests_per_second=0.1))
    server.answers["/from"] = lambda handler: reply(handler, 302, Location="/x")
    server.answers["/x"] = value(1)
    session.get_json(f"{server.url}/from")
    assert [round(one, -1) for one in waits] == [10]


def test_manners_that_say_nothing_leave_a_session_as_its_source_has_it(quick):
    session = quick(per_host=40)
    assert session.politely(Manners()).limits == session.limits
    assert session.politely(Manners(requests_per_second=2.0)).limits.per_host == 40
