"""boto3 as an anonymous client of the demo buckets."""

from __future__ import annotations

from typing import Any

from neuromirror_demo import DemoBuckets


def anonymous(buckets: DemoBuckets) -> Any:
    """Return a client for unsigned, path-style requests."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=buckets.endpoint,
        region_name="us-east-1",
        config=Config(
            signature_version=UNSIGNED,
            s3={"addressing_style": "path"},
            proxies={},
            retries={"total_max_attempts": 1},
        ),
    )


def listed(buckets: DemoBuckets, bucket: str, page_size: int = 1000) -> list[str]:
    """Return all keys, as boto3 lists them."""
    pages = (
        anonymous(buckets)
        .get_paginator("list_objects_v2")
        .paginate(Bucket=bucket, PaginationConfig={"PageSize": page_size})
    )
    return [row["Key"] for page in pages for row in page.get("Contents", [])]
