"""An ndstore's projects and channels: names, lists, access, and malformed info."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import ValidationError
from pytest_httpserver import HTTPServer

from neuromirror.model import DatasetRef, NeuromirrorError
from neuromirror.net import AccessDeniedError, NotFoundError, ServerError, TooManyRequestsError
from neuromirror.sources import DatasetNotFoundError, MalformedIdError, UnexpectedReplyError
from neuromirror.sources.ndstore import NdstoreOptions
from neuromirror_demo.ndstore import CALCIUM, CELLS, IMAGE_11, PRIVATE, SINGLE_12, DemoNdstore
from support.ndstore_sources import TOKEN, document, listing_of, make_source, read

ALL = [
    *("demo11/image", "demo11/membranes", "demo11_anno/cells", "demo12/image"),
    *("demo15_ramon/synapses", "democube/calcium"),
]


@pytest.fixture
def ndstore(tmp_path: Path) -> Iterator[DemoNdstore]:
    with DemoNdstore(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_ndstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoNdstore]:
    """An ndstore for read-only tests."""
    with DemoNdstore(tmp_path_factory.mktemp("ndstore")) as running:
        yield running


def listed(ndstore: DemoNdstore, **options: Any) -> list[str]:
    """Return the local ids of all hints."""
    return [dataset.dataset.local_id for dataset in make_source(ndstore, **options).datasets()]


# -- names


def test_a_dataset_is_a_channel_and_its_superdataset_a_project(shared_ndstore: DemoNdstore) -> None:
    source = make_source(shared_ndstore)
    base = f"ndstore://{shared_ndstore.host}/nd/ca"
    assert source.uri == base
    assert source.dataset(CELLS) == DatasetRef("nd", CELLS, f"{base}/{CELLS}")
    assert source.superdataset("demo11") == DatasetRef("nd", "demo11", f"{base}/demo11")
    assert source.superdataset("demo11/image") is None
    assert source.superdataset("demo 11") is None


def test_names_of_any_letters_have_an_id_and_an_address(shared_ndstore: DemoNdstore) -> None:
    found = make_source(shared_ndstore).dataset("a=20b/=C3=BC=25")
    assert found.source_uri == f"ndstore://{shared_ndstore.host}/nd/ca/a%20b/%C3%BC%25"


@pytest.mark.parametrize(
    "bad", ["demo11", "a/b/c", "a//b", "/a", "a/=2E", "a b/c", "=41/b", "..=2E/a"]
)
def test_what_is_no_channels_name_is_refused(shared_ndstore: DemoNdstore, bad: str) -> None:
    with pytest.raises(MalformedIdError, match="token/channel"):
        make_source(shared_ndstore).dataset(bad)


def test_both_names_of_the_service_are_the_same_dataset(shared_ndstore: DemoNdstore) -> None:
    other = make_source(f"{shared_ndstore.url}/nd/sd/")
    assert other.dataset(CELLS) == make_source(shared_ndstore).dataset(CELLS)


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(ValidationError, match="use token_env"):
        NdstoreOptions.model_validate({"api": "https://me:secret@cloud.neurodata.io/nd/ca"})


# -- lists


def test_all_channels_of_public_projects_are_listed(shared_ndstore: DemoNdstore) -> None:
    shared_ndstore.clear_requests()
    hints = list(make_source(shared_ndstore).datasets())
    assert [hint.dataset.local_id for hint in hints] == ALL
    assert not any(hint.unavailable or hint.fingerprint for hint in hints)
    assert shared_ndstore.count_requests() == 1 + 5  # the list, and each project's info


def test_projects_without_selected_channels_get_no_requests(shared_ndstore: DemoNdstore) -> None:
    shared_ndstore.clear_requests()
    assert listed(shared_ndstore, include=["demo11/*", "demo1?/image"]) == [
        *ALL[:2],
        "demo12/image",
    ]
    assert shared_ndstore.count_requests("/info/") == 2
    shared_ndstore.clear_requests()
    assert listed(shared_ndstore, exclude=["demo1*", "*/nothing"]) == ["democube/calcium"]
    assert shared_ndstore.count_requests("/info/") == 1
    assert listed(shared_ndstore, include=["*calcium"]) == ["democube/calcium"]
    assert listed(shared_ndstore, include=["demo11*"], exclude=["*/image"]) == ALL[1:3]


def test_projects_can_be_named_instead(shared_ndstore: DemoNdstore) -> None:
    shared_ndstore.clear_requests()
    assert listed(shared_ndstore, tokens=["democube"]) == ["democube/calcium"]
    assert shared_ndstore.count_requests() == 1


def test_a_broken_project_does_not_hide_the_others(ndstore: DemoNdstore) -> None:
    with ndstore.fault("status", path="/demo12/info/", status=500):
        hints = {dataset.dataset.local_id: dataset for dataset in make_source(ndstore).datasets()}
    assert hints.keys() == {*ALL, "==demo12"} - {"demo12/image"}
    assert "HTTP 500" in (hints["==demo12"].unavailable or "")
    ndstore.projects["demo11"].channels["image"].datatype = "float16"
    assert listed(ndstore) == ALL  # the visit reports malformed info
    with pytest.raises(UnexpectedReplyError, match=r"demo11/image: .*'float16'"):
        listing_of(make_source(ndstore), IMAGE_11)


def test_a_service_that_does_not_list_its_projects_lists_nothing(ndstore: DemoNdstore) -> None:
    with ndstore.fault("status", path="/public_tokens/", status=503), pytest.raises(ServerError):
        listed(ndstore)
    with ndstore.fault("status", path="/info/", status=429), pytest.raises(TooManyRequestsError):
        listed(ndstore)


# -- access


def test_a_private_project_stays_out_of_the_store(
    ndstore: DemoNdstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, ndstore.token)
    source = make_source(ndstore, token_env=TOKEN, tokens=["demo13_private"])
    (notice,) = source.datasets()
    assert notice.dataset.local_id == "==demo13_private"
    assert 'restricted = "mirror"' in (notice.unavailable or "")
    hint = source.hint(source.dataset(PRIVATE))
    assert 'restricted = "mirror"' in (hint.unavailable or "")
    with pytest.raises(NeuromirrorError, match="restricted"):
        listing_of(source, PRIVATE)


def test_a_private_project_is_mirrored_if_the_options_say_so(
    ndstore: DemoNdstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"token_env": TOKEN, "tokens": ["demo13_private"], "restricted": "mirror"}
    monkeypatch.setenv(TOKEN, ndstore.token)
    source = make_source(ndstore, hash="fetch", **options)
    assert [dataset.dataset.local_id for dataset in source.datasets()] == [PRIVATE]
    listing = listing_of(source, PRIVATE)
    records, _ = read(listing)
    assert records
    output = str((listing.documents, listing.facts, records))
    assert ndstore.token not in output
    # ndstore treats an expired token like none, so the project may still exist
    monkeypatch.setenv(TOKEN, "expired-2024")
    with pytest.raises(AccessDeniedError, match=TOKEN):
        source.hint(source.dataset(PRIVATE))
    monkeypatch.delenv(TOKEN)
    with pytest.raises(AccessDeniedError, match=TOKEN):
        source.hint(source.dataset(PRIVATE))


def test_a_removed_project_differs_from_a_failing_one(ndstore: DemoNdstore) -> None:
    source = make_source(ndstore)
    image, cells, single = map(source.dataset, (IMAGE_11, CELLS, SINGLE_12))
    ndstore.remove(IMAGE_11)
    with pytest.raises(DatasetNotFoundError, match="demo11"):
        source.hint(image)
    ndstore.remove("demo12")
    with pytest.raises(DatasetNotFoundError, match="demo12"):
        source.hint(single)
    ndstore.set_public("demo11_anno", False)
    with pytest.raises(DatasetNotFoundError, match="HTTP 401"):
        source.hint(cells)
    ndstore.set_public("demo11_anno", True)
    for status, error in ((404, NotFoundError), (403, AccessDeniedError)):
        # still in the list, so a proxy refuses the request
        with ndstore.fault("status", path="/info/", status=status), pytest.raises(error):
            source.hint(cells)
    with ndstore.fault("status", path="/info/", status=500), pytest.raises(ServerError):
        source.hint(cells)


def test_a_channel_that_is_removed_during_the_listing_is_not_found(ndstore: DemoNdstore) -> None:
    listing = listing_of(make_source(ndstore), IMAGE_11)
    list(listing.entries())
    ndstore.remove(IMAGE_11)
    with pytest.raises(DatasetNotFoundError):
        listing.confirm_version()


# -- documents


def test_volatile_fields_are_left_out_of_the_documents(shared_ndstore: DemoNdstore) -> None:
    listing = listing_of(make_source(shared_ndstore), CELLS)
    assert document(listing, ".ndstore/project.json") == {
        **{"name": "demo11_anno", "description": "Cells (demo)"}
    }
    channel = document(listing, ".ndstore/channel.json")
    assert (channel["exceptions"], channel["readonly"]) == (1, 0)
    assert "propagate" not in channel
    dataset = document(listing, ".ndstore/dataset.json")
    assert "cube_dimension" not in dataset
    assert dataset["offset"]["2"] == [0, 0, 1]
    assert listing.facts.attributes == (("project", "demo11_anno"),)
    assert listing.facts.title == "demo11_anno/cells: Cells (demo)"


def test_viewer_links_carry_layer_and_type(shared_ndstore: DemoNdstore) -> None:
    links = dict(listing_of(make_source(shared_ndstore), CELLS).facts.links)
    viewer, _, state = links["ndviz"].partition("#!")
    assert viewer == "https://viz.neurodata.io/"
    assert json.loads(unquote(state)) == {
        "layers": {
            "cells": {"source": f"ndstore://{shared_ndstore.url}/{CELLS}", "type": "segmentation"}
        }
    }
    assert links["ndstore"] == f"{shared_ndstore.api}/demo11_anno/info/"


# -- malformed info


def _info(ndstore: DemoNdstore, token: str) -> Any:
    return json.loads(json.dumps(ndstore.projects[token].info()))


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("dataset",), None, "'dataset'"),
        (("channels", "calcium"), "gone", "'calcium'"),
        (("dataset", "resolutions"), [], "no list of resolutions"),
        (("dataset", "resolutions"), ["0"], "'0'"),
        (("dataset", "imagesize", "1"), [50, 45], "imagesize .* of resolution 1"),
        (("dataset", "imagesize", "1"), [50, 45, 0], "imagesize 0"),
        (("dataset", "offset", "1"), [5.5, 3, 2], "offset 5.5"),
        (("dataset", "voxelres", "0"), [1, 0, 1], "voxelres"),
        (("dataset", "voxelres"), {}, "voxelres None of resolution 0"),
        (("channels", "calcium", "resolution"), 7, "resolution 7 .*: 0, 1, 2"),
        (("channels", "calcium", "propagate"), "yes", "propagate 'yes'"),
        (("channels", "calcium", "timerange"), [0], "timerange"),
        (("channels", "calcium", "timerange"), [0, 1 << 40], "timerange"),
        (("channels", "calcium", "datatype"), None, "datatype None"),
    ],
)
def test_malformed_info_is_refused_with_a_message(
    shared_ndstore: DemoNdstore,
    httpserver: HTTPServer,
    keys: tuple[str, ...],
    value: Any,
    says: str,
) -> None:
    info = _info(shared_ndstore, "democube")
    inside = info
    for step in keys[:-1]:
        inside = inside[step]
    inside[keys[-1]] = value
    httpserver.expect_request("/nd/ca/democube/info/").respond_with_json(info)
    source = make_source(httpserver.url_for("/nd/ca"))
    with pytest.raises(UnexpectedReplyError, match=f"^democube.*{says}"):
        listing_of(source, CALCIUM)


def test_older_services_are_understood(shared_ndstore: DemoNdstore, httpserver: HTTPServer) -> None:
    info = _info(shared_ndstore, "democube")
    info["channels"]["calcium"] |= {
        "channel_type": "image",
        "datatype": "rgb32",
        "timerange": [0, 0],
    }
    del info["channels"]["calcium"]["description"], info["channels"]["calcium"]["exceptions"]
    info["dataset"]["offset"]["1"] = [5.0, 3.0, 2.0]
    httpserver.expect_request("/ocp/ca/democube/info/").respond_with_json(info)
    source = make_source(httpserver.url_for("/ocp/ca"))
    listing = listing_of(source, CALCIUM)
    array = document(listing, "0/zarr.json")
    assert (array["data_type"], array["shape"]) == ("uint32", [36, 90, 100])
    (first, *_), _ = read(listing)
    assert "/ocp/ca/democube/calcium/0/10:74/6:70/4:20" in first.locations[0].url


def test_a_list_that_is_none_is_refused(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/nd/ca/public_tokens/").respond_with_json({"demo": 1})
    with pytest.raises(UnexpectedReplyError, match="/public_tokens/"):
        list(make_source(httpserver.url_for("/nd/ca")).datasets())
