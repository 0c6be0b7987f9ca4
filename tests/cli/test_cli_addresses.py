"""Addresses wherever a command expects a dataset or a version."""

from __future__ import annotations

import os
import shutil
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
    expected = next(one for one in versions if one["kind"] == "published")
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
    files = [one for one in synced.records("files", NAME) if one["type"] == "file"]
    folder = next(one["path"].split("/")[0] for one in files if "/" in one["path"])
    below = [one["path"] for one in files if one["path"].startswith(f"{folder}/")]
    assert len(below) > 0
    address = f"https://mirror.example.org/dataset/{NAME}?under={folder}"
    assert [one["path"] for one in synced.records("files", address)] == below
    lock = tmp_path / "datasets.lock"
    synced.run("pin", address, "-o", str(lock))
    assert folder in lock.read_text()


def test_sync_takes_addresses(shell: Shell, demo: DemoArchive) -> None:
    (done,) = shell.records("sync", api(demo, "versions/draft/"))
    assert (done["dataset"], done["status"]) == (NAME, "ok")
    (second,) = shell.records("sync", "DEMO:000002")
    assert (second["dataset"], second["status"]) == (NAME, "notneeded")


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


def test_a_label_with_a_v_or_a_typo_has_a_suggestion(synced: Shell) -> None:
    label = next(
        one["version"] for one in synced.records("versions", NAME) if one["kind"] == "published"
    )
    for wrong in (f"{NAME}@v{label}", f"{NAME}/{label[:-1]}", f"DEMO:000002@{label}0"):
        (failed,) = synced.records("show", wrong, code=2)
        assert failed["suggestions"] == [f"{NAME}@{label}"] or label in str(failed["suggestions"])
    (failed,) = synced.records("show", f"{NAME}@{label[:4]}", code=2)
    assert failed["suggestions"] == [f"{NAME}@{label}"] or label[:4] in str(failed["suggestions"])
    (failed,) = synced.records("clone", f"{NAME}@{label[:4]}", "new", code=2)
    assert label[:4] in str(failed["suggestions"])
    (failed,) = synced.records("show", f"{NAME}@qqqq", code=2)
    assert "suggestions" not in failed


def test_names_of_other_programs_lead_to_the_command(synced: Shell) -> None:
    for name, command in (("download", "get"), ("restroe", "restore")):
        assert command in synced.run(name, code=2).err
    synced.run("qqqq", code=2)


def test_the_command_that_mirrors_what_the_store_lacks_is_named(
    synced: Shell, tmp_path: Path
) -> None:
    other = "aind:ecephys_625749_2022-08-03_15-15-06"
    lock = str(tmp_path / "datasets.lock")
    for text, name in (("demo:999999", "demo:999999"), (other.partition(":")[2], other)):
        for command in (["show", text], ["cite", text], ["pin", text, "-o", lock]):
            (failed,) = synced.records(*command, code=2)
            assert f"'neuromirror sync {name}'" in failed["message"]


def test_an_id_that_the_store_lacks_is_not_taken_for_a_name(synced: Shell) -> None:
    for text in ("0" * 40, f"swh:1:rev:{'0' * 40}", f"state:sha256:{'0' * 64}"):
        for command in ("show", "clone", "get"):
            (failed,) = synced.records(command, text, code=2)
            assert "--store" in failed["message"]


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


def test_the_url_of_a_file_names_it_if_one_dataset_has_it(synced: Shell) -> None:
    files = {
        name: [one for one in synced.records("files", name) if one["type"] == "file"]
        for name in (NAME, "demo:000001")
    }
    shared = {one["key"] for one in files[NAME]} & {one["key"] for one in files["demo:000001"]}
    assert shared
    for one in files[NAME]:
        for url in one["urls"]:
            if one["key"] in shared:
                (failed,) = synced.records("show", url, code=2)
                assert failed["suggestions"] == [f"'neuromirror find {one['key']}'"]
            elif "2024" not in one["path"] and "notes" not in one["path"]:
                (shown,) = synced.records("show", url)
                assert shown["dataset"] == NAME
                assert [each["path"] for each in synced.records("files", url)] == [one["path"]]


def test_an_incomplete_url_is_an_unknown_address(synced: Shell) -> None:
    for command in ("show", "clone", "get", "sync"):
        for url in (
            "http://[::1",
            "https://s3.amazonaws.com",
            "https://s3.us-west-2.amazonaws.com/",
        ):
            (failed,) = synced.records(command, url, code=2)
            assert url in failed["message"]


def test_get_outside_of_a_clone_suggests_the_nearest_name(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (failed,) = synced.records("get", "999999", code=2)
    assert "not inside a clone" in failed["message"]
    assert failed["suggestions"] == ["dandi:999999"]
    assert "fatal" not in synced.run("get", code=2).err


def test_get_takes_what_is_not_a_path_for_an_address(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (commit,) = (
        one["commit"]
        for one in synced.records("versions", NAME)
        if one["kind"] == "published" and one["version"].endswith("1026")
    )
    synced.run("get", commit)
    synced.run("get", commit, "--into", "plain")
    assert sorted(os.listdir("000002")) == sorted(os.listdir("plain"))
    (failed,) = synced.records("get", "000022", "--into", "other", code=2)
    assert "000022" in failed["message"]
    (failed,) = synced.records("get", "000002", NAME, code=2)
    assert NAME in failed["message"].split()


def test_a_name_in_the_index_needs_no_mirror_file(synced: Shell, tmp_path: Path) -> None:
    shutil.copytree(synced.mirrors, tmp_path / "mirrors")
    (tmp_path / "mirrors" / "broken.toml").write_text("source = 7\n")
    broken = synced.with_changes(mirrors=tmp_path / "mirrors")
    (shown,) = broken.records("show", NAME)
    assert shown["dataset"] == NAME


def test_an_address_is_refused_where_a_file_or_folder_is_expected(synced: Shell) -> None:
    url = "https://mirror.example.org/dataset/demo:000002"
    for command, suggested in (
        (["verify"], "clone"),
        (["restore"], "pin"),
        (["restore", "--into", "data"], "pin"),
        (["outdated"], "versions"),
    ):
        for address in (NAME, url):
            (failed,) = synced.records(*command, address, code=2)
            assert failed["suggestions"][0] == f"'neuromirror {suggested} {address}'"


def test_a_missing_lock_file_or_folder_has_the_nearest_as_a_suggestion(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path / "results")
    (failed,) = synced.records("verify", "clone", code=2)
    assert "suggestions" not in failed
    (tmp_path / "datasets.lock").write_text("")
    (tmp_path / "results" / "clone1").mkdir()
    for command in (["verify"], ["restore", "--into", "data"], ["outdated"]):
        (failed,) = synced.records(*command, "other.lock", code=2)
        assert failed["suggestions"] == ["../datasets.lock"], command
    (failed,) = synced.records("verify", "clone", code=2)
    assert failed["suggestions"] == ["clone1", "../datasets.lock"]
    (failed,) = synced.records("restore", "../dataset.lock", code=2)
    assert failed["suggestions"] == ["../datasets.lock"]


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


def test_cite_uses_the_lock_file_by_default(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    synced.run("pin", NAME, "-o", str(tmp_path / "datasets.lock"))
    monkeypatch.chdir(tmp_path / "results")
    (failed,) = synced.records("cite", code=2)
    assert failed["suggestions"] == ["../datasets.lock"]
    monkeypatch.chdir(tmp_path)
    assert synced.run("cite").out == synced.run("cite", "datasets.lock").out


def test_a_key_with_two_slashes_is_not_another_key(
    synced: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = next(one["path"] for one in synced.records("files", NAME) if "/" in one["path"])
    address = f"https://mirror.example.org/file/{NAME}?path="
    synced.run("get", address + path, "--into", "right")
    synced.run("get", address + path.replace("/", "//", 1), "--into", "wrong", code=2)
    assert not (tmp_path / "wrong").exists()
