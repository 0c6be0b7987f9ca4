"""A limit of the bytes per second that several threads share."""

from __future__ import annotations

import threading
import time


class RateLimit:
    """Delays threads so that together they stay below a rate. Thread-safe.

    Parameters
    ----------
    bytes_per_second
        The rate.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, count: int, stop: threading.Event) -> None:
        """Wait until bytes that were received are within the rate.

        Parameters
        ----------
        count
            The number of bytes; negative if received bytes are discarded, which has no effect.
        stop
            Ends the wait when it is set.
        """
        if count <= 0:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / self._rate
            pause = self._free - time.monotonic()
        if pause > 0:
            stop.wait(pause)
