"""Peers that connect and do not ask: they hold nothing for long, and keep nobody out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from service_office import Office

from neuromirror.service.admission import MOST, Admission
from neuromirror.service.desk import Desk, DeskRecorder
from neuromirror.service.health import HealthServer, Pulse

CROWD = 500


@contextmanager
def crowd(address: tuple[str, int], said: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections whose peers say no more than this."""
    with ExitStack() as stack:
        found = []
        for _ in range(CROWD):
            one = stack.enter_context(socket.create_connection(address, timeout=60))
            with suppress(OSError):
                one.sendall(said)
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


def threads(name: str) -> int:
    return sum(name in one.name for one in threading.enumerate())


def test_silent_peers_keep_no_worker_from_the_write_server(office: Office) -> None:
    with Desk(office.recorder, office.schedule, "127.0.0.1") as desk:
        assert not isinstance(desk.address.place, str)
        with crowd(desk.address.place):
            eventually(lambda: threads("desk worker") <= MOST + 1)
            worker = DeskRecorder(desk.address, office.lease("demo:000001"), None)
            worker.confirm()
            worker.close()
        eventually(lambda: threads("desk worker") == 0)


@pytest.mark.parametrize("drip", [b"", b"x"])
def test_a_peer_without_the_key_is_cut_off(office: Office, drip: bytes) -> None:
    with (
        Desk(office.recorder, office.schedule, "127.0.0.1", patience=0.5) as desk,
        socket.create_connection(desk.address.place) as one,  # type: ignore[arg-type]
    ):
        worker = DeskRecorder(desk.address, office.lease("demo:000001"), None)
        # a message of 200 bytes begins
        one.sendall(b"\0\0\0\xc8")
        assert one.recv(1 << 12)
        assert is_cut_off(one, drip)
        # one that has proved that it knows the key may be silent
        time.sleep(1)
        worker.confirm()
        worker.close()


@contextmanager
def health() -> Iterator[tuple[str, int]]:
    with HealthServer(("127.0.0.1", 0), pulse=Pulse(1e9), problems=list, metrics=bytes) as server:
        yield server.address


def asked(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=60) as one:
        one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return one.recv(1 << 12)


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nX-"])
def test_silent_peers_keep_nobody_from_health(said: bytes) -> None:
    with health() as address:
        before = threading.active_count()
        with crowd(address, said):
            eventually(lambda: threading.active_count() - before <= MOST + 1)
            assert asked(address).startswith(b"HTTP/1.0 200")


@pytest.mark.parametrize("drip", [b"", b"X"])
def test_who_asks_a_byte_at_a_time_is_cut_off(drip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuromirror.service.health._SLOWEST", 0.5)
    with health() as address, socket.create_connection(address) as one:
        assert is_cut_off(one, drip)


def test_pages_are_made_a_few_at_a_time() -> None:
    go = threading.Event()

    def slow() -> bytes:
        go.wait(3600)
        return b"x 1\n"

    with HealthServer(("127.0.0.1", 0), pulse=Pulse(1), problems=list, metrics=slow) as server:
        with ExitStack() as stack:
            for _ in range(8):
                one = stack.enter_context(socket.create_connection(server.address, timeout=60))
                one.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            eventually(lambda: asked(server.address).startswith(b"HTTP/1.0 503"))
            go.set()
        eventually(lambda: asked(server.address).startswith(b"HTTP/1.0 200"))


def test_the_longest_waiting_goes_first() -> None:
    now = [0.0]
    admission = Admission(most=2, seconds=10, clock=lambda: now[0])
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
