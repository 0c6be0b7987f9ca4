"""Objects of S3 that a bucket of the same service can copy."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

from neuromirror.net import parse_aws_host


class S3Source(Struct, frozen=True):
    """An object.

    Attributes
    ----------
    bucket
        Its bucket.
    name
        Its name.
    version
        Its version; None for the current one.
    """

    bucket: str
    name: str
    version: str | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """The parameter ``CopySource`` of boto3."""
        found = {"Bucket": self.bucket, "Key": self.name}
        return found if self.version is None else {**found, "VersionId": self.version}


def find_source(url: str, endpoint: str) -> S3Source | None:
    """Return the object at a URL, if it is in the same service as a vault."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    path, host = unquote(parts.path.lstrip("/")), parts.hostname or ""
    bucket, name = "", ""
    if parts.scheme == "s3":
        bucket, name = parts.netloc, path
    elif parts.scheme in ("http", "https") and endpoint:
        own = urlsplit(endpoint)
        if (parts.scheme, host, port) == (own.scheme, own.hostname, own.port):
            bucket, _, name = path.partition("/")
        elif host.endswith(f".{own.hostname}") and port == own.port:
            bucket, name = host.removesuffix(f".{own.hostname}"), path
    elif (
        parts.scheme == "https"
        and port in (None, 443)
        and (found := parse_aws_host(host)) is not None
    ):
        address = path if found.bucket is None else f"{found.bucket}/{path}"
        bucket, _, name = address.partition("/")
    if not bucket or not name:
        return None
    version = parse_qs(parts.query).get("versionId", [None])[0]
    return S3Source(bucket, name, version)
