"""Pages name existing modules and commands; the generated pages are up to date."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from neuromirror.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def generate(root: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(root / "scripts" / "reference.py"), "--check"]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_generated_pages_are_up_to_date() -> None:
    ended = generate(ROOT)
    assert (ended.stdout, ended.returncode) == ("", 0), ended.stdout + ended.stderr


def test_a_generated_page_that_differs_is_named(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "reference.py", tmp_path / "scripts")
    (tmp_path / "docs" / "reference" / "commands.md").write_text("# Commands\n", "utf-8")
    ended = generate(tmp_path)
    assert ended.returncode == 1
    assert "docs/reference/commands.md is out of date: run scripts/docs" in ended.stdout
    assert "mirror.schema.json" not in ended.stdout


def test_life_of_a_sync_names_modules_that_exist_each_in_one_step() -> None:
    text = (DOCS / "explanation" / "life-of-a-sync.md").read_text("utf-8")
    steps = re.findall(r"^\| \d+\. .*\|(.*)\|$", text, re.M)
    modules = [name for step in steps for name in re.findall(r"`(neuromirror[\w.]+)`", step)]
    assert len(steps) >= 10
    assert sorted(set(modules)) == sorted(modules)
    service = set(re.findall(r"`(neuromirror\.service\.[\w.]+)`", text))
    assert {f"neuromirror.service.{name}" for name in ("jobs", "writer")} <= service
    assert [name for name in {*modules, *service} if find_spec(name) is None] == []


def test_which_command_names_every_command_and_no_other() -> None:
    text = (DOCS / "reference" / "which-command.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    code = " ".join(one for row in rows for one in re.findall(r"`([^`]+)`", row))
    visible = {name for name, one in main.commands.items() if not one.hidden}
    assert visible - set(re.findall(r"[\w-]+", code)) == set()
    called = set(re.findall(r"`neuromirror(?: --[\w-]+)* ([a-z][\w-]*)", text))
    assert called <= set(main.commands)
