"""A file that passes on what is written to it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class CallbackFile(io.RawIOBase):
    """A file object that passes the bytes written to it to a function, and stores nothing."""

    def __init__(self, take: Callable[[int, memoryview], None]) -> None:
        super().__init__()
        self._take = take
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the offset of the next write."""
        self._at = offset
        return offset

    def truncate(self, size: int | None = None) -> int:
        """Do nothing: bytes that were already passed on are written again."""
        return self._at

    def write(self, data: Any) -> int:
        """Pass the bytes to the function."""
        view = memoryview(data)
        self._take(self._at, view)
        self._at += len(view)
        return len(view)
