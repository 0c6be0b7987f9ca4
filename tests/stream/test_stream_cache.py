"""Pieces that were read once cost no further request, and are verified again."""

import hashlib
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror import stream
from neuromirror.cache import ContentName, PieceCache
from neuromirror.cache.piece_cache import CachedContent, Data
from neuromirror.stream import ContentGoneError, StreamError, WrongBytesError
from neuromirror.stream.git_tree import listed_file
from neuromirror.stream.opening import fill_cache
from support.block_digests import digests_of, etag_key
from support.range_server import RangeServer, ServedTree

MIB = 1 << 20
CONTENT = random.Random(23).randbytes(3 * MIB + 777)


@pytest.fixture
def cache(tmp_path: Path) -> PieceCache:
    return PieceCache(tmp_path / "pieces", 1 << 30)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents above 1 MiB are not held in memory as a whole."""
    for module in ("pieces", "file"):
        monkeypatch.setattr(f"neuromirror.stream.{module}.MAX_WHOLE", MIB)


def flip_bits(cache: PieceCache) -> None:
    for entry in cache.entries():
        content = bytearray(entry.path.read_bytes())
        size = int(entry.name.rpartition("-")[2])
        content[:size] = bytes(255 - one for one in content[:size])  # not the map after it
        entry.path.write_bytes(content)


@pytest.mark.parametrize("piece_size", [1 << 16, MIB, None])
def test_reading_twice_costs_no_request(cache: PieceCache, piece_size: int | None) -> None:
    tree = ServedTree()
    with RangeServer({"/x": CONTENT}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/x", piece_size=piece_size)
        for _ in range(3):
            with stream.open(tree, "x.bin", cache=cache) as opened:
                opened.seek(MIB)
                assert opened.read(100_000) == CONTENT[MIB : MIB + 100_000]
        first = len(web.requests)
        assert first == 1
        with stream.open(tree, "x.bin", cache=cache) as opened:
            assert opened.read() == CONTENT
        before = len(web.requests)
    with stream.open(tree, "x.bin", cache=cache) as opened:  # the server is gone
        assert opened.read() == CONTENT
    assert len(web.requests) == before


@pytest.mark.parametrize("piece_size", [1 << 16, None])
def test_wrong_bytes_in_the_cache_are_replaced(cache: PieceCache, piece_size: int | None) -> None:
    tree = ServedTree()
    with RangeServer({"/x": CONTENT}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/x", piece_size=piece_size)
        for stop in (2 * MIB, len(CONTENT)):  # a part of the content, then all of it
            with stream.open(tree, "x.bin", cache=cache) as opened:
                opened.read(stop)
            flip_bits(cache)
            with stream.open(tree, "x.bin", cache=cache) as opened:
                assert opened.read() == CONTENT
            before = len(web.requests)
            with stream.open(tree, "x.bin", cache=cache) as opened:
                assert opened.read() == CONTENT
            assert len(web.requests) == before


def test_wrong_bytes_are_not_cached(cache: PieceCache) -> None:
    tree = ServedTree()
    with RangeServer({"/x": CONTENT[::-1]}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/x", piece_size=MIB)
        with stream.open(tree, "x.bin", cache=cache) as opened, pytest.raises(WrongBytesError):
            opened.read(1)
        with stream.open(tree, "x.bin", verify="off", cache=cache) as opened:
            assert opened.read() == CONTENT[::-1]
    assert [*cache.entries()] == []


def test_contents_with_other_paths_and_piece_sizes_share_the_cache(cache: PieceCache) -> None:
    tree = ServedTree()
    with RangeServer({"/x": CONTENT}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/x", piece_size=1 << 18)
        tree.add("y.bin", CONTENT, piece_size=1 << 16)
        with stream.open(tree, "x.bin", cache=cache) as opened:
            opened.read(MIB)
    with stream.open(tree, "y.bin", cache=cache) as opened:
        assert opened.read(MIB) == CONTENT[:MIB]
        with pytest.raises(ContentGoneError):
            opened.read(MIB)


def test_a_large_content_is_downloaded_and_verified_as_a_whole(
    cache: PieceCache, small_limit: None
) -> None:
    tree = ServedTree()
    with RangeServer({"/x": CONTENT, "/wrong": CONTENT[::-1]}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/wrong", f"{web.url}/x")
        for used in (cache, False):
            with stream.open(tree, "x.bin", verify="whole-objects", cache=used) as opened:
                opened.seek(2 * MIB)
                assert opened.read() == CONTENT[2 * MIB :]
        tree.add("bad.bin", CONTENT, f"{web.url}/wrong")
        with (
            stream.open(tree, "bad.bin", verify="whole-objects", cache=False) as opened,
            pytest.raises(WrongBytesError),
        ):
            opened.read(1)
    with stream.open(tree, "x.bin", verify="whole-objects", cache=cache) as opened:
        assert opened.read() == CONTENT
    flip_bits(cache)
    with (
        stream.open(tree, "x.bin", verify="whole-objects", cache=cache) as opened,
        pytest.raises(stream.StreamError),
    ):
        opened.read(1)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_cached_content_that_changes_after_it_was_verified_is_an_error(
    cache: PieceCache, small_limit: None, damage: str
) -> None:
    tree = ServedTree()
    with RangeServer({"/x": CONTENT}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/x")
        with stream.open(tree, "x.bin", verify="whole-objects", cache=cache) as opened:
            assert opened.read(10) == CONTENT[:10]
            (entry,) = cache.entries()
            if damage == "truncated":
                with entry.path.open("r+b") as file:
                    file.truncate(2 * MIB)
            else:
                flip_bits(cache)
            opened.seek(2 * MIB)
            with pytest.raises(WrongBytesError):
                opened.read()


def test_a_content_is_read_without_a_cache_that_cannot_be_written(
    cache: PieceCache, small_limit: None
) -> None:
    cache.folder.write_bytes(b"no folder")
    tree = ServedTree()
    with RangeServer({"/x": CONTENT}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/x")
        with stream.open(tree, "x.bin", verify="whole-objects", cache=cache) as opened:
            assert opened.read() == CONTENT
    assert cache.folder.read_bytes() == b"no folder"


def test_a_full_disk_is_an_error_with_the_folder(cache: PieceCache, small_limit: None) -> None:
    tree = ServedTree()
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RangeServer({"/x": CONTENT}) as web:
        tree.add("x.bin", CONTENT, f"{web.url}/x")
        with stream.open(tree, "x.bin", verify="whole-objects", cache=cache) as opened:
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, most))  # no file may be larger
            try:
                with pytest.raises(StreamError, match=f"x.bin.*{tempfile.gettempdir()}.*TMPDIR"):
                    opened.read()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
            assert opened.read() == CONTENT


class SlowCache(PieceCache):
    """A cache on a slow disk."""

    def write(self, content: CachedContent, start: int, data: Data) -> None:
        time.sleep(0.1)
        super().write(content, start, data)


def test_a_filled_cache_has_every_content(tmp_path: Path) -> None:
    slow, contents = SlowCache(tmp_path / "pieces", 1 << 30), {"empty": b"", "parts": CONTENT}
    contents["large"] = random.Random(3).randbytes(6 * MIB)
    tree = ServedTree()
    with RangeServer({f"/{path}": content for path, content in contents.items()}) as web:
        tree.add("empty", b"", f"{web.url}/empty")
        tree.add("large", contents["large"], f"{web.url}/large", piece_size=MIB)
        # the MD5s of parts that are no multiple of a leaf, as from a lock file
        part_size = 1_000_000
        key = etag_key(CONTENT, part_size)
        tree.files["parts"] = listed_file("parts", key, (f"{web.url}/parts",))
        known = digests_of(CONTENT, MIB, part_size)
        tree.digests["parts"] = replace(known, sender="datasets.lock")
        # a copy in a clone or a vault on this machine is stored as a whole
        tree.add("copied", b"copy" * MIB, piece_size=MIB)
        contents["copied"] = b"copy" * MIB
        tree.copies["copied"] = tmp_path / "copied"
        tree.copies["copied"].write_bytes(contents["copied"])
        found = {one.path: one for one in fill_cache(tree, (), slow)}
    assert {path: one.status for path, one in found.items()} == {
        "empty": "notneeded",
        "parts": "ok",
        "large": "ok",
        "copied": "ok",
    }, found
    tree.copies["copied"].unlink()
    for path in ("parts", "large", "copied"):
        with stream.open(tree, path, cache=slow) as opened:  # without the server
            assert opened.read() == contents[path]
    assert len([*slow.entries()]) == 3


def test_a_process_writes_what_it_has_read_before_it_exits(cache: PieceCache) -> None:
    name = ContentName("sha256", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    cache.write(cache.content(name), 0, CONTENT[:MIB])  # a fork lacks the thread that writes
    program = "import pickle, sys; cache, name, data = pickle.load(sys.stdin.buffer)\n"
    program += "cache.write(cache.content(name), 2 << 20, data)"
    given = pickle.dumps((cache, name, CONTENT[2 * MIB :]))
    subprocess.run([sys.executable, "-c", program], input=given, check=True)
    child = os.fork()
    if child == 0:
        cache.write(cache.content(name), MIB, CONTENT[MIB : 2 * MIB])
        cache.finish_writing()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.content(name).read(0, len(CONTENT)) == CONTENT
