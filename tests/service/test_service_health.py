"""/healthz, /readyz and /metrics, asked over real sockets."""

from __future__ import annotations

import errno
import http.client
import io
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuromirror.crawl import open_recorder
from neuromirror.index import Schedule
from neuromirror.model import ConfigurationError
from neuromirror.service.health import HealthServer, Heartbeat, Readiness
from neuromirror.service.logs import logging_to
from neuromirror.service.server_options import format_address, parse_listen_address, parse_site_url
from neuromirror.store import Store


@dataclass
class HealthProbe:
    """A server, and what it looks at."""

    now: float = 0.0
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
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
        remarks=lambda: probe.remarks,
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


def test_readyz_reports_problems_and_lists_remarks(probe: HealthProbe) -> None:
    probe.remarks = ["degraded: the catalogue does not answer"]
    assert probe.get("/readyz") == (200, "ok\ndegraded: the catalogue does not answer\n")
    probe.problems = [
        "stopping: no new jobs are started",
        "index: cannot be read (IndexMissingError)",
    ]
    status, text = probe.get("/readyz")
    assert (status, text.splitlines()) == (503, [*probe.problems, *probe.remarks])
    assert probe.get("/healthz") == (200, "ok\n")


def test_metrics_are_given_as_they_are(probe: HealthProbe) -> None:
    assert probe.get("/metrics") == (200, "figures 1\n")
    assert probe.get("/metrics?name[]=x") == (200, "figures 1\n")
    assert probe.get("/metrics", "HEAD") == (200, "")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/etc/passwd", "/%2e%2e/healthz"])
def test_unknown_paths_of_the_health_server_are_404(probe: HealthProbe, path: str) -> None:
    assert probe.get(path) == (404, "no such page\n")


def test_the_health_server_accepts_only_get_and_head(probe: HealthProbe) -> None:
    status, text = probe.get("/healthz", "POST")
    assert status == 501
    assert "Python" not in text


def test_slow_clients_delay_no_other_client(probe: HealthProbe) -> None:
    with ExitStack() as slow:
        for _ in range(20):
            one = slow.enter_context(socket.create_connection(probe.address))
            one.sendall(b"GET /healthz HTTP/1.0\r\nX-")
        assert probe.get("/healthz") == (200, "ok\n")


def test_an_address_that_is_taken_is_named(probe: HealthProbe) -> None:
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{probe.address[1]}: Address already"):
        HealthServer(probe.address, heartbeat=Heartbeat(1), problems=list, metrics=bytes)


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
    ("text", "address"),
    [
        ("", ""),
        ("https://mirror.example.org", "https://mirror.example.org"),
        ("http://[::1]:8270/", "http://[::1]:8270"),
        ("https://example.org/mirror/", "https://example.org/mirror"),
    ],
)
def test_the_address_of_a_site_is_understood(text: str, address: str) -> None:
    assert parse_site_url(text) == address


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


def test_it_answers_on_ipv6(probe: HealthProbe) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with HealthServer(("::1", 0), heartbeat=Heartbeat(1), problems=list, metrics=bytes) as server:
        probe.address = server.address
        assert probe.get("/readyz") == (200, "ok\n")


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


def test_a_missing_store_is_not_ready_and_no_path_is_shown(store: Store) -> None:
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        store.root.rename(store.root.with_name("elsewhere"))
        problems = readiness.problems()
    causes = {line.partition(":")[0]: line.rpartition("(")[2].rstrip(")") for line in problems}
    assert causes["store"] == os.strerror(errno.ENOENT)
    assert causes["index"] == "IndexMissingError"
    assert not any("/" in line for line in problems)


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


def test_a_failing_page_is_logged(probe: HealthProbe) -> None:
    stream = io.StringIO()
    with logging_to(stream, mirrors={}):
        probe.page = "no bytes"  # type: ignore[assignment]
        with pytest.raises(http.client.HTTPException):
            probe.get("/metrics")
    assert "health page failed" in stream.getvalue()
    assert "TypeError" in stream.getvalue()
