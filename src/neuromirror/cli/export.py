"""``neuromirror export``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.cli.progress_line import ProgressLine
from neuromirror.model.errors import count_of, format_bytes

_VOXEL_FORMATS = ("tiff", "zarr", "npy")
_KERCHUNK = "kerchunk"


@command(
    "export",
    example="""\
neuromirror export bossdb:coll/exp/chan --box 0:512,0:512,0:16 -o cutout""",
)
@argument(
    "version",
    help="A version of a volume, e.g. bossdb:coll/exp/chan, or a clone's folder; for kerchunk "
    "any version.",
)
@click.option(
    "--box",
    metavar="X0:X1,Y0:Y1,Z0:Z1",
    help=(
        "Region in voxels of the level, upper bounds exclusive, in the coordinates of the "
        "archive, which need not start at 0 [default: the whole volume]."
    ),
)
@click.option(
    "--level",
    default=0,
    show_default=True,
    metavar="N",
    help="Resolution level, numbered as at the archive; 0 is the finest.",
)
@click.option(
    "--time",
    type=int,
    metavar="T",
    help="Index of the time sample, as at the archive; required for a time series.",
)
@click.option(
    "--format",
    type=click.Choice((*_VOXEL_FORMATS, _KERCHUNK)),
    default="tiff",
    show_default=True,
    help=(
        "One TIFF per z-slice, an OME-Zarr, one NumPy array, or references to the chunks of Zarrs "
        "(kerchunk)."
    ),
)
@click.option(
    "--path",
    "inner",
    default="",
    metavar="PATH",
    help="For kerchunk: Zarr or folder in the version [default: the whole version].",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    required=True,
    metavar="PATH",
    help="Folder for the files; for kerchunk, the JSON file.",
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
    inner: str,
    output: Path,
) -> None:
    """Export a region of a volume, or references to the chunks of Zarrs.

    The blocks are fetched from their service, or in a clone by git-annex, and checked. The same
    region of the same state gives the same bytes, if all its files have checksums. Run an
    interrupted export again with the same folder to resume it. With --format kerchunk, the result
    is a JSON file with references to the pinned objects of Zarrs, for fsspec and xarray, which do
    not verify checksums.
    """
    if format == _KERCHUNK:
        _export_references(settings, version, inner, output)
        return
    from neuromirror.volume import export, parse_box

    if inner:
        raise click.UsageError("--path is for the format kerchunk")
    with ProgressLine() as line:
        made = export(
            version,
            output,
            box=None if box is None else parse_box(box),
            level=level,
            format=format,
            time=time,
            store=settings.store_folder,
            index=settings.index_file,
            progress=line.show_bytes,
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
        "unchanged": made.unchanged,
        "bytes": made.bytes,
    }
    files = count_of(len(made.paths), "file")
    unchanged = f", {made.unchanged} of them unchanged" if made.unchanged else ""
    summary = f"{files}, {format_bytes(made.bytes)} of voxels, in {made.folder}{unchanged}"
    settings.emit("export", record, f"{status:<10} {made.version}  {summary}")


def _export_references(settings: Settings, version: str, inner: str, output: Path) -> None:
    """Write references, and report them."""
    from tqdm import tqdm

    from neuromirror.stream import export_references

    with tqdm(disable=None, leave=False, file=sys.stderr, unit=" chunks") as bar:
        made = export_references(
            version,
            output,
            inner,
            store=settings.store_folder,
            progress=lambda count: bar.update(count - bar.n),
        )
    record = {
        "status": "ok",
        "version": made.version,
        "format": "kerchunk",
        "path": str(made.path.absolute()),
        "references": made.references,
        "included": made.included,
        "unversioned": made.unversioned,
    }
    line = f"{'ok':<10} {made.version}  {made.references} references, in {made.path}"
    settings.emit("export", record, line)
    if made.unversioned:
        settings.print_text(
            f"{made.unversioned} references have no object version: if the archive replaces these "
            "objects, other bytes are read"
        )
