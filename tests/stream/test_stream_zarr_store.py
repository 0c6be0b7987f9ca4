"""Zarrs of pinned states over the network: equal to a download to the bit, or an error."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

import neuromirror
from neuromirror.stream import (
    ContentGoneError,
    ExcludedFileError,
    FileMissingError,
    StreamError,
    UnverifiableError,
    WrongBytesError,
)
from neuromirror.volume import VersionStore, open_zarr
from neuromirror_demo.bucket_contents import LAYERS, layer_scales
from support.layer_mirror import LayerMirror, layer_mirror
from support.mirror_harness import run_git
from support.range_server import RangeServer, ServedTree
from support.streamed_zarrs import FORMS, StreamedZarrs, write_entries
from support.volume_mirror import ACTIVITY, EM, BossMirror


def _tree(node: zarr.Group | zarr.Array[Any]) -> dict[str, Any]:
    """Return the attributes and voxels of everything in a Zarr, by path."""
    found: dict[str, Any] = {"": dict(node.attrs)}
    if isinstance(node, zarr.Array):
        return {**found, "voxels": node[...].tobytes(), "dtype": str(node.dtype)}
    for name, member in node.members(max_depth=None):
        found[name] = dict(member.attrs)
        if isinstance(member, zarr.Array):
            found[f"{name}/voxels"] = member[...].tobytes()
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_each_form_equals_its_download(
    zarrs: StreamedZarrs, tmp_path: Path, form: str, zarr_format: int
) -> None:
    folder = write_entries(tmp_path / "zarr", zarrs.entries[zarr_format])
    expected = _tree(zarr.open(LocalStore(folder, read_only=True), mode="r"))
    assert len(expected) > 6
    opened = open_zarr(zarrs.version(), zarrs.path(zarr_format), store=zarrs.store(form))
    assert _tree(opened) == expected
    opened.store.close()


# --- volumes


@pytest.mark.parametrize("path", [EM, ACTIVITY])
def test_volume_equals_upstream(boss_mirror: BossMirror, path: str) -> None:
    opened = open_zarr(f"held:{path}", store=boss_mirror.store)
    for level in (0, 1, 2):
        array = opened[str(level)]
        assert isinstance(array, zarr.Array)
        assert np.array_equal(array[...], boss_mirror.voxels(path, level))
    opened.store.close()


def test_block_without_a_digest_is_refused_unless_verification_is_off(
    boss_mirror: BossMirror,
) -> None:
    version, store = f"plain:{EM}", boss_mirror.folder / "plain"
    refused = open_zarr(version, "1", store=store)
    with pytest.raises(UnverifiableError):
        refused[...]
    refused.store.close()


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerMirror]:
    """Precomputed layers, mirrored."""
    with layer_mirror(tmp_path_factory.mktemp("layers")) as found:
        yield found


@pytest.mark.parametrize("layer", LAYERS)
def test_precomputed_layer_is_a_multiscale_zarr(layers: LayerMirror, layer: str) -> None:
    opened = open_zarr(layers.version(layer), store=layers.store)
    scales = layer_scales(layer)
    assert [attr["path"] for attr in opened.attrs["ome"]["multiscales"][0]["datasets"]] == [
        str(number) for number in range(len(scales))
    ]
    for number, scale in enumerate(scales):
        array = opened[str(number)]
        assert isinstance(array, zarr.Array)
        assert np.array_equal(array[...], scale.voxels)
    opened.store.close()


# --- wrong, missing and excluded chunks, on a server


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with RangeServer() as running:
        yield running


class ServedZarr:
    """A Zarr of format 3 on a server, and the tree that lists it."""

    def __init__(self, server: RangeServer, folder: Path, **options: Any) -> None:
        drawn = np.random.default_rng(1)
        self.voxels = drawn.integers(1, 60_000, (64, 64), "u2")
        self.voxels[:8, :8] = 0
        array = zarr.create_array(
            LocalStore(folder),
            shape=(64, 64),
            dtype="u2",
            chunks=(8, 8),
            compressors=None,
            **options,
        )
        array[...] = self.voxels
        self.tree = ServedTree()
        self.server = server
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.add(path.relative_to(folder).as_posix(), path.read_bytes())

    def add(self, name: str, content: bytes, piece_size: int | None = None) -> None:
        self.server.contents[f"/{name}"] = content
        self.tree.add(name, content, f"{self.server.url}/{name}", piece_size=piece_size)

    def open(self, **options: Any) -> zarr.Array[Any]:
        found = open_zarr(self.tree, **options)
        assert isinstance(found, zarr.Array)
        return found


def test_missing_chunk_is_the_fill_value_only_if_the_state_lacks_it(
    server: RangeServer, tmp_path: Path
) -> None:
    served = ServedZarr(server, tmp_path)
    assert "c/0/0" not in served.tree.files  # all zeros: zarr wrote none
    assert np.array_equal(served.open()[...], served.voxels)
    del server.contents["/c/3/4"]
    with pytest.raises(ContentGoneError) as caught:
        served.open()[...]
    assert caught.value.path == "c/3/4"
    served.tree.documents[".neuromirror/dataset.json"] = (
        b'{"exceptions":[{"path":"c/0/0","reason":"unreadable","detail":"","size":128}]}'
    )
    with pytest.raises(ExcludedFileError) as excluded:
        served.open()[:8, :8]
    assert excluded.value.path == "c/0/0"
    # programs would take a file that is not found as the fill value
    with pytest.raises(ExcludedFileError):
        neuromirror.open(served.tree, "c/0/0")
    with pytest.raises(FileMissingError):
        neuromirror.open(served.tree, "c/9/9")


def test_chunks_in_folders_that_the_metadata_do_not_state_are_not_the_fill_value(
    server: RangeServer, tmp_path: Path
) -> None:
    stated = {"name": "v2", "separator": "/"}
    served = ServedZarr(server, tmp_path, zarr_format=2, chunk_key_encoding=stated)
    assert np.array_equal(served.open()[...], served.voxels)
    # as zarr-python before 2.8 wrote it, and early converters to OME-Zarr
    metadata = json.loads(server.contents["/.zarray"])
    del metadata["dimension_separator"]
    served.add(".zarray", json.dumps(metadata).encode())
    with pytest.raises(StreamError, match=r"1\.2 is stored as 1/2"):
        served.open()[8:16, 16:24]
    assert not served.open()[:8, :8].any()  # all zeros: zarr wrote none


def test_chunk_in_an_excluded_folder_is_an_error(server: RangeServer, tmp_path: Path) -> None:
    served = ServedZarr(server, tmp_path)
    served.tree.documents[".neuromirror/dataset.json"] = (
        b'{"exceptions":[{"path":"c/0","reason":"pending","detail":"","size":0}]}'
    )
    with pytest.raises(ExcludedFileError):
        served.open()[:8, :8]


def test_wrong_chunk_is_an_error_that_names_it(server: RangeServer, tmp_path: Path) -> None:
    served = ServedZarr(server, tmp_path)
    server.contents["/c/1/2"] = bytes(128)
    array = served.open()
    assert np.array_equal(array[16:, :], served.voxels[16:, :])
    with pytest.raises(WrongBytesError) as caught:
        array[8:16, 16:24]
    assert (caught.value.path, caught.value.url) == ("c/1/2", f"{server.url}/c/1/2")
    assert not served.open(verify="off")[8:16, 16:24].any()


@pytest.mark.parametrize("piece_size", [None, 1 << 14])
def test_shards_are_read_by_range_if_they_have_block_digests(
    server: RangeServer, tmp_path: Path, piece_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(7)
    voxels = drawn.integers(0, 60_000, (256, 256), "u2")
    array = zarr.create_array(
        LocalStore(tmp_path),
        shape=(256, 256),
        dtype="u2",
        chunks=(64, 64),
        shards=(256, 256),
        compressors=None,
    )
    array[...] = voxels
    tree = ServedTree()
    for name in ("zarr.json", "c/0/0"):
        content = (tmp_path / name).read_bytes()
        server.contents[f"/{name}"] = content
        size = piece_size if name != "zarr.json" else None
        tree.add(name, content, f"{server.url}/{name}", piece_size=size)
    opened = open_zarr(tree)
    assert isinstance(opened, zarr.Array)
    server.requests.clear()
    assert np.array_equal(opened[64:128, 64:128], voxels[64:128, 64:128])
    whole = len(server.contents["/c/0/0"])
    if piece_size is None:
        assert server.bytes_requested == whole
    else:
        assert server.bytes_requested < whole / 2
    assert np.array_equal(opened[...], voxels)
    if piece_size is None:
        for name, limit in (("pieces.MAX_WHOLE", 1000), ("file.MAX_WHOLE", 1000)):
            monkeypatch.setattr(f"neuromirror.stream.{name}", limit)
        monkeypatch.setattr("neuromirror.stream.tree_objects._MAX_HELD", whole - 1)
        server.requests.clear()
        with pytest.raises(UnverifiableError):
            open_zarr(tree)[:64, :64]
        assert not [request for request in server.requests if request.path == "/c/0/0"]
        monkeypatch.undo()
    damaged = bytearray(server.contents["/c/0/0"])
    damaged[100] ^= 1
    server.contents["/c/0/0"] = bytes(damaged)
    with pytest.raises(WrongBytesError):
        open_zarr(tree)[:64, :64]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [(RangeByteRequest(100, 1000), slice(100, 1000)), (SuffixByteRequest(1000), slice(None))],
)
def test_parts_beyond_the_end_of_a_file_are_read(
    server: RangeServer, tmp_path: Path, request_: Any, expected: slice
) -> None:
    served = ServedZarr(server, tmp_path)
    store = VersionStore(served.tree)
    found = asyncio.run(store.get("c/5/5", default_buffer_prototype(), request_))
    assert found is not None
    assert found.to_bytes() == server.contents["/c/5/5"][expected]
    store.close()


def test_clone_without_the_chunks_is_an_error_and_not_the_fill_value(
    zarrs: StreamedZarrs, tmp_path: Path
) -> None:
    with zarrs.harnesses["manifest"].index() as index:
        (name, *_) = [one.name for one in index.datasets.select() if "zarr" in one.name]
    clone = tmp_path / "clone"
    source = zarrs.harnesses["manifest"].repository(name)
    run_git(tmp_path, "clone", "-q", str(source), str(clone))
    array = open_zarr(clone, "0")
    assert isinstance(array, zarr.Array)
    with pytest.raises(StreamError):
        array[...]
    array.store.close()
