"""Datasets of a bucket: discovery, and validity of their listings."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from neuromirror.model import Digest, Evidence, VersionKind
from neuromirror.net import NotFoundError
from neuromirror.sources import DatasetNotFoundError, MalformedIdError, UnreliableListingError
from support.moto_buckets import MIB, files_of, listing_of, md5, read, refuse_heads
from support.visit_context import EMPTY_CONTEXT, FakeVisitContext

# --- discovery


def test_each_prefix_at_the_depth_is_a_dataset(bucket):
    bucket.put_all("a/1", "a/2/3", "b c/1", "ü/1")
    hints = list(bucket.source(mirror="m").datasets())
    assert [hint.dataset.name for hint in hints] == ["m:a", "m:b=20c", "m:=C3=BC"]
    assert {hint.unavailable for hint in hints} == {None}
    assert {hint.fingerprint for hint in hints} == {None}
    base = f"{bucket.buckets.endpoint}/{bucket.name}/"
    assert [hint.dataset.source_uri for hint in hints] == [
        f"{base}a/",
        f"{base}b%20c/",
        f"{base}%C3%BC/",
    ]


def test_depths_differ_by_prefix_as_in_the_benchmark_bucket(bucket):
    bucket.put_all(
        "ephys-compression/aind-np1/s1/x",
        "ephys-compression/aind-np1/s2/x",
        "ephys-compression/ibl-np1/s3/x",
        "ephys-compression/mearec/a/x",
        "ephys-compression/mearec/b",
    )
    source = bucket.source(
        depth=3, datasets=[{"prefix": "ephys-compression/mearec", "depth": 2}], mirror="m"
    )
    assert [hint.dataset.local_id for hint in source.datasets()] == [
        "ephys-compression/aind-np1/s1",
        "ephys-compression/aind-np1/s2",
        "ephys-compression/ibl-np1/s3",
        "ephys-compression/mearec",
    ]
    assert set(files_of(source, "ephys-compression/mearec")) == {b"a/x", b"b"}


def test_objects_above_the_depth_are_reported(bucket):
    bucket.put_all("README", "index.html", "g/notes", "g/s/1")
    hints = list(bucket.source(depth=2).datasets())
    assert [hint.dataset.local_id for hint in hints] == ["g/s", "==above"]
    for part in ("3 ", "23 ", "README, g/notes, index.html"):
        assert part in (hints[1].unavailable or "")


def test_excluded_prefixes_are_skipped(bucket):
    bucket.put_all("a/1", "tmp/1", "scratch-1/1")
    source = bucket.source(exclude=["tmp", "scratch-*"])
    assert [hint.dataset.local_id for hint in source.datasets()] == ["a"]
    assert source.hint(source.dataset("tmp")).unavailable


def test_a_whole_bucket_or_prefix_can_be_one_dataset(bucket):
    bucket.put_all("a/1", "b/2/3", "4")
    source = bucket.source(depth=0)
    (hint,) = source.datasets()
    assert hint.dataset.local_id == bucket.name
    assert source.dataset(bucket.name) == hint.dataset
    assert hint.dataset.source_uri == f"{source.uri}/"
    assert set(files_of(source, bucket.name)) == {b"a/1", b"b/2/3", b"4"}
    below = bucket.source(depth=0, prefix="b")
    assert [hint.dataset.local_id for hint in below.datasets()] == ["b"]
    assert set(files_of(below, "b")) == {b"2/3"}


def test_a_prefix_keeps_others_out(bucket):
    bucket.put_all("in/a/1", "in/b/1", "inner/c/1")
    source = bucket.source(prefix="in")
    assert [hint.dataset.local_id for hint in source.datasets()] == ["in/a", "in/b"]
    assert source.hint(source.dataset("inner/c")).unavailable is not None


def test_a_dataset_with_an_empty_prefix_is_not_found(bucket):
    bucket.put_all("a/1", "ab/1")
    source = bucket.source()
    hint = source.hint(source.dataset("a"))
    assert hint in list(source.datasets())
    bucket.delete("a/1")
    with pytest.raises(DatasetNotFoundError, match="test:a"):
        source.hint(source.dataset("a"))
    bucket.delete("ab/1")
    bucket.client.delete_bucket(Bucket=bucket.name)
    with pytest.raises(NotFoundError) as caught:
        source.hint(source.dataset("a"))
    assert caught.value.fields["Code"] == "NoSuchBucket"


def test_a_malformed_id_is_refused_without_a_request(bucket):
    bucket.client.delete_bucket(Bucket=bucket.name)
    source = bucket.source()
    for wrong in ("", "a/", "/a", "a--b", "-a", ".git", "a b", "==above", "a=2", "a=41", "ü"):
        with pytest.raises(MalformedIdError):
            source.dataset(wrong)


# --- capabilities


def test_capabilities_are_described(bucket, versioned_bucket):
    bucket.put("a/1", b"1", ChecksumAlgorithm="SHA256")
    assert bucket.source().capabilities() == {
        "versions": "listable",
        "version-reads": "not tested",
        "checksums": "returned",
        "durability": "mutable-bucket",
    }
    versioned_bucket.put("a/1", b"1")
    assert versioned_bucket.source().capabilities() == {
        "versions": "listable",
        "version-reads": "allowed",
        "checksums": "not tested",
        "durability": "versioned-bucket",
    }


# --- memo and confirmation


def test_an_unchanged_prefix_is_known_by_its_memo(bucket):
    bucket.put_all("a/1", "a/2")
    listing = listing_of(bucket.source(), "a")
    read(listing)
    memo = listing.memo()
    assert not listing_of(bucket.source(), "a").is_unchanged()
    assert listing_of(bucket.source(), "a", FakeVisitContext(memo=memo)).is_unchanged()
    changed = listing_of(bucket.source(overwrites="incident"), "a", FakeVisitContext(memo=memo))
    assert not changed.is_unchanged()
    assert not listing_of(bucket.source(), "a", FakeVisitContext(memo=b"broken")).is_unchanged()
    bucket.put("a/2", b"other")
    later = listing_of(bucket.source(), "a", FakeVisitContext(memo=memo))
    assert not later.is_unchanged()
    assert read(later)[b"2"].digests == (Digest("md5", md5(b"other"), "s3"),)


def test_a_listing_with_refused_objects_has_no_memo(bucket):
    bucket.upload("a/big", bytes(6 * MIB), 5 * MIB)
    source = bucket.source()
    refuse_heads(source, b"a/big")
    with pytest.raises(UnreliableListingError, match="unusual sizes"):
        read(listing_of(source, "a"))
    listing = listing_of(source, "a")
    assert read(listing)[b"big"].evidence is Evidence.SIZE
    assert listing.memo() is None


def test_an_object_that_changed_since_its_row_fails_the_listing(bucket):
    bucket.upload("a/big", bytes(6 * MIB), 5 * MIB)
    source = bucket.source()
    rows = source.bucket.objects

    def then_change(*args, **named):
        listing = rows(*args, **named)
        if named["versions"]:
            return listing
        listed = list(listing.rows())
        bucket.put("a/big", b"another")
        listing.rows = lambda: iter(listed)
        return listing

    source.bucket.objects = then_change
    with pytest.raises(UnreliableListingError, match="a/big"):
        list(listing_of(source, "a").entries())


def test_writes_during_a_listing_fail_it(bucket):
    bucket.put_all("a/1", "a/2")
    begin = datetime.now(UTC)
    bucket.set_time("a/2", begin + timedelta(seconds=2))
    listing = listing_of(bucket.source(), "a")
    list(listing.entries())
    until(begin + timedelta(seconds=3))
    with pytest.raises(UnreliableListingError, match=r"20[0-9-]+T"):
        listing.confirm_version()


def until(moment: datetime) -> None:
    while datetime.now(UTC) < moment:
        time.sleep(0.05)


def test_a_resumed_listing_keeps_its_start_time(bucket, tmp_path):
    bucket.put_all("a/1", "a/2")
    killed = listing_of(bucket.source(), "a", FakeVisitContext(workspace=tmp_path))
    next(killed.entries())
    until(datetime.now(UTC) + timedelta(seconds=2))
    for left in tmp_path.iterdir():
        if left.name != "began":
            left.unlink()
    bucket.put("a/2", b"written between")
    going_on = listing_of(bucket.source(), "a", FakeVisitContext(workspace=tmp_path))
    list(going_on.entries())
    with pytest.raises(UnreliableListingError, match=r"20[0-9-]+T"):
        going_on.confirm_version()
    assert set(files_of(bucket.source(), "a")) == {b"1", b"2"}


def test_a_future_modification_time_is_not_a_concurrent_write(bucket):
    bucket.put("a/1")
    bucket.set_time("a/1", datetime.now(UTC) + timedelta(days=400))
    assert set(files_of(bucket.source(), "a")) == {b"1"}


def test_missing_files_are_requested_before_they_count_as_removed(bucket):
    bucket.put_all("a/1", "a/up/../2", "b/3")
    listing = listing_of(bucket.source(), "a")
    assert listing.can_find_present
    assert listing.find_present([b"1", b"3", b"up/../2", b"none"]) == [b"1", b"up/../2"]
    many = [b"no/%d" % number for number in range(1500)]
    assert listing.find_present([*many, b"1"]) == [b"1"]


def test_a_malformed_version_is_refused(bucket):
    source = bucket.source()
    (current,) = source.versions(source.dataset("a"))
    assert (current.upstream, current.kind) == ("current", VersionKind.OBSERVED)
    assert (current.time, current.claimed_totals) == (None, None)
    for wrong in ("draft", "at noon", "at 2024-01-01T00:00:00"):
        odd = type(current)(current.dataset, wrong, current.kind, None)
        with pytest.raises(MalformedIdError, match="no version"):
            source.listing(odd, EMPTY_CONTEXT)
