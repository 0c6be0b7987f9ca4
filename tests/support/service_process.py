"""Services as processes: their log events and child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.mirror_harness import MirrorHarness

_PROGRAM = "import sys; {first}; from neuromirror.cli import main; sys.exit(main())"


class ServiceProcess:
    """A running service and the events that it has logged so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
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
            assert self.process.poll() is None, (self.events, self.other_lines)
            time.sleep(0.05)
        return answer

    def wait_for(self, event: str, seconds: float = 600, **about: str) -> dict[str, Any]:
        found: dict[str, Any] = self.wait(lambda: self.find_events(event, **about), seconds)[0]
        return found

    def send_signal(self, number: int, seconds: float = 600) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._reading.join(600)
        return code

    def wait_until_gone(self, processes: list[int], seconds: float = 600) -> None:
        """Wait until none of the processes is running."""
        until = time.monotonic() + seconds
        while any(_is_running(one) for one in processes):
            assert time.monotonic() < until, "workers outlive their service"
            time.sleep(0.05)

    def children(self) -> list[int]:
        """Return the ids of its child processes."""
        tasks = Path("/proc", str(self.process.pid), "task").glob("*/children")
        return [int(one) for path in tasks for one in path.read_text().split()]


def _is_running(process: int) -> bool:
    """Whether a process is running and not a zombie."""
    try:
        state = Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


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
    command = [sys.executable, "-c", _PROGRAM.format(first=first)]
    with subprocess.Popen(
        [*command, "serve", "--log-json", *options],
        env=environment(mirror_harness),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        service = ServiceProcess(process)
        try:
            yield service
        finally:
            if process.poll() is None:
                process.kill()


def serve_once(mirror_harness: MirrorHarness, *options: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the JSON output of ``serve --once``."""
    done = subprocess.run(
        [sys.executable, "-m", "neuromirror", "--json", "serve", "--once", *options],
        env=environment(mirror_harness),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]
