"""Locks that the kernel lets go when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromirror.store.errors import StoreBusy


@contextmanager
def locked(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` (made if missing) while the block runs.

    Raises StoreBusy, naming ``what``, when another holder is still there after ``wait`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        until, pause = time.monotonic() + wait, 0.001
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreBusy(
                        f"{what} is in use by another neuromirror process; try again when it is "
                        f"done (lock: {path})"
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        yield
