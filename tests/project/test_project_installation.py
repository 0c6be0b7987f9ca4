"""Everything that the suite needs is installed: a missing part is a failure, never a skip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["git", "--version"], r"git version (\d+)"),
        (["git-annex", "version"], r"git-annex version: (10)\.\d{8}"),
        (["git", "annex", "version"], r"git-annex version: (10)\.\d{8}"),
        (["datalad", "--version"], r"datalad (\d+)"),
        (["dandi", "--version"], r"(\d+)\."),
    ],
    ids=["git", "git-annex", "git-annex-by-git", "datalad", "dandi"],
)
def test_a_program_is_there_and_runs(command: list[str], answer: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert re.search(answer, ended.stdout), ended.stdout + ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize("name", ["neuromirror", "git-annex-backend-XS3ETAG", "git-annex"])
def test_a_program_is_that_of_this_environment(name: str) -> None:
    found = shutil.which(name)
    assert found is not None
    assert Path(found).parent == BIN


def test_every_requirement_of_the_suite_is_installed() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    lines = [line for group in groups.values() for line in group if isinstance(line, str)]
    assert len(lines) > 20
    for line in [*lines, *(requires("neuromirror") or [])]:
        one = Requirement(line)
        if one.marker is None or one.marker.evaluate({"extra": "all"}):
            assert one.specifier.contains(version(one.name), prereleases=True), line


def test_tests_do_not_see_the_persons_home(isolated_home: Path) -> None:
    assert Path.home() == isolated_home
    command = ["git", "config", "--global", "--get", "user.email"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == "test@example.invalid\n"
    assert not [name for name in os.environ if name.startswith(("DATALAD_", "NEUROMIRROR_"))]
