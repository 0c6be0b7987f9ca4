"""Listings of moto's S3 server, with unusual keys."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from neuromirror.net import (
    NotFoundError,
    ObjectChangedError,
    RequestLimits,
    ResponseTooLargeError,
    S3Bucket,
    Session,
    probe_bucket,
)

HOSTILE = [
    *("a b", "a+b", "a#b", "a%b", "a%20b", "a&b", "a<b>", "tab\tx", "nl\nx", "a?b=c"),
    *("x//y", "//x", "/x", "up/../x", "..", "./x", ".git/config", "x/.gitmodules"),
    *("dir/", "dir/file", "both", "both/child", "both.txt", "é-nfc".replace("é", "\u00e9")),
    *(
        "e\u0301-nfd",
        "🧠/🐁.nwb",
        "long/" + "n" * 300,
        "q'uote",
        'd"uote',
        "back\\slash",
        "~",
        "a:b",
    ),
]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class MotoBucket:
    """A public bucket in moto's backend, filled directly, since moto's routes refuse some keys."""

    def __init__(self) -> None:
        from moto.s3.models import get_canned_acl, s3_backends

        self.backend = s3_backends["123456789012"]["aws"]
        self.name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.public = get_canned_acl("public-read")
        self.backend.create_bucket(self.name, "us-east-1")
        self.backend.put_bucket_acl(self.name, self.public)

    def keep_versions(self) -> None:
        self.backend.put_bucket_versioning(self.name, "Enabled")

    def put(self, key: str, data: bytes, day: int = 1) -> str:
        kept = self.backend.put_object(self.name, key, data)
        kept.acl = self.public
        kept.last_modified = datetime(2024, 1, day)
        return kept.etag.strip('"')

    def delete(self, key: str) -> None:
        self.backend.delete_object(self.name, key)


@pytest.fixture
def moto_bucket() -> MotoBucket:
    return MotoBucket()


def open_bucket(moto: str, name: str, **more: object) -> S3Bucket:
    limits = RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
    return S3Bucket(Session(allow_private=True, limits=limits), name, endpoint=moto, **more)


@pytest.mark.parametrize("page_size", [2, 1000])
def test_every_hostile_key_is_listed_as_it_is(moto, moto_bucket, page_size):
    for key in HOSTILE:
        moto_bucket.put(key, key.encode())
    bucket = open_bucket(moto, moto_bucket.name, page_size=page_size)
    listing = bucket.objects(b"", connections=4)
    rows = sorted(listing.rows(), key=lambda row: row.key)
    assert [row.key for row in rows] == sorted(key.encode() for key in HOSTILE)
    assert all(row.size == len(row.key) for row in rows)
    assert all(row.modified.tzinfo is UTC for row in rows)
    assert bucket.objects(b"", memo=listing.memo()).unchanged()


def test_every_hostile_key_that_moto_serves_is_read_by_its_url(moto, moto_bucket):
    for key in HOSTILE:
        moto_bucket.put(key, key.encode())
    bucket = open_bucket(moto, moto_bucket.name)
    for key in HOSTILE:
        if "\n" in key or key.startswith("/"):
            continue  # moto's own routes know no such path
        assert bucket.read(key.encode(), limit=1000) == key.encode(), key


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_level_has_folders_and_the_objects_beside_them(moto, moto_bucket, page_size):
    for key in ("a/x", "a/y/z", "b", "c/", "d e/f", "d+e/f", "z"):
        moto_bucket.put(key, b"x")
    bucket = open_bucket(moto, moto_bucket.name, page_size=page_size)

    def names(prefix):
        return [one if isinstance(one, bytes) else one.key for one in bucket.list_level(prefix)]

    assert names(b"") == [b"a/", b"b", b"c/", b"d e/", b"d+e/", b"z"]
    assert names(b"a/") == [b"a/x", b"a/y/"]
    assert names(b"c/") == [b"c/"]
    assert names(b"nothing/") == []


@pytest.mark.parametrize("page_size", [1, 3])
def test_versions_and_delete_markers_are_all_listed(moto, moto_bucket, page_size):
    moto_bucket.put("before", b"1")
    moto_bucket.keep_versions()
    for number in range(3):
        for key in ("a b", "x/y"):
            moto_bucket.put(key, b"x" * number, day=1 + number)
    moto_bucket.delete("x/y")
    bucket = open_bucket(moto, moto_bucket.name, page_size=page_size)
    listing = bucket.objects(b"", versions=True)
    rows = list(listing.rows())
    shape = [(row.key, row.size, row.deleted, row.latest) for row in rows]
    assert shape == [
        (b"a b", 2, False, True),
        (b"a b", 1, False, False),
        (b"a b", 0, False, False),
        (b"before", 1, False, True),
        (b"x/y", 0, True, True),
        (b"x/y", 2, False, False),
        (b"x/y", 1, False, False),
        (b"x/y", 0, False, False),
    ]
    assert rows[3].version_id is None
    assert len({row.version_id for row in rows}) == len(rows)
    memo = listing.memo()
    assert (
        open_bucket(moto, moto_bucket.name, page_size=page_size)
        .objects(b"", versions=True, memo=memo)
        .unchanged()
    )
    moto_bucket.put("m", b"x")
    second = bucket.objects(b"", versions=True, memo=memo)
    assert not second.unchanged()
    assert [row.key for row in second.rows()].count(b"m") == 1
    found = bucket.read(b"a b", version_id=rows[1].version_id, limit=10)
    assert found == b"x"


def test_the_capabilities_of_a_bucket_are_probed(moto, moto_bucket):
    bucket = open_bucket(moto, moto_bucket.name)
    assert probe_bucket(bucket).version_readable is None
    moto_bucket.keep_versions()
    moto_bucket.put("a", b"x")
    found = probe_bucket(bucket)
    assert found.versions_listable
    assert found.version_readable


def test_checksums_are_probed(moto, moto_bucket):
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=moto,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(s3={"addressing_style": "path"}),
    )
    client.put_object(Bucket=moto_bucket.name, Key="a", Body=b"x", ChecksumAlgorithm="SHA256")
    bucket = open_bucket(moto, moto_bucket.name)
    assert probe_bucket(bucket).checksums_returned
    assert next(bucket.objects(b"").rows()).checksum_algorithm == "SHA256"
    assert "x-amz-checksum-sha256" in bucket.head(b"a", checksums=True).headers


def test_a_bucket_that_does_not_exist_is_not_found(moto):
    with pytest.raises(NotFoundError) as caught:
        list(open_bucket(moto, "no-such-bucket").list_level(b""))
    assert caught.value.fields["Code"] == "NoSuchBucket"


def test_an_object_is_read_whole_and_only_as_it_was_listed(moto, moto_bucket):
    etag = moto_bucket.put("a", b"x" * 100)
    bucket = open_bucket(moto, moto_bucket.name)
    assert bucket.read(b"a", etag=etag, limit=100) == b"x" * 100
    with pytest.raises(ResponseTooLargeError):
        bucket.read(b"a", limit=99)
    with pytest.raises(NotFoundError):
        bucket.read(b"b", limit=99)
    moto_bucket.put("a", b"y" * 100)
    with pytest.raises(ObjectChangedError, match=etag):
        bucket.read(b"a", etag=etag, limit=100)
    assert bucket.head(b"b").status == 404
