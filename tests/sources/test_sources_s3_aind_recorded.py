"""Sidecars written by real releases of aind-data-schema."""

from pathlib import Path

import pytest

from neuromirror.model import INFERRED, UNREADABLE, DatasetFacts, Document
from neuromirror.sources.s3.aind import asset_facts

RECORDED = Path(__file__).parent / "data" / "aind"
RAW = "ecephys_600000_2022-06-28_10-31-30"
PEOPLE = ["Doe, Jane", "José Núñez"]


def recorded(release: str, asset: str) -> list[Document]:
    folder = RECORDED / release / asset
    return [
        Document(path.name.encode(), path.read_bytes()) for path in sorted(folder.glob("*.json"))
    ]


def attributes(found: DatasetFacts) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in found.attributes:
        values.setdefault(name, []).append(value)
    return values


@pytest.mark.parametrize(
    ("release", "asset", "expected"),
    [
        (
            "0.3.0",
            RAW,
            {
                "acquired": ["2022-06-28T10:31:30-07:00"],
                "acquisition-type": ["Test"],
                "created": ["2022-06-28T10:31:30"],
                "data-level": ["raw"],
                "funder": ["NINDS"],
                "institution": ["AIND"],
                "modality": ["ecephys"],
                "project": ["Brain Wide Circuits"],
                "schema-version": ["0.2.0"],
                "species": ["Mus musculus"],
                "subject": ["600000"],
            },
        ),
        (
            "0.13.11",
            RAW,
            {
                "created": ["2022-06-28T10:31:30"],
                "data-level": ["raw"],
                "funder": ["NIMH"],
                "institution": ["Allen Institute for Neural Dynamics"],
                "investigator": ["Anna van der Berg", "Doe, Jane", "José Núñez"],
                "modality": ["ecephys"],
                "schema-version": ["0.6.0"],
                "subject": ["600000"],
            },
        ),
        (
            "1.4.0",
            RAW,
            {
                "acquired": ["2022-06-28T10:31:30-07:00"],
                "acquisition-type": ["OPTO_TAGGING"],
                "created": ["2022-06-28T10:31:30-07:00"],
                "data-level": ["raw"],
                "funder": ["National Institute of Neurological Disorders and Stroke"],
                "institution": ["Allen Institute for Neural Dynamics"],
                "investigator": PEOPLE,
                "modality": ["behavior-videos", "ecephys"],
                "platform": ["ecephys"],
                "project": ["Brain Wide Circuits"],
                "schema-version": ["1.0.4"],
                "species": ["Mus musculus"],
                "subject": ["600000"],
            },
        ),
        (
            "2.9.2",
            "600000_2022-06-28_10-31-30",
            {
                "acquired": ["2022-06-28T10:31:30-07:00"],
                "acquisition-type": ["Fiber photometry"],
                "created": ["2022-06-28T10:31:30-07:00"],
                "data-level": ["raw"],
                "funder": ["National Institute of Mental Health"],
                "institution": ["Allen Institute for Neural Dynamics"],
                "investigator": PEOPLE,
                "modality": ["behavior-videos", "fib"],
                "project": ["Brain Wide Circuits"],
                "schema-version": ["2.4.2"],
                "species": ["Mus musculus"],
                "subject": ["600000"],
            },
        ),
    ],
)
def test_raw_assets_of_each_generation(release, asset, expected):
    found = asset_facts(asset, recorded(release, asset))
    assert attributes(found) == expected
    assert found.license == ("CC-BY-4.0",)
    assert found.title == asset
    assert found.inputs == ()


@pytest.mark.parametrize(
    ("release", "asset", "process"),
    [
        ("0.3.0", f"{RAW}_sorted_2023-01-02_03-04-05", ["Spike sorting"]),
        ("0.13.11", f"{RAW}_sorted_2023-01-02_03-04-05", None),
        ("1.4.0", f"{RAW}_sorted_2023-01-02_03-04-05", ["Spike sorting"]),
        (
            "2.9.2",
            "600000_2022-06-28_10-31-30_videoprocessed_2023-01-02_03-04-05",
            ["Track the whiskers", "Video ROI timeseries extraction"],
        ),
    ],
)
def test_derived_assets_name_their_input_and_all_processes(release, asset, process):
    found = asset_facts(asset, recorded(release, asset))
    assert found.inputs == (asset.rpartition("_")[0].rpartition("_")[0].rpartition("_")[0],)
    assert attributes(found).get("process") == process
    assert attributes(found)["data-level"] == ["derived"]
    assert attributes(found)["created"][0].startswith("2023-01-02T03:04:05")


def test_nothing_is_inferred_from_the_name_of_a_described_asset():
    asset = "multiday_pool_2023-01-02_03-04-05"
    found = attributes(asset_facts(asset, recorded("2.9.2", asset)))
    assert "subject" not in found
    assert "platform" not in found
    assert INFERRED not in found
    bare = attributes(asset_facts(asset, []))
    assert bare["platform"] == ["multiday"]
    assert "subject" not in bare  # an id has digits
    assert bare[INFERRED] == ["created", "platform"]


@pytest.mark.parametrize("content", [None, b"", b'{"subject_id": "1', b"\xff\xfe", b"<html>"])
def test_an_unreadable_description_is_listed_and_nothing_is_inferred_instead(content):
    documents = [one for one in recorded("1.4.0", RAW) if one.path != b"data_description.json"]
    refused = [b"data_description.json"] if content is None else []
    if content is not None:
        documents.append(Document(b"data_description.json", content))
    found = attributes(asset_facts(RAW, documents, refused))
    assert found[UNREADABLE] == ["data_description.json"]
    assert INFERRED not in found
    assert "platform" not in found
    assert found["species"] == ["Mus musculus"]


@pytest.mark.parametrize("time", ["yesterday", "2022-13-45T00:00:00Z", ""])
def test_a_malformed_creation_time_is_left_out(time):
    content = b'{"creation_time": "%s"}' % time.encode()
    found = attributes(asset_facts(RAW, [Document(b"data_description.json", content)]))
    assert "created" not in found
