"""Servers that accept connections and stall: they block neither a run nor its interruption."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from msgspec import structs

from neuromirror.lab import get
from neuromirror.transfer import fetcher, partial_content
from support.forked_commands import fork_command
from support.web_clone import WebClone, WebHandler

TWO, OTHER = "two/a.dat", "two/b.dat"
BIG = "large/1.dat"
DEADLINE = 600.0
"""Seconds within which a test must have stopped; much less than ``CLIENT_TIMEOUT``."""
CLIENT_TIMEOUT = 36000.0
"""Seconds for which the client waits for a server in tests with long timeouts."""

LONG_TIMEOUTS_CODE = f"""
from msgspec import structs
from neuromirror.transfer import fetcher, partial_content

fetcher._LIMITS = structs.replace(fetcher._LIMITS, read={CLIENT_TIMEOUT})
partial_content._BODY_TIMEOUT = {CLIENT_TIMEOUT}
"""


class StallingServer:
    """Faults of a server that stalls until the end of the test, when its threads exit."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self.reached = threading.Semaphore(0)
        """Counts the requests that stall."""

    def close(self) -> None:
        self._over.set()

    def never(self, handler: WebHandler, content: bytes) -> None:
        """Accept the request and send nothing."""
        self.reached.release()
        self._over.wait(CLIENT_TIMEOUT)
        handler.close_connection = True

    def half(self, handler: WebHandler, content: bytes) -> None:
        """Send half of the file, and keep the connection open."""
        self._begin(handler, len(content))
        handler.wfile.write(content[: len(content) // 2])
        self.never(handler, content)

    def stalled(self, handler: WebHandler, content: bytes) -> None:
        """Send a part of a body without stated length, and keep the connection open."""
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"10\r\n%s\r\n" % content[:16])
        self.never(handler, content)

    def dripping(self, handler: WebHandler, content: bytes) -> None:
        """Send one byte at a time, without end."""
        self._begin(handler, len(content))
        self.reached.release()
        for start in range(len(content)):
            handler.wfile.write(content[start : start + 1])
            if self._over.wait(0.02):
                break
        handler.close_connection = True

    def dripping_head(self, handler: WebHandler, content: bytes) -> None:
        """Send a header that never ends."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        self.reached.release()
        while not self._over.wait(0.02):
            handler.wfile.write(b"x")
        handler.close_connection = True

    @staticmethod
    def _begin(handler: WebHandler, length: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()


@pytest.fixture
def stalling_server() -> Iterator[StallingServer]:
    made = StallingServer()
    yield made
    made.close()


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace timeouts of minutes by fractions of a second."""
    short = structs.replace(fetcher._LIMITS, wait=0.01, wait_max=0.02, read=0.25)
    monkeypatch.setattr(fetcher, "_LIMITS", short)
    monkeypatch.setattr(partial_content, "_BODY_TIMEOUT", 0.5)
    monkeypatch.setattr(partial_content, "_MIN_BYTES_PER_SECOND", 1 << 24)


@pytest.fixture
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client wait for any server for the duration of the test."""
    monkeypatch.setattr(fetcher, "_LIMITS", fetcher._LIMITS)
    monkeypatch.setattr(partial_content, "_BODY_TIMEOUT", partial_content._BODY_TIMEOUT)
    exec(LONG_TIMEOUTS_CODE, {})


FAULTS = ("never", "half", "stalled", "dripping", "dripping_head")


@pytest.mark.usefixtures("short_timeouts")
@pytest.mark.parametrize("name", FAULTS)
def test_a_stalled_url_is_given_up_for_the_next(
    web_clone: WebClone, stalling_server: StallingServer, name: str
) -> None:
    for path in (TWO, BIG):
        web_clone.web.faults[web_clone.url_path(path)] = [getattr(stalling_server, name)]
    got = web_clone.get(TWO, BIG, OTHER)
    assert (got[TWO].status, got[TWO].url) == ("ok", web_clone.files[TWO].urls[1])
    assert web_clone.has_content(TWO)
    # without another URL, the stalled one is named
    assert got[BIG].status == "error"
    assert web_clone.files[BIG].urls[0] in got[BIG].message
    assert any(phrase in got[BIG].message for phrase in ("timed out", "in time"))
    assert got[OTHER].status == "ok"
    assert not (web_clone.clone / BIG).exists()


@pytest.mark.usefixtures("long_timeouts")
@pytest.mark.parametrize("name", FAULTS)
def test_an_interruption_does_not_wait_for_a_server(
    web_clone: WebClone, stalling_server: StallingServer, name: str
) -> None:
    for path in (TWO, BIG):
        web_clone.web.faults[web_clone.url_path(path)] = [getattr(stalling_server, name)]
    outcomes = get(web_clone.clone, [OTHER, TWO, BIG], jobs=3)
    assert next(outcomes).path == OTHER
    for _ in (TWO, BIG):
        assert stalling_server.reached.acquire(timeout=DEADLINE)
    before = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - before < DEADLINE
    assert web_clone.recorded_files() == {OTHER}
    assert not any((web_clone.clone / path).exists() for path in (TWO, BIG))


def test_ctrl_c_exits_immediately(web_clone: WebClone, stalling_server: StallingServer) -> None:
    web_clone.web.faults[web_clone.url_path(TWO)] = [stalling_server.stalled]
    first = f"""{LONG_TIMEOUTS_CODE}
import os, signal
os.chdir({str(web_clone.clone)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
    reading, writing = os.pipe()
    run = fork_command(["get", TWO, OTHER], writing, writing, first=first)
    os.close(writing)
    assert run.pid is not None
    assert stalling_server.reached.acquire(timeout=DEADLINE)
    until = time.monotonic() + DEADLINE
    while not web_clone.has_content(OTHER) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    run.join(DEADLINE)
    with open(reading) as output:
        assert "interrupted" in output.read()
    assert run.exitcode == 130
    assert web_clone.has_content(OTHER)
    assert web_clone.recorded_files() == {OTHER}
