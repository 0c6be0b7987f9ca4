"""The generated pages are what the code says today."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(root / "scripts" / "reference.py"), "--check"]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_generated_pages_are_up_to_date() -> None:
    ended = check(ROOT)
    assert (ended.stdout, ended.returncode) == ("", 0), ended.stdout + ended.stderr


def test_a_page_that_differs_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "reference.py", tmp_path / "scripts")
    (tmp_path / "docs" / "reference" / "commands.md").write_text("# Commands\n", "utf-8")
    ended = check(tmp_path)
    assert ended.returncode == 1
    assert "docs/reference/commands.md is out of date: run scripts/docs" in ended.stdout
    assert "mirror.schema.json" not in ended.stdout
