"""Other programs download the pinned files by an exported list; ``verify`` finds the same state."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror.lab.export_lock import LINE_FORMATS, ExportedFile, NotExportableError
from support.lab_store import LabStore
from support.lock_folders import DRAFT, PUBLISHED, ZARR, LockFolder
from support.mirror_harness import MirrorHarness
from support.scripted_source import ScriptedDataset, ScriptedSource, files
from support.stub_server import StubServer, responds_with


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def records(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def export(paper: LockFolder, form: str, output: Path) -> tuple[int, list[dict[str, Any]]]:
    done = run("--json", "export-lock", paper.file, "--format", form, "-o", output)
    return done.exit_code, records(done)


def states(paper: LockFolder, folder: Path) -> dict[str, str]:
    """Verify; return the state digest of each dataset."""
    done = run("--json", "verify", paper.file, "--in", folder)
    found = records(done)
    assert [one for one in found if one["status"] != "ok"] == []
    assert done.exit_code == 0
    hashed = [one for one in found if one["kind"] == "file" and one.get("checked") == "checked"]
    assert len(hashed) == sum(pin.files for pin in paper.lock.datasets)
    return {
        one["dataset"]: one["message"]
        for one in found
        if one["kind"] == "state" and one["path"] == "."
    }


def program(*command: object, folder: Path, **environment: str) -> None:
    if shutil.which(str(command[0])) is None and not os.environ.get("CI"):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [str(one) for one in command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- the programs that download by a list into a folder


def with_pooch(exported: Path, folder: Path) -> Path:
    import pooch

    goes = pooch.create(path=folder, base_url="")
    goes.load_registry(exported)
    for name in goes.registry_files:
        goes.fetch(name)
    return folder


def with_aria2(exported: Path, folder: Path) -> Path:
    program("aria2c", "--no-conf", "--quiet", "-i", exported, "-d", folder, folder=folder)
    return folder


def with_wget(exported: Path, folder: Path) -> Path:
    if shutil.which("wget") is None and not os.environ.get("CI"):
        pytest.skip("wget is not installed")
    program("sh", exported, folder=folder)
    program("sh", exported, folder=folder)
    return folder


def with_curl(exported: Path, folder: Path) -> Path:
    program("curl", "--silent", "--show-error", "--config", exported, folder=folder)
    return folder


def with_addurls(exported: Path, folder: Path) -> Path:
    program("git", "init", "--quiet", folder=folder)
    program("git", "annex", "init", folder=folder)
    (folder / "table.csv").write_bytes(exported.read_bytes())
    program(
        "datalad", "addurls", "--key", "{key}", "table.csv", "{url}", "{path}", folder=folder
    )  # fmt: skip
    program("git", "annex", "get", ".", folder=folder)
    return folder


@pytest.fixture
def paper(still_lab: LabStore, tmp_path: Path) -> LockFolder:
    """A lock of a published dataset with sha256 of all files."""
    folder = LockFolder(still_lab.mirror_harness, tmp_path / "paper")
    folder.pin(PUBLISHED)
    return folder


@pytest.mark.parametrize(
    ("form", "download"),
    [
        ("pooch", with_pooch),
        ("aria2", with_aria2),
        ("curl", with_curl),
        ("wget", with_wget),
        ("addurls", with_addurls),
    ],
    ids=["pooch", "aria2", "curl", "wget", "addurls"],
)
def test_a_program_downloads_the_pinned_state(
    paper: LockFolder, tmp_path: Path, form: str, download: Callable[[Path, Path], Path]
) -> None:
    code, found = export(paper, form, tmp_path / "list")
    pins = paper.lock.datasets
    assert (code, found[-1]["files"]) == (0, pins[0].files)
    assert found[-1]["bytes"] == pins[0].bytes
    (tmp_path / "data").mkdir()
    folder = download(tmp_path / "list", tmp_path / "data")
    assert states(paper, folder) == {PUBLISHED: pins[0].state}


def test_files_of_subdatasets_are_in_the_list(
    subdataset_harness: MirrorHarness, tmp_path: Path
) -> None:
    paper = LockFolder(subdataset_harness, tmp_path / "paper")
    paper.pin(ZARR)
    code, found = export(paper, "aria2", tmp_path / "list")
    pin = paper.lock.datasets[0]
    assert (code, found[-1]["files"]) == (0, pin.files)
    (tmp_path / "data").mkdir()
    with_aria2(tmp_path / "list", tmp_path / "data")
    assert states(paper, tmp_path / "data") == {ZARR: pin.state}


@pytest.fixture
def scripted_paper(scripted_lab: LabStore, tmp_path: Path) -> LockFolder:
    return LockFolder(scripted_lab.mirror_harness, tmp_path / "paper")


# --- files that a list cannot hold


def test_files_that_a_format_cannot_hold_are_counted(
    scripted_paper: LockFolder, source: ScriptedSource, tmp_path: Path
) -> None:
    listed = files("good.nwb", sha256=True) | files("only-md5.nwb", "also md5.nwb")
    listed |= files("odd\u2028name.nwb", "quoted 'name.nwb", "stage.dvc", sha256=True)
    source.scripted_datasets["one"] = ScriptedDataset(files=listed)
    scripted_paper.mirror_harness.sync()
    scripted_paper.pin("box:one")
    expected = {"sha256sum": [1, 2], "pooch": [1], "md5sum": [4]}
    for form, counts in expected.items():
        code, found = export(scripted_paper, form, tmp_path / form)
        omitted = [one for one in found if one["kind"] == "omitted"]
        assert (code, sorted(one["count"] for one in omitted)) == (1, counts), form
        assert all(one["status"] == "impossible" for one in omitted)
        assert sum(len(one["paths"]) for one in omitted) == sum(counts)
        assert found[-1]["files"] + found[-1]["omitted"] == len(listed)
    lines = (tmp_path / "sha256sum").read_text("utf-8").splitlines()
    data = tmp_path / "data" / "box--one"
    data.mkdir(parents=True)
    for name, one in listed.items():
        (data / name).write_bytes(one.content)
    assert len(lines) == 3
    program("sha256sum", "--strict", "-c", tmp_path / "sha256sum", folder=tmp_path / "data")


def test_sha256sum_reads_backslashes(tmp_path: Path) -> None:
    content = b"text"
    (tmp_path / "a\\nb").write_bytes(content)
    value = hashlib.sha256(content).hexdigest()
    one = ExportedFile("a\\nb", "", len(content), ("sha256", value), ())
    (tmp_path / "list").write_text(LINE_FORMATS["sha256sum"].line(one), "utf-8")
    program("sha256sum", "--strict", "-c", "list", folder=tmp_path)


METALINK = """<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink">
<file name="unlisted"><url>{}</url></file></metalink>
"""


@pytest.mark.parametrize("name", ["a.meta4", "a.dat", "${HOME}.dat"])
def test_aria2_downloads_only_what_is_listed(tmp_path: Path, name: str) -> None:
    with StubServer() as server:
        content = METALINK.format(f"{server.url}/other").encode()
        server.answers[f"/{name}"] = responds_with(200, content, "application/metalink4+xml")
        server.answers["/other"] = responds_with(200, b"other")
        digest = "sha256", hashlib.sha256(content).hexdigest()
        one = ExportedFile(f"box/{name}", "", len(content), digest, (f"{server.url}/{name}",))
        if "$" in name:
            with pytest.raises(NotExportableError, match="aria2"):
                LINE_FORMATS["aria2"].line(one)
            return
        (tmp_path / "list").write_text(LINE_FORMATS["aria2"].line(one), "utf-8")
        (data := tmp_path / "data").mkdir()
        with_aria2(tmp_path / "list", data)
        assert [request.path for request in server.requests] == [f"/{name}"]
    assert [one.name for one in data.rglob("*") if one.is_file()] == [name]


def test_an_existing_output_is_not_changed(paper: LockFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (full := tmp_path / "full").mkdir()
    (full / "mine").touch()
    (tmp_path / "link").symlink_to(full)
    for output in (tmp_path / "file", full, tmp_path / "link", tmp_path / "file" / "below"):
        done = run("--json", "export-lock", paper.file, "--format", "aria2", "-o", output)
        assert (done.exit_code, [record["status"] for record in records(done)]) == (2, ["error"])
    assert (tmp_path / "file").read_text() == "mine"
    assert [one.name for one in full.iterdir()] == ["mine"]


def test_a_damaged_manifest_leaves_no_list(paper: LockFolder, tmp_path: Path) -> None:
    paper.pin(DRAFT)
    first, second = (paper.lock.manifest_path(pin) for pin in paper.lock.datasets)
    shutil.copyfile(first, second)
    done = run("--json", "export-lock", paper.file, "--format", "aria2", "-o", tmp_path / "list")
    assert (done.exit_code, records(done)[-1]["status"]) == (1, "error")
    assert not (tmp_path / "list").exists()
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".new-")] == []


def test_wrong_usage_is_refused(paper: LockFolder, tmp_path: Path) -> None:
    assert run("export-lock", paper.file, "--format", "zip").exit_code == 2
    assert run("--json", "export-lock", paper.file, "--format", "pooch").exit_code == 2
    assert run("export-lock", tmp_path / "no.lock", "--format", "pooch").exit_code == 2
    (empty := tmp_path / "empty.lock").write_text("lock-version = 2\n")
    assert run("export-lock", empty, "--format", "pooch").exit_code == 2
