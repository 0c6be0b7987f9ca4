"""The page of a version: its files, and what can be saved of it."""

import hashlib
from contextlib import closing
from xml.etree import ElementTree

import pytest
import zstandard

from neuromirror.crawl import JournalRecorder
from neuromirror.model import LocationsChecked
from support.running_catalogue import RunningCatalogue, data_values, links, visible_text
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    ScriptedZarr,
    files,
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ScriptedHarness:
    """A store with versions of each sort, which tests only look at."""
    source = ScriptedSource()
    found = ScriptedHarness(tmp_path_factory.mktemp("versions"), source, "[zarr]\ninline = 1\n")
    many = [f"deep/{number:04}/x.txt" for number in range(450)]
    source.scripted_datasets["large"] = ScriptedDataset(
        {name: ScriptedFile(name.encode()) for name in many}
    )
    source.scripted_datasets["long"] = ScriptedDataset(
        files(*(f"{number}.txt" for number in range(5100)))
    )
    source.zarrs["z1"] = ScriptedZarr(files(".zattrs", "zarr.json", "0/0"))
    source.scripted_datasets["imaged"] = ScriptedDataset(
        files("a.txt"), zarrs={"sub/brain.ome.zarr": "z1"}
    )
    source.scripted_datasets["probed"] = ScriptedDataset(files("a.txt", "b.txt"))
    found.sync()
    return found


def test_the_list_of_a_long_version_is_whole(catalogue: RunningCatalogue) -> None:
    lines = catalogue.page("/checksums/box:long@latest").splitlines()
    names = {line.rpartition(": ")[2] for line in lines if line.startswith("# no sha256")}
    assert names == {f"{number}.txt" for number in range(5100)}
    assert lines[-1] == "# not listed: 5,100 files without a sha256"
    # a subdataset is listed, since its files have a separate list
    text = catalogue.page("/checksums/box:imaged@latest")
    assert "# subdataset with its own list: sub/brain.ome.zarr\n" in text


def test_the_manifest_is_of_the_state_that_the_page_names(catalogue: RunningCatalogue) -> None:
    page = catalogue.page("/dataset/box:probed@latest")
    address = next(link for link in links(page) if link.startswith("/manifests/"))
    content = (
        zstandard.ZstdDecompressor().decompressobj().decompress(catalogue.get(address).content)
    )
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" in visible_text(page)
    assert "compressed" in visible_text(page)


def test_badge_has_the_state_and_the_page_the_last_probe(
    box: ScriptedHarness, catalogue: RunningCatalogue
) -> None:
    def record_probe(result: str, name: str, at: str) -> None:
        with box.index() as index:
            row = index.versions.resolve("box:probed")
            urls = [one.url for one in index.locations.of(index.files.get(row, name).content)]
        with closing(JournalRecorder(box.store, box.store.index_path)) as recorder:
            recorder.record(LocationsChecked("box", "probed", {result: urls}, at))

    def probe_counts() -> dict[str, int]:
        return dict(data_values(catalogue.page("/dataset/box:probed@latest")))

    reply = catalogue.get("/badge/box:probed@latest.svg")
    assert reply.headers["content-type"].startswith("image/svg+xml")
    label = ElementTree.fromstring(reply.text).attrib["aria-label"]
    state = catalogue.api("/datasets/box:probed@latest")["state"].removeprefix("sha256:")
    assert label.endswith(state[:12])
    assert probe_counts() == {}
    record_probe("ok", "a.txt", "2026-03-01T00:00:00+00:00")
    assert probe_counts() == {"checked": 1, "available": 1, "unchecked": 1}
    record_probe("ok", "b.txt", "2026-04-01T00:00:00+00:00")
    assert probe_counts() == {"checked": 2, "available": 2}
    record_probe("not-found", "a.txt", "2026-05-01T00:00:00+00:00")
    assert probe_counts() == {"checked": 2, "available": 1}


def test_documents_of_the_archive_are_listed_beside_the_files(site: RunningCatalogue) -> None:
    version = "demo:000002@0.240301.1055"
    listed = site.api(f"/datasets/{version}")["documents"]
    assert {one["path"]: one["cleaned"] for one in listed}["dandiset.yaml"] is False
    text = visible_text(site.page(f"/dataset/{version}"))
    assert f"{len(listed)} documents of the archive" in text
    assert all(one["path"] in text for one in listed)


def test_a_folder_that_does_not_exist_is_not_found(site: RunningCatalogue) -> None:
    version = "/dataset/demo:000002@0.240301.1055"
    site.page(f"{version}?under=sub-201")
    assert "nope" in site.text(f"{version}?under=nope", 404)
