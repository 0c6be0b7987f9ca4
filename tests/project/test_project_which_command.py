"""docs/reference/which-command.md names every command, and only existing ones."""

from __future__ import annotations

import re
from pathlib import Path

from neuromirror.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "which-command.md"


def test_the_page_names_every_command() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    code = " ".join(one for row in rows for one in re.findall(r"`([^`]+)`", row))
    visible = {name for name, one in main.commands.items() if not one.hidden}
    words = set(re.findall(r"[\w-]+", code))
    assert visible - words == set()


def test_the_page_names_no_other_command() -> None:
    called = set(re.findall(r"`neuromirror(?: --[\w-]+)* ([a-z][\w-]*)", PAGE.read_text("utf-8")))
    assert called <= set(main.commands)
