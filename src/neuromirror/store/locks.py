"""Lock files by flock(2): the kernel releases a lock when its holder exits or is killed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromirror.store.errors import StoreBusyError
from neuromirror.store.safe_paths import SafeFolder


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock; unlike :func:`file_lock`, it writes nothing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def file_lock(
    path: Path, resource: str, wait: float = 0.0, folder: SafeFolder | None = None
) -> Iterator[None]:
    """Hold an exclusive lock on a file during the block.

    Parameters
    ----------
    path
        The lock file; created if it is missing.
    resource
        The protected resource, for the error message.
    wait
        Seconds to wait for another holder.
    folder
        The file's folder, already open; for a folder that other users can write to.

    Yields
    ------
    None
        Nothing; the lock is held during the block.

    Raises
    ------
    StoreBusyError
        Another process holds the lock.
    UnsafePathError
        The file is a symlink.
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
                        f"has finished (lock: {path})"
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        yield
