"""A dataset's name means one version: for clones, gitlinks, the index and what is cited."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from crawl_place import Place, git

from neuromirror_demo import DemoArchive

DATALAD = ("datalad", "-f", "json")
BOTH = "demo:000002"
"""Has published versions, and a draft that differs from all of them."""


@pytest.fixture(scope="module")
def place(still_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A store of the archive that stands still, to read only."""
    place = Place(still_demo.mirrors, tmp_path_factory.mktemp("names") / "store")
    place.sync("demo")
    return place


def commit_of(place: Place, label: str) -> str:
    with place.index() as index:
        return index.resolve(BOTH, label).commit


def datalad(folder: Path, *arguments: str) -> list[dict[str, object]]:
    """The records that a DataLad command printed, whatever its exit code."""
    done = subprocess.run(
        [*DATALAD, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def cloned(place: Place, alias: str, folder: Path) -> Path:
    url = f"ria+file://{place.folder}#~{alias}"
    records = datalad(folder, "clone", url, "clone")
    assert [one["status"] for one in records] == ["ok"], records
    return folder / "clone"


def head(repository: Path) -> str:
    return git(repository, "rev-parse", "HEAD").strip()


def branch(repository: Path) -> str:
    return git(repository, "symbolic-ref", "--short", "HEAD").strip()


def test_a_plain_clone_checks_out_what_the_name_means(place: Place, tmp_path: Path) -> None:
    assert commit_of(place, "latest") != commit_of(place, "draft")
    clone = cloned(place, "demo--000002", tmp_path)
    assert head(clone) == commit_of(place, "latest")
    assert branch(clone) == "published"


def test_the_draft_is_cloned_by_its_own_name(place: Place, tmp_path: Path) -> None:
    clone = cloned(place, "demo--000002@draft", tmp_path)
    assert (head(clone), branch(clone)) == (commit_of(place, "draft"), "draft")
    assert git(clone, "rev-parse", "origin/main").strip() == commit_of(place, "draft")
    (update,) = [
        one
        for one in datalad(clone, "update", "--how", "ff-only")
        if one["action"] == "update" and one["type"] == "dataset"
    ]
    assert update["status"] == "ok"


def test_a_dataset_without_published_versions_is_its_draft(place: Place, tmp_path: Path) -> None:
    clone = cloned(place, "demo--000001", tmp_path)
    assert branch(clone) == "main"
    assert git(clone, "rev-parse", "origin/draft").strip() == head(clone)


def test_the_super_dataset_links_what_the_names_mean(place: Place, tmp_path: Path) -> None:
    clone = cloned(place, "demo", tmp_path)
    with place.index() as index:
        wanted = {
            row.local_id: index.resolve(row.name).commit
            for row in index.datasets("demo", parts=False)
        }
    listed = git(clone, "ls-tree", "HEAD").splitlines()
    links = [line.split() for line in listed if line.startswith("160000")]
    assert {path: commit for _, _, commit, path in links} == wanted
    datalad(clone, "get", "-n", "000002")
    assert head(clone / "000002") == commit_of(place, "latest")
    assert branch(clone / "000002") == "published"


def test_a_clone_of_a_version_stays_until_its_branch_is_chosen(
    place: Place, tmp_path: Path
) -> None:
    clone = cloned(place, "demo--000002@0.240301.1026", tmp_path)
    first = commit_of(place, "0.240301.1026")
    assert first != commit_of(place, "latest")
    assert datalad(clone, "update")[-1]["status"] == "ok"
    assert head(clone) == first
    git(clone, "switch", "-q", "-c", "published")
    done = datalad(clone, "update", "--how", "ff-only")
    assert {one["status"] for one in done} == {"ok"}, done
    assert head(clone) == commit_of(place, "latest")
