"""The catalogue beside a service: a process of its own, started again where it dies.

Pages never slow a turn of the service's loop then, and whatever becomes of them, mirroring goes on.
The service holds the socket at which people ask, so that the address stays taken, and those who ask
wait, while one process follows another. Over a second socket the process tells every few seconds
that its loop turns, and how many requests it refused; when it hears its keeper's end of it close,
it ends at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from neuromirror.crawl import FailureLog
from neuromirror.crawl.failure_log import CATALOGUE
from neuromirror.model import NeuromirrorError
from neuromirror.service.listen_address import bound_address, format_address, open_listener
from neuromirror.service.logs import log_event

_HEARTBEAT_TIMEOUT = 90.0
"""Seconds after which one that says nothing hangs."""

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0
"""Seconds before it is started again: the first time, and at most; twice as long each time …"""

_STABLE_SECONDS = 120.0
"""… and the first time again where it ran for so long."""

_EXIT_SECONDS = 8.0
"""Seconds that replies under way have when it is to end."""

_STEP = 0.5
_LINE = 4096
"""Bytes of a sign of life at most."""

_OOM_SCORE = 500
"""Of 1000: the kernel, out of memory, takes the catalogue and not the service."""

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from neuromirror.cli import main; main(prog_name='neuromirror')"
)
"""It imports what this process can, from the same places."""

_SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""What systemd says to this process alone."""


@dataclass(frozen=True, slots=True)
class CatalogueOptions:
    """Where the catalogue is, and how it is called.

    ``listen`` is the host and port to serve it at; ``address`` the one that people type, behind a
    proxy, and ``title`` what its pages are called, both empty: as :mod:`neuromirror.web` has it;
    ``cutouts`` whether voxels are had from upstream for those who ask; ``limits`` and ``proxies``
    are its options ``--limit`` and ``--trusted-proxy``; ``sql`` whether visitors may write SQL.
    """

    listen: tuple[str, int]
    address: str = ""
    title: str = ""
    cutouts: bool = True
    limits: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    sql: bool = False


class SupervisedCatalogue:
    """A ``neuromirror catalogue`` that runs while the block lasts.

    ``command`` are its arguments. It gets this process's environment without the variables that
    ``withheld`` names, looked at for each start; ``ended`` is told of each that died, and ``log``
    records it until one answers again. Raises ConfigurationError where the address cannot be had.
    """

    def __init__(
        self,
        address: tuple[str, int],
        command: Sequence[str],
        *,
        secret_variables: Callable[[], Collection[str]],
        on_exit: Callable[[], None],
        log: FailureLog,
    ) -> None:
        self._log = log
        self._command = command
        self._secret_variables = secret_variables
        self._on_exit = on_exit
        self._socket = open_listener(address, "the catalogue")
        self.url = f"http://{format_address(bound_address(self._socket))}"
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_up = False
        self._has_died = False
        self.refused: Counter[str] = Counter()
        """Requests that it refused, by kind, since this object was made."""
        self._thread = threading.Thread(target=self._supervise, name="catalogue")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._thread.join()

    @property
    def is_up(self) -> bool:
        """Whether it answers, as far as is known."""
        return self._is_up

    def remarks(self) -> list[str]:
        """What is not well, a line each; that the first one is still starting is well."""
        return ["degraded: the catalogue does not answer; mirroring goes on"] * self._has_died

    def stop(self) -> None:
        """Tells it to end, and does not wait for that; nobody is let in any more."""
        with self._lock:
            self._stopping.set()
            self._socket.close()
            if self._process is not None:
                # a process that was waited for is not sent anything
                self._process.terminate()

    def _supervise(self) -> None:
        pause = _FIRST_DELAY
        while not self._stopping.is_set():
            began = time.monotonic()
            why = self._run_once()
            self._is_up = False
            if self._stopping.is_set():
                return
            if time.monotonic() - began > _STABLE_SECONDS:
                pause = _FIRST_DELAY
            self._has_died = True
            self._on_exit()
            with suppress(NeuromirrorError, OSError):
                self._log.record_failure(CATALOGUE, why)
            log_event(
                "catalogue ended",
                f"{why}; it is started again in {pause:.0f} s, and mirroring goes on meanwhile",
                level=logging.ERROR,
            )
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_DELAY)

    def _run_once(self) -> str:
        """Starts it and waits for its end; gives in words what that was."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    process = self._start(theirs)
                except OSError as error:
                    return f"it cannot be started: {error}"
            if process is None:
                return "it was told to end"
            hangs = self._watch(ours)
            if hangs:
                _kill(process)
                return f"it gave no sign of life for {_HEARTBEAT_TIMEOUT:.0f} s, and was ended"
        return _exit_description(process)

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            numbers = [self._socket.fileno(), theirs.fileno()]
            withheld = {*self._secret_variables(), *_SYSTEMD_VARIABLES}
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _PROGRAM, json.dumps(sys.path)),
                    *self._command,
                    *("--supervised", *map(str, numbers)),
                ],
                stdin=subprocess.DEVNULL,
                # what the service prints is for programs
                stdout=2,
                env={name: value for name, value in os.environ.items() if name not in withheld},
                pass_fds=numbers,
                # Ctrl-C is for the service, which then ends this one
                start_new_session=True,
            )
            return self._process

    def _watch(self, ours: socket.socket) -> bool:
        """Hears it until it ends or is to end; gives whether it went silent instead."""
        ours.settimeout(_STEP)
        heard, rest = time.monotonic(), b""
        while not self._stopping.is_set() and time.monotonic() - heard < _HEARTBEAT_TIMEOUT:
            try:
                received = ours.recv(_LINE)
                if not received:
                    return False
            except TimeoutError:
                continue
            except OSError:
                return False
            heard = time.monotonic()
            *lines, rest = (rest + received).split(b"\n")
            rest = rest[-_LINE:]
            for line in lines:
                with suppress(msgspec.DecodeError):
                    self.refused.update(msgspec.json.decode(line, type=dict[str, int]))
            if not self._is_up:
                self._is_up, self._has_died = True, False
                with suppress(NeuromirrorError, OSError):
                    self._log.record_success(CATALOGUE)
                log_event("catalogue", self.url)
        return not self._stopping.is_set()


def _exit_description(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        return "it did not end, and was ended"
    if code >= 0:
        return f"it ended (exit code {code})"
    return f"it was killed ({signal.Signals(-code).name})"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends it with all that it has started."""
    # before it is waited for: until then nobody else can get its number
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a disk that hangs lets nobody die
        process.wait(_EXIT_SECONDS)


class SupervisorConnection:
    """In the process that is kept: what tells its keeper that it goes on, while the block lasts.

    ``number`` is that of its socket. When the keeper is gone the process ends at once; an error
    that leaves the block is logged, and ends it.
    """

    def __init__(self, number: int) -> None:
        self._supervisor = socket.socket(fileno=number)
        self._supervisor.set_inheritable(False)
        self._refused: dict[str, int] = {}

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
        threading.Thread(target=self._exit_with_supervisor, name="keeper", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, NeuromirrorError):
            log_event("catalogue failed", str(error), level=logging.ERROR)
            sys.exit(error.exit_code)
        if isinstance(error, Exception):
            log_event("catalogue failed", str(error), level=logging.ERROR, error=error)
            sys.exit(1)

    def beat(self, refused: Mapping[str, int]) -> None:
        """The server's loop has turned; ``refused`` counts the requests refused so far, by kind."""
        more = {kind: count - self._refused.get(kind, 0) for kind, count in refused.items()}
        with suppress(OSError):  # a keeper that does not listen is gone soon, or hangs itself
            self._supervisor.send(msgspec.json.encode(more) + b"\n", socket.MSG_DONTWAIT)
            self._refused = dict(refused)

    def _exit_with_supervisor(self) -> None:
        with suppress(OSError):
            while self._supervisor.recv(64):
                pass
        os.killpg(0, signal.SIGKILL)
