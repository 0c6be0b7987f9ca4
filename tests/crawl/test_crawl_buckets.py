"""Buckets end to end: an S3 server on loopback, a store, git, git-annex."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import open_recorder, release_hold
from neuromirror.model import EventRaised, MirrorProbed, VersionMinted
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import (
    BEHAVIOR,
    CCF,
    HCR,
    HOSTILE_KEYS,
    MEAREC,
    NOT_UTF8,
    SORTED_1,
)
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness, run_git

AIND, BENCHMARK = "demo-aind", "demo-aind-benchmark"


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """Fresh demo buckets, without an overview that reports changes."""
    with DemoBuckets(tmp_path / "buckets") as running:
        mirror = running.mirrors / f"{AIND}.toml"
        lines = [line for line in mirror.read_text().splitlines() if not line.startswith("docdb")]
        mirror.write_text("\n".join(lines) + "\n")
        yield running


@pytest.fixture
def bucket_harness(buckets: DemoBuckets, tmp_path: Path) -> MirrorHarness:
    """A store that mirrors the buckets."""
    return MirrorHarness(buckets.mirrors, tmp_path / "store")


def whole_bucket(buckets: DemoBuckets, name: str) -> str:
    """Create a mirror of a bucket as one dataset; return the dataset's name."""
    (buckets.mirrors / "whole.toml").write_text(
        f'source = "s3"\n[options]\nbucket = "{name}"\ndepth = 0\nendpoint = "{buckets.endpoint}"\n'
    )
    return f"whole:{name}"


def versions(mirror_harness: MirrorHarness, dataset: str) -> list[VersionMinted]:
    return [
        entry
        for entry in mirror_harness.entries(VersionMinted)
        if f"{entry.mirror}:{entry.local_id}" == dataset
    ]


def test_both_buckets_are_mirrored_and_a_second_sync_adds_nothing(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    results = bucket_harness.sync()
    assert {result.status for result in results.values()} == {"ok", "notneeded"}
    assert {result for result in results if result.startswith(f"{AIND}:")} == {
        f"{AIND}:{asset}" for asset in buckets.assets()
    }
    assert results[f"{BENCHMARK}:{MEAREC}"].status == "ok"
    bucket_harness.fsck()
    capabilities = {
        one.mirror: one.capabilities["versions"] for one in bucket_harness.entries(MirrorProbed)
    }
    assert capabilities == {AIND: "not listable", BENCHMARK: "listable"}
    before, refs = bucket_harness.file_digests(), bucket_harness.refs()
    repeated = bucket_harness.sync()
    assert {one.status for one in repeated.values()} == {"notneeded"}
    assert (bucket_harness.file_digests(), bucket_harness.refs()) == (before, refs)


def test_every_hostile_key_is_committed_or_a_named_exception(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    name = whole_bucket(buckets, buckets.hostile)
    assert bucket_harness.sync(name)[name].status == "ok"
    with bucket_harness.index() as index:
        row = index.versions.resolve(name)
        files = {one.source_path: one for one in index.files.of(row)}
        exceptions = {os.fsencode(one["path"]) for one in index.versions.exceptions(row)}
    assert sorted([*files, *exceptions]) == sorted([*HOSTILE_KEYS, NOT_UTF8])
    assert exceptions == {b"marker/", b"folder/"}
    for key, one in files.items():
        assert hashlib.md5(key, usedforsecurity=False).hexdigest() in one.key
    listed = run_git(bucket_harness.repository(name), "ls-tree", "-r", "-z", "--name-only", "main")
    assert {file.path for file in files.values()} <= set(listed.split("\0"))
    bucket_harness.fsck()


def test_an_edited_sidecar_makes_a_metadata_only_version(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    name = f"{AIND}:{SORTED_1}"
    buckets.reindex(SORTED_1)
    bucket_harness.sync(name)
    buckets.reindex(SORTED_1)
    assert bucket_harness.sync(name)[name].status == "notneeded"
    buckets.edit_sidecar(SORTED_1, "quality_control.json")
    assert bucket_harness.sync(name)[name].status == "ok"
    first, second = versions(bucket_harness, name)
    assert (first.metadata_only, second.metadata_only) == (False, True)
    assert first.state == second.state
    assert first.metadata != second.metadata
    assert "edited" in run_git(bucket_harness.repository(name), "show", "main:quality_control.json")


def test_an_overwritten_object_is_an_incident_and_the_old_state_stays(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    name, path = f"{AIND}:{BEHAVIOR}", "behavior/trials.csv"
    bucket_harness.sync(name)
    refs = bucket_harness.refs()
    buckets.overwrite(f"{BEHAVIOR}/{path}")
    result = bucket_harness.sync(name)[name]
    assert (result.exit_code, path in result.message) == (1, True)
    assert bucket_harness.refs() == refs
    assert [entry.kind for entry in bucket_harness.entries(EventRaised)] == ["incident"]
    store = bucket_harness.store
    with open_recorder(store, store.index_path) as recorder:
        release_hold(recorder, "")
    assert bucket_harness.sync(name)[name].status == "ok"
    with bucket_harness.index() as index:
        (file,) = [one for one in index.files.of(index.versions.resolve(name)) if one.path == path]
    data = buckets.data(f"{BEHAVIOR}/{path}")
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() in file.key


@pytest.mark.parametrize("key", [f"{BEHAVIOR}/behavior/trials.csv", f"{BEHAVIOR}/subject.json"])
def test_a_key_that_listings_drop_deletes_nothing(
    bucket_harness: MirrorHarness, buckets: DemoBuckets, key: str
) -> None:
    name = f"{AIND}:{BEHAVIOR}"
    bucket_harness.sync(name)
    refs = bucket_harness.refs()
    for tail in (False, True):
        with buckets.drop_key_from_listing(key, tail=tail):
            result = bucket_harness.sync(name)[name]
        assert result.exit_code == 1, tail
        assert bucket_harness.refs() == refs
        assert bucket_harness.sync(name)[name].status == "notneeded"
        assert bucket_harness.refs() == refs


def test_a_vanished_asset_keeps_what_is_mirrored_and_may_come_back(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    for asset in set(buckets.assets()) - {CCF, HCR}:
        buckets.remove_asset(asset)
    bucket_harness.sync(AIND)
    refs = bucket_harness.refs()
    buckets.remove_asset(CCF)
    assert bucket_harness.sync(AIND)[f"{AIND}:{CCF}"].visit == "not_found"
    bucket_harness.sync(AIND)
    assert {one: sha for one, sha in bucket_harness.refs().items() if CCF in one} == {
        one: sha for one, sha in refs.items() if CCF in one
    }
    buckets.return_asset(CCF)
    assert bucket_harness.sync(AIND)[f"{AIND}:{CCF}"].exit_code == 0
    bucket_harness.sync(AIND)
    events = [entry.kind for entry in bucket_harness.entries(EventRaised) if entry.local_id == CCF]
    assert events == ["tombstone", "returned"]


def test_earlier_states_come_from_the_versions_of_a_bucket(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    name = f"{BENCHMARK}:{MEAREC}"
    result = bucket_harness.sync(name, history=True)[name]
    assert (result.status, len(result.versions)) == ("ok", 2)
    with bucket_harness.index() as index:
        rows = list(index.versions.of(name))
        sizes = [
            {one.path: one.size for one in index.files.of(row)}["mearec_NP2.h5"] for row in rows
        ]
    assert sizes[0] < sizes[1]
    repeated = bucket_harness.sync(name, history=True)
    assert repeated[name].status == "notneeded"
    buckets.overwrite(f"{MEAREC}/mearec_NP2.h5", b"new", bucket=buckets.benchmark)
    buckets.overwrite(f"{MEAREC}/mearec_NP2.h5", b"newest", bucket=buckets.benchmark)
    assert bucket_harness.sync(name)[name].exit_code == 1
    assert len(bucket_harness.sync(name, history=True)[name].versions) == 2
    bucket_harness.fsck()


def test_the_same_bytes_in_a_versioned_bucket_are_another_copy(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    weak, strong = f"{AIND}:{BEHAVIOR}", f"{BENCHMARK}:{MEAREC}"
    content = b"the same in both buckets"
    buckets.put(f"{BEHAVIOR}/same.bin", content)
    buckets.put(f"{MEAREC}/same.bin", content, bucket=buckets.benchmark)
    bucket_harness.sync(weak, strong)

    def run(*arguments: str) -> list[dict[str, object]]:
        common = [*arguments, "--json", "--store", str(bucket_harness.folder)]
        done = CliRunner().invoke(main, common, catch_exceptions=False)
        assert done.exit_code == 0
        return [json.loads(line) for line in done.stdout.splitlines()]

    (shown,) = run("show", weak)
    assert shown["retention"] == {"mutable-bucket": shown["files"]}
    assert shown["copies"] == [{"dataset": strong, "retention": "versioned-bucket", "files": 1}]
    files = [one for one in run("files", weak) if one["type"] == "file"]
    kept = {file["path"]: file["retention"] for file in files}
    assert kept["same.bin"] == "mutable-bucket"
    (other,) = run("show", strong)
    assert set(other["retention"]) == {"versioned-bucket"}
    assert other["copies"] == []


def test_the_command_takes_history_with_json_and_with_dry_run(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    name = f"{BENCHMARK}:{MEAREC}"
    common = [
        "--json",
        "--mirrors",
        str(bucket_harness.mirrors),
        "--store",
        str(bucket_harness.folder),
    ]

    def run(*arguments: str) -> list[dict[str, object]]:
        done = CliRunner().invoke(main, [*common, "sync", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    (dry,) = run("--history", "--dry-run", name)
    assert (dry["status"], dry["message"]) == ("ok", "would visit: new")
    assert not bucket_harness.folder.exists()
    (done,) = run("--history", name)
    assert len(done["versions"]) == 2  # type: ignore[arg-type]
    results = {one["dataset"]: one for one in run("--history", name)}
    assert results[BENCHMARK]["status"] == "notneeded"
    (dry,) = run("--history", "--dry-run", name)
    assert dry["message"] == "would visit: looking for earlier states"


def test_a_clone_gets_what_was_uploaded_in_parts_and_checks_it(
    bucket_harness: MirrorHarness, buckets: DemoBuckets, tmp_path: Path
) -> None:
    name, path = f"{AIND}:{BEHAVIOR}", "behavior-videos/Face Camera.mp4"
    bucket_harness.sync(name)
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(bucket_harness.repository(name)), str(clone))
    run_git(clone, "annex", "get", path)
    assert (clone / path).read_bytes() == buckets.data(f"{BEHAVIOR}/{path}")
    assert "ok" in run_git(clone, "annex", "fsck", path)
    assert "XS3ETAG" in os.readlink(clone / path)
    assert (clone / "subject.json").read_bytes() == buckets.data(f"{BEHAVIOR}/subject.json")


@pytest.mark.slow
def test_a_killed_listing_resumes_and_leads_to_the_same_ids(tmp_path: Path) -> None:
    with DemoBuckets(tmp_path / "buckets", page_size=10, empty=True) as buckets:
        buckets.make_many("asset", 600)
        for path in buckets.mirrors.iterdir():
            path.unlink()
        name = whole_bucket(buckets, buckets.open_data)
        killed, undisturbed = (
            MirrorHarness(buckets.mirrors, tmp_path / one) for one in ("killed", "undisturbed")
        )
        buckets.clear_requests()
        with (
            buckets.fault("slow", delay=0.02, chunk=1 << 20),
            Shell(buckets.mirrors, killed.folder).start("sync") as process,
        ):
            while pages(buckets).total() < 20:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert killed.refs() == {}
        first = pages(buckets)
        assert 20 <= first.total() < 60
        buckets.clear_requests()
        assert killed.sync(name)[name].status == "ok"
        # requests in progress at the kill (up to eight) may be repeated, and the first page is also
        # requested to probe the bucket
        assert len(first.keys() & pages(buckets).keys()) <= 9
        buckets.clear_requests()
        undisturbed.sync(name)
        assert len(pages(buckets)) >= 60
        assert killed.refs() == undisturbed.refs()
        assert not list((killed.folder / "neuromirror" / "workspaces").iterdir())


PAGE = "list-type=2"


def pages(buckets: DemoBuckets) -> Counter[str]:
    """Return how often each page of a listing was requested."""
    return Counter(one for one in buckets.requests if PAGE in one and "delimiter" not in one)


@pytest.mark.parametrize("key", ["behavior/trials.csv", "behavior-videos/Face Camera.mp4"])
def test_other_bytes_uploaded_with_another_part_size_are_an_incident(
    bucket_harness: MirrorHarness, buckets: DemoBuckets, key: str
) -> None:
    name, path = f"{AIND}:{BEHAVIOR}", f"{BEHAVIOR}/{key}"
    bucket_harness.sync(name)
    refs = bucket_harness.refs()
    in_parts = "-" in buckets.head(path).etag
    buckets.put(path, bytes(len(buckets.data(path))), part_size=None if in_parts else 5 * 2**20)
    assert bucket_harness.sync(name)[name].exit_code == 1
    assert bucket_harness.refs() == refs
