"""Zarrs that upstream overwrote: the pinned state, or an error that names the chunk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from neuromirror.stream import ContentGoneError
from neuromirror.volume import open_zarr
from support.streamed_zarrs import FORMS, StreamedZarrs, streamed_zarrs


@pytest.fixture(params=["inline"])
def zarrs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StreamedZarrs]:
    """Zarrs in the form of the parameter, which a test may change."""
    with streamed_zarrs(tmp_path / "zarrs", (request.param,)) as found:
        yield found


def _array(version: str, path: str, store: Path) -> zarr.Array[Any]:
    found = open_zarr(version, path, store=store)
    assert isinstance(found, zarr.Array)
    return found


@pytest.mark.parametrize("zarrs", FORMS, indirect=True)
def test_old_state_is_read_where_upstream_keeps_versions(zarrs: StreamedZarrs) -> None:
    [(form, harness)] = zarrs.harnesses.items()
    store, path = zarrs.store(form), f"{zarrs.path(3)}/0"
    before = _array(zarrs.version(), path, store)[...]
    with harness.index() as index:
        first = index.resolve(f"demo:{zarrs.dandiset}", "draft").name
        commit = index.resolve(f"demo:{zarrs.dandiset}", "draft").commit
    assert first
    zarrs.archive.change_zarr(zarrs.dandiset, zarrs.path(3), "0/c/0/0", b"\1" * 64)
    zarrs.archive.change_zarr(zarrs.dandiset, zarrs.path(3), "0/c/1/1", None)
    assert harness.sync()[f"demo:{zarrs.dandiset}"].status == "ok"
    old = _array(zarrs.version(commit), path, store)
    assert np.array_equal(old[...], before)
    new = _array(zarrs.version(), path, store)[...]
    assert (new[:4, :4] == 0x01010101).all()
    assert not new[4:8, 4:8].any()  # this state has no such chunk
    assert np.array_equal(new[8:], before[8:])


def test_expired_object_is_gone(zarrs: StreamedZarrs) -> None:
    array = _array(zarrs.version(), f"{zarrs.path(2)}/0", zarrs.store())
    found = zarrs.archive.find_zarr(zarrs.dandiset, zarrs.path(2))
    zarrs.archive.bucket.expire(found.key("0/2/1"))
    with pytest.raises(ContentGoneError) as caught:
        array[...]
    assert caught.value.path == f"{zarrs.path(2)}/0/2/1"
