"""The page of a file: its past, its places, and what can look at it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest
from scripted import START, Box, File, Scripted, Thing, files
from web_site import Running, commands, links, plain, running

from neuromirror.crawl import JournalRecorder
from neuromirror.model import FileRecord, Location, PlacesAsked


class At(File):
    """A file that is at other places than the bucket."""

    places: tuple[str, ...] = ()

    def record(self, path: str) -> FileRecord:
        found = tuple(Location(url, "api") for url in self.places)
        return msgspec.structs.replace(super().record(path), locations=found)


def at(*places: str) -> File:
    """A file at places of its own."""
    found = At(repr(places).encode())
    found.places = places
    return found


DANDI = "https://api.dandiarchive.org/api/assets/546a7033/download/"
OPEN = "https://bucket.example.org/some.nwb"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """A store with files of each sort, which tests only look at."""
    source = Scripted()
    found = Box(tmp_path_factory.mktemp("files"), source)
    source.things["one"] = Thing({"a.txt": File(b"first"), "same.txt": File(b"shared")})
    source.things["two"] = Thing({"deep/copy.txt": File(b"shared")})
    source.things["000027"] = Thing(
        {
            "dandi.nwb": at(OPEN, DANDI),
            "open.nwb": at("http://127.0.0.1:9/x.nwb", OPEN + "?versionId=1"),
            "inner.nwb": at("https://10.0.0.1/x.nwb", "https://localhost/x.nwb", "http://a.org/x"),
            "brain.nii.gz": at("https://bucket.example.org/brain.nii.gz"),
            "notes.txt": at("https://bucket.example.org/notes.txt"),
        }
    )
    found.sync()
    later = START + timedelta(hours=1)
    source.things["one"].files["a.txt"] = File(b"second", later)
    found.sync()
    del source.things["one"].files["a.txt"]
    found.sync()
    return found


@pytest.fixture(scope="module")
def shelf(box: Box) -> Iterator[Running]:
    """The catalogue of that store."""
    with running(box.store) as site:
        yield site


def viewers(shelf: Running, path: str) -> list[str]:
    page = shelf.page(f"/file/box:000027@latest?path={quote(path)}")
    ours = ("https://neurosift.app", "https://neuroglancer-demo")
    return [one for one in links(page) if one.startswith(ours)]


def test_the_past_of_a_path_leads_to_what_it_held(shelf: Running) -> None:
    first, second, gone = [
        one["version"] for one in shelf.api("/datasets/box:one/versions")["versions"]
    ]
    page = shelf.page(f"/file/box:one@{second}?path=a.txt")
    spans = [one for one in links(page) if one.startswith("/file/box:one@")]
    assert {one.split("@")[1].split("?")[0] for one in spans} == {first, second}
    assert plain(page).count("these bytes") >= 1
    assert "6 B" in shelf.text(f"/file/box:one@{second}?path=a.txt")
    # where it is no more, the page says where it was
    error = shelf.page(f"/file/box:one@{gone}?path=a.txt", 404)
    near = [one for one in links(error) if one.startswith("/file/box:one@")]
    assert near
    assert all(shelf.get(one).status_code == 200 for one in near)


def test_other_datasets_with_the_bytes_are_named_and_their_own_pages_name_this(
    shelf: Running,
) -> None:
    page = shelf.page("/file/box:one@latest?path=same.txt")
    other = next(one for one in links(page) if one.startswith("/file/box:two@"))
    back = shelf.page(other)
    assert any(one.startswith("/file/box:one@") for one in links(back))


def test_each_place_says_when_it_was_asked_and_what_it_said(box: Box, shelf: Running) -> None:
    page = "/file/box:two@latest?path=deep/copy.txt"
    assert "not asked yet" in shelf.text(page)
    assert any("curl" in one for one in commands(shelf.page(page)))
    with box.index() as index:
        row = index.resolve("box:two")
        urls = [one.url for one in index.locations(index.file(row, "deep/copy.txt").content)]
    with closing(JournalRecorder(box.store, box.store.index_path)) as recorder:
        at = "2026-03-01T12:00:00+00:00"
        recorder.record(PlacesAsked("box", "two", {"gone": urls[:1]}, at))
    told = shelf.text(page)
    assert "gone 2026-03-01 12:00 UTC" in told
    # what is gone is not what the page would have one fetch
    assert not any(urls[0] in one for one in commands(shelf.page(page)))


def test_neurosift_is_given_the_archives_own_address_and_the_dandiset(shelf: Running) -> None:
    (address,) = viewers(shelf, "dandi.nwb")
    asked = parse_qs(urlsplit(address).query)
    assert asked["url"] == [DANDI]
    assert asked["dandisetId"] == ["000027"]
    (address,) = viewers(shelf, "open.nwb")
    assert parse_qs(urlsplit(address).query) == {"url": [f"{OPEN}?versionId=1"]}


def test_viewers_are_given_public_places_only_and_files_that_they_know(shelf: Running) -> None:
    assert viewers(shelf, "inner.nwb") == []
    assert viewers(shelf, "notes.txt") == []
    (address,) = viewers(shelf, "brain.nii.gz")
    assert address.startswith("https://neuroglancer-demo.appspot.com/#!")


def test_what_curl_brings_is_what_the_checksum_says(site: Running, tmp_path: Path) -> None:
    listed = site.api("/datasets/demo:000001@latest/files")["files"]
    path = next(one["path"] for one in listed if one["path"].endswith(".nwb"))
    found = commands(site.page(f"/file/demo:000001@latest?path={quote(path)}"))
    for beginning in ("curl ", "echo "):
        command = next(one for one in found if one.startswith(beginning))
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
    assert (tmp_path / Path(path).name).is_file()
    assert f"datalad get -- {path}" in found


def test_a_name_that_a_shell_would_read_is_quoted(box: Box, source: Scripted) -> None:
    name = "$(touch owned) 'x'; -y.txt"
    source.things["odd"] = Thing(files("b.txt") | {name: at("https://bucket.example.org/y")})
    box = Box(box.folder.parent / "odd", source)
    box.sync()
    with running(box.store) as site:
        for command in commands(site.page(f"/file/box:odd@latest?path={quote(name)}")):
            done = subprocess.run(
                ["sh", "-nc", command], capture_output=True, check=False, cwd=box.folder
            )
            assert done.returncode == 0, command
            words = command.replace("curl", "echo").replace("datalad", "echo")
            words = words.replace("neuromirror", "echo").partition("|")[0]
            said = subprocess.run(
                ["sh", "-c", words], capture_output=True, text=True, check=True, cwd=box.folder
            )
            assert name in said.stdout
        assert not (box.folder / "owned").exists()
