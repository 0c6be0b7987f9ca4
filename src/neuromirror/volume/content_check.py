"""Whether a file is what a git-annex key stands for, and its bytes without reading them all."""

from __future__ import annotations

import hashlib
import mmap
import os
from io import BufferedReader
from typing import BinaryIO

from neuromirror.annex import key_digest, parse_key


def check_content(file: BufferedReader, key: str) -> str:
    """What is wrong with a file, in words; empty where it is what its key says.

    A key without a checksum is only held against the size.
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


def map_file(file: BinaryIO) -> mmap.mmap:
    """The bytes of a file, of which only those are read that are looked at."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
