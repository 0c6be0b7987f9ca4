"""Texts of the archive's documents are found, with the same rows after a rebuild."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuromirror.index import Index, rebuild_from_journal
from neuromirror.index.dataset_text import canonical_technique, without_general_techniques
from neuromirror.model import DatasetReinstated, DatasetWithdrawn, LinksFound
from neuromirror.model.records import VOLUME_SCHEMES
from neuromirror.sources.volumes.schemes import SCHEMES
from support.disk_journal import (
    URI,
    DiskJournal,
    placed_file,
    published_fields,
    subdataset,
)
from support.index_dump import dump_index


def describe(journal: DiskJournal, commit: str, **document: Any) -> None:
    journal.documents[commit] = {"dandiset.yaml": json.dumps(document).encode()}


def found(index: Index, text: str) -> list[str]:
    return [one.dataset.local_id for one in index.find_datasets(text).rows]


def facet(index: Index, name: str) -> dict[str, int]:
    return {one.value: one.count for one in index.find_datasets().facets[name]}


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
        **{"electrophysiology": 3, "extracellular electrophysiology": 3},
    }
    assert facet(index, "license") == {"CC-BY-4.0": 4}
    assert facet(index, "status") == {"draft": 3, "published": 1}
    assert facet(index, "volume") == {"yes": 1}
    assert facet(index, "year") == {"2024": 3}
    assert facet(index, "size") == {"up to 1 GB": 2, "100 GB to 1 TB": 1, "over 1 TB": 1}
    assert VOLUME_SCHEMES == SCHEMES


def test_techniques_without_synonyms_are_counted_under_one_spelling() -> None:
    names = ("Behavior videos", "behavior-videos", "behavior videos")
    assert {canonical_technique(one) for one in names} == {"behavior videos"}
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
    attributes = {"subject": ["625749"], "data-level": ["raw"]}
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
    assert facet(index, "brain_region") == {"hippocampus": 1}
    [row] = index.find_datasets("625749").rows
    [text] = [one for one in row.matched if one.field == "subject"]
    assert (text.value, text.spans) == ("625749", ((0, 6),))
    assert row.values["subject"] == ["625749"]
