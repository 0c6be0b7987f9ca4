"""Layers of a bucket: discovery and listing."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from neuromirror.model import FileRecord
from neuromirror.sources import (
    DatasetNotFoundError,
    MalformedIdError,
    UnexpectedReplyError,
    open_source,
)
from neuromirror.sources.precomputed import PrecomputedSource
from neuromirror_demo.bucket_contents import CELLS, DRAFT, EM, FUSED, GCAMP, LAYERS, POINTS, STACK
from support.precomputed_layers import (
    ENCODINGS,
    INFO,
    TEXT,
    Layers,
    key_of,
    layers_at,
    listing_of,
    read,
)


@pytest.fixture(scope="module")
def shared_layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layers]:
    """The demo's layers, for read-only tests."""
    with layers_at(tmp_path_factory.mktemp("layers"), empty=False) as layers:
        yield layers


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Layers]:
    """An empty bucket."""
    with layers_at(tmp_path) as made:
        yield made


def unavailable_by_id(source: PrecomputedSource) -> dict[str, str | None]:
    return {hint.dataset.local_id: hint.unavailable for hint in source.datasets()}


# --- discovery


def test_every_volume_is_a_dataset_and_the_rest_is_reported(shared_layers):
    source = shared_layers.source()
    reasons = unavailable_by_id(source)
    assert "README.md" in reasons.pop("==above")
    no_layer = reasons.pop("==no-layer")
    for part in (f"{DRAFT}/4_4_40", POINTS, "neuroglancer_annotations_v1"):
        assert part in no_layer
    assert reasons == dict.fromkeys([*LAYERS, FUSED, STACK])
    hints = {hint.dataset.local_id: hint for hint in source.datasets()}
    assert hints[EM].fingerprint is None
    base = f"{shared_layers.demo.endpoint}/{shared_layers.name}"
    assert hints[EM].dataset.source_uri == f"{base}/{EM}/"
    assert source.hint(source.dataset(EM)) == hints[EM]
    assert source.uri == base


def test_the_search_pages_through_no_folder_of_chunks_and_reads_no_layer_twice(shared_layers):
    shared_layers.demo.clear_requests()
    list(shared_layers.source().datasets())
    listed = [unquote(request) for request in shared_layers.demo.requests if "list-type" in request]
    folders = sorted(one.partition("&prefix=")[2].partition("&")[0] for one in listed)
    assert folders == [
        *("", "demo_activity/", "demo_activity/calcium/", f"{FUSED}/", f"{STACK}/", "demo_cortex/"),
        *("demo_cortex/drafts/", f"{DRAFT}/", f"{DRAFT}/4_4_40/", "demo_cortex/sections/"),
    ]
    info_requests = [one for one in shared_layers.demo.requests if one.endswith("/info")]
    assert len(info_requests) == len(set(info_requests))


def test_chunks_without_an_info_end_the_search(layers):
    layers.scale("c/e/ch", 3)
    layers.put("c/x/info", INFO)
    layers.put("c/e/ch/deeper/info", INFO)
    assert unavailable_by_id(layers.source()) == {
        "c/x": None,
        "==no-layer": "1 folder without a layer that can be mirrored:"
        " c/e/ch (chunks without an info)",
    }


def test_a_crowded_folder_is_not_paged_through(layers, monkeypatch):
    monkeypatch.setattr("neuromirror.sources.precomputed.layer._MOST", 20)
    for number in range(30):
        layers.put(f"tiffs/{number:03d}.tif")
    layers.put("tiffs/a/info", INFO)
    assert unavailable_by_id(layers.source())["==no-layer"].endswith("tiffs (more than 20 names)")


def test_depth_prefix_include_and_exclude_bound_the_search(layers):
    for layer in ("c/e/one", "c/e/two", "c/f/three", "d/four", "a/b/c/d/five"):
        layers.put(f"{layer}/info", INFO)

    def only(**options: object) -> list[str]:
        return [
            one for one in unavailable_by_id(layers.source(**options)) if not one.startswith("==")
        ]

    assert only() == ["c/e/one", "c/e/two", "c/f/three", "d/four"]
    assert only(depth=5)[0] == "a/b/c/d/five"
    assert only(depth=2) == ["d/four"]
    assert only(include=["c/*"], exclude=["c/e"]) == ["c/f/three"]
    assert only(include=["*/two", "d"]) == ["c/e/two", "d/four"]
    assert only(prefix="c/e") == ["c/e/one", "c/e/two"]
    assert only(prefix="c/e/one", depth=0) == ["c/e/one"]
    layers.demo.clear_requests()
    assert only(include=["d/*"]) == ["d/four"]
    assert not [request for request in layers.demo.requests if "prefix=c%2F" in request]
    excluded = layers.source(exclude=["c/*"])
    assert excluded.hint(excluded.dataset("c/e/one")).unavailable
    shallow = layers.source(depth=2)
    assert shallow.hint(shallow.dataset("c/e/one")).unavailable


def test_a_bucket_that_is_a_layer_is_one_dataset(layers):
    layers.put("info", INFO)
    layers.put("4_4_40/0-64_0-64_0-16")
    source = layers.source(depth=0)
    assert list(unavailable_by_id(source)) == [layers.name]
    assert b"4_4_40/0-64_0-64_0-16" in read(listing_of(source, layers.name))
    assert list(unavailable_by_id(layers.source())) == ["==above", "==no-layer"]


def test_folders_below_a_layer_belong_to_it(layers):
    layers.put("c/seg/info", INFO)
    layers.put("c/seg/proofread/info", INFO)
    layers.put("c/seg/proofread/8_8_8/0-64_0-64_0-16")
    source = layers.source()
    assert list(unavailable_by_id(source)) == ["c/seg"]
    listing = listing_of(source, "c/seg")
    assert list(read(listing)) == [b"proofread/8_8_8/0-64_0-64_0-16"]
    assert [document.path for document in listing.documents] == [
        *(b"info", b"proofread/info", ENCODINGS.encode())
    ]


def test_an_info_that_is_no_layer_is_reported_with_the_reason(layers):
    layers.put("broken/info", "{")
    layers.put("list/info", "[]")
    layers.put("packed/info", INFO, "br")
    layers.put("squeezed/info", INFO, "gzip")
    layers.put("other/info", '{"hello": 1}')
    reasons = unavailable_by_id(layers.source())
    assert reasons.pop("squeezed") is None
    (text,) = reasons.values()
    assert text is not None
    assert text.startswith("4 folders without a layer")
    for one in ("broken", "list"):
        assert f"{one}/info is no JSON object" in text
    assert "other (its info is of 'something else')" in text
    assert "packed (its metadata cannot be read" in text


def test_a_layer_without_info_is_not_found(layers):
    layers.put("c/e/ch/info", INFO)
    layers.scale("c/e/ch/4_4_40", 2)
    source = layers.source()
    dataset = source.dataset("c/e/ch")
    assert source.hint(dataset).unavailable is None
    layers.put("c/e/ch/info", "{")
    with pytest.raises(UnexpectedReplyError, match="no JSON object"):
        source.hint(dataset)
    layers.demo.delete_object("c/e/ch/info", bucket=layers.name)
    with pytest.raises(DatasetNotFoundError, match="there is no layer at"):
        source.hint(dataset)


# --- names


def test_superdatasets_are_the_folders_above_layers(shared_layers):
    source = shared_layers.source()
    experiment = source.superdataset("demo_cortex/sections")
    assert experiment is not None
    base = f"{shared_layers.demo.endpoint}/{shared_layers.name}"
    assert experiment.source_uri == f"{base}/demo_cortex/sections/"
    assert experiment.name == "m:demo_cortex/sections"
    assert source.superdataset("no name") is None
    within = shared_layers.source(prefix="demo_cortex")
    assert within.superdataset("demo_cortex") is None  # the mirror's own superdataset
    assert within.superdataset("demo_cortex/sections") == experiment


def test_the_format_is_found_by_the_metadata(layers):
    ome = {"multiscales": [], "version": "0.5"}
    array = {"dimensions": [1], "blockSize": [1], "dataType": "uint8"}
    for key, document in {
        "zarr/v2/.zattrs": ome,
        "zarr/v3/zarr.json": {"node_type": "group", "attributes": {"ome": ome}},
        "zarr/group/zarr.json": {"node_type": "group", "attributes": {}},
        "zarr/group/image/.zattrs": ome,
        "zarr/array/.zarray": {},
        "zarr/array3/zarr.json": {"node_type": "array"},
        "n5/container.n5/attributes.json": {"n5": "4.0.0"},
        "n5/container.n5/setup0/attributes.json": {"downsamplingFactors": [[1, 1, 1]]},
        "n5/container.n5/setup0/timepoint0/s0/attributes.json": array,
        "n5/single/attributes.json": array,
        "n5/no-array/s0/attributes.json": {},
    }.items():
        layers.put(key, json.dumps(document))
    found = unavailable_by_id(layers.source())
    text = found.pop("==no-layer")
    assert text is not None
    for name in ("array", "array3"):
        assert f"zarr/{name} (an array outside of an OME-Zarr)" in text
    zarrs = {"zarr/v2", "zarr/v3", "zarr/group/image"}
    n5s = {"n5/container.n5/setup0/timepoint0", "n5/single"}
    assert {one for one in found if one != "==above"} == zarrs | n5s
    only = layers.source(formats=["n5"])
    assert {one for one in unavailable_by_id(only) if not one.startswith("==")} == n5s
    assert only.hint(only.dataset("n5/single")).unavailable is None
    assert only.hint(only.dataset("zarr/v2")).unavailable
    for address in ("zarr/v2/.zattrs", "zarr/v3/zarr.json", "n5/single/attributes.json"):
        located = only.locate(f"s3://{layers.name}/{address}")
        assert located is not None
        assert located.local_id == address.rpartition("/")[0]


def test_objects_of_an_array_keep_their_names_whatever_their_encoding(layers):
    layers.put("a/zarr.json", json.dumps({"attributes": {"ome": {"multiscales": []}}}))
    layers.put("a/0/zarr.json", "{}")
    layers.put("a/labels/0/1/zarr.json", "{}")
    layers.put("a/0/c/0/0/0", TEXT, "gzip")
    layers.put("a/0/c/0/0/1", TEXT)
    listing = listing_of(layers.source(), "a")
    files = read(listing)
    assert list(files) == [b"0/c/0/0/0", b"0/c/0/0/1", b"labels/0/1/zarr.json"]
    documents = [document.path for document in listing.documents]
    assert documents == [b"0/zarr.json", b"zarr.json", ENCODINGS.encode()]
    assert listing.find_present([b"0/c/0/0/0", b"0/c/9/9/9"]) == [b"0/c/0/0/0"]


def test_names_and_addresses_are_those_of_the_bucket():
    source = open_source("precomputed", "open-neurodata", {"bucket": "open-neurodata"})
    dataset = source.dataset("kasthuri/ac4/em")
    assert dataset.source_uri == "s3://open-neurodata/kasthuri/ac4/em/"
    group = source.superdataset("kasthuri")
    assert group is not None
    assert group.source_uri == "s3://open-neurodata/kasthuri/"
    with pytest.raises(MalformedIdError):
        source.dataset("a//b")
    assert source.versions(dataset)[0].upstream == "current"
    assert source.estimate(dataset) is None


# --- listings


def test_a_folder_of_a_layer_has_the_layer_as_a_suggestion(shared_layers):
    source = shared_layers.source()
    with pytest.raises(DatasetNotFoundError) as caught:
        source.hint(source.dataset(f"{EM}/4_4_40"))
    assert caught.value.suggestions == (f"{source.mirror}:{EM}",)
    with pytest.raises(DatasetNotFoundError) as caught:
        source.hint(source.dataset("no/such/layer"))
    assert caught.value.suggestions == ()


@pytest.mark.parametrize("layer", LAYERS)
def test_every_object_is_a_file_under_its_etag_or_a_document(shared_layers, layer):
    source = shared_layers.source()
    listing = listing_of(source, layer)
    files = read(listing)
    assert all(isinstance(one, FileRecord) for one in files.values())
    documents = {document.path.decode() for document in listing.documents} - {ENCODINGS}
    keys = {key_of(one).removeprefix(f"{layer}/") for one in files.values()} | documents
    present = shared_layers.demo.present(f"{layer}/", bucket=shared_layers.name)
    assert sorted(keys) == [one.decode().removeprefix(f"{layer}/") for one in present]
    assert len(keys) == len(files) + len(documents)
    for file in files.values():
        head = shared_layers.demo.head(key_of(file), bucket=shared_layers.name)
        assert (file.size, file.digests[0].value) == (head.size, head.etag)
    assert {"info", "provenance"} <= documents


def test_facts_and_links_come_from_info_and_provenance(shared_layers):
    source = shared_layers.source()
    listing = listing_of(source, CELLS)
    read(listing)
    facts = listing.facts
    assert facts.title == f"{CELLS}: Cells (demo)"
    assert facts.inputs == (EM,)
    assert ("project", "demo_cortex") in facts.attributes
    links = dict(facts.links)
    link = f"precomputed://{shared_layers.demo.endpoint}/{shared_layers.name}/{CELLS}"
    assert links["precomputed"] == link
    page, _, state = links["neuroglancer"].partition("#!")
    assert page == "https://neuroglancer-demo.appspot.com/"
    (layer,) = json.loads(unquote(state))["layers"]
    assert layer == {"name": "cells", "source": link, "type": "segmentation"}


def test_links_of_an_aws_bucket_are_what_a_browser_can_ask_for():
    source = open_source("precomputed", "m", {"bucket": "open-neurodata", "region": "us-east-1"})
    assert isinstance(source, PrecomputedSource)
    facts = source._profile.facts("c/e/a=20b", [], [])
    link = "precomputed://https://open-neurodata.s3.us-east-1.amazonaws.com/c/e/a%20b"
    assert dict(facts.links)["precomputed"] == link


def test_shards_are_files_as_they_are(shared_layers):
    paths = {path for path in read(listing_of(shared_layers.source(), GCAMP)) if b"/" in path}
    assert {path.rpartition(b".")[2] for path in paths} == {b"shard"}
