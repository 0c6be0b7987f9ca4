"""Texts and attributes of the archive's documents are found, with the same rows after a rebuild."""

import json
from pathlib import Path
from typing import Any

import pytest

from neuromirror.index import (
    Index,
    MalformedQueryError,
    UnknownAttributeError,
    UnknownMirrorError,
    rebuild_from_journal,
)
from neuromirror.index.dataset_text import canonical_technique, without_general_techniques
from neuromirror.model import (
    DatasetReinstated,
    DatasetWithdrawn,
    LinksFound,
    MirrorProbed,
    MirrorSeen,
)
from neuromirror.model.records import VOLUME_SCHEMES
from neuromirror.sources.volumes.schemes import SCHEMES
from support.disk_journal import URI, DiskJournal, placed_file, published_fields, subdataset
from support.index_dump import dump_index


def describe(journal: DiskJournal, commit: str, **document: Any) -> None:
    journal.documents[commit] = {"dandiset.yaml": json.dumps(document).encode()}


def found(index: Index, text: str) -> list[str]:
    return [row.dataset.local_id for row in index.search.datasets(text).rows]


def facet(index: Index, name: str) -> dict[str, int]:
    return {one.value: one.count for one in index.search.datasets().facets[name]}


def test_keywords_and_descriptions_of_the_current_version_are_found(
    journal: DiskJournal, index: Index
) -> None:
    published = journal.mint([placed_file("a.nwb", 1)], **published_fields("1"))
    describe(journal, published.commit, keywords=["hippocampus"], description="Sharp-wave ripples")
    draft = journal.mint([placed_file("a.nwb", 2)])
    describe(journal, draft.commit, keywords=["cerebellum"])
    index.catch_up(journal)
    assert found(index, "hippocampal") == found(index, '"sharp wave"') == ["000001"]
    assert found(index, "cerebellum") == []
    second = journal.mint([placed_file("a.nwb", 2)], **published_fields("2"))
    describe(journal, second.commit, keywords=["cerebellum"])
    index.catch_up(journal)
    assert found(index, "hippocampus") == []
    assert found(index, "cerebellum") == ["000001"]


def test_a_rebuilt_index_has_the_same_rows(journal: DiskJournal, path: Path) -> None:
    first = journal.mint([placed_file("a.nwb", 1)])
    describe(journal, first.commit, keywords=["hippocampus"], description="One")
    journal.mint([subdataset("x.ome.zarr", "zarr/1")], "000002")
    second = journal.mint([placed_file("b.tif", 1)])
    describe(journal, second.commit, keywords=["cortex"], description="Two")
    with Index.open(path) as index:
        index.catch_up(journal)
        live = dump_index(index)
    rebuild_from_journal(path, journal)
    with Index.open_readonly(path) as index:
        assert dump_index(index) == live
        assert not any(line.startswith("stale_text") for line in live)
        assert found(index, "cortex") == ["000001"]
        assert facet(index, "data_type") == {"NWB": 1, "OME-Zarr": 1, "TIFF": 1}


def test_a_stopped_refresh_is_repeated(
    journal: DiskJournal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minted = journal.mint([placed_file("a.nwb", 1)])
    describe(journal, minted.commit, keywords=["hippocampus"])
    with Index.open(path) as index:
        with monkeypatch.context() as patch:
            patch.setattr(journal, "describing_documents", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                index.catch_up(journal)
        assert found(index, "hippocampus") == []
        assert index.catch_up(journal) == 0
        assert found(index, "hippocampus") == ["000001"]


def test_a_withdrawn_dataset_has_no_text_until_it_is_reinstated(
    journal: DiskJournal, path: Path
) -> None:
    uri = URI.format("000001")
    minted = journal.mint([placed_file("a.nwb", 1)])
    describe(journal, minted.commit, keywords=["secretword"])
    with Index.open(path) as index:
        index.catch_up(journal)
        journal.append(DatasetWithdrawn("dandi", "000001", uri, "asked", "ada", "2025"))
        index.catch_up(journal)
        assert found(index, "secretword") == []
        assert not [line for line in dump_index(index) if "secretword" in line]
        journal.append(DatasetReinstated("dandi", "000001", uri, "ada", "2026"))
        index.catch_up(journal)
        assert found(index, "secretword") == ["000001"]


def test_facets_have_one_value_for_many_names(journal: DiskJournal, index: Index) -> None:
    names = ("Mus musculus - House mouse", "mouse", "Mus musculus")
    for number, species in enumerate(names, 1):
        minted = journal.mint(
            [placed_file(f"{number}.nwb", number)],
            f"{number:06d}",
            license=[("spdx:CC-BY-4.0", "CC-BY-4.0", "CC BY 4.0")[number - 1]],
            bytes=10 ** (6 + 3 * number),
        )
        summary = {"species": [{"name": species}], "approach": [{"name": "ecephys"}]}
        describe(journal, minted.commit, assetsSummary=summary)
    journal.mint([placed_file("x", 1)], "000004", **published_fields("1", time=None))
    journal.append(
        LinksFound("dandi", "000004", URI.format("000004"), [["precomputed", "x"]], "2025")
    )
    index.catch_up(journal)
    assert facet(index, "species") == {"Mus musculus": 3}
    assert facet(index, "technique") == {
        **{"electrophysiology": 3, "extracellular electrophysiology": 3}
    }
    assert facet(index, "license") == {"CC-BY-4.0": 4}
    assert facet(index, "status") == {"draft": 3, "published": 1}
    assert facet(index, "volume") == {"yes": 1}
    assert facet(index, "year") == {"2024": 3}
    assert facet(index, "size") == {"up to 1 GB": 2, "100 GB to 1 TB": 1, "over 1 TB": 1}
    assert VOLUME_SCHEMES == SCHEMES


def test_techniques_without_synonyms_are_counted_under_one_spelling() -> None:
    names = ("Behavior videos", "behavior-videos", "behavior videos")
    assert {canonical_technique(name) for name in names} == {"behavior videos"}
    assert canonical_technique("Behavior platform") == canonical_technique("behavior")
    assert canonical_technique("Electrophysiology platform") == "electrophysiology"
    assert canonical_technique("FISH") == "FISH"
    assert canonical_technique("electrophysiological approach") == "electrophysiology"
    assert canonical_technique("behavioral technique") == "behavior"
    general = ["behavior", "electrophysiology", "extracellular electrophysiology"]
    assert without_general_techniques(general) == ["behavior", "extracellular electrophysiology"]
    assert without_general_techniques(general[:2]) == general[:2]


def test_recordings_of_both_archives_are_counted_under_one_technique(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1)], "000001", attributes={"modality": ["ecephys"]})
    for local_id, approach, technique in (
        ("000002", "electrophysiological approach", "spike sorting technique"),
        (
            *("000003", "electrophysiological approach"),
            "multi electrode extracellular electrophysiology recording technique",
        ),
    ):
        minted = journal.mint([placed_file(local_id, 1)], local_id)
        summary = {"approach": [{"name": approach}], "measurementTechnique": [{"name": technique}]}
        describe(journal, minted.commit, assetsSummary=summary)
    index.catch_up(journal)
    assert facet(index, "technique") == {
        "electrophysiology": 3,
        "extracellular electrophysiology": 2,
        "spike sorting": 1,
    }


def test_properties_are_found_and_counted_as_pages_show_them(
    journal: DiskJournal, index: Index
) -> None:
    attributes = {"subject": ["625749"], "data-level": ["raw"], "project": ["Brain Wide Circuits"]}
    attributes |= {"modality": ["behavior-videos"], "created": ["2023-01-02T03:04:05"]}
    attributes |= {"acquired": ["2022-12-31T23:00:00"]}
    minted = journal.mint([placed_file("a", 1)], "000001", attributes=attributes)
    describe(journal, minted.commit, about=[{"schemaKey": "Anatomy", "name": "hippocampus"}])
    journal.mint([placed_file("b", 1)], "000002")
    journal.append(
        LinksFound("dandi", "000002", URI.format("000002"), [["precomputed", "x"]], "2025")
    )
    index.catch_up(journal)
    assert found(index, "subject 625749") == found(index, "subject: 625749") == ["000001"]
    assert found(index, "volumes") == ["000002"]
    assert found(index, "dandiset 000001") == ["000001"]
    assert facet(index, "subject") == {"625749": 1}
    assert facet(index, "level") == {"raw": 1}
    assert facet(index, "project") == {"Brain Wide Circuits": 1}
    assert facet(index, "modality") == {"behavior-videos": 1}
    assert facet(index, "year") == {"2024": 1, "2022": 1}  # of acquisition, else of the version
    assert facet(index, "brain_region") == {"hippocampus": 1}
    [row] = index.search.datasets("625749").rows
    [text] = [one for one in row.matched if one.field == "subject"]
    assert (text.value, text.spans) == ("625749", ((0, 6),))
    assert row.values["subject"] == ["625749"]


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
    assert "".join(row.local_id for row in four_assets.datasets.select(where=where)) == found


def test_conditions_and_terms_apply_to_the_named_mirror_only(four_assets: Index) -> None:
    assert [
        row.name for row in four_assets.datasets.select("other", where=[("subject", "6*")])
    ] == ["other:d"]
    assert [row.name for row in four_assets.datasets.select(text="625749 ecephys")] == ["aind:a"]
    assert list(four_assets.datasets.select("other", text="ecephys")) == []
    with pytest.raises(UnknownMirrorError):
        four_assets.datasets.select("ember", where=[("subject", "6*")])
    with pytest.raises(MalformedQueryError):
        four_assets.datasets.select(text=" * ")


def test_an_attribute_that_no_dataset_has_is_answered_with_those_there_are(
    four_assets: Index, journal: DiskJournal
) -> None:
    with pytest.raises(
        UnknownAttributeError, match=r"'species'.*investigator, modality, project, subject"
    ):
        four_assets.datasets.select(where=[("subject", "625749"), ("species", "mouse")])


def test_an_index_without_attributes_says_so(index: Index) -> None:
    with pytest.raises(UnknownAttributeError):
        index.datasets.select(where=[("subject", "1")])


def test_attributes_to_search_by_are_those_of_the_newest_version(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1)], attributes={"subject": ["1", "2"], "species": ["mouse"]})
    journal.mint([placed_file("a", 1)], attributes={"subject": ["2", "3"]}, metadata="sha256:9")
    index.catch_up(journal)
    attributes = [
        index.versions.attributes(version) for version in index.versions.of("dandi:000001")
    ]
    assert attributes == [{"species": ["mouse"], "subject": ["1", "2"]}, {"subject": ["2", "3"]}]
    assert [v.metadata for v in index.versions.of("dandi:000001")] == ["", "sha256:9"]
    for value, found in (("1", 0), ("2", 1), ("3", 1)):
        assert len(list(index.datasets.select(where=[("subject", value)]))) == found
        assert len(list(index.search.all_datasets(f"dandi {value}"))) == found
    with pytest.raises(UnknownAttributeError):
        index.datasets.select(where=[("species", "mouse")])


def test_search_finds_terms_in_attributes_and_local_ids(journal: DiskJournal, index: Index) -> None:
    journal.mint(
        [placed_file("a", 1)],
        "ecephys_625749_2022-08-03_15-15-06",
        attributes={"investigator": ["Ada Lovelace"], "funder": ["Aïnd"]},
    )
    index.catch_up(journal)
    for text in ("lovelace", "AIND", "625749", "2022-08-03", "ada ecephys 15-15", "love ecephys_6"):
        assert [row.mirror for row in index.search.all_datasets(text)] == ["dandi"], text
    assert list(index.search.all_datasets("lovelace 625750")) == []


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
    version = index.versions.resolve("dandi:000001")
    assert version.title == r"half \ud800 a pair"
    assert index.versions.attributes(version) == {version.title: [version.title, "subject"]}
    assert [row.local_id for row in index.datasets.select(where=[(version.title, "SUBJECT")])]
    assert [edge.name for edge in index.ancestry.of("dandi:000001")[0]] == [version.title]


def test_what_upstream_allows_is_what_it_was_last_found_to(
    journal: DiskJournal, index: Index
) -> None:
    assert index.crawl.capabilities("aind") == {}
    journal.append(MirrorProbed("aind", {"versions": "listable", "checksums": "no"}, "2024"))
    journal.append(MirrorSeen("aind", "s3", "s3://aind/", "2024"))
    index.catch_up(journal)
    assert index.crawl.capabilities("aind") == {"checksums": "no", "versions": "listable"}
    journal.append(MirrorProbed("aind", {"versions": "no"}, "2025"))
    journal.append(MirrorSeen("aind", "s3", "s3://aind/", "2025"))
    index.catch_up(journal)
    [status] = index.crawl.mirrors()
    assert status.capabilities == index.crawl.capabilities("aind") == {"versions": "no"}
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
    [status] = index.crawl.mirrors()
    assert (status.settling, status.failing) == (2, 1)
    assert index.datasets.get("dandi:a").last_full_visit is None
