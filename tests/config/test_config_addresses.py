"""Addresses: the names and URLs that identify a dataset, a version or a file."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from neuromirror.config.addresses import (
    Address,
    enclosing_addresses,
    parse_addresses,
    unknown_address,
)
from neuromirror.config.mirror_files import Mirror, load_known_mirrors

ASSET = "ecephys_625749_2022-08-03_15-15-06"
LAYER = "nguyen_thomas2022/cb2/em"


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mirror]:
    """Return the built-in mirrors and one of a bucket with its own endpoint."""
    folder = tmp_path_factory.mktemp("mirrors")
    (folder / "lab.toml").write_text(
        'source = "s3"\n[options]\nbucket = "lab-data"\nendpoint = "http://127.0.0.1:9000/s3"\n'
    )
    return load_known_mirrors(folder)


def first_address(text: str, mirrors: dict[str, Mirror]) -> Address | None:
    return next(parse_addresses(text, mirrors), None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dandi:000027", Address("dandi:000027")),
        (" dandi:000027@draft ", Address("dandi:000027", "draft")),
        ("DANDI:000027", Address("dandi:000027")),
        ("DANDI:000027/0.210831.2033", Address("dandi:000027", "0.210831.2033")),
        ("dandi:000027/0.210831.2033", Address("dandi:000027", "0.210831.2033")),
        ("https://dandiarchive.org/dandiset/000027", Address("dandi:000027")),
        (
            "https://dandiarchive.org/dandiset/000027/0.210831.2033/files?location=sub-1%2Fa%5Bb%5D",
            Address("dandi:000027", "0.210831.2033", "sub-1/a[b]"),
        ),
        (
            "https://gui.dandiarchive.org/#/dandiset/000027/draft/files?location=sub-1%2F",
            Address("dandi:000027", "draft", "sub-1"),
        ),
        (
            "https://api.dandiarchive.org/api/dandisets/000027/versions/draft/",
            Address("dandi:000027", "draft"),
        ),
        (
            "https://api.dandiarchive.org/api/dandisets/000027/versions/draft/assets/?path=sub-1",
            Address("dandi:000027", "draft", "sub-1"),
        ),
        ("dandi://dandi/000027@draft/sub-1/", Address("dandi:000027", "draft", "sub-1")),
        ("dandi://dandi/000027@draft/a%FFb", Address("dandi:000027", "draft", "a\udcffb")),
        ("dandi://dandi-sandbox/000027", Address("dandi-sandbox:000027")),
        ("dandi://ember-dandi/000123", Address("ember:000123")),
        ("EMBER:000123/0.1.2", Address("ember:000123", "0.1.2")),
        ("https://dandi.emberarchive.org/dandiset/000123", Address("ember:000123")),
        ("LINC:000123", Address("linc:000123")),
        ("https://lincbrain.org/dandiset/000123/draft", Address("linc:000123", "draft")),
        ("10.48324/dandi.000027/0.210831.2033", Address("dandi:000027", "0.210831.2033")),
        ("https://doi.org/10.48324/dandi.000027", Address("dandi:000027")),
        (f"s3://aind-open-data/{ASSET}/", Address(f"aind:{ASSET}")),
        (
            f"s3://aind-open-data/{ASSET}/ecephys/a#1.json?versionId=abc",
            Address(f"aind:{ASSET}", None, "ecephys/a#1.json"),
        ),
        (
            f"https://aind-open-data.s3.us-west-2.amazonaws.com/{ASSET}/a%20b",
            Address(f"aind:{ASSET}", None, "a b"),
        ),
        (
            f"https://s3.us-west-2.amazonaws.com/aind-open-data/{ASSET}/%FF",
            Address(f"aind:{ASSET}", None, "\udcff"),
        ),
        (
            f"https://aind-open-data.s3.cn-north-1.amazonaws.com.cn/{ASSET}/a",
            Address(f"aind:{ASSET}", None, "a"),
        ),
        (ASSET, Address(f"aind:{ASSET}")),
        ("http://127.0.0.1:9000/s3/lab-data/mouse/a", Address("lab:mouse", None, "a")),
        ("bossdb://kasthuri2015/ac4/em", Address("bossdb:kasthuri2015/ac4/em")),
        ("boss://api.bossdb.io/kasthuri2015/ac4/em", Address("bossdb:kasthuri2015/ac4/em")),
        (
            "https://api.bossdb.io/v1/collection/kasthuri2015/experiment/ac4/channel/em",
            Address("bossdb:kasthuri2015/ac4/em"),
        ),
        (
            "https://api.bossdb.io/v1/cutout/kasthuri2015/ac4/em/0/0:5/0:5/0:5",
            Address("bossdb:kasthuri2015/ac4/em"),
        ),
        (
            "https://cloud.neurodata.io/nd/ca/kasthuri11/image/info/",
            Address("neurodata:kasthuri11/image"),
        ),
        (f"s3://bossdb-open-data/{LAYER}/info", Address(f"bossdb-open-data:{LAYER}")),
        (
            f"precomputed://https://bossdb-open-data.s3.amazonaws.com/{LAYER}",
            Address(f"bossdb-open-data:{LAYER}"),
        ),
        ("https://mirror.example.org/dataset/demo:000002@0.24", Address("demo:000002", "0.24")),
        (
            "https://mirror.example.org/m/file/demo:000002@draft?path=sub-1%2Fa",
            Address("demo:000002", "draft", "sub-1/a"),
        ),
    ],
)
def test_an_address_names_a_dataset(
    text: str, expected: Address, mirrors: dict[str, Mirror]
) -> None:
    assert first_address(text, mirrors) == expected


@pytest.mark.parametrize("names", [("one", "two"), ("two", "one")])
def test_of_several_mirrors_of_a_host_those_that_include_the_channel_come_first(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for name, pattern in zip(names, ("kasthuri2015/*", "witvliet2020/*"), strict=True):
        options = f'[options]\napi = "https://api.bossdb.io"\ninclude = ["{pattern}"]\n'
        (tmp_path / f"{name}.toml").write_text(f'source = "boss"\n{options}')
    mirrors = {name: one for name, one in load_known_mirrors(tmp_path).items() if name in names}
    for mirror, channel in zip(names, ("kasthuri2015/ac4/em", "witvliet2020/d/em"), strict=True):
        text = f"https://api.bossdb.io/v1/cutout/{channel}/0/0:1/0:1/0:1/"
        assert first_address(text, mirrors) == Address(f"{mirror}:{channel}")
    other = first_address("bossdb://other/e/em", mirrors)
    assert other is not None
    assert other.dataset.endswith(":other/e/em")


@pytest.mark.parametrize("name", ["-c/e/em", ".c/e/em"])
def test_a_channel_is_found_by_the_name_that_its_archive_shows(
    name: str, mirrors: dict[str, Mirror]
) -> None:
    encoded = f"={ord(name[0]):02X}{name[1:]}"
    assert first_address(f"bossdb:{name}", mirrors) == Address(f"bossdb:{encoded}")


@pytest.mark.parametrize("as_list", [True, False])
def test_a_neuroglancer_link_names_the_layer_that_it_contains(
    as_list: bool, mirrors: dict[str, Mirror]
) -> None:
    source = f"precomputed://s3://bossdb-open-data/{LAYER}"
    layers: object = [
        {"name": "other", "source": "precomputed://gs://elsewhere/layer"},
        {"name": "em", "source": [{"url": source}]},
    ]
    if not as_list:
        layers = {"em": {"source": source}}
    link = "https://neuroglancer-demo.appspot.com/#!" + quote(json.dumps({"layers": layers}))
    assert first_address(link, mirrors) == Address(f"bossdb-open-data:{LAYER}")


@pytest.mark.parametrize(
    ("text", "suggestions"),
    [
        ("dnadi:000027@draft", ("dandi:000027@draft",)),
        ("dandi:27", ("dandi:000027",)),
        ("Dandi:27@draft", ("dandi:000027@draft",)),
        ("demo:00002", ("demo:000002",)),
        ("https://example.org/dandiset/000027", ()),
        ("s3://unknown-bucket/a", ()),
        ("dandi://unknown/000027", ()),
        ("https://neuroglancer-demo.appspot.com/#!{", ()),
        ("dandi:000027@", ("dandi:000027",)),
        ("dandi:", ()),
        ("", ()),
        ("https://dandiarchive.org/dandiset/27", ("dandi:000027",)),
        ("https://dandiarchive.org/dandiset/27/0.210831.2033", ("dandi:000027@0.210831.2033",)),
        ("https://doi.org/10.48324/dandi.27", ("dandi:000027",)),
        ("dandi://dandi/27@draft/sub-1", ("dandi:000027@draft",)),
        ("https://dandiarchive.com/dandiset/000027", ("dandi:000027",)),
        ("DANDI:27/draft", ("dandi:000027@draft",)),
        ("000027", ("dandi:000027",)),
        ("2", ("demo:000002",)),
        ("dandiset/000027", ("dandi:000027",)),
        (f"s3://aind-opendata/{ASSET}/a", (f"aind:{ASSET}",)),
        (f"https://aind-opendata.s3.amazonaws.com/{ASSET}/a", (f"aind:{ASSET}",)),
        (f"precomputed://s3://bossdb-opendata/{LAYER}", (f"bossdb-open-data:{LAYER}",)),
        ("s3://aind-open-data", ()),
        ("gs://bucket/layer", ()),
        ("http://[::1", ()),
        ("10.5281/zenodo.1234567", ()),
    ],
)
def test_a_mistake_is_an_error_with_the_nearest_name(
    text: str, suggestions: tuple[str, ...], mirrors: dict[str, Mirror]
) -> None:
    assert first_address(text, mirrors) is None
    error = unknown_address(text, mirrors, ["demo:000002"])
    assert error.suggestions == suggestions
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("s3://unknown/a", ("'unknown'", "'neuromirror mirrors'")),
        ("precomputed://gs://elsewhere/layer", ("'elsewhere'", "'neuromirror mirrors'")),
        ("https://unknown.s3.amazonaws.com/a", ("'unknown'",)),
        ("https://openneuro.org/datasets/ds000001", ("'openneuro.org'",)),
        ("s3://aind-open-data/", ("'aind'", "s3://aind-open-data")),
        ("https://dandiarchive.org", ("'dandi'", "https://api.dandiarchive.org/api/")),
        ("dandi://dandi/27", ("'dandi'", "nearest mirror")),
        ("file:///data", ("no mirror has this address",)),
        ("dandi", ("is a mirror", "'neuromirror list dandi'")),
        ("10.5281/zenodo.1234567", ("DOI",)),
    ],
)
def test_an_error_names_what_is_unknown_and_the_nearest_mirror(
    text: str, named: tuple[str, ...], mirrors: dict[str, Mirror]
) -> None:
    message = str(unknown_address(text, mirrors, []))
    assert all(one in message for one in named), message


def test_a_part_of_a_name_has_the_names_in_the_store_as_suggestions(
    mirrors: dict[str, Mirror],
) -> None:
    names = [f"aind:{ASSET}", f"aind:{ASSET}_sorted", "demo:000002"]
    assert unknown_address("ecephys_625749", mirrors, names).suggestions == tuple(names[:2])


def test_a_url_below_a_known_layer_names_a_path_in_it(mirrors: dict[str, Mirror]) -> None:
    layer = f"bossdb-open-data:{LAYER}"
    layer_url = f"precomputed://s3://bossdb-open-data/{LAYER}"
    for below in ("8_8_40", "8_8_40/0-64_0-64_0-16", None):
        url = f"{layer_url}/{below}" if below else layer_url
        found = first_address(url, mirrors)
        assert found is not None
        assert Address(layer, None, below) in enclosing_addresses(found)
        assert next(enclosing_addresses(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "https://bossdb.org/project/Kasthuri2015",
        "bossdb://kasthuri2015/ac4",
        "boss://api.bossdb.io/kasthuri2015",
        "https://api.bossdb.io/v1/collection/kasthuri2015/",
        "https://api.bossdb.io/v1/collection/kasthuri2015/experiment/ac4/?x=y",
    ],
)
def test_what_contains_channels_has_them_as_suggestions(
    mirrors: dict[str, Mirror], text: str
) -> None:
    names = ["bossdb:kasthuri2015/ac4/em", "bossdb:kasthuri2016/a/em", "dandi:000027"]
    assert first_address(text, mirrors) is None
    assert unknown_address(text, mirrors, names).suggestions == ("bossdb:kasthuri2015/ac4/em",)


@pytest.mark.parametrize(
    ("text", "is_named"), [("qqq:1", True), ("qqq:1@draft", True), ("swh:1:rev:0", False)]
)
def test_an_unknown_mirror_is_named(mirrors: dict[str, Mirror], text: str, is_named: bool) -> None:
    assert ("mirror 'qqq'" in str(unknown_address(text, mirrors, []))) == is_named


def test_an_archive_of_the_lab_is_not_the_one_of_the_same_identifier(tmp_path: Path) -> None:
    (tmp_path / "dandi.toml").write_text(
        'source = "dandi"\n[options]\napi = "http://127.0.0.1:9000/api"\n'
    )
    mirrors = load_known_mirrors(tmp_path)
    found = first_address("http://127.0.0.1:9000/api/dandisets/000001/versions/draft/", mirrors)
    assert found == Address("dandi:000001", "draft")
    assert first_address("https://dandiarchive.org/dandiset/000001", mirrors) is None


def test_the_name_of_an_asset_can_name_datasets_of_several_mirrors(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(
        'source = "s3"\n[options]\nbucket = "lab-data"\nlayout = "aind"\n'
    )
    found = list(parse_addresses(ASSET, load_known_mirrors(tmp_path)))
    assert found == [Address(f"aind:{ASSET}"), Address(f"lab:{ASSET}")]


@pytest.mark.parametrize("as_list", [True, False])
def test_a_link_with_several_layers_names_the_first_only(
    as_list: bool, mirrors: dict[str, Mirror]
) -> None:
    layers = [f"precomputed://s3://bossdb-open-data/{name}" for name in (LAYER, "a/b/c")]
    sources = [{"source": layer} for layer in layers] if as_list else dict(enumerate(layers))
    link = f"https://neuroglancer.bossdb.io/#!{quote(json.dumps({'layers': sources}))}"
    assert list(parse_addresses(link, mirrors)) == [Address(f"bossdb-open-data:{LAYER}")]
