"""A volume in the browser: its slice is seen, and a box of it comes as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_site import VOLUME, Shown
from browser_walk import Walk
from PIL import Image

from neuromirror_demo.boss import TISSUE

PAGE = f"/volume/{VOLUME}@latest"


def test_a_dataset_leads_to_its_volume_and_a_slice_is_seen(walk: Walk) -> None:
    walk.open(f"/dataset/{VOLUME}")
    walk.follow(walk.page.locator('main a[href^="/volume/"]').first)
    picture = walk.page.locator("main img").first
    picture.scroll_into_view_if_needed()
    size = picture.evaluate("async one => { await one.decode(); return one.naturalWidth; }")
    assert size >= 150
    assert len(picture.get_attribute("alt") or "") > 10


def test_a_box_is_cut_out_by_a_form(walk: Walk, site: Shown, tmp_path: Path) -> None:
    page = walk.open(PAGE)
    for axis, first, last in (("x", 10, 74), ("y", 20, 70), ("z", 30, 31)):
        page.locator(f'input[name="{axis}0"]').fill(str(first))
        page.locator(f'input[name="{axis}1"]').fill(str(last))
    page.get_by_role("radio", name="PNG").check()
    with page.expect_download() as coming:
        page.get_by_role("button", name="Cut out").click()
    target = tmp_path / coming.value.suggested_filename
    coming.value.save_as(target)
    assert target.suffix == ".png"
    with Image.open(target) as cut:
        assert cut.size == (64, 50)
        assert site.boss is not None
        voxels = site.boss.voxels(TISSUE)  # the first section is number 12
        assert cut.tobytes() == voxels[30 - 12, 20:70, 10:74].tobytes()


@pytest.mark.parametrize("value", ["", "-1", "100000"])
def test_a_box_that_cannot_be_is_refused_with_words(walk: Walk, value: str) -> None:
    page = walk.open(PAGE)
    page.locator('input[name="x1"]').fill(value)
    page.locator("form:has(input[name=x1])").evaluate("one => { one.noValidate = true; }")
    walk.expected = 400
    walk.follow(page.get_by_role("button", name="Cut out"))
    assert "No cut-out" in walk.page.get_by_role("alert").inner_text()
    assert page.locator('input[name="x1"]').is_visible()
