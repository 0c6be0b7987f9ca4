"""What programs read of the catalogue: Croissant, typed links, the harvest feed, heads of pages."""

import logging
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, files
from support.volume_archives import EM

NAME = "demo:000002@0.240301.1055"


def typed_links(reply: requests.Response) -> list[tuple[str, str]]:
    """Return relation and target of the links in a header."""
    header_links = requests.utils.parse_header_links(reply.headers["link"])
    return [(one["rel"], one["url"]) for one in header_links]


def test_mlcroissant_reads_the_croissant_metadata(
    site: RunningCatalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlcroissant

    caplog.set_level(logging.ERROR)
    reply = site.get(f"/croissant/{NAME}.json")
    assert reply.headers["content-type"] == "application/ld+json"
    (tmp_path / "croissant.json").write_bytes(reply.content)
    metadata = mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json")).metadata
    listed = site.api(f"/datasets/{NAME}/files")["files"]
    found = {one.name: one.sha256 for one in metadata.distribution}
    assert found == {one["path"]: one["digests"]["sha256"] for one in listed}
    assert site.get("/croissant/demo:000002@9.9.9.json").status_code == 404


@pytest.mark.parametrize("path", ["/dataset/demo:000002", f"/dataset/{NAME}"])
def test_the_header_links_to_metadata_and_items(site: RunningCatalogue, path: str) -> None:
    found = typed_links(site.get(path))
    relations = [relation for relation, _ in found]
    for one in ("cite-as", "describedby", "item", "license", "type", "collection"):
        assert one in relations
    assert relations.count("cite-as") == 1
    assert ("cite-as", "https://doi.org/10.5072/dandi.000002/0.240301.1055") in found
    for relation, target in found:
        if target.startswith(site.address):
            assert site.get(target).status_code == 200, (relation, target)
    # without a DOI
    label = site.api("/datasets/demo:000001")["version"]
    found = typed_links(site.get("/dataset/demo:000001"))
    assert ("cite-as", f"{site.address}/dataset/demo:000001@{label}") in found


def test_no_field_of_metadata_ends_a_link(box: ScriptedHarness) -> None:
    odd = 'a>; rel="cite-as", <evil.example.org'
    box.datasets[odd] = ScriptedDataset(files("a.txt"))
    box.sync()
    with run_catalogue(box.store) as site:
        (row,) = site.api("/datasets")["datasets"]
        found = typed_links(site.get(f"/dataset/{quote(row['name'], safe=':')}"))
    assert not [target for _, target in found if target.startswith("evil")]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> ScriptedHarness:
    """A store of more datasets than a page of the harvest feed has, to read only."""
    source = ScriptedSource()
    source.scripted_datasets = {f"d{one:03}": ScriptedDataset(files("a.txt")) for one in range(60)}
    box = ScriptedHarness(tmp_path_factory.mktemp("many") / "box", source)
    box.sync()
    return box


def test_the_harvest_feed_has_every_dataset_once(many: ScriptedHarness) -> None:
    with run_catalogue(many.store) as site:
        found, following = [], "/harvest.json"
        while following:
            page = site.get(following).json()
            found += page["datasets"]
            following = page["next"]
        assert sorted(one["url"].rpartition(":")[2] for one in found) == sorted(many.datasets)
        assert all(one["@type"] == "Dataset" and one["sdDatePublished"] for one in found)
        assert site.get("/harvest.json?since=2999-01-01").json()["datasets"] == []
        first = site.get("/harvest.json?since=2000-01-01").json()
        assert len(first["datasets"]) == 50
        assert "since=2000-01-01" in first["next"]
        with_offset = "/harvest.json?since=2000-01-01T00:00:00%2B00:00"
        second = site.get(site.get(with_offset).json()["next"]).json()
        assert len(second["datasets"]) == 10
        for wrong in ("yesterday", "2024-02-30", "20240301T101112", "2024-03-01T25:00:00Z"):
            assert site.get(f"/harvest.json?since={wrong}").status_code == 400


def test_withdrawals_are_in_the_harvest_feed_and_shift_no_page(
    many: ScriptedHarness, tmp_path: Path
) -> None:
    shutil.copytree(many.folder, tmp_path / "store", symlinks=True)
    box = MirrorHarness(many.mirrors, tmp_path / "store")
    with run_catalogue(box.store) as site:
        first = site.get("/harvest.json").json()
        assert first["deleted"] == []
        box.withdraw("box:d000")
        second = site.get(first["next"]).json()
        assert len({one["url"] for one in first["datasets"] + second["datasets"]}) == 60
        (gone,) = site.get("/harvest.json").json()["deleted"]
        assert gone["url"] == f"{site.address}/dataset/box:d000"
        since = quote(gone["dateDeleted"])
        assert site.get(f"/harvest.json?since={since}").json()["deleted"] == [gone]
        later = site.get(f"/harvest.json?since={first['started']}").json()
        assert later["deleted"] == [gone]
        assert site.get("/harvest.json?since=2999-01-01").json()["deleted"] == []


def test_metadata_of_a_volume_name_what_its_voxels_are(volume_site: RunningCatalogue) -> None:
    found: dict[str, Any] = {}
    following = "/harvest.json"
    while following:
        page = volume_site.get(following).json()
        found |= {one["url"].rpartition("/dataset/")[2]: one for one in page["datasets"]}
        following = page["next"]
    assert found[EM]["variableMeasured"] == ["image intensity (uint8 voxels)"]
    measured = {
        one["variableMeasured"][0].partition(" (")[0]
        for one in found.values()
        if "variableMeasured" in one
    }
    assert measured == {"image intensity", "object ids"}
    derived = [one for one in found.values() if "isBasedOn" in one]
    assert any(f"/dataset/{EM}" in base for one in derived for base in one["isBasedOn"])


def properties(page: str) -> dict[str, str]:
    """Return the description and the Open Graph properties in the head of a page."""
    found = re.findall(r'<meta (?:name|property)="([^"]+)" content="([^"]*)">', page)
    return {name: unescape(value) for name, value in found}


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/search?q=demo&page=1", "/search?archive=demo", "/find", "/lock", "/diff", "/help"),
        *("/api", "/mirrors", "/changes", "/events", "/dataset/demo:000001", f"/dataset/{NAME}"),
        *(f"/file/{NAME}?path=dataset%20notes.txt", f"/preview/{NAME}?path=dataset%20notes.txt"),
        *(f"/diff?a={NAME}&b=demo:000002@draft", "/find?checksum=sha256:00000000", f"/at/{NAME}/"),
    ],
)
def test_every_page_describes_itself_in_its_head(site: RunningCatalogue, path: str) -> None:
    browser = {"accept": "text/html"}
    page = site.get(path, headers=browser).text
    found = properties(page)
    (title,) = re.findall(r"<title>(.*?)</title>", page)
    assert found["og:title"] == unescape(title)
    assert found["description"] == found["og:description"]
    assert 10 < len(found["description"]) < 700
    assert found["og:url"].partition("?")[0] == site.address + path.partition("?")[0]
    other = site.get(found["og:url"], headers=browser)
    assert properties(other.text)["og:title"] == found["og:title"]
