"""AIND's asset names, and sidecars of all versions of its schema."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuromirror.model import DatasetFacts, Document
from neuromirror.sources.s3.aind import asset_facts, is_document, name_parts, normalize
from neuromirror.sources.s3.sidecars import without_members, without_secrets

RAW = "ecephys_625749_2022-08-03_15-15-06"
DERIVED = f"{RAW}_sorted_2022-08-05_10-11-12"


def read(name: str = RAW, **sidecars: object) -> DatasetFacts:
    """Return the facts of an asset with these sidecars; ``__`` in a name is a dot."""
    return asset_facts(
        name,
        [
            Document(f"{stem.replace('__', '.')}.json".encode(), json.dumps(content).encode())
            for stem, content in sidecars.items()
        ],
    )


def of(found: DatasetFacts) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in found.attributes:
        values.setdefault(name, []).append(value)
    return values


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (RAW, {"platform": ["ecephys"], "subject": ["625749"], "created": ["2022-08-03T15:15:06"]}),
        ("775741_2025-01-02_03-04-05", {"subject": ["775741"], "created": ["2025-01-02T03:04:05"]}),
        (
            DERIVED,
            {
                "platform": ["ecephys"],
                "subject": ["625749"],
                "input": [RAW],
                "process": ["sorted"],
                "created": ["2022-08-05T10:11:12"],
            },
        ),
        (
            f"{DERIVED}_curated_2023-01-01_00-00-00",
            {
                "platform": ["ecephys"],
                "subject": ["625749"],
                "input": [DERIVED],
                "process": ["curated"],
                "created": ["2023-01-01T00:00:00"],
            },
        ),
        (
            "exaSPIM_653980_2023-08-10_20-08-29_fusion_2023-08-24",
            {
                "platform": ["exaSPIM"],
                "subject": ["653980"],
                "input": ["exaSPIM_653980_2023-08-10_20-08-29"],
                "process": ["fusion"],
                "created": ["2023-08-24"],
            },
        ),
        ("SmartSPIM-template_2024-05-16_11-26-14", {"created": ["2024-05-16T11:26:14"]}),
        ("ecephys_625749_ccf", {}),
        (
            "HCR_BL6-000_2023-06-1_00-00-00_fusion_2023-08-24",
            {
                "platform": ["HCR"],
                "subject": ["BL6-000"],
                "input": ["HCR_BL6-000_2023-06-1_00-00-00"],
                "process": ["fusion"],
                "created": ["2023-08-24"],
            },
        ),
        (
            "HCR_BL6-000_2023-06-1_00-00-00",
            {"platform": ["HCR"], "subject": ["BL6-000"], "created": ["2023-06-01T00:00:00"]},
        ),
        (
            "ecephys_625749_2022-02-31_15-15-06",
            {"platform": ["ecephys"], "subject": ["625749"], "created": []},
        ),
        ("", {}),
    ],
)
def test_any_asset_name_is_parsed_as_far_as_possible(name, expected):
    assert name_parts(name) == expected
    assert asset_facts(name, []).title == name


def test_an_object_is_one_person_and_a_text_may_be_several():
    people = [{"name": "Institute of Brain, Mind and Markets"}, "Jane Doe and John Smith"]
    found = of(read(data_description={"investigators": people}))
    assert found["investigator"] == [
        "Institute of Brain, Mind and Markets",
        "Jane Doe",
        "John Smith",
    ]


def test_a_missing_sidecar_is_replaced_by_the_combined_one():
    description = {"subject_id": "1", "data_level": "raw", "schema_version": "1.0.0"}
    joined = {"name": "joined", "data_description": description, "subject": {"species": "Mouse"}}
    found = read(metadata__nd=joined)
    assert found.title == "joined"
    assert of(found)["subject"] == ["1"]
    assert of(found)["species"] == ["Mouse"]
    own = read(metadata__nd=joined, data_description={"subject_id": "2"})
    assert of(own)["subject"] == ["2"]


def test_licenses_and_lists_of_modalities_have_one_spelling():
    found = read(data_description={"license": "CC-BY 4.0 ", "modality": "ecephys; behavior"})
    assert found.license == ("CC-BY-4.0",)
    assert of(found)["modality"] == ["behavior", "ecephys"]
    other = read(data_description={"license": "ask us"})
    assert other.license == ("ask us",)


def test_a_derived_asset_was_acquired_when_its_raw_asset_was():
    described = {"creation_time": "2024-01-01T00:00:00", "input_data_name": DERIVED}
    found = of(read("pool", data_description=described))
    assert found["acquired"] == ["2022-08-03T15:15:06"]
    assert found["inferred-from-name"] == ["acquired"]
    session = {"session_start_time": "2022-08-02T23:00:00"}
    found = of(read(DERIVED, data_description=described, session=session))
    assert found["acquired"] == ["2022-08-02T23:00:00"]


def test_an_asset_is_not_its_own_input():
    name = "ecephys_1_2024-01-01_00-00-00"
    described = Document(
        b"data_description.json", json.dumps({"source_data": [name, "other"]}).encode()
    )
    assert asset_facts(name, [described]).inputs == ("other",)
    assert asset_facts(f"folder/{name}", [described]).inputs == ("other",)


def test_without_a_field_the_input_comes_from_the_name():
    assert read(DERIVED).inputs == (RAW,)
    assert read(DERIVED, data_description={"source_data": [], "input_data_name": None}).inputs == (
        RAW,
    )
    assert read(RAW).inputs == ()


FIELDS = (
    *("name", "license", "subject_id", "modality", "modalities", "platform", "investigators"),
    *("funding_source", "data_level", "creation_time", "creation_date", "source_data"),
    *("input_data", "input_data_name", "data_processes", "processing_pipeline", "analyses"),
    *("species", "subject_details", "url", "data_description", "subject", "processing", "funder"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=12,
)
STEMS = ("data_description", "subject", "processing", "metadata.nd")


@settings(max_examples=80)
@given(name=st.text(max_size=60), sidecars=st.dictionaries(st.sampled_from(STEMS), JSON))
@example(name=DERIVED, sidecars={"data_description": {"name": "\ud800", "source_data": ["\udfff"]}})
def test_facts_of_any_json_are_sound(name, sidecars):
    documents = [
        Document(f"{stem}.json".encode(), json.dumps(content).encode())
        for stem, content in sidecars.items()
    ]
    found = asset_facts(name, documents)
    assert found == asset_facts(name, documents)
    assert list(found.attributes) == sorted(set(found.attributes))
    assert list(found.inputs) == sorted(set(found.inputs))
    for text in (*found.inputs, *found.license, *(value for _, value in found.attributes)):
        assert text
        text.encode("utf-8")
        assert not re.search(r"[\n\r\x00]", text)


def test_deeply_nested_or_malformed_sidecars_are_ignored():
    for content in (b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"", b"NaN"):
        assert asset_facts(RAW, [Document(b"data_description.json", content)]).title == RAW


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"session.json", True),
        (b"metadata.nd.json", True),
        (b"original_metadata/a/b.xml", True),
        (b"ecephys/settings.json", False),
        (b"readme.txt", False),
        (b".json", False),
        (b"original_metadata", False),
    ],
)
def test_sidecars_are_recognized_by_path(path, expected):
    assert is_document(path) is expected


# --- normalized sidecars

NAMES = frozenset({"last_modified", "_last_modified"})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"last_modified": 1}', b"{}"),
        (b'{"a": 1, "last_modified": "x", "b": 1e400}\n', b'{"a": 1, "b": 1e400}\n'),
        (b'{"_last_modified": [{}], "a": 1}', b'{"a": 1}'),
        (b'{\n "a": 1,\n "last_modified": 2\n}', b'{\n "a": 1\n}'),
        (b'{"a": {"last_modified": 1}}', b'{"a": {"last_modified": 1}}'),
        (b'{"last_modified": 1, "_last_modified": 2, "last_modified": 3}', b"{}"),
        (b'{"last_modified": 1', b'{"last_modified": 1'),
        (b'{"last_modified": 1} x', b'{"last_modified": 1} x'),
        (b'{"last_modified": 1,}', b'{"last_modified": 1,}'),
        (b'["last_modified"]', b'["last_modified"]'),
        (b"\xff", b"\xff"),
    ],
)
def test_a_member_is_removed_and_everything_else_stays(before, after):
    assert without_members(before, NAMES) == after
    assert normalize(b"metadata.nd.json", before) == after
    assert normalize(b"subject.json", before) == before


@given(
    st.dictionaries(st.sampled_from(["last_modified", "_last_modified", "a", "b"]), JSON),
    st.sampled_from([None, 0, 3]),
)
def test_cutting_out_gives_the_same_json_but_for_the_members(content, indent):
    before = json.dumps(content, indent=indent)
    after = without_members(before.encode(), NAMES)
    expected = {name: value for name, value in content.items() if name not in NAMES}
    assert json.dumps(json.loads(after)) == json.dumps(expected)
    if expected == content:
        assert after == before.encode()
    assert without_members(after, NAMES) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":  1.10}', b'{"a":  1.10}'),
        (b'{"u": "https://me:pw@host/x"}', b'{"u": "https://host/x"}'),
        (
            b'{"u": "https://h/k?X-Amz-Credential\\u003dAKIA\\u0026a=1", "b":  2}',
            b'{"u": "https://h/k?a=1", "b":  2}',
        ),
        (b'{"secret_access_key": "abc", "n": "x"}', b'{"secret_access_key": "***", "n": "x"}'),
        (b'{"token": ["a", "b"], "n": "x"}', b'{"token": ["***", "***"], "n": "x"}'),
        (b'[{"password": 1}, "x"]', b'[{"password": 1}, "x"]'),
        (b'{"token": {"kind": "x"}}', b'{"token": {"kind": "x"}}'),
        (b"<a>AKIAABCDEFGHIJKLMNOP</a>\xff", b"<a>***</a>\xff"),
        (b"see https://h/k?sig=abc&v=1 there", b"see https://h/k?v=1 there"),
        (b'{"u": "https://doi.org/10.1/x?y=1#z", "t": "token of thanks"}',) * 2,
        (b'{"u": "https://me:p?w@host/x?y"}', b'{"u": "https://host/x?y"}'),
        (b'{"u": "https://me:p?token=w@host/x"}', b'{"u": "https://host/x"}'),
        (b'{"u": "https://me:p/w#1@2@host/x"}', b'{"u": "https://host/x"}'),
        (b'{"u": "https://host:80/a?b@c", "v": "https://h/a:b@c"}',) * 2,
        (b"s3://a:b " + b"x://y:" * 4 + b"z@h", b"s3://a:b " + b"x://y:" * 3 + b"x://h"),
        (b'{"u": "see postgresql://me:pw@db/x"}', b'{"u": "see postgresql://db/x"}'),
        (b'{"u": "ssh://git@host/x", "v": "10:30 a@b"}',) * 2,
        (b'{"u": "https://h/x#access_token=abc"}', b'{"u": "https://h/x"}'),
        (
            b'{"docdb_password": "pw", "x-api-key": "k"}',
            b'{"docdb_password": "***", "x-api-key": "***"}',
        ),
        (
            b'{"private_key": "k", "github_token": "t"}',
            b'{"private_key": "***", "github_token": "***"}',
        ),
        (
            b'{"run": "AWS_SECRET_ACCESS_KEY=abc/1 x.py"}',
            b'{"run": "AWS_SECRET_ACCESS_KEY=*** x.py"}',
        ),
        (
            b'{"run": "curl -H \'Authorization: Bearer abc\' https://h"}',
            b'{"run": "curl -H \'Authorization: Bearer ***\' https://h"}',
        ),
        (
            b"aws_secret_access_key = abc\npassword=pw\n",
            b"aws_secret_access_key = ***\npassword=***\n",
        ),
        (b'{"password": "pw", "n": 1,}', b'{"password": "***", "n": 1,}'),
        (b'{"k": "ghp_' + b"a1" * 18 + b'"}', b'{"k": "***"}'),
        (
            b'{"k": "-----BEGIN RSA PRIVATE KEY-----\\nabc\\n-----END RSA PRIVATE KEY-----"}',
            b'{"k": "***"}',
        ),
    ],
)
def test_only_secrets_are_removed_from_sidecars(before, after):
    assert without_secrets(before) == after


@given(JSON)
def test_json_without_secrets_stays_byte_for_byte_or_the_same_json(content):
    before = json.dumps(content).encode()
    assert without_secrets(before) == before
