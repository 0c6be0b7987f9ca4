"""Services as processes: their log events and child processes."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TextIO

from support.forked_commands import ForkedCommand, fork_command
from support.mirror_harness import MirrorHarness
from support.store_states import is_alive, wait_until

SHORT_TIMEOUTS = (
    "import neuromirror.service.scheduling as w, neuromirror.service.serve as s; "
    "s._STOP_TIMEOUT, s._EXIT_TIMEOUT, s._RELOAD, s._CATALOGUE = 1.0, 9.0, 1, 1; "
    "w._SUPERDATASET_MIN_DELAY = 0.5"
)
"""Statements to execute before a service, which then waits for little."""

_QUICK_AUDIT = (
    "import msgspec, neuromirror.service.housekeeping as h; "
    "limits = h.audit_settings_of; "
    "h.audit_settings_of = lambda *a: msgspec.structs.replace(limits(*a), per_second=1000.0)"
)


class ServiceProcess:
    """A running service, the lines that it has printed so far and the events among them."""

    def __init__(self, process: BaseProcess, log: TextIO) -> None:
        self.process = process
        assert process.pid is not None
        self.pid = process.pid
        self._log = log
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        for line in self._log:
            self.lines.append(line)
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.other_lines.append(line)

    def find_events(self, event: str, **about: str) -> list[dict[str, Any]]:
        expected = {"event": event, **about}
        return [one for one in list(self.events) if expected.items() <= one.items()]

    def wait(self, found: Callable[[], Any], seconds: float = 600) -> Any:
        until = time.monotonic() + seconds
        while not (answer := found()):
            assert time.monotonic() < until, (self.events, self.other_lines)
            assert self.process.is_alive(), (self.events, self.other_lines)
            time.sleep(0.05)
        return answer

    def wait_for(self, event: str, seconds: float = 600, **about: str) -> dict[str, Any]:
        found: dict[str, Any] = self.wait(lambda: self.find_events(event, **about), seconds)[0]
        return found

    def send_signal(self, number: int, seconds: float = 600) -> int:
        """Send a signal and return the exit code."""
        os.kill(self.pid, number)
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the service does not exit"
        self.join()
        return self.process.exitcode

    def join(self) -> None:
        """Wait until everything that was logged has been read."""
        self._reading.join(600)

    def wait_until_gone(self, processes: list[int]) -> None:
        """Wait until none of the processes is running."""
        wait_until(lambda: not any(map(is_alive, processes)))

    def children(self) -> list[int]:
        """Return the ids of its child processes."""
        tasks = Path("/proc", str(self.pid), "task").glob("*/children")
        return [int(one) for path in tasks for one in path.read_text().split()]


def environment(mirror_harness: MirrorHarness) -> dict[str, str]:
    return {
        **os.environ,
        "NEUROMIRROR_MIRRORS": str(mirror_harness.mirrors),
        "NEUROMIRROR_STORE": str(mirror_harness.folder),
    }


@contextmanager
def running_service(
    mirror_harness: MirrorHarness, *options: str, first: str = "pass"
) -> Iterator[ServiceProcess]:
    """Run a service during the block; ``first`` are Python statements to execute before."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, encoding="utf-8") as log, os.fdopen(write_end, "w") as output:
        process = fork_command(
            ["serve", "--log-json", *options],
            output.fileno(),
            output.fileno(),
            environment=environment(mirror_harness),
            first=first,
        )
        output.close()
        service = ServiceProcess(process, log)
        try:
            yield service
        finally:
            process.kill()
            process.join(600)
            service.join()


def serve_once(mirror_harness: MirrorHarness, *options: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the JSON output of ``serve --once``."""
    with ForkedCommand(
        ["--json", "serve", "--once", *options],
        environment=environment(mirror_harness),
        first=_QUICK_AUDIT,
    ) as process:
        out, err = process.communicate()
    assert process.returncode == code, (process.returncode, out, err)
    return [json.loads(line) for line in out.splitlines()]
