"""Detect what anonymous clients may do with an S3 bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from neuromirror.net.errors import HttpError, VersionsIgnoredError
from neuromirror.net.s3_bucket import S3Bucket
from neuromirror.net.s3_pages import ObjectRow

_PROBE_ROWS: Final = 5
_NOT_OFFERED: Final = frozenset({400, 401, 403, 405, 501})


class S3Capabilities(Struct, frozen=True):
    """The capabilities of a bucket for anonymous clients; None if they could not be tested.

    Attributes
    ----------
    versions_listable
        Whether object versions can be listed.
    version_readable
        Whether an object can be read by its version id; None also if the probed ones are refused.
    checksums_returned
        Whether HEAD returns S3's additional checksums.
    sample_version
        The key and version id of a readable object version.
    versions_ignored
        Whether the server lists objects instead of versions, and the tested objects have no
        version id.
    """

    versions_listable: bool
    version_readable: bool | None
    checksums_returned: bool | None
    sample_version: tuple[bytes, str] | None = None
    versions_ignored: bool = False


def probe_bucket(
    bucket: S3Bucket, prefix: bytes = b"", *, checksums: bool = True
) -> S3Capabilities:
    """Test the capabilities of the bucket on the first few objects with a prefix.

    Listing versions and reading a version are separate permissions.

    Parameters
    ----------
    bucket
        The bucket.
    prefix
        The prefix of the keys.
    checksums
        Whether to test additional checksums, which takes more requests.

    Returns
    -------
    S3Capabilities
        The capabilities.

    Raises
    ------
    NetError
        If the bucket cannot be listed at all.
    VersionsIgnoredError
        If the server lists objects instead of versions although its objects have version ids.
    """
    ignored: VersionsIgnoredError | None = None
    rows = bucket.page(prefix).rows[:_PROBE_ROWS] if checksums else []
    try:
        versions = bucket.versions_page(prefix).rows[:_PROBE_ROWS]
        listable = True
    except HttpError as error:
        if error.status not in _NOT_OFFERED:
            raise
        versions, listable = [], False
    except VersionsIgnoredError as error:
        versions, listable, ignored = [], False, error
    if not (checksums or listable):
        rows = bucket.page(prefix).rows[:_PROBE_ROWS]
    readable, sample = probe_version_reads(bucket, _sample_versions(bucket, rows, versions))
    if ignored is not None and sample is not None:
        raise ignored
    returned = _returns_checksums(bucket, rows) if checksums else None
    return S3Capabilities(listable, readable, returned, sample, ignored is not None)


def probe_version_reads(
    bucket: S3Bucket, samples: Iterable[tuple[bytes, str]]
) -> tuple[bool | None, tuple[bytes, str] | None]:
    """Test whether objects can be read by version id, and return a sample that can be.

    Parameters
    ----------
    bucket
        The bucket.
    samples
        Keys and version ids. Those after the first conclusive one are not requested.

    Returns
    -------
    bool or None
        False if an object can be read without its version id only; None if no object can be
        read, so that the permission is unknown.
    tuple or None
        The key and version id of a readable object version.
    """
    for sample in samples:
        status = bucket.head(sample[0], version_id=sample[1]).status
        if status == 200:
            return True, sample
        if status in _NOT_OFFERED and bucket.head(sample[0]).status == 200:
            return False, None
    return None, None


def _sample_versions(
    bucket: S3Bucket, rows: list[ObjectRow], versions: list[ObjectRow]
) -> Iterator[tuple[bytes, str]]:
    """Yield the keys and version ids of a few object versions."""
    named = [(row.key, row.version_id) for row in versions if row.version_id and not row.deleted]
    yield from named
    if not named:
        # HEAD returns the version id even if versions cannot be listed.
        for row in rows:
            version = bucket.head(row.key).headers.get("x-amz-version-id", "null")
            if version != "null":
                yield row.key, version


def _returns_checksums(bucket: S3Bucket, rows: list[ObjectRow]) -> bool | None:
    rows_with_checksums = [row for row in rows if row.checksum_algorithm]
    for row in rows_with_checksums or rows[:1]:
        reply = bucket.head(row.key, checksums=True)
        if any(
            name.lower().startswith("x-amz-checksum-") and name.lower() != "x-amz-checksum-type"
            for name in reply.headers
        ):
            return True
    return False if rows_with_checksums else None
