"""Block digests beside a lock file, which the lock file vouches for."""

import hashlib
import os
import random
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror.lab.lock_manifests import (
    BLOCK_DIGESTS_ENDING,
    LockBlockDigests,
    LockManifestDamagedError,
    LockManifestMissingError,
)
from neuromirror.lab.lockfile import LockUnusableError, load_lock
from neuromirror.lab.pin import PinRequest, pin
from neuromirror.model import LEAF_SIZE, BlockDigests, encode_block_digests
from neuromirror.store.block_digests import BlockDigestsFolder
from support.block_digests import claimed_digests, digests_of
from support.lab_store import LabStore

NAME = "demo:000004"


def contents(count: int = 3) -> dict[str, BlockDigests]:
    """Return block digests by key."""
    found = {}
    for number in range(count):
        content = random.Random(number).randbytes(3 * LEAF_SIZE + number)
        key = f"SHA256E-s{len(content)}--{hashlib.sha256(content).hexdigest()}.nwb"
        found[key] = digests_of(content, LEAF_SIZE)
    return found


def encoded(found: dict[str, BlockDigests]) -> list[bytes]:
    return [encode_block_digests(key, found[key]) for key in sorted(found)]


def write(folder: Path, *parts: bytes, name: str = "") -> Path:
    content = b"".join(parts)
    path = folder / f"{name or hashlib.sha256(content).hexdigest()}{BLOCK_DIGESTS_ENDING}"
    path.write_bytes(content)
    return path


def test_digests_are_found_by_key(tmp_path: Path) -> None:
    found = contents()
    path = write(tmp_path, *encoded(found))
    with closing(LockBlockDigests(path)) as pinned:
        assert list(pinned) == sorted(found)
        claims = {key: replace(one, sender=str(path)) for key, one in found.items()}
        assert {key: pinned.read(key) for key in found} == claims
        assert pinned.read("MD5E-s5--" + "0" * 32) is None
    with closing(LockBlockDigests(write(tmp_path))) as empty:
        assert list(empty) == []


def test_a_file_with_another_sha256_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, *encoded(contents()), name="0" * 64)
    with pytest.raises(LockManifestDamagedError):
        LockBlockDigests(path)
    path = write(tmp_path, *encoded(contents()))
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 97):
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(LockManifestDamagedError):
            LockBlockDigests(path)
        content[position] ^= 1


def test_hostile_files_with_the_right_sha256_are_refused(tmp_path: Path) -> None:
    first, second, third = encoded(contents())
    head, _, body = first.partition(b"\n")
    digests = next(iter(contents().values()))
    huge = encode_block_digests(
        "A", replace(digests, size=1 << 40, piece_size=1 << 20, layer=b"", root=bytes(32))
    )
    for parts in (
        (second, first),
        (first, first),
        (first, second[:-1]),
        (first, second, b"\n"),
        (first, second, third, b"x" * 100_000),
        (head + b"\n",),
        (head,),
        (huge,),
        (b"{}\n", body),
    ):
        with pytest.raises(LockManifestDamagedError):
            LockBlockDigests(write(tmp_path, *parts))
    with pytest.raises(LockManifestMissingError):
        LockBlockDigests(tmp_path / "missing.block-digests")
    with pytest.raises(LockManifestDamagedError):
        LockBlockDigests(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LockManifestDamagedError):
        LockBlockDigests(tmp_path / "pipe")


def test_digests_that_contradict_their_key_are_refused(tmp_path: Path) -> None:
    key, other = sorted(contents())[:2]
    swapped = encode_block_digests(key, contents()[other])
    with (
        closing(LockBlockDigests(write(tmp_path, swapped))) as pinned,
        pytest.raises(LockManifestDamagedError),
    ):
        pinned.read(key)


def test_a_file_that_changes_while_it_is_open_is_refused(tmp_path: Path) -> None:
    found = contents()
    path = write(tmp_path, *encoded(found))
    with closing(LockBlockDigests(path)) as pinned:
        other = {key: replace(one, root=bytes(32)) for key, one in found.items()}
        path.write_bytes(b"".join(encoded(other)))
        for key in found:
            with pytest.raises(LockManifestDamagedError):
                pinned.read(key)


@pytest.fixture
def digested_lab(lab: LabStore) -> LabStore:
    """A store with block digests of two of three files."""
    lab.mirror_harness.sync(NAME)
    folder = BlockDigestsFolder.of_store(lab.mirror_harness.store)
    for key in sha256_keys(lab):
        folder.write(key, claimed_digests(key))
    return lab


def sha256_keys(lab: LabStore) -> list[str]:
    with lab.mirror_harness.index() as index:
        keys = [one.key for one in index.files.of(index.versions.resolve(NAME))]
    return sorted(key for key in keys if key.startswith("SHA256E"))


def make_pin(lab: LabStore, lock: Path, *paths: str, streamable: bool | None = True) -> None:
    with lab.mirror_harness.index() as index:
        request = PinRequest(NAME, "latest", paths or (), streamable=streamable)
        list(pin(lock, [request], lab.mirror_harness.store, index))


def pinned_keys(lock: Path) -> list[str] | None:
    loaded = load_lock(lock)
    path = loaded.block_digests_path(loaded.datasets[0])
    if path is None:
        return None
    with closing(LockBlockDigests(path)) as pinned:
        return list(pinned)


def test_a_streamable_pin_has_the_digests_of_its_files(
    digested_lab: LabStore, tmp_path: Path
) -> None:
    lock = tmp_path / "paper" / "datasets.lock"
    lock.parent.mkdir()
    keys = sha256_keys(digested_lab)
    make_pin(digested_lab, lock)
    assert pinned_keys(lock) == keys
    before = lock.read_bytes()
    # the setting is kept, and equal digests give an equal file
    make_pin(digested_lab, lock, streamable=None)
    assert lock.read_bytes() == before
    # only pinned files; the old file is removed
    make_pin(digested_lab, lock, "sub-402", streamable=None)
    assert len(pinned_keys(lock) or ()) == 1
    assert len(list(lock.parent.rglob("*.block-digests"))) == 1
    make_pin(digested_lab, lock, streamable=False)
    assert pinned_keys(lock) is None
    assert list(lock.parent.rglob("*.block-digests")) == []


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "x.block-digests", "a/" + "0" * 63 + ".block-digests"]
)
def test_a_path_that_states_no_sha256_is_refused(
    digested_lab: LabStore, tmp_path: Path, name: str
) -> None:
    lock = tmp_path / "datasets.lock"
    make_pin(digested_lab, lock)
    found = load_lock(lock).datasets[0].block_digests
    assert found is not None
    lock.write_text(lock.read_text("utf-8").replace(found, name), "utf-8")
    with pytest.raises(LockUnusableError):
        load_lock(lock)
