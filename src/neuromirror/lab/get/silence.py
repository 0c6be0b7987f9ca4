"""Hosts that do not answer: thousands of files must not each wait for what does not come."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from neuromirror.net import Unreachable

_FAILURES: Final = 8
_SECONDS: Final = 30.0
"""How often, and how long, a host is asked in vain before it is given up, to be asked once in as
many seconds again."""


@dataclass(slots=True)
class _Silent:
    since: float
    failures: int = 0
    asked: float = 0.0


class Silence:
    """Which hosts are silent, and since when; shared by threads."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._silent: dict[str, _Silent] = {}

    def expect(self, url: str) -> None:
        """Raises Unreachable where the host of an address is given up."""
        if not self._silent:
            return
        host = _host(url)
        now = time.monotonic()
        with self._lock:
            found = self._silent.get(host)
            if found is None or found.failures < _FAILURES or now - found.since < self._seconds:
                return
            if now - found.asked > self._seconds:
                found.asked = now
                return
        raise Unreachable(f"{host} has not answered for {now - found.since:.0f} seconds", url=url)

    def heard(self, url: str) -> None:
        """The host answered."""
        if self._silent:
            with self._lock:
                self._silent.pop(_host(url), None)

    def missed(self, url: str) -> None:
        """The host did not."""
        now = time.monotonic()
        with self._lock:
            found = self._silent.setdefault(_host(url), _Silent(now, asked=now))
            found.failures += 1


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""
