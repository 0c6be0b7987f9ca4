"""Limits on the size of dataset metadata."""

from __future__ import annotations

from neuromirror.model import DatasetFacts, DatasetHint, DatasetRef

LONG = "x" * 1_000_000


def test_facts_of_any_size_are_kept_small() -> None:
    facts = DatasetFacts(
        title=LONG,
        license=(LONG,) * 1_000,
        doi=LONG,
        landing_page=LONG,
        attributes=((LONG, LONG),) * 6_000,
        inputs=(LONG,) * 6_000,
        links=((LONG, LONG), ("viewer", "https://example.org/")),
    )
    assert len(facts.title) == 10_000
    assert {len(one) for one in facts.license} == {4_000}
    assert (len(facts.license), len(facts.attributes), len(facts.inputs)) == (100, 5_000, 5_000)
    assert (facts.doi, facts.landing_page) == (None, None)
    assert facts.links == (("viewer", "https://example.org/"),)


def test_usual_facts_stay_as_they_are() -> None:
    expected = ("A title", ("CC0-1.0",), "10.1/x", "https://example.org/", (("a", "b"),), ("c",))
    facts = DatasetFacts(*expected)
    assert (facts.title, facts.license, facts.doi, facts.landing_page) == expected[:4]
    assert (facts.attributes, facts.inputs) == expected[4:]


def test_the_title_in_an_overview_is_kept_small() -> None:
    dataset = DatasetRef("box", "a", "https://example.org/a")
    assert len(DatasetHint(dataset, None, LONG).title) == 10_000
