"""One at a time: whoever writes a lock has it to itself, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromirror.model import NeuromirrorError
from neuromirror.store import SafeFolder


class LockBusyError(NeuromirrorError):
    """Another process is writing this lock."""


@contextmanager
def exclusive_write(path: Path) -> Iterator[SafeFolder]:
    """Lets nobody else write the lock at ``path`` while the block runs; makes its folder.

    A file beside the lock is held meanwhile; the kernel lets go of it however the holder ends.
    Yields the folder that the lock is in. Raises LockBusyError, and UnsafePathError for a symlink.
    """
    name = f".{path.name}.pinning"
    with (
        SafeFolder.open_path(path.parent, create=True) as folder,
        open(folder.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file,
    ):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # who had it before may have removed it just now, and the next one made another
            there = folder.status(name)
            is_held = there is not None and os.path.samestat(there, os.fstat(file.fileno()))
        except BlockingIOError:
            is_held = False
        if not is_held:
            raise LockBusyError(
                f"another neuromirror process is writing {path}; run this again when it is done. "
                "Nothing was changed"
            )
        try:
            yield folder
        finally:
            folder.unlink(name)
