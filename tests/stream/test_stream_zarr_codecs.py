"""No chunk of a Zarr is unpickled: its author could run any program."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numcodecs.pickles
import numpy as np
import pytest

from neuromirror.stream import StreamError
from neuromirror.volume import open_zarr
from neuromirror.volume.read_only_store import names_unsafe_codec
from support.range_server import RangeServer, ServedTree

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


@pytest.mark.parametrize(
    "changed",
    [{"filters": [{"id": "vlen-utf8"}, PICKLE]}, {"compressor": PICKLE}, {"filters": [PICKLE]}],
)
def test_no_chunk_is_unpickled(
    isolated_home: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    # as older versions of numcodecs do
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    mark = tmp_path / "mark"
    contents = {
        "a.zarr/.zarray": json.dumps(ARRAY | changed).encode(),
        "a.zarr/0.0": pickle.dumps(_Hostile(mark)),
    }
    with RangeServer({f"/{path}": one for path, one in contents.items()}) as server:
        tree = ServedTree()
        for path, one in contents.items():
            tree.add(path, one, f"{server.url}/{path}")
        with pytest.raises(StreamError, match="pickles"):
            np.asarray(open_zarr(tree, "a.zarr"))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "document", "is_unsafe"),
    [
        ("a/.zarray", ARRAY, False),
        ("zarr.json", NEW_ARRAY, True),
        (".zmetadata", {"metadata": {"a/.zarray": ARRAY | {"compressor": PICKLE}}}, True),
        ("zarr.json", {"consolidated_metadata": {"metadata": {"a": NEW_ARRAY}}}, True),
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
