"""Block digests: agreement with libtorrent, verification of pieces, and untrusted encodings."""

import hashlib
import random
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror.model import (
    LEAF_SIZE,
    BlockHasher,
    InvalidDocumentError,
    decode_block_digests,
    default_piece_size,
    encode_block_digests,
)
from neuromirror.model.block_digests import MAX_PIECE_SIZE
from support.block_digests import digests_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "block-digests.md"
MIB = 1 << 20
KEY = "SHA256E-s5--" + "0" * 64 + ".nwb"
SIZES = (
    1,
    LEAF_SIZE - 1,
    LEAF_SIZE,
    LEAF_SIZE + 1,
    3 * LEAF_SIZE,
    4 * LEAF_SIZE,
    4 * LEAF_SIZE + 1,
    5 * LEAF_SIZE,
    11 * LEAF_SIZE + 7,
    MIB,
    3 * MIB + 5,
)


@pytest.mark.parametrize(
    ("piece_size", "expected"),
    [
        (LEAF_SIZE, "358dd1ff8764e7bb01012d9803713b799732105354c166c336bdc5701bb04c8e"),
        (4 * LEAF_SIZE, "7896b36de187bff87dfc17d22677dda305edd0139ffd37f0303c5e86dc5ec040"),
        (MIB, "193eccd70e0b8837dc65ff5342b8b12b9788e732f662989a621cfa663c32fd92"),
    ],
)
def test_root_and_layer_are_those_of_libtorrent(piece_size: int, expected: str) -> None:
    """``expected`` is the sha256 of the roots and layers that libtorrent 2.1.1 computed."""
    found = hashlib.sha256()
    for size in SIZES:
        digests = digests_of(random.Random(size).randbytes(size), piece_size)
        digests.check()
        found.update(digests.root + digests.layer)
    assert found.hexdigest() == expected


def test_digests_do_not_depend_on_the_lengths_of_updates() -> None:
    content = random.Random(1).randbytes(5 * LEAF_SIZE + 3) + bytes(3 * LEAF_SIZE)
    whole = digests_of(content, 2 * LEAF_SIZE, 1000)
    for step in (1, 999, LEAF_SIZE - 1, LEAF_SIZE, LEAF_SIZE + 1):
        assert digests_of(content, 2 * LEAF_SIZE, 1000, step) == whole


def test_the_padding_of_a_block_of_a_volume_is_not_hashed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed, sha256 = [], hashlib.sha256

    def counting(data: bytes = b"") -> object:
        hashed.append(len(data))
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", counting)
    BlockHasher(MIB).update(bytes([7]) * LEAF_SIZE + bytes(63 * LEAF_SIZE))
    assert sum(hashed) < 2 * LEAF_SIZE


@pytest.mark.parametrize("size", [1, LEAF_SIZE, 2 * LEAF_SIZE, 2 * LEAF_SIZE + 1, 9 * LEAF_SIZE])
def test_only_the_bytes_of_a_piece_are_that_piece(size: int) -> None:
    content = random.Random(size).randbytes(size)
    digests = digests_of(content, 2 * LEAF_SIZE)
    assert digests.piece_count == -(-size // (2 * LEAF_SIZE))
    for piece in range(digests.piece_count):
        data = bytearray(content[piece * 2 * LEAF_SIZE :][: digests.piece_length(piece)])
        assert digests.is_piece(piece, data)
        assert digests.is_piece(piece, memoryview(data))
        assert not digests.is_piece(piece, data[:-1])
        assert not digests.is_piece(piece, data + b"\0")
        data[len(data) // 2] ^= 1
        assert not digests.is_piece(piece, data)
    for piece in (-1, digests.piece_count):
        with pytest.raises(IndexError):
            digests.is_piece(piece, b"")


def test_an_empty_content_has_no_pieces() -> None:
    digests = digests_of(b"", MIB, 1000)
    assert (digests.piece_count, digests.root, digests.layer) == (0, bytes(32), b"")
    digests.check()
    assert decode_block_digests(encode_block_digests(KEY, digests), "x") == (KEY, digests)


def test_part_md5s_give_the_multipart_etag() -> None:
    content = random.Random(2).randbytes(2500)
    digests = digests_of(content, MIB, 1000)
    md5s = [hashlib.md5(content[start : start + 1000]).digest() for start in (0, 1000, 2000)]
    assert digests.part_md5s == b"".join(md5s)
    assert digests.parts_etag() == hashlib.md5(b"".join(md5s)).hexdigest() + "-3"
    assert digests_of(content, MIB).parts_etag() is None
    assert digests_of(content[:2000], MIB, 1000).part_md5s == b"".join(md5s[:2])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, MIB),
        (4 << 30, MIB),
        ((4 << 30) + 1, 4 * MIB),
        (8 << 40, 4 * MIB),
        ((8 << 40) + 1, 8 * MIB),
        (128 << 40, 64 * MIB),
        ((128 << 40) + 1, 64 * MIB),
    ],
)
def test_default_piece_size(size: int, expected: int) -> None:
    assert default_piece_size(size) == expected


@pytest.mark.parametrize("piece_size", [0, -1, LEAF_SIZE - 1, LEAF_SIZE + 1, 2 * MAX_PIECE_SIZE])
def test_invalid_piece_sizes_are_refused(piece_size: int) -> None:
    with pytest.raises(ValueError, match="piece-size"):
        BlockHasher(piece_size)


def test_encoding_round_trip() -> None:
    content = random.Random(3).randbytes(7 * LEAF_SIZE)
    for part_size in (None, 1000):
        for piece_size in (LEAF_SIZE, MIB):
            digests = digests_of(content, piece_size, part_size)
            encoded = encode_block_digests(KEY, digests)
            assert decode_block_digests(encoded, "x") == (KEY, digests)


def damaged_encodings() -> dict[str, bytes]:
    digests = digests_of(random.Random(4).randbytes(7 * LEAF_SIZE), LEAF_SIZE, 20_000)
    encoded = encode_block_digests(KEY, digests)
    head, _, body = encoded.partition(b"\n")

    def with_head(old: bytes, new: bytes) -> bytes:
        assert old in head
        return head.replace(old, new) + b"\n" + body

    def huge(size: int, piece_size: int = LEAF_SIZE) -> bytes:
        return encode_block_digests(KEY, replace(digests, size=size, piece_size=piece_size))

    wrong_layer = bytearray(encoded)
    wrong_layer[len(head) + 40] ^= 1
    return {
        "empty": b"",
        "no newline": head,
        "long head": b" " * 100_000,
        "short body": encoded[:-1],
        "long body": encoded + b"\0",
        "wrong layer": bytes(wrong_layer),
        "wrong root": with_head(digests.root.hex().encode(), b"0" * 64),
        "other root length": with_head(digests.root.hex().encode(), b"0" * 62),
        "absurd size": huge((1 << 63) - 1),
        "size over 64 bits": huge(1 << 64),
        "negative size": huge(-1),
        "no piece size": huge(5, 0),
        "odd piece size": huge(5, LEAF_SIZE + 1),
        "huge piece size": huge(5, 1 << 62),
        "tiny parts": with_head(b'"part-size":20000', b'"part-size":1'),
        "negative parts": with_head(b'"part-size":20000', b'"part-size":-1'),
        "other version": with_head(b'"block-digests":1', b'"block-digests":2'),
        "unknown member": with_head(b'"part-size"', b'"x":1,"part-size"'),
        "not canonical": with_head(b'"size":', b'"size": '),
        "not JSON": b"\xff\n" + body,
        "empty content with a root": encode_block_digests(
            KEY, replace(digests, size=0, layer=b"", part_size=None, part_md5s=b"")
        ),
    }


@pytest.mark.parametrize("name", list(damaged_encodings()))
def test_damaged_encodings_are_refused_in_one_error(name: str) -> None:
    with pytest.raises(InvalidDocumentError) as refused:
        decode_block_digests(damaged_encodings()[name], "the sidecar")
    assert refused.value.document == "the sidecar"


def test_check_finds_a_layer_of_another_root() -> None:
    digests = digests_of(random.Random(5).randbytes(7 * LEAF_SIZE), LEAF_SIZE)
    for wrong in (
        replace(digests, root=bytes(32)),
        replace(digests, layer=digests.layer[32:] + digests.layer[:32]),
        replace(digests, layer=digests.layer[:-32]),
        replace(digests, part_md5s=bytes(16)),
    ):
        with pytest.raises(InvalidDocumentError):
            wrong.check()


def vectors() -> list[tuple[int, int, str, str]]:
    """Return size, piece size, root and digest of the layer of each vector in the documentation."""
    rows = re.findall(
        r"^\| ([0-9]+) \| ([0-9]+) \| `([0-9a-f]{64})` \| (?:`([0-9a-f]{64})`|empty) \|$",
        PAGE.read_text("utf-8"),
        re.MULTILINE,
    )
    return [(int(size), int(piece_size), root, layer) for size, piece_size, root, layer in rows]


def vector_content(size: int) -> bytes:
    return (b"neuromirror\n" * (size // 12 + 1))[:size]


def computed_vector(size: int, piece_size: int) -> tuple[int, int, str, str]:
    digests = digests_of(vector_content(size), piece_size)
    layer = hashlib.sha256(digests.layer).hexdigest() if digests.layer else ""
    return size, piece_size, digests.root.hex(), layer


def test_the_documented_vectors() -> None:
    documented = vectors()
    assert len(documented) == 8
    assert [computed_vector(*one[:2]) for one in documented] == documented


def test_the_documented_file() -> None:
    digests = digests_of(vector_content(50_000), LEAF_SIZE, 20_000)
    key = f"SHA256E-s50000--{digests.sha256}.txt"
    encoded, text = encode_block_digests(key, digests), PAGE.read_text("utf-8")
    name = hashlib.sha256(key.encode()).hexdigest()
    layer = [digests.layer[start : start + 32].hex() for start in range(0, 128, 32)]
    for documented in (
        *(key, f"{len(encoded)} bytes", hashlib.sha256(encoded).hexdigest()),
        f"block-digests/{name[:2]}/{name[2:]}",
        *("".join(f"    {one}\n" for one in layer), f"`{digests.parts_etag()}`"),
    ):
        assert documented in text
