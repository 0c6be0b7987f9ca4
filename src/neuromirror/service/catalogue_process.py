"""The catalogue process of a service: started, supervised and restarted; and its status.

The catalogue process of a service: started, supervised and restarted.

In a separate process the catalogue cannot slow down the service loop, and its failures do not
affect mirroring. The service owns the listening socket: during a restart the address stays bound,
and clients wait. Over a second socket the catalogue sends a heartbeat every few seconds with the
number of refused requests; when the service closes its end, the catalogue exits at once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from msgspec import Struct, field

from neuromirror.crawl import FailureLog
from neuromirror.crawl.recorder import CATALOGUE
from neuromirror.model import NeuromirrorError
from neuromirror.model.validation import analysed_type
from neuromirror.service.logs import log_event
from neuromirror.service.server_options import bound_address, format_address, open_listener
from neuromirror.store import Store, write_atomically
from neuromirror.store.durable_files import make_folder

_PREFIX: Final = "catalogue-"
_SAVE_SECONDS: Final = 60.0
"""Seconds between two saved states of a catalogue."""
_LOST_SECONDS: Final = 180.0
_FORGOTTEN_SECONDS: Final = 7 * 86400.0
"""Seconds after its last saved state until a catalogue counts as lost."""
_RESULTS: Final = ("document", "download", "folder", "redirect", "proxy", "bytes")
"""Results of the gateway that are no failures."""


class CatalogueStatus(msgspec.Struct, forbid_unknown_fields=True):
    """The status of a catalogue.

    Attributes
    ----------
    url
        The URL at which it listens.
    gateway
        The mode of the gateway by mirror; that of all other mirrors has the name ``""``.
    counts
        Refused requests by kind, and responses of the gateway (``gateway <result>``), since the
        start.
    saved_at
        When this status was saved, in POSIX seconds.
    host
        The host on which it runs; catalogues on several hosts may have the same URL.
    """

    url: str
    gateway: dict[str, str]
    counts: dict[str, int] = {}
    saved_at: float = 0.0
    host: str = ""

    @property
    def name(self) -> str:
        """The URL and the host, for messages."""
        return f"{self.url} on {self.host}" if self.host else self.url

    @property
    def gateway_failures(self) -> dict[str, int]:
        """Number of responses of the gateway that failed, by reason."""
        found = {
            name.removeprefix("gateway "): count
            for name, count in self.counts.items()
            if name.startswith("gateway ")
        }
        return {name: count for name, count in sorted(found.items()) if name not in _RESULTS}

    def problems(self) -> Iterator[str]:
        """Yield a message for everything that an operator has to look at."""
        if time.time() - self.saved_at > _LOST_SECONDS:
            yield (
                f"catalogue {self.name}: not running since {_moment(self.saved_at)}, although it "
                "was not stopped; see its log, and start it again"
            )


class CatalogueStatusFile:
    """Saves the status of a catalogue from time to time; thread-compatible.

    Parameters
    ----------
    store
        The store. If it cannot be written, nothing is saved.
    url
        The URL at which the catalogue listens.
    gateway
        The mode of the gateway by mirror.
    """

    def __init__(self, store: Store, url: str, gateway: Mapping[str, str]) -> None:
        self.status = CatalogueStatus(url, dict(gateway), host=socket.gethostname())
        name = re.sub(r"[^\w.-]+", "-", f"{self.status.host}-{url.partition('://')[2]}")
        self._path = store.task_state_path(_PREFIX + name)

    def update(self, counts: Mapping[str, int]) -> None:
        """Set the counts; save the status if a minute has passed."""
        now, found = time.time(), self.status
        found.counts = dict(counts)
        if now - found.saved_at > _SAVE_SECONDS:
            found.saved_at = now
            with suppress(OSError):
                make_folder(self._path.parent)
                write_atomically(self._path, msgspec.json.encode(found) + b"\n", durable=False)

    def remove(self) -> None:
        """Remove the file of a catalogue that was stopped."""
        with suppress(OSError):
            self._path.unlink()


def catalogue_statuses(store: Store) -> list[CatalogueStatus]:
    """Return the status of each catalogue that was not stopped, and that ran in the last week.

    Parameters
    ----------
    store
        The store.
    """
    found = []
    for path in sorted(store.task_state_path(_PREFIX).parent.glob(f"{_PREFIX}*.json")):
        with suppress(OSError, msgspec.DecodeError):
            status = msgspec.json.decode(path.read_bytes(), type=analysed_type(CatalogueStatus))
            if time.time() - status.saved_at < _FORGOTTEN_SECONDS:
                found.append(status)
    return found


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


_HEARTBEAT_TIMEOUT = 90.0
"""Seconds without a heartbeat after which the process is considered hung."""

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0
"""First and maximum delay before a restart; the delay doubles each time …"""

_STABLE_SECONDS = 120.0
"""… and is reset after the process ran for this long."""

_EXIT_SECONDS = 8.0
"""Seconds that running requests have when the process is stopped."""

_STEP = 0.5
_LINE = 4096
"""Maximum size of a heartbeat in bytes."""

_OOM_SCORE = 500
"""Out of 1000: if memory runs out, the kernel kills the catalogue before the service."""

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from neuromirror.cli import main; main(prog_name='neuromirror')"
)
"""The process uses the module search path of this one."""

_SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Variables that systemd sets for this process only."""


class CatalogueOptions(Struct, frozen=True):
    """Options of the catalogue.

    ``listen`` is the host and port to serve at; ``address`` the public URL behind a proxy, and
    ``title`` the title of its pages, both empty for the defaults of :mod:`neuromirror.web`;
    ``cutouts`` whether visitors may request voxels from upstream; ``limits``, ``gateways`` and
    ``proxies`` are the options ``--limit``, ``--gateway`` and ``--trusted-proxy``; ``modes``
    the modes of the gateway by mirror (``""``: of all others).
    """

    listen: tuple[str, int]
    address: str = ""
    title: str = ""
    cutouts: bool = True
    limits: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    modes: Mapping[str, str] = field(default_factory=dict)


class SupervisedCatalogue:
    """Runs ``neuromirror catalogue`` during the block and restarts it when it exits.

    ``command`` are its arguments. It gets the environment of this process without the variables
    that ``secret_variables()`` returns at each start. ``restarts`` counts unexpected exits, and
    ``log`` records the failure until the catalogue responds again. Its status is saved in
    ``store``, with the ``modes`` of the gateway. Raises ConfigurationError if the address cannot be
    bound.
    """

    def __init__(
        self,
        address: tuple[str, int],
        command: Sequence[str],
        *,
        secret_variables: Callable[[], Collection[str]],
        log: FailureLog,
        store: Store,
        modes: Mapping[str, str],
    ) -> None:
        self._log = log
        self._command = command
        self._secret_variables = secret_variables
        self._socket = open_listener(address, "the catalogue")
        self.url = f"http://{format_address(bound_address(self._socket))}"
        self._status = CatalogueStatusFile(store, self.url, modes)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.modes = modes
        self.is_up = False
        """Whether the catalogue responds, as of its last heartbeat."""
        self.restarts = 0
        self._has_died = False
        self.refused: Counter[str] = Counter()
        """Refused requests by kind, and the other numbers of heartbeats, over all restarts."""
        self._thread = threading.Thread(target=self._supervise, name="catalogue")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()
        self._status.remove()

    def remarks(self) -> list[str]:
        """Return degradations for the readiness check; the first start does not count."""
        return ["degraded: the catalogue does not respond; mirroring continues"] * self._has_died

    def stop(self) -> None:
        """Close the listening socket and terminate the process, without waiting for its exit."""
        with self._lock:
            self._stopping.set()
            self._socket.close()
            if self._process is not None:
                # terminate() ignores a process that has been waited for
                self._process.terminate()

    def _supervise(self) -> None:
        pause = _FIRST_DELAY
        while not self._stopping.is_set():
            began = time.monotonic()
            why = self._run_once()
            self.is_up = False
            if self._stopping.is_set():
                return
            if time.monotonic() - began > _STABLE_SECONDS:
                pause = _FIRST_DELAY
            self._has_died = True
            self.restarts += 1
            with suppress(NeuromirrorError, OSError):
                self._log.record_failure(CATALOGUE, why)
            log_event(
                "catalogue exited",
                f"{why}; restart in {pause:.0f} s; mirroring continues",
                level=logging.ERROR,
            )
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_DELAY)

    def _run_once(self) -> str:
        """Start the process, wait for its exit, and return a description of the exit."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    process = self._start(theirs)
                except OSError as error:
                    return f"cannot be started: {error}"
            if process is None:
                return "stopped"
            hangs = self._watch(ours)
            if hangs:
                _kill(process)
                return f"no heartbeat for {_HEARTBEAT_TIMEOUT:.0f} s: killed"
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
                # the stdout of the service is for programs
                stdout=2,
                env={name: value for name, value in os.environ.items() if name not in withheld},
                pass_fds=numbers,
                # Ctrl-C goes to the service, which stops this process
                start_new_session=True,
            )
            return self._process

    def _watch(self, ours: socket.socket) -> bool:
        """Read heartbeats until the process exits or is stopped; return whether they ceased."""
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
            self._status.update(self.refused)
            if not self.is_up:
                self.is_up, self._has_died = True, False
                with suppress(NeuromirrorError, OSError):
                    self._log.record_success(CATALOGUE)
                log_event("catalogue started", self.url)
        return not self._stopping.is_set()


def _exit_description(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        return "did not exit: killed"
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed ({signal.Signals(-code).name})"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process with its children."""
    # before wait(): until then its process id cannot be reused
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a process blocked on a disk does not die
        process.wait(_EXIT_SECONDS)


class SupervisorConnection:
    """The catalogue's connection to the service that supervises it; sends heartbeats in the block.

    It is used in the process that :class:`SupervisedCatalogue` starts. ``number`` is the file
    descriptor of its socket. When the service is gone, the process exits at once; an exception that
    leaves the block is logged and ends the process.
    """

    def __init__(self, number: int) -> None:
        self._supervisor = socket.socket(fileno=number)
        self._supervisor.set_inheritable(False)
        self._refused: dict[str, int] = {}

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
        threading.Thread(target=self._exit_with_supervisor, name="supervisor", daemon=True).start()
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
        """Send a heartbeat; ``refused`` counts the refused requests so far by kind."""
        more = {kind: count - self._refused.get(kind, 0) for kind, count in refused.items()}
        with suppress(OSError):  # the supervisor is exiting or hangs
            self._supervisor.send(msgspec.json.encode(more) + b"\n", socket.MSG_DONTWAIT)
            self._refused = dict(refused)

    def _exit_with_supervisor(self) -> None:
        with suppress(OSError):
            while self._supervisor.recv(64):
                pass
        os.killpg(0, signal.SIGKILL)
