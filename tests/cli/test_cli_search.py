"""``neuromirror search`` finds datasets by what the archives say about them."""

from __future__ import annotations

import pytest

from support.command_shell import Shell


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("place cells", "demo:000001"),
        ("CA1 mouse track", "demo:000001"),
        ('"sharp-wave ripples"', "demo:000002"),
        ("sleeping", "demo:000002"),
        ("spike sorting benchmark", "demo:000003"),
        ("locomotion", "demo:000004"),
        ("light sheet microscopy", "demo:000005"),
        ("hemisphere zarr", "demo:000005"),
        ("Doe locomotion", "demo:000004"),
    ],
)
def test_a_search_of_the_demo_has_the_expected_first_hit(
    synced: Shell, text: str, first: str
) -> None:
    found = synced.records("search", text)
    assert found[0]["dataset"]["name"] == first
    assert {"action", "status", "matched"} <= found[0].keys()


def test_matches_in_the_metadata_are_reported_with_their_positions(synced: Shell) -> None:
    [found] = synced.records("search", "Roe", "hippocampus", "linear")
    matched = {one["field"]: one for one in found["matched"]}
    for name, text in (("keywords", "hippocampus"), ("people", "Roe"), ("title", "linear")):
        value, spans = matched[name]["value"], matched[name]["spans"]
        assert text in [value[start:end] for start, end in spans]


def test_results_are_printed_in_lines(synced: Shell) -> None:
    done = synced.run("search", "hippocampus")
    name, counts, *_ = done.lines
    assert name.startswith("demo:00000")
    assert counts.startswith("    ")
    assert "\\n" not in "".join(done.lines)


def test_facets_select_and_are_counted(synced: Shell) -> None:
    rows = synced.records("search", "--facets")
    counts = {(row["facet"], row["value"]): row["count"] for row in rows}
    mice = synced.records("search", "--species", "mouse")
    assert len(mice) == counts["species", "Mus musculus"] > 0
    published = synced.records("search", "--status", "published", "--sort", "title")
    assert len(published) == counts["status", "published"] > 0
    titles = [row["dataset"]["title"] for row in published]
    assert titles == sorted(titles)
    both = synced.records("search", "--status", "published", "--status", "draft", "--limit", "3")
    assert len(both) == 3


def test_nothing_found_is_an_exit_code_with_counts(synced: Shell) -> None:
    [report] = synced.records("search", "qqqq", "locomotoin", code=1)
    assert report["status"] == "impossible"
    assert report["counts"] == {"qqqq": 0, "locomotoin": 0}
    synced.run("search", "--volume", code=1)
    synced.run("search", '"***', code=2)
    synced.run("search", "--archive", "nowhere", code=2)


def test_a_list_and_a_watch_use_the_same_search(synced: Shell) -> None:
    listed = synced.records("list", "--search", "hippocampal")
    assert {row["dataset"] for row in listed} == {
        row["dataset"]["name"] for row in synced.records("search", "hippocampal")
    }
