"""The files of a catalogue, opened by a URL without a store and verified here."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

import neuromirror
from neuromirror.crawl import open_recorder
from neuromirror.crawl.takedown import take_down
from neuromirror.stream import StreamError, open_tree
from support.gateway_site import mirror_contents, serve_gateway
from support.range_server import RangeHandler, RangeRequest, RangeServer

CONTENT = random.Random(5).randbytes(3_000_000)
SMALL = b"small content"


@pytest.fixture(scope="module")
def archive() -> Iterator[RangeServer]:
    """The archive."""
    with RangeServer() as server:
        yield server


@pytest.fixture(scope="module")
def at(archive: RangeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a version in a gateway."""
    contents = {"sub 1/data.bin": CONTENT, "sub 1/\u00e9#?.txt": SMALL, "b.txt": b"b"}
    harness = mirror_contents(tmp_path_factory.mktemp("box"), archive, contents, piece_size=1 << 16)
    with serve_gateway(harness) as found:
        yield found


@pytest.fixture(autouse=True)
def no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a store, and with an empty home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEUROMIRROR_STORE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_file_is_opened_by_the_url_of_a_page(at: str) -> None:
    pages = at.replace("/at/", "/dataset/"), at, f"{at}/b.txt"
    for address in pages:
        with neuromirror.open(address, "sub 1/data.bin") as file:
            file.seek(1_000_000)
            assert file.read(100) == CONTENT[1_000_000:1_000_100]
    with neuromirror.open(at, "sub 1/\u00e9#?.txt") as file:
        assert file.read() == SMALL


def test_the_tree_is_that_of_the_version(at: str) -> None:
    tree = open_tree(at)
    try:
        assert tree.name.startswith("box:data@")
        entries = {entry.name: entry for entry in tree.entries("") or ()}
        assert entries["sub 1"].is_folder
        assert entries["b.txt"].size == 1
        inner = {entry.name: entry for entry in tree.entries("sub 1") or ()}
        assert inner["data.bin"].size == len(CONTENT)
        file = tree.file("sub 1/data.bin")
        assert file is not None
        assert file.digest == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
        digests = tree.block_digests(file)
        assert digests is not None
        assert digests.piece_size == 1 << 16
        assert tree.document(".gitattributes")
        for absent in ("absent", "sub 1", "b.txt/x", "../b.txt", ""):
            assert tree.file(absent) is None
            assert tree.document(absent) is None
        assert tree.entries("absent") is None
    finally:
        tree.close()


def test_every_entry_of_a_folder_is_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.web.gateway.pages._JSON_ENTRIES", 1)
    # in the order of paths, the folder a follows a-b and a.txt
    names = [".zarray", "a-b", "a.txt", *(f"a/{number}" for number in range(20)), "b"]
    contents = {f"huge.zarr/{name}": name.encode() for name in names} | {
        "x/a/b": b"1",
        "x/a-b": b"2",
    }
    with RangeServer() as server:
        settings = "[zarr]\ninline = 4\nmanifest = 12\n"
        harness = mirror_contents(tmp_path / "box", server, contents, settings=settings)
        with serve_gateway(harness) as address, closing(open_tree(address)) as tree:
            for folder, found in (
                ("huge.zarr", [".zarray", "a", "a-b", "a.txt", "b"]),
                ("huge.zarr/a", sorted(map(str, range(20)))),
                ("x", ["a", "a-b"]),
            ):
                entries = [one.name for one in tree.entries(folder) or () if one.name[:4] != ".git"]
                assert sorted(set(entries) & set(found)) == found, folder
                assert len(entries) == len(set(entries))
            absent = f"{address}/x/?format=json&after=a.b"
            assert requests.get(absent, timeout=60).status_code == 400
            # the rest of a list that is gone is no end of the list
            rest = iter(tree.entries("huge.zarr") or ())
            next(rest)
            with open_recorder(harness.store, harness.store.index_path) as recorder:
                list(take_down(harness.store, recorder, "box:data", "a test", "me", {}))
            with pytest.raises(StreamError):
                list(rest)


def test_wrong_bytes_are_an_error_here(at: str, archive: RangeServer) -> None:
    def fault(handler: RangeHandler, request: RangeRequest) -> bool:
        handler.send_range(bytes(len(CONTENT)), request)
        return True

    archive.fault = fault
    try:
        with neuromirror.open(at, "sub 1/data.bin") as file, pytest.raises(StreamError):
            file.read(200_000)
    finally:
        archive.fault = lambda handler, request: False
