"""The whole workflow of a lab, with one process per command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from support.citable_stores import ASSET, FORMATS, PUBLISHED, VOLUME

pytestmark = pytest.mark.slow

NAMES = (PUBLISHED, ASSET, VOLUME)


@dataclass(frozen=True)
class WorkingFolder:
    """A working folder with environment variables."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run neuromirror; return its output on both streams."""
        done = subprocess.run(
            [sys.executable, "-m", "neuromirror", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def records(self, *arguments: str, code: int = 0) -> list[dict[str, object]]:
        """Return the records that a command prints with --json."""
        printed = self.run("--json", *arguments, code=code).splitlines()
        return [json.loads(line) for line in printed if line.startswith("{")]


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


def clean_home_variables(folder: Path) -> dict[str, str]:
    """Environment variables with a git configuration that allows requests to the demo only."""
    folder.mkdir()
    (folder / ".gitconfig").write_text(
        '[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n', "utf-8"
    )
    return {"HOME": str(folder), "GIT_CONFIG_GLOBAL": str(folder / ".gitconfig")}


def test_a_paper_is_pinned_cited_lost_restored_and_watched(
    upstream: Upstream, tmp_path: Path
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    author = WorkingFolder(lab, {"NEUROMIRROR_MIRRORS": str(upstream.mirrors)})
    author.run("sync", *NAMES)

    # pin, in the repository of the paper
    paper = lab / "paper"
    lock = str(paper / "datasets.lock")
    author.run("pin", *NAMES, "--bundle", "-o", lock)
    beside = sorted(path.suffix for path in paper.rglob("*.*") if path.is_file())
    assert beside == [".bundle"] * 3 + [".lock"] + [".zst"] * 3

    # cite
    author.run("cite", lock, "--format", "bagit", "-o", str(lab / "bag"))
    cited = {form: author.run("cite", lock, "--format", form) for form in FORMATS}
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
    reader = WorkingFolder(tmp_path / "reader", clean_home_variables(tmp_path / "home"))
    reader.folder.mkdir()
    shutil.copytree(paper, reader.folder / "paper")
    restored = reader.records("restore", "paper/datasets.lock", "--into", "data")
    assert {one["status"] for one in restored} == {"ok"}
    bundles = [one for one in restored if str(one["message"]).startswith("from the bundle")]
    assert [one["dataset"] for one in bundles] == list(NAMES)
    files = [one for one in restored if "evidence" in one]
    assert {one["checked"] for one in files} == {"checked"}
    here = ("verify", "paper/datasets.lock", "--in", "data")
    local = reader.records(*here)
    for kind in ("commit", "state", "dataset"):
        found = [(one["dataset"], one["status"]) for one in local if one["kind"] == kind]
        assert found == [(name, "ok") for name in NAMES], kind
    # compare with the present content of upstream
    full = reader.records(*here, "--full")
    assert [one["status"] for one in full if one["kind"] == "dataset"] == ["ok"] * len(NAMES)
    assert {one["checked"] for one in full if one["kind"] == "file"} == {"checked"}
    assert {form: reader.run("cite", "paper/datasets.lock", "--format", form) for form in FORMATS}
    reader.run("verify", "paper/datasets.lock", "--remote")

    # one file is altered upstream
    version = next(one["version"] for one in full if one.get("dataset") == PUBLISHED)
    path = upstream.archive.paths("000002", str(version))[0]
    upstream.archive.tamper_published("000002", str(version), path, b"other bytes")
    found = reader.records("verify", "paper/datasets.lock", "--remote", code=1)
    failed = [one for one in found if one["status"] == "error" and one["kind"] != "dataset"]
    assert [(one["dataset"], one["path"]) for one in failed] == [(PUBLISHED, path)]
    output = reader.run("verify", "paper/datasets.lock", "--remote", code=1)
    assert path in output
    # the restored files are unchanged
    reader.run(*here)
