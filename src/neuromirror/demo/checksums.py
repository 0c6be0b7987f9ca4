"""The archive's two checksums, as pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

PART_SIZE = 64 * 1024 * 1024
"""Bytes of a part of a dandi-etag; enough for files under 10,000 parts, as all here are."""


def dandi_etag(data: bytes) -> str:
    """``<md5 of the joined part md5s>-<parts>``, in parts of 64 MiB (at least one)."""
    starts = range(0, max(len(data), 1), PART_SIZE)
    parts = [
        hashlib.md5(data[start : start + PART_SIZE], usedforsecurity=False).digest()
        for start in starts
    ]
    joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(parts)}"


def zarr_checksum(entries: Mapping[str, tuple[str, int]]) -> str:
    """The dandi-zarr-checksum ``<md5>-<files>--<bytes>`` of entries: path to (md5 hex, bytes).

    Bottom up, the md5 of a folder's compact JSON listing, sorted by name; the format is that of
    the ``zarr_checksum`` package.
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
