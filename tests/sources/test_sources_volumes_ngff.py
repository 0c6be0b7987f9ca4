import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from msgspec.structs import replace

from neuromirror.sources.volumes.decode import decode_cutout
from neuromirror.sources.volumes.grid import Level, Volume, blocks, zarr_documents
from support.volume_service import npy

ANISOTROPIC = Volume(
    *("boss", "api.bossdb.io", "kasthuri/k11/em", "uint8", "nanometer"),
    levels=(
        Level("0", (0, 0, 1), (30, 21, 12), (3.0, 3.0, 30.0), (8, 8, 4)),
        Level("1", (0, 0, 1), (15, 11, 12), (6.0, 6.0, 30.0), (8, 8, 4)),
        Level("2", (0, 0, 0), (8, 6, 6), (12.0, 12.0, 60.0), (8, 6, 4)),
    ),
    name="kasthuri/k11/em",
)


def written(volume: Volume, folder: Path) -> Path:
    for document in zarr_documents(volume):
        path = folder / document.path.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document.content)
    return folder


def group_of(volume: Volume) -> Any:
    [group] = [one for one in zarr_documents(volume) if one.path == b"zarr.json"]
    return json.loads(group.content)["attributes"]["ome"]


def transformations(volume: Volume, level: str) -> tuple[list[float], list[float]]:
    [multiscale] = group_of(volume)["multiscales"]
    [found] = [one for one in multiscale["datasets"] if one["path"] == level]
    scale, translation = found["coordinateTransformations"]
    return scale["scale"], translation["translation"]


@pytest.mark.parametrize("times", [None, (0, 1, 2), (4, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64", "float32"])
def test_an_independent_validator_accepts_an_image(
    dtype: str, times: tuple[int, ...] | None, tmp_path: Path
) -> None:
    from ome_zarr_models.v05 import Image

    made = replace(ANISOTROPIC, dtype=dtype, times=times, time_step=0.5, time_unit="second")
    image = Image.from_zarr(zarr.open_group(written(made, tmp_path), mode="r"))
    [multiscale] = image.ome_attributes.multiscales
    assert image.ome_attributes.version == "0.5"
    assert [axis.name for axis in multiscale.axes] == list("tzyx")[times is None :]
    assert {axis.unit for axis in multiscale.axes[-3:]} == {"nanometer"}
    assert [dataset.path for dataset in multiscale.datasets] == ["0", "1", "2"]


def test_an_independent_validator_accepts_labels(tmp_path: Path) -> None:
    from ome_zarr_models.v05 import ImageLabel

    made = replace(ANISOTROPIC, dtype="uint64", labels=True)
    folder = written(made, tmp_path)
    label = ImageLabel.from_zarr(zarr.open_group(folder, mode="r"))
    assert label.ome_attributes.image_label is not None
    assert "image-label" not in group_of(ANISOTROPIC)


def test_zarr_reads_chunk_files_at_every_level_and_time(tmp_path: Path) -> None:
    made = replace(ANISOTROPIC, dtype="uint16", times=(0, 1))
    folder = written(made, tmp_path)
    rng = np.random.default_rng(8)
    arrays = {
        level.name: rng.integers(0, 1 << 16, (2, *reversed(level.extent)), "uint16")
        for level in made.levels
    }
    for block in blocks(made):
        (x0, x1), (y0, y1), (z0, z1) = (
            (a - s, b - s) for (a, b), s in zip(block.box, block.level.start, strict=True)
        )
        part = arrays[block.level.name][block.index[0], z0:z1, y0:y1, x0:x1]
        path = folder / block.path.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        body = zlib.compress(npy(part), 0)
        pieces = decode_cutout([body], "npz", block.box, block.level.chunk, "uint16")
        path.write_bytes(b"".join(pieces))
    group = zarr.open_group(folder, mode="r")
    for name, array in arrays.items():
        assert np.array_equal(group[name][...], array)  # type: ignore[arg-type, index]
        assert group[name].metadata.dimension_names == ("t", "z", "y", "x")  # type: ignore[union-attr]


def test_time_starts_with_upstreams_first_sample() -> None:
    made = replace(ANISOTROPIC, times=(4, 5), time_step=0.5, time_unit="second")
    scale, translation = transformations(made, "0")
    assert (scale[0], translation[0]) == (0.5, 2.0)
    unknown = replace(ANISOTROPIC, times=(4, 5))
    assert transformations(unknown, "0")[0][0] == 1.0
    assert "unit" not in group_of(unknown)["multiscales"][0]["axes"][0]


def test_equal_volumes_give_equal_bytes_independent_of_the_host() -> None:
    moved = replace(ANISOTROPIC, host="elsewhere.example", scheme="ndstore", path="a/b")
    assert zarr_documents(moved) == zarr_documents(
        replace(ANISOTROPIC, levels=tuple(ANISOTROPIC.levels))
    )
    assert zarr_documents(replace(ANISOTROPIC, unit="micrometer")) != zarr_documents(ANISOTROPIC)
