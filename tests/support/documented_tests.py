"""Check that the tests named in tables of a page exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def table_rows(page: Path, head: list[str]) -> list[list[str]]:
    """Return the cells of all rows below this head, in all tables of the page with this head."""
    found: list[list[str]] = []
    tables = re.findall(r"(?:^\|.*\n)+", page.read_text("utf-8"), re.M)
    for table in tables:
        cells = [[one.strip() for one in line.strip("|").split("|")] for line in table.splitlines()]
        # a blank line within a table leaves rows without a head
        assert set("".join(cells[1])) <= {"-"}, cells[0]
        if cells[0] == head:
            found += cells[2:]
    return found


def named_tests(row: list[str]) -> list[tuple[str, str]]:
    """Return the file and name of each test in the last cell of a row."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])


@cache
def _names_in(file: str) -> frozenset[str]:
    path = ROOT / file
    found = re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.M) if path.exists() else []
    return frozenset(found)


def check_rows(rows: list[list[str]], head: list[str]) -> None:
    """Check that each row has all cells, and existing tests or a reason for having none."""
    assert [row for row in rows if len(row) != len(head) or not all(row)] == []
    without = [row[0] for row in rows if not named_tests(row) and len(row[-1].split()) < 8]
    assert without == []
    named = [one for row in rows for one in named_tests(row)]
    assert [f"{file}::{name}" for file, name in named if name not in _names_in(file)] == []
    # # any text with the form of a test id is read as one
    assert [row for row in rows if row[-1].count("::") != len(named_tests(row))] == []
