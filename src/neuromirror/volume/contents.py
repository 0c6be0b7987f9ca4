"""Compare a file with its git-annex key; map files into memory."""

from __future__ import annotations

import hashlib
import mmap
import os
from io import BufferedReader
from typing import BinaryIO, Final

from neuromirror.annex import key_digest, parse_key
from neuromirror.volume.errors import BlockUnavailableError

MAX_SHARD: Final = 1 << 30
"""Maximum size of a shard in bytes."""


def check_content(file: BufferedReader, key: str) -> str:
    """Return how the content of a file differs from its annex key, as text; empty if it does not.

    A key without a sha256 or MD5 is compared by size only.
    """
    size, has = parse_key(key).size, os.fstat(file.fileno()).st_size
    if size is not None and size != has:
        return f"it has {has} bytes, not {size}"
    digest = key_digest(key)
    if digest is None or digest[0] == "etag":
        return ""
    algorithm, value = digest
    file.seek(0)
    found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found == value else f"its {algorithm} is {found}, not {value}"


def slice_content(content: mmap.mmap, path: str, start: int, stop: int, where: str) -> bytes:
    """Return a part of a shard; raise BlockUnavailableError if its index names other bytes."""
    if not 0 <= start <= stop <= len(content):
        why = f"it ends before byte {stop}, which its index names"
        raise BlockUnavailableError(path, where, why)
    return content[start:stop]


def map_file(file: BinaryIO) -> mmap.mmap:
    """Map a whole file into memory, for reading."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
