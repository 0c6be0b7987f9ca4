"""Block digests of a sender are claims: the key and this machine's own digests come first."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror import stream
from neuromirror.lab.lock_manifests import BLOCK_DIGESTS_ENDING, ListedFile
from neuromirror.model import LEAF_SIZE, encode_block_digests
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.stream import WrongBytesError, open_tree
from neuromirror.stream.pieces import PartCheck, piece_check
from support.block_digests import digests_of, etag_key
from support.lock_folders import LockFolder, rewrite_manifest
from support.mirror_harness import MirrorHarness
from support.range_server import RangeServer

NAME, NWB = "demo:000001", "sub-101/sub-101_ses-01_ecephys.nwb"


@dataclass
class Received:
    """A lock file whose sender serves other bytes, and states block digests of these."""

    lock: Path
    key: str
    genuine: bytes
    forged: bytes


@pytest.fixture
def received(demo_harness: MirrorHarness, tmp_path: Path) -> Iterator[Received]:
    paper = LockFolder(demo_harness, tmp_path / "paper")
    paper.pin(NAME, streamable=True)
    with stream.open(NAME, NWB, store=demo_harness.folder) as file:
        genuine = file.read()
    forged = genuine[::-1]
    listed = open_tree(NAME, store=demo_harness.folder).file(NWB)
    assert listed is not None
    claimed = replace(digests_of(forged, LEAF_SIZE), sha256=hashlib.sha256(genuine).hexdigest())
    content = encode_block_digests(listed.key, claimed)
    old = paper.lock.block_digests_path(paper.pin_of(NAME))
    assert old is not None
    new = old.with_name(hashlib.sha256(content).hexdigest() + BLOCK_DIGESTS_ENDING)
    new.write_bytes(content)
    paper.edit(old.name, new.name)
    with RangeServer({"/x": forged}) as server:

        def redirect(lines: list[dict[str, object]]) -> None:
            (line,) = (one for one in lines if one.get("path") == NWB)
            line["urls"] = [f"{server.url}/x"]

        rewrite_manifest(paper, NAME, redirect, restate=True)
        yield Received(paper.file, listed.key, genuine, forged)


def test_a_file_up_to_64_mib_is_verified_by_its_key(received: Received) -> None:
    with stream.open(received.lock, NWB) as opened:
        with pytest.raises(WrongBytesError, match="of its sha256:"):
            opened.read()
        assert "verified by sha256" in repr(opened)


def test_claims_of_a_sender_are_named(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuromirror.stream.pieces.MAX_WHOLE", LEAF_SIZE)
    with stream.open(received.lock, NWB) as opened:
        assert opened.read() == received.forged
        assert "claim" in repr(opened)
        assert str(received.lock.parent) in opened.verified_by


def test_digests_of_this_machine_are_used_before_those_of_a_sender(
    received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.stream.pieces.MAX_WHOLE", LEAF_SIZE)
    BlockDigestsFolder.of_user().write(received.key, digests_of(received.genuine, LEAF_SIZE))
    with stream.open(received.lock, NWB) as opened:
        assert "claim" not in repr(opened)
        with pytest.raises(WrongBytesError, match="of its block digests:"):
            opened.read(1)


def test_parts_that_give_the_etag_of_the_key_are_no_claim() -> None:
    content, part_size = bytes(range(256)) * 256, 1 << 14
    key = etag_key(content, part_size)
    file = ListedFile("x", key, f"etag:{key.rpartition('--')[2]}", len(content))
    digests = replace(digests_of(content, LEAF_SIZE, part_size), root=bytes(32), sender="x.lock")
    check = piece_check(file, digests, "require", "v", "digest")
    assert isinstance(check, PartCheck)
    assert check.is_piece(1, content[part_size : 2 * part_size])
    assert "claim" not in check.basis
