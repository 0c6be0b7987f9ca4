"""What systemd is told of a service: that it is ready, alive, or ending (sd_notify(3)).

Where systemd did not start it, nothing is said.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol, Self

_LONGEST_STATUS = 512
"""Bytes of a status that systemd shows in a line."""


class Liveness(Protocol):
    """What says whether the service goes on."""

    def is_alive(self) -> bool:
        """Whether the loop turned lately."""
        ...


class SystemdNotifier:
    """Sends to the socket that systemd gave; ``socket_name`` None: to nobody.

    A name that begins with ``@`` is an abstract one. ``watchdog`` are the seconds after which
    systemd takes silence for death; None where it does not watch.
    """

    def __init__(self, socket_name: str | None, watchdog: float | None = None) -> None:
        self._name = socket_name
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` say."""
        name = environment.get("NOTIFY_SOCKET", "")
        usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        watched = meant and usec.isascii() and usec.isdigit() and int(usec) > 0
        known = name.startswith(("/", "@"))
        return cls(name if known else None, int(usec) / 1e6 if watched else None)

    def ready(self, status: str = "") -> None:
        """The service is up; ``systemctl start`` ends."""
        self._send("READY=1", status)

    def stopping(self, status: str = "") -> None:
        """The service has begun to end."""
        self._send("STOPPING=1", status)

    def status(self, status: str) -> None:
        """What ``systemctl status`` shows; in words, without names of datasets or addresses."""
        self._send("", status)

    @contextmanager
    def feed_watchdog(self, liveness: Liveness) -> Iterator[None]:
        """Tells the watchdog twice in its time that all is well, as long as the loop turns."""
        if self._name is None or self.watchdog is None:
            yield
            return
        stopped, pause = threading.Event(), self.watchdog / 2

        def watch() -> None:
            while not stopped.is_set():
                if liveness.is_alive():
                    self._send("WATCHDOG=1")
                stopped.wait(pause)

        feed_watchdog = threading.Thread(target=watch, name="watchdog", daemon=True)
        feed_watchdog.start()
        try:
            yield
        finally:
            stopped.set()
            feed_watchdog.join()

    def _send(self, state: str, status: str = "") -> None:
        if self._name is None:
            return
        shown = " ".join(status.split()).encode()[:_LONGEST_STATUS].decode(errors="ignore")
        lines = [state, f"STATUS={shown}" if shown else ""]
        address = f"\0{self._name[1:]}" if self._name.startswith("@") else self._name
        # a service goes on where systemd does not listen any more
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as its:
            its.sendto("\n".join(filter(None, lines)).encode(), address)
