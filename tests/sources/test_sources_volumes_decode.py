import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromirror.sources.volumes.decode import decode_cutout
from neuromirror.sources.volumes.grid import Level, Volume, blocks, zarr_documents
from neuromirror.sources.volumes.urls import WrongVoxelsError
from support.volume_service import npy

_DTYPES = ["uint8", "uint16", "uint32", "uint64", "float32"]


def pieces(body: bytes, size: int = 1000) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def file_of(body: bytes, box: Any, chunk: Any, dtype: str | None, encoding: str = "npygz") -> bytes:
    return b"".join(decode_cutout(pieces(body), encoding, box, chunk, dtype, where="boss://h/x"))


def box_of(array: Any) -> Any:
    z, y, x = array.shape[-3:]
    return (0, x), (0, y), (0, z)


def chunk_of(array: Any) -> Any:
    z, y, x = array.shape[-3:]
    return x, y, z


def some(shape: tuple[int, ...], dtype: str = "uint8") -> Any:
    rng = np.random.default_rng(len(shape) + sum(shape))
    return rng.integers(1, 255, shape).astype(dtype)


def write(volume: Volume, folder: Path) -> None:
    for document in zarr_documents(volume):
        path = folder / document.path.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document.content)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_chunk_files_are_byte_for_byte_what_zarr_writes(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    extent = data.draw(st.tuples(*[st.integers(1, 9)] * 3), "extent")
    chunk = data.draw(st.tuples(*[st.integers(1, 6)] * 3), "chunk")
    times = data.draw(st.none() | st.just((3, 4)), "times")
    dtype = data.draw(st.sampled_from(_DTYPES), "dtype")
    start = data.draw(st.tuples(*[st.integers(0, 5)] * 3), "start")
    shape = (*(() if times is None else (len(times),)), *reversed(extent))
    array = some(shape, dtype)
    stop = tuple(a + b for a, b in zip(start, extent, strict=True))
    level = Level("0", start, stop, (1.0, 1.0, 1.0), chunk)  # type: ignore[arg-type]
    volume = Volume("boss", "h", "c/e/ch", dtype, "nanometer", (level,), times)
    folder = tmp_path_factory.mktemp("zarr")
    write(volume, folder)
    made = zarr.open_array(folder / "0", mode="r+")
    assert (made.shape, made.dtype.name, made.metadata.dimension_names) == (
        *(shape, dtype),
        ("t", "z", "y", "x")[4 - len(shape) :],
    )
    made[...] = array
    for block in blocks(volume):
        part = array if times is None else array[block.index[0] : block.index[0] + 1]
        (x0, x1), (y0, y1), (z0, z1) = (
            (a - s, b - s) for (a, b), s in zip(block.box, start, strict=True)
        )
        part = np.ascontiguousarray(part[..., z0:z1, y0:y1, x0:x1])
        if data.draw(st.booleans(), "big-endian"):
            part = part.astype(part.dtype.newbyteorder(">"))
        if data.draw(st.booleans(), "a channel axis"):
            part = part[np.newaxis]
        if data.draw(st.booleans(), "Fortran's order"):
            part = np.asfortranarray(part)
        body = zlib.compress(npy(part), data.draw(st.sampled_from([0, 1])))
        size = data.draw(st.sampled_from([1, 7, 1000]), "pieces")
        found = b"".join(
            decode_cutout(pieces(body, size), "npygz", block.box, chunk, dtype, where=block.url)
        )
        assert found == (folder / block.path.decode()).read_bytes()
        assert len(found) == block.size


@pytest.mark.parametrize("big", ["<", ">"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("chunk", [(130, 90, 5), (130, 100, 5), (200, 90, 5), (140, 100, 7)])
def test_blocks_of_several_pieces_are_padded_alike(
    chunk: tuple[int, int, int], order: Any, big: str
) -> None:
    array = some((5, 90, 130), "uint64")
    sent = np.array(array.astype(f"{big}u8"), order=order)
    expected = np.zeros(chunk[::-1], "<u8")
    expected[:5, :90, :130] = array
    found = file_of(zlib.compress(npy(sent)), box_of(array), chunk, "uint64")
    assert found == expected.tobytes()


def test_no_more_than_a_few_pieces_are_held_at_a_time() -> None:
    array = np.zeros((64, 512, 512), "uint8")
    sizes = [
        len(piece)
        for piece in decode_cutout(
            pieces(zlib.compress(npy(array)), 1 << 16),
            "npz",
            box_of(array),
            (600, 520, 80),
            "uint8",
        )
    ]
    assert sum(sizes) == 600 * 520 * 80
    assert max(sizes) <= 3 << 20


@pytest.mark.parametrize("dtype", _DTYPES)
def test_an_unexpected_dtype_is_refused(dtype: str) -> None:
    array = some((2, 3, 4), dtype)
    body = zlib.compress(npy(array))
    assert file_of(body, box_of(array), chunk_of(array), dtype) == array.tobytes()
    other = "uint16" if dtype == "uint8" else "uint8"
    with pytest.raises(WrongVoxelsError, match=f"type {dtype}, not {other}") as caught:
        file_of(body, box_of(array), chunk_of(array), other)
    assert not caught.value.transient


def test_without_a_type_any_unsigned_integer_will_do() -> None:
    array = some((2, 3, 4), "uint32")
    assert file_of(zlib.compress(npy(array)), box_of(array), (4, 3, 2), None) == array.tobytes()
    with pytest.raises(WrongVoxelsError, match="float32"):
        file_of(zlib.compress(npy(array.astype("float32"))), box_of(array), (4, 3, 2), None)


@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 3, 2), (24,), (2, 2, 3, 4), (), (1, 2, 3, 4, 1)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    body = zlib.compress(npy(np.ones(shape, "uint8")))
    with pytest.raises(WrongVoxelsError, match=r"boss://h/x .*\(2, 3, 4\)"):
        file_of(body, ((0, 4), (0, 3), (0, 2)), (4, 3, 2), "uint8")


def test_a_body_that_is_cut_anywhere_is_refused() -> None:
    array = some((3, 8, 16), "uint16")
    body = zlib.compress(npy(array))
    assert file_of(body, box_of(array), (16, 8, 4), "uint16")[:768] == array.tobytes()
    for cut in {0, 1, 9, 100, 130, len(body) // 2, len(body) - 5, len(body) - 1}:
        with pytest.raises(WrongVoxelsError) as caught:
            file_of(body[:cut], box_of(array), (16, 8, 4), "uint16")
        assert caught.value.transient
        assert "boss://h/x" in str(caught.value)


def test_a_body_that_goes_on_after_its_voxels_is_refused() -> None:
    array = some((3, 8, 16), "uint16")
    for body in (zlib.compress(npy(array)) + b"\0", zlib.compress(npy(array) + b"\0\0")):
        with pytest.raises(WrongVoxelsError, match="more"):
            file_of(body, box_of(array), (16, 8, 4), "uint16")


def test_a_decompression_bomb_is_refused() -> None:
    array = np.zeros((1, 4, 4), "uint8")
    bomb = zlib.compress(npy(array) + bytes(1 << 26))
    given: list[int] = []

    def body() -> Iterator[bytes]:
        for piece in pieces(bomb, 1 << 10):
            given.append(len(piece))
            yield piece

    with pytest.raises(WrongVoxelsError, match="the 16 bytes"):
        list(decode_cutout(body(), "npygz", box_of(array), (4, 4, 1), "uint8"))
    assert sum(given) < len(bomb) / 10


def test_an_endless_stream_without_content_is_refused() -> None:
    given: list[int] = []

    def endless() -> Iterator[bytes]:
        yield zlib.compress(b"")[:2]
        while True:
            given.append(50_000)
            yield b"\0\0\0\xff\xff" * 10_000  # empty stored blocks

    with pytest.raises(WrongVoxelsError, match="compression"):
        list(decode_cutout(endless(), "npygz", ((0, 4), (0, 4), (0, 1)), (4, 4, 1), "uint8"))
    assert sum(given) < 2 << 20


def head(text: str) -> bytes:
    made = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode() + bytes(24)
    return zlib.compress(made)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 3L, 4L)}   \n",
        '{"shape": (2, 3, 4), "descr": "u1", "fortran_order": False}',
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1L, 2L, 3L, 4L), }",
    ],
)
def test_headers_of_old_and_new_numpy_are_read(text: str) -> None:
    box = ((0, 4), (0, 3), (0, 2))
    assert file_of(head(text), box, (4, 3, 2), "uint8") == bytes(24)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3, 4), }",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2, 3, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, __import__('os')), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, -3, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2 3, 4), }",
        "{'descr': '|u1', 'fortran_order': 0, 'shape': (2, 3, 4), }",
        "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4), 'more': 1}",
        "{'descr': '|u1', 'shape': (2, 3, 4), }",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (2, 3, 4), }",
        "['descr']",
        "",
        "{" * 4000,
    ],
)
def test_a_malformed_header_is_refused(text: str) -> None:
    with pytest.raises(WrongVoxelsError, match="header"):
        file_of(head(text), ((0, 4), (0, 3), (0, 2)), (4, 3, 2), "uint8")


def test_pickled_arrays_and_other_things_are_refused() -> None:
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    box = ((0, 1), (0, 1), (0, 1))
    for body in (zlib.compress(pickled.getvalue()), zlib.compress(b"PK\x03\x04 and so on")):
        with pytest.raises(WrongVoxelsError):
            file_of(body, box, (1, 1, 1), "uint8")
    with pytest.raises(WrongVoxelsError, match="zlib"):
        file_of(b"<html>not found</html>", box, (1, 1, 1), "uint8")
    with pytest.raises(ValueError, match="blosc-python"):
        file_of(b"", box, (1, 1, 1), "uint8", "blosc-python")
    long = b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 30)
    with pytest.raises(WrongVoxelsError, match="1073741824 bytes"):
        file_of(zlib.compress(long), box, (1, 1, 1), "uint8")
