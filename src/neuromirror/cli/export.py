"""``neuromirror export``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.model.display import format_bytes

_FORMATS = ("tiff", "ome-tiff", "zarr", "npy")


@click.command("export")
@click.argument("version")
@click.option(
    "--box",
    metavar="X0:X1,Y0:Y1,Z0:Z1",
    help="What to export, in upstream's voxels of the level [default: all of it].",
)
@click.option("--level", default=0, show_default=True, help="Resolution, by upstream's number.")
@click.option("--time", type=int, metavar="T", help="Upstream's time sample, of a time series.")
@click.option(
    "--format",
    type=click.Choice(_FORMATS),
    default="tiff",
    show_default=True,
    help="One TIFF a z-slice, one OME-TIFF, an OME-Zarr, or one array of NumPy's.",
)
@click.option(
    "-o", "--output", type=NamedPath(), required=True, metavar="DIR", help="Folder for the files."
)
@settings_options
def export_command(
    settings: Settings,
    version: str,
    *,
    box: str | None,
    level: int,
    time: int | None,
    format: str,
    output: Path,
) -> None:
    """Write a region of a volume to files.

    VERSION is a version of a channel (bossdb:coll/exp/chan@label), or the folder of a clone. Of a
    version the blocks are fetched from their service; in a clone git-annex gets those that are not
    there, and they stay. Each is checked against what the version says of it.

    The box is in upstream's own voxels at that level, as in the URLs of blocks: a volume may begin
    at other numbers than 0. TIFFs are named as ndpull names them, and not compressed. The same
    region of the same state gives the same bytes, where the state has checksums. An export that was
    broken off goes on where it was when it is run again with the same folder.

    Exit code: 0 all is written (or was already), 1 a block could not be had or a file not be
    written, 2 wrong usage, among it a box that is not wholly in the volume.
    """
    from neuromirror.volume import export, parse_box

    with _progress() as progress:
        made = export(
            version,
            output,
            box=None if box is None else parse_box(box),
            level=level,
            format=format,
            time=time,
            store=settings.store_folder,
            index=settings.index_file,
            progress=progress,
        )
    status = "notneeded" if made.unchanged == len(made.paths) else "ok"
    record = {
        "status": status,
        "version": made.version,
        "state": made.state,
        "level": made.level,
        "box": made.box,
        "time": made.time,
        "format": made.format,
        "path": str(made.folder.absolute()),
        "files": len(made.paths),
        "kept": made.unchanged,
        "bytes": made.bytes,
    }
    files = "1 file" if len(made.paths) == 1 else f"{len(made.paths)} files"
    kept = f", {made.unchanged} of them as they were" if made.unchanged else ""
    summary = f"{files}, {format_bytes(made.bytes)} of voxels, in {made.folder}{kept}"
    settings.emit("export", record, f"{status:<10} {made.version}  {summary}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shows on stderr how far it is, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(disable=None, leave=False, file=sys.stderr, unit="B", unit_scale=True) as bar:

        def show(done: int, whole: int) -> None:
            bar.total = whole
            bar.update(done - bar.n)

        yield show
