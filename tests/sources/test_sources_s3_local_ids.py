"""Local ids of prefixes, and the options of buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neuromirror.model import DatasetRef
from neuromirror.sources.s3 import S3Options
from neuromirror.sources.s3.discovery import DatasetLayout
from neuromirror.sources.s3.local_ids import local_id, segments_of

COMPONENTS = st.lists(
    st.binary(max_size=12).map(lambda one: one.replace(b"/", b"-"))
    | st.text("-=a_./ 2D", max_size=6).map(lambda one: one.replace("/", "--").encode()),
    min_size=1,
    max_size=4,
)


def test_names_of_real_assets_are_their_own_ids():
    for name in (
        "ecephys_625749_2022-08-03_15-15-06",
        "HCR_BL6-000_2023-06-1_00-00-00_fusion_2023-08-24",
        "SmartSPIM_623711_2022-10-27_16-48-54_stitched_2022-11-05_01-00-00",
    ):
        assert local_id([name.encode()]) == name
    assert local_id([b"ephys-compression", b"mearec"]) == "ephys-compression/mearec"


@given(COMPONENTS)
def test_a_prefix_comes_back_from_its_id(components):
    made = local_id(components)
    assert made is not None
    assert segments_of(made) == tuple(components)
    assert made.isascii()
    assert not set(made) & set(" @:%'\"\\\n*?#&")


@given(COMPONENTS, COMPONENTS)
def test_two_prefixes_share_neither_id_nor_alias(one, two):
    refs = [DatasetRef("m", local_id(components) or "", "") for components in (one, two)]
    if one != two:
        assert refs[0].alias != refs[1].alias


def test_a_prefix_too_long_for_a_name_has_no_id():
    assert local_id([b"x" * 200]) is not None
    assert local_id([b"x" * 201]) is None


def options(**given: object) -> S3Options:
    return S3Options.model_validate({"bucket": "some-bucket", **given})


def test_the_bucket_is_the_only_required_option():
    plain = options()
    assert (plain.depth, plain.layout, plain.region) == (1, "plain", "us-east-1")
    assert not plain.overwrites_are_incidents
    assert options(layout="aind").overwrites_are_incidents
    assert not plain.session().allow_private
    assert options(endpoint="http://127.0.0.1:9000/").session().allow_private
    assert options(endpoint="HTTP://LocalHost:80/").endpoint == "http://localhost"


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({"bucket": "a b"}, "pattern"),
        ({"region": "US"}, "pattern"),
        ({"endpoint": "http://me:secret@host"}, "user or password"),
        ({"endpoint": "ftp://host"}, "not an http"),
        ({"docdb": "https://host/find?x=1"}, "docdb"),
        ({"prefix": "/a"}, "slash"),
        ({"depth": -1}, "greater"),
        ({"unknown": 1}, "Extra"),
        ({"datasets": [{"prefix": "a/b", "depth": 2}]}, r"a/b/ .*depth 1"),
        ({"depth": 3, "datasets": [{"prefix": "a/b", "depth": 1}]}, r"a/b/ .*\b2\b"),
        ({"depth": 0, "datasets": [{"prefix": "a", "depth": 1}]}, r"a/ .*depth 0"),
        ({"prefix": "a", "datasets": [{"prefix": "b", "depth": 1}]}, "b/ "),
        (
            {"datasets": [{"prefix": "a", "depth": 1}, {"prefix": "a/", "depth": 2}]},
            "the same prefix",
        ),
    ],
)
def test_invalid_options_are_refused(given_, why):
    with pytest.raises(ValidationError, match=why) as caught:
        options(**given_)
    assert "secret" not in str([error["msg"] for error in caught.value.errors()])


def test_the_longest_prefix_determines_the_depth():
    plan = DatasetLayout(
        options(
            depth=2,
            datasets=[
                {"prefix": "a", "depth": 1},
                {"prefix": "b", "depth": 3},
                {"prefix": "b/c", "depth": 2},
            ],
        )
    )
    roots = [b"a", b"b/c", b"b/d/e", b"x/y"]
    others = [b"x", b"b", b"b/d", b"x/y/z", b"a/1"]
    assert all(plan.is_root(tuple(root.split(b"/"))) for root in roots)
    assert not any(plan.is_root(tuple(other.split(b"/"))) for other in others)
