"""Blosc frames: valid ones are decoded, all others refused, whatever their headers state."""

import struct

import blosc
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neuromirror.sources.volumes.decode import decode_cutout
from neuromirror.sources.volumes.urls import WrongVoxelsError

SHAPE = (5, 7, 11)
COUNT = 5 * 7 * 11
BOX = ((0, 11), (0, 7), (0, 5))
CODECS = ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
FIELDS = {"version": 0, "codec": 1, "flags": 2, "item": 3, "content": 4, "block": 8, "frame": 12}


def voxels(dtype: str = "uint8", *, noise: bool = False) -> np.ndarray:
    many = np.random.default_rng(3).integers(0, 200, COUNT) if noise else np.arange(COUNT) // 40
    return many.astype(dtype).reshape(SHAPE)


def decoded(body: bytes, dtype: str | None = "uint8", piece: int = 0) -> bytes:
    size = piece or max(len(body), 1)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(decode_cutout(pieces, "blosc", BOX, (11, 7, 5), dtype))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shuffle", [blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE])
def test_every_frame_that_the_library_makes_is_decoded(
    dtype: str, codec: str, shuffle: int
) -> None:
    array = voxels(dtype)
    frame = blosc.compress(array, typesize=array.itemsize, cname=codec, shuffle=shuffle)
    for requested_dtype in (dtype, None):
        assert decoded(frame, requested_dtype) == array.tobytes()
    assert decoded(frame, piece=5) == array.tobytes() if dtype == "uint8" else True


@pytest.mark.parametrize("item", [1, 8, 16, 64, 255])
def test_incompressible_frames_are_decoded(item: int) -> None:
    array = voxels(noise=True)
    frame = blosc.compress(array, typesize=item, clevel=0)
    assert len(frame) == array.nbytes + 16
    assert decoded(frame) == array.tobytes()


def test_a_reply_with_fewer_voxels_is_not_called_an_invalid_frame() -> None:
    with pytest.raises(WrongVoxelsError, match="350 bytes of voxels, not 385") as refused:
        decoded(blosc.compress(voxels()[:, :, :10].copy(), typesize=8))
    assert "invalid" not in str(refused.value)


def test_a_file_is_padded_where_the_volume_ends() -> None:
    frame = blosc.compress(voxels(), typesize=8)
    found = np.frombuffer(b"".join(decode_cutout([frame], "blosc", BOX, (16, 8, 6), "uint8")), "u1")
    cut = found.reshape(6, 8, 16)
    assert np.array_equal(cut[:5, :7, :11], voxels())
    assert int(cut.sum()) == int(voxels().sum())


def test_a_pickled_array_is_refused() -> None:
    with pytest.raises(WrongVoxelsError):
        decoded(blosc.pack_array(voxels()))


def test_a_frame_of_another_shape_or_type_is_refused() -> None:
    for other in (voxels()[:, :-1], voxels("uint16")):
        frame = blosc.compress(np.ascontiguousarray(other), typesize=1)
        with pytest.raises(WrongVoxelsError) as refused:
            decoded(frame)
        assert not refused.value.transient


def test_a_bomb_is_refused_by_its_header() -> None:
    frame = blosc.compress(bytes(1 << 28), typesize=1, cname="zstd")
    assert len(frame) < 1 << 20

    def endless():
        yield frame[:16]
        raise AssertionError("more was read than the header")

    with pytest.raises(WrongVoxelsError):
        list(decode_cutout(endless(), "blosc", BOX, (11, 7, 5), "uint8"))


def test_a_longer_body_is_not_read_to_its_end() -> None:
    def endless():
        yield blosc.compress(voxels(), typesize=1)
        while True:
            yield b"\0" * 1024

    with pytest.raises(WrongVoxelsError) as refused:
        list(decode_cutout(endless(), "blosc", BOX, (11, 7, 5), "uint8"))
    assert not refused.value.transient


@pytest.mark.parametrize("codec", CODECS)
def test_a_truncated_frame_is_a_transient_error(codec: str) -> None:
    frame = blosc.compress(voxels(), typesize=1, cname=codec)
    for length in range(len(frame)):
        with pytest.raises(WrongVoxelsError) as refused:
            decoded(frame[:length])
        assert refused.value.transient


FRAMES = [blosc.compress(voxels(), typesize=1, cname=codec) for codec in CODECS]
FRAMES += [blosc.compress(voxels(noise=True), typesize=8)]
fuzzed = settings(max_examples=120, suppress_health_check=list(HealthCheck))


@fuzzed
@given(st.sampled_from(FRAMES), st.sampled_from(sorted(FIELDS)), st.integers(0, (1 << 32) - 1))
@example(FRAMES[0], "block", 1)
@example(FRAMES[0], "content", 0)
@example(FRAMES[0], "frame", (1 << 32) - 1)
def test_a_lying_header_gives_voxels_or_is_refused(frame: bytes, field: str, value: int) -> None:
    at = FIELDS[field]
    lie = bytes([value & 255]) if at < 4 else struct.pack("<I", value)
    _gives_voxels_or_is_refused(frame[:at] + lie + frame[at + len(lie) :])


@fuzzed
@given(st.sampled_from(FRAMES), st.lists(st.tuples(st.integers(0, 500), st.integers(1, 255))))
def test_flipped_bytes_give_voxels_or_are_refused(
    frame: bytes, flips: list[tuple[int, int]]
) -> None:
    body = bytearray(frame)
    for at, bits in flips:
        body[at % len(body)] ^= bits
    _gives_voxels_or_is_refused(bytes(body))


def _gives_voxels_or_is_refused(body: bytes) -> None:
    try:
        found = decoded(body)
    except WrongVoxelsError:
        return
    assert len(found) == COUNT
