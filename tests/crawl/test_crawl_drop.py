"""Dropping content from clones: only if upstream still has exactly the same bytes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from neuromirror.model import FileRecord, Location
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR, MEAREC
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness

WEB = "00000000-0000-0000-0000-000000000001"
WHEREIS_KINDS = ("whereis", "untrusted")


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        running.put(f"{BEHAVIOR}/trials.csv", b"trial,time\n1,0.5\n")
        running.put(f"{MEAREC}/spikes.h5", b"spikes", bucket=running.benchmark)
        yield running


def first_file(mirror_harness: MirrorHarness, dataset: str) -> str:
    with mirror_harness.index() as index:
        files = list(index.files.of(index.versions.resolve(dataset)))
    return next(file.path for file in files if file.size and "json" not in file.path)


def read_annex_log(mirror_harness: MirrorHarness, dataset: str, name: str) -> list[str]:
    """Return the lines of a file on the git-annex branch; empty without the file."""
    listed = run_git(mirror_harness.repository(dataset), "ls-tree", "git-annex", name)
    return (
        run_git(mirror_harness.repository(dataset), "show", f"git-annex:{name}").splitlines()
        if listed
        else []
    )


def test_the_last_copy_of_an_overwritten_object_stays(buckets: DemoBuckets, tmp_path: Path) -> None:
    mirror_harness = MirrorHarness(buckets.mirrors, tmp_path / "store")
    dataset = f"demo-aind:{BEHAVIOR}"
    assert mirror_harness.sync(dataset)[dataset].exit_code == 0
    path = first_file(mirror_harness, dataset)
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(mirror_harness.repository(dataset)), str(clone))
    run_git(clone, "config", "remote.origin.annex-ignore", "true")
    run_git(clone, "annex", "get", path)
    good = (clone / path).read_bytes()
    buckets.overwrite(f"{BEHAVIOR}/{path}", bytes(len(good)))
    done = subprocess.run(["datalad", "drop", path], cwd=clone, capture_output=True, check=False)
    assert done.returncode == 1
    assert (clone / path).read_bytes() == good
    run_git(clone, "annex", "drop", "--force", path)
    with pytest.raises(AssertionError):
        run_git(clone, "annex", "get", path)
    assert [line.split()[:2] for line in read_annex_log(mirror_harness, dataset, "trust.log")] == [
        [WEB, "0"]
    ]
    assert read_annex_log(mirror_harness, dataset, "remote.log") == []


def test_an_object_version_permits_a_drop(buckets: DemoBuckets, tmp_path: Path) -> None:
    mirror_harness = MirrorHarness(buckets.mirrors, tmp_path / "store")
    dataset = f"demo-aind-benchmark:{MEAREC}"
    assert mirror_harness.sync(dataset)[dataset].exit_code == 0
    assert (
        read_annex_log(mirror_harness, dataset, "trust.log")
        == read_annex_log(mirror_harness, dataset, "remote.log")
        == []
    )
    path = first_file(mirror_harness, dataset)
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(mirror_harness.repository(dataset)), str(clone))
    run_git(clone, "config", "remote.origin.annex-ignore", "true")
    run_git(clone, "annex", "get", path)
    good = (clone / path).read_bytes()
    buckets.overwrite(f"{MEAREC}/{path}", bytes(len(good)), bucket=buckets.benchmark)
    run_git(clone, "annex", "drop", path)
    assert not (clone / path).exists()
    run_git(clone, "annex", "get", path)
    assert (clone / path).read_bytes() == good


class UnversionedFile(ScriptedFile):
    """An object at a URL without a version."""

    def record(self, path: str) -> FileRecord:
        made = super().record(path)
        plain = Location(made.locations[0].url.partition("?")[0], "s3")
        return FileRecord(
            made.path, made.size, made.digests, (plain,), modified=made.modified, upstream_id=path
        )


class NullVersionFile(ScriptedFile):
    """An object with the version ``null``, from before its bucket kept versions."""

    def record(self, path: str) -> FileRecord:
        made = super().record(path)
        url = f"{made.locations[0].url.partition('?')[0]}?versionId=null"
        location = Location(url, "s3")
        return msgspec.structs.replace(made, locations=(location,), upstream_id=path)


def test_the_version_null_does_not_permit_a_drop(harness: ScriptedHarness, tmp_path: Path) -> None:
    harness.datasets["a"] = ScriptedDataset(
        {"exact.bin": ScriptedFile(b"exact"), "null.bin": NullVersionFile(b"null")}
    )
    harness.sync()
    (remote,) = read_annex_log(harness, "box:a", "remote.log")
    uuid = remote.split()[0]
    assert [line.split()[:2] for line in read_annex_log(harness, "box:a", "trust.log")] == [
        [uuid, "0"]
    ]
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(harness.repository("box:a")), str(clone))
    # fails, because an untrusted copy does not count
    whereis = subprocess.run(
        ["git", "-C", clone, "annex", "whereis", "--all", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    entries = [json.loads(line) for line in whereis.stdout.splitlines()]
    copies = {
        (kind, one["uuid"]) for entry in entries for kind in WHEREIS_KINDS for one in entry[kind]
    }
    assert len(entries) == 2
    assert copies == {("whereis", WEB), ("untrusted", uuid)}
    harness.fsck()


def test_in_a_mixed_dataset_only_urls_without_a_version_are_untrusted(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["a"] = ScriptedDataset(
        {"exact.bin": ScriptedFile(b"exact"), "plain.bin": UnversionedFile(b"plain")}
    )
    harness.sync()
    (remote,) = read_annex_log(harness, "box:a", "remote.log")
    uuid = remote.split()[0]
    assert {"name=unversioned", "type=web", "urlexclude=*versionId=?????*"} <= set(remote.split())
    assert [line.split()[:2] for line in read_annex_log(harness, "box:a", "trust.log")] == [
        [uuid, "0"]
    ]
    assert [line.split()[:2] for line in read_annex_log(harness, "box:a", "uuid.log")] == [
        [uuid, "unversioned"]
    ]
    logs = run_git(
        harness.repository("box:a"), "grep", "-h", "", "git-annex", "--", "*.log"
    ).splitlines()
    held = sorted(line.split()[2] for line in logs if line.split()[1] == "1" and len(line) < 60)
    assert held == sorted([WEB, uuid])
    # a later state does not change the log
    harness.datasets["a"].files["more.bin"] = UnversionedFile(b"more")
    harness.sync()
    assert read_annex_log(harness, "box:a", "remote.log") == [remote]
    harness.fsck()
