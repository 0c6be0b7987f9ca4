"""Digests of the blocks of one content, in the form of BitTorrent v2 (BEP 52).

A content is divided into leaves of 16 KiB. The sha256 of the leaves form a binary hash tree, padded
to a power of two with leaves whose hash is 32 zero bytes. The *layer* has one hash per piece; the
*root* is the hash of the whole tree. A reader who trusts the root can verify each piece alone.

See docs/reference/block-digests.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Struct

from neuromirror.model.validation import (
    Count,
    InvalidDocumentError,
    SingleLine,
    analysed_type,
    invalid_document_error,
)

LEAF_SIZE: Final = 16 << 10
"""Size of a leaf of the hash tree in bytes."""
MAX_PIECE_SIZE: Final = 64 << 20
"""Maximum size of a piece in bytes: a reader keeps a whole piece in memory to verify it."""
MAX_LAYER_BYTES: Final = 64 << 20
"""Maximum size of a layer in bytes."""
MAX_CONTENT_SIZE: Final = MAX_LAYER_BYTES // 32 * MAX_PIECE_SIZE
"""Maximum size of a content with block digests in bytes: 128 TiB."""
MAX_PARTS: Final = 10_000
"""Maximum number of parts of an upload to S3."""
FORMAT_VERSION: Final = 1
"""Version of the format of encoded block digests."""
MAX_HEAD_BYTES: Final = 16 << 10
"""Maximum length of the first line of encoded block digests in bytes."""

MAX_ENCODED_BYTES: Final = MAX_HEAD_BYTES + 1 + MAX_LAYER_BYTES + MAX_PARTS * 16
"""Maximum length of encoded block digests in bytes."""

_ZEROS: Final = bytes(LEAF_SIZE)
_ZEROS_DIGEST: Final = hashlib.sha256(_ZEROS).digest()
_HASH_BYTES: Final = 32
_MD5_BYTES: Final = 16
_LARGE: Final = 4 << 30
_PIECE_OF_SMALL: Final = 1 << 20
_PIECE_OF_LARGE: Final = 4 << 20

Data = bytes | bytearray | memoryview


class BlockDigests(Struct, frozen=True):
    """The digests of the blocks of one content.

    Attributes
    ----------
    size
        Size of the content in bytes.
    sha256
        The sha256 of the whole content in hex, computed while the pieces were hashed.
    piece_size
        Size of a piece in bytes: a power of two, at least :data:`LEAF_SIZE`.
    root
        The ``pieces root`` of BEP 52: 32 bytes, zeros for an empty content.
    layer
        The ``piece layer`` of BEP 52: 32 bytes per piece; empty if the content has at most one
        piece, whose hash is the root.
    part_size
        Size in bytes of the parts of an upload to S3 or of a dandi-etag; None if not recorded.
    part_md5s
        The MD5s of these parts, 16 bytes each.
    sender
        Who claims these digests; empty for those that were computed on this machine.
    """

    size: int
    sha256: str
    piece_size: int
    root: bytes
    layer: bytes
    part_size: int | None = None
    part_md5s: bytes = b""
    sender: str = ""

    @property
    def piece_count(self) -> int:
        """Return the number of pieces."""
        return -(-self.size // self.piece_size)

    def piece_length(self, piece: int) -> int:
        """Return the length of a piece; only the last one may be shorter than the piece size.

        Parameters
        ----------
        piece
            The number of the piece, from 0.

        Returns
        -------
        int
            The length in bytes.

        Raises
        ------
        IndexError
            The content has no such piece.
        """
        if not 0 <= piece < self.piece_count:
            raise IndexError(f"no piece {piece}: the content has {self.piece_count}")
        return min(self.piece_size, self.size - piece * self.piece_size)

    def piece_digest(self, piece: int) -> bytes:
        """Return the digest of a piece.

        Parameters
        ----------
        piece
            The number of the piece, from 0.

        Returns
        -------
        bytes
            The hash of the piece's subtree, 32 bytes.

        Raises
        ------
        IndexError
            The content has no such piece.
        """
        self.piece_length(piece)
        start = piece * _HASH_BYTES
        return self.layer[start : start + _HASH_BYTES] if self.layer else self.root

    def is_piece(self, piece: int, data: Data) -> bool:
        """Return whether bytes are those of a piece.

        Parameters
        ----------
        piece
            The number of the piece, from 0.
        data
            The bytes.

        Returns
        -------
        bool
            Whether length and digest match.

        Raises
        ------
        IndexError
            The content has no such piece.
        """
        if memoryview(data).nbytes != self.piece_length(piece):
            return False
        leaves = _leaf_digests(memoryview(data))
        # a content of one piece is not padded to the size of a piece
        width = self.piece_size // LEAF_SIZE if self.layer else 1
        return _tree_root(leaves, width, 0) == self.piece_digest(piece)

    def parts_etag(self) -> str | None:
        """Return the multipart ETag of the part MD5s.

        Returns
        -------
        str or None
            ``<md5>-<parts>``; None without part MD5s.
        """
        if self.part_size is None:
            return None
        joined = hashlib.md5(self.part_md5s, usedforsecurity=False).hexdigest()
        return f"{joined}-{len(self.part_md5s) // _MD5_BYTES}"

    def check(self, document: str = "block digests") -> None:
        """Check that sizes are within their limits and that the layer hashes to the root.

        Parameters
        ----------
        document
            The name of the document in error messages.

        Raises
        ------
        InvalidDocumentError
            A size is invalid, or the layer does not hash to the root.
        """
        _check_sizes(document, self.size, self.piece_size, self.part_size)
        for member, found, expected in (
            ("root", len(self.root), _HASH_BYTES),
            ("layer", len(self.layer), _layer_length(self.size, self.piece_size)),
            ("part MD5s", len(self.part_md5s), _parts_length(self.size, self.part_size)),
        ):
            if found != expected:
                raise InvalidDocumentError(document, member, f"{expected} bytes", f"{found}")
        if self.layer:
            root = _layer_root(self.layer, self.piece_size)
        else:
            root = self.root if self.size else bytes(_HASH_BYTES)
        if root != self.root:
            raise InvalidDocumentError(
                document, "root", f"{root.hex()}, the root of its layer", self.root.hex()
            )


class BlockHasher:
    """Computes block digests from bytes fed in order, in one pass.

    Parameters
    ----------
    piece_size
        Size of a piece in bytes: a power of two from :data:`LEAF_SIZE` to :data:`MAX_PIECE_SIZE`.
    part_size
        Size of a part in bytes, to record the MD5s of the parts; None not to.

    Raises
    ------
    ValueError
        A size is invalid.
    """

    def __init__(self, piece_size: int, part_size: int | None = None) -> None:
        _check_sizes("block digests", 0, piece_size, part_size)
        self._piece_size = piece_size
        self._part_size = part_size
        self._size = 0
        self._leaves: list[bytes] = []
        self._layer = bytearray()
        self._leaf = hashlib.sha256()
        self._part_md5s = bytearray()
        self._part = hashlib.md5(usedforsecurity=False)
        self._part_left = part_size or 0

    def update(self, data: Data) -> None:
        """Add the next bytes.

        Parameters
        ----------
        data
            The bytes that follow those of the last call, of any length.
        """
        view = memoryview(data).cast("B")
        if self._part_size is not None:
            self._update_parts(view, self._part_size)
        inside = self._size % LEAF_SIZE
        self._size += len(view)
        if inside:
            taken = view[: LEAF_SIZE - inside]
            self._leaf.update(taken)
            view = view[len(taken) :]
            if inside + len(taken) < LEAF_SIZE:
                return
            self._add_leaf(self._leaf.digest())
            self._leaf = hashlib.sha256()
        whole = len(view) // LEAF_SIZE * LEAF_SIZE
        sha256 = hashlib.sha256
        for start in range(0, whole, LEAF_SIZE):
            leaf = view[start : start + LEAF_SIZE]
            # padding of volumes
            self._add_leaf(_ZEROS_DIGEST if _ZEROS.startswith(leaf) else sha256(leaf).digest())
        if whole < len(view):
            self._leaf.update(view[whole:])

    def finish(self, sha256: str) -> BlockDigests:
        """Return the block digests of the bytes so far; the hasher cannot be used afterwards.

        Parameters
        ----------
        sha256
            The sha256 of the same bytes in hex.

        Returns
        -------
        BlockDigests
            The digests.
        """
        if self._size % LEAF_SIZE:
            self._add_leaf(self._leaf.digest())
        width = self._piece_size // LEAF_SIZE
        if self._size <= self._piece_size:
            root = bytes(self._layer) or _tree_root(self._leaves, 1, 0)
            layer = b""
        else:
            if self._leaves:
                self._layer += _tree_root(self._leaves, width, 0)
            layer = bytes(self._layer)
            root = _layer_root(layer, self._piece_size)
        if self._part_size is not None and self._part_left < self._part_size:
            self._part_md5s += self._part.digest()
        return BlockDigests(
            self._size,
            sha256,
            self._piece_size,
            root,
            layer,
            self._part_size,
            bytes(self._part_md5s),
        )

    def _add_leaf(self, digest: bytes) -> None:
        self._leaves.append(digest)
        if len(self._leaves) * LEAF_SIZE == self._piece_size:
            self._layer += _tree_root(self._leaves, 1, 0)
            self._leaves = []

    def _update_parts(self, view: memoryview, part_size: int) -> None:
        while view:
            taken = view[: self._part_left]
            self._part.update(taken)
            self._part_left -= len(taken)
            view = view[len(taken) :]
            if not self._part_left:
                self._part_md5s += self._part.digest()
                self._part = hashlib.md5(usedforsecurity=False)
                self._part_left = part_size


class BlockDigestsHead(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="kebab"
):
    """The first line of encoded block digests: all values except layer and part MD5s.

    Attributes
    ----------
    block_digests
        The version of the format.
    key
        The annex key of the content.
    size, sha256, piece_size, part_size
        As in :class:`BlockDigests`; ``part_size`` is 0 without part MD5s.
    root
        The root in hex.
    """

    block_digests: Annotated[int, msgspec.Meta(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    key: SingleLine
    size: Count
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    piece_size: Count
    root: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    part_size: Count

    @property
    def layer_length(self) -> int:
        """Return the length of the layer in bytes."""
        return _layer_length(self.size, self.piece_size)

    @property
    def body_length(self) -> int:
        """Return the number of bytes that follow the line: layer and part MD5s."""
        return self.layer_length + _parts_length(self.size, self.part_size or None)


def default_piece_size(size: int) -> int:
    """Return the piece size of a content: 1 MiB up to 4 GiB, 4 MiB above.

    For contents of more than 8 TiB, it is that of :func:`fitting_piece_size`.

    Parameters
    ----------
    size
        Size of the content in bytes.

    Returns
    -------
    int
        The piece size in bytes.
    """
    return fitting_piece_size(size, _PIECE_OF_SMALL if size <= _LARGE else _PIECE_OF_LARGE)


def fitting_piece_size(size: int, piece_size: int) -> int:
    """Return a piece size with which the layer of a content has at most MAX_LAYER_BYTES.

    Parameters
    ----------
    size
        Size of the content in bytes.
    piece_size
        The requested piece size in bytes; it is doubled as often as necessary.

    Returns
    -------
    int
        The piece size in bytes. For a content of more than :data:`MAX_CONTENT_SIZE`, which cannot
        have block digests, it is :data:`MAX_PIECE_SIZE`.
    """
    while piece_size < MAX_PIECE_SIZE and _layer_length(size, piece_size) > MAX_LAYER_BYTES:
        piece_size *= 2
    return piece_size


def encode_block_digests(key: str, digests: BlockDigests) -> bytes:
    """Encode the block digests of a key's content.

    Parameters
    ----------
    key
        The annex key.
    digests
        The digests.

    Returns
    -------
    bytes
        A line of JSON, the layer and the part MD5s; equal digests give equal bytes.
    """
    head = BlockDigestsHead(
        FORMAT_VERSION,
        key,
        digests.size,
        digests.sha256,
        digests.piece_size,
        digests.root.hex(),
        digests.part_size or 0,
    )
    return b"".join((msgspec.json.encode(head), b"\n", digests.layer, digests.part_md5s))


def decode_head(line: bytes, document: str) -> BlockDigestsHead:
    """Decode the first line of encoded block digests, which is untrusted.

    Parameters
    ----------
    line
        The line, without its newline.
    document
        The name of the document in error messages.

    Returns
    -------
    BlockDigestsHead
        The values; all sizes are within their limits.

    Raises
    ------
    InvalidDocumentError
        The line is not in this format.
    """
    if len(line) > MAX_HEAD_BYTES:
        expected = f"a first line of at most {MAX_HEAD_BYTES} bytes"
        raise InvalidDocumentError(document, "", expected, "a longer one")
    try:
        head = msgspec.json.decode(line, type=analysed_type(BlockDigestsHead))
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid_document_error(error, document) from None
    except UnicodeDecodeError:
        raise InvalidDocumentError(document, "", "JSON in UTF-8") from None
    _check_sizes(document, head.size, head.piece_size, head.part_size or None)
    if msgspec.json.encode(head) != line:
        raise InvalidDocumentError(document, "", "its first line in canonical form")
    return head


def decode_block_digests(content: bytes, document: str) -> tuple[str, BlockDigests]:
    """Decode and check block digests, which are untrusted.

    Parameters
    ----------
    content
        The encoded digests.
    document
        The name of the document in error messages.

    Returns
    -------
    tuple of (str, BlockDigests)
        The annex key, and the digests. The layer hashes to the root.

    Raises
    ------
    InvalidDocumentError
        The content is not in this format, or the layer does not hash to the root.
    """
    end = content.find(b"\n", 0, MAX_HEAD_BYTES + 1)
    if end < 0:
        expected = f"a first line of at most {MAX_HEAD_BYTES} bytes"
        raise InvalidDocumentError(document, "", expected, "none")
    head = decode_head(content[:end], document)
    body = content[end + 1 :]
    if len(body) != head.body_length:
        expected = f"{head.body_length} bytes after the first line"
        raise InvalidDocumentError(document, "", expected, str(len(body)))
    digests = BlockDigests(
        head.size,
        head.sha256,
        head.piece_size,
        bytes.fromhex(head.root),
        body[: head.layer_length],
        head.part_size or None,
        body[head.layer_length :],
    )
    digests.check(document)
    return head.key, digests


def _check_sizes(document: str, size: int, piece_size: int, part_size: int | None) -> None:
    if not LEAF_SIZE <= piece_size <= MAX_PIECE_SIZE or piece_size & (piece_size - 1):
        expected = f"a power of two from {LEAF_SIZE} to {MAX_PIECE_SIZE}"
        raise InvalidDocumentError(document, "piece-size", expected, str(piece_size))
    if size < 0 or (length := _layer_length(size, piece_size)) > MAX_LAYER_BYTES:
        expected = f"at most {MAX_LAYER_BYTES // _HASH_BYTES} pieces of {piece_size} bytes"
        found = f"{size} bytes" if size < 0 else f"{length // _HASH_BYTES} pieces"
        raise InvalidDocumentError(document, "size", expected, found)
    if part_size is not None and (
        part_size <= 0 or _parts_length(size, part_size) > MAX_PARTS * _MD5_BYTES
    ):
        expected = f"a size of at most {MAX_PARTS} parts"
        raise InvalidDocumentError(document, "part-size", expected, str(part_size))


def _layer_length(size: int, piece_size: int) -> int:
    return 0 if size <= piece_size else -(-size // piece_size) * _HASH_BYTES


def _parts_length(size: int, part_size: int | None) -> int:
    return 0 if part_size is None else -(-size // part_size) * _MD5_BYTES


def _leaf_digests(view: memoryview) -> list[bytes]:
    view = view.cast("B")
    sha256 = hashlib.sha256
    return [
        sha256(view[start : start + LEAF_SIZE]).digest() for start in range(0, len(view), LEAF_SIZE)
    ]


def _layer_root(layer: bytes, piece_size: int) -> bytes:
    digests = [layer[start : start + _HASH_BYTES] for start in range(0, len(layer), _HASH_BYTES)]
    return _tree_root(digests, 1, (piece_size // LEAF_SIZE).bit_length() - 1)


def _tree_root(digests: Sequence[bytes], width: int, height: int) -> bytes:
    """Return the root over hashes at a height above the leaves, padded to at least a width."""
    sha256 = hashlib.sha256
    level = list(digests)
    while len(level) > 1 or width > 1:
        if len(level) % 2:
            level.append(_padding(height))
        level = [sha256(level[pair] + level[pair + 1]).digest() for pair in range(0, len(level), 2)]
        width = -(-width // 2)
        height += 1
    return level[0] if level else bytes(_HASH_BYTES)


@lru_cache(maxsize=64)
def _padding(height: int) -> bytes:
    """Return the hash of a tree of this height whose leaves are all missing."""
    if not height:
        return bytes(_HASH_BYTES)
    return hashlib.sha256(_padding(height - 1) * 2).digest()
