"""References to pinned objects, read back by fsspec and zarr."""

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from zarr.storage import FsspecStore, LocalStore

from neuromirror.cli import main
from neuromirror.stream import ExcludedFileError, export_references
from neuromirror.volume import open_zarr
from support.range_server import RangeServer, ServedTree
from support.streamed_zarrs import StreamedZarrs, streamed_zarrs, write_entries


def _voxels(folder: Path, entries: dict[str, bytes]) -> dict[str, Any]:
    group = zarr.open_group(LocalStore(write_entries(folder, entries), read_only=True), mode="r")
    return {name: array[...] for name, array in group.arrays()}


def _store(path: Path) -> FsspecStore:
    fs = fsspec.filesystem(
        "reference",
        fo=str(path),
        remote_protocol="http",
        remote_options={"asynchronous": True},
        asynchronous=True,
        skip_instance_cache=True,
    )
    return FsspecStore(fs, read_only=True)


def _open_kerchunk(path: Path) -> zarr.Group:
    return zarr.open_group(_store(path), mode="r")


@pytest.mark.parametrize("form", ["inline", "manifest"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_references_are_read_back(
    zarrs: StreamedZarrs, tmp_path: Path, form: str, zarr_format: int
) -> None:
    path = zarrs.path(zarr_format)
    done = export_references(zarrs.version(), tmp_path / "out", path, store=zarrs.store(form))
    expected = _voxels(tmp_path / "zarr", zarrs.entries[zarr_format])
    kerchunk = _open_kerchunk(done.path)
    assert {name for name, _ in kerchunk.arrays()} == set(expected)
    for name, voxels in expected.items():
        array = kerchunk[name]
        assert isinstance(array, zarr.Array)
        assert np.array_equal(array[...], voxels)
    chunks = sum(
        not name.rpartition("/")[2].startswith((".z", "zarr"))
        for name in zarrs.entries[zarr_format]
    )
    assert (done.references, done.unversioned) == (chunks, 0)


def test_the_pinned_version_is_read_after_upstream_replaced_a_chunk(tmp_path: Path) -> None:
    with streamed_zarrs(tmp_path / "zarrs", ("inline",)) as changing:
        path = changing.path(3)
        done = export_references(
            changing.version(), tmp_path / "image.json", path, store=changing.store()
        )
        expected = _voxels(tmp_path / "zarr", changing.entries[3])["0"]
        changing.archive.change_zarr(changing.dandiset, path, "0/c/0/0", bytes(64))
        assert np.array_equal(_open_kerchunk(done.path)["0"][...], expected)


def test_chunks_that_the_version_excludes_are_not_left_out(tmp_path: Path) -> None:
    tree = ServedTree()
    tree.documents |= {"a.zarr/zarr.json": b"{}", ".neuromirror/dataset.json": b"{}"}
    for path in ("a.zarr/c/0/0", "b.txt"):
        tree.add(path, b"x", f"https://example.org/{path}")
    assert export_references(tree, tmp_path / "before.json").references == 1
    excluded = [{"path": path, "reason": "unreadable"} for path in ("c.zarr/c/0", "a.zarr/c/0/1")]
    tree.documents[".neuromirror/dataset.json"] = json.dumps({"exceptions": excluded}).encode()
    for folder in ("", "a.zarr"):
        with pytest.raises(ExcludedFileError, match=r"a\.zarr/c/0/1 is excluded"):
            export_references(tree, tmp_path / "refs.json", folder)
    assert not (tmp_path / "refs.json").exists()


def test_zeros_are_included(tmp_path: Path) -> None:
    voxels = np.arange(256, dtype="u1").reshape(16, 16)
    voxels[:8, :8] = 0
    array = zarr.create_array(
        LocalStore(tmp_path / "z"),
        shape=(16, 16),
        chunks=(8, 8),
        dtype="u1",
        compressors=None,
        fill_value=9,
        config={"write_empty_chunks": True},
    )
    array[...] = voxels
    with RangeServer() as server:
        tree = ServedTree()
        for path in (tmp_path / "z").rglob("*"):
            if path.is_file():
                name = path.relative_to(tmp_path / "z").as_posix()
                server.contents[f"/bucket/{name}"] = path.read_bytes()
                tree.add(name, path.read_bytes(), f"{server.url}/bucket/{name}")
        done = export_references(tree, tmp_path / "refs.json")
        assert (done.references, done.included, done.unversioned) == (3, 2, 3)
        found = zarr.open_array(_store(done.path), mode="r")
        assert np.array_equal(found[...], open_zarr(tree)[...])


# --- the command


def test_command_writes_references_and_reports_them(zarrs: StreamedZarrs, tmp_path: Path) -> None:
    target = tmp_path / "image.json"
    given = ["--json", "--store", str(zarrs.store()), "export", zarrs.version(), "-o", str(target)]
    options = ["--format", "kerchunk", "--path", zarrs.path(3)]
    done = CliRunner().invoke(main, [*given, *options])
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["action"], record["status"], record["path"]) == ("export", "ok", str(target))
    assert record["references"] == len(json.loads(target.read_bytes())["refs"]) - record["included"]
    assert CliRunner().invoke(main, [*given, *options]).exit_code == 2  # the file exists
    assert CliRunner().invoke(main, [*given, "--format", "npy", "--path", "x"]).exit_code == 2
