"""zarr-python over fsspec: equal to a download to the bit, and no fill values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore, LocalStore

from neuromirror.stream import WrongBytesError
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
    found = zarr.open_group(_fsspec_store(zarrs, zarr_format, form), mode="r")
    assert dict(found.attrs) == dict(local.attrs)
    for name, array in local.arrays():
        other = found[name]
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
