"""docs/faults.md names for each fault a test that is there, or says why there is none."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
HEAD = ["fault", "what must hold", "what the operator sees", "test"]

FAULTS = [
    *("SIGKILL at every step", "SIGTERM to a sync", "SIGTERM to the service"),
    *("full for a pack", "full for the index", "full for temporary", "EIO", "Read-only store"),
    *("between git's refs and the index", "Index deleted", "Index corrupt", "Two services"),
    *("same dataset on two hosts", "Stale locks", "Clock off by a day", "Summer time"),
    *("Empty list with 200", "cut in mid-page", "token that repeats", "changing while it is"),
    *("Mass removal", "HTML login page", "403 on everything", "404 once", "404 N times"),
    *("Retry-After in seconds or as a date", "huge Retry-After", "5xx", "Timeouts", "slow drip"),
    *("Truncated or wrong-length", "same id with new bytes", "with `modified` unchanged"),
    *("`modified` going back", "digest that appears later", "digest wrong upstream"),
    *("URL A corrupt", "Hostile names", ".gitmodules", "`file:`", "127.0.0.1", "169.254.169.254"),
    *("A redirect to", "DNS rebinding", "A token in a URL", "JSON bomb", "Deep nesting"),
    *("gzip bomb", "10 million entries", "script", "flipped bit", "Takedown", "30 days down"),
    "An old state replayed",
]


def rows() -> list[list[str]]:
    """The cells of all rows of all tables."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    return [row for row in cells if row != HEAD and set("".join(row)) != {"-"}]


@cache
def names_in(file: str) -> frozenset[str]:
    path = ROOT / file
    found = re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.M) if path.exists() else []
    return frozenset(found)


def named_in(row: list[str]) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])


def test_every_row_has_its_four_cells() -> None:
    assert rows()
    assert [row for row in rows() if len(row) != len(HEAD) or not all(row)] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_a_row(fault: str) -> None:
    assert [row for row in rows() if fault.lower() in row[0].lower()]


def test_every_row_has_a_test_or_a_reason_in_words() -> None:
    without = [row for row in rows() if not named_in(row)]
    assert [row[0] for row in without if len(row[3].split()) < 8] == []


def test_every_test_that_is_named_exists() -> None:
    named = [one for row in rows() for one in named_in(row)]
    assert len(named) > 100
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []


def test_nothing_in_the_last_cell_is_misspelled() -> None:
    """What looks like a test must be read as one."""
    for row in rows():
        assert row[3].count("::") == len(named_in(row)), row[3]
