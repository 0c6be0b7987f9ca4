"""Detect the kind of archive at a URL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from neuromirror.model import ConfigurationError
from neuromirror.net import NetError, RequestLimits, RequestPolicy, Session, is_local_name, origin
from neuromirror.sources import Source, open_source
from neuromirror.sources.dandi.buckets import BucketCache, ObjectAddress, parse_object_url

_LIMITS: Final = RequestLimits(attempts=2, wait=0.5, wait_max=1.0, retry_after_max=5, read=30)
_NAME: Final = "archive"


class UnknownArchiveError(ConfigurationError):
    """The URL is not that of a supported archive."""


def open_archive(url: str) -> tuple[str, Source]:
    """Open the archive at a URL.

    Parameters
    ----------
    url
        ``s3://bucket/prefix``, the URL of a bucket or of a prefix in it, or the base URL of the API
        of a DANDI archive, a BOSS or an ndstore.

    Returns
    -------
    kind : str
        The kind of source, as in mirror files.
    source : Source
        The opened source.

    Raises
    ------
    UnknownArchiveError
        No supported archive responds there.
    """
    if url.startswith("s3://"):
        return "s3", _open_on_aws(url)
    if not url.startswith(("https://", "http://")):
        raise UnknownArchiveError(
            f"{url[:200]!r} is neither a mirror nor a URL; use the name of a mirror, or a URL "
            "that starts with https://, http:// or s3://"
        )
    base = url.rstrip("/")
    with Session(allow_private=is_local_name(origin(url)[1]), limits=_LIMITS) as session:
        for kind, options in _candidates(session, base):
            return kind, _open(kind, **options)
    raise UnknownArchiveError(
        f"{session.redact(base)}: not a DANDI API, S3 bucket, BOSS or ndstore; use the base URL "
        f"of the API (https://api.dandiarchive.org/api) or the bucket (s3://NAME)"
    )


def _open_on_aws(url: str) -> Source:
    """Open an AWS bucket, in the region that AWS reports."""
    parts = urlsplit(url)
    prefix = parts.path.lstrip("/")
    with Session(limits=_LIMITS) as session:
        address = ObjectAddress(parts.netloc, None, None, prefix.encode("utf-8"))
        region = BucketCache(session).bucket(address).region
    return _open("s3", bucket=parts.netloc, prefix=prefix, region=region, depth=0)


def _open(kind: str, **options: Any) -> Source:
    return open_source(kind, _NAME, options, RequestPolicy())


def _candidates(session: Session, base: str) -> Iterator[tuple[str, dict[str, Any]]]:
    info = _json(session, f"{base}/info/")
    if isinstance(info, dict) and "instance_config" in info:
        yield "dandi", {"api": base}
    if isinstance(_json(session, f"{base}/public_tokens/"), list):
        yield "ndstore", {"api": base}
    for address in (base, f"{base}/v1"):
        listed = _json(session, f"{address}/collection/")
        if isinstance(listed, dict) and "collections" in listed:
            yield "boss", {"api": address}
    try:
        bucket_address = parse_object_url(base)
        prefix = bucket_address.key.decode("utf-8")
        body = session.get_bytes(
            f"{_bucket_url(base, bucket_address.bucket)}?list-type=2&max-keys=1",
            limit=1 << 20,
            accept="application/xml",
            parse=lambda got: got.content,
        )
    except (NetError, ValueError):  # ValueError: no bucket, or a prefix that is not UTF-8
        return
    if b"<ListBucketResult" in body:
        options: dict[str, Any] = {
            "bucket": bucket_address.bucket,
            "prefix": prefix,
            "depth": 0,
        }
        if bucket_address.region:
            options["region"] = bucket_address.region
        if bucket_address.endpoint:
            options["endpoint"] = bucket_address.endpoint
        yield "s3", options


def _bucket_url(base: str, bucket: str) -> str:
    """Return the URL of the bucket of a URL."""
    parts = urlsplit(base)
    path = f"/{bucket}/" if parts.path.startswith(f"/{bucket}") else "/"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _json(session: Session, url: str) -> Any:
    try:
        return session.get_json(url)
    except NetError:
        return None
