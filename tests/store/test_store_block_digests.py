"""Files with block digests: by key, written once, and never trusted when read."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from neuromirror.model import LEAF_SIZE, encode_block_digests
from neuromirror.store.block_digests import (
    BlockDigestsConflictError,
    BlockDigestsDamagedError,
    BlockDigestsFolder,
    key_contradiction,
)
from support.block_digests import digests_of, etag_key

CONTENT = random.Random(0).randbytes(9 * LEAF_SIZE + 1)
SHA256_KEY = f"SHA256E-s{len(CONTENT)}--{hashlib.sha256(CONTENT).hexdigest()}.nwb"
MD5_KEY = f"MD5E-s{len(CONTENT)}--{hashlib.md5(CONTENT).hexdigest()}.nwb"


def test_digests_are_found_by_key(tmp_path: Path) -> None:
    folder = BlockDigestsFolder(tmp_path / "block-digests")
    assert folder.read(SHA256_KEY) is None
    assert not folder.has(SHA256_KEY)
    assert list(folder.paths()) == []
    digests = digests_of(CONTENT, LEAF_SIZE)
    assert folder.write(SHA256_KEY, digests)
    assert not folder.write(SHA256_KEY, digests)
    assert folder.read(SHA256_KEY) == digests
    assert folder.read(MD5_KEY) is None
    name = hashlib.sha256(SHA256_KEY.encode()).hexdigest()
    assert list(folder.paths()) == [folder.root / name[:2] / name[2:]]


def test_smaller_pieces_replace_larger_ones_and_part_md5s_are_kept(tmp_path: Path) -> None:
    folder = BlockDigestsFolder(tmp_path)
    key = etag_key(CONTENT, 50_000)
    coarse = digests_of(CONTENT, 4 * LEAF_SIZE, 50_000)
    fine = digests_of(CONTENT, LEAF_SIZE)
    assert folder.write(key, coarse)
    assert folder.write(key, fine)
    both = folder.read(key)
    assert both is not None
    assert (both.piece_size, both.part_md5s) == (LEAF_SIZE, coarse.part_md5s)
    assert not folder.write(key, coarse)
    assert folder.read(key) == both


def test_other_bytes_of_the_same_key_are_a_conflict(tmp_path: Path) -> None:
    folder = BlockDigestsFolder(tmp_path)
    key = f"VURL-s{len(CONTENT)}--https,58//example.org/a"
    folder.write(key, digests_of(CONTENT, LEAF_SIZE))
    with pytest.raises(BlockDigestsConflictError):
        folder.write(key, digests_of(CONTENT[::-1], LEAF_SIZE))
    assert folder.read(key) == digests_of(CONTENT, LEAF_SIZE)


@pytest.mark.parametrize(
    ("key", "content", "part_size"),
    [
        (SHA256_KEY, CONTENT[:-1], None),
        (SHA256_KEY, CONTENT[::-1], None),
        (etag_key(CONTENT, 50_000), CONTENT[::-1], 50_000),
        (etag_key(CONTENT, 50_000), CONTENT, 60_000),
        ("not a key", CONTENT, None),
    ],
)
def test_digests_that_contradict_their_key_are_refused(
    tmp_path: Path, key: str, content: bytes, part_size: int | None
) -> None:
    folder = BlockDigestsFolder(tmp_path)
    digests = digests_of(content, LEAF_SIZE, part_size)
    with pytest.raises(BlockDigestsConflictError):
        folder.write(key, digests)
    assert list(folder.paths()) == []
    path = folder.path(key)
    path.parent.mkdir()
    path.write_bytes(encode_block_digests(key, digests))
    with pytest.raises(BlockDigestsDamagedError):
        folder.read(key)


def test_an_empty_content_agrees_with_both_etags_of_no_bytes() -> None:
    digests = digests_of(b"", LEAF_SIZE, 5)
    for etag in ("d41d8cd98f00b204e9800998ecf8427e-0", "59adb24ef3cdbe0297f05b395827453f-1"):
        assert key_contradiction(f"XS3ETAG-s0--{etag}-5", digests) == ""


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = BlockDigestsFolder(tmp_path)
    digests = digests_of(CONTENT, LEAF_SIZE)
    folder.write(SHA256_KEY, digests)
    path = folder.path(SHA256_KEY)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + b"x", encode_block_digests(MD5_KEY, digests)):
        path.write_bytes(damaged)
        with pytest.raises(BlockDigestsDamagedError):
            folder.read(SHA256_KEY)
        assert folder.write(SHA256_KEY, digests)
        assert folder.read(SHA256_KEY) == digests
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)
    with pytest.raises(BlockDigestsDamagedError):
        folder.read(SHA256_KEY)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BlockDigestsDamagedError):
        folder.read(SHA256_KEY)


def test_the_folder_of_the_user_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = BlockDigestsFolder.of_user()
    assert tmp_path in folder.root.parents
    folder.write(SHA256_KEY, digests_of(CONTENT, LEAF_SIZE))
    assert folder.root.stat().st_mode & 0o777 == 0o700
