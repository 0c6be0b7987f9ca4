"""The bucket for benches behaves like S3 where its clients look."""

from __future__ import annotations

import hashlib

import pytest
from benchmarks.listing_server import BigBucket


@pytest.fixture
def client():
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    def make(bucket):
        path = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"})
        return boto3.client(
            "s3", endpoint_url=bucket.endpoint, region_name="us-east-1", config=path
        )

    return make


def test_boto3_pages_through_all_of_it(client):
    with BigBucket(2500) as bucket:
        pages = client(bucket).get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        rows = [row for page in pages for row in page["Contents"]]
        assert [row["Key"].encode() for row in rows] == list(bucket.keys)
        content = client(bucket).get_object(Bucket=bucket.name, Key=rows[7]["Key"])
        body = content["Body"].read()
        assert len(body) == rows[7]["Size"]
        assert rows[7]["ETag"] == content["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'


def test_boto3_sees_the_same_folders_in_pages_of_any_size(client):
    keys = [b"a/x", b"a/y/z", b"b", b"c/", b"d e/f", b"d+e/f", "é/1".encode(), b"z"]
    with BigBucket(keys=keys) as bucket:
        for size in (1, 3, 1000):
            pages = (
                client(bucket)
                .get_paginator("list_objects_v2")
                .paginate(Bucket=bucket.name, Delimiter="/", PaginationConfig={"PageSize": size})
            )
            found = [
                one.get("Prefix") or one["Key"]
                for page in pages
                for one in (*page.get("Contents", ()), *page.get("CommonPrefixes", ()))
            ]
            assert sorted(found) == ["a/", "b", "c/", "d e/", "d+e/", "z", "é/"]


def test_a_share_has_the_etag_of_a_multipart_upload(client):
    with BigBucket(100, multipart=0.1) as bucket:
        rows = client(bucket).list_objects_v2(Bucket=bucket.name)["Contents"]
        parted = [row for row in rows if "-" in row["ETag"]]
        assert len(parted) == 10
        body = client(bucket).get_object(Bucket=bucket.name, Key=parted[3]["Key"])["Body"].read()
        joined = hashlib.md5(hashlib.md5(body).digest()).hexdigest()
        assert parted[3]["ETag"] == f'"{joined}-1"'
        head = client(bucket).head_object(Bucket=bucket.name, Key=parted[3]["Key"], PartNumber=1)
        assert (head["PartsCount"], head["ContentLength"]) == (1, len(body))


def test_it_can_change_drop_cut_and_mend():
    with BigBucket(30) as bucket:
        before = bucket._listing(b"list-type=2")[1]
        for act in (
            lambda: bucket.drop(bucket.keys[3]),
            lambda: bucket.cut(b""),
        ):
            act()
            assert len(bucket._listing(b"list-type=2")[1]) < len(before)
            bucket.restore()
        assert bucket._listing(b"list-type=2")[1] == before
        bucket.change(bucket.keys[3])
        assert bucket._listing(b"list-type=2")[1] != before
