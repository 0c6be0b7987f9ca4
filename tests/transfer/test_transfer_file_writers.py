"""Writing large files without the page cache leaves the same bytes as writing through it."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.transfer import partial_content
from neuromirror.transfer.partial_content import DirectFileWriter

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
