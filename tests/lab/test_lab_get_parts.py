"""Sub-datasets: got when they are named, or all of them, and installed where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lab_get import File, GetWorld, content_of, git, make_dataset

from neuromirror.annex import sha256e_key
from neuromirror.lab import Outcome
from neuromirror.lab.get import get


@pytest.fixture
def above(world: GetWorld) -> Path:
    """A clone of a dataset with a file of its own and two sub-datasets; one is not installed."""
    import hashlib

    content = content_of("above")
    world.web.contents["/above"] = content
    key = sha256e_key(len(content), hashlib.sha256(content).hexdigest(), b"own.dat")
    origin = git(world.clone, "config", "remote.origin.url").strip()
    commit = git(world.clone, "rev-parse", "HEAD").strip()
    modules = "".join(
        f'[submodule "{name}"]\n\tpath = {name}\n\turl = {origin}\n' for name in ("here", "there")
    )
    repository = make_dataset(
        world.folder / "above",
        [File("own.dat", key, [f"{world.web.url}/above"], content)],
        {".gitmodules": ("100644", modules.encode())},
    )
    clone = world.folder / "super"
    git(world.folder, "clone", "-q", str(repository), str(clone))
    for name in ("here", "there"):
        git(clone, "update-index", "--add", "--cacheinfo", f"160000,{commit},{name}")
    git(clone, "commit", "-q", "-m", "parts")
    git(clone, "annex", "init", "-q")
    shutil.copytree(world.clone, clone / "here", symlinks=True, dirs_exist_ok=True)
    return clone


def by_path(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {one.path: one for one in outcomes}


def test_without_being_asked_only_the_files_of_the_dataset_itself_are_got(above: Path) -> None:
    assert [one.path for one in get(above)] == ["own.dat"]


def test_a_path_in_a_sub_dataset_is_got_there(above: Path) -> None:
    got = by_path(list(get(above, ["here/small/1.dat", "here/small/2.dat", "own.dat"])))
    assert {path: one.status for path, one in got.items()} == dict.fromkeys(
        ("here/small/1.dat", "here/small/2.dat", "own.dat"), "ok"
    )
    assert (above / "here/small/1.dat").exists()
    assert not (above / "here/small/3.dat").exists()


def test_a_sub_dataset_is_installed_without_datalad(
    above: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    annex = shutil.which("git-annex")
    assert annex is not None
    (programs / "git-annex").symlink_to(annex)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert shutil.which("datalad") is None
    got = by_path(list(get(above, ["there/small/1.dat", "own.dat"])))
    assert {path: one.status for path, one in got.items()} == dict.fromkeys(
        ("there/small/1.dat", "own.dat"), "ok"
    )


def test_a_sub_dataset_without_a_url_is_named_and_keeps_nobody_up(above: Path) -> None:
    commit = git(above / "here", "rev-parse", "HEAD").strip()
    git(above, "update-index", "--add", "--cacheinfo", f"160000,{commit},lost")
    got = by_path(list(get(above, ["lost", "there/small/1.dat"])))
    assert got["lost"].status == "impossible"
    assert got["there/small/1.dat"].status == "ok"


def test_recursively_all_is_got_and_what_is_missing_is_installed(above: Path) -> None:
    got = by_path(list(get(above, recursive=True)))
    for part in ("here", "there"):
        assert got[f"{part}/small/1.dat"].status == "ok"
        assert (above / part / "large/1.dat").exists()
    assert got["own.dat"].status == "ok"


def test_a_repository_without_git_annex_may_hold_datasets(above: Path, tmp_path: Path) -> None:
    paper = tmp_path / "paper"
    git(tmp_path, "init", "-q", str(paper))
    shutil.move(above, paper / "data")
    git(paper, "add", "data")
    got = by_path(list(get(paper, ["data/here/small/1.dat", "data/own.dat"])))
    assert {path: one.status for path, one in got.items()} == {
        "data/here/small/1.dat": "ok",
        "data/own.dat": "ok",
    }


def test_a_sub_dataset_that_cannot_be_had_does_not_stop_the_others(
    above: Path, world: GetWorld
) -> None:
    shutil.rmtree(above / "here" / ".git" / "objects")
    got = by_path(list(get(above, ["here", "own.dat"])))
    assert got["here"].status == "error"
    assert "cannot read its repository" in got["here"].message
    assert got["own.dat"].status == "ok"
