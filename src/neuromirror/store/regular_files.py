"""Open untrusted files without blocking on a pipe or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from neuromirror.model import NeuromirrorError


class NotARegularFileError(NeuromirrorError):
    """The path is a pipe, a socket or a device."""


def open_regular(path: Path | bytes) -> BinaryIO:
    """Open a regular file for reading; the caller closes it.

    Raises
    ------
    NotARegularFileError
        The path is not a regular file.
    OSError
        The file cannot be opened.
    """
    file = open(path, "rb", opener=_nonblocking_opener)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotARegularFileError(f"{os.fsdecode(path)} is not a regular file")
    return file


def _nonblocking_opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
