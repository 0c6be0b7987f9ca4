"""Read copies in vaults on this machine, as if they were response bodies."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Final
from urllib.parse import unquote

from neuromirror.net import OpenBody
from neuromirror.transfer.content_bodies import ContentMismatchError

_SCHEME: Final = "file://"
_BLOCK: Final = 1 << 20


@contextmanager
def open_local_copy(url: str, *, start: int = 0) -> Iterator[OpenBody]:
    """Open a copy in a vault; the bytes are not verified.

    Parameters
    ----------
    url
        The ``file:`` URL of the copy. The caller has made it from the path of a vault: a URL from
        a dataset must not be passed.
    start
        Offset of the first byte.

    Yields
    ------
    OpenBody
        The bytes from ``start``.

    Raises
    ------
    ContentMismatchError
        The vault does not have the copy, or it cannot be read.
    """
    path = unquote(url.removeprefix(_SCHEME))
    try:
        # a FIFO must not block the reader
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ContentMismatchError(f"the copy cannot be read: {error.strerror}") from error
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ContentMismatchError("the copy is not a regular file")
        file.seek(start)
        yield OpenBody(start, max(0, status.st_size - start), _blocks(file))


def _blocks(file: FileIO) -> Generator[memoryview, None, None]:
    buffer = memoryview(bytearray(_BLOCK))
    try:
        while count := file.readinto(buffer):
            yield buffer[:count]
    except OSError as error:
        raise ContentMismatchError(f"the copy cannot be read: {error.strerror}") from error
