"""Notifications to systemd: ready, alive, stopping (sd_notify(3)).

Without systemd nothing is sent.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Self

from neuromirror.service.health import Heartbeat

_LONGEST_STATUS = 512
"""Maximum length of a status in bytes."""


class SystemdNotifier:
    """Notifies systemd that the service is ready, alive or stopping; does nothing without a socket.

    ``socket_name`` is the path of systemd's socket, None without systemd. A name that starts with
    ``@`` is an abstract socket. ``watchdog`` is the timeout of systemd's watchdog in seconds, None
    without a watchdog.
    """

    def __init__(self, socket_name: str | None, watchdog: float | None = None) -> None:
        self._name = socket_name
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Create a notifier from ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        name = environment.get("NOTIFY_SOCKET", "")
        usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        watched = meant and usec.isascii() and usec.isdigit() and int(usec) > 0
        known = name.startswith(("/", "@"))
        return cls(name if known else None, int(usec) / 1e6 if watched else None)

    def ready(self, status: str = "") -> None:
        """Report that the service is up; ``systemctl start`` returns."""
        self._send("READY=1", status)

    def stopping(self, status: str = "") -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1", status)

    def status(self, status: str) -> None:
        """Set the text that ``systemctl status`` shows; without names of datasets or URLs."""
        self._send("", status)

    @contextmanager
    def feed_watchdog(self, heartbeat: Heartbeat) -> Iterator[None]:
        """Notify the watchdog twice per timeout while the service is alive."""
        if self._name is None or self.watchdog is None:
            yield
            return
        stopped, pause = threading.Event(), self.watchdog / 2

        def watch() -> None:
            while not stopped.is_set():
                if heartbeat.is_alive():
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
        # the service continues if systemd no longer listens
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as its:
            its.sendto("\n".join(filter(None, lines)).encode(), address)
