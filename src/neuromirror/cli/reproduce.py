"""``neuromirror reproduce``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli.addresses import resolve_version
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.cli.progress_line import step_line
from neuromirror.model.errors import ConfigurationError, NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.lab import Reproduction


@command("reproduce", example="neuromirror reproduce dandi:000027@0.210831.2033")
@argument(
    "versions",
    nargs=-1,
    required=True,
    metavar="VERSION...",
    help="Versions, e.g. dandi:000027@0.210831.2033.",
)
@click.option(
    "--keep",
    type=NamedPath(),
    metavar="DIR",
    help="Keep the new commits in DIR, a new or empty folder [default: delete them].",
)
@settings_options
def reproduce_command(settings: Settings, versions: tuple[str, ...], *, keep: Path | None) -> None:
    """Create versions again from the archive, without file content, and compare the commits.

    The new commits go to a scratch store. A published version must have the same commit, tree and
    state digest; all published versions before it are created again too. An observed state must
    have the same tree and state digest, if the archive still has it; otherwise the result is
    "impossible" (exit code 1).
    """
    from neuromirror.cli.shapes import VersionName
    from neuromirror.crawl import find_mirror
    from neuromirror.lab import reproduce
    from neuromirror.store.private_store import is_private_store

    mirrors = settings.mirrors()
    store = settings.store()
    code = 0
    with ExitStack() as stack:
        index = stack.enter_context(settings.index())
        rows = {
            row.name: (row, find_mirror(mirrors, row.mirror))
            for row in (resolve_version(settings, index, name)[1] for name in versions)
        }
        scratch = stack.enter_context(_scratch(keep, private=is_private_store(store.root)))
        for number, (row, mirror) in enumerate(rows.values()):
            folder = scratch / f"{number + 1:02d}-{_folder_name(row)}"
            try:
                with step_line("minting") as progress:
                    found = reproduce(row, store, index, mirror, folder, progress)
            except ConfigurationError:
                raise
            except NeuromirrorError as error:
                record = {
                    **VersionName.of(row).plain(),
                    "status": "error",
                    "message": str(error),
                    "minted": None,
                }
                settings.emit("reproduce", record, _result_line("error", row.name, str(error)))
                code = 1
                continue
            code = max(code, found.exit_code)
            kept_folder = None if keep is None else str(folder.absolute())
            record = {
                **VersionName.of(row).plain(),
                **_reproduction_json(found),
                "folder": kept_folder,
            }
            settings.emit("reproduce", record, _result_line(found.status, row.name, found.message))
            _print_ids(settings, found)
    sys.exit(code)


@contextmanager
def _scratch(keep: Path | None, *, private: bool) -> Iterator[Path]:
    """Create the folder for the new commits: a temporary one, or ``keep``.

    For a private store, only its owner can read the folder.
    """
    if keep is None:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="neuromirror-") as folder:
            yield Path(folder)
        return
    from neuromirror.lab.output_files import is_missing_or_empty

    if not is_missing_or_empty(keep):
        raise ConfigurationError(f"--keep {keep}: not an empty folder; use an empty or missing one")
    keep.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
    if private:
        keep.chmod(0o700)
    yield keep


def _folder_name(row: VersionRow) -> str:
    from neuromirror.model import alias_of

    name = alias_of(row.name)
    return name if len(name) <= 200 else row.commit


def _result_line(status: str, name: str, message: str) -> str:
    # many messages start with the name of the dataset
    dataset = name.partition("@")[0]
    return f"{status:<10} {name}  {message.removeprefix(f'{dataset}: ')}"


def _reproduction_json(found: Reproduction) -> dict[str, Any]:
    record: dict[str, Any] = to_builtins(found)
    for field in ("dataset", "label", "kind"):
        del record[field]
    return record


def _print_ids(settings: Settings, found: Reproduction) -> None:
    """Print the ids in the store, and the new ones if they differ."""
    if found.exit_code:
        settings.print_text(found.name)
    for field in ("commit", "tree", "state"):
        stored = getattr(found.stored, field)
        reminted = None if found.minted is None else getattr(found.minted, field)
        if found.minted is None or reminted == stored:
            same = "" if found.minted is None else "equal"
        elif field not in found.promised:
            same = "not promised"
        else:
            same = f"now: {reminted}"
        settings.print_text(f"  {field:<6} {stored}  {same}".rstrip())
    for one in found.subdatasets:
        settings.print_text(f"  {one.path}: {one.dataset} differs")
