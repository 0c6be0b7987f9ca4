"""An AWS bucket is opened in the region that AWS reports."""

from __future__ import annotations

import pytest
from requests.structures import CaseInsensitiveDict

from neuromirror.conformance.detect import open_archive
from neuromirror.net import ResponseHead, Session
from neuromirror.sources.s3.source import S3Source


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        ({"x-amz-bucket-region": "eu-west-3"}, "eu-west-3"),
        ({"X-Amz-Bucket-Region": "us-gov-west-1"}, "us-gov-west-1"),
        ({}, "us-"),
    ],
)
@pytest.mark.parametrize("status", [200, 301, 403])
def test_the_region_is_the_one_that_aws_states(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], host: str, status: int
) -> None:
    requests: list[str] = []

    def head(self: Session, url: str, **_: object) -> ResponseHead:
        requests.append(url)
        return ResponseHead(status, CaseInsensitiveDict(headers))

    monkeypatch.setattr(Session, "head", head)
    kind, source = open_archive("s3://a-bucket/some/prefix")
    assert isinstance(source, S3Source)
    assert kind == "s3"
    assert len(requests) == 1
    assert requests[0].startswith("https://a-bucket.s3.")
    assert f".{host}" in source.bucket.object_url(b"key")
