"""Block digests that are computed beside the checksum of a key, in threads."""

from __future__ import annotations

import hashlib
import random
from io import BytesIO

import pytest

from neuromirror.annex import etag_of
from neuromirror.model import LEAF_SIZE
from neuromirror.model.block_digests import MAX_CONTENT_SIZE
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.transfer.annex_objects import BlockDigestsRecorder
from neuromirror.transfer.verified_repository import MultipartEtag
from support.block_digests import digests_of, etag_key

CONTENT = random.Random(7).randbytes(5 * (1 << 20) + 123)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEY = f"SHA256E-s{len(CONTENT)}--{SHA256}.nwb"


def fed(digests: BlockDigestsRecorder, key: str, checksum: str, step: int = 100_000) -> str:
    digester = digests.start(key, None)
    assert digester is not None
    for start in range(0, len(CONTENT), step):
        digester.update(memoryview(CONTENT)[start : start + step])
    return digester.finish(checksum)


@pytest.mark.parametrize("step", [1000, 1 << 20, 3 << 20])
def test_digests_do_not_depend_on_the_lengths_of_chunks(step: int) -> None:
    etag = etag_key(CONTENT, 1 << 20)
    md5 = f"MD5E-s{len(CONTENT)}--{hashlib.md5(CONTENT).hexdigest()}.nwb"
    with BlockDigestsRecorder() as digests:
        assert fed(digests, KEY, SHA256, step) == ""
        for key in (etag, md5):
            # the sha256 is computed beside the checksum of the key
            assert fed(digests, key, "not used", step) == ""
        assert digests.find(KEY) == digests_of(CONTENT, 1 << 20)
        assert digests.find(md5) == digests_of(CONTENT, 1 << 20)
        assert digests.find(etag) == digests_of(CONTENT, 1 << 20, 1 << 20)
        assert digests.start(KEY, None) is None


def test_parts_are_compared_with_the_etag_that_the_archive_states() -> None:
    part_size = 2 << 20
    stated = MultipartEtag(etag_of(BytesIO(CONTENT), part_size), part_size)
    with BlockDigestsRecorder() as digests:
        digests.expect_parts(KEY, stated._replace(etag=f"{'0' * 32}-3"))
        assert "ETag" in fed(digests, KEY, SHA256)
        assert digests.find(KEY) is None
        digests.expect_parts(KEY, stated)
        assert fed(digests, KEY, SHA256) == ""
        found = digests.find(KEY)
        assert found is not None
        assert (found.part_size, found.parts_etag()) == (part_size, stated.etag)


def test_an_etag_of_too_many_parts_is_left_out() -> None:
    with BlockDigestsRecorder() as digests:
        digests.expect_parts(KEY, MultipartEtag(f"{'0' * 32}-5000000", 1))
        assert fed(digests, KEY, SHA256) == ""
        assert digests.find(KEY) == digests_of(CONTENT, 1 << 20)


def test_damaged_digests_are_computed_again() -> None:
    with BlockDigestsRecorder(piece_size=LEAF_SIZE) as digests:
        fed(digests, KEY, SHA256)
        path = BlockDigestsFolder.of_user().path(KEY)
        path.write_bytes(path.read_bytes()[:-1])
        assert digests.find(KEY) is None
        assert fed(digests, KEY, SHA256) == ""
        assert digests.find(KEY) == digests_of(CONTENT, LEAF_SIZE)


def test_small_pieces_of_a_huge_content_are_enlarged_until_their_digests_can_be_read() -> None:
    with BlockDigestsRecorder(piece_size=LEAF_SIZE) as digests:
        assert digests.piece_size(None) == LEAF_SIZE
        assert digests.piece_size(32 << 30) == LEAF_SIZE
        assert digests.piece_size((32 << 30) + 1) == 2 * LEAF_SIZE
        assert digests.piece_size(5 << 40) == 256 * LEAF_SIZE


def test_a_content_too_large_for_any_piece_size_is_not_digested() -> None:
    key = f"SHA256E-s{MAX_CONTENT_SIZE + 1}--{SHA256}.nwb"
    for piece_size in (None, LEAF_SIZE):
        with BlockDigestsRecorder(piece_size=piece_size) as digests:
            assert digests.start(key, None) is None
            assert digests.start(key.replace(str(MAX_CONTENT_SIZE + 1), str(1 << 40)), None)
