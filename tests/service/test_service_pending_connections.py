"""Silent clients are disconnected and do not block others."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from neuromirror.service.health import MAX_PENDING, HealthServer, Heartbeat, PendingConnections

CROWD = 200


@contextmanager
def silent_connections(
    address: tuple[str, int], first_bytes: bytes = b""
) -> Iterator[list[socket.socket]]:
    """Connections whose peers say no more than this."""
    with ExitStack() as stack:
        found = []
        for _ in range(CROWD):
            one = stack.enter_context(socket.create_connection(address, timeout=60))
            with suppress(OSError):
                one.sendall(first_bytes)
            found.append(one)
        yield found


def eventually(holds: object) -> None:
    until = time.monotonic() + 600
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)


def is_cut_off(one: socket.socket, drip: bytes) -> bool:
    """Whether a peer that sends a byte now and then is disconnected; waits for it."""
    one.settimeout(0.05)
    until = time.monotonic() + 600
    while time.monotonic() < until:
        try:
            one.sendall(drip)
            if not one.recv(1 << 12):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@contextmanager
def health() -> Iterator[tuple[str, int]]:
    with HealthServer(
        ("127.0.0.1", 0), heartbeat=Heartbeat(1e9), problems=list, metrics=bytes
    ) as server:
        yield server.address


def request_health(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=60) as one:
        one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return one.recv(1 << 12)


@pytest.mark.parametrize("first_bytes", [b"", b"GET /healthz HTTP/1.1\r\nX-"])
def test_silent_peers_block_no_health_request(first_bytes: bytes) -> None:
    with health() as address:
        before = threading.active_count()
        with silent_connections(address, first_bytes):
            eventually(lambda: threading.active_count() - before <= MAX_PENDING + 1)
            assert request_health(address).startswith(b"HTTP/1.0 200")


@pytest.mark.parametrize("drip", [b"", b"X"])
def test_a_client_that_sends_a_byte_at_a_time_is_cut_off(
    drip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.service.health._CLIENT_TIMEOUT", 0.5)
    with health() as address, socket.create_connection(address) as one:
        assert is_cut_off(one, drip)


def test_pages_are_made_a_few_at_a_time() -> None:
    go = threading.Event()

    def slow() -> bytes:
        go.wait(3600)
        return b"x 1\n"

    with HealthServer(
        ("127.0.0.1", 0), heartbeat=Heartbeat(1), problems=list, metrics=slow
    ) as server:
        with ExitStack() as stack:
            for _ in range(8):
                one = stack.enter_context(socket.create_connection(server.address, timeout=60))
                one.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            eventually(lambda: request_health(server.address).startswith(b"HTTP/1.0 503"))
            go.set()
        eventually(lambda: request_health(server.address).startswith(b"HTTP/1.0 200"))


def test_the_longest_waiting_goes_first() -> None:
    now = [0.0]
    admission = PendingConnections(limit=2, seconds=10, clock=lambda: now[0])
    pairs = [socket.socketpair() for _ in range(4)]
    for ours, _ in pairs[:3]:
        admission.add(ours)
    assert pairs[0][1].recv(1) == b""
    assert admission.discard(pairs[1][0])
    assert not admission.discard(pairs[0][0])
    now[0] = 5.0
    admission.add(pairs[3][0])
    now[0] = 11.0
    admission.cut_off_overdue()
    assert pairs[2][1].recv(1) == b""
    assert len(admission) == 1
    for pair in pairs:
        for one in pair:
            one.close()
