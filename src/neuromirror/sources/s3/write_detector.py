"""Detection of objects that are written while they are listed."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from neuromirror.net import S3Bucket, parse_http_date
from neuromirror.sources.errors import UnreliableListingError

_START_FILE: Final = "began"


class WriteDetector:
    """Detects objects that were written while they were listed, by the bucket's clock.

    Parameters
    ----------
    bucket
        The bucket.
    workspace
        A folder that keeps the start of an interrupted listing, or None.
    """

    def __init__(self, bucket: S3Bucket, workspace: Path | None) -> None:
        self._bucket = bucket
        self._file = None if workspace is None else workspace / _START_FILE
        self._created = time.monotonic()
        self._started: datetime | None = None
        self._newest: datetime | None = None

    def start(self) -> None:
        """Determine the start of the listing; until then, :meth:`check` does nothing."""
        self._started = self._start_time()

    def add(self, modified: datetime) -> None:
        """Record the time of a listed object."""
        if self._newest is None or modified > self._newest:
            self._newest = modified

    def check(self, name: str) -> None:
        """Raise UnreliableListingError if an object was written after the start."""
        if self._started is None or self._newest is None:
            return
        newest = self._newest.replace(microsecond=0)
        # A time in the future comes from a wrong clock and proves nothing.
        if newest > self._started and newest <= (self._server_time() or newest):
            raise UnreliableListingError(
                f"{name}: objects were written while they were listed (at {newest.isoformat()})"
            )

    def _start_time(self) -> datetime | None:
        """Return a time before the first page was requested, by the bucket's clock.

        If this process resumes a listing, that is the time of the process that started it.
        """
        if self._file is not None and self._file.is_file():
            return datetime.fromisoformat(self._file.read_text("ascii"))
        now = self._server_time()
        if now is None:
            return None
        # The Date header is cut to whole seconds, so the time may be a second later.
        started = now + timedelta(seconds=1 - (time.monotonic() - self._created))
        started = started.replace(microsecond=0)
        if self._file is not None:
            self._file.write_text(started.isoformat(), "ascii")
        return started

    def _server_time(self) -> datetime | None:
        return parse_http_date(self._bucket.head(b"").headers.get("Date", ""))
