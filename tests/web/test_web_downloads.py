"""A download is saved under the file's name: by the catalogue, or by an archive that names it."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
import requests

from neuromirror.index import Index, VersionRow
from neuromirror.model.records import is_asset_download
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.gateway import service
from neuromirror.web.gateway.modes import GatewayMode, GatewayModes
from neuromirror.web.gateway.service import GatewayService
from neuromirror.web.pages.downloads import DownloadPlan, plan_download, plan_with_copy
from neuromirror_demo import SHARED
from support.gateway_site import mirror_contents
from support.mirror_harness import MirrorHarness
from support.range_server import RangeServer
from support.running_catalogue import RunningCatalogue, run_catalogue, visible_text
from support.volume_archives import EM, VolumeArchives

pytestmark = pytest.mark.usefixtures("no_cache")

PUBLISHED = "demo:000002"
TEXTS = {
    "notes.txt": b"a note\n",
    "sub/table.csv": b"a,b\n1,2\n",
    "page.html": b"<script>alert(1)</script>",
    "output": b"a log\n",
    "r\u00e9sum\u00e9 1.json": b"{}\n",
}
MODES = ("--gateway=redirect", "--gateway=proxy", "--gateway=off")


@pytest.fixture(scope="module")
def archive() -> Iterator[RangeServer]:
    """An archive whose files a browser would open."""
    with RangeServer() as server:
        yield server


def saved_name(reply: requests.Response) -> str:
    """Return the name under which a browser saves a response; fails if it would open it."""
    kind, _, rest = reply.headers["content-disposition"].partition("; ")
    assert kind == "attachment"
    plain, _, extended = rest.partition("; filename*=UTF-8''")
    return unquote(extended) if extended else plain.removeprefix("filename=").strip('"')


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_a_browser_would_open_is_saved_under_its_name(
    tmp_path: Path, archive: RangeServer, mode: str
) -> None:
    harness = mirror_contents(tmp_path / "box", archive, TEXTS)
    with run_catalogue(harness.store, mode) as site:
        for path, content in TEXTS.items():
            reply = site.get(f"/download/box:data@latest?path={quote(path)}")
            assert (reply.status_code, reply.content) == (200, content)
            assert reply.url.startswith(site.address)
            assert saved_name(reply) == path.rpartition("/")[2]
            assert reply.headers["neuromirror-verified"] == "yes"
            assert "sandbox" in reply.headers["content-security-policy"]
            page = site.page(f"/file/box:data@latest?path={quote(path)}")
            assert "This catalogue verifies the file" in visible_text(page)
            head = site.get(f"/download/box:data@latest?path={quote(path)}", stream=True)
            assert head.headers["content-length"] == str(len(content))
            head.close()


def test_a_document_in_git_is_saved(site: RunningCatalogue) -> None:
    reply = site.get(f"/download/{PUBLISHED}@latest?path=dandiset.yaml")
    assert b'"@context"' in reply.content
    assert saved_name(reply) == "dandiset.yaml"
    for path in ("none.yaml", "", "../config", "sub-201", "a%00b"):
        assert site.get(f"/download/{PUBLISHED}@latest?path={path}").status_code == 404, path


def test_wrong_bytes_of_the_archive_are_neither_sent_nor_linked(tmp_path: Path) -> None:
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {"a.txt": b"right"})
        server.contents["/a.txt"] = b"wrong"
        with run_catalogue(harness.store) as site:
            reply = site.get("/download/box:data@latest?path=a.txt", allow_redirects=False)
    assert reply.status_code == 502
    assert "other bytes" in reply.text
    assert reply.headers["content-type"].startswith("text/html")


def test_a_visitor_is_redirected_to_an_archive_that_the_catalogue_does_not_reach(
    tmp_path: Path,
) -> None:
    with RangeServer() as server:
        harness = mirror_contents(tmp_path / "box", server, {"a.txt": b"right"})
        url = f"{server.url}/a.txt"
    with run_catalogue(harness.store) as site:
        reply = site.get("/download/box:data@latest?path=a.txt", allow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (302, url)


def test_nothing_is_read_from_archives_without_permission(demo_harness: MirrorHarness) -> None:
    with run_catalogue(demo_harness.store, "--no-cutouts") as site:
        found = site.get(
            f"/download/{PUBLISHED}@latest?path={quote(SHARED)}", allow_redirects=False
        )
        assert is_asset_download(found.headers["location"])
        reply = site.get(f"/download/{PUBLISHED}@latest?path={quote(SHARED)}")
        assert saved_name(reply) == SHARED.rpartition("/")[2]
        page = site.text(f"/file/{PUBLISHED}@latest?path={quote(SHARED)}")
        assert "Your browser saves it as" not in page


def service_of(harness: MirrorHarness, mode: GatewayMode = "redirect") -> GatewayService:
    store = harness.store
    return GatewayService(
        store, AsyncIndexReader(store.index_path), GatewayModes(mode), relays=True
    )


def plan_of(index: Index, gateway: GatewayService, row: VersionRow, path: str) -> DownloadPlan:
    file = index.files.get(row, path)
    locations = index.locations.of(file.content)
    return plan_download(gateway, row, file, locations, index.files.content_spans(row, path))


def test_a_large_file_comes_from_an_archive_that_names_it(
    demo_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_WHOLE", 0)
    gateway = service_of(demo_harness)
    with demo_harness.index() as index:
        row = index.versions.resolve(PUBLISHED)
        plan = plan_of(index, gateway, row, SHARED)
        assert (plan.is_relayed, plan.is_named) == (False, True)
        assert all(map(is_asset_download, plan.urls))
        assert plan.saved_name(SHARED) == SHARED.rpartition("/")[2]
    gateway.close()


def test_pages_of_blocks_which_have_no_location_open_no_repository(volumes: VolumeArchives) -> None:
    harness = volumes.mirror_harness
    gateway = service_of(harness)

    async def run() -> DownloadPlan:
        with harness.index() as index:
            row = index.versions.resolve(EM)
            file = next(iter(index.files.of(row)))
            plan = plan_of(index, gateway, row, file.path)
        return await plan_with_copy(gateway, row, file, plan)

    assert asyncio.run(run()) == DownloadPlan(True, [])
    assert gateway._versions._slots == {}
    gateway.close()


def test_a_relayed_file_has_the_recorded_bytes(site: RunningCatalogue) -> None:
    reply = site.get(f"/download/{PUBLISHED}@latest?path={quote(SHARED)}")
    listed = site.api(f"/datasets/{PUBLISHED}@latest/files")["files"]
    (file,) = [one for one in listed if one["path"] == SHARED]
    assert hashlib.sha256(reply.content).hexdigest() == file["digests"]["sha256"]
