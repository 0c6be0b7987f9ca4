"""A dataset's name means one version: for clones, gitlinks, the index and citations."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness, run_git

DATALAD = ("datalad", "-f", "json")
BOTH = "demo:000002"
"""Has published versions, and a draft that differs from all of them."""


@pytest.fixture(scope="module")
def mirror_harness(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A read-only store of an archive that does not change."""
    mirror_harness = MirrorHarness(shared_demo.mirrors, tmp_path_factory.mktemp("names") / "store")
    mirror_harness.sync("demo:000001", "demo:000002")
    return mirror_harness


def commit_of(mirror_harness: MirrorHarness, label: str) -> str:
    with mirror_harness.index() as index:
        return index.versions.resolve(BOTH, label).commit


def datalad(folder: Path, *arguments: str) -> list[dict[str, object]]:
    """Run a DataLad command; return its records, whatever the exit code."""
    done = subprocess.run(
        [*DATALAD, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def clones(
    mirror_harness: MirrorHarness, module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Clones by the part of the name after the dataset, of versions by DataLad."""
    folder = tmp_path_factory.mktemp("clones")
    clones = {"": clone_alias(mirror_harness, "demo--000002", folder)}
    for label in ("@draft", "@0.240301.1026"):
        url = f"ria+file://{mirror_harness.folder}#~demo--000002{label}"
        records = datalad(folder, "clone", url, f"clone{label}")
        assert [record["status"] for record in records] == ["ok"], records
        clones[label] = folder / f"clone{label}"
    return clones


def clone_alias(mirror_harness: MirrorHarness, alias: str, folder: Path) -> Path:
    run_git(folder, "clone", "-q", str(mirror_harness.folder / "alias" / alias), "clone")
    return folder / "clone"


def head(repository: Path) -> str:
    return run_git(repository, "rev-parse", "HEAD").strip()


def branch(repository: Path) -> str:
    return run_git(repository, "symbolic-ref", "--short", "HEAD").strip()


def test_a_plain_clone_checks_out_what_the_name_means(
    mirror_harness: MirrorHarness, clones: dict[str, Path]
) -> None:
    assert commit_of(mirror_harness, "latest") != commit_of(mirror_harness, "draft")
    clone = clones[""]
    assert head(clone) == commit_of(mirror_harness, "latest")
    assert branch(clone) == "published"


@pytest.mark.parametrize("label", ["", "@draft"])
def test_a_clone_has_the_commit_that_show_cite_and_pin_mean(
    mirror_harness: MirrorHarness, clones: dict[str, Path], tmp_path: Path, label: str
) -> None:
    def run(*arguments: str) -> list[dict[str, Any]]:
        common = [*arguments, "--json", "--store", str(mirror_harness.folder)]
        done = CliRunner().invoke(main, common, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    commit = head(clones[label])
    [shown], [cited] = run("show", f"{BOTH}{label}"), run("cite", f"{BOTH}{label}")
    lock = tmp_path / "datasets.lock"
    [pinned] = run("pin", f"{BOTH}{label}", "-o", str(lock))
    assert shown["commit"] == commit
    assert cited["swhids"] == [f"swh:1:rev:{commit}"]
    assert pinned["version"] == shown["version"]
    assert f'"{commit}"' in lock.read_text("utf-8")


def test_the_draft_is_cloned_by_its_own_name(
    mirror_harness: MirrorHarness, clones: dict[str, Path]
) -> None:
    clone = clones["@draft"]
    assert (head(clone), branch(clone)) == (commit_of(mirror_harness, "draft"), "draft")
    assert run_git(clone, "rev-parse", "origin/main").strip() == commit_of(mirror_harness, "draft")
    (update,) = [
        one
        for one in datalad(clone, "update", "--how", "ff-only")
        if one["action"] == "update" and one["type"] == "dataset"
    ]
    assert update["status"] == "ok"


def test_a_dataset_without_published_versions_is_its_draft(
    mirror_harness: MirrorHarness, tmp_path: Path
) -> None:
    clone = clone_alias(mirror_harness, "demo--000001", tmp_path)
    assert branch(clone) == "main"
    assert run_git(clone, "rev-parse", "origin/draft").strip() == head(clone)


def test_the_superdataset_links_the_versions_that_the_names_mean(
    mirror_harness: MirrorHarness, tmp_path: Path
) -> None:
    clone = clone_alias(mirror_harness, "demo", tmp_path)
    with mirror_harness.index() as index:
        expected = {
            row.local_id: index.versions.resolve(row.name).commit
            for row in index.datasets.select("demo", subdatasets=False)
        }
    listed = run_git(clone, "ls-tree", "HEAD").splitlines()
    links = [line.split() for line in listed if line.startswith("160000")]
    assert {path: commit for _, _, commit, path in links} == expected
    datalad(clone, "get", "-n", "000002")
    assert head(clone / "000002") == commit_of(mirror_harness, "latest")
    assert branch(clone / "000002") == "published"


def test_a_clone_of_a_version_stays_until_its_branch_is_chosen(
    mirror_harness: MirrorHarness, clones: dict[str, Path]
) -> None:
    clone = clones["@0.240301.1026"]
    first = commit_of(mirror_harness, "0.240301.1026")
    assert first != commit_of(mirror_harness, "latest")
    assert datalad(clone, "update")[-1]["status"] == "ok"
    assert head(clone) == first
    run_git(clone, "switch", "-q", "-c", "published")
    done = datalad(clone, "update", "--how", "ff-only")
    assert {one["status"] for one in done} == {"ok"}, done
    assert head(clone) == commit_of(mirror_harness, "latest")
