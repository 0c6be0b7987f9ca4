"""The whole workflow of a lab."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from support.citable_stores import ASSET, FORMATS, PUBLISHED, VOLUME, CitableStore
from support.command_shell import Shell

pytestmark = pytest.mark.slow

NAMES = (PUBLISHED, ASSET, VOLUME)


def read(*arguments: str, code: int = 0) -> Result:
    """Run neuromirror without a store, as somebody who reads the paper."""
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def records(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the records that a command prints with --json."""
    lines = read("--json", *arguments, code=code).stdout.splitlines()
    return [json.loads(line) for line in lines]


def clean_home_variables(folder: Path) -> dict[str, str]:
    """Environment variables with a git configuration that allows requests to the demo only."""
    folder.mkdir()
    (folder / ".gitconfig").write_text(
        '[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n', "utf-8"
    )
    return {"HOME": str(folder), "GIT_CONFIG_GLOBAL": str(folder / ".gitconfig")}


def test_a_paper_is_pinned_cited_lost_restored_and_watched(
    citable_store: CitableStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = tmp_path / "lab"
    shutil.copytree(citable_store.mirror_harness.folder, lab / "store", symlinks=True)
    shutil.copytree(citable_store.mirror_harness.mirrors, lab / "mirrors")
    author = Shell(lab / "mirrors", lab / "store")

    # pin, in the repository of the paper
    paper = lab / "paper"
    lock = str(paper / "datasets.lock")
    author.run("pin", PUBLISHED, ASSET, "--bundle", "-o", lock)
    author.run("pin", VOLUME, "--path", "2", "--bundle", "-o", lock)
    beside = sorted(path.suffix for path in paper.rglob("*.*") if path.is_file())
    assert beside == [".bundle"] * 3 + [".lock"] + [".zst"] * 3

    # cite
    cited = {form: author.run("cite", lock, "--format", form).out for form in FORMATS}
    for dataset in json.loads(cited["csl"]):
        assert dataset["title"] in cited["text"]
    swhids = {
        line.partition('"')[2].rstrip('"')
        for line in Path(lock).read_text("utf-8").splitlines()
        if line.startswith("swhid = ")
    }
    assert len(swhids) == len(NAMES)
    for form, text in cited.items():
        assert all(swhid in text for swhid in swhids), form

    # lose the mirror: years later only the repository of the paper exists
    folder = tmp_path / "reader"
    shutil.copytree(paper, folder / "paper")
    shutil.rmtree(lab)
    monkeypatch.chdir(folder)
    for name, value in clean_home_variables(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    restored = records("restore", "paper/datasets.lock", "--into", "data")
    assert {one["status"] for one in restored} == {"ok"}
    bundles = [one for one in restored if str(one["message"]).startswith("from the bundle")]
    assert [one["dataset"] for one in bundles] == list(NAMES)
    files = [one for one in restored if "evidence" in one]
    assert {one["checked"] for one in files} == {"checked"}
    here = ("verify", "paper/datasets.lock", "--in", "data")
    local = records(*here)
    for kind in ("commit", "state", "dataset"):
        found = [(one["dataset"], one["status"]) for one in local if one["kind"] == kind]
        assert found == [(name, "ok") for name in NAMES], kind
    # compare with the present content of upstream
    full = records(*here, "--full")
    assert [one["status"] for one in full if one["kind"] == "dataset"] == ["ok"] * len(NAMES)
    assert {one["checked"] for one in full if one["kind"] == "file"} == {"checked"}
    assert read("cite", "paper/datasets.lock", "--format", "cff").stdout == cited["cff"]
    read("verify", "paper/datasets.lock", "--remote")

    # one dataset is lost upstream
    assert citable_store.archive is not None
    with citable_store.archive.fault("status", server="s3", path="/blobs/", status=404):
        found = records("verify", "paper/datasets.lock", "--remote", code=1)
    failed = [one for one in found if one["status"] == "error" and one["kind"] != "dataset"]
    assert {one["dataset"] for one in failed} == {PUBLISHED}
    lost = {one["path"] for one in full if one["kind"] == "file" and one["dataset"] == PUBLISHED}
    assert {one["path"] for one in failed} == lost
    # the restored files are unchanged
    read(*here)
