"""Targets: journal entries, record lines, deltas, and the files that they are kept in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import zstandard
from fuzz_core import check_agreement, fixed_seeds, target
from fuzz_git import scratch

from neuromirror.config.mirror_files import load_mirror
from neuromirror.model import (
    LEAF_SIZE,
    BlockHasher,
    ConfigurationError,
    Digest,
    FileRecord,
    InvalidDocumentError,
    Location,
    NeuromirrorError,
    SnapshotEntry,
    VisitEnded,
    decode_block_digests,
    dump_entry,
    dump_snapshot_entry,
    encode_block_digests,
    load_entry,
    load_pairs,
    load_snapshot_entry,
)
from neuromirror.model.changes import dump_pairs, patch_lines
from neuromirror.store import Store

_PLACED = SnapshotEntry(
    b"sub-01/a.nwb",
    "SHA256E-s5--" + "0" * 64 + ".nwb",
    FileRecord(
        b"sub-01/\xff",
        5,
        (Digest("sha256", "0" * 64, "dandi"),),
        (Location("https://x.example.org/a?versionId=1", "s3", "1"),),
        None,
        datetime(2024, 1, 1, tzinfo=UTC),
        "id",
    ),
)
_VISIT = VisitEnded("v", "m", "d", "https://x/", "", "2024", "2024", "full", "f", 0, "")


@target("journal", ValueError, seeds=fixed_seeds(dump_entry(_VISIT)), kind="json")
def journal(data: bytes) -> None:
    """Lines of the journal."""
    entry = load_entry(data)
    check_agreement(load_entry(dump_entry(entry)) == entry or b"NaN" in data, "round trip", entry)


@target("record", ValueError, seeds=fixed_seeds(dump_snapshot_entry(_PLACED)), kind="json")
def record(data: bytes) -> None:
    """Record lines of files."""
    placed = load_snapshot_entry(data)
    check_agreement(
        load_snapshot_entry(dump_snapshot_entry(placed)) == placed, "round trip", placed
    )


def _encoded_block_digests() -> Sequence[bytes]:
    contents = (b"", b"a" * 5, bytes(range(256)) * 400)
    found = []
    for content in contents:
        hasher = BlockHasher(LEAF_SIZE, 30_000)
        hasher.update(content)
        digests = hasher.finish(hashlib.sha256(content).hexdigest())
        found.append(encode_block_digests(_PLACED.key, digests))
    return found


@target("block-digests", InvalidDocumentError, seeds=_encoded_block_digests)
def block_digests(data: bytes) -> None:
    """Encoded block digests."""
    key, digests = decode_block_digests(data, "fuzz")
    check_agreement(encode_block_digests(key, digests) == data, "round trip", data)
    for piece in {0, digests.piece_count - 1} & set(range(digests.piece_count)):
        digests.is_piece(piece, b"")


_LINES = [b'{"git":"%c","key":"","retention":"draft"}' % name for name in b"abc"]


@target(
    "delta",
    ValueError,
    seeds=fixed_seeds(
        b"\n".join(dump_pairs([(_LINES[0], None), (_LINES[1], _LINES[1][:-1] + b',"size":1}')]))
    ),
    kind="text",
)
def delta(data: bytes) -> None:
    """Deltas of record lines."""
    pairs = list(load_pairs(data.split(b"\n")))
    check_agreement(
        list(load_pairs(dump_pairs(pairs))) == pairs
        or (None, b"") in pairs
        or any(not (old or new) for old, new in pairs),
        "round trip",
    )
    list(patch_lines(_LINES, pairs))


def _kept() -> Sequence[bytes]:
    lines = b"".join(line + b"\n" for line in _LINES)
    return [zstandard.ZstdCompressor().compress(lines)]


@target("records", NeuromirrorError, seeds=_kept, kind="zstd")
def records(data: bytes) -> None:
    """A version's records as the store keeps them."""
    store = Store(scratch())
    folder = store.root / "neuromirror" / "records" / "000" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.jsonl.zst").write_bytes(data)
    for _ in store.record_lines("0001", "c"):
        pass


_MIRROR = """
source = "s3"
title = "A mirror"
[options]
bucket = "bucket"
[guards]
[zarr]
manifest = 5
[net]
contact = "mailto:a@example.org"
requests_per_second = 1.5
[schedule]
workers = 2
"""


@target(
    "mirror-file",
    ConfigurationError,
    seeds=fixed_seeds(
        _MIRROR,
        'source = "dandi"\n[options]\napi = "https://api.dandiarchive.org/api/"\n',
        'source = "ndstore"\n[options]\napi = "https://x.example.org/nd/sd"\ntokens = ["a"]\n',
    ),
    kind="text",
)
def mirror_file(data: bytes) -> None:
    """Mirror files, up to the source's own options."""
    path = scratch() / "lab.toml"
    path.write_bytes(data)
    load_mirror(path).open()
