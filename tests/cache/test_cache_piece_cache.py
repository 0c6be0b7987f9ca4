"""The cache returns what was written, keeps its limit, and is safe for many processes."""

import fcntl
import hashlib
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from neuromirror.cache import (
    FOLDER_VARIABLE,
    SIZE_VARIABLE,
    ContentName,
    PieceCache,
    open_cache,
    parse_size,
)
from neuromirror.model import ConfigurationError

MIB = 1 << 20
CONTENT = random.Random(3).randbytes(3 * MIB + 100)


def name_of(content: bytes) -> ContentName:
    return ContentName("sha256", hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def cache(tmp_path: Path) -> PieceCache:
    return PieceCache(tmp_path / "pieces", 1 << 30)


def write(cache: PieceCache, content: bytes, *starts: int, size: int = MIB) -> None:
    cached = cache.content(name_of(content))
    for start in starts:
        cache.write(cached, start, content[start : start + size])
    cache.finish_writing()
    cached.close()


def test_only_written_pieces_are_returned(cache: PieceCache) -> None:
    write(cache, CONTENT, MIB)
    cached = cache.content(name_of(CONTENT))
    assert cached.read(MIB, 2 * MIB) == CONTENT[MIB : 2 * MIB]
    assert cached.read(MIB + 5, MIB + 6) == CONTENT[MIB + 5 : MIB + 6]
    assert cached.read(MIB - 1, MIB + 1) is None
    assert cached.read(0, 1) is None
    assert cached.open_whole() is None


def test_all_pieces_together_are_a_whole_content(cache: PieceCache) -> None:
    write(cache, CONTENT, 2 * MIB, 0, 3 * MIB, MIB)
    cached = cache.content(name_of(CONTENT))
    descriptor = cached.open_whole()
    assert descriptor is not None
    with os.fdopen(descriptor, "rb") as file:
        assert file.read(len(CONTENT)) == CONTENT
    assert cached.read(0, len(CONTENT)) == CONTENT


def test_an_unfinished_leaf_is_not_cached(cache: PieceCache) -> None:
    cached = cache.content(name_of(CONTENT))
    cache.write(cached, 0, CONTENT[: MIB + 10])
    cache.finish_writing()
    assert cached.read(0, MIB) == CONTENT[:MIB]
    assert cached.read(0, MIB + 10) is None


def test_discarded_pieces_are_not_returned(cache: PieceCache) -> None:
    write(cache, CONTENT, 0, MIB)
    cached = cache.content(name_of(CONTENT))
    assert cached.read(0, MIB) is not None
    cached.discard(0, MIB)
    assert cached.read(0, MIB) is None
    assert cached.read(MIB, 2 * MIB) == CONTENT[MIB : 2 * MIB]


def test_the_least_recently_used_contents_are_removed_first(cache: PieceCache) -> None:
    contents = [random.Random(seed).randbytes(MIB) for seed in range(5)]
    for age, content in enumerate(contents):
        write(cache, content, 0)
        os.utime(cache.content(name_of(content)).whole_path, (1e9 + age, 1e9 + age))
    assert cache.content(name_of(contents[0])).read(0, 10) == contents[0][:10]  # used now
    assert cache.prune(2 * MIB + 5000)[0] == 3
    left = {entry.name for entry in cache.entries()}
    assert left == {name_of(contents[0]).file_name, name_of(contents[4]).file_name}


def test_the_limit_is_kept_while_writing(tmp_path: Path) -> None:
    cache = PieceCache(tmp_path / "pieces", 8 * MIB)
    for seed in range(40):
        write(cache, random.Random(seed).randbytes(MIB), 0)
    assert sum(entry.stored for entry in cache.entries()) <= 9 * MIB


def test_a_content_of_more_than_half_of_the_limit_is_not_cached(tmp_path: Path) -> None:
    cache = PieceCache(tmp_path / "pieces", 4 * MIB)
    write(cache, CONTENT, 0)
    assert [*cache.entries()] == []


def test_only_the_owner_has_access(cache: PieceCache) -> None:
    write(cache, CONTENT, 0)
    write(cache, CONTENT[:MIB], 0)
    files = [path for path in cache.folder.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_a_full_or_read_only_disk_only_switches_the_cache_off(tmp_path: Path) -> None:
    blocked = tmp_path / "pieces"
    blocked.write_text("not a folder")
    cache = PieceCache(blocked, 1 << 30)
    write(cache, CONTENT, 0)
    assert cache.content(name_of(CONTENT)).read(0, 1) is None


def test_new_contents_are_kept_only_without_errors(cache: PieceCache) -> None:
    name = name_of(CONTENT)
    with suppress(ValueError), cache.new_content(name) as file:
        file.write(CONTENT[:10])
        raise ValueError
    assert [*cache.entries()] == []
    with cache.new_content(name) as file:
        file.write(CONTENT)
    assert cache.content(name).read(0, len(CONTENT)) == CONTENT


_WRITER = """
import random, sys
from pathlib import Path
from neuromirror.cache import ContentName, PieceCache
cache = PieceCache(Path(sys.argv[1]), 8 << 20)
chance = random.Random(int(sys.argv[2]))
contents = [random.Random(seed).randbytes((1 << 20) + 1000) for seed in range(12)]
wrong = 0
for _ in range(300):
    seed = chance.randrange(len(contents))
    content = contents[seed]
    cached = cache.content(ContentName("sha256", f"{seed:064x}", len(content)))
    start = chance.choice([0, 1 << 19, 1 << 20])
    stop = min(start + (1 << 19), len(content))
    data = cached.read(start, stop)
    if data is None:
        cache.write(cached, start, content[start:stop])
    elif data != content[start:stop]:
        wrong += 1
print(wrong)
"""


def test_many_processes_share_a_cache_that_is_pruned_all_the_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "pieces")]
    running = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    assert [one.communicate()[0].strip() for one in running] == ["0"] * 3
    assert {one.returncode for one in running} == {0}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("20GB", 20 * 10**9), ("500 MiB", 500 * MIB), ("1k", 1000), ("7b", 7)),
        *(("1.5G", 1_500_000_000), ("0.50 GiB", 512 * MIB), ("1.2345k", 1234)),
    ],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.5", "1.5b", ".5k", "1.", "1.k", "1ib", "10 parsecs"]
)
def test_other_texts_are_not_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


def test_the_environment_names_folder_and_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "here"))
    monkeypatch.setenv(SIZE_VARIABLE, "3MB")
    cache = open_cache()
    assert cache is not None
    assert (cache.folder, cache.limit) == (tmp_path / "here", 3_000_000)
    assert open_cache() is cache
    monkeypatch.setenv(SIZE_VARIABLE, "much")
    with pytest.raises(ConfigurationError):
        open_cache()
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    assert open_cache() is None
    monkeypatch.setenv(FOLDER_VARIABLE, "off")
    assert open_cache() is None


def test_a_whole_content_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    cache = PieceCache(tmp_path / "cache", MIB)
    name = name_of(b"content" * 100)
    with cache.new_content(name) as file:
        file.write(b"content" * 100)
    path = cache.content(name).whole_path
    os.truncate(path, 5)
    assert not cache.content(name).has(0, name.size)
    with cache.new_content(name) as file:
        file.write(b"content" * 100)
    assert cache.content(name).read(0, name.size) == b"content" * 100


def test_clearing_waits_for_a_process_that_removes_contents(cache: PieceCache) -> None:
    write(cache, CONTENT, 0)
    (entry,) = cache.entries()
    with (cache.folder / "lock").open("w") as lock, ThreadPoolExecutor(1) as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cache.prune(0) == (0, 0)
        for remove in (lambda: cache.prune(0, wait=True), cache.clear):
            write(cache, CONTENT, 0)
            removed = threads.submit(remove)
            time.sleep(0.1)
            assert [*cache.entries()]
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert removed.result(30) == (1, entry.stored)
            fcntl.flock(lock, fcntl.LOCK_EX)
