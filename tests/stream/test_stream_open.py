"""Files opened over the network equal those of a download, or are errors."""

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest

from neuromirror import stream
from neuromirror.annex import key_digest
from neuromirror.lab.clone import download
from neuromirror.stream import ContentGoneError, UnverifiableError, WrongBytesError, open_tree
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
from support.range_server import RangeServer, ServedTree

NWB = "sub-101/sub-101_ses-01_ecephys.nwb"
MIB = 1 << 20
CONTENT = random.Random(22).randbytes(5 * MIB + 12345)


def test_a_file_of_a_version_has_the_bytes_of_its_key(demo_harness: MirrorHarness) -> None:
    tree = open_tree("demo:000001", store=demo_harness.folder)
    file = tree.file(NWB)
    assert file is not None
    with stream.open(tree, NWB) as opened:
        content = opened.read()
    tree.close()
    assert ("sha256", hashlib.sha256(content).hexdigest()) == key_digest(file.key)


@pytest.fixture
def served() -> ServedTree:
    return ServedTree()


@pytest.fixture
def web(served: ServedTree) -> Iterator[RangeServer]:
    """A server of a content with block digests."""
    with RangeServer({"/x": CONTENT}) as server:
        served.add("x.bin", CONTENT, f"{server.url}/x", piece_size=1 << 16)
        yield server


def test_reads_at_any_offset_return_the_bytes_there(served: ServedTree, web: RangeServer) -> None:
    chance = random.Random(1)
    with stream.open(served, "x.bin") as opened:
        assert opened.seek(0, io.SEEK_END) == len(CONTENT)
        for _ in range(60):
            start, count = chance.randrange(len(CONTENT)), chance.choice([1, 100, 70000, MIB])
            opened.seek(start)
            assert opened.read(count) == CONTENT[start : start + count]
        opened.seek(0)
        assert opened.read() == CONTENT


def test_a_sequential_reader_sends_few_requests(served: ServedTree, web: RangeServer) -> None:
    with stream.open(served, "x.bin") as opened:
        while opened.read(1 << 15):
            pass
    assert web.bytes_requested == len(CONTENT)
    assert len(web.requests) < 15


def test_a_server_without_ranges_serves_the_right_bytes(served: ServedTree) -> None:
    with RangeServer({"/x": CONTENT}, has_ranges=False) as web:
        served.add("x.bin", CONTENT, f"{web.url}/x", piece_size=1 << 16)
        with stream.open(served, "x.bin") as opened:
            opened.seek(2 * MIB)
            assert opened.read(10) == CONTENT[2 * MIB : 2 * MIB + 10]


def test_wrong_bytes_are_an_error_with_the_location(served: ServedTree) -> None:
    wrong = bytearray(CONTENT)
    wrong[3 * MIB] ^= 1
    with RangeServer({"/x": bytes(wrong)}) as web:
        served.add("x.bin", CONTENT, f"{web.url}/x", piece_size=1 << 16)
        with stream.open(served, "x.bin") as opened:
            assert opened.read(MIB) == CONTENT[:MIB]
            opened.seek(3 * MIB - 10)
            with pytest.raises(WrongBytesError) as caught:
                opened.read(MIB)
            assert (caught.value.path, caught.value.url) == ("x.bin", f"{web.url}/x")
            assert (caught.value.start, caught.value.stop) == (3 * MIB, 3 * MIB + (1 << 16))


def test_another_location_replaces_one_with_wrong_bytes(served: ServedTree) -> None:
    with RangeServer({"/newer": CONTENT[::-1], "/short": CONTENT[:MIB], "/x": CONTENT}) as web:
        urls = [f"{web.url}{one}" for one in ("/gone", "/newer", "/short", "/x")]
        served.add("x.bin", CONTENT, *urls, piece_size=1 << 16)
        with stream.open(served, "x.bin") as opened:
            assert opened.read() == CONTENT


def test_a_content_without_any_location_left_is_gone(served: ServedTree) -> None:
    with RangeServer() as web:
        served.add("x.bin", CONTENT, f"{web.url}/x", piece_size=1 << 16)
        with stream.open(served, "x.bin") as opened, pytest.raises(ContentGoneError):
            opened.read(1)


def test_a_large_file_without_block_digests_is_refused(
    served: ServedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.stream.pieces.MAX_WHOLE", MIB)
    with RangeServer({"/x": CONTENT}) as web:
        served.add("x.bin", CONTENT, f"{web.url}/x")
        with pytest.raises(UnverifiableError):
            stream.open(served, "x.bin")
        with stream.open(served, "x.bin", verify="off") as opened:
            assert "not verified" in repr(opened)
            assert opened.read(10) == CONTENT[:10]
        assert web.bytes_requested < MIB


def test_a_small_file_is_verified_as_a_whole(served: ServedTree) -> None:
    with RangeServer({"/x": CONTENT[:-1] + b"?"}) as web:
        served.add("x.bin", CONTENT, f"{web.url}/x")
        with stream.open(served, "x.bin") as opened, pytest.raises(WrongBytesError):
            opened.read(10)


def test_block_digests_of_another_content_are_not_used(served: ServedTree) -> None:
    with RangeServer({"/x": CONTENT}) as web:
        served.add("x.bin", CONTENT, f"{web.url}/x")
        served.add("other.bin", CONTENT[::-1], piece_size=1 << 16)
        served.digests["x.bin"] = served.digests["other.bin"]
        with stream.open(served, "x.bin") as opened:
            assert opened.read(10) == CONTENT[:10]
        assert web.bytes_requested == len(CONTENT)


def downloaded(mirror: MirrorHarness, dataset: str, path: str, folder: Path) -> Path:
    url = f"ria+{mirror.folder.as_uri()}#~{dataset.replace(':', '--')}"
    outcomes = [*download(url, path, folder, jobs=2)]
    assert [outcome.status for outcome in outcomes] == ["ok"], outcomes
    return folder / path


def all_values(file: h5py.File) -> dict[str, object]:
    """Return the values of all datasets of a file; for references the names that they refer to."""
    found: dict[str, object] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset):
            found[name] = sorted(item.attrs)
        elif h5py.check_ref_dtype(item.dtype) is h5py.Reference:
            found[name] = [file[one].name for one in np.ravel(item[()])]
        else:
            value = np.asarray(item[()])
            found[name] = value.tolist() if value.dtype.hasobject else value.tobytes()

    file.visititems(add)
    return found


@pytest.mark.parametrize("form", ["store", "lock", "fsspec", "fsspec lock"])
def test_h5py_reads_what_a_download_has(
    demo_harness: MirrorHarness, tmp_path: Path, form: str
) -> None:
    local = downloaded(demo_harness, "demo:000001", NWB, tmp_path / "download")
    lock = pin_latest(demo_harness, tmp_path / "datasets.lock", "demo:000001")
    options = {"store": str(demo_harness.folder)}
    with demo_harness.index() as index:
        version = index.versions.resolve("demo:000001").name
    opened = {
        "store": lambda: stream.open(version, NWB, store=demo_harness.folder),
        "lock": lambda: stream.open(lock, NWB),
        "fsspec": lambda: fsspec.open(f"neuromirror://{version}/{NWB}", **options).open(),
        "fsspec lock": lambda: fsspec.open(f"lock://{lock}/{NWB}").open(),
    }[form]()
    with opened, h5py.File(opened, "r") as remote, h5py.File(local, "r") as expected:
        assert all_values(remote) == all_values(expected)
        opened.seek(0)
        assert opened.read() == local.read_bytes()
