"""Untrusted zstd frames are read in one pass and within their limits."""

from __future__ import annotations

import io

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neuromirror.mint import FrameLimits, ZstdFrameError, decompress_frame, read_lines
from neuromirror.mint.seekable_lines import split_lines


def repeated_frame(byte: bytes, blocks: int) -> bytes:
    """Return a frame of blocks that each expand to 128 KiB of one byte."""
    head = b"\x28\xb5\x2f\xfd\x00\x58"
    middle = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + byte
    end = ((128 << 10) << 3 | 1 << 1 | 1).to_bytes(3, "little") + byte
    return head + middle * (blocks - 1) + end


@given(st.lists(st.binary(max_size=20)), st.integers(min_value=1, max_value=7))
def test_lines_are_returned_unchanged(content: list[bytes], step: int) -> None:
    lines = [one.replace(b"\n", b"") for one in content]
    whole = b"".join(one + b"\n" for one in lines)
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
