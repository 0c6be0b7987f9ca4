"""Lookup of files that a listing lacks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from neuromirror.net import ContextThreadPool, S3Bucket
from neuromirror.sources.s3.file_naming import FileNaming

_MAX_HEADS: Final = 1000
"""Paths above which the prefix is listed again instead of one request per object."""


def find_present(
    bucket: S3Bucket,
    prefix: bytes,
    naming: FileNaming,
    paths: Sequence[bytes],
    *,
    connections: int,
) -> list[bytes]:
    """Return those of the given paths whose objects exist in the bucket.

    The caller gives paths that a listing lacks, to detect an incomplete listing. Many paths are
    looked up in a new listing of the prefix, a few with one request each.

    Parameters
    ----------
    bucket, prefix
        The location of the dataset's objects.
    naming
        Maps paths to names of objects.
    paths
        The paths.
    connections
        Number of parallel requests.
    """
    if len(paths) > _MAX_HEADS:
        keys = {prefix + name for path in paths for name in naming.object_names(path)}
        found = {row.key for row in bucket.objects(prefix).rows() if row.key in keys}
        paths = [
            path
            for path in paths
            if any(prefix + name in found for name in naming.object_names(path))
        ]
        if not naming.needs_headers:
            return list(paths)
    with ContextThreadPool(connections, thread_name_prefix="s3-object") as pool:
        present = list(pool.map(partial(_is_present, bucket, prefix, naming), paths))
    return [path for path, is_present in zip(paths, present, strict=True) if is_present]


def _is_present(bucket: S3Bucket, prefix: bytes, naming: FileNaming, path: bytes) -> bool:
    for name in naming.object_names(path):
        reply = bucket.head(prefix + name)
        if reply.status in (404, 410):
            continue
        # an object that is refused exists
        if reply.status != 200 or naming.is_file(name, reply.headers, path):
            return True
    return False
