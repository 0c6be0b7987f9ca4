"""faults.md names an existing test for each fault, or the reason for having no test."""

from __future__ import annotations

import pytest

from support.documented_tests import ROOT, check_rows, named_tests, table_rows

PAGE = ROOT / "docs" / "explanation" / "faults.md"
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


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_a_row(fault: str) -> None:
    assert [row for row in table_rows(PAGE, HEAD) if fault.lower() in row[0].lower()]


def test_every_row_has_its_cells_and_tests_that_exist() -> None:
    rows = table_rows(PAGE, HEAD)
    assert sum(len(named_tests(row)) for row in rows) > 100
    faults = [row[0] for row in rows]
    assert [fault for fault in faults if faults.count(fault) > 1] == []
    check_rows(rows, HEAD)
