"""Progress of a long operation: messages, or bytes of a download."""

from __future__ import annotations

from collections.abc import Callable

MessageCallback = Callable[[str], None]
"""Called with a message for each step."""

ByteProgress = Callable[[int, int], None]
"""Called with the bytes received and the bytes expected so far."""


class ProgressMeter:
    """Sums the received and expected bytes of a download, and reports them after each change.

    One meter serves a dataset and all its subdatasets.

    Parameters
    ----------
    progress
        Called after each change with both sums; None for no progress reports.
    """

    def __init__(self, progress: ByteProgress | None) -> None:
        self._progress = progress
        self._received_bytes = 0
        self._expected_bytes = 0
        self._arrived: dict[str, int] = {}

    def expect(self, size: int | None) -> None:
        """Add the size of a requested key, None if unknown."""
        self._expected_bytes += size or 0

    def add(self, key: str, more: int) -> None:
        """Add received bytes of a key."""
        self._arrived[key] = self._arrived.get(key, 0) + more
        self._received_bytes += more
        self._report()

    def reset(self, key: str) -> None:
        """Discount the received bytes of a key, which have to be downloaded again."""
        self._received_bytes -= self._arrived.pop(key, 0)

    def give_up(self, key: str, size: int | None) -> None:
        """Discount a key that could not be downloaded."""
        self.reset(key)
        self._expected_bytes -= size or 0
        self._report()

    def finish(self, key: str, size: int | None, seen: int) -> None:
        """Count a downloaded key: its expected size, None if unknown, and its actual size."""
        self._received_bytes += seen - self._arrived.pop(key, 0)
        if size is None:
            self._expected_bytes += seen
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._received_bytes, max(self._expected_bytes, self._received_bytes))
