"""``neuromirror backup`` and ``restore-index``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.model.display import format_bytes


@command("backup", example="neuromirror backup /backup/neuromirror --keep 14")
@argument("folder", metavar="DIR", type=NamedPath(), help="The folder for the backups.")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    metavar="N",
    help="Number of backups to keep; older ones are deleted after the new one is verified.",
)
@settings_options
def backup_command(settings: Settings, folder: Path, *, keep: int) -> None:
    """Back up index, schedule and ledger (not the repositories), even while the service runs.

    The backup is a folder in DIR that is named by its time, and is checked before older ones are
    deleted. All other parts of a store are plain files that any program can copy; the documentation
    lists them under "Back up a store and restore it".
    """
    from neuromirror.crawl.recorder import BACKUP
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


@command("restore-index", example="neuromirror restore-index /backup/neuromirror")
@argument(
    "folder",
    metavar="DIR",
    type=NamedPath(),
    help='The DIR of "neuromirror backup" (its newest intact backup is used), or one backup in it.',
)
@settings_options
def restore_index_command(settings: Settings, folder: Path) -> None:
    """Restore the index from a backup and bring it up to date.

    The entries of the journal after the backup are applied. Without a backup, use "neuromirror
    rebuild-index". The schedule and the ledger are not restored: a service needs no schedule, and
    the ledger may be newer; if it is lost, copy custody.sqlite from the backup to the folder
    "neuromirror" of the store.
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
    backup = done.generation.folder
    settings.emit(
        "restore-index",
        {"path": str(path), "backup": str(backup), "entries": done.entries},
        f"restored {path} from {backup}; applied {done.entries} later journal entries",
    )
