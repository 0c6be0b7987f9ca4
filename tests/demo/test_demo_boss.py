"""The demo BOSS describes its resources like a real BOSS, quirks included."""

from __future__ import annotations

from typing import Any

from neuromirror_demo.boss import ACTIVITY, PRIVATE, TISSUE, DemoBoss
from support.boss_client import address, ask, error_of

SECTIONS = "collection/demo_cortex/experiment/sections"


def get_json(boss: DemoBoss, path: str, **how: Any) -> Any:
    reply = ask(boss, path, **how)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_resources_have_the_fields_of_upstreams_serializers(still_boss: DemoBoss) -> None:
    collection = "name public description experiments creator"
    experiment = (
        "channels name public description collection coord_frame num_hierarchy_levels "
        "hierarchy_method num_time_samples time_step time_step_unit creator"
    )
    channel = (
        "name public description experiment default_time_sample type base_resolution datatype "
        "creator sources downsample_status related storage_type bucket cv_path"
    )
    frame = (
        "name description x_start x_stop y_start y_stop z_start z_stop x_voxel_size y_voxel_size "
        "z_voxel_size voxel_unit"
    )
    for path, fields in (
        ("collection/demo_cortex", collection),
        (SECTIONS, experiment),
        (f"{SECTIONS}/channel/cells", channel),
        ("coord/demo_sections", frame),
    ):
        assert " ".join(get_json(still_boss, path)) == fields
    cells = get_json(still_boss, f"{SECTIONS}/channel/cells")
    assert (cells["type"], cells["datatype"], cells["sources"]) == ("annotation", "uint64", ["em"])
    frame_ = get_json(still_boss, "coord/demo_sections")
    assert (frame_["z_start"], frame_["z_stop"], frame_["z_voxel_size"]) == (12, 82, 40.0)
    calcium = get_json(still_boss, "collection/demo_activity/experiment/calcium")
    assert (calcium["num_time_samples"], calcium["time_step"]) == (3, 50)
    assert (calcium["time_step_unit"], calcium["hierarchy_method"]) == ("milliseconds", "isotropic")


def test_level_extents_are_halved_from_the_frame_stop(still_boss: DemoBoss) -> None:
    made = get_json(still_boss, "downsample/demo_cortex/sections/em")
    assert made["status"] == "DOWNSAMPLED"
    assert made["num_hierarchy_levels"] == 3
    assert made["voxel_size"] == {"0": [4, 4, 40], "1": [8, 8, 40], "2": [16, 16, 40]}
    assert made["extent"] == {"0": [300, 260, 82], "1": [150, 130, 82], "2": [75, 65, 82]}
    assert made["cuboid_size"] == {level: [512, 512, 16] for level in "012"}
    made = get_json(still_boss, f"downsample/{ACTIVITY}")
    assert made["voxel_size"]["2"] == [6, 6, 6]
    assert made["extent"] == {"0": [150, 130, 36], "1": [75, 65, 18], "2": [38, 33, 9]}
    assert (
        get_json(still_boss, "downsample/demo_cortex/sections/sketch")["status"]
        == "NOT_DOWNSAMPLED"
    )


def test_wrong_token_is_401_but_500_for_cutouts(still_boss: DemoBoss) -> None:
    reply = ask(still_boss, "collection/", token="wrong")
    assert (reply.status_code, reply.json()) == (401, {"detail": "Invalid token."})
    assert reply.headers["WWW-Authenticate"] == "api"
    where = address(TISSUE, 0, ((0, 9), (0, 9), (12, 13)))
    for accept in ("application/blosc", "application/npygz"):
        reply = ask(still_boss, where, token="wrong", headers={"Accept": accept})
        assert (reply.status_code, reply.text) == (500, "<h1>Server Error (500)</h1>")


def test_private_resources_are_visible_only_to_the_owner(still_boss: DemoBoss) -> None:
    detail = "collection/demo_private/experiment/notes/channel/draft"
    where = address(PRIVATE, 0, ((0, 9), (0, 9), (0, 9)))
    other = (f"downsample/{PRIVATE}", f"meta/{PRIVATE}/")
    for path in (detail, "collection/demo_private", where, *other):
        for token in (None, "public"):
            assert error_of(ask(still_boss, path, token=token)) == (403, 3001)
        assert ask(still_boss, path, token=still_boss.token).status_code == 200
    assert (
        "demo_private" in get_json(still_boss, "collection/", token=still_boss.token)["collections"]
    )
    assert get_json(still_boss, "collection/", token=None) == get_json(still_boss, "collection/")


def test_metadata_needs_the_public_user(still_boss: DemoBoss) -> None:
    path = "meta/demo_cortex/sections/"
    assert get_json(still_boss, path) == {"keys": ["citation & doi"]}
    found = get_json(still_boss, path, params={"key": "citation & doi"})
    assert found == {"key": "citation & doi", "value": "Doe 2024, 10.0000/demo?a=1"}
    assert error_of(ask(still_boss, path, token=None)) == (403, 3001)
    assert error_of(ask(still_boss, path, params={"key": "none"})) == (400, 1003)
    for method in ("POST", "PUT", "DELETE"):
        assert ask(still_boss, f"meta/{TISSUE}/", method=method).status_code == 405


def test_a_resource_marked_for_deletion_is_404_with_a_code_of_its_own(boss: DemoBoss) -> None:
    detail = f"{SECTIONS}/channel/em"
    where = address(TISSUE, 0, ((0, 9), (0, 9), (12, 13)))
    paths = (detail, where, f"meta/{TISSUE}/", f"downsample/{TISSUE}")
    boss.soft_delete(TISSUE)
    assert {error_of(ask(boss, path)) for path in paths} == {(404, 4005)}
    assert "em" not in get_json(boss, f"{SECTIONS}/channel/")["channels"]
    assert "em" not in get_json(boss, SECTIONS)["channels"]
    assert get_json(boss, f"{SECTIONS}/channel/cells")["sources"] == []
    boss.restore(TISSUE)
    assert {ask(boss, path).status_code for path in paths} == {200}
    boss.purge(TISSUE)
    assert {error_of(ask(boss, path)) for path in paths} == {(404, 4000)}
