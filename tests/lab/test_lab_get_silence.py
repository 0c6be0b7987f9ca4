"""Servers that are there and do not serve: none of them keeps a run, or who breaks it off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from lab_get import GetWorld, Handler

from neuromirror.lab import get
from neuromirror.lab.get import fetching
from neuromirror.net import HostCircuitBreaker, HostGivenUp, Limits

TWO, OTHER = "two/a.dat", "two/b.dat"
BIG = "large/1.dat"
SOON = 600.0
"""Seconds within which what should not wait has stopped: far less than ``FOREVER``."""
FOREVER = 36000.0
"""Seconds for which the client, made patient, waits for a server."""

PATIENT = f"""
from neuromirror.lab.get import fetching
from neuromirror.net import Limits

made = Limits.__init__
Limits.__init__ = lambda self, **named: made(self, **({{"read": {FOREVER}}} | named))
fetching._PATIENCE = {FOREVER}
"""


class Tap:
    """Lets faults go on once a test is over, so that no thread of the server outlives it."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self.reached = threading.Event()

    def close(self) -> None:
        self._over.set()

    def never(self, handler: Handler, content: bytes) -> None:
        """The request is taken, and nothing comes."""
        self.reached.set()
        self._over.wait(FOREVER)
        handler.close_connection = True

    def half(self, handler: Handler, content: bytes) -> None:
        """Half of the file comes, and the connection stays open."""
        self._begin(handler, len(content))
        handler.wfile.write(content[: len(content) // 2])
        self.never(handler, content)

    def stalled(self, handler: Handler, content: bytes) -> None:
        """A part of a body of no stated length comes, and the connection stays open."""
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"10\r\n%s\r\n" % content[:16])
        self.never(handler, content)

    def dripping(self, handler: Handler, content: bytes) -> None:
        """A byte now and then, for ever."""
        self._begin(handler, len(content))
        self.reached.set()
        for start in range(len(content)):
            handler.wfile.write(content[start : start + 1])
            if self._over.wait(0.02):
                break
        handler.close_connection = True

    def dripping_head(self, handler: Handler, content: bytes) -> None:
        """A head that never ends."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        self.reached.set()
        while not self._over.wait(0.02):
            handler.wfile.write(b"x")
        handler.close_connection = True

    @staticmethod
    def _begin(handler: Handler, length: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()


@pytest.fixture
def tap() -> Iterator[Tap]:
    made = Tap()
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in minutes is waited for in parts of a second."""
    made = Limits.__init__

    def init(self, **named):  # type: ignore[no-untyped-def]
        made(self, **{"wait": 0.01, "wait_max": 0.02, "read": 0.25} | named)

    monkeypatch.setattr(Limits, "__init__", init)
    monkeypatch.setattr(fetching, "_PATIENCE", 0.5)
    monkeypatch.setattr(fetching, "_SLOWEST", 1 << 24)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client itself gives up no server while a test runs."""
    monkeypatch.setattr(Limits, "__init__", Limits.__init__)
    monkeypatch.setattr(fetching, "_PATIENCE", fetching._PATIENCE)
    exec(PATIENT, {})


FAULTS = ("never", "half", "stalled", "dripping", "dripping_head")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", FAULTS)
def test_a_place_that_does_not_go_on_is_left_for_the_next(
    world: GetWorld, tap: Tap, name: str
) -> None:
    world.web.faults[world.address(TWO)] = [getattr(tap, name)]
    got = world.get(TWO, OTHER)
    assert (got[TWO].status, got[TWO].url) == ("ok", world.files[TWO].urls[1])
    assert world.is_right(TWO)
    assert got[OTHER].status == "ok"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", FAULTS)
def test_where_there_is_no_other_place_it_is_said_of_which_place(
    world: GetWorld, tap: Tap, name: str
) -> None:
    world.web.faults[world.address(BIG)] = [getattr(tap, name)]
    got = world.get(BIG, OTHER)
    assert got[BIG].status == "error"
    assert world.files[BIG].urls[0] in got[BIG].message
    assert any(word in got[BIG].message for word in ("too long", "in time"))
    assert got[OTHER].status == "ok"
    assert not (world.clone / BIG).exists()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("path", [TWO, BIG])
def test_breaking_off_does_not_wait_for_a_server(
    world: GetWorld, tap: Tap, path: str, name: str
) -> None:
    world.web.faults[world.address(path)] = [getattr(tap, name)]
    outcomes = get(world.clone, [OTHER, path], jobs=2)
    assert next(outcomes).path == OTHER
    assert tap.reached.wait(SOON)
    before = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - before < SOON
    assert world.known() == {OTHER}
    assert not (world.clone / path).exists()


@pytest.mark.parametrize("name", ["never", "stalled"])
def test_ctrl_c_ends_the_program_at_once(world: GetWorld, tap: Tap, name: str) -> None:
    world.web.faults[world.address(TWO)] = [getattr(tap, name)]
    program = f"{PATIENT}from neuromirror.cli import main\nmain(prog_name='neuromirror')"
    command = [sys.executable, "-c", program, "get", TWO, OTHER]
    with subprocess.Popen(command, cwd=world.clone, stderr=subprocess.PIPE, text=True) as run:
        assert tap.reached.wait(SOON)
        until = time.monotonic() + SOON
        while not world.is_right(OTHER) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGINT)
        try:
            _, told = run.communicate(timeout=SOON)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "interrupted" in told
    assert world.is_right(OTHER)
    assert world.known() == {OTHER}


def test_a_host_that_is_silent_is_given_up_and_asked_again_now_and_then() -> None:
    here, there = "http://example.org/a", "http://example.net/a"
    breaker = HostCircuitBreaker(seconds=0.2, retry_after=0.2)
    for _ in range(8):
        breaker.check(here)
        breaker.record_failure(here)
    time.sleep(0.25)
    breaker.check(here)  # once in so many seconds
    with pytest.raises(HostGivenUp) as refused:
        breaker.check(here)
    assert refused.value.host == "example.org"
    breaker.check(there)
    breaker.record_success(here)
    breaker.check(here)
