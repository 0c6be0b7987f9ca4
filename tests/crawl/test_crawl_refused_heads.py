"""Buckets that refuse HEAD requests for a while: the next sync sends them again."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from neuromirror.index import FileRow
from neuromirror.model import Evidence, Retention
from neuromirror_demo import DemoBuckets
from support.mirror_harness import MirrorHarness
from support.quick_mirror import dataset_refs, quick_harness

BUCKET = "demo-aind-benchmark-data"
DATASET, ASSET = "box:asset", "asset"


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """An empty bucket with public versions; ETags are known to be MD5s."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        for file in running.mirrors.iterdir():
            file.unlink()
        (running.mirrors / "box.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "{BUCKET}"\nendpoint = "{running.endpoint}"\n'
            'depth = 1\netags = "md5"\n'
        )
        yield running


@pytest.fixture
def mirror_harness(buckets: DemoBuckets, tmp_path: Path) -> MirrorHarness:
    """A store that mirrors the bucket."""
    return MirrorHarness(buckets.mirrors, tmp_path / "store")


def fill(buckets: DemoBuckets, folder: str, count: int = 3) -> None:
    for number in range(count):
        buckets.put(f"{folder}/{number}.bin", b"%d" % number, bucket=BUCKET)


def fill_without_versions(buckets: DemoBuckets) -> None:
    """Add objects before all others, from a time when the bucket had no versions."""
    buckets.bucket(BUCKET).versioned = False
    fill(buckets, "aaa-older", 12)
    buckets.bucket(BUCKET).versioned = True


def files(mirror_harness: MirrorHarness) -> list[FileRow]:
    with mirror_harness.index() as index:
        return list(index.files.of(index.versions.resolve(DATASET)))


def test_one_refused_object_hides_no_version_ids(
    buckets: DemoBuckets, mirror_harness: MirrorHarness, tmp_path: Path
) -> None:
    fill(buckets, ASSET)
    undisturbed = MirrorHarness(buckets.mirrors, tmp_path / "undisturbed")
    undisturbed.sync()
    with buckets.fault("status", path="0.bin", method="HEAD", status=403) as fault:
        assert mirror_harness.sync()[DATASET].visit == "full"
        assert fault.struck
    assert dataset_refs(mirror_harness) == dataset_refs(undisturbed)
    assert {file.retention for file in files(mirror_harness)} == {Retention.VERSIONED_BUCKET}


@pytest.mark.parametrize("has_older", [False, True])
def test_refused_objects_leave_no_version_without_version_ids(
    buckets: DemoBuckets, mirror_harness: MirrorHarness, tmp_path: Path, has_older: bool
) -> None:
    """Also if the bucket's first objects are older than its versioning."""
    if has_older:
        fill_without_versions(buckets)
    fill(buckets, ASSET)
    undisturbed = MirrorHarness(buckets.mirrors, tmp_path / "undisturbed")
    assert undisturbed.sync(DATASET)[DATASET].visit == "full"
    with buckets.fault("status", path=f"{ASSET}/", method="HEAD", status=403) as fault:
        for _ in range(2):
            struck = fault.struck
            result = mirror_harness.sync(DATASET)[DATASET]
            assert fault.struck > struck
            assert (result.exit_code, result.visit, result.versions) == (1, "failed", ())
    assert mirror_harness.sync(DATASET)[DATASET].visit == "full"
    assert dataset_refs(mirror_harness) == dataset_refs(undisturbed)


@pytest.mark.parametrize("has_older", [False, True])
def test_objects_refused_for_a_day_are_requested_in_each_sync(
    buckets: DemoBuckets,
    mirror_harness: MirrorHarness,
    monkeypatch: pytest.MonkeyPatch,
    has_older: bool,
) -> None:
    if has_older:
        fill_without_versions(buckets)
    fill(buckets, ASSET)
    monkeypatch.setattr("neuromirror.crawl.listing.LASTING_AFTER", timedelta(0))
    with buckets.fault("status", path=f"{ASSET}/", method="HEAD", status=403) as fault:
        for _ in range(2):
            struck = fault.struck
            assert mirror_harness.sync(DATASET)[DATASET].visit == "full"
            assert fault.struck > struck
            assert {file.retention for file in files(mirror_harness)} == {Retention.MUTABLE_BUCKET}
    before = dataset_refs(mirror_harness)
    assert mirror_harness.sync(DATASET)[DATASET].visit == "full"
    # now the URLs with version ids are recorded
    moved = {ref for ref, commit in dataset_refs(mirror_harness).items() if commit != before[ref]}
    assert moved == {"box--asset refs/heads/git-annex"}
    assert mirror_harness.sync(DATASET)[DATASET].status == "notneeded"


def test_one_refused_sample_costs_later_syncs_no_requests(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    """After the refusal of a sampled object, all are requested, but only in that sync."""
    mirror = buckets.mirrors / "box.toml"
    mirror.write_text(mirror.read_text().replace('etags = "md5"\n', ""))
    fill(buckets, ASSET, 40)
    with buckets.fault("status", path="/1?[0-9].bin$", method="HEAD", status=403, skip=2, times=1):
        assert mirror_harness.sync(DATASET)[DATASET].visit == "full"
    assert buckets.count_requests("HEAD") >= 40
    assert {file.evidence for file in files(mirror_harness)} == {Evidence.MD5}
    buckets.put(f"{ASSET}/another.bin", b"another", bucket=BUCKET)
    buckets.clear_requests()
    assert mirror_harness.sync(DATASET)[DATASET].visit == "full"
    assert buckets.count_requests("HEAD") < 20


@pytest.mark.parametrize(
    ("has_older", "ends"), [(False, "cut"), (True, "cut"), (False, "objects"), (True, "objects")]
)
def test_a_broken_list_of_versions_leaves_no_version_without_version_ids(
    buckets: DemoBuckets, tmp_path: Path, has_older: bool, ends: str
) -> None:
    if has_older:
        fill_without_versions(buckets)
    fill(buckets, ASSET)
    undisturbed = quick_harness(buckets.mirrors, tmp_path / "undisturbed")
    assert undisturbed.sync(DATASET)[DATASET].visit == "full"
    mirror_harness = quick_harness(buckets.mirrors, tmp_path / "store")
    with buckets.cut_listing(ends, bucket=BUCKET, query="versions") as fault:
        result = mirror_harness.sync(DATASET)[DATASET]
        assert fault.struck
    assert (result.exit_code, result.visit, result.versions) == (1, "failed", ())
    assert mirror_harness.sync(DATASET)[DATASET].visit == "full"
    assert dataset_refs(mirror_harness) == dataset_refs(undisturbed)


def test_a_server_without_versions_that_lists_objects_instead_is_mirrored(
    buckets: DemoBuckets, tmp_path: Path
) -> None:
    """As if it refused the request, which is sent once per bucket and dataset, without retries."""
    buckets.bucket(BUCKET).versioned = False
    fill(buckets, ASSET)
    mirror_harness = quick_harness(buckets.mirrors, tmp_path / "store")
    with buckets.cut_listing("objects", bucket=BUCKET, query="versions") as fault:
        assert mirror_harness.sync(DATASET)[DATASET].visit == "full"
        assert fault.struck == 2
        assert mirror_harness.sync(DATASET)[DATASET].status == "notneeded"
    assert {file.retention for file in files(mirror_harness)} == {Retention.MUTABLE_BUCKET}
