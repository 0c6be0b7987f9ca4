"""Strict parsing of untrusted documents; errors name the invalid member."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromirror.model import (
    InvalidDocumentError,
    VersionMinted,
    dump_entry,
    is_git_path,
    load_entry,
    parse_description,
    parse_json,
)

STATE = f"sha256:{'a' * 64}"
ID = "52c46016-01f6-5ad2-8d65-ac9dcb7f1eed"
DESCRIBED: dict[str, Any] = {
    "dataset": "dandi:000027",
    "source": "https://api.example.org/000027/",
    "version": "draft",
    "kind": "observed",
    "state": STATE,
    "files": 1,
    "bytes": 2,
    "evidence": {"md5": 1},
    "exceptions": [{"path": "x\udcff", "reason": "r", "detail": "", "size": None}],
    "title": "",
    "license": [],
    "doi": None,
    "documents": ["dandiset.yaml"],
    "parts": {"z.zarr": {"id": ID, "local-id": "zarr/1", "state": STATE, "files": 1, "bytes": 1}},
}
MINTED: dict[str, Any] = {
    "type": "version",
    "mirror": "dandi",
    "local_id": "000027",
    "source_uri": "https://api.example.org/000027/",
    "label": "x",
    "upstream": "draft",
    "kind": "observed",
    "state": STATE,
    "commit": "a" * 40,
    "tree": "b" * 40,
    "annex_commit": "",
    "time": None,
    "files": 1,
    "bytes": 2,
    "exceptions": [],
    "evidence": {},
    "title": "",
    "license": [],
    "doi": None,
    "metadata_only": False,
    "at": "2024-01-01T00:00:00+00:00",
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e18, max_value=1e18)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=30)
@given(JSON)
def test_json_survives_a_round_trip(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), "it") == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b"[" * 66 + b"]" * 66,
        b'{"a":' * 66 + b"1" + b"}" * 66,
        b'{"a":1,"a":2}',
        b'[{"b":[{"a":1,"a":1}]}]',
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b"9" * 30,
        b"-" + b"9" * 30,
        b"9" * 5000,
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b'[["\\udc00"]]',
    ],
    ids=range(18),
)
def test_json_that_programs_disagree_about_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        parse_json(content, "the document")
    assert caught.value.document == "the document"
    assert caught.value.expected
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_names_that_are_not_unicode_stay() -> None:
    assert parse_json(b'"\\udcff"', "it") == "\udcff"
    assert parse_description(json.dumps(DESCRIBED).encode(), "it") == DESCRIBED


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("dataset", one) for one in (None, 3, "x", "../x:y", "a:b\nc")),
        *(("state", one) for one in (None, "", "sha256:x", f"{STATE}\n")),
        *(("files", one) for one in (None, -1, "1", 1.5, True, 1 << 63, 10**400)),
        *(("form", one) for one in (None, "x", "files\n")),
        *(("documents", one) for one in (None, "x", [3], ["../x"], ["a/.git/x"], ["a\0"], [""])),
        *(("license", one) for one in (None, "x", [None])),
        *(("evidence", one) for one in (None, [], {"md5": "1"}, {"md5": -1})),
        *(("parts", one) for one in (None, [], {"x": 3}, {"x": {}})),
        ("parts", {"../x": DESCRIBED["parts"]["z.zarr"]}),
        ("parts", {"x": {**DESCRIBED["parts"]["z.zarr"], "id": "../../x"}}),
        ("parts", {"x": {**DESCRIBED["parts"]["z.zarr"], "state": "x"}}),
        *(("manifest-only", one) for one in (None, 3, {"files": "x"})),
        *(("attributes", one) for one in (None, {"a": "b"}, {"a": [1]})),
        *(("exceptions", one) for one in (None, {}, [3])),
        *(("inline", one) for one in (None, {"a": {}}, [])),
        *(("title", one) for one in (None, 3)),
    ],
)
def test_a_description_has_what_mirrors_write(member: str, value: Any) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        parse_description(json.dumps({**DESCRIBED, member: value}).encode(), "dataset.json")
    assert caught.value.member.startswith(member) or value == 10**400 or value == 1 << 63


@pytest.mark.parametrize("member", sorted(DESCRIBED.keys() - {"parts"}))
def test_a_description_without_a_member_is_refused(member: str) -> None:
    left = {name: one for name, one in DESCRIBED.items() if name != member}
    with pytest.raises(InvalidDocumentError) as caught:
        parse_description(json.dumps(left).encode(), "dataset.json")
    assert caught.value.member == member


def test_a_journal_entry_survives_a_round_trip() -> None:
    entry = load_entry(json.dumps(MINTED).encode())
    assert isinstance(entry, VersionMinted)
    assert load_entry(dump_entry(entry)) == entry
    odd = {**MINTED, "title": "\udcff", "exceptions": [{"path": "\udcff"}]}
    assert load_entry(dump_entry(load_entry(json.dumps(odd).encode()))).title == "\udcff"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("commit", one) for one in (None, 3, "--all", "HEAD", f"{'a' * 40}\n", "A" * 40)),
        *(("tree", one) for one in (None, [], "x")),
        *(("annex_commit", one) for one in (None, "x\ndelete refs/heads/main")),
        *(("files", one) for one in (None, "1", -1, 1 << 63)),
        *(("license", one) for one in (None, "x", [1])),
        *(("exceptions", one) for one in (None, {}, ["x"])),
        *(("evidence", one) for one in (None, {"md5": "x"})),
        *(("metadata_only", one) for one in (None, 1, "yes")),
        *(("type", one) for one in (None, "x", [], {})),
        ("more", 1),
    ],
)
def test_a_journal_entry_has_the_types_of_its_fields(member: str, value: Any) -> None:
    with pytest.raises(ValueError, match="not a journal entry"):
        load_entry(json.dumps({**MINTED, member: value}).encode())


@given(st.lists(st.sampled_from(["a", ".", "..", ".git", ".GIT", ".gitx", "", "\0"]), min_size=1))
def test_git_paths_are_below_the_work_tree(names: list[str]) -> None:
    path = "/".join(names)
    bad = {"", ".", "..", ".git", ".GIT"} & set(names)
    assert is_git_path(path) == (not bad and "\0" not in path)
