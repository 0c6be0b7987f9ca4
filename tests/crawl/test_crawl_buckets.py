"""Buckets from end to end: an S3 server on loopback, a store, git, git-annex."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from crawl_place import Place, git

from neuromirror.cli import main
from neuromirror.crawl import recording, release
from neuromirror.model import EventRaised, MirrorProbed, VersionMinted
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import (
    BEHAVIOR,
    CCF,
    HOSTILE_KEYS,
    MEAREC,
    NOT_UTF8,
    SORTED_1,
)

AIND, BENCHMARK = "demo-aind", "demo-aind-benchmark"
DRIVER = Path(__file__).with_name("killed_sync.py")


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """Fresh demo buckets; nothing but the bucket itself tells what changed."""
    with DemoBuckets(tmp_path / "buckets") as running:
        mirror = running.mirrors / f"{AIND}.toml"
        lines = [one for one in mirror.read_text().splitlines() if not one.startswith("docdb")]
        mirror.write_text("\n".join(lines) + "\n")
        yield running


@pytest.fixture
def mirrored(buckets: DemoBuckets, tmp_path: Path) -> Place:
    """A store beside the buckets."""
    return Place(buckets.mirrors, tmp_path / "store")


def whole_bucket(buckets: DemoBuckets, name: str) -> str:
    """A mirror of a bucket as one dataset; gives the dataset's name."""
    (buckets.mirrors / "whole.toml").write_text(
        f'source = "s3"\n[options]\nbucket = "{name}"\ndepth = 0\nendpoint = "{buckets.endpoint}"\n'
    )
    return f"whole:{name}"


def versions(place: Place, dataset: str) -> list[VersionMinted]:
    return [
        one for one in place.entries(VersionMinted) if f"{one.mirror}:{one.local_id}" == dataset
    ]


def test_both_buckets_are_mirrored_and_a_second_sync_makes_nothing_new(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    results = mirrored.sync()
    assert {one.status for one in results.values()} == {"ok", "notneeded"}
    assert {one for one in results if one.startswith(f"{AIND}:")} == {
        f"{AIND}:{asset}" for asset in buckets.assets()
    }
    assert results[f"{BENCHMARK}:{MEAREC}"].status == "ok"
    mirrored.fsck()
    told = {one.mirror: one.capabilities["versions"] for one in mirrored.entries(MirrorProbed)}
    assert told == {AIND: "not listable", BENCHMARK: "listable"}
    before, refs = mirrored.content(), mirrored.refs()
    again = mirrored.sync()
    assert {one.status for one in again.values()} == {"notneeded"}
    assert (mirrored.content(), mirrored.refs()) == (before, refs)


def test_every_hostile_key_is_committed_or_a_named_exception(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    name = whole_bucket(buckets, buckets.hostile)
    assert mirrored.sync(name)[name].status == "ok"
    with mirrored.index() as index:
        row = index.resolve(name)
        files = {one.source_path: one for one in index.files(row)}
        exceptions = {os.fsencode(one["path"]) for one in index.exceptions(row)}
    assert sorted([*files, *exceptions]) == sorted([*HOSTILE_KEYS, NOT_UTF8])
    assert exceptions == {b"marker/", b"folder/"}
    for key, one in files.items():
        assert hashlib.md5(key, usedforsecurity=False).hexdigest() in one.key
    listed = git(mirrored.repository(name), "ls-tree", "-r", "-z", "--name-only", "main")
    assert {one.path for one in files.values()} <= set(listed.split("\0"))
    mirrored.fsck()


def test_an_edited_sidecar_makes_a_metadata_only_version(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    name = f"{AIND}:{SORTED_1}"
    buckets.reindex(SORTED_1)
    mirrored.sync(name)
    buckets.reindex(SORTED_1)
    assert mirrored.sync(name)[name].status == "notneeded"
    buckets.edit_sidecar(SORTED_1, "quality_control.json")
    assert mirrored.sync(name)[name].status == "ok"
    first, second = versions(mirrored, name)
    assert (first.metadata_only, second.metadata_only) == (False, True)
    assert first.state == second.state
    assert first.metadata != second.metadata
    assert "edited" in git(mirrored.repository(name), "show", "main:quality_control.json")


def test_an_overwritten_object_is_an_incident_and_the_old_state_stays(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    name, path = f"{AIND}:{BEHAVIOR}", "behavior/trials.csv"
    mirrored.sync(name)
    refs = mirrored.refs()
    buckets.overwrite(f"{BEHAVIOR}/{path}")
    result = mirrored.sync(name)[name]
    assert (result.exit_code, path in result.message) == (1, True)
    assert mirrored.refs() == refs
    assert [one.kind for one in mirrored.entries(EventRaised)] == ["incident"]
    store = mirrored.store
    with recording(store, store.index_path) as recorder:
        release(recorder, "")
    assert mirrored.sync(name)[name].status == "ok"
    with mirrored.index() as index:
        (file,) = [one for one in index.files(index.resolve(name)) if one.path == path]
    data = buckets.data(f"{BEHAVIOR}/{path}")
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() in file.key


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("key", [f"{BEHAVIOR}/behavior/trials.csv", f"{BEHAVIOR}/subject.json"])
def test_a_key_that_listings_drop_deletes_nothing(
    mirrored: Place, buckets: DemoBuckets, key: str, tail: bool
) -> None:
    name = f"{AIND}:{BEHAVIOR}"
    mirrored.sync(name)
    refs = mirrored.refs()
    with buckets.drop_key_from_listing(key, tail=tail):
        result = mirrored.sync(name)[name]
    assert result.exit_code == 1
    assert mirrored.refs() == refs
    assert mirrored.sync(name)[name].status == "notneeded"
    assert mirrored.refs() == refs


def test_a_vanished_asset_keeps_what_is_mirrored_and_may_come_back(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    mirrored.sync(AIND)
    refs = mirrored.refs()
    buckets.remove_asset(CCF)
    assert mirrored.sync(AIND)[f"{AIND}:{CCF}"].visit == "not_found"
    mirrored.sync(AIND)
    assert {one: sha for one, sha in mirrored.refs().items() if CCF in one} == {
        one: sha for one, sha in refs.items() if CCF in one
    }
    buckets.return_asset(CCF)
    assert mirrored.sync(AIND)[f"{AIND}:{CCF}"].exit_code == 0
    mirrored.sync(AIND)
    events = [one.kind for one in mirrored.entries(EventRaised) if one.local_id == CCF]
    assert events == ["tombstone", "returned"]


def test_earlier_states_come_from_the_versions_of_a_bucket(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    name = f"{BENCHMARK}:{MEAREC}"
    result = mirrored.sync(name, history=True)[name]
    assert (result.status, len(result.versions)) == ("ok", 2)
    with mirrored.index() as index:
        rows = list(index.versions(name))
        sizes = [{one.path: one.size for one in index.files(row)}["mearec_NP2.h5"] for row in rows]
    assert sizes == [2008, 2508]
    again = mirrored.sync(name, history=True)
    assert again[name].status == "notneeded"
    buckets.overwrite(f"{MEAREC}/mearec_NP2.h5", b"new", bucket=buckets.benchmark)
    buckets.overwrite(f"{MEAREC}/mearec_NP2.h5", b"newest", bucket=buckets.benchmark)
    assert mirrored.sync(name)[name].exit_code == 1
    assert len(mirrored.sync(name, history=True)[name].versions) == 2
    mirrored.fsck()


def test_the_same_bytes_in_a_versioned_bucket_are_another_copy(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    weak, strong = f"{AIND}:{BEHAVIOR}", f"{BENCHMARK}:{MEAREC}"
    content = b"the same in both buckets"
    buckets.put(f"{BEHAVIOR}/same.bin", content)
    buckets.put(f"{MEAREC}/same.bin", content, bucket=buckets.benchmark)
    mirrored.sync(weak, strong)

    def run(*words: str) -> list[dict[str, object]]:
        common = [*words, "--json", "--store", str(mirrored.folder)]
        done = CliRunner().invoke(main, common, catch_exceptions=False)
        assert done.exit_code == 0
        return [json.loads(line) for line in done.stdout.splitlines()]

    (shown,) = run("show", weak)
    assert shown["retention"] == {"mutable-bucket": shown["files"]}
    assert shown["copies"] == [{"dataset": strong, "retention": "versioned-bucket", "files": 1}]
    kept = {one["path"]: one["retention"] for one in run("files", weak)}
    assert kept["same.bin"] == "mutable-bucket"
    (other,) = run("show", strong)
    assert set(other["retention"]) == {"versioned-bucket"}
    assert other["copies"] == []


def test_the_command_takes_history_with_json_and_with_dry_run(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    name = f"{BENCHMARK}:{MEAREC}"
    common = ["--json", "--mirrors", str(mirrored.mirrors), "--store", str(mirrored.folder)]

    def run(*arguments: str) -> list[dict[str, object]]:
        done = CliRunner().invoke(main, [*common, "sync", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    (dry,) = run("--history", "--dry-run", name)
    assert (dry["status"], dry["message"]) == ("ok", "would visit: new")
    assert not mirrored.folder.exists()
    (done,) = run("--history", name)
    assert len(done["versions"]) == 2  # type: ignore[arg-type]
    results = {one["dataset"]: one for one in run("--history", name)}
    assert results[BENCHMARK]["status"] == "notneeded"
    (dry,) = run("--history", "--dry-run", name)
    assert dry["message"] == "would visit: looking for earlier states"


def test_a_clone_gets_what_was_uploaded_in_parts_and_checks_it(
    mirrored: Place, buckets: DemoBuckets, tmp_path: Path
) -> None:
    name, path = f"{AIND}:{BEHAVIOR}", "behavior-videos/Face Camera.mp4"
    mirrored.sync(name)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(mirrored.repository(name)), str(clone))
    git(clone, "annex", "get", path)
    assert (clone / path).read_bytes() == buckets.data(f"{BEHAVIOR}/{path}")
    assert "ok" in git(clone, "annex", "fsck", path)
    assert "XS3ETAG" in os.readlink(clone / path)
    assert (clone / "subject.json").read_bytes() == buckets.data(f"{BEHAVIOR}/subject.json")


@pytest.mark.slow
def test_a_listing_that_was_killed_goes_on_and_comes_to_the_same_ids(tmp_path: Path) -> None:
    with DemoBuckets(tmp_path / "buckets", page_size=10, empty=True) as buckets:
        buckets.make_many("asset", 2000)
        for path in buckets.mirrors.iterdir():
            path.unlink()
        name = whole_bucket(buckets, buckets.open_data)
        killed, undisturbed = (
            Place(buckets.mirrors, tmp_path / one) for one in ("killed", "undisturbed")
        )
        buckets.clear_requests()
        command = [sys.executable, str(DRIVER), str(buckets.mirrors), str(killed.folder), ""]
        with (
            buckets.fault("slow", delay=0.02, chunk=1 << 20),
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        ):
            while pages(buckets).total() < 50:
                assert process.poll() is None, process.stderr
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert killed.refs() == {}
        first = pages(buckets)
        assert 50 <= first.total() < 200
        buckets.clear_requests()
        assert killed.sync(name)[name].status == "ok"
        # what was under way when it died (eight at a time) may come again, and the first page
        # is what the bucket is tried with, too
        assert len(first.keys() & pages(buckets).keys()) <= 9
        buckets.clear_requests()
        undisturbed.sync(name)
        assert len(pages(buckets)) >= 200
        assert killed.refs() == undisturbed.refs()
        assert not list((killed.folder / "neuromirror" / "workspaces").iterdir())


PAGE = "list-type=2"


def pages(buckets: DemoBuckets) -> Counter[str]:
    """How often each page of a listing was asked for."""
    return Counter(one for one in buckets.requests if PAGE in one and "delimiter" not in one)


@pytest.mark.parametrize("key", ["behavior/trials.csv", "behavior-videos/Face Camera.mp4"])
def test_other_bytes_put_in_another_way_are_an_incident_too(
    mirrored: Place, buckets: DemoBuckets, key: str
) -> None:
    name, path = f"{AIND}:{BEHAVIOR}", f"{BEHAVIOR}/{key}"
    mirrored.sync(name)
    refs = mirrored.refs()
    in_parts = "-" in buckets.head(path).etag
    buckets.put(path, bytes(len(buckets.data(path))), part_size=None if in_parts else 5 * 2**20)
    assert mirrored.sync(name)[name].exit_code == 1
    assert mirrored.refs() == refs
