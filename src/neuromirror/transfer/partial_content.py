"""Content that is downloaded into a file, and hashed as it grows."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from neuromirror.transfer.content_bodies import ContentMismatchError
from neuromirror.transfer.content_checks import ContentCheck
from neuromirror.transfer.fetch_tasks import FetchTask
from neuromirror.transfer.file_writers import FileWriter

_BODY_TIMEOUT: Final = 300.0
_BLOCK: Final = 1 << 20
_MIN_BYTES_PER_SECOND: Final = 1 << 14
"""Rate below which a server counts as stalled."""


class PartialContent:
    """Content that grows in a file and is hashed as it grows.

    Parameters
    ----------
    task
        The download task.
    file
        The file descriptor of the file.
    writer
        Writes the file.
    report_bytes
        Called with the key and the number of bytes that the content has grown; negative if bytes
        are discarded.

    Attributes
    ----------
    check
        The check of the bytes so far.
    """

    def __init__(
        self,
        task: FetchTask,
        file: int,
        writer: FileWriter,
        report_bytes: Callable[[str, int], None],
    ) -> None:
        self.task = task
        self.check = task.check()
        self._file = file
        self._writer = writer
        self._report_bytes = report_bytes
        self._reported = 0

    @property
    def is_complete(self) -> bool:
        """Whether the content has its size."""
        return self.task.size is not None and self.check.bytes_seen >= self.task.size

    def remaining_timeout(self) -> float | None:
        """Return the seconds allowed for the remaining bytes, None if the size is unknown."""
        if self.task.size is None:
            return None
        return body_timeout(self.task.size - self.check.bytes_seen)

    def resume(self, check_stopped: Callable[[], None]) -> None:
        """Hash the bytes of an earlier attempt, which are not trusted.

        They are discarded if the key has no checksum to verify them with.
        """
        self._writer.start(self._file)
        if not self.check.has_digest:
            self.restart()
            return
        os.lseek(self._file, 0, os.SEEK_SET)
        while block := os.read(self._file, _BLOCK):
            check_stopped()
            self.check.update(block)
            self._report(len(block))
        if self.task.size is not None and self.check.bytes_seen > self.task.size:
            self.restart()
        self._writer.start(self._file)

    def start_at(self, start: int) -> None:
        """Prepare for bytes from offset ``start``: the end of the file, or 0."""
        if start != self.check.bytes_seen:
            if start:
                raise ContentMismatchError("the server sent another range than requested")
            self.restart()

    def restart(self) -> None:
        """Discard all received bytes."""
        if self._reported:
            self._report_bytes(self.task.key, -self._reported)
            self._reported = 0
        self._writer.restart()
        self.check = self.task.check()

    def append(self, piece: memoryview) -> None:
        """Write and hash the next bytes."""
        try:
            update_check(self.check, piece)
        except ContentMismatchError:
            self.restart()
            raise
        self._writer.write(piece)
        self._report(len(piece))

    def flush(self) -> None:
        """Write all bytes to the file."""
        self._writer.flush()

    def _report(self, more: int) -> None:
        self._reported += more
        self._report_bytes(self.task.key, more)


def body_timeout(count: int) -> float:
    """Return the seconds allowed for a body of ``count`` bytes."""
    return _BODY_TIMEOUT + count / _MIN_BYTES_PER_SECOND


def update_check(check: ContentCheck, piece: memoryview) -> None:
    """Hash the next bytes; raise ContentMismatchError if they are too many."""
    check.update(piece)
    if check.size is not None and check.bytes_seen > check.size:
        raise ContentMismatchError(f"the URL has more than {check.size} bytes")
