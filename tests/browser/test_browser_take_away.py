"""What a visitor takes away: lock files, files, boxes of volumes; tables on a phone."""

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from neuromirror.lab.lockfile import load_lock
from neuromirror_demo import SHARED
from neuromirror_demo.boss import TISSUE
from neuromirror_demo.bucket_contents import CCF, SORTED_0
from support.browser_page_kinds import labels
from support.browser_session import PHONE, PHONE_DEVICE, BrowserSession, SessionFactory
from support.browser_site import ASSET, GROWING, IMAGES, RELEASED, VOLUME, BrowserSite
from support.running_catalogue import run_catalogue

_DOWNLOADED = (
    *((GROWING, "notes.txt"), (RELEASED, SHARED)),
    *((f"demo-aind:{SORTED_0}", "output"), (f"demo-aind:{CCF}", "ccf_coordinates.csv")),
    (ASSET, "ecephys_clipped/Record Node 104/settings.xml"),
)

_LABELLED = """() => [...document.querySelectorAll('table.cards td[data-label]')].map(one =>
    getComputedStyle(one, '::before').content)"""


def test_a_lock_file_of_two_datasets_is_collected_and_downloaded(
    start_session: SessionFactory, site: BrowserSite, tmp_path: Path
) -> None:
    walk = start_session(site, java_script_enabled=False)
    page = walk.open(f"/dataset/{RELEASED}@latest")
    walk.follow(page.get_by_role("link", name="Add to your list").first)
    assert walk.path.startswith(f"/dataset/{RELEASED}@latest?")
    box = page.get_by_role("searchbox", name="Search the catalogue")
    box.fill("hemisphere")
    with page.expect_navigation():
        box.press("Enter")
    walk.follow(page.get_by_role("link", name=f"Add to your list {IMAGES}"))
    walk.follow(page.get_by_role("link", name="Your list 2 versions"))
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download datasets.lock").click()
    waiting.value.save_as(tmp_path / "datasets.lock")
    found = load_lock(tmp_path / "datasets.lock").datasets
    assert [one.name for one in found] == [RELEASED, IMAGES]
    walk.follow(page.get_by_role("link", name=f"Remove {RELEASED}"))
    assert walk.path.count("add=") == 1
    box = page.get_by_role("searchbox", name="Search datasets to add")
    box.fill("hippocampal")
    with page.expect_navigation():
        box.press("Enter")
    walk.follow(page.get_by_role("link", name=f"Add {RELEASED}"))
    assert walk.path.count("add=") == 2


def test_a_file_is_saved_under_its_name(
    session: BrowserSession, site: BrowserSite, tmp_path: Path
) -> None:
    for name, path in _DOWNLOADED:
        page = session.open(f"/file/{name}@latest?path={quote(path)}")
        assert "This catalogue verifies the file" in session.text
        with page.expect_download() as waiting:
            page.get_by_role("link", name=re.compile("^Download [0-9]")).click()
        assert waiting.value.suggested_filename == path.rpartition("/")[2]
        waiting.value.save_as(tmp_path / "file")
        content = (tmp_path / "file").read_bytes()
        digests = site.site.api(f"/datasets/{name}@latest/file?path={quote(path)}")["digests"]
        expected = digests.get("sha256") or digests["md5"]
        algorithm = "sha256" if "sha256" in digests else "md5"
        assert hashlib.new(algorithm, content).hexdigest() == expected
    # from the list of files of the version
    page = session.open(f"/dataset/{RELEASED}@latest?under={SHARED.rpartition('/')[0]}")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").first.click()
    assert waiting.value.suggested_filename.endswith(".nwb")


def test_a_file_of_an_archive_that_names_it_is_saved_under_its_name(
    start_session: SessionFactory, site: BrowserSite
) -> None:
    with run_catalogue(site.mirror_harness.store, "--no-cutouts") as running:
        walk = start_session(BrowserSite(running, site.mirror_harness))
        page = walk.open(f"/file/{RELEASED}@latest?path={quote(SHARED)}")
        with page.expect_download() as waiting:
            page.get_by_role("link", name=re.compile("^Download [0-9]")).click()
        assert waiting.value.suggested_filename == SHARED.rpartition("/")[2]
        assert not waiting.value.url.startswith(running.address)
        walk.errors.clear()  # the request to the archive


def test_versions_are_picked_from_lists(session: BrowserSession, site: BrowserSite) -> None:
    first, second, *_ = labels(site, RELEASED)
    page = session.open(f"/dataset/{RELEASED}")
    session.follow(page.get_by_role("link", name="Compare two versions"))
    page.get_by_label("From").select_option(f"{RELEASED}@{first}")
    page.get_by_label("To").select_option(f"{RELEASED}@{second}")
    with page.expect_navigation():
        page.get_by_role("button", name="Compare", exact=True).click()
    assert session.heading.startswith("Differences in ")
    assert first in session.text
    assert second in session.text


def test_tables_are_cards_on_a_phone(start_session: SessionFactory, site: BrowserSite) -> None:
    walk = start_session(site, **PHONE_DEVICE)
    for path in (f"/dataset/{RELEASED}@latest", f"/lock?add={RELEASED}@latest", "/events"):
        page = walk.open(path)
        cell = page.locator("table.cards td").first
        assert cell.evaluate("one => getComputedStyle(one).display") == "block"
        named = page.evaluate(_LABELLED)
        assert all(one not in ("none", "") for one in named)
        table = page.locator("table.cards").first.bounding_box()
        assert table is not None
        assert table["width"] <= PHONE["width"]


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
