"""Buckets with objects that differ from their listing: none of them blocks its dataset."""

import base64
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from neuromirror.index import FileRow
from neuromirror.lab import verify
from neuromirror.model import Evidence, VersionMinted
from neuromirror.transfer import get
from neuromirror_demo import DemoBuckets
from support.dataset_clones import clone_dataset, overwrite, run_annex, verify_all
from support.mirror_harness import MirrorHarness, run_git

BUCKET = "demo-aind-open-data"
DATASET, ASSET = "swift:asset", "asset"
LARGE = bytes(range(250)) * 20_000
REAL = bytes(range(256)) * (9 << 12)
FEW, MANY = 2, 40
"""Ordinary objects beside the odd ones: so few that all are probed, and so many that few are."""


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """An empty bucket on a server of an unknown kind."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        for file in running.mirrors.iterdir():
            file.unlink()
        (running.mirrors / "swift.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "{BUCKET}"\nendpoint = "{running.endpoint}"\n'
            "depth = 1\n"
        )
        yield running


@pytest.fixture
def mirror_harness(buckets: DemoBuckets, tmp_path: Path) -> MirrorHarness:
    """A store that mirrors the buckets."""
    return MirrorHarness(buckets.mirrors, tmp_path / "store")


def fill(buckets: DemoBuckets, ordinary: int) -> None:
    for number in range(ordinary):
        buckets.put(f"{ASSET}/folder-{number}/{number}.bin", b"%d" % number)


def files(mirror_harness: MirrorHarness) -> dict[str, FileRow]:
    with mirror_harness.index() as index:
        return {one.path: one for one in index.files.of(index.versions.resolve(DATASET))}


def exceptions(mirror_harness: MirrorHarness) -> dict[str, str]:
    with mirror_harness.index() as index:
        return {
            exception["path"]: exception["reason"]
            for exception in index.versions.exceptions(index.versions.resolve(DATASET))
        }


def test_an_endpoint_that_contains_the_bucket_is_named(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    fill(buckets, FEW)
    with buckets.fault("status", status=403):
        assert "requester_pays = true" in mirror_harness.sync()["swift"].message
    toml = buckets.mirrors / "swift.toml"
    toml.write_text(toml.read_text().replace(buckets.endpoint, f"{buckets.endpoint}/{BUCKET}"))
    (result,) = mirror_harness.sync().values()
    assert "the endpoint already contains the bucket" in result.message


def test_keys_with_raw_control_characters_do_not_hide_the_versions_of_a_bucket(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    bucket = buckets.bucket(BUCKET)
    bucket.versioned = bucket.list_versions = bucket.read_versions = True
    names = ["a\rb.txt", "a\nb.txt", "a\r\nb.txt", "tab\t.txt", "start\x01of.txt", "\r", "z.txt"]
    for name in names:
        buckets.put(f"{ASSET}/{name}", name)
    with buckets.fault("listing", query="versions", ends="raw"):
        assert mirror_harness.sync()[DATASET].status == "ok"
    found = files(mirror_harness).values()
    assert {one.source_path for one in found} == {name.encode() for name in names}
    with mirror_harness.index() as index:
        assert index.crawl.capabilities("swift")["versions"] == "listable"
        locations = [index.locations.of(one.content)[0] for one in found]
    assert all("versionId=" in location.url for location in locations)


def test_a_multipart_upload_without_a_uniform_part_size_is_asked_for_once(
    buckets: DemoBuckets, mirror_harness: MirrorHarness, tmp_path: Path
) -> None:
    for number in range(20):
        buckets.put(f"{ASSET}/{number}.bin", f"{number:020}", part_size=[9, 5, 6])
    mirror_harness.sync()
    assert buckets.count_requests("HEAD .*partNumber") >= 20
    buckets.clear_requests()
    buckets.put(f"{ASSET}/new.txt", "1")
    assert mirror_harness.sync()[DATASET].status == "ok"
    assert buckets.count_requests("HEAD .*partNumber") == 0
    # a store that remembers nothing has the same keys; a deep visit asks again
    other = MirrorHarness(buckets.mirrors, tmp_path / "other")
    other.sync()
    assert {path: one.key for path, one in files(other).items()} == {
        path: one.key for path, one in files(mirror_harness).items()
    }
    buckets.clear_requests()
    buckets.put(f"{ASSET}/newer.txt", "1")
    assert mirror_harness.sync(deep=True)[DATASET].status == "ok"
    assert buckets.count_requests("HEAD .*partNumber") >= 20


ZEROS = bytes(9 << 20)
ALLOWED = {"annex.security.allowed-ip-addresses": "all"}


def put_parts(buckets: DemoBuckets, name: str, part_size: int) -> None:
    """Upload 9 MiB in two parts; with an ETag of its own, though all have the same bytes."""
    etag = f"{hashlib.md5(name.encode()).hexdigest()}-2"
    parts = (part_size, len(ZEROS) - part_size)
    buckets.bucket(BUCKET).put(f"{ASSET}/{name}", ZEROS, etag=etag, parts=parts)


def part_sizes(mirror_harness: MirrorHarness) -> dict[str, int]:
    return {
        path: int(one.key.rpartition("-")[2])
        for path, one in files(mirror_harness).items()
        if one.key.startswith("XS3ETAG")
    }


def test_multipart_uploads_of_a_usual_part_size_need_only_a_sample(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    for number in range(100):
        put_parts(buckets, f"{number}.bin", 8 << 20)
    assert mirror_harness.sync()[DATASET].status == "ok"
    assert buckets.count_requests("HEAD .*partNumber") <= 8
    assert set(part_sizes(mirror_harness).values()) == {8 << 20}
    assert len(part_sizes(mirror_harness)) == 100
    buckets.clear_requests()
    buckets.put(f"{ASSET}/new.txt", "1")
    assert mirror_harness.sync()[DATASET].status == "ok"
    assert buckets.count_requests("HEAD .*partNumber") == 0


def test_a_claimed_part_size_depends_on_the_listing_alone(
    buckets: DemoBuckets, mirror_harness: MirrorHarness, tmp_path: Path
) -> None:
    """Not on what was sampled, requested or claimed before."""
    usual, other = 8 << 20, 5 << 20  # both fit 9 MiB in two parts
    for number in range(30):
        put_parts(buckets, f"usual-{number}.bin", usual)
    for number in range(9):
        put_parts(buckets, f"other-{number}.bin", other)
    buckets.put(f"{ASSET}/real.bin", REAL, part_size=other)
    mirror_harness.sync()
    # the sample shows both, so that each was requested
    assert Counter(part_sizes(mirror_harness).values()) == {usual: 30, other: 10}
    for number in range(9):
        buckets.bucket(BUCKET).delete(f"{ASSET}/other-{number}.bin")
    assert mirror_harness.sync()[DATASET].status == "ok"
    fresh = MirrorHarness(buckets.mirrors, tmp_path / "fresh")
    fresh.sync()
    # the sample lacks real.bin now, and shows nothing else
    assert part_sizes(fresh) == part_sizes(mirror_harness)
    assert Counter(part_sizes(fresh).values()) == {usual: 31}
    # content in parts of another usual size is right, too
    clone = clone_dataset(fresh, DATASET, tmp_path / "clone")
    (got,) = get(clone, ["real.bin"], settings=ALLOWED)
    assert (got.status, got.evidence) == ("ok", Evidence.ETAG)
    run_annex(clone, "fsck", "real.bin")
    assert (clone / "real.bin").read_bytes() == REAL
    overwrite(clone / "real.bin", REAL[:-1] + b"x")
    (wrong,) = (one for one in verify_all(clone) if one.path == "real.bin")
    assert wrong.message.startswith("different bytes: the etag is")


CRCS = {  # of LARGE, by awscrt
    "crc64nvme": bytes.fromhex("bad32b2df98d0338"),
    "crc32c": bytes.fromhex("c9200052"),
    "crc32": bytes.fromhex("27c73628"),
}


@pytest.mark.parametrize("algorithm", CRCS)
def test_a_stated_crc_is_recorded_and_compared_with_the_download(
    buckets: DemoBuckets,
    mirror_harness: MirrorHarness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
) -> None:
    bucket = buckets.bucket(BUCKET)
    bucket.versioned = bucket.list_versions = bucket.read_versions = True
    crc = CRCS[algorithm]
    for name, content in (("right", LARGE), ("wrong", LARGE[:-1] + b"x")):
        buckets.put(f"{ASSET}/{name}.bin", content, part_size=[900_000, 1_700_000])
        value = base64.b64encode(crc).decode()
        buckets.head(f"{ASSET}/{name}.bin").checksum = algorithm.upper(), "FULL_OBJECT", value
    assert mirror_harness.sync()[DATASET].status == "ok"
    with mirror_harness.index() as index:
        stated = index.files.get(index.versions.resolve(DATASET), "right.bin")
    assert (stated.digest_values[algorithm], stated.evidence) == (crc.hex(), Evidence.SIZE)
    clone = clone_dataset(mirror_harness, DATASET, tmp_path / "clone")
    right, wrong = sorted(get(clone, settings=ALLOWED), key=lambda one: one.path)
    assert (right.status, right.evidence, wrong.status) == ("ok", Evidence.SIZE, "error")
    assert right.message == f"{algorithm} as the bucket states: it detects damage"
    assert f"received different bytes: {algorithm} " in wrong.message
    if algorithm == "crc32c":
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "google_crc32c", None)  # as in the base installation
            clone = clone_dataset(mirror_harness, DATASET, tmp_path / "base")
            (right,) = get(clone, ["right.bin"], settings=ALLOWED)
        assert right.status == "ok"
        assert right.message == "crc32c is not verified here: it needs neuromirror[volumes]"
    # it is remembered, so that the next visit records the same
    buckets.clear_requests()
    buckets.put(f"{ASSET}/new.txt", "1")
    assert mirror_harness.sync()[DATASET].status == "ok"
    assert buckets.count_requests("HEAD .*wrong.bin") == 0
    with mirror_harness.index() as index:
        assert (
            index.files.get(index.versions.resolve(DATASET), "right.bin").digests == stated.digests
        )


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize(("part_size", "evidence"), [(5 << 20, "etag"), (None, "md5")])
def test_a_matching_etag_raises_the_evidence_of_a_download(
    buckets: DemoBuckets,
    mirror_harness: MirrorHarness,
    tmp_path: Path,
    part_size: int | None,
    evidence: str,
    versioned: bool,
) -> None:
    bucket = buckets.bucket(BUCKET)
    bucket.versioned = bucket.list_versions = bucket.read_versions = versioned
    mirror = buckets.mirrors / "swift.toml"
    mirror.write_text(mirror.read_text() + 'etags = "opaque"\n')
    buckets.put(f"{ASSET}/a.bin", REAL, part_size=part_size)
    with buckets.fault("status", path="a.bin", method="HEAD", query="partNumber", status=403):
        assert mirror_harness.sync()[DATASET].status == "ok"
    assert files(mirror_harness)["a.bin"].evidence is Evidence.SIZE
    clone = clone_dataset(mirror_harness, DATASET, tmp_path / "clone")
    (got,) = get(clone, settings=ALLOWED)
    assert (got.status, got.evidence, got.checked) == ("ok", evidence, "checked")
    (downloaded,) = (finding for finding in verify(clone, mode="full") if finding.path == "a.bin")
    assert (downloaded.status, downloaded.evidence) == ("ok", evidence)


@pytest.mark.parametrize("ordinary", [FEW, MANY])
def test_a_large_object_of_swift_is_known_by_the_size_that_it_has(
    buckets: DemoBuckets, mirror_harness: MirrorHarness, tmp_path: Path, ordinary: int
) -> None:
    fill(buckets, ordinary)
    kinds = list(product((False, True), (None, "0123456789abcdef0123456789abcdef")))
    for number in range(8):
        key = f"{ASSET}/odd-{number}/large.bin"
        dynamic, etag = kinds[number % 4]
        buckets.put_large_swift(key, LARGE, dynamic=dynamic, etag=etag)
    buckets.put(f"{ASSET}/empty.txt", b"")
    result = mirror_harness.sync()[DATASET]
    assert (result.exit_code, result.visit) == (0, "full")
    found = files(mirror_harness)
    large = [one for path, one in found.items() if path.endswith("large.bin")]
    assert all(one.key.startswith(f"VURL-s{len(LARGE)}--") for one in large)
    assert {(one.size, one.evidence) for one in large} == {(len(LARGE), Evidence.SIZE)}
    assert len(large) == 8
    ordinary_files = [one for path, one in found.items() if path.startswith("folder-")]
    assert {file.evidence for file in ordinary_files} == {Evidence.MD5}
    assert (found["empty.txt"].size, found["empty.txt"].evidence) == (0, Evidence.MD5)
    repeated = mirror_harness.sync()[DATASET]
    assert (repeated.status, repeated.exit_code) == ("notneeded", 0)
    assert len(mirror_harness.entries(VersionMinted)) == 1
    if ordinary == MANY:
        return  # the keys have the same form: a clone gets these as well
    clone = tmp_path / "clone"
    clone_dataset(mirror_harness, DATASET, clone)
    odd = [f"odd-{number}/large.bin" for number in range(len(kinds))]
    run_git(clone, "annex", "get", "-q", *odd, "folder-0/0.bin")
    assert {(clone / one).read_bytes() for one in odd} == {LARGE}


@pytest.mark.parametrize("ordinary", [FEW, MANY])
def test_an_object_that_head_describes_otherwise_blocks_nothing(
    buckets: DemoBuckets, mirror_harness: MirrorHarness, ordinary: int
) -> None:
    """Its ETag and size differ between a listing and HEAD, in every listing."""
    fill(buckets, ordinary)
    for number in range(8):
        buckets.bucket(BUCKET).put(
            f"{ASSET}/odd-{number}/x.bin".encode(), LARGE, listed=(17, f"{number:032x}")
        )
    result = mirror_harness.sync()[DATASET]
    assert (result.exit_code, result.visit) == (0, "full")
    found = files(mirror_harness)
    assert len(found) == ordinary + 8
    # only the probed ones; the others would need a probe
    odd = {one.evidence: one.size for path, one in found.items() if path.startswith("odd-")}
    assert odd[Evidence.SIZE] == len(LARGE)


def test_a_web_page_instead_of_an_object_is_no_size(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    fill(buckets, FEW)
    buckets.put(f"{ASSET}/parts.bin", bytes(6 << 20), part_size=5 << 20)
    with buckets.fault("html", path="parts.bin", method="HEAD"):
        result = mirror_harness.sync()[DATASET]
        assert (result.exit_code, result.visit, result.versions) == (1, "failed", ())
    assert mirror_harness.sync()[DATASET].exit_code == 0
    assert files(mirror_harness)["parts.bin"].evidence is Evidence.ETAG


@pytest.mark.parametrize("path", ["subject.json", "data.bin"])
def test_an_odd_sidecar_or_object_that_is_probed_blocks_nothing(
    buckets: DemoBuckets, mirror_harness: MirrorHarness, path: str
) -> None:
    mirror = buckets.mirrors / "swift.toml"
    mirror.write_text(mirror.read_text() + 'layout = "aind"\n')
    fill(buckets, FEW)
    buckets.put_large_swift(f"{ASSET}/{path}", LARGE)
    result = mirror_harness.sync()[DATASET]
    assert (result.exit_code, result.visit) == (0, "full")
    assert (files(mirror_harness)[path].size, files(mirror_harness)[path].evidence) == (
        len(LARGE),
        Evidence.SIZE,
    )


def test_a_refused_object_is_requested_in_each_sync(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    """It is recorded from its listing; the result of HEAD is added later."""
    fill(buckets, FEW)
    buckets.put(f"{ASSET}/parts.bin", bytes(6 << 20), part_size=5 << 20)
    with buckets.fault("status", path="parts.bin", method="HEAD", status=403) as fault:
        for _ in range(2):
            struck = fault.struck
            result = mirror_harness.sync()[DATASET]
            assert fault.struck > struck
            assert (result.exit_code, result.visit) == (0, "full")
            assert "1 object refused" in result.message
            assert files(mirror_harness)["parts.bin"].evidence is Evidence.SIZE
    assert mirror_harness.sync()[DATASET].exit_code == 0
    assert files(mirror_harness)["parts.bin"].evidence is Evidence.ETAG


def test_a_missing_object_is_a_named_exception_and_requested_in_each_sync(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    fill(buckets, FEW)
    buckets.put(f"{ASSET}/lost.bin", b"", kms=False)
    with buckets.fault("status", path="lost.bin", method="HEAD", status=404):
        for _ in range(2):
            result = mirror_harness.sync()[DATASET]
            assert (result.exit_code, result.visit) == (1, "partial")
            assert exceptions(mirror_harness) == {"lost.bin": "unreadable"}
            assert len(files(mirror_harness)) == FEW
    assert mirror_harness.sync()[DATASET].visit == "full"
    assert exceptions(mirror_harness) == {}
    assert "lost.bin" in files(mirror_harness)


def put_of_size(buckets: DemoBuckets, key: str, size: int) -> None:
    """Add an object with a claimed size; with ``etags = "md5"`` it is never probed."""
    mirror = buckets.mirrors / "swift.toml"
    if "etags" not in mirror.read_text():
        mirror.write_text(mirror.read_text() + 'etags = "md5"\n')
    etag = hashlib.md5(key.encode()).hexdigest()
    buckets.bucket(BUCKET).put(key.encode(), b"x", listed=(size, etag))


def test_more_bytes_than_an_integer_holds_fail_only_their_dataset(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    for name in ("one.bin", "two.bin"):
        put_of_size(buckets, f"{ASSET}/{name}", (1 << 63) - 1)
    buckets.put("other/file.bin", b"other")
    results = mirror_harness.sync()
    assert (results[DATASET].exit_code, results[DATASET].visit) == (1, "failed")
    assert results["swift:other"].exit_code == 0
    assert [entry.local_id for entry in mirror_harness.entries(VersionMinted)] == ["other"]
    assert mirror_harness.sync()["swift:other"].exit_code == 0


def test_datasets_of_more_bytes_than_an_integer_holds_are_added_up(
    buckets: DemoBuckets, mirror_harness: MirrorHarness
) -> None:
    for name in ("a", "b", "c"):
        put_of_size(buckets, f"{name}/file.bin", 1 << 62)
        put_of_size(buckets, f"{name}/{name}/small.bin", 1)
    assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
    with mirror_harness.index() as index:
        [status] = index.crawl.mirrors()
        assert status.bytes == (1 << 63) - 1
