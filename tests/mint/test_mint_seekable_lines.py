"""Compressed lines: found without reading the rest, and read within limits."""

import io
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neuromirror.mint import (
    FrameLimits,
    SortedLines,
    ZstdFrameError,
    decompress_frame,
    read_lines,
    read_seekable_lines,
    write_seekable_lines,
)
from neuromirror.mint.seekable_lines import split_lines


def _written(lines: list[bytes]) -> bytes:
    file = io.BytesIO()
    write_seekable_lines(file, lines)
    return file.getvalue()


def _key(line: bytes) -> bytes:
    return line.partition(b" ")[0]


MANY = [b"%07d %s" % (number, b"x" * (number % 97)) for number in range(40_000)]


def test_other_programs_read_the_file() -> None:
    with zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(_written(MANY)), read_across_frames=True
    ) as reader:
        assert reader.read() == b"".join(line + b"\n" for line in MANY)


def test_any_line_is_found(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(_written(MANY))
    with SortedLines(tmp_path / "lines", _key) as lines:
        for number in (0, 1, 3_333, 20_000, 39_999):
            assert next(lines.lines_from(b"%07d" % number)) == MANY[number]
        assert [*lines.lines_from(b"0039990")] == MANY[39_990:]
        assert [*lines.lines_from(b"1")] == []
        assert [*lines.lines_from(b"")] == MANY


def test_equal_keys_across_frames_are_all_found(tmp_path: Path) -> None:
    equal = [b"k " + b"%07d" % number * 100 for number in range(2_000)]
    (tmp_path / "lines").write_bytes(_written([b"a 1", *equal, b"z 1"]))
    with SortedLines(tmp_path / "lines", _key) as lines:
        assert [*lines.lines_from(b"k")] == [*equal, b"z 1"]


@pytest.mark.parametrize("is_long", [False, True])
def test_file_of_an_earlier_release_is_read(tmp_path: Path, is_long: bool) -> None:
    lines = MANY if is_long else MANY[:3]
    with (tmp_path / "lines").open("wb") as file:
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as frame:
            frame.write(b"".join(line + b"\n" for line in lines))
    with SortedLines(tmp_path / "lines", _key) as opened:
        assert [*opened.lines_from(b"0000002")] == lines[2:]
    with (tmp_path / "lines").open("rb") as file:
        assert [*read_seekable_lines(file)] == lines


@pytest.mark.parametrize("change", ["cut", "frame", "table", "size", "count", "more"])
def test_damaged_file_is_refused(tmp_path: Path, change: str) -> None:
    content = bytearray(_written(MANY))
    if change == "cut":
        del content[-1:]
    elif change == "frame":
        content[len(content) // 2] ^= 1
    elif change == "table":
        content[-13] ^= 1
    elif change == "size":
        content[-14:-10] = b"\xff" * 4
    elif change == "count":
        content[-9] ^= 2
    else:
        content += b"x"
    with pytest.raises(ZstdFrameError):
        list(read_seekable_lines(io.BytesIO(bytes(content))))
    (tmp_path / "lines").write_bytes(content)
    with pytest.raises(ZstdFrameError), SortedLines(tmp_path / "lines", _key) as lines:
        list(lines.lines_from(b""))


def test_long_lines_do_not_fill_the_memory(tmp_path: Path) -> None:
    written = [b"%03d " % number + b"x" * (2 << 20) for number in range(60)]
    (tmp_path / "lines").write_bytes(_written(written))
    with SortedLines(tmp_path / "lines", _key) as lines:
        tracemalloc.start()
        try:
            assert sum(1 for _ in lines.lines_from(b"")) == len(written)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 48 << 20
        assert next(lines.lines_from(b"000")) == written[0]


def repeated_frame(byte: bytes, blocks: int) -> bytes:
    """Return a frame of blocks that each expand to 128 KiB of one byte."""
    head = b"\x28\xb5\x2f\xfd\x00\x58"
    middle = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + byte
    end = ((128 << 10) << 3 | 1 << 1 | 1).to_bytes(3, "little") + byte
    return head + middle * (blocks - 1) + end


@given(st.lists(st.binary(max_size=20)), st.integers(min_value=1, max_value=7))
def test_lines_are_returned_unchanged(content: list[bytes], step: int) -> None:
    lines = [one.replace(b"\n", b"") for one in content]
    whole = b"".join(line + b"\n" for line in lines)
    pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert list(split_lines(pieces)) == lines
    assert list(read_lines(io.BytesIO(zstandard.compress(whole)))) == lines


def test_line_length_is_limited() -> None:
    with pytest.raises(ZstdFrameError):
        list(split_lines([b"x" * 60, b"x" * 60, b"\n"], max_line_bytes=100))
    with pytest.raises(ZstdFrameError):
        # half a megabyte that expands to 16 GB
        list(read_lines(io.BytesIO(repeated_frame(b"x", 1 << 17))))


def test_compression_ratio_is_limited() -> None:
    sizes: list[int] = []
    with pytest.raises(ZstdFrameError):
        sizes.extend(map(len, decompress_frame(io.BytesIO(repeated_frame(b"\n", 1 << 17)))))
    # at most the free bytes, and the result of one decompression step
    assert sum(sizes) <= (1 << 26) + (1 << 25)


def test_total_size_is_limited() -> None:
    frame = zstandard.compress(b"x\n" * 600)
    assert len(list(read_lines(io.BytesIO(frame), FrameLimits(max_bytes=1200)))) == 600
    with pytest.raises(ZstdFrameError):
        list(read_lines(io.BytesIO(frame), FrameLimits(max_bytes=1199)))


@pytest.mark.parametrize("change", ["cut", "more", "again", "flip", "empty", "text"])
def test_incomplete_frame_is_refused(change: str) -> None:
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(b"x\n" * 6000)
    changed = {
        "cut": frame[:-1],
        "more": frame + b"x",
        "again": frame + b"x" * 3000,
        "flip": frame[:-9] + bytes([frame[-9] ^ 1]) + frame[-8:],
        "empty": b"",
        "text": b"hello",
    }[change]
    with pytest.raises(ZstdFrameError):
        list(read_lines(io.BytesIO(changed)))
