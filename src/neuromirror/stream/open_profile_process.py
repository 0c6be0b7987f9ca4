"""The process that opens an HDF5 file for its open profile, and asks its parent for the bytes.

HDF5 may loop or exhaust the memory on a damaged file, so that this process has limits. On its
standard output are requests, two integers of 64 bits each: the start and the end of a range. The
reply on its standard input are the bytes; it is killed if they cannot be read. The last request is
:data:`DONE` with the length of a message, which follows, and which is empty if the file could be
opened.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO, Final

REQUEST: Final = struct.Struct("<QQ")
DONE: Final = (1 << 64) - 1
MAX_REQUEST: Final = 8 << 20
"""Maximum length of a range in bytes."""
MAX_MESSAGE: Final = 500
"""Maximum length of the message in bytes."""
_MEMORY: Final = 4 << 30
"""Limit of the address space in bytes, most of which is libraries and never used."""


class _RequestedFile(io.RawIOBase):
    """A file whose bytes are requested from the parent."""

    def __init__(self, size: int, requests: BinaryIO, replies: BinaryIO) -> None:
        super().__init__()
        self._size, self._requests, self._replies = size, requests, replies
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        position = origins[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        first = self._position
        last = min(first + len(view), self._size)
        while self._position < last:
            start, stop = self._position, min(self._position + MAX_REQUEST, last)
            self._requests.write(REQUEST.pack(start, stop))
            self._requests.flush()
            view[start - first : stop - first] = self._replies.read(stop - start)
            self._position = stop
        return self._position - first


def main() -> None:
    """Open the file of the size, path and CPU seconds in the arguments."""
    size, path, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    # HDF5 must not load plug-ins; it reads this variable when h5py is imported
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread reserves address space
    for kind, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))
    with open(os.dup(1), "wb") as requests:
        os.dup2(2, 1)  # what libraries print is no request
        message = _open(_RequestedFile(size, requests, sys.stdin.buffer), path)
        encoded = message.encode("utf-8", "backslashreplace")[:MAX_MESSAGE]
        with suppress(BrokenPipeError):
            requests.write(REQUEST.pack(DONE, len(encoded)) + encoded)
            requests.flush()
    os._exit(0)  # HDF5 may crash when objects of a failed read are cleaned up at exit


def _open(file: _RequestedFile, path: str) -> str:
    """Open the file as a program does; return why it cannot be opened, or an empty text."""
    import h5py

    try:
        # the ranges read before a program fails are a valid profile
        with h5py.File(file, "r") as opened, suppress(Exception):
            read_like_a_program(opened, path)
    except Exception as error:  # noqa: BLE001 - h5py raises any for a damaged file
        return str(error) or type(error).__name__
    return ""


def read_like_a_program(opened: Any, path: str) -> None:
    """Read what a program reads when it opens a file: of NWB files by pynwb, else all attributes.

    Parameters
    ----------
    opened
        The open :class:`h5py.File`.
    path
        Its path, whose ending decides.
    """
    if path.lower().endswith(".nwb"):
        from pynwb import NWBHDF5IO

        with NWBHDF5IO(file=opened, mode="r") as io:
            io.read()
        return

    def read_attributes(_: str, one: Any) -> None:
        dict(one.attrs)

    opened.visititems(read_attributes)


if __name__ == "__main__":
    main()
