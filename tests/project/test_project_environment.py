"""System packages that CI installs beside the environment, so that no test is skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment() -> ModuleType:
    """``scripts/environment.py``, which runs before anything is installed."""
    spec = importlib.util.spec_from_file_location("made", ROOT / "scripts" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        ((), ["systemd", "chromium", "fonts-dejavu-core", "wget", "aria2"]),
        (("systemd-analyze", "aria2c"), ["chromium", "fonts-dejavu-core", "wget"]),
        (("chromium", "wget", "aria2c"), ["systemd"]),
        (("google-chrome", "systemd-analyze", "wget"), ["aria2"]),
    ],
)
def test_ci_gets_the_programs_that_its_tests_need(
    environment: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    there: tuple[str, ...],
    lacking: list[str],
) -> None:
    for name in there:
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.lacking_in_ci() == lacking
