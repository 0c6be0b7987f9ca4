"""Health, metrics and connections over real sockets, and notifications to systemd."""

import errno
import http.client
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuromirror.crawl import open_recorder
from neuromirror.index import Schedule
from neuromirror.model import ConfigurationError
from neuromirror.service.health import HealthServer, Heartbeat, Readiness, SystemdNotifier
from neuromirror.service.servers import format_address, parse_listen_address, parse_site_url
from neuromirror.store import Store


@dataclass
class HealthProbe:
    """A server, and what it looks at."""

    now: float = 0.0
    problems: list[str] = field(default_factory=list)
    page: bytes = b"figures 1\n"
    address: tuple[str, int] = ("", 0)

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request(method, path)
        reply = connection.getresponse()
        found = reply.status, reply.read().decode()
        connection.close()
        return found


@pytest.fixture
def probe() -> Iterator[HealthProbe]:
    probe = HealthProbe()
    pulse = Heartbeat(limit=30, clock=lambda: probe.now)
    with HealthServer(
        ("127.0.0.1", 0),
        heartbeat=pulse,
        problems=lambda: probe.problems,
        metrics=lambda: probe.page,
    ) as server:
        probe.address = server.address
        yield probe


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return _made(tmp_path / "store")


def _made(folder: Path) -> Store:
    store = Store.open(folder, create=True)
    with open_recorder(store, store.index_path):
        pass
    return store


def test_healthz_reports_whether_the_service_loop_runs(probe: HealthProbe) -> None:
    assert probe.get("/healthz") == (200, "ok\n")
    probe.now = 42
    status, text = probe.get("/healthz")
    assert status == 503
    assert "42 s" in text
    # readiness is another matter
    assert probe.get("/readyz") == (200, "ok\n")


def test_readyz_reports_problems(probe: HealthProbe) -> None:
    probe.problems = [
        "stopping: no new jobs are started",
        "index: cannot be read (IndexMissingError)",
    ]
    status, text = probe.get("/readyz")
    assert (status, text.splitlines()) == (503, probe.problems)
    assert probe.get("/healthz") == (200, "ok\n")


def test_slow_clients_delay_no_other_client(probe: HealthProbe) -> None:
    with ExitStack() as slow:
        for _ in range(20):
            one = slow.enter_context(socket.create_connection(probe.address))
            one.sendall(b"GET /healthz HTTP/1.0\r\nX-")
        assert probe.get("/healthz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("metrics.example.org:80", ("metrics.example.org", 80)),
    ],
)
def test_addresses_are_understood(text: str, address: tuple[str, int]) -> None:
    assert parse_listen_address(text) == address
    assert parse_listen_address(format_address(address)) == address


@pytest.mark.parametrize(
    "text", ["", "9464", "localhost", "localhost:", "::1:9464x", "h:70000", "h:80/x", "u@h:80"]
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="host:port"):
        parse_listen_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "mirror.example.org",
        "ftp://h",
        "https://",
        "https://u@h",
        "https://h/?a",
        "http://[::1",
        "/",
    ],
)
def test_an_invalid_site_url_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(repr(text))):
        parse_site_url(text)


# --- readiness


def test_a_whole_store_is_ready_until_it_stops(store: Store) -> None:
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        before = _files(store)
        assert readiness.problems() == []
        assert _files(store) == before
        readiness.stop()
        (problem,) = readiness.problems()
        assert problem.startswith("stopping:")


def _files(store: Store) -> list[str]:
    """All but those that SQLite makes when a database is read."""
    names = (path.name for path in store.schedule_path.parent.iterdir())
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


def test_a_full_disk_is_not_ready(mount_disk: Callable[[str], Path]) -> None:
    store = _made(mount_disk("4m") / "store")
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        assert readiness.problems() == []
        _fill(store.root / "ballast")
        (problem,) = readiness.problems()
        assert problem.startswith("store:")
        assert os.strerror(errno.ENOSPC) in problem


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_damaged_index_is_not_ready(store: Store) -> None:
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        store.index_path.write_bytes(b"no database" * 1000)
        (problem,) = readiness.problems()
        assert (problem[:6], "IndexDamagedError" in problem) == ("index:", True)


def test_a_damaged_schedule_is_not_ready(store: Store) -> None:
    Schedule.open(store.schedule_path).close()
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        size = store.schedule_path.stat().st_size
        with store.schedule_path.open("r+b") as file:
            file.seek(4096)
            file.write(b"x" * (size - 4096))
        (problem,) = readiness.problems()
        assert (problem[:9], "IndexDamagedError" in problem) == ("schedule:", True)


# --- many clients


def eventually(holds: object) -> None:
    until = time.monotonic() + 600
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)


def request_health(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=60) as one:
        one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return one.recv(1 << 12)


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


# --- systemd


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
