"""Files that somebody else may have put there, opened without waiting for a pipe or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from neuromirror.model import NeuromirrorError


class NotARegularFileError(NeuromirrorError):
    """What is there is a pipe, a socket or a device."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to be read; raises NotARegularFileError, and OSError as ``open`` does."""
    file = open(path, "rb", opener=_nonblocking_opener)  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotARegularFileError(f"{path} is no regular file")
    return file


def _nonblocking_opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
