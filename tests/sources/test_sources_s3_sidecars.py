"""Sidecars of a bucket's datasets become documents."""

import json

import pytest

from neuromirror.sources import UnreliableListingError
from support.moto_buckets import MIB, listing_of, read


def put_asset(bucket, root="asset"):
    description = {"name": "asset_name", "subject_id": "123", "license": "CC-BY-4.0"}
    bucket.put(f"{root}/data_description.json", json.dumps(description).encode())
    bucket.put(f"{root}/ecephys/continuous.dat", b"\0" * 100)
    bucket.put(f"{root}/ecephys/settings.json", b"{}")


def test_sidecars_are_documents_and_all_else_is_files(bucket):
    put_asset(bucket)
    bucket.put("asset/original_metadata/old.xml", b"<x/>")
    bucket.put("asset/broken.json", b"{not json\xff")
    listing = listing_of(bucket.source(layout="aind"), "asset")
    assert set(read(listing)) == {b"ecephys/continuous.dat", b"ecephys/settings.json"}
    documents = {document.path: document for document in listing.documents}
    assert set(documents) == {
        b"data_description.json",
        b"broken.json",
        b"original_metadata/old.xml",
    }
    assert documents[b"broken.json"].content == b"{not json\xff"
    assert documents[b"broken.json"].modified is not None
    assert listing.facts.license == ("CC-BY-4.0",)
    assert ("subject", "123") in listing.facts.attributes


def test_the_plain_profile_has_no_documents(bucket):
    put_asset(bucket)
    listing = listing_of(bucket.source(), "asset")
    assert b"data_description.json" in read(listing)
    assert listing.documents == ()
    assert listing.facts.title == "asset"


def test_an_indexers_timestamp_changes_no_document(bucket):
    put_asset(bucket)
    joined = b'{\n  "_id": "1",\n  "last_modified": "%s",\n  "n": 1.10\n}\n'
    seen = []
    for moment in (b"2024-01-01", b"2025-02-02"):
        bucket.put("asset/metadata.nd.json", joined % moment)
        listing = listing_of(bucket.source(layout="aind"), "asset")
        read(listing)
        seen += [one.content for one in listing.documents if one.path == b"metadata.nd.json"]
        assert ("cleaned", "metadata.nd.json") in listing.facts.attributes
    assert seen == [b'{\n  "_id": "1",\n  "n": 1.10\n}\n'] * 2


def test_a_signed_address_in_a_sidecar_is_never_kept(bucket):
    put_asset(bucket)
    secret = b"https://b.s3.amazonaws.com/k?X-Amz-Signature=0123abcd&versionId=1"
    bucket.put("asset/session.json", b'{"link": "%s", "n": 1.0}' % secret)
    listing = listing_of(bucket.source(layout="aind"), "asset")
    read(listing)
    kept = {document.path: document.content for document in listing.documents}[b"session.json"]
    assert kept == b'{"link": "https://b.s3.amazonaws.com/k?versionId=1", "n": 1.0}'
    assert ("cleaned", "session.json") in listing.facts.attributes
    assert ("cleaned", "data_description.json") not in listing.facts.attributes


def test_large_or_oddly_named_sidecars_are_ordinary_files(bucket):
    bucket.put("a/large.json", b" " * (4 * MIB + 1))
    bucket.put("a/.hidden.json", b"{}")
    bucket.put("a/original_metadata/both", b"1")
    bucket.put("a/original_metadata/both/child", b"2")
    bucket.put("a/fine.json", b"{}")
    listing = listing_of(bucket.source(layout="aind"), "a")
    assert set(read(listing)) == {b"large.json", b".hidden.json", b"original_metadata/both"}
    assert [document.path for document in listing.documents] == [
        b"fine.json",
        b"original_metadata/both/child",
    ]


def test_too_many_sidecars_are_ordinary_files(bucket, monkeypatch):
    monkeypatch.setattr("neuromirror.sources.s3.sidecars.MAX_DOCUMENTS", 5)
    monkeypatch.setattr("neuromirror.sources.s3.sidecars.MAX_TOTAL_BYTES", 6)
    sizes = [1, 2, 1, 9, 1, 1, 1]
    for number in reversed(range(len(sizes))):
        bucket.put(f"a/original_metadata/{number}", b"x" * sizes[number])
    listing = listing_of(bucket.source(layout="aind"), "a")
    files = set(read(listing))
    assert [document.path[-1:] for document in listing.documents] == [b"0", b"1", b"2", b"4"]
    assert {path[-1:] for path in files} == {b"3", b"5", b"6"}


def test_a_sidecar_that_changes_while_it_is_read_fails_the_listing(bucket):
    put_asset(bucket)
    source = bucket.source(layout="aind")
    whole = source.bucket.read

    def late(key, **more):
        bucket.put("asset/data_description.json", b'{"name": "other"}')
        return whole(key, **more)

    source.bucket.read = late
    with pytest.raises(UnreliableListingError, match="written since"):
        list(listing_of(source, "asset").entries())


def test_the_same_bucket_gives_the_same_listing_in_any_order(bucket):
    put_asset(bucket)
    for number in range(20):
        bucket.put(f"asset/f{number % 3}/{number}", b"%d" % number)
    source = bucket.source(layout="aind")
    first = listing_of(source, "asset")
    expected = read(first)
    objects = source.bucket.objects

    def backwards(*args, **named):
        listing = objects(*args, **named)
        rows = listing.rows
        listing.rows = lambda: reversed(list(rows()))
        return listing

    source.bucket.objects = backwards
    second = listing_of(source, "asset")
    assert read(second) == expected
    assert (second.documents, second.facts) == (first.documents, first.facts)
