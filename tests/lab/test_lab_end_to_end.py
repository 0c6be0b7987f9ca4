"""The whole workflow of a lab."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from support.citable_stores import ASSET, FORMATS, PUBLISHED, VOLUME
from support.command_shell import Shell

pytestmark = pytest.mark.slow

NAMES = (PUBLISHED, ASSET, VOLUME)


@dataclass(frozen=True)
class Upstream:
    """The archives and the folder of their mirror files."""

    archive: DemoArchive
    mirrors: Path


@pytest.fixture
def upstream(tmp_path: Path, demo_files: Path) -> Iterator[Upstream]:
    with ExitStack() as stack:
        archive = stack.enter_context(
            DemoArchive(tmp_path / "demo", cache=demo_files, buckets=True)
        )
        boss = stack.enter_context(DemoBoss(tmp_path / "boss"))
        mirrors = tmp_path / "mirrors"
        mirrors.mkdir()
        for folder in (archive.mirrors, boss.mirrors):
            for path in folder.iterdir():
                shutil.copy(path, mirrors)
        yield Upstream(archive, mirrors)


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
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    author = Shell(upstream.mirrors, lab / "store")
    author.program("sync", *NAMES)

    # pin, in the repository of the paper
    paper = lab / "paper"
    lock = str(paper / "datasets.lock")
    author.run("pin", *NAMES, "--bundle", "-o", lock)
    beside = sorted(path.suffix for path in paper.rglob("*.*") if path.is_file())
    assert beside == [".bundle"] * 3 + [".lock"] + [".zst"] * 3

    # cite
    author.run("cite", lock, "--format", "bagit", "-o", str(lab / "bag"))
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
    shutil.rmtree(lab / "store")
    shutil.rmtree(upstream.mirrors)
    folder = tmp_path / "reader"
    shutil.copytree(paper, folder / "paper")
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

    # one file is altered upstream
    version = next(one["version"] for one in full if one.get("dataset") == PUBLISHED)
    path = upstream.archive.paths("000002", str(version))[0]
    upstream.archive.tamper_published("000002", str(version), path, b"other bytes")
    found = records("verify", "paper/datasets.lock", "--remote", code=1)
    failed = [one for one in found if one["status"] == "error" and one["kind"] != "dataset"]
    assert [(one["dataset"], one["path"]) for one in failed] == [(PUBLISHED, path)]
    # the restored files are unchanged
    read(*here)
