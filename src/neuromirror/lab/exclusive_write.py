"""A lock against concurrent writes of a lock file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromirror.model import NeuromirrorError
from neuromirror.store import SafeFolder


class LockBusyError(NeuromirrorError):
    """Another process is writing the lock file."""


@contextmanager
def exclusive_write(path: Path) -> Iterator[SafeFolder]:
    """Prevent other processes from writing the lock file at ``path`` during the block.

    A file beside it is locked with ``flock``, which the kernel releases when the process exits.

    Yields
    ------
    SafeFolder
        The folder of the lock file, which is created if it does not exist.

    Raises
    ------
    LockBusyError
        Another process is writing the lock file.
    UnsafePathError
        A component of the path is a symlink.
    """
    name = f".{path.name}.pinning"
    with (
        SafeFolder.open_path(path.parent, create=True) as folder,
        open(folder.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file,
    ):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the previous holder may have removed the file after it was opened here
            status = folder.status(name)
            is_held = status is not None and os.path.samestat(status, os.fstat(file.fileno()))
        except BlockingIOError:
            is_held = False
        if not is_held:
            raise LockBusyError(
                f"another neuromirror process is writing {path}; nothing was changed, run the "
                "command again when it has finished"
            )
        try:
            yield folder
        finally:
            folder.unlink(name)
