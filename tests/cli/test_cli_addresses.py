"""Addresses wherever a command expects a dataset or a version."""

import os
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import Shell

NAME = "demo:000002"


def api(demo: DemoArchive, rest: str) -> str:
    return f"{demo.api_url}/dandisets/000002/{rest}"


def test_every_command_for_versions_takes_every_address(
    synced: Shell, shared_demo: DemoArchive
) -> None:
    versions = synced.records("versions", NAME)
    expected = next(version for version in versions if version["kind"] == "published")
    label, commit = expected["version"], expected["commit"]
    for address in (
        f"{NAME}@{label}",
        f"DEMO:000002/{label}",
        commit,
        f"swh:1:rev:{commit}",
        f"state:{expected['state']}",
        # the archive has the prefix of test DOIs, and no built-in mirror that locates it
        expected["doi"],
        f"https://doi.org/{expected['doi']}",
        api(shared_demo, f"versions/{label}/"),
        f"https://mirror.example.org/dataset/{NAME}@{label}",
    ):
        (shown,) = synced.records("show", address)
        assert (shown["dataset"], shown["commit"]) == (NAME, commit), address
        assert synced.records("versions", address) == versions
    assert synced.run("cite", commit).out == synced.run("cite", f"{NAME}@{label}").out
    assert synced.records("diff", commit, api(shared_demo, "versions/draft/")) == synced.records(
        "diff", f"{NAME}@{label}", f"{NAME}@draft"
    )


def test_a_path_in_an_address_selects_files(
    synced: Shell, shared_demo: DemoArchive, tmp_path: Path
) -> None:
    files = [record for record in synced.records("files", NAME) if record["type"] == "file"]
    # the archive's web pages, whose address only its /info/ states
    page = f"{shared_demo.api_url.removesuffix('/api')}/dandiset/000002/draft/files"
    in_catalogue = f"https://mirror.example.org/dataset/{NAME}@draft?under=sub-201"
    assert synced.records("files", f"{page}?location=sub-201") == synced.records(
        "files", in_catalogue
    )
    folder = next(file["path"].split("/")[0] for file in files if "/" in file["path"])
    below = [file["path"] for file in files if file["path"].startswith(f"{folder}/")]
    assert len(below) > 0
    address = f"https://mirror.example.org/dataset/{NAME}?under={folder}"
    assert [record["path"] for record in synced.records("files", address)] == below
    lock = tmp_path / "datasets.lock"
    synced.run("pin", address, "-o", str(lock))
    assert folder in lock.read_text()


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["show", "dmeo:000002"], NAME),
        (["versions", "demo:2"], NAME),
        (["sync", "demo:2"], NAME),
        (["sync", "dmeo:000002"], NAME),
        (["list", "hippocampus"], "'neuromirror search hippocampus'"),
        (["list", NAME], f"'neuromirror versions {NAME}'"),
        (["sync", "999999"], "dandi:999999"),
    ],
)
def test_a_mistake_has_a_suggestion(synced: Shell, arguments: list[str], suggestion: str) -> None:
    (failed,) = synced.records(*arguments, code=2)
    assert suggestion in failed["suggestions"]


def test_the_command_that_mirrors_what_the_store_lacks_is_named(
    synced: Shell, tmp_path: Path
) -> None:
    other = "aind:ecephys_625749_2022-08-03_15-15-06"
    lock = str(tmp_path / "datasets.lock")
    for text, name in (("demo:999999", "demo:999999"), (other.partition(":")[2], other)):
        for command in (["show", text], ["cite", text], ["pin", text, "-o", lock]):
            (failed,) = synced.records(*command, code=2)
            assert f"'neuromirror sync {name}'" in failed["message"]


def test_without_a_store_the_command_that_mirrors_the_dataset_is_named(
    synced: Shell, shared_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = synced.with_changes(store=tmp_path / "store")
    for address in (NAME, api(shared_demo, "versions/draft/"), f"{NAME}@0.1"):
        for command in (
            *(["show"], ["versions"], ["files"], ["cite"], ["pin"]),
            ["diff", f"{NAME}@draft"],
        ):
            (failed,) = new.records(*command, address, code=2)
            assert f"'neuromirror sync {NAME}'" in failed["message"], command
    (failed,) = new.records("show", "demo:2", code=2)
    assert failed["suggestions"] == [NAME]


def test_get_takes_what_is_not_a_path_for_an_address(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (commit,) = (
        record["commit"]
        for record in synced.records("versions", NAME)
        if record["kind"] == "published" and record["version"].endswith("1026")
    )
    synced.run("get", commit)
    synced.run("get", commit, "--into", "plain")
    assert sorted(os.listdir("000002")) == sorted(os.listdir("plain"))
    (failed,) = synced.records("get", "000022", "--into", "other", code=2)
    assert "000022" in failed["message"]
    (failed,) = synced.records("get", "000002", NAME, code=2)
    assert NAME in failed["message"].split()


def test_verify_outside_of_a_clone_suggests_clones_and_lock_files(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (failed,) = synced.records("verify", code=2)
    assert "suggestions" not in failed
    synced.run("clone", NAME, "mine")
    (failed,) = synced.records("verify", code=2)
    assert failed["suggestions"] == ["mine"]
    monkeypatch.chdir(tmp_path / "mine" / "sub-201")
    (failed,) = synced.records("verify", code=2)
    assert failed["suggestions"] == [".."]
    synced.run("verify", "..", "--allow-missing")
    synced.run("pin", NAME, "-o", str(tmp_path / "datasets.lock"))
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path / "results")
    (failed,) = synced.records("verify", code=2)
    assert failed["suggestions"] == ["../datasets.lock"]
    # the folder of a lock file
    missing = synced.run("verify", "..", code=1)
    assert "neuromirror restore" in missing.err
    assert "--in" not in missing.out + missing.err
    synced.run("restore", "..", "--into", "data", "--offline")
    assert "--in data" in synced.run("verify", "../datasets.lock", "--in", ".", code=1).err


def test_a_key_with_two_slashes_is_not_another_key(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = next(record["path"] for record in synced.records("files", NAME) if "/" in record["path"])
    address = f"https://mirror.example.org/file/{NAME}?path="
    synced.run("get", address + path, "--into", "right")
    synced.run("get", address + path.replace("/", "//", 1), "--into", "wrong", code=2)
    assert not (tmp_path / "wrong").exists()
