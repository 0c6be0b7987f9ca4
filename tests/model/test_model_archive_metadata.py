"""What the documents of each archive say, the names of people in them, and the limits of it all."""

import json

import pytest

from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    describing_documents,
    read_archive_metadata,
)
from neuromirror.model.archive_metadata import split_person_names, without_degrees

DANDISET = {
    "name": "Ripples",
    "description": "<p>Recordings from&nbsp;dorsal CA1.</p>",
    "keywords": ["hippocampus", "place cells"],
    "contributor": [
        {
            "schemaKey": "Person",
            "name": "Doe, Jane",
            "email": "jane@example.org",
            "roleName": ["dcite:Author"],
            "affiliation": [{"schemaKey": "Affiliation", "name": "University of Somewhere"}],
        },
        {"schemaKey": "Organization", "name": "Ripple Lab", "roleName": ["dcite:Sponsor2"]},
        {
            "schemaKey": "Organization",
            "name": "National Institutes of Health",
            "roleName": ["dcite:Funder"],
            "awardNumber": "R01MH123456",
        },
    ],
    "about": [
        {"schemaKey": "Anatomy", "name": "CA1 field of hippocampus"},
        {"schemaKey": "Disorder", "name": "epilepsy"},
    ],
    "assetsSummary": {
        "species": [{"name": "Mus musculus - House mouse"}],
        "approach": [{"name": "electrophysiological approach"}],
        "measurementTechnique": [{"name": "spike sorting technique"}],
        "variableMeasured": ["ElectricalSeries", "LFP"],
    },
}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def test_a_dandiset_names_people_institutions_funders_and_what_was_measured() -> None:
    archive_metadata = read_archive_metadata({"dandiset.yaml": _json(DANDISET)})
    assert archive_metadata.description == "Recordings from dorsal CA1."
    assert archive_metadata.values == {
        "keywords": ("epilepsy", "hippocampus", "place cells"),
        "species": ("Mus musculus - House mouse",),
        "anatomy": ("CA1 field of hippocampus",),
        "techniques": ("electrophysiological approach", "spike sorting technique"),
        "variables": ("ElectricalSeries", "LFP"),
        "people": ("Doe, Jane",),
        "institutions": ("University of Somewhere", "Ripple Lab"),
        "funders": ("National Institutes of Health", "R01MH123456"),
        "other": (),
    }


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (".boss/channel.json", {"name": "cells", "type": "annotation"}),
        (".ndstore/channel.json", {"channel_type": "annotation"}),
        ("info", {"type": "segmentation", "scales": []}),
    ],
)
def test_a_volume_of_object_ids_is_a_segmentation_whatever_its_archive_calls_it(
    path: str, document: dict[str, object]
) -> None:
    archive_metadata = read_archive_metadata({path: _json(document)})
    assert archive_metadata.values["other"] == ("segmentation (annotation)",)
    image = {**document, "type": "image", "channel_type": "image"}
    assert read_archive_metadata({path: _json(image)}).values["other"] == ()


def test_a_draft_has_its_species_and_techniques_from_its_assets() -> None:
    draft = {name: value for name, value in DANDISET.items() if name != "assetsSummary"}
    asset = {
        "path": "sub-1/a.nwb",
        "wasAttributedTo": [{"species": {"name": "Rattus norvegicus"}, "strain": {"name": "LE"}}],
        "measurementTechnique": [{"name": "two-photon microscopy technique"}],
        "variableMeasured": [{"schemaKey": "PropertyValue", "value": "TwoPhotonSeries"}],
    }
    found = read_archive_metadata(
        {"dandiset.yaml": _json(draft), ".dandi/assets.jsonl": _json(asset) + b"\n{broken\n"}
    ).values
    assert found["species"] == ("Rattus norvegicus",)
    assert found["techniques"] == ("two-photon microscopy technique",)
    assert found["variables"] == ("TwoPhotonSeries",)
    assert found["other"] == ("LE",)


def test_sidecars_of_aind_name_modality_structure_investigators_and_grants() -> None:
    archive_metadata = read_archive_metadata(
        {
            "data_description.json": _json(
                {
                    "institution": {"name": "Allen Institute", "abbreviation": "AI"},
                    "funding_source": [
                        {"funder": {"name": "Simons Foundation"}, "grant_number": "X1"}
                    ],
                    "investigators": [{"name": "Jane Doe"}],
                    "modality": [{"name": "Planar optical physiology", "abbreviation": "pophys"}],
                    "project_name": "Learning",
                    "data_summary": "Imaging during learning.",
                    "tags": ["reward"],
                }
            ),
            "subject.json": _json({"subject_details": {"species": {"name": "Mus musculus"}}}),
            "procedures.json": _json(
                {"surgeries": [{"procedures": [{"targeted_structure": {"acronym": "VISp"}}]}]}
            ),
        }
    )
    assert archive_metadata.description == "Imaging during learning."
    values = archive_metadata.values
    assert values["institutions"] == ("Allen Institute", "AI")
    assert values["funders"] == ("Simons Foundation", "X1")
    assert values["people"] == ("Jane Doe",)
    assert values["techniques"] == ("Planar optical physiology", "pophys")
    assert set(values["keywords"]) == {"Learning", "reward"}
    assert (values["species"], values["anatomy"]) == (("Mus musculus",), ("VISp",))


def test_pairs_of_boss_belong_to_fields_by_their_keys() -> None:
    pairs = {
        "channel": {"Organism": "Mus musculus", "authors": "Jane Doe, Richard Roe", "stain": "Os"},
        "collection": {"keywords": "connectomics; cortex", "brain region": "V1", "grant": "U24"},
    }
    archive_metadata = read_archive_metadata(
        {
            ".boss/metadata.json": _json(pairs),
            ".boss/channel.json": _json({"description": "EM of a column"}),
        }
    )
    assert archive_metadata.description == "EM of a column"
    assert archive_metadata.values["species"] == ("Mus musculus",)
    assert archive_metadata.values["people"] == ("Jane Doe", "Richard Roe")
    assert archive_metadata.values["keywords"] == ("connectomics", "cortex")
    assert archive_metadata.values["anatomy"] == ("V1",)
    assert archive_metadata.values["funders"] == ("U24",)
    assert archive_metadata.values["other"] == ("stain: Os",)


def test_only_the_first_shard_and_documents_about_the_dataset_are_read() -> None:
    assert describing_documents(
        [
            *(".dandi/assets-1.jsonl", ".dandi/assets-0.jsonl", "dandiset.yaml", "README.md"),
            *("sub-1/README.md", "rig.json", ".boss/channel.json", "original_metadata/a.json"),
        ]
    ) == [".boss/channel.json", "README.md", "dandiset.yaml", ".dandi/assets-0.jsonl"]
    assert read_archive_metadata({"README.md": b"# Title\n\nText \xff\n"}).readme == (
        "# Title Text \N{REPLACEMENT CHARACTER}"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[1]",
        b"[" * 100_000,
        b'{"keywords": 1, "contributor": [1, {"name": {}}, {"affiliation": "x"}], "about": {}}',
        b'{"species": [[["x"]]], "description": ["x"], "assetsSummary": null}',
        b'{"channel": {"a": [1]}, "collection": 3}',
        b" " * (9 << 20),
    ],
)
@pytest.mark.parametrize(
    "path",
    ["dandiset.yaml", "subject.json", ".boss/metadata.json", ".boss/channel.json", "provenance"],
)
def test_malformed_documents_are_ignored(path: str, content: bytes) -> None:
    archive_metadata = read_archive_metadata({path: content})
    assert (archive_metadata.description, archive_metadata.readme) == ("", "")
    assert not any(archive_metadata.values.values())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("José Núñez, PhD", ["José Núñez, PhD"]),
        ("Doe, Jane", ["Doe, Jane"]),
        ("Doe, J. A.", ["Doe, J. A."]),
        ("van der Berg, Anna", ["van der Berg, Anna"]),
        ("García Márquez, Ana", ["García Márquez, Ana"]),
        ("Jane Doe, John Smith", ["Jane Doe", "John Smith"]),
        ("Jane A. Doe, J. Smith", ["Jane A. Doe", "J. Smith"]),
        ("Anna van der Berg, Jane Doe", ["Anna van der Berg", "Jane Doe"]),
        ("Jane Doe, John Smith, Ada Lovelace", ["Jane Doe", "John Smith", "Ada Lovelace"]),
        ("Doe, Jane, Smith, John", ["Doe, Jane", "Smith, John"]),
        ("Doe, Jane; Smith, John", ["Doe, Jane", "Smith, John"]),
        ("Jane Doe and John Smith", ["Jane Doe", "John Smith"]),
        ("Jane Doe, Ph.D., John Smith, Jr.", ["Jane Doe, Ph.D.", "John Smith, Jr."]),
        ("Jane Doe, PhD, MD", ["Jane Doe, PhD, MD"]),
        ("Yo-Yo Ma, Jane Doe", ["Yo-Yo Ma", "Jane Doe"]),
        ("Madonna", ["Madonna"]),
        (" , ;", []),
        ("", []),
    ],
)
def test_a_comma_splits_people_and_not_a_name(text: str, names: list[str]) -> None:
    assert split_person_names(text) == names


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("José Núñez, PhD", "José Núñez"),
        ("Doe, Jane, Ph.D., M.D.", "Doe, Jane"),
        ("John Smith, Jr.", "John Smith, Jr."),
        ("MD", "MD"),
    ],
)
def test_degrees_are_no_part_of_a_name(name: str, plain: str) -> None:
    assert without_degrees(name) == plain


def test_white_space_of_any_length_is_read_once() -> None:
    assert split_person_names("A" + " " * 1_000_000 + "B") == ["A" + " " * 1_000_000 + "B"]


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
