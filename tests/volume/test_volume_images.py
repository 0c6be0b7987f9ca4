"""PNGs as other programs read them, and which plane of a volume is shown."""

import io

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.volume.cutouts import (
    MAX_READ_BYTES,
    MAX_VOXEL_BYTES,
    color_labels,
    encode_png,
    plan_cutout,
)
from neuromirror.volume.description import LevelStorage, VolumeDescription
from neuromirror.volume.errors import CutoutTooLargeError, OutsideVolumeError

RANDOM = np.random.default_rng(7)


def of(*levels: Level, dtype: str = "uint8", unread: str = "") -> VolumeDescription:
    """A volume of these levels."""
    volume = Volume("", "", "", dtype, "nanometer", levels)
    stored = tuple(LevelStorage(one.name, "raw", unread) for one in levels)
    return VolumeDescription(
        *("m:v", "m:v@1", "boss://h/c/e/v", "sha256:0", "0" * 40), "OME-Zarr 0.5", volume, stored
    )


def level(
    number: int, extent: tuple[int, int, int], chunk: tuple[int, int, int] = (512, 512, 64)
) -> Level:
    x, y, z = extent
    return Level(str(number), (0, 0, 5), (x, y, z + 5), (4.0, 4.0, 40.0), chunk)


@pytest.mark.parametrize(
    "pixels",
    [
        RANDOM.integers(0, 256, (7, 5), np.uint8),
        RANDOM.integers(0, 256, (300, 9000), np.uint8),
        RANDOM.integers(0, 65536, (33, 70), np.uint16),
        RANDOM.integers(0, 65536, (33, 70), np.uint16).astype(">u2"),
        RANDOM.integers(0, 256, (11, 13, 3), np.uint8),
        RANDOM.integers(0, 256, (40, 40), np.uint8)[::3, ::2],
    ],
)
def test_a_png_has_the_pixels_it_was_made_of(pixels: np.ndarray) -> None:
    found = np.asarray(Image.open(io.BytesIO(b"".join(encode_png(pixels)))))
    assert np.array_equal(found, pixels)


def test_a_png_is_drawn_some_rows_at_a_time() -> None:
    labels = RANDOM.integers(0, 1 << 60, (900, 700), np.uint64)
    seen = []

    def drawn(rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return color_labels(rows)

    found = np.asarray(Image.open(io.BytesIO(b"".join(encode_png(labels, drawn)))))
    assert np.array_equal(found, color_labels(labels))
    assert max(seen) < 900


def test_a_cut_out_is_bounded_by_its_voxels_and_by_the_blocks_it_lies_in() -> None:
    volume = of(level(0, (8000, 8000, 500), (2048, 2048, 64)))
    with pytest.raises(CutoutTooLargeError, match=r"64,064,000 .* 64,000,000"):
        plan_cutout(volume, "0", ((0, 1001), (0, 1000), (5, 69)))
    fits = plan_cutout(volume, "0", ((0, 1000), (0, 1000), (5, 69)))
    assert (fits.region.bytes, fits.blocks, fits.read_bytes) == (
        MAX_VOXEL_BYTES,
        1,
        2048 * 2048 * 64,
    )
    corner = (2040, 2050), (2040, 2050), (60, 80)
    with pytest.raises(CutoutTooLargeError, match=r"8 .*2,147,483,648 bytes"):
        plan_cutout(volume, "0", corner)
    assert MAX_READ_BYTES < 2_147_483_648
    edge = plan_cutout(volume, "0", ((2040, 2050), (0, 10), (68, 69)))
    assert edge.blocks == 2
    with pytest.raises(OutsideVolumeError):
        plan_cutout(volume, "0", ((0, 8001), (0, 1), (5, 6)))
    ids = replace(volume, volume=replace(volume.volume, dtype="uint64"))
    with pytest.raises(CutoutTooLargeError, match="bytes of voxels"):
        plan_cutout(ids, "0", ((0, 1000), (0, 1000), (5, 69)))
