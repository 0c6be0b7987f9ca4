"""zarr-python reads pinned Zarrs: earlier states, hostile codecs, the examples of the docs."""

import json
import os
import pickle
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numcodecs.pickles
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from zarr.storage import FsspecStore, LocalStore

from neuromirror.cli import main
from neuromirror.stream import ContentGoneError, StreamError, WrongBytesError
from neuromirror.volume import open_zarr, read_only_store
from neuromirror.volume.read_only_store import names_unsafe_codec
from support.pinned_locks import pin_latest
from support.range_server import RangeServer, ServedTree
from support.streamed_zarrs import FORMS, StreamedZarrs, streamed_zarrs, write_entries


def _fsspec_store(zarrs: StreamedZarrs, zarr_format: int, form: str) -> FsspecStore:
    url = f"neuromirror://{zarrs.version()}/{zarrs.path(zarr_format)}"
    options = {"store": str(zarrs.store(form)), "skip_instance_cache": True}
    return FsspecStore.from_url(url, storage_options=options, read_only=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_over_fsspec_equals_a_download(
    zarrs: StreamedZarrs, tmp_path: Path, form: str, zarr_format: int
) -> None:
    folder = write_entries(tmp_path, zarrs.entries[zarr_format])
    local = zarr.open_group(LocalStore(folder, read_only=True), mode="r")
    group = zarr.open_group(_fsspec_store(zarrs, zarr_format, form), mode="r")
    assert dict(group.attrs) == dict(local.attrs)
    for name, array in local.arrays():
        other = group[name]
        assert isinstance(other, zarr.Array)
        assert np.array_equal(other[...], array[...])


def test_wrong_chunk_over_fsspec_is_an_error(tmp_path: Path) -> None:
    with streamed_zarrs(tmp_path / "zarrs", ("inline",)) as zarrs:
        array: Any = zarr.open_array(_fsspec_store(zarrs, 3, "inline"), path="0", mode="r")
        found = zarrs.archive.find_zarr(zarrs.dandiset, zarrs.path(3))
        entry = found.entries["0/c/0/1"]
        zarrs.archive.bucket.overwrite(found.key("0/c/0/1"), entry.version_id, bytes(64))
        with pytest.raises(WrongBytesError) as caught:
            array[...]
        assert caught.value.path == f"{zarrs.path(3)}/0/c/0/1"


@pytest.fixture(params=["inline"])
def fresh_zarrs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StreamedZarrs]:
    """Zarrs in the form of the parameter, which a test may change."""
    with streamed_zarrs(tmp_path / "zarrs", (request.param,)) as found:
        yield found


def _array(version: str, path: str, store: Path) -> zarr.Array[Any]:
    found = open_zarr(version, path, store=store)
    assert isinstance(found, zarr.Array)
    return found


@pytest.mark.parametrize("fresh_zarrs", FORMS, indirect=True)
def test_old_state_is_read_where_upstream_keeps_versions(fresh_zarrs: StreamedZarrs) -> None:
    [(form, harness)] = fresh_zarrs.harnesses.items()
    store, path = fresh_zarrs.store(form), f"{fresh_zarrs.path(3)}/0"
    before = _array(fresh_zarrs.version(), path, store)[...]
    with harness.index() as index:
        first = index.versions.resolve(f"demo:{fresh_zarrs.dandiset}", "draft").name
        commit = index.versions.resolve(f"demo:{fresh_zarrs.dandiset}", "draft").commit
    assert first
    fresh_zarrs.archive.change_zarr(
        fresh_zarrs.dandiset, fresh_zarrs.path(3), "0/c/0/0", b"\1" * 64
    )
    fresh_zarrs.archive.change_zarr(fresh_zarrs.dandiset, fresh_zarrs.path(3), "0/c/1/1", None)
    assert harness.sync()[f"demo:{fresh_zarrs.dandiset}"].status == "ok"
    old = _array(fresh_zarrs.version(commit), path, store)
    assert np.array_equal(old[...], before)
    new = _array(fresh_zarrs.version(), path, store)[...]
    assert (new[:4, :4] == 0x01010101).all()
    assert not new[4:8, 4:8].any()  # this state has no such chunk
    assert np.array_equal(new[8:], before[8:])


def test_expired_object_is_gone(fresh_zarrs: StreamedZarrs) -> None:
    array = _array(fresh_zarrs.version(), f"{fresh_zarrs.path(2)}/0", fresh_zarrs.store())
    found = fresh_zarrs.archive.find_zarr(fresh_zarrs.dandiset, fresh_zarrs.path(2))
    fresh_zarrs.archive.bucket.expire(found.key("0/2/1"))
    with pytest.raises(ContentGoneError) as caught:
        array[...]
    assert caught.value.path == f"{fresh_zarrs.path(2)}/0/2/1"


PICKLE = {"id": "pickle", "protocol": 5}
ARRAY: dict[str, Any] = {
    **{"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "order": "C"},
    **{"dtype": "|O", "fill_value": "", "filters": [{"id": "vlen-utf8"}], "compressor": None},
}
NEW_ARRAY: dict[str, Any] = {
    **{"zarr_format": 3, "node_type": "array"},
    "codecs": [
        {"name": "sharding_indexed", "configuration": {"codecs": [{"name": "numcodecs.pickle"}]}}
    ],
}


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _consolidated(array: dict[str, Any]) -> dict[str, Any]:
    """Return a group of format 3 that states the metadata of an array named "attributes"."""
    listed = {"kind": "inline", "must_understand": False, "metadata": {"attributes": array}}
    return {"zarr_format": 3, "node_type": "group", "consolidated_metadata": listed}


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (".zarray", ARRAY | {"filters": [{"id": "vlen-utf8"}, PICKLE]}),
        (".zarray", ARRAY | {"compressor": PICKLE}),
        (".zarray", ARRAY | {"filters": [PICKLE]}),
        ("zarr.json", _consolidated(ARRAY | {"compressor": PICKLE})),
    ],
)
@pytest.mark.parametrize("is_checked", [True, False])
def test_no_chunk_is_unpickled(
    isolated_home: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    document: dict[str, Any],
    is_checked: bool,
) -> None:
    # as older versions of numcodecs do
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    if not is_checked:  # the codec is not even known
        monkeypatch.setattr(read_only_store, "names_unsafe_codec", lambda key, content: False)
    mark = tmp_path / "mark"
    contents = {
        f"a.zarr/{path}": json.dumps(document).encode(),
        "a.zarr/0.0": pickle.dumps(_Hostile(mark)),
        "a.zarr/attributes/0.0": pickle.dumps(_Hostile(mark)),
    }
    with RangeServer({f"/{path}": one for path, one in contents.items()}) as server:
        tree = ServedTree()
        for path, one in contents.items():
            tree.add(path, one, f"{server.url}/{path}")

        def read() -> None:
            opened = open_zarr(tree, "a.zarr")
            np.asarray(opened if path == ".zarray" else opened["attributes"])

        with pytest.raises((StreamError, ValueError), match="pickle"):
            read()
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "document", "is_unsafe"),
    [
        ("a/.zarray", ARRAY, False),
        ("zarr.json", NEW_ARRAY, True),
        (".zmetadata", {"metadata": {"a/.zarray": ARRAY | {"compressor": PICKLE}}}, True),
        ("zarr.json", {"consolidated_metadata": {"metadata": {"a": NEW_ARRAY}}}, True),
        ("zarr.json", {"consolidated_metadata": {"metadata": {"attributes": NEW_ARRAY}}}, True),
        ("a/zarr.json", {"attributes": {"filters": [PICKLE]}, "node_type": "group"}, False),
        ("a/.zattrs", {"id": "pickle", "name": "pickle"}, False),
        ("a/0.0", ARRAY | {"compressor": PICKLE}, False),
        (".zarray", [1, None, "pickle", {"filters": "pickle", "codecs": {"id": 5}}], False),
    ],
)
def test_only_codecs_of_arrays_are_refused(key: str, document: Any, is_unsafe: bool) -> None:
    assert names_unsafe_codec(key, json.dumps(document).encode()) is is_unsafe


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"NaN"])
def test_what_is_not_json_is_left_to_zarr(content: bytes) -> None:
    assert not names_unsafe_codec(".zarray", content)


PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "zarr.md").read_text("utf-8")
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.S)


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    with streamed_zarrs(tmp_path / "zarrs", ("inline",)) as zarrs:
        replacements = {
            "dandi:000026@draft": zarrs.version(),
            "sub-01/sub-01_photo.ome.zarr": zarrs.path(2),
            "/data/store": str(zarrs.store()),
            'remote_protocol="https"': 'remote_protocol="http"',
        }
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NEUROMIRROR_STORE", str(zarrs.store()))
        pin_latest(zarrs.harnesses["inline"], tmp_path / "datasets.lock", f"demo:{zarrs.dandiset}")
        for language, shown in BLOCKS:
            text = shown
            for placeholder, replacement in replacements.items():
                text = text.replace(placeholder, replacement)
            if "catalogue" in text or "spikeinterface" in text:
                continue  # servers and SpikeInterface need an environment of their own
            if "ome_zarr" in text and find_spec("ome_zarr") is None:
                continue
            if language == "python":
                exec(compile(text, "zarr.md", "exec"), {})
            else:
                for line in text.splitlines():
                    argv = shlex.split(line)
                    assert argv[0] == "neuromirror"
                    result = CliRunner().invoke(main, argv[1:])
                    assert result.exit_code == 0, result.stderr
            done.append(text)
    assert len(done) >= 4
