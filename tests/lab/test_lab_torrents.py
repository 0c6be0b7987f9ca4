"""Torrents: a real client downloads the files from their URLs and verifies them."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from neuromirror.annex import sha256e_key
from neuromirror.lab.torrents import bencode, export_torrents, torrent_of, web_seed
from neuromirror.model import LEAF_SIZE
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.transfer.verify_items import PinnedFile
from neuromirror_demo import DemoArchive
from support.block_digests import digests_of
from support.command_shell import Shell

NAME = "demo:000004"
needs_libtorrent = pytest.mark.skipif(
    sys.platform != "linux", reason="libtorrent has wheels for Linux only"
)


@pytest.fixture
def digested(demo: DemoArchive, tmp_path: Path) -> Shell:
    """A store with the block digests of all three files."""
    shell = Shell(demo.mirrors, tmp_path / "store")
    shell.run("sync", NAME)
    shell.run("digest", NAME, "--piece-size", "16KiB")
    return shell


def download(torrent: Path, folder: Path, seconds: float = 30.0) -> Any:
    """Download a torrent from its web seeds only, and return the last status."""
    import libtorrent

    session = libtorrent.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            **dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False),
            "ssrf_mitigation": False,
        }
    )
    parameters = libtorrent.load_torrent_file(str(torrent))
    parameters.save_path = str(folder)
    handle = session.add_torrent(parameters)
    until = time.monotonic() + seconds
    while not handle.status().is_seeding and time.monotonic() < until:
        time.sleep(0.05)
    return handle.status()


@needs_libtorrent
def test_a_client_downloads_and_verifies_the_files_of_a_version(
    digested: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    files = digested.records("files", NAME)
    made = digested.records("export", NAME, "--format", "torrent", "-o", str(tmp_path / "torrents"))
    assert [(one["path"], one["status"]) for one in made] == [
        (path, "ok") for path in demo.paths("000004")
    ]
    for one in files:
        torrent = tmp_path / "torrents" / f"{one['path']}.torrent"
        folder = tmp_path / "downloads" / one["path"]
        folder.mkdir(parents=True)
        status = download(torrent, folder)
        assert status.is_seeding
        with urlopen(one["urls"][0]) as reply:
            content = reply.read()
        assert (folder / Path(one["path"]).name).read_bytes() == content


@needs_libtorrent
def test_a_client_refuses_other_bytes(digested: Shell, demo: DemoArchive, tmp_path: Path) -> None:
    path = demo.paths("000004")[0]
    digested.run(
        "export", NAME, "--format", "torrent", "--path", path, "-o", str(tmp_path / "torrents")
    )
    assert len(list((tmp_path / "torrents").rglob("*.torrent"))) == 1
    demo.corrupt_blob("000004", path)
    (tmp_path / "downloads").mkdir()
    status = download(tmp_path / "torrents" / f"{path}.torrent", tmp_path / "downloads", 3.0)
    assert not status.is_seeding
    assert status.num_pieces == 0


def test_a_torrent_is_made_from_a_lock_without_the_store(
    digested: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "paper" / "datasets.lock"
    lock.parent.mkdir()
    digested.run("pin", NAME, "--streamable", "-o", str(lock))
    digested.run("export", NAME, "--format", "torrent", "-o", str(tmp_path / "of-store"))
    monkeypatch.chdir(lock.parent)
    without_store = digested.with_changes(store=Path("store"), mirrors=lock.parent)
    without_store.run("export", lock.name, "--format", "torrent", "-o", str(tmp_path / "of-lock"))
    found = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*.torrent")
        }
        for name in ("of-store", "of-lock")
    }
    assert found["of-store"] == found["of-lock"]
    assert len(found["of-lock"]) == 3


def test_files_without_block_digests_are_named(demo: DemoArchive, tmp_path: Path) -> None:
    shell = Shell(demo.mirrors, tmp_path / "store")
    shell.run("sync", NAME)
    arguments = ("export", NAME, "--format", "torrent", "-o", str(tmp_path / "torrents"))
    made = shell.records(*arguments, code=1)
    assert [one["status"] for one in made] == ["impossible"] * 3
    assert list((tmp_path / "torrents").rglob("*.torrent")) == []
    (tmp_path / "torrents" / "x").touch()
    shell.run(*arguments, code=2)


def test_pins_with_a_common_path_do_not_replace_each_other(tmp_path: Path) -> None:
    folder = BlockDigestsFolder(tmp_path / "digests")
    files = []
    for dataset, content in (("a:1", b"one"), ("a:2", b"two")):
        key = sha256e_key(len(content), hashlib.sha256(content).hexdigest(), b"x.nwb")
        folder.write(key, digests_of(content, LEAF_SIZE))
        file = PinnedFile(b"sub-1/x.nwb", key, (f"https://example.org/{dataset}",))
        files.append((dataset, "1", file))
    made = list(export_torrents(files, [folder], tmp_path / "torrents"))
    assert [(one.dataset, one.status) for one in made] == [("a:1", "ok"), ("a:2", "error")]
    (torrent,) = (path for path in (tmp_path / "torrents").rglob("*") if path.is_file())
    assert b"https://example.org/a:1" in torrent.read_bytes()


@needs_libtorrent
def test_encoding_is_that_of_libtorrent() -> None:
    import libtorrent

    content = b"x" * 100_000
    digests = digests_of(content, 1 << 14)
    urls = ["https://bucket.example.org/a?versionId=1", "https://api.example.org/é"]
    for comment in ("", "größe"):
        torrent = torrent_of("a b é.nwb", digests, urls, comment)
        decoded = libtorrent.bdecode(torrent)
        assert libtorrent.bencode(decoded) == torrent
        assert decoded[b"url-list"] == [web_seed(url).encode() for url in urls]
        file = decoded[b"info"][b"file tree"]["a b é.nwb".encode()][b""]
        assert file == {b"length": len(content), b"pieces root": digests.root}
        assert libtorrent.load_torrent_buffer(torrent).info_hashes.has_v2()
    assert bencode([-1, {b"b": 0, b"a": b""}]) == b"li-1ed1:a0:1:bi0eee"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://x.example.org/a", "https://x.example.org/a?x-file="),
        ("https://x.example.org/a?versionId=1", "https://x.example.org/a?versionId=1&x-file="),
        ("https://x.example.org/a#b", "https://x.example.org/a?x-file="),
    ],
)
def test_a_name_appended_to_a_web_seed_does_not_change_the_object(url: str, expected: str) -> None:
    assert web_seed(url) == expected
