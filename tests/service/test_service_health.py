"""/healthz, /readyz and /metrics, asked over real sockets."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuromirror.crawl import recording
from neuromirror.index import Schedule
from neuromirror.model import ConfigurationError
from neuromirror.service.health import HealthServer, Pulse, Readiness
from neuromirror.service.listening import address_of, shown_address, typed_address
from neuromirror.service.logs import logging_to
from neuromirror.store import Store


@dataclass
class Asked:
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
def asked() -> Iterator[Asked]:
    told = Asked()
    pulse = Pulse(limit=30, clock=lambda: told.now)
    with HealthServer(
        ("127.0.0.1", 0),
        pulse=pulse,
        problems=lambda: told.problems,
        metrics=lambda: told.page,
        remarks=lambda: told.remarks,
    ) as server:
        told.address = server.address
        yield told


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return _made(tmp_path / "store")


def _made(folder: Path) -> Store:
    store = Store.open(folder, create=True)
    with recording(store, store.index_path):
        pass
    return store


def test_healthz_says_whether_the_loop_turns(asked: Asked) -> None:
    assert asked.get("/healthz") == (200, "ok\n")
    asked.now = 42
    status, text = asked.get("/healthz")
    assert status == 503
    assert "the loop turned 42 s ago" in text
    # readiness is another matter
    assert asked.get("/readyz") == (200, "ok\n")


def test_readyz_says_what_is_wrong(asked: Asked) -> None:
    asked.problems = ["stopping: no work is taken", "index: cannot be read (IndexMissing)"]
    status, text = asked.get("/readyz")
    assert (status, text.splitlines()) == (503, asked.problems)


def test_readyz_tells_of_what_keeps_it_from_nothing(asked: Asked) -> None:
    asked.remarks = ["degraded: the catalogue does not answer"]
    assert asked.get("/readyz") == (200, "ok\ndegraded: the catalogue does not answer\n")
    asked.problems = ["stopping: no work is taken"]
    status, text = asked.get("/readyz")
    assert (status, text.splitlines()) == (503, [*asked.problems, *asked.remarks])
    assert asked.get("/healthz") == (200, "ok\n")


def test_metrics_are_given_as_they_are(asked: Asked) -> None:
    assert asked.get("/metrics") == (200, "figures 1\n")
    assert asked.get("/metrics?name[]=x") == (200, "figures 1\n")
    assert asked.get("/metrics", "HEAD") == (200, "")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/etc/passwd", "/%2e%2e/healthz"])
def test_there_is_nothing_else(asked: Asked, path: str) -> None:
    assert asked.get(path) == (404, "no such page\n")


def test_nothing_can_be_sent_to_it(asked: Asked) -> None:
    status, text = asked.get("/healthz", "POST")
    assert status == 501
    assert "Python" not in text


def test_those_who_dawdle_keep_nobody_waiting(asked: Asked) -> None:
    with ExitStack() as slow:
        for _ in range(20):
            one = slow.enter_context(socket.create_connection(asked.address))
            one.sendall(b"GET /healthz HTTP/1.0\r\nX-")
        assert asked.get("/healthz") == (200, "ok\n")


def test_an_address_that_is_taken_is_named(asked: Asked) -> None:
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{asked.address[1]}: Address already"):
        HealthServer(asked.address, pulse=Pulse(1), problems=list, metrics=bytes)


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
    assert address_of(text) == address
    assert address_of(shown_address(address)) == address


@pytest.mark.parametrize(
    "text", ["", "9464", "localhost", "localhost:", "::1:9464x", "h:70000", "h:80/x", "u@h:80"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an address; write host:port"):
        address_of(text)


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
    assert typed_address(text) == address


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
def test_what_no_site_has_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="the address of a site"):
        typed_address(text)


def test_it_answers_at_an_address_of_six(asked: Asked) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with HealthServer(("::1", 0), pulse=Pulse(1), problems=list, metrics=bytes) as server:
        asked.address = server.address
        assert asked.get("/readyz") == (200, "ok\n")


# --- readiness


def test_a_whole_store_is_ready_until_it_stops(store: Store) -> None:
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        before = _files(store)
        assert readiness.problems() == []
        assert _files(store) == before
        readiness.stop()
        assert readiness.problems() == ["stopping: no work is taken"]


def _files(store: Store) -> list[str]:
    """All but those that SQLite makes when a database is read."""
    names = (path.name for path in store.schedule_path.parent.iterdir())
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


def test_a_full_disk_is_not_ready(disk_of: Callable[[str], Path]) -> None:
    store = _made(disk_of("4m") / "store")
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        assert readiness.problems() == []
        _fill(store.root / "ballast")
        assert readiness.problems() == ["store: cannot be written to (No space left on device)"]


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_store_that_is_gone_is_not_ready_and_no_path_is_told(store: Store) -> None:
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        store.root.rename(store.root.with_name("elsewhere"))
        told = readiness.problems()
    assert "store: cannot be written to (No such file or directory)" in told
    assert "index: cannot be read (IndexMissing)" in told
    assert not any("/" in line for line in told)


def test_a_damaged_index_is_not_ready(store: Store) -> None:
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        store.index_path.write_bytes(b"no database" * 1000)
        assert readiness.problems() == ["index: cannot be read (IndexDamaged)"]


def test_a_damaged_schedule_is_not_ready(store: Store) -> None:
    Schedule.open(store.schedule_path).close()
    with Schedule.open(store.schedule_path) as schedule:
        readiness = Readiness(store, store.index_path, schedule)
        size = store.schedule_path.stat().st_size
        with store.schedule_path.open("r+b") as file:
            file.seek(4096)
            file.write(b"x" * (size - 4096))
        assert readiness.problems() == ["schedule: cannot be read (IndexDamaged)"]


def test_a_page_that_fails_is_told_of(asked: Asked) -> None:
    stream = io.StringIO()
    with logging_to(stream, mirrors={}):
        asked.page = "no bytes"  # type: ignore[assignment]
        with pytest.raises(http.client.HTTPException):
            asked.get("/metrics")
    assert "health page failed" in stream.getvalue()
    assert "TypeError" in stream.getvalue()
