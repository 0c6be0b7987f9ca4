"""One at a time: whoever writes a lock has it to itself, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuromirror.model import NeuromirrorError


class LockBusy(NeuromirrorError):
    """Another process is writing this lock."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lets nobody else write the lock at ``path`` while the block runs; makes its folder.

    A file beside the lock is held meanwhile; the kernel lets go of it however the holder ends.
    Raises LockBusy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = path.with_name(f".{path.name}.pinning")
    with held.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # who had it before may have removed it just now, and the next one made another
            mine = held.stat().st_ino == os.fstat(file.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise LockBusy(
                f"another neuromirror process is writing {path}; run this again when it is done. "
                "Nothing was changed"
            )
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                held.unlink()
