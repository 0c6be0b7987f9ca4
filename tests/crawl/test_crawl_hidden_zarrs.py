"""Embargoed Zarrs, which the archive hides from everyone but their owners."""

from __future__ import annotations

import uuid

import requests

from neuromirror.model import EventRaised, VersionMinted
from neuromirror_demo import DemoArchive
from neuromirror_demo.archive_contents import zarr_entries
from support.mirror_harness import MirrorHarness


def add_hidden_zarr(demo: DemoArchive) -> tuple[str, str]:
    """Add an embargoed dandiset with a Zarr; return both."""
    closed = next(name for name, one in demo.dandisets.items() if one.embargoed)
    zarr = demo.add_zarr(closed, "sub-1/sub-1_secret.ome.zarr", zarr_entries())
    assert requests.get(f"{demo.api_url}/zarr/{zarr}/", timeout=300).status_code == 404
    return closed, zarr


def test_a_hidden_zarr_is_reported_as_embargoed_and_not_as_missing(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    _, zarr = add_hidden_zarr(demo)
    result = mirror_harness.sync(f"demo:zarr/{zarr}")[f"demo:zarr/{zarr}"]
    assert (result.exit_code, result.message) == (0, "embargoed")
    assert mirror_harness.entries(EventRaised) == []
    assert mirror_harness.refs() == {}
    missing = f"demo:zarr/{uuid.uuid4()}"
    result = mirror_harness.sync(missing)[missing]
    assert (result.exit_code, result.visit) == (1, "not_found")
    assert "no such Zarr" in result.message


def test_a_hidden_zarr_in_an_open_dandiset_is_a_named_exception_and_stops_nothing(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    _, zarr = add_hidden_zarr(demo)
    demo.share_zarr("000001", "sub-1/sub-1_shared.ome.zarr", zarr)
    result = mirror_harness.sync("demo:000001")["demo:000001"]
    assert result.exit_code == 0
    assert "1 listed upstream but not mirrored" in result.message
    with mirror_harness.index() as index:
        row = index.resolve("demo:000001", "draft")
        (exception,) = index.exceptions(row)
        assert row.files == len(demo.paths("000001")) - 1
    assert (exception["reason"], exception["path"]) == ("embargoed", "sub-1/sub-1_shared.ome.zarr")
    assert "under embargo" in exception["detail"]


def test_a_zarr_that_is_hidden_between_its_row_and_its_files_keeps_its_state(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    """The row still has it as open; the archive does not find it, nor its files."""
    path = "sub-1/sub-1_img.ome.zarr"
    zarr = demo.add_zarr("000003", path, zarr_entries())
    demo.share_zarr("000001", path, zarr)
    (mirror_harness.mirrors / "demo.toml").write_text(
        f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n[zarr]\ninline_components = 0\n'
    )
    assert mirror_harness.sync("demo:000001")["demo:000001"].exit_code == 0
    refs = mirror_harness.refs()
    with demo.fault("status", path=f"/zarr/{zarr}/$", status=404):
        result = mirror_harness.sync("demo:000001", deep=True)["demo:000001"]
    assert (result.exit_code, result.visit) == (1, "failed")
    assert f"demo:zarr/{zarr}" in result.message
    assert mirror_harness.refs() == refs
    assert [one.kind for one in mirror_harness.entries(EventRaised)] == []
    assert {one.local_id for one in mirror_harness.entries(VersionMinted)} == {
        "000001",
        f"zarr/{zarr}",
    }
