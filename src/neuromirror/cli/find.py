"""``neuromirror find``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, printable, settings_options
from neuromirror.model.errors import count_of

if TYPE_CHECKING:
    from neuromirror.index import Index, UnindexedFiles

_SETTING = "[zarr] index_entries"


@command(
    "find",
    example="""\
neuromirror find recording.nwb
neuromirror find md5:9e107d9d372bb6826bd81d3542a419d6""",
)
@argument(
    "checksum",
    metavar="CHECKSUM|FILE",
    help="sha256:HEX, md5:HEX, etag:MD5-PARTS, bare hex, a git-annex key, or a file on disk.",
)
@settings_options
def find_command(settings: Settings, checksum: str) -> None:
    """Find a file in all datasets, by its checksum or by comparing a file on disk.

    A FILE on disk is searched for by its sha256, its md5 and its S3 ETags for the usual part sizes;
    write ./NAME for one whose name looks like a checksum. A file is found only by the checksums
    that were recorded for it. The files of Zarrs that are not in the index are not searched; their
    number is printed to stderr.
    """
    from neuromirror.cli.shapes import FoundOccurrence
    from neuromirror.lab.find import find_any

    rows = []
    with settings.index() as index:
        queries = _queries(index, checksum)
        for found in find_any(index, queries):
            settings.emit("find", FoundOccurrence.of(found).plain())
            until = "" if found.last == found.first else f" to {found.last}"
            size = "-" if found.size is None else str(found.size)
            rows.append([found.dataset, f"{found.first}{until}", size, found.path])
        not_searched = index.unindexed_files()
    settings.print_table(sorted(rows), ["DATASET", "VERSIONS", "BYTES", "PATH"], ["BYTES"])
    if not rows:
        what = "checksum" if queries == [checksum] else "content of"
        message = (
            f"no mirrored file is recorded with the {what} {checksum}; 'neuromirror list' lists "
            "the mirrored datasets"
        )
        settings.emit("find", {"status": "impossible", "message": message}, message)
    for one in not_searched:
        message = _not_searched_message(one)
        record = {
            "type": "not-indexed",
            **to_builtins(one),
            "setting": _SETTING,
            "message": message,
        }
        settings.emit("find", {**record, "status": "notneeded"})
        if not settings.json:
            click.echo(printable(message), err=True)
    if not rows:
        sys.exit(1)


def _queries(index: Index, query: str) -> list[str]:
    """Return the checksums to search for: the given one, or those of a file."""
    from neuromirror.index import MalformedQueryError
    from neuromirror.lab.find import queries_of_file

    try:
        index.find(query)
    except MalformedQueryError as error:
        path = Path(query)
        # os.path returns False for names that are invalid as paths, where pathlib raises
        if not (os.path.isfile(path) or os.path.islink(path)):
            raise MalformedQueryError(f"{error}; there is no file with this name either") from error
        return queries_of_file(path)
    return [query]


def _not_searched_message(one: UnindexedFiles) -> str:
    zarrs = count_of(one.zarrs, "Zarr")
    return (
        f"not searched: {one.files} files in {zarrs} of {one.mirror}, which are not in the index. "
        f"To index them, set '{_SETTING} = {one.largest}' in {one.mirror}.toml and run "
        "'neuromirror rebuild-index'."
    )
