"""Search the index for a file on disk, by all checksums that it may be recorded with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from neuromirror.annex import MAX_POINTER_BYTES, EtagDigest, parse_link_target, parse_pointer
from neuromirror.index import FoundFile, Index
from neuromirror.model import NeuromirrorError, dandi_part_size
from neuromirror.transfer.content_checks import Hasher

_MIB: Final = 1 << 20
_BLOCK: Final = 4 * _MIB

PART_SIZES: Final = (5 * _MIB, 8 * _MIB, 15 * _MIB, 16 * _MIB, 64 * _MIB)
"""Default part sizes of multipart uploads, in bytes.

The minimum of S3 (rclone, Java SDK); AWS CLI and boto3; s3cmd; AWS console; DANDI.
"""


class ContentUnavailableError(NeuromirrorError):
    """A file cannot be looked up: it does not exist, or is a broken link that is not annexed."""


def queries_of_file(path: Path) -> list[str]:
    """Return the checksums by which the content of a file may be in the index.

    They are sha256, md5 and the multipart ETags for the usual part sizes, computed in one pass. For
    an annexed file without content, it is the key.

    Parameters
    ----------
    path
        The file; annexed files may have no content.

    Returns
    -------
    list[str]
        Queries for :func:`find_any`.

    Raises
    ------
    ContentUnavailableError
        The file does not exist, or is a broken link that is not annexed.
    OSError
        The file cannot be read.
    """
    key = annexed_key(path)
    try:
        with path.open("rb", buffering=0) as file:
            if (
                key is not None
                and parse_pointer(os.pread(file.fileno(), MAX_POINTER_BYTES, 0)) == key
            ):
                return [key]
            return _checksum_queries(file.fileno())
    except FileNotFoundError as error:
        if key is None:
            raise ContentUnavailableError(f"{path}: no such file, or a broken link") from error
        return [key]


def find_any(index: Index, queries: Iterable[str]) -> Iterator[FoundFile]:
    """Yield the files that match one of the queries, without duplicates.

    Parameters
    ----------
    index
        The index to search.
    queries
        Checksums (with or without the name of the algorithm) or annex keys.

    Yields
    ------
    FoundFile
        A file of a version, once.

    Raises
    ------
    MalformedQueryError
        A query is not a checksum or a key.
    """
    seen: set[FoundFile] = set()
    for query in queries:
        for found in index.find(query):
            if found not in seen:
                seen.add(found)
                yield found


def annexed_key(path: Path) -> str | None:
    """Return the key of an annexed file, locked or unlocked; None for any other file."""
    if path.is_symlink():
        return parse_link_target(os.fsencode(os.readlink(path)))
    if path.is_file() and path.stat().st_size <= MAX_POINTER_BYTES:
        return parse_pointer(path.read_bytes())
    return None


def _checksum_queries(descriptor: int) -> list[str]:
    size = os.fstat(descriptor).st_size
    parts = {dandi_part_size(size), *PART_SIZES} if size < 5 << 40 else set(PART_SIZES)
    # a file of one part has the same ETag for all larger part sizes
    sizes = sorted({min(one, max(size, 1)) for one in parts})
    hashes: dict[str, Hasher] = {
        "sha256": hashlib.sha256(usedforsecurity=False),
        "md5": hashlib.md5(usedforsecurity=False),
        **{f"etag {one}": EtagDigest(one) for one in sizes},
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := os.read(descriptor, _BLOCK):
            for done in [pool.submit(one.update, block) for one in hashes.values()]:
                done.result()
    return [f"{name.partition(' ')[0]}:{one.hexdigest()}" for name, one in hashes.items()]
