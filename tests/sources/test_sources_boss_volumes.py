import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from werkzeug.wrappers import Response

from neuromirror.model import ConfigurationError, ExcludedEntry, FileRecord
from neuromirror.net import HttpError
from neuromirror.sources import UnexpectedReplyError, UnreliableListingError
from neuromirror_demo.boss import ACTIVITY, CELLS, SKETCH, TISSUE, DemoBoss
from support.boss_sources import (
    TOKEN,
    RewritingProxy,
    add_volume,
    documents_of,
    listing_of,
    make_source,
    read_level,
)


@pytest.fixture(scope="module")
def shared_boss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBoss]:
    """A BOSS for read-only tests."""
    with DemoBoss(tmp_path_factory.mktemp("boss")) as running:
        yield running


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    """An empty BOSS."""
    with DemoBoss(tmp_path / "boss", empty=True) as running:
        yield running


def noise(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.random.default_rng(7).integers(1, 200, shape).astype(dtype)
    return found


def multiscales(documents: dict[str, bytes]) -> list[tuple[str, list[float], list[float]]]:
    """Return folder, voxel size and center of the first voxel of each level."""
    (only,) = json.loads(documents["zarr.json"])["attributes"]["ome"]["multiscales"]
    return [
        (
            one["path"],
            one["coordinateTransformations"][0]["scale"],
            one["coordinateTransformations"][1]["translation"],
        )
        for one in only["datasets"]
    ]


def levels_in(entries: list[FileRecord | ExcludedEntry]) -> set[bytes]:
    return {entry.path.partition(b"/")[0] for entry in entries if isinstance(entry, FileRecord)}


# --- voxels


@pytest.mark.parametrize(
    ("path", "dtype"), [(TISSUE, "uint8"), (CELLS, "uint64"), (ACTIVITY, "uint16")]
)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_all_blocks_together_are_the_volume(shared_boss, path, dtype, level):
    source = make_source(shared_boss.api, levels=[level])
    there = shared_boss.voxels(path, level)
    listing = listing_of(source, path)
    assert (read_level(source, listing, level, there.shape, dtype) == there).all()
    assert listing.confirm_version() == listing.version


# --- geometry


def test_an_anisotropic_volume_keeps_its_offset(shared_boss):
    documents = documents_of(listing_of(make_source(shared_boss.api), TISSUE))
    assert multiscales(documents) == [
        ("0", [40, 4, 4], [480, 0, 0]),
        ("1", [40, 8, 8], [480, 2, 2]),
        ("2", [40, 16, 16], [480, 6, 6]),
    ]
    shapes = [json.loads(documents[f"{level}/zarr.json"])["shape"] for level in range(3)]
    assert shapes == [[70, 260, 300], [70, 130, 150], [70, 65, 75]]


def test_an_isotropic_time_series_has_its_axes(shared_boss):
    documents = documents_of(listing_of(make_source(shared_boss.api), ACTIVITY))
    (only,) = json.loads(documents["zarr.json"])["attributes"]["ome"]["multiscales"]
    assert [axis.get("unit") for axis in only["axes"]] == ["millisecond", *3 * ["micrometer"]]
    assert multiscales(documents) == [
        ("0", [50, 1.5, 1.5, 1.5], [0, 0, 0, 0]),
        ("1", [50, 3, 3, 3], [0, 0.75, 0.75, 0.75]),
        ("2", [50, 6, 6, 6], [0, 2.25, 2.25, 2.25]),
    ]
    assert json.loads(documents["2/zarr.json"])["shape"] == [3, 9, 33, 38]


@pytest.mark.parametrize("status", ["NOT_DOWNSAMPLED", "QUEUED", "IN_PROGRESS", "FAILED"])
def test_without_downsampling_only_the_base_level_is_listed(boss, status):
    add_volume(boss, "c/e/ch", noise((8, 40, 40)), levels=3)
    source = make_source(boss.api)
    assert levels_in(list(listing_of(source, "c/e/ch").entries())) == {b"0", b"1", b"2"}
    boss.set_status("c/e/ch", status)
    assert levels_in(list(listing_of(source, "c/e/ch").entries())) == {b"0"}


def test_the_downsampling_status_is_in_no_document(boss):
    add_volume(boss, "c/e/ch", noise((8, 40, 40)), downsampled=False)
    source = make_source(boss.api)
    before = documents_of(listing_of(source, "c/e/ch"))
    for status in ("QUEUED", "IN_PROGRESS", "FAILED"):
        boss.set_status("c/e/ch", status)
        assert documents_of(listing_of(source, "c/e/ch")) == before


def test_levels_start_with_the_uploaded_one(boss):
    """The downsample service counts levels from 0, up to the experiment's number of levels."""
    shape = (8, 40, 40)
    boss.add_collection("c")
    boss.add_frame("f", stop=(160, 160, 8), voxel=(4, 4, 40))
    boss.add_experiment("c/e", "f", levels=4)
    boss.add_channel("c/e/ch", voxels=noise(shape), base_resolution=2)
    source = make_source(boss.api)
    listing = listing_of(source, "c/e/ch")
    assert levels_in(list(listing.entries())) == {b"2", b"3"}
    assert multiscales(documents_of(listing)) == [
        ("2", [40, 16, 16], [0, 6, 6]),
        ("3", [40, 32, 32], [0, 14, 14]),
    ]
    level = read_level(source, listing_of(source, "c/e/ch"), 2, shape, "uint8")
    assert (level == boss.voxels("c/e/ch", 2)).all()


def test_voxels_before_the_frame_start_are_reported_and_not_listed(boss):
    """Upstream compares every level with the frame of level 0, and refuses voxels before it."""
    add_volume(boss, "c/e/ch", noise((8, 60, 60)), start=(20, 0, 0), levels=4)
    source = make_source(boss.api)
    listing = listing_of(source, "c/e/ch")
    entries = list(listing.entries())
    exceptions = {entry.path: entry for entry in entries if isinstance(entry, ExcludedEntry)}
    # in x, level 1 has 10:40, level 2 has 5:20, level 3 has 2:10
    assert levels_in(entries) == {b"0", b"1"}
    assert sorted(exceptions) == [b"1", b"2", b"3"]
    assert {exception.reason for exception in exceptions.values()} == {"out-of-reach"}
    assert "x 10:20" in exceptions[b"1"].detail
    assert "x 5:20" in exceptions[b"2"].detail
    assert "x 2:10" in exceptions[b"3"].detail
    there = boss.voxels("c/e/ch", 1)[:, :, 10:]
    level = read_level(source, listing_of(source, "c/e/ch"), 1, there.shape, "uint8")
    assert (level == there).all()
    assert multiscales(documents_of(listing))[1][2] == [0, 2, 20 * 8 + 2]


def test_voxels_that_are_not_square_have_their_own_level(boss):
    """The downsample service fails: it cannot determine the level that is closest to isotropic."""
    voxels = noise((8, 40, 40))
    add_volume(boss, "c/e/ch", voxels, voxel=(4.0, 5.0, 40.0), downsampled=False)
    source = make_source(boss.api)
    listing = listing_of(source, "c/e/ch")
    assert multiscales(documents_of(listing)) == [("0", [40, 5, 4], [0, 0, 0])]
    assert ".boss/downsample.json" not in documents_of(listing)
    assert (read_level(source, listing, 0, voxels.shape, "uint8") == voxels).all()


def test_records_that_intern_cannot_parse_are_read(boss):
    """A null time unit, and 32-bit voxels."""
    from intern.remote.boss import BossRemote
    from intern.resource.boss.resource import ExperimentResource

    add_volume(boss, "c/e/ch", noise((8, 40, 40), "uint32"))
    remote = BossRemote({"protocol": "http", "host": boss.host, "token": "public"})
    with pytest.raises(AttributeError):
        remote.get_project(ExperimentResource("e", "c"))
    with pytest.raises(ValueError, match="uint32"):
        remote.get_channel("ch", "c", "e")
    documents = documents_of(listing_of(make_source(boss.api), "c/e/ch"))
    assert json.loads(documents["0/zarr.json"])["data_type"] == "uint32"
    assert json.loads(documents[".boss/experiment.json"])["time_step_unit"] is None


@pytest.mark.parametrize(
    ("part", "old", "new", "match"),
    [
        ("channel/em$", '"uint8"', '"float16"', "datatype 'float16'"),
        ("channel/em$", '"image"', "7", "type 7"),
        ("channel/em$", '"base_resolution": 0', '"base_resolution": -1', "base_resolution -1"),
        ("/sections$", '"num_hierarchy_levels": 3', '"num_hierarchy_levels": true', "True"),
        ("/sections$", '"anisotropic"', '"near_iso"', "hierarchy_method 'near_iso'"),
        ("/sections$", '"coord_frame": "demo_sections"', '"coord_frame": null', "no coordinate"),
        ("coord/", '"nanometers"', '"nanometres"', "cannot read|voxel_unit"),
        ("coord/", '"x_start": 0', '"x_start": 0.5', "x_start 0.5"),
        ("coord/", '"x_start": 0', '"x_start": 300', "voxel"),
        ("downsample/", "[4.0, 4.0, 40.0]", "[4.0, 40.0]", "voxel_size"),
        ("downsample/", "[4.0, 4.0, 40.0]", "[4.0, 4.0, NaN]", "voxel size"),
        ("downsample/", "[300, 260, 82]", '[300, "260", 82]', "extent"),
        ("downsample/", "{", "[", "no JSON object|not JSON"),
    ],
)
def test_a_malformed_description_is_an_error(shared_boss, httpserver, part, old, new, match):
    around = RewritingProxy(httpserver, shared_boss)
    path = {
        "channel/em$": "collection/demo_cortex/experiment/sections/channel/em",
        "/sections$": "collection/demo_cortex/experiment/sections",
        "coord/": "coord/demo_sections",
        "downsample/": f"downsample/{TISSUE}",
    }[part]
    truth = json.dumps(requests.get(f"{shared_boss.url}/v1/{path}", timeout=300).json())
    assert old in truth
    body = truth.replace(old, new) if new != "[" else "[]"
    around.replacements[f"v1/{path}$"] = Response(body, content_type="application/json")
    with pytest.raises(UnexpectedReplyError, match=match):
        listing_of(make_source(around.api), TISSUE)


# --- options


def test_a_box_and_a_level_may_be_chosen(shared_boss):
    source = make_source(shared_boss.api, levels=[1], box=[[100, 200], [0, 260], [20, 60]])
    there = shared_boss.voxels(TISSUE, 1)[8:48, :, 50:100]
    listing = listing_of(source, TISSUE)
    assert (read_level(source, listing, 1, there.shape, "uint8") == there).all()
    assert multiscales(documents_of(listing)) == [("1", [40, 8, 8], [800, 2, 402])]


def test_a_level_that_upstream_does_not_have_is_an_error(shared_boss):
    with pytest.raises(ConfigurationError, match="no level 1"):
        listing_of(make_source(shared_boss.api, levels=[0, 1]), SKETCH)


def test_an_estimate_equals_the_listing_of_a_visit(shared_boss):
    source = make_source(shared_boss.api, hash="fetch")
    estimate = source.estimate(source.dataset(TISSUE))
    records = list(listing_of(make_source(shared_boss.api), TISSUE).entries())
    assert estimate is not None
    assert estimate.files == len(records) == estimate.requests
    assert estimate.bytes == sum(record.size for record in records) == estimate.fetched


# --- documents and facts


def test_the_documents_are_upstreams_json_without_volatile_members(shared_boss):
    documents = documents_of(listing_of(make_source(shared_boss.api), CELLS))
    names = ["channel", "collection", "coordinate_frame", "downsample", "experiment", "metadata"]
    kept = {name: json.loads(documents[f".boss/{name}.json"]) for name in names}
    assert sorted(document for document in documents if document.startswith(".boss/")) == [
        f".boss/{name}.json" for name in names
    ]
    left_out = {"storage_type", "bucket", "cv_path", "downsample_status"}
    assert not left_out & kept["channel"].keys()
    assert not {"experiments", "channels"} & (kept["collection"].keys() | kept["experiment"].keys())
    assert not {"status", "cuboid_size"} & kept["downsample"].keys()
    assert kept["channel"]["sources"] == ["em"]
    assert kept["channel"]["creator"] == "demo"
    assert kept["metadata"]["collection"] == {"license": "CC-BY-4.0"}
    for name, value in kept.items():
        written = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        assert documents[f".boss/{name}.json"] == written.encode()


def test_a_new_sibling_changes_no_document(boss):
    add_volume(boss, "c/e/ch", noise((8, 40, 40)))
    before = documents_of(listing_of(make_source(boss.api), "c/e/ch"))
    boss.add_channel("c/e/another")
    boss.add_experiment("c/another", "c_frame")
    assert documents_of(listing_of(make_source(boss.api), "c/e/ch")) == before


def test_the_order_of_siblings_does_not_matter(boss):
    add_volume(boss, "c/e/a", noise((8, 40, 40)))
    boss.add_channel("c/e/b")
    names = ["a", "b"]
    boss.add_channel("c/e/ch", sources=names, related=names)
    source = make_source(boss.api)
    before = documents_of(listing_of(source, "c/e/ch"))
    names.reverse()
    assert documents_of(listing_of(source, "c/e/ch")) == before
    assert json.loads(before[".boss/channel.json"])["related"] == ["a", "b"]


def test_a_storage_move_changes_only_the_links(boss):
    add_volume(boss, "c/e/ch", noise((8, 40, 40)))
    source = make_source(boss.api)
    before = listing_of(source, "c/e/ch")
    boss.move_storage("c/e/ch", bucket="bossdb-open-data", cv_path="/c/e/ch")
    after = listing_of(source, "c/e/ch")
    assert documents_of(after) == documents_of(before)
    assert list(after.entries()) == list(before.entries())
    link = "precomputed://https://bossdb-open-data.s3.amazonaws.com/c/e/ch"
    assert "precomputed" not in dict(before.facts.links)
    assert dict(after.facts.links)["precomputed"] == link


def state_of(link: str) -> Any:
    from urllib.parse import unquote

    return json.loads(unquote(link.partition("#!")[2]))


def test_links_lead_to_viewers(boss):
    add_volume(boss, "c/e/ids", noise((8, 40, 40), "uint64"), kind="annotation")
    source = make_source(boss.api)
    own = f"boss://http://{boss.host}/c/e/ids"
    links = dict(listing_of(source, "c/e/ids").facts.links)
    assert links["boss"] == own
    assert links["neuroglancer"].startswith("https://neuroglancer-demo.appspot.com/#!")
    layer = {"name": "ids", "source": own, "type": "segmentation"}
    assert state_of(links["neuroglancer"]) == {"layers": [layer]}
    assert links["ndviz"].startswith("https://viz.neurodata.io/#!")
    assert state_of(links["ndviz"])["layers"]["ids"]["source"] == own
    boss.move_storage("c/e/ids", bucket="a.bucket.of.mine", cv_path="c/e/i d")
    links = dict(listing_of(source, "c/e/ids").facts.links)
    link = "precomputed://https://s3.amazonaws.com/a.bucket.of.mine/c/e/i%20d"
    assert links["precomputed"] == link
    assert state_of(links["neuroglancer"])["layers"][0]["source"] == link


def test_facts_come_from_the_metadata(boss):
    add_volume(boss, "c/e/ch", noise((8, 40, 40)), description=" Serial\nsections ", sources=["x"])
    boss.add_channel("c/e/x")
    boss.set_metadata("c", "License", "CC0")
    boss.set_metadata("c", "species", "Drosophila")
    boss.set_metadata("c/e", "Species", "Mus musculus")
    boss.set_metadata("c/e", "PI", "Doe, J.")
    boss.set_metadata("c/e/ch", "citation and doi", "see https://doi.org/10.60533/BOSS-2020-X")
    facts = listing_of(make_source(boss.api), "c/e/ch").facts
    assert facts.title == "c/e/ch: Serial sections"
    assert facts.license == ("CC0",)
    assert facts.doi == "10.60533/BOSS-2020-X"
    assert facts.inputs == ("c/e/x",)
    assert facts.attributes == (
        ("investigator", "Doe, J."),
        ("project", "c"),
        ("species", "Mus musculus"),
    )


def test_secrets_in_the_metadata_are_not_kept(boss):
    add_volume(boss, "c/e/ch", noise((8, 40, 40)))
    boss.set_metadata("c/e/ch", "notes", "https://b.s3.amazonaws.com/k?X-Amz-Signature=5ecre7 µm")
    boss.set_metadata("c/e/ch", "password", "hunter2")
    kept = documents_of(listing_of(make_source(boss.api), "c/e/ch"))[".boss/metadata.json"].decode()
    assert "https://b.s3.amazonaws.com/k" in kept
    assert "\\u00b5m" in kept or "µm" in kept
    assert "5ecre7" not in kept
    assert "hunter2" not in kept


def test_metadata_that_may_not_be_read_are_left_out(shared_boss, httpserver):
    around = RewritingProxy(httpserver, shared_boss)
    refusal = '{"status": 403, "code": 3001, "message": "no"}'
    around.replacements["/meta/"] = Response(refusal, 403, content_type="application/json")
    listing = listing_of(make_source(around.api), TISSUE)
    assert ".boss/metadata.json" not in documents_of(listing)
    assert listing.facts.license == ()


def test_failing_metadata_requests_are_an_error(shared_boss, httpserver):
    around = RewritingProxy(httpserver, shared_boss)
    around.replacements["/meta/"] = Response("{}", 400, content_type="application/json")
    with pytest.raises(HttpError, match="HTTP 400"):
        listing_of(make_source(around.api), TISSUE)


# --- confirmation


def test_a_volume_that_grows_while_it_is_read_is_not_proven(boss):
    add_volume(boss, "c/e/ch", noise((8, 40, 40)), levels=2, downsampled=False)
    listing = listing_of(make_source(boss.api), "c/e/ch")
    list(listing.entries())
    boss.downsample("c/e/ch")
    with pytest.raises(UnreliableListingError, match="c/e/ch"):
        listing.confirm_version()


def test_the_token_is_in_no_record(shared_boss, monkeypatch):
    monkeypatch.setenv(TOKEN, shared_boss.token)
    source = make_source(shared_boss.api, token_env=TOKEN, hash="fetch", levels=[2])
    listing = listing_of(source, ACTIVITY)
    output = repr((list(listing.entries()), listing.documents, listing.facts, listing.memo()))
    assert shared_boss.token not in output
