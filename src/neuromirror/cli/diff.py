"""``neuromirror diff``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.common import Settings, settings_options, split_version
from neuromirror.model.display import format_bytes
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuromirror.lab.diff import ChangeCounts, DiffSide, FileChange

_KINDS = ("added", "removed", "changed", "moved", "metadata", "document")
_EXIT = 1


@click.command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option("-r", "--recursive", is_flag=True, help="Open sub-datasets that differ.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if anything differs.")
@settings_options
def diff_command(
    settings: Settings, old: str, new: str, *, recursive: bool, exit_code: bool
) -> None:
    """Tell what is different in B from what is in A.

    Each is a version, such as dandi:000027@0.210831.2033, as "neuromirror show" takes it, or the
    folder of a clone, of which the commit that is checked out counts (whether the files there are
    as they were committed is for "neuromirror verify" to say).

    A file was added, removed or changed (other bytes); moved, if the same bytes are at another path
    now; "metadata" means the same bytes, of which other places, times or checksums are told, and
    "document" a plain file of git, such as dandiset.yaml. Of a clone no more is known than its keys
    tell, so that "metadata" is not compared. A sub-dataset (a Zarr) is one line, with the bytes of
    all in it; -r also tells what differs inside, where both sides are at hand.

    Exit code: 0, whether anything differs or not; with --exit-code 1 if anything does; 2 wrong
    usage.
    """
    from tempfile import TemporaryDirectory

    from neuromirror.lab.diff import ChangeCounts, diff

    counts = ChangeCounts()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="neuromirror-")))
        sides = _Sides(settings, stack)
        one, other = sides.open(old), sides.open(new)
        for change in diff(one, other, scratch, recursive=recursive):
            counts.add(change)
            settings.emit("diff", _change_json(change), _change_line(change))
    names = {"old": one.name, "new": other.name}
    totals = {
        "files": dict(counts.files),
        "bytes": dict(counts.bytes),
        "parts": dict(counts.subdatasets),
    }
    message = _summary(counts)
    settings.emit("diff", {"type": "summary", **names, **totals, "message": message})
    settings.print_text(f"{one.name} → {other.name}: {message}")
    differs = bool(counts.files or counts.subdatasets)
    sys.exit(_EXIT if exit_code and differs else 0)


class _Sides:
    """Opens what is compared; a store only where a version is named."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._version: Callable[[str], DiffSide] | None = None

    def open(self, name: str) -> DiffSide:
        """The side of a name; raises what the store, the index and git raise."""
        folder = Path(name)
        if folder.is_dir():
            from neuromirror.lab.diff import clone_side
            from neuromirror.lab.verify import VerifiedRepository

            with VerifiedRepository.at(folder) as clone:
                return clone_side(clone.git_dir, folder, clone.head())
        if "/" in name and ":" not in name:
            raise ConfigurationError(f"there is no folder {name}, and it is no version's name")
        return self._version_opener()(name)

    def _version_opener(self) -> Callable[[str], DiffSide]:
        if self._version is None:
            from neuromirror.lab.diff import version_side

            store = self._settings.store()
            index = self._stack.enter_context(self._settings.index())
            self._version = lambda name: version_side(
                store, index, index.resolve(*split_version(name))
            )
        return self._version


def _change_json(change: FileChange) -> dict[str, Any]:
    return {
        "type": "change",
        "kind": change.kind,
        "path": change.path,
        "before": change.before,
        "old_digest": change.old_digest,
        "new_digest": change.new_digest,
        "old_size": change.old_size,
        "new_size": change.new_size,
        "part": change.files is not None,
        "files": change.files,
        "message": change.message,
    }


def _change_line(change: FileChange) -> str:
    """A change in columns as wide as a size of up to a terabyte needs."""
    size = change.old_size if change.kind == "removed" else change.new_size
    columns = [change.path]
    if change.before is not None:
        columns.append(f"(was {change.before})")
    if change.kind == "changed" and change.old_size not in (None, change.new_size):
        columns.append(f"(was {change.old_size} bytes)")
    if change.files is not None:
        columns.append(f"(a sub-dataset of {change.files} files)")
    if change.message:
        columns.append(f"({change.message})")
    return f"{change.kind:<8}  {'-' if size is None else size:>13}  {' '.join(columns)}"


def _summary(counts: ChangeCounts) -> str:
    changes = []
    for kind in _KINDS:
        files, parts = counts.files[kind], counts.subdatasets[kind]
        size = "" if kind == "document" else f" ({format_bytes(counts.bytes[kind])})"
        if files:
            changes.append(f"{files} {kind}{size}")
        if parts:
            changes.append(f"{parts} sub-dataset{'s' * (parts > 1)} {kind}")
    return ", ".join(changes) or "no difference"
