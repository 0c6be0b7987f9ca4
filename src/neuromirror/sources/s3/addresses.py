"""Addresses of objects and prefixes in a bucket."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

_AWS: Final = r"s3(?:[.-][a-z0-9-]+)*(?:\.dualstack)?(?:\.[a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?"
_VERSION: Final = re.compile(r"\?versionId=[^&?]*\Z")


def key_of(address: str, bucket: str, endpoint: str | None) -> bytes | None:
    """Return the key or prefix that an address names in a bucket.

    An ``s3://`` address has the key as it is: ``#`` and ``%`` are part of it. In an HTTP URL it is
    encoded.

    Parameters
    ----------
    address
        The address.
    bucket
        The name of the bucket.
    endpoint
        The base URL of another service than AWS.

    Returns
    -------
    bytes or None
        None if it is not an address in this bucket.
    """
    if address.startswith("s3://"):
        name, _, key = address.removeprefix("s3://").partition("/")
        return _VERSION.sub("", key).encode("utf-8", "surrogateescape") if name == bucket else None
    if not address.startswith(("https://", "http://")):
        return None
    parts = urlsplit(address)
    host, path = parts.netloc.lower(), parts.path.lstrip("/")
    if endpoint is not None:
        base = urlsplit(endpoint)
        if host == base.netloc.lower():
            path = parts.path.removeprefix(base.path.rstrip("/")).lstrip("/")
            return _below(path, bucket)
        return unquote_to_bytes(path) if host == f"{bucket}.{base.netloc}".lower() else None
    if re.fullmatch(rf"{re.escape(bucket.lower())}\.{_AWS}", host):
        return unquote_to_bytes(path)
    return _below(path, bucket) if re.fullmatch(_AWS, host) else None


def _below(path: str, bucket: str) -> bytes | None:
    name, _, key = path.partition("/")
    return unquote_to_bytes(key) if name == bucket else None
