"""The page of a version: its files, and what can be saved of it."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import msgspec
import pytest
import zstandard
from scripted import Box, File, Scripted, Thing, Zarr, files
from web_site import Running, commands, links, plain, running

from neuromirror.annex import git_path
from neuromirror.crawl import JournalRecorder
from neuromirror.model import FileRecord, Location, PlacesAsked

HOSTILE = ("new\nline.txt", "back\\slash.txt", "-begins.txt", "# comment.txt", "sp ace é.txt")


class Named(File):
    """A file whose name is no part of an address as it stands."""

    def record(self, path: str) -> FileRecord:
        place = Location(f"https://bucket.example.invalid/{quote(path)}?versionId=1", "s3", "1")
        return msgspec.structs.replace(super().record(path), locations=(place,))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """A store with versions of each sort, which tests only look at."""
    source = Scripted()
    found = Box(tmp_path_factory.mktemp("versions"), source, "[zarr]\ninline = 1\n")
    many = [f"deep/{number:04}/x.txt" for number in range(450)]
    source.things["large"] = Thing({name: File(name.encode()) for name in many})
    source.things["hostile"] = Thing(
        {
            **{name: Named(name.encode(), sha256=True) for name in HOSTILE},
            "without.bin": File(b"no sha256"),
        }
    )
    source.things["long"] = Thing(files(*(f"{number}.txt" for number in range(5100))))
    source.zarrs["z1"] = Zarr(files(".zattrs", "zarr.json", "0/0"))
    source.things["imaged"] = Thing(files("a.txt"), zarrs={"sub/brain.ome.zarr": "z1"})
    source.things["asked"] = Thing(files("a.txt", "b.txt"))
    found.sync()
    return found


@pytest.fixture(scope="module")
def shelf(box: Box) -> Iterator[Running]:
    """The catalogue of that store."""
    with running(box.store) as site:
        yield site


def test_a_folder_of_many_files_comes_in_pages(shelf: Running) -> None:
    path, found = "/dataset/box:large@latest?under=deep", set()
    for _ in range(3):
        page = shelf.page(path)
        found |= {plain(one) for one in re.findall(r">(\d{4}/)</a>", page)}
        more = [one for one in links(page) if "start=" in one]
        path = more[0] if more else ""
    assert path == ""
    assert found == {f"{number:04}/" for number in range(450)}


def test_words_find_files_in_all_folders_and_further_ones_after_them(shelf: Running) -> None:
    page = shelf.page("/dataset/box:large@latest?match=012+X.TXT")
    found = re.findall(r">(deep/\d{4}/x\.txt)</a>", page)
    assert found[:10] == [f"deep/0{one}/x.txt" for one in ("012", *range(120, 129))][:10]
    path, seen = "/dataset/box:large@latest?match=x.txt", set()
    while path:
        page = shelf.page(path)
        seen |= set(re.findall(r">(deep/\d{4}/x\.txt)</a>", page))
        path = next((one for one in links(page) if "start=" in one), "")
    assert len(seen) == 450
    assert "No file’s path has “nowhere”" in shelf.text("/dataset/box:large@latest?match=nowhere")


def test_sha256sum_takes_the_list_of_checksums_whatever_the_names(
    shelf: Running, tmp_path: Path
) -> None:
    told = shelf.get("/sums/box:hostile@latest")
    assert told.headers["content-type"].startswith("text/plain")
    for name in HOSTILE:
        (tmp_path / git_path(name.encode()).decode()).write_bytes(name.encode())
    command = ["sha256sum", "--check", "--strict"]
    done = subprocess.run(
        command, cwd=tmp_path, input=told.content, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b": OK") == len(HOSTILE)
    assert b"WARNING" not in done.stderr
    assert re.search(r"^# no sha256 is known, but md5:[0-9a-f]{32}: without\.bin$", told.text, re.M)
    assert "# not in the list: 1 file without a sha256" in told.text
    (tmp_path / "-begins.txt").write_bytes(b"other")
    again = subprocess.run(
        command, cwd=tmp_path, input=told.content, capture_output=True, check=False
    )
    assert again.returncode == 1


def test_the_list_of_a_long_version_is_whole(shelf: Running) -> None:
    lines = shelf.page("/sums/box:long@latest").splitlines()
    names = {one.rpartition(": ")[2] for one in lines if one.startswith("# no sha256")}
    assert names == {f"{number}.txt" for number in range(5100)}
    assert lines[-1] == "# not in the list: 5,100 files without a sha256"
    # and a sub-dataset is named, since its files have a list of their own
    told = shelf.page("/sums/box:imaged@latest")
    assert "# a sub-dataset, which has a list of its own: sub/brain.ome.zarr\n" in told


def test_the_manifest_is_of_the_state_that_the_page_names(shelf: Running) -> None:
    page = shelf.page("/dataset/box:asked@latest")
    address = next(one for one in links(page) if one.startswith("/manifests/"))
    content = zstandard.ZstdDecompressor().decompressobj().decompress(shelf.get(address).content)
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" in plain(page)
    assert "compressed" in plain(page)


def test_a_badge_says_when_places_were_asked_and_no_more_than_that(
    box: Box, shelf: Running
) -> None:
    def words(query: str = "") -> str:
        reply = shelf.get(f"/badge/box:asked@latest.svg{query}")
        assert reply.headers["content-type"].startswith("image/svg+xml")
        return ElementTree.fromstring(reply.text).attrib["aria-label"]

    def asked(result: str, name: str, at: str) -> None:
        with box.index() as index:
            row = index.resolve("box:asked")
            urls = [one.url for one in index.locations(index.file(row, name).content)]
        with closing(JournalRecorder(box.store, box.store.index_path)) as recorder:
            recorder.record(PlacesAsked("box", "asked", {result: urls}, at))

    state = shelf.api("/datasets/box:asked@latest")["state"].removeprefix("sha256:")
    assert words().endswith(state[:12])
    assert words("?show=verified") == "verified on: no date yet"
    assert "No place was asked yet" in shelf.text("/dataset/box:asked@latest")
    asked("ok", "a.txt", "2026-03-01T00:00:00+00:00")
    assert words("?show=verified") == "verified on: 2026-03-01 · 1 of 2 files offered"
    asked("ok", "b.txt", "2026-04-01T00:00:00+00:00")
    assert words("?show=verified") == "verified on: 2026-03-01 · all 2 files offered"
    told = shelf.text("/dataset/box:asked@latest")
    assert "2 of 2 files have a place that said it still has them" in told
    asked("gone", "a.txt", "2026-05-01T00:00:00+00:00")
    assert words("?show=verified") == "verified on: 2026-04-01 · 1 of 2 files offered"
    assert shelf.get("/badge/box:asked@latest.svg?show=x").status_code == 400


def test_what_embeds_a_badge_leads_to_the_badge_and_back(shelf: Running) -> None:
    found = commands(shelf.page("/dataset/box:asked@latest"))
    for snippet in (one for one in found if "/badge/" in one):
        addresses = re.findall(r"https?://[^)\"\]]+", snippet)
        assert len(addresses) == 2
        assert {shelf.get(one).status_code for one in addresses} == {200}


def test_a_zarr_in_a_folder_has_viewers_where_it_stands_and_on_its_own_page(
    shelf: Running,
) -> None:
    root = "https://bucket.example.invalid"
    page = shelf.page("/dataset/box:imaged@latest?under=sub")
    row = next(one for one in page.split("<tr>") if "sub-dataset" in one)
    shown = [one for one in links(row) if one.startswith("https://")]
    assert any(one.startswith("https://neuroglancer-demo.appspot.com/#!") for one in shown)
    assert f"https://volumeviewer.allencell.org/viewer?url={quote(root, safe='')}" in shown
    inner = next(one for one in links(row) if one.startswith("/dataset/box:zarr/"))
    assert any("neuroglancer" in one for one in links(shelf.page(inner)))
    assert not any("neuroglancer" in one for one in links(shelf.page("/dataset/box:large@latest")))
