"""``neuromirror reproduce``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.common import NamedPath, Settings, settings_options, split_version
from neuromirror.model.errors import ConfigurationError, NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.lab import Reproduction


@click.command("reproduce")
@click.argument("versions", nargs=-1, required=True, metavar="VERSION...")
@click.option(
    "--keep",
    type=NamedPath(),
    metavar="DIR",
    help="An empty or new folder, in which what is minted stays.",
)
@settings_options
def reproduce_command(settings: Settings, versions: tuple[str, ...], *, keep: Path | None) -> None:
    """Mint versions again from upstream, and compare.

    VERSION is a name such as dandi:000027@0.210831.2033, as 'neuromirror show' takes it. What is
    minted goes to a scratch store; the store and its index stay as they are.

    Of a published version the commit, the tree and the state digest must be the same; all
    published versions before it are minted too, since a commit names the one before. Of an
    observed state (a draft, a bucket) tree and state digest must be the same, as long as upstream
    still has the state, now or among the earlier states that it can list. Sub-datasets are minted
    again too, on the commits that they stand on in the store. Compared is what upstream says of
    its files; their bytes are not read.

    Exit code: 0 all are the same, 1 something differs (and what), or upstream has moved on
    ("impossible") or could not be read, 2 wrong usage or configuration.
    """
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
            for row in (index.resolve(*split_version(name)) for name in versions)
        }
        scratch = stack.enter_context(_scratch(keep, private=is_private_store(store.root)))
        for number, (row, mirror) in enumerate(rows.values()):
            folder = scratch / f"{number + 1:02d}-{_folder_name(row)}"
            try:
                with _progress() as progress:
                    found = reproduce(row, store, index, mirror, folder, progress)
            except ConfigurationError:
                raise
            except NeuromirrorError as error:
                record = {
                    **_version_json(row),
                    "status": "error",
                    "message": str(error),
                    "minted": None,
                }
                settings.emit("reproduce", record, _result_line("error", row.name, str(error)))
                code = 1
                continue
            code = max(code, found.exit_code)
            kept = None if keep is None else str(folder.absolute())
            record = {**_version_json(row), **_reproduction_json(found), "kept": kept}
            settings.emit("reproduce", record, _result_line(found.status, row.name, found.message))
            _print_ids(settings, found)
    sys.exit(code)


@contextmanager
def _scratch(keep: Path | None, *, private: bool) -> Iterator[Path]:
    """The folder for what is minted: one that goes away, or the one to keep.

    Made for a private store it is its owner's alone.
    """
    if keep is None:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="neuromirror-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigurationError(f"{keep} is not an empty folder; name another with --keep")
    keep.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
    if private:
        keep.chmod(0o700)
    yield keep


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Says on stderr what is being minted, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(disable=None, leave=False, file=sys.stderr, bar_format="{desc}[{elapsed}]") as bar:
        yield lambda what: bar.set_description_str(f"minting {what} ")


def _folder_name(row: VersionRow) -> str:
    from neuromirror.model import alias_of

    name = alias_of(row.name)
    return name if len(name) <= 200 else row.commit


def _result_line(status: str, name: str, message: str) -> str:
    # many messages begin with the dataset, for those who see nothing else
    dataset = name.partition("@")[0]
    return f"{status:<10} {name}  {message.removeprefix(f'{dataset}: ')}"


def _version_json(row: VersionRow) -> dict[str, Any]:
    return {
        "dataset": row.dataset_name,
        "version": row.label,
        "name": row.name,
        "kind": row.kind,
    }


def _reproduction_json(found: Reproduction) -> dict[str, Any]:
    record = asdict(found)
    for field in ("dataset", "label", "kind"):
        del record[field]
    return record


def _print_ids(settings: Settings, found: Reproduction) -> None:
    """The ids in the store, and where they differ, those that were minted."""
    if found.exit_code:
        settings.print_text(found.name)
    for field in ("commit", "tree", "state"):
        stored = getattr(found.stored, field)
        reminted = None if found.minted is None else getattr(found.minted, field)
        if found.minted is None or reminted == stored:
            same = "" if found.minted is None else "the same"
        elif field not in found.promised:
            same = "not promised"
        else:
            same = f"minted again: {reminted}"
        settings.print_text(f"  {field:<6} {stored}  {same}".rstrip())
    for part in found.parts:
        settings.print_text(f"  {part.path}: {part.dataset} differs")
