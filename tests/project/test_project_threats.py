"""threat-model.md names an existing test for each attack, or the reason for having no test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.documented_tests import ROOT, check_rows, named_tests, table_rows

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
HEAD = ["entry point", "attack", "defence", "module", "test"]
ADVERSARIES = [
    *("Hostile archive", "Lock sender", "Mirror", "Clone", "Visitor", "Plug-in", "Local user"),
]


def test_every_attack_has_a_defence_and_a_test_that_exists() -> None:
    rows = table_rows(PAGE, HEAD)
    assert len(rows) > 40
    assert sum(len(named_tests(row)) for row in rows) > 60
    check_rows(rows, HEAD)


def test_the_modules_that_are_named_exist() -> None:
    for row in table_rows(PAGE, HEAD):
        for name in re.findall(r"`([^`]+)`", row[3]):
            path = Path("src", *name.split(".")) if name.startswith("neuromirror") else Path(name)
            assert any((ROOT / one).exists() for one in (path, path.with_suffix(".py"))), name


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_every_adversary_is_described(adversary: str) -> None:
    head = ["adversary", "what they control", "what they do not"]
    assert [row for row in table_rows(PAGE, head) if row[0] == adversary]


def test_what_cannot_be_prevented_is_named() -> None:
    assert "\n## Residual risks\n" in PAGE.read_text("utf-8")
