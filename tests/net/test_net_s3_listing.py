"""Parallel listings of a bucket return every key once or fail."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.listing_server import BigBucket
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromirror.net import (
    InvalidListingError,
    NetError,
    RequestLimits,
    S3Bucket,
    Session,
    s3_parallel,
)

KEY_PARTS = [
    "a",
    "b",
    "a/",
    "0",
    "00",
    "9",
    "/",
    "é",
    "e\u0301",
    "🧠",
    " ",
    "+",
    "%",
    "&",
    "\n",
    "~",
]
KEYS = st.lists(st.sampled_from(KEY_PARTS), min_size=1, max_size=6).map(
    lambda parts: "".join(parts).encode()
)


def open_bucket(bucket: BigBucket, **more: object) -> S3Bucket:
    limits = RequestLimits(attempts=3, wait=0.01, wait_max=0.02)
    session = Session(allow_private=True, limits=limits)
    return S3Bucket(session, bucket.name, endpoint=bucket.endpoint, **more)


def keys_of(listing) -> list[bytes]:
    return sorted(row.key for row in listing.rows())


@settings(max_examples=30)
@given(
    st.sets(KEYS, max_size=150),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from([b"", b"a", b"a/", b"0", "é".encode(), b"nothing"]),
)
def test_any_keys_in_pages_of_any_size_by_any_number_of_connections(keys, page, many, prefix):
    with BigBucket(keys=keys, page=page) as bucket:
        listing = open_bucket(bucket).objects(prefix, connections=many)
        expected = sorted(key for key in keys if key.startswith(prefix))
        assert keys_of(listing) == expected
        second = open_bucket(bucket).objects(prefix, memo=listing.memo(), connections=many)
        assert second.unchanged()
        if expected:
            bucket.change(expected[-1])
            second = open_bucket(bucket).objects(prefix, memo=listing.memo(), connections=many)
            assert not second.unchanged()
            assert keys_of(second) == expected


@pytest.mark.parametrize("seed", range(2))
def test_ranges_that_are_cut_at_every_chance_neither_lose_nor_repeat_a_key(monkeypatch, seed):
    monkeypatch.setattr(s3_parallel, "_BEFORE_SPLIT", 1)
    monkeypatch.setattr(s3_parallel, "_PAGES_PER_SPLIT", 1)
    monkeypatch.setattr(s3_parallel, "_PAUSE_PAGES", 1)
    rng = random.Random(seed)
    shapes = [
        lambda: b"flat/%08d" % rng.randrange(10**4),
        lambda: b"deep/%d/%d/%d" % tuple(rng.choices(range(12), k=3)),
        lambda: b"zarr/0/%d.%d.%d" % tuple(rng.choices(range(30), k=3)),
        lambda: b"\xc3\xa9/\xc3\xbc%x" % rng.getrandbits(24),
        lambda: b"s%03d/meta.json" % rng.randrange(900),
        lambda: bytes([rng.randrange(256)]) + b"x",
    ]
    keys = {rng.choice(shapes[seed % 2 :])() for _ in range(600)}
    with BigBucket(keys=keys, page=5) as bucket:
        bucket.delay = 0.001
        listing = open_bucket(bucket).objects(b"", connections=8)
        assert keys_of(listing) == sorted(keys)
        starts = len(bucket.requested_starts)
        assert open_bucket(bucket).objects(b"", memo=listing.memo()).unchanged()
        assert len(bucket.requested_starts) - starts < len(keys) / 5 * 1.5 + 5


def test_a_small_listing_takes_one_request():
    with BigBucket(900) as bucket:
        assert keys_of(open_bucket(bucket).objects(b"")) == list(bucket.keys)
        assert bucket.requested_starts == [b""]


@pytest.mark.parametrize(
    "keys",
    [
        [b"asset_%03d/%d" % (n // 100, n % 100) for n in range(1000)],
        [b"one/%08d.bin" % n for n in range(1000)],
        [b"a/b.zarr/0/%d.%d" % divmod(n, 60) for n in range(1000)],
    ],
    ids=["folders", "numbers in one folder", "chunks of a Zarr"],
)
def test_one_long_range_is_shared_by_several_connections(keys):
    with BigBucket(keys=keys, page=10) as bucket:
        bucket.delay = 0.01
        assert keys_of(open_bucket(bucket).objects(b"", connections=6)) == sorted(keys)
        assert bucket.max_concurrent >= 4
        assert len(bucket.requested_starts) < 100 * 1.25


def test_slow_down_is_waited_for():
    with BigBucket(500, page=100) as bucket:
        bucket.slow_down = 2
        assert keys_of(open_bucket(bucket).objects(b"")) == list(bucket.keys)


def test_slow_down_without_end_is_an_error_with_its_code():
    with BigBucket(500, page=100) as bucket:
        bucket.slow_down = 10**6
        with pytest.raises(NetError, match="SlowDown"):
            keys_of(open_bucket(bucket).objects(b""))


@pytest.mark.parametrize("whole", [True, False], ids=["well-formed reply", "broken transfer"])
def test_a_page_that_is_cut_is_an_error(whole):
    with BigBucket(500, page=100) as bucket:
        bucket.cut(bucket.keys[199], whole=whole)
        with pytest.raises(NetError) as caught:
            keys_of(open_bucket(bucket).objects(b"", connections=1))
        assert isinstance(caught.value, InvalidListingError) is whole


def test_a_memo_requires_a_complete_listing():
    with BigBucket(500, page=100) as bucket:
        listing = open_bucket(bucket).objects(b"")
        with pytest.raises(RuntimeError):
            listing.memo()
        next(listing.rows())
        with pytest.raises(RuntimeError):
            listing.memo()


def test_every_change_is_seen_by_comparing(tmp_path):
    with BigBucket(2000, page=100) as bucket:
        listing = open_bucket(bucket).objects(b"")
        assert keys_of(listing) == list(bucket.keys)
        memo = listing.memo()
        for act in (
            lambda: bucket.change(bucket.keys[-1]),
            lambda: bucket.drop(bucket.keys[0]),
            lambda: bucket.drop(bucket.keys[1_234]),
        ):
            act()
            assert not open_bucket(bucket).objects(b"", memo=memo).unchanged()
            bucket.restore()
            bucket._revisions.clear()
            assert open_bucket(bucket).objects(b"", memo=memo).unchanged()


def test_a_key_added_anywhere_is_seen_by_comparing():
    keys = [b"k/%05d" % n for n in range(600)]
    with BigBucket(keys=keys, page=20) as bucket:
        listing = open_bucket(bucket).objects(b"k/")
        keys_of(listing)
        memo = listing.memo()
    for new in (b"k/", b"k/00000x", b"k/00299x", b"k/00300x", b"k/00599x", b"k/\xff"):
        with BigBucket(keys=[*keys, new], page=20, port=0) as bucket:
            other = open_bucket(bucket)
            other.uri = listing._bucket.uri
            assert not other.objects(b"k/", memo=memo).unchanged(), new


@pytest.mark.parametrize("memo", [None, b"", b"nonsense"])
def test_without_a_memo_of_this_listing_nothing_is_requested(memo):
    with BigBucket(10) as bucket:
        listing = open_bucket(bucket).objects(b"")
        keys_of(listing)
        other = open_bucket(bucket).objects(b"other/", memo=listing.memo())
        bucket.requested_starts.clear()
        assert not other.unchanged()
        assert not open_bucket(bucket).objects(b"", memo=memo).unchanged()
        assert bucket.requested_starts == []


@pytest.mark.parametrize("kept", [True, False], ids=["workspace", "no workspace"])
def test_pages_fetched_for_the_comparison_are_fetched_once(tmp_path, kept):
    with BigBucket(3000, page=100) as bucket:
        listing = open_bucket(bucket).objects(b"")
        keys_of(listing)
        bucket.change(bucket.keys[2950])
        bucket.requested_starts.clear()
        second = open_bucket(bucket).objects(
            b"", memo=listing.memo(), workspace=tmp_path if kept else None
        )
        assert not second.unchanged()
        assert keys_of(second) == list(bucket.keys)
        assert max(Counter(bucket.requested_starts).values()) == 1
        assert open_bucket(bucket).objects(b"", memo=second.memo()).unchanged()


def test_an_unchanged_listing_leaves_no_spool_for_a_later_one(tmp_path):
    with BigBucket(500, page=100) as bucket:
        listing = open_bucket(bucket).objects(b"")
        keys_of(listing)
        same = open_bucket(bucket).objects(b"", memo=listing.memo(), workspace=tmp_path)
        assert same.unchanged()
        assert same.memo() == listing.memo()
        bucket.change(bucket.keys[7])
        assert (
            not open_bucket(bucket).objects(b"", memo=same.memo(), workspace=tmp_path).unchanged()
        )


LISTING_SCRIPT = """
import sys
from pathlib import Path
from neuromirror.net import S3Bucket, Session
name, endpoint, workspace = sys.argv[1:]
bucket = S3Bucket(Session(allow_private=True), name, endpoint=endpoint)
for row in bucket.objects(b"", workspace=Path(workspace), connections=4).rows():
    pass
"""


def test_a_listing_killed_at_page_50_of_200_resumes_without_refetching_stored_pages(tmp_path):
    with BigBucket(keys=[b"x%d/%05d" % (n % 3, n) for n in range(5_000)], page=25) as bucket:
        bucket.delay = 0.005
        command = [
            sys.executable,
            "-c",
            LISTING_SCRIPT,
            bucket.name,
            bucket.endpoint,
            str(tmp_path),
        ]
        child = subprocess.Popen(command)
        while len(bucket.requested_starts) < 50 and child.poll() is None:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        time.sleep(0.05)
        before = list(bucket.requested_starts)
        bucket.delay = 0.0
        listing = open_bucket(bucket).objects(b"", workspace=tmp_path, connections=4)
        kept = s3_parallel.ListingSpool(tmp_path, listing._identity)
        kept.resume()
        pieces = kept.coverages()
        assert 30 <= len(pieces) <= len(before)
        rows = [row.key for row in listing.rows()]
        assert sorted(rows) == list(bucket.keys)
        after = bucket.requested_starts[len(before) :]
        assert not {piece.start for piece in pieces} & set(after)
        assert len(after) < 200
        assert open_bucket(bucket).objects(b"", memo=listing.memo()).unchanged()


def list_partly(bucket: BigBucket, workspace: Path) -> None:
    rows = open_bucket(bucket).objects(b"", workspace=workspace, connections=2).rows()
    for _ in range(250):
        next(rows)
    rows.close()


def test_a_torn_end_of_the_spool_is_dropped_and_the_rest_is_used(tmp_path):
    with BigBucket(800, page=100) as bucket:
        list_partly(bucket, tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-100])
        bucket.requested_starts.clear()
        assert keys_of(open_bucket(bucket).objects(b"", workspace=tmp_path)) == list(bucket.keys)
        assert b"" not in bucket.requested_starts


@pytest.mark.parametrize("how", ["damaged", "old", "from the future", "no spool"])
def test_an_untrustworthy_spool_is_discarded(tmp_path, monkeypatch, how):
    with BigBucket(800, page=100) as bucket:
        list_partly(bucket, tmp_path)
        (file,) = tmp_path.iterdir()
        now = time.time()
        if how == "damaged":
            body = bytearray(file.read_bytes())
            body[len(body) // 2] ^= 1
            file.write_bytes(body)
        elif how == "no spool":
            file.write_bytes(b"something else that is long enough to be read")
        else:
            later = now + (25 if how == "old" else -1) * 3600
            monkeypatch.setattr(s3_parallel.time, "time", lambda: later)
        bucket.requested_starts.clear()
        assert keys_of(open_bucket(bucket).objects(b"", workspace=tmp_path)) == list(bucket.keys)
        assert b"" in bucket.requested_starts


def test_listings_that_share_a_workspace_do_not_take_each_others_pages(tmp_path):
    with BigBucket(800, page=100) as bucket:
        list_partly(bucket, tmp_path)
        other = open_bucket(bucket).objects(b"asset_0000", workspace=tmp_path)
        assert len(keys_of(other)) == 100
        bucket.requested_starts.clear()
        assert keys_of(open_bucket(bucket).objects(b"", workspace=tmp_path)) == list(bucket.keys)
        assert b"" not in bucket.requested_starts


def test_an_error_during_the_comparison_is_raised_at_once():
    with BigBucket(5000, page=100) as bucket:
        listing = open_bucket(bucket).objects(b"")
        keys_of(listing)
        bucket.requested_starts.clear()
        bucket.slow_down = 10**6
        with pytest.raises(NetError, match="SlowDown"):
            open_bucket(bucket).objects(b"", memo=listing.memo()).unchanged()
        assert len(bucket.requested_starts) < 40
