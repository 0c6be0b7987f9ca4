"""A volume in the browser: its slice is seen, and a box of it comes as a file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from neuromirror_demo.boss import TISSUE
from support.browser_session import BrowserSession
from support.browser_site import VOLUME, BrowserSite

PAGE = f"/volume/{VOLUME}@latest"


def test_a_dataset_leads_to_its_volume_and_a_slice_is_seen(session: BrowserSession) -> None:
    session.open(f"/dataset/{VOLUME}")
    session.follow(session.page.locator('main a[href^="/volume/"]').first)
    picture = session.page.locator("main img").first
    picture.scroll_into_view_if_needed()
    size = picture.evaluate("async one => { await one.decode(); return one.naturalWidth; }")
    assert size >= 150
    assert len(picture.get_attribute("alt") or "") > 10


def test_a_box_is_cut_out_by_a_form(
    session: BrowserSession, site: BrowserSite, tmp_path: Path
) -> None:
    page = session.open(PAGE)
    for axis, first, last in (("x", 10, 74), ("y", 20, 70), ("z", 30, 31)):
        page.locator(f'input[name="{axis}0"]').fill(str(first))
        page.locator(f'input[name="{axis}1"]').fill(str(last))
    # the command for an export has the same box
    assert (
        "--box 10:74,20:70,30:31 " in page.locator("[data-what='export commands'] pre").inner_text()
    )
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
