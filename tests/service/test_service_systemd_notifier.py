"""Notifications to systemd, received at a socket like systemd's."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.service.health import Heartbeat, SystemdNotifier


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A socket's name, as systemd gives it, and its other end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(30)
        if request.param == "file":
            name = str(tmp_path / "notify")
            listening.bind(name)
        elif os.uname().sysname == "Linux":
            name = f"@neuromirror-test-{secrets.token_hex(8)}"
            listening.bind(f"\0{name[1:]}")
        else:
            pytest.skip("abstract sockets are Linux's alone")
        yield name, listening


def test_ready_status_and_stopping_are_sent(systemd: tuple[str, socket.socket]) -> None:
    name, listening = systemd
    notifier = SystemdNotifier.from_environment({"NOTIFY_SOCKET": name})
    notifier.ready("2 mirrors")
    notifier.status("three\nlines are\none")
    notifier.status("ä" * 10_000)
    notifier.stopping()
    assert listening.recv(4096) == b"READY=1\nSTATUS=2 mirrors"
    assert listening.recv(4096) == b"STATUS=three lines are one"
    assert listening.recv(4096) == f"STATUS={'ä' * 256}".encode()
    assert listening.recv(4096) == b"STOPPING=1"


def test_the_watchdog_is_fed_while_the_loop_turns_and_starves_when_it_hangs(
    systemd: tuple[str, socket.socket],
) -> None:
    name, listening = systemd
    now = [0.0]
    pulse = Heartbeat(limit=5, clock=lambda: now[0])
    given = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
    notifier = SystemdNotifier.from_environment(given)
    assert notifier.watchdog == 0.1
    with notifier.feed_watchdog(pulse):
        assert [listening.recv(64) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        now[0] = 6
        _receive_all(listening)
        listening.settimeout(30)
        pulse.beat()
        assert listening.recv(64) == b"WATCHDOG=1"
    _receive_all(listening)


def _receive_all(listening: socket.socket) -> None:
    # some may have been sent already
    listening.settimeout(0.3)
    for _ in range(500):
        try:
            listening.recv(64)
        except TimeoutError:
            return
    pytest.fail("the watchdog is still notified")


@pytest.mark.parametrize(
    ("given", "watchdog"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_time_is_taken_where_it_is_meant_for_this_process(
    given: dict[str, str], watchdog: float | None
) -> None:
    assert SystemdNotifier.from_environment(given).watchdog == watchdog


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative", "/nowhere/at/all"])
def test_the_service_continues_without_a_listening_systemd(name: str) -> None:
    notifier = SystemdNotifier.from_environment({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})
    with notifier.feed_watchdog(Heartbeat(limit=5)):
        notifier.ready()
        notifier.stopping("over")
