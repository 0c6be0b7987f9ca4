"""Hosts of AWS S3."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_HOST: Final = re.compile(
    r"(?:(?P<bucket>[a-z0-9][a-z0-9._-]{0,253})\.)?"
    r"s3(?:-(?P<kind>[a-z0-9-]+))?(?:\.dualstack)?(?:\.(?P<region>[a-z0-9-]+))?"
    r"\.amazonaws\.com(?:\.cn)?"
)
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]+")


class AwsHost(NamedTuple):
    """A host of AWS S3.

    Attributes
    ----------
    bucket
        The bucket that the host names; None if the path of the URL does.
    region
        The region; None if the host does not name it.
    """

    bucket: str | None
    region: str | None


def parse_aws_host(host: str) -> AwsHost | None:
    """Return what a host of AWS S3 names.

    Parameters
    ----------
    host
        The host of a URL, in lower case and without a port.

    Returns
    -------
    AwsHost or None
        Bucket and region; None for the host of another service.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    # s3-us-west-2 was the form before s3.us-west-2; s3-fips and s3-accelerate name no region
    region = found["region"] or found["kind"] or ""
    return AwsHost(found["bucket"], region if _REGION.fullmatch(region) else None)
