"""Reading parts of files in processes that import nothing else."""

from typing import BinaryIO


def read_part(file: BinaryIO, start: int, stop: int) -> bytes:
    """Return the bytes of a range."""
    file.seek(start)
    return file.read(stop - start)
