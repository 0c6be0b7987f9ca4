"""Dropping content from clones: only where upstream still has the very bytes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from crawl_place import Place, git
from scripted import Box, File, Scripted, Thing

from neuromirror.model import FileRecord, Location
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR, MEAREC

WEB = "00000000-0000-0000-0000-000000000001"
PLACES = ("whereis", "untrusted")


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    with DemoBuckets(tmp_path / "buckets") as running:
        yield running


def datalad(folder: Path, *words: str) -> int:
    """The exit code of a DataLad command."""
    done = subprocess.run(["datalad", *words], cwd=folder, capture_output=True, check=False)
    return done.returncode


def first_file(place: Place, dataset: str) -> str:
    with place.index() as index:
        files = list(index.files(index.resolve(dataset)))
    return next(one.path for one in files if one.size and "json" not in one.path)


def log(place: Place, dataset: str, name: str) -> list[str]:
    """The lines of a file at the top of the git-annex branch; none where there is no such file."""
    listed = git(place.repository(dataset), "ls-tree", "git-annex", name)
    return (
        git(place.repository(dataset), "show", f"git-annex:{name}").splitlines() if listed else []
    )


def test_the_last_copy_of_an_overwritten_object_stays(buckets: DemoBuckets, tmp_path: Path) -> None:
    place = Place(buckets.mirrors, tmp_path / "store")
    dataset = f"demo-aind:{BEHAVIOR}"
    assert place.sync(dataset)[dataset].exit_code == 0
    path = first_file(place, dataset)
    clone = tmp_path / "clone"
    assert datalad(tmp_path, "clone", str(place.repository(dataset)), str(clone)) == 0
    git(clone, "config", "remote.origin.annex-ignore", "true")
    assert datalad(clone, "get", path) == 0
    good = (clone / path).read_bytes()
    buckets.overwrite(f"{BEHAVIOR}/{path}", bytes(len(good)))
    assert datalad(clone, "drop", path) == 1
    assert (clone / path).read_bytes() == good
    assert datalad(clone, "drop", "--reckless", "availability", path) == 0
    assert datalad(clone, "get", path) == 1
    assert [line.split()[:2] for line in log(place, dataset, "trust.log")] == [[WEB, "0"]]
    assert log(place, dataset, "remote.log") == []


def test_an_object_version_is_reason_enough_to_drop(buckets: DemoBuckets, tmp_path: Path) -> None:
    place = Place(buckets.mirrors, tmp_path / "store")
    dataset = f"demo-aind-benchmark:{MEAREC}"
    assert place.sync(dataset)[dataset].exit_code == 0
    assert log(place, dataset, "trust.log") == log(place, dataset, "remote.log") == []
    path = first_file(place, dataset)
    clone = tmp_path / "clone"
    assert datalad(tmp_path, "clone", str(place.repository(dataset)), str(clone)) == 0
    git(clone, "config", "remote.origin.annex-ignore", "true")
    assert datalad(clone, "get", path) == 0
    good = (clone / path).read_bytes()
    buckets.overwrite(f"{MEAREC}/{path}", bytes(len(good)), bucket=buckets.benchmark)
    assert datalad(clone, "drop", path) == 0
    assert datalad(clone, "get", path) == 0
    assert (clone / path).read_bytes() == good


class Plain(File):
    """An object at a URL without a version."""

    def record(self, path: str) -> FileRecord:
        made = super().record(path)
        plain = Location(made.locations[0].url.partition("?")[0], "s3")
        return FileRecord(
            made.path, made.size, made.digests, (plain,), modified=made.modified, upstream_id=path
        )


class Null(File):
    """An object at the version that it had before its bucket kept versions."""

    def record(self, path: str) -> FileRecord:
        made = super().record(path)
        url = f"{made.locations[0].url.partition('?')[0]}?versionId=null"
        location = Location(url, "s3")
        return msgspec.structs.replace(made, locations=(location,), upstream_id=path)


def test_the_version_null_is_no_reason_to_drop(box: Box, source: Scripted, tmp_path: Path) -> None:
    source.things["a"] = Thing({"exact.bin": File(b"exact"), "null.bin": Null(b"null")})
    box.sync()
    (remote,) = log(box, "box:a", "remote.log")
    uuid = remote.split()[0]
    assert [line.split()[:2] for line in log(box, "box:a", "trust.log")] == [[uuid, "0"]]
    clone = tmp_path / "clone"
    assert datalad(tmp_path, "clone", str(box.repository("box:a")), str(clone)) == 0
    # it fails, as an untrusted copy is none
    whereis = subprocess.run(
        ["git", "-C", clone, "annex", "whereis", "--all", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    entries = [json.loads(line) for line in whereis.stdout.splitlines()]
    places = {(kind, one["uuid"]) for entry in entries for kind in PLACES for one in entry[kind]}
    assert len(entries) == 2
    assert places == {("whereis", WEB), ("untrusted", uuid)}
    box.fsck()


def test_in_a_mixed_dataset_only_urls_without_a_version_are_untrusted(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing({"exact.bin": File(b"exact"), "plain.bin": Plain(b"plain")})
    box.sync()
    (remote,) = log(box, "box:a", "remote.log")
    uuid = remote.split()[0]
    assert {"name=unversioned", "type=web", "urlexclude=*versionId=?????*"} <= set(remote.split())
    assert [line.split()[:2] for line in log(box, "box:a", "trust.log")] == [[uuid, "0"]]
    assert [line.split()[:2] for line in log(box, "box:a", "uuid.log")] == [[uuid, "unversioned"]]
    logs = git(box.repository("box:a"), "grep", "-h", "", "git-annex", "--", "*.log").splitlines()
    held = sorted(line.split()[2] for line in logs if line.split()[1] == "1" and len(line) < 60)
    assert held == sorted([WEB, uuid])
    # what a later state brings changes nothing of what is logged
    source.things["a"].files["more.bin"] = Plain(b"more")
    box.sync()
    assert log(box, "box:a", "remote.log") == [remote]
    box.fsck()
