"""``neuromirror export-lock``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.addresses import DEFAULT_LOCK
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, print_pieces, settings_options
from neuromirror.model.errors import ConfigurationError, count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.lab.export_lock import LockExport

_MAX_SHOWN = 5
"""Maximum number of files named per reason in text output."""

# the same as in lab.export_lock, which is slow to import
_FORMATS = (
    "pooch",
    "sha256sum",
    "md5sum",
    "dvc",
    "quilt",
    "aria2",
    "curl",
    "wget",
    "addurls",
)


@command(
    "export-lock",
    example="""\
neuromirror export-lock datasets.lock --format sha256sum -o SHA256SUMS
neuromirror export-lock --format pooch -o registry.txt
neuromirror export-lock --format dvc -o data""",
)
@argument(
    "lock",
    type=NamedPath(),
    default=DEFAULT_LOCK,
    metavar="[LOCK]",
    help="A lock file [default: datasets.lock].",
)
@click.option(
    "--format", "form", type=click.Choice(_FORMATS), required=True, help="Format of the list."
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    metavar="FILE|DIR",
    help="New file, or for dvc a new folder [default: print the list].",
)
@settings_options
def export_lock_command(settings: Settings, lock: Path, *, form: str, output: Path | None) -> None:
    """Write the list of pinned files, with URLs and checksums, for another program.

    Paths in the list are those of "neuromirror restore": <mirror>--<id>/<path>. After the other
    program has downloaded the files, check them with "neuromirror verify LOCK --in DIR".

    \b
    pooch      a registry with URLs
    sha256sum  a list for "sha256sum -c"
    md5sum     a list for "md5sum -c", with the files whose checksum is an MD5
    dvc        a .dvc file per file, as of "dvc import-url", for "dvc update -R ."
    quilt      a manifest of a Quilt package (files in S3 buckets)
    aria2      a list for "aria2c -i"
    curl       a configuration for "curl --parallel --config"
    wget       a shell script that runs wget per file
    addurls    a table for "datalad addurls"

    Files that the format cannot hold (no URL, no suitable checksum, an unsuitable name) are listed
    on stderr; the exit code is then 1.
    """
    from neuromirror.lab.export_lock import FOLDER_FORMATS, LockExport, export_lines, export_lock
    from neuromirror.lab.lockfile import load_lock

    if output is None and (settings.json or form in FOLDER_FORMATS):
        what = "a folder" if form in FOLDER_FORMATS else "a file"
        raise ConfigurationError(f"specify {what} for the {form} list with --output")
    pinned = load_lock(lock)
    if not pinned.datasets:
        raise ConfigurationError(f"{lock} has no pins; add one with 'neuromirror pin'")
    if output is not None:
        export = export_lock(pinned, form, output)
    else:
        export = LockExport()
        print_pieces(export_lines(pinned, form, export))
    _report(settings, form, output, export)
    sys.exit(1 if export.omitted else 0)


def _report(settings: Settings, form: str, output: Path | None, export: LockExport) -> None:
    for reason, count in export.omitted.items():
        paths = export.examples[reason]
        files = "1 file is" if count == 1 else f"{count} files are"
        named = ", ".join(paths[:_MAX_SHOWN]) + (", …" if count > _MAX_SHOWN else "")
        record = {
            "kind": "omitted",
            "status": "impossible",
            "message": reason,
            "count": count,
            "paths": paths,
        }
        line = f"{'impossible':<10} {files} not in the {form} list: {reason}: {named}"
        settings.emit("export-lock", record, line)
    if output is None:
        return
    record = {
        "kind": "list",
        "format": form,
        "path": str(output),
        "files": export.files,
        "bytes": export.bytes,
        "omitted": export.omitted.total(),
    }
    files = f"{count_of(export.files, 'file')}, {format_bytes(export.bytes)}"
    settings.emit("export-lock", record, f"{'ok':<10} {output}  {files}")
