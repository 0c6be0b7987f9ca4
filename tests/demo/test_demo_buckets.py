"""boto3 reads the demo buckets: objects, parts, versions, listings."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR, MEAREC, MIB, RAW_2025, SESSIONS

VIDEO = f"{BEHAVIOR}/behavior-videos/Face Camera.mp4"


@pytest.fixture(scope="module")
def still_buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBuckets]:
    """Buckets that no test changes."""
    with DemoBuckets(tmp_path_factory.mktemp("buckets")) as running:
        yield running


def anonymous(buckets: DemoBuckets) -> Any:
    """Return a client for unsigned, path-style requests."""
    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}, proxies={})
    return boto3.client("s3", endpoint_url=buckets.endpoint, region_name="us-east-1", config=config)


def test_boto_reads_part_sizes_ranges_and_checksums(still_buckets: DemoBuckets) -> None:
    client = anonymous(still_buckets)
    where = {"Bucket": still_buckets.open_data}
    part = client.head_object(**where, Key=VIDEO, PartNumber=1, ChecksumMode="ENABLED")
    assert (part["ContentLength"], part["PartsCount"]) == (5 * MIB, 2)
    assert part["ChecksumType"] == "COMPOSITE"
    assert part["ChecksumSHA256"].endswith("-2")
    whole = client.head_object(
        **where, Key=f"{RAW_2025}/behavior/Licks.csv", ChecksumMode="ENABLED"
    )
    assert whole["ChecksumType"] == "FULL_OBJECT"
    data = still_buckets.data(f"{RAW_2025}/behavior/Licks.csv")
    assert base64.b64decode(whole["ChecksumSHA256"]) == hashlib.sha256(data).digest()
    body = client.get_object(**where, Key=VIDEO, Range="bytes=-3")["Body"].read()
    assert body == still_buckets.data(VIDEO)[-3:]


def test_versions_and_delete_markers_are_listed_and_read(still_buckets: DemoBuckets) -> None:
    client = anonymous(still_buckets)
    bucket = still_buckets.benchmark
    pages = client.get_paginator("list_object_versions").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 2}
    )
    versions: list[Any] = []
    markers: list[Any] = []
    for page in pages:
        versions += page.get("Versions", [])
        markers += page.get("DeleteMarkers", [])
    ours = [
        version
        for key in {row["Key"] for row in [*versions, *markers]}
        for version in still_buckets.versions(key, bucket=bucket)
    ]
    assert len(ours) == len(versions) + len(markers)
    assert {row["VersionId"] for row in [*versions, *markers]} == {our.version_id for our in ours}
    assert {row["Key"]: row["IsLatest"] for row in markers} == {
        f"{SESSIONS[1]}/notes.txt": True,
        f"{MEAREC}/mearec_NP2.h5": False,
    }
    for row in versions:
        body = client.get_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])
        assert body["ContentLength"] == row["Size"]
        assert body["VersionId"] == row["VersionId"]
    old = [row for row in versions if row["Key"] == f"{SESSIONS[1]}/provenance.json"]
    assert [row["IsLatest"] for row in old] == [True, False]


@pytest.mark.parametrize("page_size", [1, 3, 1000])
def test_boto_lists_every_key_once_and_in_order(still_buckets: DemoBuckets, page_size: int) -> None:
    for bucket in (still_buckets.open_data, still_buckets.hostile):
        pages = (
            anonymous(still_buckets)
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, PaginationConfig={"PageSize": page_size})
        )
        keys = [row["Key"] for page in pages for row in page.get("Contents", [])]
        expected = still_buckets.present(bucket=bucket)
        # boto reads names as UTF-8; the one that is not comes as U+FFFD.
        assert keys == [key.decode("utf-8", "replace") for key in expected]
