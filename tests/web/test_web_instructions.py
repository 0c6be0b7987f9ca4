"""The commands of a version's page work as pasted, in an empty folder with an empty HOME."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.running_catalogue import RunningCatalogue, commands

NAME = "demo:000002@0.240301.1055"


@pytest.fixture(name="pasted")
def fixture_pasted(site: RunningCatalogue) -> list[str]:
    """The texts of the copy boxes of a version's page."""
    return commands(site.page(f"/dataset/{NAME}"))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty folder, an empty HOME and no configuration of git."""
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")
    monkeypatch.chdir(folder)
    return folder


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_neuromirror_clone_command_works(
    site: RunningCatalogue, pasted: list[str], empty: Path
) -> None:
    (command,) = [one for one in pasted if one.startswith("neuromirror clone ")]
    run("sh", "-c", command)
    (clone,) = empty.iterdir()
    head = run("git", "-C", str(clone), "rev-parse", "HEAD").strip()
    assert head == site.api(f"/datasets/{NAME}")["commit"]


def test_the_python_lines_work(site: RunningCatalogue, pasted: list[str], empty: Path) -> None:
    (code,) = [one for one in pasted if one.startswith("import json")]
    assert len(code.splitlines()) == 3
    shown = run(sys.executable, "-c", f"{code}\nprint(json.dumps(files))")
    assert json.loads(shown) == site.api(f"/datasets/{NAME}/files?limit=1000")["files"]
    assert os.listdir(empty) == []


def code_of(pasted: list[str], start: str) -> str:
    (code,) = [one for one in pasted if one.startswith(start)]
    return code


@pytest.mark.parametrize("start", ["reply = jsondecode(webread(", "files <- jsonlite::fromJSON("])
def test_the_address_in_other_languages_has_the_files(
    site: RunningCatalogue, pasted: list[str], start: str
) -> None:
    address = code_of(pasted, start).replace('"', "'").split("'")[1]
    assert site.get(address).json()["files"]


@pytest.mark.skipif(shutil.which("octave-cli") is None, reason="needs Octave")
def test_the_matlab_lines_work_in_octave(
    site: RunningCatalogue, pasted: list[str], empty: Path
) -> None:
    """MATLAB cannot be installed here; Octave has the same functions."""
    code = code_of(pasted, "reply = jsondecode(webread(")
    shown = run("octave-cli", "--norc", "--eval", f"{code}\ndisp(jsonencode(files));")
    expected = site.api(f"/datasets/{NAME}/files?limit=1000")["files"]
    assert [one["path"] for one in json.loads(shown)] == [one["path"] for one in expected]


@pytest.mark.skipif(
    shutil.which("Rscript") is None
    or subprocess.run(
        ["Rscript", "-e", "library(jsonlite)"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="needs R with jsonlite",
)
def test_the_r_line_works(site: RunningCatalogue, pasted: list[str], empty: Path) -> None:
    code = code_of(pasted, "files <- jsonlite::fromJSON(")
    shown = run("Rscript", "-e", f"{code}\ncat(jsonlite::toJSON(files$path))")
    expected = site.api(f"/datasets/{NAME}/files?limit=1000")["files"]
    assert json.loads(shown) == [one["path"] for one in expected]
