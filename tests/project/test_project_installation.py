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

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def test_programs_are_those_of_this_environment() -> None:
    for name in ("neuromirror", "git-annex-backend-XS3ETAG", "git-annex", "datalad", "dandi"):
        found = shutil.which(name)
        assert found is not None, name
        assert Path(found).parent == BIN
    command = ["git", "annex", "version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"git-annex version: (10)\.\d{8}", output)


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
