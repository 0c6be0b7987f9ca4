"""Regions written to files: the right voxels in the right place, the same bytes each time."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from neuromirror.store import UnsafePathError
from neuromirror.transfer.content_bodies import ContentMismatchError
from neuromirror.volume import (
    FORMATS,
    BlockUnavailableError,
    ExportRefusedError,
    ExportResult,
    OutsideVolumeError,
    export,
)
from neuromirror.volume.exporter import _RowSplitter
from support.annex_with_boss import AnnexRepository
from support.volume_mirror import ACTIVITY, CELLS, EM, FIRST_Z, BossMirror, count_contents

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

BOX: Box = ((110, 150), (100, 160), (30, 81))
"""Of EM, in upstream's voxels: four blocks in each of the slabs 30:44, 44:76 and 76:81."""


def exported(held: BossMirror, folder: Path, path: str = EM, **how: Any) -> ExportResult:
    return export(f"held:{path}", folder, store=held.store, **how)


def cut(held: BossMirror, box: Box = BOX) -> Any:
    (x0, x1), (y0, y1), (z0, z1) = box
    return held.voxels()[z0 - FIRST_Z : z1 - FIRST_Z, y0:y1, x0:x1]


def contents(folder: Path) -> dict[str, str]:
    """The checksums of what was exported, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".neuromirror")
    }


def read(folder: Path, made: ExportResult) -> Any:
    """What another program reads of an export."""
    paths = [folder / path for path in made.paths]
    if made.format == "tiff":
        return np.stack([tifffile.imread(path) for path in paths])
    if made.format == "npy":
        return np.load(paths[0])
    (root,) = folder.glob("*.ome.zarr")
    return zarr.open_group(root, mode="r")[made.level][...]


@pytest.mark.parametrize("format", FORMATS)
def test_other_programs_read_the_voxels_of_the_box(
    boss_mirror: BossMirror, tmp_path: Path, format: str
) -> None:
    made = exported(boss_mirror, tmp_path, box=BOX, format=format)
    found = read(tmp_path, made)
    assert found.dtype == np.uint8
    assert np.array_equal(found, cut(boss_mirror))


@pytest.mark.parametrize("format", FORMATS)
def test_labels_keep_every_bit(boss_mirror: BossMirror, tmp_path: Path, format: str) -> None:
    made = exported(
        boss_mirror, tmp_path, CELLS, box=((0, 70), (40, 90), (20, 24)), level=1, format=format
    )
    found = read(tmp_path, made)
    assert found.dtype == np.uint64
    assert np.array_equal(found, boss_mirror.voxels(CELLS, 1)[8:12, 40:90, :70])
    assert found.max() > 1 << 60


def test_an_exported_zarr_lies_where_the_volume_does(
    boss_mirror: BossMirror, tmp_path: Path
) -> None:
    from ome_zarr_models.v05.image import Image

    box = ((70, 140), (10, 90), (30, 40))
    exported(boss_mirror, tmp_path, format="zarr", level=1, box=box)
    (root,) = tmp_path.glob("*.ome.zarr")
    image = Image.from_zarr(zarr.open_group(root, mode="r"))
    scale, move = image.ome_attributes.multiscales[0].datasets[0].coordinateTransformations
    assert scale.scale == [40, 8, 8]
    assert move.translation == [30 * 40, 10 * 8 + 2, 70 * 8 + 2]


def test_the_same_bytes_come_from_a_clone_and_from_the_store(
    boss_mirror: BossMirror, clone: AnnexRepository, tmp_path: Path
) -> None:
    box: Box = ((100, 120), (0, 20), (40, 50))
    for format in FORMATS:
        one, other = tmp_path / "store" / format, tmp_path / "clone" / format
        exported(boss_mirror, one, box=box, format=format)
        export(clone.path, other, box=box, format=format)
        assert contents(one) == contents(other) != {}
    assert count_contents(clone) == 2


def test_voxels_that_were_changed_upstream_are_not_published(
    boss_mirror: BossMirror, tmp_path: Path
) -> None:
    fault = boss_mirror.boss.fault("zeros", path="/cutout/.*/44:76/")
    with pytest.raises(BlockUnavailableError) as caught:
        exported(boss_mirror, tmp_path / "out", box=BOX)
    assert fault.struck
    assert any(isinstance(cause, ContentMismatchError) for cause in caught.value.causes)
    finished = [path for path in contents(tmp_path / "out") if path.endswith(".tif")]
    assert len([path for path in finished if not path.startswith(".")]) == 14
    boss_mirror.boss.clear_faults()
    exported(boss_mirror, tmp_path / "out", box=BOX)
    exported(boss_mirror, tmp_path / "whole", box=BOX)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_truncated_block_is_rewritten(boss_mirror: BossMirror, tmp_path: Path) -> None:
    fault = boss_mirror.boss.fault("cut", path="/cutout/", times=2)
    made = exported(boss_mirror, tmp_path, box=BOX, format="npy")
    assert fault.struck == 2
    assert np.array_equal(read(tmp_path, made), cut(boss_mirror))


@pytest.mark.parametrize("size", [1, 5, 24, 25, 96, 1000])
def test_pieces_of_any_size_fill_the_boxes_of_a_block(size: int) -> None:
    voxels = np.arange(3 * 4 * 6, dtype="<u2").reshape(3, 4, 6)
    found = np.zeros_like(voxels)

    def put_box(box: Box, content: memoryview) -> None:
        xs, ys, zs = (slice(start - 10, stop - 10) for start, stop in box)
        found[zs, ys, xs] = np.frombuffer(content, "<u2").reshape(found[zs, ys, xs].shape)

    rows = _RowSplitter(((10, 16), (10, 14), (10, 13)), 2, put_box)
    content = voxels.tobytes()
    rows.feed(0, memoryview(b"what an attempt that failed has left")[:size])
    for start in range(0, len(content), size):
        rows.feed(start, memoryview(content)[start : start + size])
    assert rows.size == len(content)
    assert np.array_equal(found, voxels)


def test_an_export_that_was_interrupted_anywhere_comes_out_the_same(
    boss_mirror: BossMirror, tmp_path: Path
) -> None:
    exported(boss_mirror, tmp_path / "whole", box=BOX)

    def interrupt(left: int) -> Any:
        def progress(done: int, whole: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        return progress

    for calls in (1, 4, 5, 3):
        with pytest.raises(KeyboardInterrupt):
            exported(boss_mirror, tmp_path / "out", box=BOX, progress=interrupt(calls))
    exported(boss_mirror, tmp_path / "out", box=BOX)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_modified_slice_is_exported_again(boss_mirror: BossMirror, tmp_path: Path) -> None:
    made = exported(boss_mirror, tmp_path, box=((0, 9), (0, 9), (12, 20)))
    before = contents(tmp_path)
    (tmp_path / made.paths[3]).write_bytes(b"edited")
    (tmp_path / made.paths[5]).unlink()
    second = exported(boss_mirror, tmp_path, box=((0, 9), (0, 9), (12, 20)))
    assert second.unchanged == 6
    assert contents(tmp_path) == before


def test_folder_of_another_export_is_untouched(boss_mirror: BossMirror, tmp_path: Path) -> None:
    small: Box = ((0, 9), (0, 9), (12, 14))
    exported(boss_mirror, tmp_path, box=small)
    before = contents(tmp_path)
    with pytest.raises(ExportRefusedError, match=r"\(level 0\)"):
        exported(boss_mirror, tmp_path, box=small, level=1)
    with pytest.raises(ExportRefusedError, match=r"\(box 0:9,0:9,12:14\)"):
        exported(boss_mirror, tmp_path, box=((0, 9), (0, 9), (12, 15)))
    assert contents(tmp_path) == before


def test_a_persons_file_is_not_written_over(boss_mirror: BossMirror, tmp_path: Path) -> None:
    own = tmp_path / "demo_cortex_sections_em_x0-9_y0-9_z13.tif"
    own.write_text("mine")
    with pytest.raises(ExportRefusedError, match=r"z13\.tif"):
        exported(boss_mirror, tmp_path, box=((0, 9), (0, 9), (12, 14)))
    assert own.read_text() == "mine"


def test_what_cannot_be_exported_says_why(boss_mirror: BossMirror, tmp_path: Path) -> None:
    with pytest.raises(OutsideVolumeError, match="level 0 has 0:300,0:260,12:82"):
        exported(boss_mirror, tmp_path, box=((0, 9), (0, 9), (0, 20)))
    with pytest.raises(OutsideVolumeError, match="level 1 has 0:150,0:130,12:82"):
        exported(boss_mirror, tmp_path, level=1, box=((0, 151), (0, 9), (12, 20)))
    with pytest.raises(OutsideVolumeError, match="box"):
        exported(boss_mirror, tmp_path, box=((9, 9), (0, 9), (12, 20)))
    with pytest.raises(OutsideVolumeError, match="no time axis"):
        exported(boss_mirror, tmp_path, time=0)
    with pytest.raises(OutsideVolumeError, match="0 to 2"):
        exported(boss_mirror, tmp_path, ACTIVITY)
    with pytest.raises(OutsideVolumeError, match=r"0 to 2.*3"):
        exported(boss_mirror, tmp_path, ACTIVITY, time=3)
    with pytest.raises(ExportRefusedError, match=r"'png'.*tiff, zarr, npy"):
        exported(boss_mirror, tmp_path, format="png")
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    "link",
    [
        ".neuromirror-export.json",
        ".neuromirror-export.lock",
        ".demo_cortex_sections_em_x0-20_y5-30_z12.tif.part",
        ".demo_cortex_sections_em_x0-20_y5-30_z12.tif.part.new",
        "demo_cortex_sections_em_x0-20_y5-30_z12.tif",
    ],
)
def test_an_export_writes_through_no_symlink(
    boss_mirror: BossMirror, tmp_path: Path, link: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / link).symlink_to(victim)
    with pytest.raises(UnsafePathError):
        exported(boss_mirror, out, box=((0, 20), (5, 30), (12, 13)))
    assert victim.read_text() == "mine"
    assert (out / link).is_symlink()


@pytest.mark.parametrize("link", ["out", "out/demo_cortex_sections_em_x0-20_y5-30_z12-13.ome.zarr"])
def test_an_export_enters_no_folder_through_a_symlink(
    boss_mirror: BossMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(victim)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePathError):
        exported(boss_mirror, Path("out"), box=((0, 20), (5, 30), (12, 13)), format="zarr")
    assert list(victim.iterdir()) == []
