"""``neuromirror diff``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.addresses import resolve_version
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import ConfigurationError, count_of, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuromirror.lab.diff import ChangeCounts, DiffSide, FileChange

_KINDS = ("added", "removed", "changed", "moved", "metadata", "document")
_EXIT = 1


@command(
    "diff",
    example="""\
neuromirror diff dandi:000027@0.210831.2033 dandi:000027@draft
neuromirror diff --exit-code ./clone dandi:000027""",
)
@argument("old", metavar="A", help="The old version, or the folder of a clone.")
@argument("new", metavar="B", help="The new version, or the folder of a clone.")
@click.option(
    "-r", "--recursive", is_flag=True, help="List the changes inside changed subdatasets too."
)
@click.option(
    "--exit-code", is_flag=True, help="Exit with 1 if there is a difference, like git diff."
)
@settings_options
def diff_command(
    settings: Settings, old: str, new: str, *, recursive: bool, exit_code: bool
) -> None:
    """Compare two versions, or the checked-out commits of clones.

    The kinds of changes are:

    \b
    added, removed
    changed   different content
    moved     the same content at another path
    metadata  the same content with other URLs, times or checksums
    document  a plain file in git with metadata of the archive, such as dandiset.yaml

    The number before a path is the size of the file in bytes (the new size if both exist).
    "metadata" is not compared for clones, and the files in their work trees are not read: use
    "neuromirror verify". A subdataset (a Zarr) is one line; --recursive lists the changes inside
    it.
    """
    from tempfile import TemporaryDirectory

    from neuromirror.cli.shapes import ListedChange
    from neuromirror.lab.diff import ChangeCounts, diff

    counts = ChangeCounts()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="neuromirror-")))
        sides = _Sides(settings, stack)
        one, other = sides.open(old), sides.open(new)
        for change in diff(one, other, scratch, recursive=recursive):
            counts.add(change)
            settings.emit("diff", ListedChange.of(change).plain(), _change_line(change))
    names = {"old": one.name, "new": other.name}
    totals = {
        "files": dict(counts.files),
        "bytes": dict(counts.bytes),
        "subdatasets": dict(counts.subdatasets),
    }
    message = _summary(counts)
    settings.emit("diff", {"type": "summary", **names, **totals, "message": message})
    settings.print_text(f"{one.name} → {other.name}: {message}")
    differs = bool(counts.files or counts.subdatasets)
    sys.exit(_EXIT if exit_code and differs else 0)


class _Sides:
    """Opens the two sides; the store is opened only for a version."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._version: Callable[[str], DiffSide] | None = None

    def open(self, name: str) -> DiffSide:
        """Return the side of a name: the folder of a clone, or a version."""
        folder = Path(name)
        if folder.is_dir():
            from neuromirror.lab.diff import clone_side
            from neuromirror.transfer.verified_repository import VerifiedRepository

            with VerifiedRepository.at(folder) as clone:
                return clone_side(clone.git_dir, folder, clone.head())
        if "/" in name and ":" not in name:
            raise ConfigurationError(
                f"{name}: no such folder; specify the folder of a clone, or a version such as "
                "dandi:000027@draft"
            )
        return self._version_opener(name)(name)

    def _version_opener(self, first: str) -> Callable[[str], DiffSide]:
        if self._version is None:
            from neuromirror.lab.diff import version_side

            index = self._stack.enter_context(self._settings.index(first))
            store = self._settings.store()
            self._version = lambda name: version_side(
                store, index, resolve_version(self._settings, index, name)[1]
            )
        return self._version


def _change_line(change: FileChange) -> str:
    """Format a change in columns that fit a size of up to a terabyte."""
    size = change.old_size if change.kind == "removed" else change.new_size
    columns = [change.path]
    if change.before is not None:
        columns.append(f"(was {change.before})")
    if change.kind == "changed" and change.old_size not in (None, change.new_size):
        columns.append(f"(was {change.old_size} bytes)")
    if change.files is not None:
        columns.append(f"(subdataset with {change.files} files)")
    if change.message:
        columns.append(f"({change.message})")
    return f"{change.kind:<8}  {'-' if size is None else size:>13}  {' '.join(columns)}"


def _summary(counts: ChangeCounts) -> str:
    changes = []
    for kind in _KINDS:
        files, subdatasets = counts.files[kind], counts.subdatasets[kind]
        if files and kind == "document":
            changes.append(f"{count_of(files, 'document')} changed")
        elif files:
            changes.append(f"{files} {kind} ({format_bytes(counts.bytes[kind])})")
        if subdatasets:
            changes.append(f"{subdatasets} subdataset{'s' * (subdatasets > 1)} {kind}")
    return ", ".join(changes) or "no difference"
