"""``neuromirror backup``, ``restore-index`` and ``fsck``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.model.display import format_bytes


@click.command("backup")
@click.argument("folder", metavar="DIR", type=NamedPath())
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    metavar="N",
    help="Copies that stay in DIR; older ones go once the new one is known to be sound.",
)
@settings_options
def backup_command(settings: Settings, folder: Path, *, keep: int) -> None:
    """Copy index and schedule while they are in use.

    The copy is made in DIR, in a folder named by the time, checked page by page, and only then are
    older ones dropped. The rest of a store are plain files: copy them with any program, and keep
    the journal (neuromirror/journal.jsonl) with them. See "Back up a store" in docs/how-to.md.

    Exit code: 0 done, 1 the copy failed or is damaged (older ones are kept).
    """
    from neuromirror.crawl.failure_log import BACKUP
    from neuromirror.service.backup import back_up

    store = settings.store()
    with ExitStack() as stack:
        log = stack.enter_context(settings.failure_log(store))
        if log is not None:
            stack.enter_context(log.watch(BACKUP))
        made = back_up(store, settings.index_path(store), folder, keep)
    record = {
        "path": str(made.folder),
        "at": made.at,
        "position": made.position,
        "bytes": made.bytes,
    }
    settings.emit("backup", record, f"ok         {made.folder}  {format_bytes(made.bytes)}")


@click.command("restore-index")
@click.argument("folder", metavar="DIR", type=NamedPath())
@settings_options
def restore_index_command(settings: Settings, folder: Path) -> None:
    """Put a copy of the index back and bring it up to date.

    DIR is a folder that "neuromirror backup" fills (the newest sound copy is taken), or one copy in
    it. What the store's journal has beyond the copy is applied, so that the index is what it would
    have been. Without a copy, or to be surer, "neuromirror rebuild-index" makes the index anew from
    the store alone, which takes longer.

    Exit code: 0 done, 1 no copy fits this store or all are damaged, 2 there is none.
    """
    from neuromirror.service.backup import restore_from_backup

    store = settings.store()
    path = settings.index_path(store)
    done = restore_from_backup(store, path, folder)
    for message in done.skipped:
        settings.emit(
            "restore-index",
            {"status": "impossible", "path": str(folder), "message": message},
            f"impossible {message}",
        )
    settings.emit(
        "restore-index",
        {"path": str(path), "copy": str(done.generation.folder), "entries": done.entries},
        f"restored {path} from {done.generation.folder}, and {done.entries} journal entries since",
    )


@click.command("fsck")
@click.argument("names", nargs=-1, metavar="[DATASET]...")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after so long; the next such run, or the service, goes on there.",
)
@settings_options
def fsck_command(settings: Settings, names: tuple[str, ...], *, budget: float | None) -> None:
    """Check that the store and its index are whole.

    Of each dataset: its alias, its repository (git fsck, that every version is reached by a ref,
    and that nobody but neuromirror wrote to it), the records and the manifest of each version
    against its state digest, and what the index says of it. Without names the journal and the whole
    index too. Nothing is changed, and no archive is asked. What is broken is named, with what to do
    about it.

    Exit code: 0 all is whole, 1 something is broken or could not be looked at.
    """
    from neuromirror.index import UnknownDatasetError
    from neuromirror.model import ConfigurationError, alias_of
    from neuromirror.service.integrity import check_integrity

    if names and budget is not None:
        raise ConfigurationError("--budget goes on through the whole store; give no DATASET to it")
    store = settings.store()
    requested = {alias_of(name): name for name in names}
    known = {alias for alias, _ in store.aliases()}
    whole = failed = 0
    seen: set[str] = set()
    for checked in check_integrity(
        store, settings.index_path(store), set(requested) or None, budget
    ):
        seen.add(checked.position.alias)
        record = {
            "what": checked.subject,
            "path": checked.name,
            "status": checked.status,
            "message": checked.message,
        }
        whole += checked.status == "ok"
        failed += checked.status != "ok"
        line = f"{checked.status:<10} {checked.subject:<8} {checked.name}  {checked.message}"
        settings.emit("fsck", record, line if checked.status != "ok" else None)
    for alias, name in requested.items():
        if alias not in seen and alias not in known:
            raise UnknownDatasetError(
                f"there is no dataset {name!r} in the store; 'neuromirror list' shows those that "
                "are"
            )
    settings.print_text(f"{whole} things are whole, {failed} are not or could not be looked at")
    sys.exit(1 if failed else 0)
