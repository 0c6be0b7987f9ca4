"""The archive's two checksums, as pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

PART_SIZE = 64 * 1024 * 1024
"""Part size of a dandi-etag in bytes; it suffices for files under 10,000 parts, as all here are."""


def part_sizes(size: int, part_size: int = PART_SIZE) -> tuple[int, ...]:
    """Return the sizes of the parts of an upload; at least one part."""
    starts = range(0, max(size, 1), part_size)
    return tuple(min(part_size, size - start) for start in starts)


def multipart_etag(data: bytes, part_size: int | None) -> tuple[str, tuple[int, ...]]:
    """Return S3's ETag and the part sizes; for a single-part upload (None) the MD5, and no parts.

    In parts it is ``<md5 of the joined part md5s>-<parts>``.
    """
    if part_size is None:
        return hashlib.md5(data, usedforsecurity=False).hexdigest(), ()
    sizes = part_sizes(len(data), part_size)
    joined = hashlib.md5(usedforsecurity=False)
    start = 0
    for size in sizes:
        joined.update(hashlib.md5(data[start : start + size], usedforsecurity=False).digest())
        start += size
    return f"{joined.hexdigest()}-{len(sizes)}", sizes


def dandi_etag(data: bytes) -> str:
    """Return the ETag of an upload in parts of 64 MiB."""
    return multipart_etag(data, PART_SIZE)[0]


def zarr_checksum(entries: Mapping[str, tuple[str, int]]) -> str:
    """Return the dandi-zarr-checksum ``<md5>-<files>--<bytes>`` of path → (md5 hex, bytes).

    The checksum of a folder is the md5 of its compact JSON listing, sorted by name; the format is
    that of the ``compute_zarr_checksum`` package.
    """
    files: list[dict[str, object]] = []
    folders: dict[str, dict[str, tuple[str, int]]] = {}
    for path, (digest, size) in entries.items():
        head, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(head, {})[rest] = (digest, size)
        else:
            files.append({"digest": digest, "name": head, "size": size})
    directories: list[dict[str, object]] = []
    for name in sorted(folders):
        digest = zarr_checksum(folders[name])
        directories.append(
            {"digest": digest, "name": name, "size": int(digest.rpartition("--")[2])}
        )
    listing = {
        "directories": directories,
        "files": sorted(files, key=lambda one: str(one["name"])),
    }
    text = json.dumps(listing, separators=(",", ":"))
    total = sum(size for _, size in entries.values())
    return (
        f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}-{len(entries)}--{total}"
    )
