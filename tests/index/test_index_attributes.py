"""Datasets are found by what upstream says of them."""

from __future__ import annotations

import pytest

from neuromirror.index import Index, MalformedQueryError, UnknownAttributeError, UnknownMirrorError
from neuromirror.model import MirrorProbed, MirrorSeen
from support.disk_journal import DiskJournal, placed_file


@pytest.fixture
def four_assets(journal: DiskJournal, index: Index) -> Index:
    """Three assets of one mirror, and one of another."""
    assets: list[tuple[str, str, dict[str, list[str]]]] = [
        ("aind", "a", {"subject": ["625749"], "modality": ["ecephys", "behavior"]}),
        ("aind", "b", {"subject": ["625750"], "modality": ["ecephys"]}),
        ("aind", "c", {"subject": ["625749"], "modality": ["pophys"], "project": ["Größe_1*"]}),
        ("other", "d", {"subject": ["625749"], "investigator": ["Ada Lovelace"]}),
    ]
    for mirror, local_id, attributes in assets:
        journal.mint([placed_file("x", local_id)], local_id, mirror=mirror, attributes=attributes)
    index.catch_up(journal)
    return index


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ([("subject", "625749")], "acd"),
        ([("SUBJECT", "625749"), ("modality", "Ecephys")], "a"),
        ([("modality", "ecephys"), ("modality", "behavior")], "a"),
        ([("modality", "eceph")], ""),
        ([("modality", "eceph*")], "ab"),
        ([("modality", "*")], "abc"),
        ([("project", "GRÖSSE_1*")], "c"),
        ([("project", "größe?1")], ""),
        ([("project", "gr%")], ""),
        ([("investigator", "ada lovelace")], "d"),
        ([("subject", "625749"), ("subject", "625750")], ""),
    ],
)
def test_all_conditions_must_hold_whatever_the_case(
    four_assets: Index, where: list[tuple[str, str]], found: str
) -> None:
    assert "".join(row.local_id for row in four_assets.datasets(where=where)) == found


def test_conditions_and_terms_apply_to_the_named_mirror_only(four_assets: Index) -> None:
    assert [row.name for row in four_assets.datasets("other", where=[("subject", "6*")])] == [
        "other:d"
    ]
    assert [row.name for row in four_assets.datasets(text="625749 ecephys")] == ["aind:a"]
    assert list(four_assets.datasets("other", text="ecephys")) == []
    with pytest.raises(UnknownMirrorError):
        four_assets.datasets("ember", where=[("subject", "6*")])
    with pytest.raises(MalformedQueryError):
        four_assets.datasets(text=" * ")


def test_an_attribute_that_no_dataset_has_is_answered_with_those_there_are(
    four_assets: Index, journal: DiskJournal
) -> None:
    with pytest.raises(
        UnknownAttributeError, match=r"'species'.*investigator, modality, project, subject"
    ):
        four_assets.datasets(where=[("subject", "625749"), ("species", "mouse")])


def test_an_index_without_attributes_says_so(index: Index) -> None:
    with pytest.raises(UnknownAttributeError):
        index.datasets(where=[("subject", "1")])


def test_attributes_to_search_by_are_those_of_the_newest_version(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1)], attributes={"subject": ["1", "2"], "species": ["mouse"]})
    journal.mint([placed_file("a", 1)], attributes={"subject": ["2", "3"]}, metadata="sha256:9")
    index.catch_up(journal)
    attributes = [index.attributes(version) for version in index.versions("dandi:000001")]
    assert attributes == [{"species": ["mouse"], "subject": ["1", "2"]}, {"subject": ["2", "3"]}]
    assert [v.metadata for v in index.versions("dandi:000001")] == ["", "sha256:9"]
    for value, found in (("1", 0), ("2", 1), ("3", 1)):
        assert len(list(index.datasets(where=[("subject", value)]))) == found
        assert len(list(index.search(f"dandi {value}"))) == found
    with pytest.raises(UnknownAttributeError):
        index.datasets(where=[("species", "mouse")])


def test_search_finds_terms_in_attributes_and_local_ids(journal: DiskJournal, index: Index) -> None:
    journal.mint(
        [placed_file("a", 1)],
        "ecephys_625749_2022-08-03_15-15-06",
        attributes={"investigator": ["Ada Lovelace"], "funder": ["Aïnd"]},
    )
    index.catch_up(journal)
    for text in (
        "lovelace",
        "AIND",
        "625749",
        "2022-08-03",
        "ada ecephys 15-15",
        "love ecephys_6",
    ):
        assert [row.mirror for row in index.search(text)] == ["dandi"], text
    assert list(index.search("lovelace 625750")) == []


def test_text_that_is_half_a_pair_of_surrogates_is_recorded_all_the_same(
    journal: DiskJournal, index: Index
) -> None:
    half = "half \ud800 a pair"
    journal.mint(
        [placed_file("a", 1)],
        title=half,
        license=[half],
        doi=half,
        attributes={half: [half, "subject"]},
        inputs=[half],
    )
    journal.visit(title=half)
    index.catch_up(journal)
    version = index.resolve("dandi:000001")
    assert version.title == r"half \ud800 a pair"
    assert index.attributes(version) == {version.title: [version.title, "subject"]}
    assert [row.local_id for row in index.datasets(where=[(version.title, "SUBJECT")])]
    assert [edge.name for edge in index.ancestry("dandi:000001")[0]] == [version.title]


def test_what_upstream_allows_is_what_it_was_last_found_to(
    journal: DiskJournal, index: Index
) -> None:
    assert index.capabilities("aind") == {}
    journal.append(MirrorProbed("aind", {"versions": "listable", "checksums": "no"}, "2024"))
    journal.append(MirrorSeen("aind", "s3", "s3://aind/", "2024"))
    index.catch_up(journal)
    assert index.capabilities("aind") == {"checksums": "no", "versions": "listable"}
    journal.append(MirrorProbed("aind", {"versions": "no"}, "2025"))
    journal.append(MirrorSeen("aind", "s3", "s3://aind/", "2025"))
    index.catch_up(journal)
    [status] = index.mirror_status()
    assert status.capabilities == index.capabilities("aind") == {"versions": "no"}
    assert (status.source, status.settling) == ("s3", 0)


def test_datasets_that_wait_to_settle_are_counted_separately_from_failures(
    journal: DiskJournal, index: Index
) -> None:
    journal.append(MirrorSeen("dandi", "s3", "s3://aind/", "2024"))
    for local_id in "abcd":
        journal.visit(local_id, "waiting")
    journal.visit("b", "full")
    journal.visit("c", "failed")
    index.catch_up(journal)
    [status] = index.mirror_status()
    assert (status.settling, status.failing) == (2, 1)
    assert index.dataset("dandi:a").last_full_visit is None
