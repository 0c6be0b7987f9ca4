"""The mapping of objects to file paths, for sources whose paths differ from the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import ClassVar, Final

from neuromirror.model import ExcludedEntry
from neuromirror.net import ContextThreadPool, ObjectRow, S3Bucket

RequestHeaders = Callable[[ObjectRow], Mapping[str, str] | None]
"""Returns the headers of a row's object; None if the bucket refuses them.

Raises NetError, and UnreliableListingError if the object is no longer the listed one.
"""

PathOrException = bytes | ExcludedEntry
"""The path of a file, or the reason why an object has none."""


class FileNaming:
    """Assigns paths to the objects of one listing: their names, unless a subclass has other rules.

    Attributes
    ----------
    needs_headers
        Whether a path depends on more than the object's name.
    """

    needs_headers: ClassVar[bool] = False

    def prepare_rows(
        self,
        rows: Iterable[ObjectRow],
        request_headers: RequestHeaders,
        pool: ContextThreadPool,
    ) -> Iterable[ObjectRow]:
        """Yield the same rows, after requesting the headers that :meth:`file_path` depends on."""
        return rows

    def file_path(
        self, row: ObjectRow, name: bytes, request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> PathOrException | Future[PathOrException]:
        """Return the path for an object whose key within the dataset is ``name``."""
        return name

    def object_names(self, file_path: bytes) -> Sequence[bytes]:
        """Return the names of the objects that can have this path."""
        return (file_path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], file_path: bytes) -> bool:
        """Return whether an object with this name and these headers has this path."""
        return name == file_path


OBJECT_NAMING: Final = FileNaming()


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
