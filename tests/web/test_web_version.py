"""The page of a version: its files, and what can be saved of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
import zstandard

from neuromirror.crawl import JournalRecorder
from neuromirror.model import LocationsChecked
from support.running_catalogue import (
    RunningCatalogue,
    commands,
    data_values,
    links,
    run_catalogue,
    visible_text,
)
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


@pytest.fixture(scope="module")
def catalogue(box: ScriptedHarness) -> Iterator[RunningCatalogue]:
    """The catalogue of that store."""
    with run_catalogue(box.store) as site:
        yield site


def test_filter_finds_files_in_all_folders(catalogue: RunningCatalogue) -> None:
    page = catalogue.page("/dataset/box:large@latest?match=012+X.TXT")
    found = re.findall(r">(deep/\d{4}/x\.txt)</a>", page)
    assert found[:10] == [f"deep/0{one}/x.txt" for one in ("012", *range(120, 129))][:10]
    path, seen = "/dataset/box:large@latest?match=x.txt", set()
    while path:
        page = catalogue.page(path)
        seen |= set(re.findall(r">(deep/\d{4}/x\.txt)</a>", page))
        path = next((one for one in links(page) if "start=" in one), "")
    assert len(seen) == 450
    assert "No file with “nowhere”" in catalogue.text("/dataset/box:large@latest?match=nowhere")


def test_the_list_of_a_long_version_is_whole(catalogue: RunningCatalogue) -> None:
    lines = catalogue.page("/checksums/box:long@latest").splitlines()
    names = {one.rpartition(": ")[2] for one in lines if one.startswith("# no sha256")}
    assert names == {f"{number}.txt" for number in range(5100)}
    assert lines[-1] == "# not listed: 5,100 files without a sha256"
    # a subdataset is listed, since its files have a separate list
    text = catalogue.page("/checksums/box:imaged@latest")
    assert "# subdataset with its own list: sub/brain.ome.zarr\n" in text


def test_the_manifest_is_of_the_state_that_the_page_names(catalogue: RunningCatalogue) -> None:
    page = catalogue.page("/dataset/box:probed@latest")
    address = next(one for one in links(page) if one.startswith("/manifests/"))
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
            row = index.resolve("box:probed")
            urls = [one.url for one in index.locations(index.file(row, name).content)]
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


def test_badge_snippets_link_to_the_badge_and_the_page(catalogue: RunningCatalogue) -> None:
    found = commands(catalogue.page("/dataset/box:probed@latest"))
    for snippet in (one for one in found if "/badge/" in one):
        addresses = re.findall(r"https?://[^)\"\]]+", snippet)
        assert len(addresses) == 2
        assert {catalogue.get(one).status_code for one in addresses} == {200}


def test_a_zarr_in_a_folder_has_viewers_where_it_stands_and_on_its_own_page(
    catalogue: RunningCatalogue,
) -> None:
    root = "https://bucket.example.invalid"
    page = catalogue.page("/dataset/box:imaged@latest?under=sub")
    row = next(one for one in page.split("<tr>") if "subdataset" in one)
    shown = [one for one in links(row) if one.startswith("https://")]
    assert any(one.startswith("https://neuroglancer-demo.appspot.com/#!") for one in shown)
    assert f"https://volumeviewer.allencell.org/viewer?url={quote(root, safe='')}" in shown
    inner = next(one for one in links(row) if one.startswith("/dataset/box:zarr/"))
    assert any("neuroglancer" in one for one in links(catalogue.page(inner)))
    assert not any(
        "neuroglancer" in one for one in links(catalogue.page("/dataset/box:large@latest"))
    )


def test_a_folder_that_does_not_exist_is_not_found(site: RunningCatalogue) -> None:
    version = "/dataset/demo:000002@0.240301.1055"
    site.page(f"{version}?under=sub-201")
    assert "nope" in site.text(f"{version}?under=nope", 404)
