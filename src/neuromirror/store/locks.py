"""Locks that the kernel lets go when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromirror.store.errors import StoreBusyError
from neuromirror.store.safe_paths import SafeFolder


@contextmanager
def file_lock(
    path: Path, resource: str, wait: float = 0.0, folder: SafeFolder | None = None
) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` (made if missing) while the block runs.

    ``folder`` is the open folder that the file is in, where it may hold what others put there.
    Raises StoreBusyError, naming ``what``, when another holder is still there after ``wait``
    seconds,
    and UnsafePathError for a symlink.
    """
    if folder is None:
        opened = SafeFolder.open_path(path.parent.absolute(), create=True)
    else:
        opened = folder.folder()
    with opened as parent:
        handle = parent.open(path.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with open(handle, "a") as file:
        deadline, pause = time.monotonic() + wait, 0.001
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"{resource} is in use by another neuromirror process; try again when it "
                        f"is done (lock: {path})"
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        yield
