"""docs/explanation/life-of-a-sync.md names existing modules, and the writer of a service."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "life-of-a-sync.md"


def test_each_step_names_a_module_that_exists_and_no_module_is_visited_twice() -> None:
    steps = re.findall(r"^\| \d+\. .*\|(.*)\|$", PAGE.read_text("utf-8"), re.M)
    modules = [name for step in steps for name in re.findall(r"`(neuromirror[\w.]+)`", step)]
    assert len(steps) >= 10
    assert [name for name in modules if find_spec(name) is None] == []
    assert sorted(set(modules)) == sorted(modules)


def test_the_page_names_the_writer_of_a_service() -> None:
    text = PAGE.read_text("utf-8")
    modules = re.findall(r"`(neuromirror\.service\.[\w.]+)`", text)
    assert {f"neuromirror.service.{name}" for name in ("job_recorder", "writer")} <= set(modules)
    assert [name for name in modules if find_spec(name) is None] == []
