"""Bodies of contents: their requests, the files and the block digests that are written of them."""

import errno
import fcntl
import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuromirror.annex import etag_of
from neuromirror.model import LEAF_SIZE
from neuromirror.model.block_digests import MAX_CONTENT_SIZE
from neuromirror.net import AccessDeniedError, RequestLimits
from neuromirror.sources.api_tokens import host_token
from neuromirror.sources.volumes.urls import token_variable
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.transfer import partial_content
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.transfer.annex_objects import BlockDigestsRecorder
from neuromirror.transfer.content_bodies import ContentBodies
from neuromirror.transfer.partial_content import DirectFileWriter
from neuromirror.transfer.verified_repository import MultipartEtag
from support.block_digests import digests_of, etag_key
from support.web_clone import FaultyWebServer, forbidden


def test_a_request_with_an_expired_token_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        web = stack.enter_context(FaultyWebServer())
        monkeypatch.setenv(token_variable(urlsplit(web.url).netloc), "expired")
        web.faults["/a"] = [forbidden]
        settings = AnnexSettings({"annex.security.allowed-ip-addresses": ["127.0.0.1"]})
        limits = RequestLimits(attempts=1)
        bodies = ContentBodies(settings, limits, headers={}, host_token=host_token)
        stack.callback(bodies.close)
        connections = bodies.new_connections()
        stack.callback(connections.close)
        counts = []
        for _ in range(3):
            web.requests.clear()
            with pytest.raises(AccessDeniedError), bodies.open(connections, f"{web.url}/a", "", 1):
                pass
            counts.append(["Authorization" in request.headers for request in web.requests])
    first, *later = counts
    assert {False, True} == set(first)
    assert later == [[one for one in first if one]] * 2


MIB = 1 << 20
CONTENT = random.Random(1).randbytes(9 * MIB + 123)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield handle
    os.close(handle)


def write(writer: DirectFileWriter, content: bytes, piece: int) -> None:
    view = memoryview(content)
    for start in range(0, len(content), piece):
        writer.write(view[start : start + piece])


def content_of(file: int) -> bytes:
    return os.pread(file, 2 * len(CONTENT), 0)


@pytest.mark.parametrize("piece", [MIB, 4 * MIB, MIB - 300, 10 * MIB, 70_001])
def test_pieces_of_any_size_are_written_in_order(file: int, piece: int) -> None:
    writer = DirectFileWriter()
    writer.start(file)
    write(writer, CONTENT, piece)
    writer.flush()
    assert content_of(file) == CONTENT
    assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT == 0


@pytest.mark.parametrize("had", [1, 4096, 5 * MIB + 17])
def test_a_file_grows_from_any_position(file: int, had: int) -> None:
    os.write(file, CONTENT[:had])
    writer = DirectFileWriter()
    writer.start(file)
    write(writer, CONTENT[had:], MIB)
    writer.flush()
    assert content_of(file) == CONTENT


def test_a_flush_leaves_all_bytes_in_the_file_and_more_may_follow(file: int) -> None:
    writer = DirectFileWriter()
    writer.start(file)
    write(writer, CONTENT[: MIB + 5], MIB)
    writer.flush()
    assert content_of(file) == CONTENT[: MIB + 5]
    write(writer, CONTENT[MIB + 5 :], MIB)
    writer.flush()
    assert content_of(file) == CONTENT


def test_a_restart_discards_what_is_in_memory_and_in_the_file(file: int) -> None:
    writer = DirectFileWriter()
    writer.start(file)
    write(writer, b"x" * (5 * MIB + 1), MIB)
    writer.restart()
    write(writer, CONTENT, MIB)
    writer.flush()
    assert content_of(file) == CONTENT


def test_full_buffers_are_written_directly(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    is_direct = []
    write_file = os.write

    def recording(handle: int, content: memoryview) -> int:
        is_direct.append(bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT))
        return write_file(handle, content)

    monkeypatch.setattr(os, "write", recording)
    writer = DirectFileWriter()
    writer.start(file)
    write(writer, CONTENT, MIB)
    writer.flush()
    assert is_direct == [True, True, False]


def test_a_file_system_that_refuses_direct_writes_gets_others(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = fcntl.fcntl

    def refuse(handle: int, command: int, value: int = 0) -> int:
        if command == fcntl.F_SETFL and value & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return control(handle, command, value)

    monkeypatch.setattr(partial_content.fcntl, "fcntl", refuse)
    writer = DirectFileWriter()
    writer.start(file)
    write(writer, CONTENT, MIB)
    writer.flush()
    assert content_of(file) == CONTENT


def test_a_full_disk_is_an_error() -> None:
    writer = DirectFileWriter()
    with open("/dev/full", "wb") as full:
        writer.start(full.fileno())
        with pytest.raises(OSError, match="No space"):
            write(writer, CONTENT, MIB)


DIGESTED = random.Random(7).randbytes(5 * (1 << 20) + 123)
SHA256 = hashlib.sha256(DIGESTED).hexdigest()
KEY = f"SHA256E-s{len(DIGESTED)}--{SHA256}.nwb"


def fed(digests: BlockDigestsRecorder, key: str, checksum: str, step: int = 100_000) -> str:
    digester = digests.start(key, None)
    assert digester is not None
    for start in range(0, len(DIGESTED), step):
        digester.update(memoryview(DIGESTED)[start : start + step])
    return digester.finish(checksum)


@pytest.mark.parametrize("step", [1000, 1 << 20, 3 << 20])
def test_digests_do_not_depend_on_the_lengths_of_chunks(step: int) -> None:
    etag = etag_key(DIGESTED, 1 << 20)
    md5 = f"MD5E-s{len(DIGESTED)}--{hashlib.md5(DIGESTED).hexdigest()}.nwb"
    with BlockDigestsRecorder() as digests:
        assert fed(digests, KEY, SHA256, step) == ""
        for key in (etag, md5):
            # the sha256 is computed beside the checksum of the key
            assert fed(digests, key, "not used", step) == ""
        assert digests.find(KEY) == digests_of(DIGESTED, 1 << 20)
        assert digests.find(md5) == digests_of(DIGESTED, 1 << 20)
        assert digests.find(etag) == digests_of(DIGESTED, 1 << 20, 1 << 20)
        assert digests.start(KEY, None) is None


def test_parts_are_compared_with_the_etag_that_the_archive_states() -> None:
    part_size = 2 << 20
    stated = MultipartEtag(etag_of(BytesIO(DIGESTED), part_size), part_size)
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
        assert digests.find(KEY) == digests_of(DIGESTED, 1 << 20)


def test_damaged_digests_are_computed_again() -> None:
    with BlockDigestsRecorder(piece_size=LEAF_SIZE) as digests:
        fed(digests, KEY, SHA256)
        path = BlockDigestsFolder.of_user().path(KEY)
        path.write_bytes(path.read_bytes()[:-1])
        assert digests.find(KEY) is None
        assert fed(digests, KEY, SHA256) == ""
        assert digests.find(KEY) == digests_of(DIGESTED, LEAF_SIZE)


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
