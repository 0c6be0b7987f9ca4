"""Digests, locations and unusual keys of S3 objects."""

import hashlib
from datetime import UTC, datetime

import pytest
from werkzeug import Response

from neuromirror.annex import key_for
from neuromirror.model import Digest, Evidence, ExcludedEntry, FileRecord, Retention
from neuromirror.net import S3Bucket, Session
from neuromirror.net.s3_pages import ObjectRow
from neuromirror.sources import KnownContent, UnreliableListingError
from neuromirror.sources.s3.object_claims import ClaimResolver
from support.moto_buckets import MIB, files_of, get_body, listing_of, md5, read, record_part_heads
from support.visit_context import FakeVisitContext

# --- claims


def test_a_single_part_etag_is_an_md5(bucket):
    bucket.put("a/one", b"one", ContentType="text/plain")
    bucket.put("a/none", b"")
    found = files_of(bucket.source(), "a")
    assert found[b"one"].digests == (Digest("md5", md5(b"one"), "s3"),)
    assert found[b"one"].evidence is Evidence.MD5
    assert found[b"one"].size == 3
    assert found[b"none"].digests == (Digest("md5", md5(b""), "s3"),)


def test_encrypted_objects_have_no_md5_and_neither_loses_the_others(bucket):
    for number in range(30):
        bucket.put(f"a/{number}", b"%d" % number)
    for number in range(5):
        bucket.put(f"a/kms/{number}", b"%d" % number, ServerSideEncryption="aws:kms")
    source = bucket.source()
    listing = listing_of(source, "a")
    with pytest.raises(UnreliableListingError, match=r"no MD5s .* try again"):
        list(listing.entries())
    found = read(listing_of(source, "a"))
    assert {one.evidence for path, one in found.items() if b"kms" in path} == {Evidence.SIZE}
    assert {one.evidence for path, one in found.items() if b"kms" not in path} == {Evidence.MD5}


def test_a_store_that_ignores_part_numbers_proves_only_the_size(httpserver):
    etag = f"{md5(b'parts')}-3"
    httpserver.expect_request("/data/a", method="HEAD").respond_with_response(
        Response(bytes(11 * MIB), headers={"ETag": f'"{etag}"'})
    )
    bucket = S3Bucket(
        Session(allow_private=True), "data", endpoint=httpserver.url_for("").rstrip("/")
    )
    row = ObjectRow(b"a", 11 * MIB, etag, datetime(2026, 1, 1, tzinfo=UTC))
    claims = ClaimResolver(bucket, "x:a", head_each=False, etags_opaque=False).request_claims(
        row, None
    )
    assert claims.part_size is None
    record = FileRecord(b"a", row.size, claims.digests, (), part_size=claims.part_size)
    assert record.evidence is Evidence.SIZE
    assert [one.query_string for one, _ in httpserver.log] == [b"partNumber=1"]


def test_the_etag_of_an_object_without_digest_shows_an_overwrite(bucket):
    bucket.upload_parts("a/odd", [bytes(6 * MIB), bytes(5 * MIB), b"x"])
    bucket.put("a/kms", b"1", ServerSideEncryption="aws:kms")
    source = bucket.source(etags="opaque")
    first = files_of(source, "a")
    bucket.upload_parts("a/odd", [bytes(6 * MIB), bytes(5 * MIB), b"y"])
    bucket.put("a/kms", b"2", ServerSideEncryption="aws:kms")
    for path, later in files_of(source, "a").items():
        assert later.evidence is first[path].evidence is Evidence.SIZE
        assert later.size == first[path].size
        assert later.digest("etag") != first[path].digest("etag") is not None
        assert key_for(later, path) != key_for(first[path], path)


def test_encryption_is_remembered(bucket):
    bucket.put("a/1", b"1", ServerSideEncryption="aws:kms")
    source = bucket.source()
    with pytest.raises(UnreliableListingError):
        read(listing_of(source, "a"))
    listing = listing_of(source, "a")
    first = read(listing)
    later = listing_of(bucket.source(), "a", FakeVisitContext(memo=listing.memo()))
    assert later.is_unchanged()
    second = listing_of(bucket.source(), "a", FakeVisitContext(memo=listing.memo()))
    assert read(second) == first


@pytest.mark.parametrize(("etags", "evidence"), [("md5", Evidence.MD5), ("opaque", Evidence.SIZE)])
def test_options_define_the_meaning_of_etags(bucket, etags, evidence):
    bucket.put("a/1", b"1", ServerSideEncryption="aws:kms")
    assert files_of(bucket.source(etags=etags), "a")[b"1"].evidence is evidence


def test_a_sha256_of_the_whole_content_is_the_best(bucket):
    bucket.put("a/sum", b"sum", ChecksumAlgorithm="SHA256")
    bucket.put("a/crc", b"crc", ChecksumAlgorithm="CRC32")
    bucket.put("a/kms", b"kms", ChecksumAlgorithm="SHA256", ServerSideEncryption="aws:kms")
    found = files_of(bucket.source(), "a")
    sha256 = hashlib.sha256(b"sum").hexdigest()
    assert found[b"sum"].digests == (
        Digest("sha256", sha256, "s3"),
        Digest("md5", md5(b"sum"), "s3"),
    )
    assert found[b"crc"].evidence is Evidence.MD5
    # encryption hides the MD5 but not the sha256
    assert found[b"kms"].digests == (Digest("sha256", hashlib.sha256(b"kms").hexdigest(), "s3"),)
    assert found == files_of(
        bucket.source(),
        "a",
        FakeVisitContext(
            contents={md5(b"sum"): KnownContent(3, None, Digest("sha256", sha256, "dandi"))}
        ),
    )


def test_a_composite_checksum_is_not_used_as_a_digest(bucket):
    bucket.upload("a/big", bytes(11 * MIB), 5 * MIB, ChecksumAlgorithm="SHA256")
    found = files_of(bucket.source(), "a")[b"big"]
    assert found.evidence is Evidence.ETAG
    assert [digest.algorithm for digest in found.digests] == ["etag"]


@pytest.mark.parametrize("part_size", [5 * MIB, 16 * MIB])
def test_a_multipart_upload_is_known_by_etag_and_part_size(bucket, part_size):
    parts_before = 2 if part_size < 10 * MIB else 1
    data = hashlib.shake_128(b"seed").digest(parts_before * part_size + 12345)
    bucket.upload("a/big", data, part_size)
    found = files_of(bucket.source(), "a")[b"big"]
    parts = [data[at : at + part_size] for at in range(0, len(data), part_size)]
    joined = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    assert found.digests == (Digest("etag", f"{md5(joined)}-{len(parts)}", "s3"),)
    assert found.part_size == part_size
    assert found.evidence is Evidence.ETAG


def test_one_part_is_as_large_as_the_object(bucket):
    bucket.upload_parts("a/one", [b"x" * 1000])
    found = files_of(bucket.source(), "a")[b"one"]
    assert (found.evidence, found.part_size) == (Evidence.ETAG, 1000)


@pytest.mark.parametrize(
    "sizes", [(5, 6, 4), (6, 5, 1), (5, 7, 5, 3)], ids=["sum fits", "short", "middle"]
)
def test_parts_of_different_sizes_prove_nothing(bucket, sizes):
    bucket.upload_parts("a/odd", [bytes([size]) * size * MIB for size in sizes])
    found = files_of(bucket.source(), "a")[b"odd"]
    assert found.part_size is None
    assert found.evidence is Evidence.SIZE


def test_a_known_part_size_is_not_requested(bucket):
    bucket.upload("a/big", bytes(29 * MIB), 6 * MIB)  # no usual size fits
    source = bucket.source()
    first = files_of(source, "a")[b"big"]
    assert first.part_size == 6 * MIB
    etag = first.digests[0].value
    requests = record_part_heads(source)
    known = FakeVisitContext(contents={etag: KnownContent(29 * MIB, 6 * MIB, None)})
    assert files_of(source, "a", known)[b"big"] == first
    assert requests == []
    # known contents are used only if their size matches
    known = FakeVisitContext(contents={etag: KnownContent(29 * MIB, 8 * MIB, None)})
    assert files_of(source, "a", known)[b"big"] == first
    assert requests


def test_copies_of_one_multipart_object_share_a_request(bucket):
    for name in "abc":
        bucket.upload(f"x/{name}", bytes(6 * MIB), 5 * MIB)
    source = bucket.source()
    requests = record_part_heads(source)
    assert len({file.part_size for file in files_of(source, "x").values()}) == 1
    assert len(requests) == 1


# --- locations


def test_without_versions_urls_have_no_version_id(bucket):
    bucket.put("a/1")
    one = files_of(bucket.source(), "a")[b"1"]
    assert one.locations[0].url == f"{bucket.buckets.endpoint}/{bucket.name}/a/1"
    assert one.locations[0].version_id is None
    assert one.retention is Retention.MUTABLE_BUCKET


def test_a_version_has_an_address_of_its_own(versioned_bucket):
    old = versioned_bucket.put("a/1", b"old")["VersionId"]
    source = versioned_bucket.source()
    before = files_of(source, "a")[b"1"]
    versioned_bucket.put("a/1", b"new")
    versioned_bucket.put("a/gone", b"gone")
    versioned_bucket.delete("a/gone")
    assert set(files_of(source, "a")) == {b"1"}
    assert before.locations[0].version_id == old
    assert before.retention is Retention.VERSIONED_BUCKET
    assert get_body(before.locations[0].url) == b"old"


def test_versions_are_found_where_the_bucket_began_without(bucket):
    for number in range(11):
        bucket.put(f"a/{number:02}")
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    bucket.put("b/1", b"one")
    source = bucket.source()
    assert source.capabilities()["version-reads"] == "not tested"
    assert {file.locations[0].version_id for file in files_of(source, "a").values()} == {None}
    listing = listing_of(source, "b")
    assert read(listing)[b"1"].locations[0].version_id is not None
    assert listing_of(source, "b", FakeVisitContext(memo=listing.memo())).is_unchanged()


@pytest.mark.parametrize(
    ("options", "identity"),
    [
        ({}, None),
        ({"overwrites": "incident"}, "a/1"),
        ({"layout": "aind"}, "a/1"),
        ({"layout": "aind", "overwrites": "version"}, None),
    ],
)
def test_the_key_is_the_identity_where_overwrites_are_incidents(bucket, options, identity):
    bucket.put("a/1")
    assert files_of(bucket.source(**options), "a")[b"1"].upstream_id == identity


def test_the_version_is_the_identity_where_overwrites_are_versions(versioned_bucket):
    version_id = versioned_bucket.put("a/1")["VersionId"]
    assert files_of(versioned_bucket.source(), "a")[b"1"].upstream_id == version_id


# --- unusual keys

HOSTILE = (
    "both",
    "both/child",
    ".git/config",
    "a//b",
    "/lead",
    "up/../x",
    "./here",
    "x/.gitmodules",
    "x/" + "n" * 300,
    "tab\there",
    "line\nbreak",
    "bell\x07",
    "space here",
    "hash#here",
    "query?x=1&y=2",
    "plus+plus",
    "percent%41",
    "back\\slash",
    'quote"s',
    "ünïcode/文件",
    "trailing/slash/",
    "dandiset.yaml",
    "~tilde",
)
MARKERS = ("dir/", "trailing/", "")


@pytest.mark.parametrize("with_versions", [True, False])
def test_every_hostile_key_is_accounted_for_one_by_one(buckets, with_versions):
    """Each is a record with a URL of exactly its bytes, or an exclusion."""
    bucket = buckets.make(versioned=with_versions)
    keys = list(HOSTILE)
    if with_versions:
        # moto does not encode keys in lists of versions, and XML does not allow control characters
        keys.remove("bell\x07")
    for key in keys:
        if "\n" in key:
            bucket.put_without_http(f"a/{key}", key.encode())
        else:
            bucket.put(f"a/{key}", key.encode())
    for key in MARKERS:
        bucket.put(f"a/{key}", b"")
    bucket.put("a/deleted", b"x")
    bucket.delete("a/deleted")
    source = bucket.source()
    found = files_of(source, "a")
    assert set(found) == {key.encode() for key in [*keys, *MARKERS]}
    for key in MARKERS:
        one = found[key.encode()]
        assert isinstance(one, ExcludedEntry)
        assert (one.reason, one.size) == ("folder-marker", 0)
    for key in keys:
        one = found[key.encode()]
        assert isinstance(one, FileRecord)
        assert one.evidence is Evidence.MD5
        (location,) = one.locations
        assert location.url == source.bucket.object_url(b"a/" + one.path, location.version_id)
        assert (location.version_id is not None) is with_versions
        if "\n" not in key:
            assert get_body(one.locations[0].url) == key.encode()


def test_the_prefix_itself_can_be_an_object_with_content(bucket):
    bucket.put("a/", b"content")
    bucket.put("a/1")
    found = files_of(bucket.source(), "a")
    assert found[b""].digests == (Digest("md5", md5(b"content"), "s3"),)
