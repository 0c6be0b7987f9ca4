"""Zarrs under embargo, which the archive denies to have to those who do not own them."""

from __future__ import annotations

import uuid

import requests
from crawl_place import Place

from neuromirror.model import EventRaised, VersionMinted
from neuromirror_demo import DemoArchive
from neuromirror_demo.contents import zarr_entries


def prepared(demo: DemoArchive) -> tuple[str, str]:
    """An embargoed dandiset with a Zarr; gives both."""
    closed = next(name for name, one in demo.dandisets.items() if one.embargoed)
    zarr = demo.add_zarr(closed, "sub-1/sub-1_secret.ome.zarr", zarr_entries())
    assert requests.get(f"{demo.api_url}/zarr/{zarr}/", timeout=300).status_code == 404
    return closed, zarr


def test_a_hidden_zarr_is_told_as_embargoed_and_not_as_missing(
    demo: DemoArchive, place: Place
) -> None:
    _, zarr = prepared(demo)
    result = place.sync(f"demo:zarr/{zarr}")[f"demo:zarr/{zarr}"]
    assert (result.exit_code, result.message) == (0, "embargoed")
    assert place.entries(EventRaised) == []
    assert place.refs() == {}
    missing = f"demo:zarr/{uuid.uuid4()}"
    result = place.sync(missing)[missing]
    assert (result.exit_code, result.visit) == (1, "not_found")
    assert "no such Zarr, or none that it would show" in result.message


def test_a_hidden_zarr_in_an_open_dandiset_is_a_named_exception_and_stops_nothing(
    demo: DemoArchive, place: Place
) -> None:
    _, zarr = prepared(demo)
    demo.share_zarr("000001", "sub-1/sub-1_shared.ome.zarr", zarr)
    result = place.sync("demo:000001")["demo:000001"]
    assert result.exit_code == 0
    assert "1 listed upstream but not mirrored" in result.message
    with place.index() as index:
        row = index.resolve("demo:000001", "draft")
        (exception,) = index.exceptions(row)
        assert row.files == len(demo.paths("000001")) - 1
    assert (exception["reason"], exception["path"]) == ("embargoed", "sub-1/sub-1_shared.ome.zarr")
    assert "under embargo" in exception["detail"]


def test_a_zarr_that_is_hidden_between_its_row_and_its_files_keeps_its_state(
    demo: DemoArchive, place: Place
) -> None:
    """The row still says that it is open; the archive has none to show, and no files to read."""
    path = "sub-1/sub-1_img.ome.zarr"
    zarr = demo.add_zarr("000003", path, zarr_entries())
    demo.share_zarr("000001", path, zarr)
    (place.mirrors / "demo.toml").write_text(
        f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n[zarr]\ninline_parts = 0\n'
    )
    assert place.sync("demo:000001")["demo:000001"].exit_code == 0
    refs = place.refs()
    with demo.fault("status", path=f"/zarr/{zarr}/$", status=404):
        result = place.sync("demo:000001", deep=True)["demo:000001"]
    assert (result.exit_code, result.visit) == (1, "failed")
    assert f"demo:zarr/{zarr}" in result.message
    assert place.refs() == refs
    assert [one.kind for one in place.entries(EventRaised)] == []
    assert {one.local_id for one in place.entries(VersionMinted)} == {"000001", f"zarr/{zarr}"}
