"""The commands that maintain a store: check, repair, back up, rebuild, withdraw and release."""

from __future__ import annotations

import getpass
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli import commands as cli
from neuromirror.cli.common import NamedPath, Settings, progress_bar
from neuromirror.model.errors import ConfigurationError, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from neuromirror.service.doctor import DoctorCheck


@cli.command(
    "doctor",
    example="""\
neuromirror doctor --offline
neuromirror doctor dandi""",
)
@cli.argument(
    "archive", required=False, metavar="[MIRROR]", help="Check only the archive of this mirror."
)
@cli.flag("--offline", "Send no request to an archive.")
@cli.settings_options
def doctor_command(settings: Settings, archive: str | None, *, offline: bool) -> None:
    """Check this machine, the store and the archives, or one archive in detail.

    Each line is ok, warning or error, with the remedy: programs, SQLite, space and permissions,
    store and index, limits, mirror files, one small request to each archive, and the clock. With an
    archive, about fifty requests check whether it answers as neuromirror needs; a warning means
    that it lacks an optional feature, or has no data to check it on.
    """
    code = 0
    for one in _doctor_checks(settings, archive, offline=offline):
        failed = one.level == "error"
        code = max(code, int(failed))
        status = "error" if failed else "ok"
        record = {"check": one.subject, "level": one.level, "status": status}
        record["message"] = one.message
        settings.emit("doctor", record, f"{one.level:<8} {one.subject:<16} {one.message}")
    sys.exit(code)


def _doctor_checks(
    settings: Settings, archive: str | None, *, offline: bool
) -> Iterator[DoctorCheck]:
    if archive is None:
        from neuromirror.service.doctor import run_doctor_checks

        folder = settings.mirrors_folder
        mirrors = settings.given_mirrors or (folder if folder.exists() else None)
        return run_doctor_checks(
            mirrors, settings.store_folder, settings.index_file, offline=offline
        )
    from neuromirror.config.mirror_files import find_mirror
    from neuromirror.service.archive_checks import check_archive

    if offline:
        raise ConfigurationError(f"--offline: {archive} cannot be checked without requests")
    return check_archive(find_mirror(settings.mirrors(), archive).open())


@cli.command(
    "fsck",
    example="""\
neuromirror fsck
neuromirror fsck dandi:000027""",
)
@cli.many("names", "[DATASET]...", "Datasets, e.g. dandi:000027 [default: the whole store].")
@cli.settings_options
def fsck_command(settings: Settings, names: tuple[str, ...]) -> None:
    """Check the integrity of the store and its index.

    Checked are alias, repository, records and manifests of each dataset, and its entries of the
    index; without names also the journal, the whole index and the block digests. A service does the
    same in small steps. Nothing is changed or requested.
    """
    from neuromirror.index import UnknownDatasetError
    from neuromirror.model import alias_of
    from neuromirror.service.integrity import check_integrity

    store = settings.store()
    requested = {alias_of(name): name for name in names}
    known = {alias for alias, _ in store.repositories.aliases()}
    intact = failed = 0
    seen: set[str] = set()
    for result in check_integrity(store, settings.index_path(store), set(requested) or None):
        seen.add(result.position.alias)
        record = {"subject": result.subject, "path": result.name, "status": result.status}
        record["message"] = result.message
        intact += result.status == "ok"
        failed += result.status != "ok"
        line = f"{result.status:<10} {result.subject:<8} {result.name}  {result.message}"
        settings.emit("fsck", record, line if result.status != "ok" else None)
    for alias, name in requested.items():
        if alias not in seen and alias not in known:
            raise UnknownDatasetError(
                f"dataset {name!r} is not in the store; 'neuromirror list' lists its datasets"
            )
    settings.print_text(f"{intact} items intact, {failed} damaged or not checked")
    sys.exit(1 if failed else 0)


def _repository_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument ``names`` and the option ``--dry-run``."""
    names = cli.argument(
        "names",
        nargs=-1,
        metavar="[MIRROR | DATASET]...",
        help="Mirrors (dandi) or datasets (dandi:000027) [default: the whole store].",
    )
    text = "Print what would be done, and write nothing."
    return names(cli.flag("--dry-run", text)(function))


@cli.command("repair", example="neuromirror repair dandi:000027 --dry-run")
@_repository_options
@cli.settings_options
def repair_command(settings: Settings, names: tuple[str, ...], *, dry_run: bool) -> None:
    """Restore repositories and records after damage, loss or changes by other programs.

    Refs are reset to those of the journal; lost or damaged commits are minted again from the
    records, with the same ids, and lost records are read back from git. Foreign and damaged files
    are moved to neuromirror/quarantine in the store. What cannot be restored is named. "neuromirror
    fsck" lists what needs repair. Stop the service, run repair, then "neuromirror sync".
    """
    from neuromirror.crawl.repair import listed_aliases, repair_repositories

    store = settings.store()
    aliases = _aliases_of(names, listed_aliases(store)) if names else None
    code = repaired = unneeded = 0
    for one in repair_repositories(store, settings.index_path(store), aliases, dry_run=dry_run):
        unneeded += one.status == "notneeded"
        repaired += one.status == "ok"
        code |= one.status == "error"
        line = f"{one.status:<10} {one.dataset}  {one.message}"
        settings.emit("repair", to_builtins(one), None if one.status == "notneeded" else line)
    if unneeded:
        settings.print_text(f"notneeded  {unneeded} repositories are intact")
    if repaired and not dry_run:
        settings.print_text("repaired; now run: neuromirror sync")
    sys.exit(code)


@cli.command("housekeeping", example="neuromirror housekeeping dandi --dry-run")
@_repository_options
@cli.settings_options
def housekeeping_command(settings: Settings, names: tuple[str, ...], *, dry_run: bool) -> None:
    """Repack repositories of the store, so that cloning is faster.

    No ref and no object id changes, and an interrupted run loses nothing. The service does this
    automatically.
    """
    from neuromirror.crawl.recorder import record_housekeeping
    from neuromirror.model import name_from_alias
    from neuromirror.store import run_housekeeping

    store = settings.store()
    known = {alias for alias, _ in store.repositories.aliases()}
    aliases = _aliases_of(names, known) if names else None
    code = unneeded = freed = 0
    with ExitStack() as stack:
        log = None if dry_run else stack.enter_context(settings.failure_log(store))
        for result in run_housekeeping(store, aliases, dry_run=dry_run):
            if log is not None:
                record_housekeeping(log, result)
            dataset = name_from_alias(result.alias)
            line: str | None = f"{result.status:<10} {dataset}  {result.message}"
            if result.status == "notneeded":
                unneeded += 1
                line = None
            elif result.status == "error":
                code = 1
            freed += result.bytes_before - result.bytes_after
            settings.emit("housekeeping", {"dataset": dataset, **to_builtins(result)}, line)
    if unneeded:
        settings.print_text(f"notneeded  {unneeded} repositories need no repacking")
    if freed > 0 and not dry_run:
        settings.print_text(
            f"{format_bytes(freed)} will be freed when the replaced packs are deleted"
        )
    sys.exit(code)


def _aliases_of(names: Iterable[str], known: set[str]) -> set[str]:
    """Return those of the known aliases that are of datasets, or of datasets of mirrors."""
    from neuromirror.index import UnknownDatasetError
    from neuromirror.model import alias_of

    found: set[str] = set()
    for name in names:
        alias = alias_of(name)
        of_mirror = {one for one in known if ":" not in name and one.startswith(f"{alias}--")}
        if alias not in known and not of_mirror:
            raise UnknownDatasetError(
                f"dataset or mirror {name!r} is not in the store; 'neuromirror list' lists the "
                "datasets in the store, and 'neuromirror status' the mirrors"
            )
        found |= of_mirror | ({alias} & known)
    return found


@cli.command("rebuild-index", example="neuromirror rebuild-index")
@cli.settings_options
def rebuild_index_command(settings: Settings) -> None:
    """Rebuild the index from the store.

    No request is sent to an archive. The setting index_entries of the mirror files is applied to
    existing versions too.
    """
    from neuromirror.crawl import rebuild_index

    store = settings.store()
    path = settings.index_path(store)
    limits = {}
    # mirror files are optional here: they only matter for settings that changed since
    if any(settings.mirrors_folder.glob("*.toml")):
        limits = {name: one.settings.zarr for name, one in settings.local_mirrors().items()}
    with progress_bar(unit="B", unit_scale=True) as bar:

        def show(position: int) -> None:
            bar.update(position - bar.n)

        count = rebuild_index(store, path, show, limits)
    line = f"rebuilt {path} from {count} journal entries"
    settings.emit("rebuild-index", {"path": str(path), "entries": count}, line)


@cli.command("backup", example="neuromirror backup /backup/neuromirror --keep 14")
@cli.argument("folder", metavar="DIR", type=NamedPath(), help="The folder for the backups.")
@cli.option(
    "--keep N",
    "Number of backups to keep; older ones are deleted after the new one is verified.",
    type=click.IntRange(min=1),
    default=7,
)
@cli.settings_options
def backup_command(settings: Settings, folder: Path, *, keep: int) -> None:
    """Back up index, schedule and ledger (not the repositories), even while the service runs.

    The backup is a folder in DIR that is named by its time, and is checked before older ones are
    deleted. All other parts of a store are plain files that any program can copy.
    """
    from neuromirror.crawl.recorder import BACKUP
    from neuromirror.service.backup import back_up

    store = settings.store()
    with ExitStack() as stack:
        log = stack.enter_context(settings.failure_log(store))
        if log is not None:
            stack.enter_context(log.watch(BACKUP))
        made = back_up(store, settings.index_path(store), folder, keep)
    record = {"path": str(made.folder), "at": made.at, "position": made.position}
    record["bytes"] = made.bytes
    settings.emit("backup", record, f"ok         {made.folder}  {format_bytes(made.bytes)}")


@cli.command("restore-index", example="neuromirror restore-index /backup/neuromirror")
@cli.argument(
    "folder",
    metavar="DIR",
    type=NamedPath(),
    help='The DIR of "neuromirror backup" (its newest intact backup is used), or one backup in it.',
)
@cli.settings_options
def restore_index_command(settings: Settings, folder: Path) -> None:
    """Restore the index from a backup and bring it up to date.

    The entries of the journal after the backup are applied. Without a backup, use "neuromirror
    rebuild-index". A lost ledger is restored by copying custody.sqlite from the backup to the
    folder "neuromirror" of the store.
    """
    from neuromirror.service.backup import restore_from_backup

    store = settings.store()
    path = settings.index_path(store)
    done = restore_from_backup(store, path, folder)
    for message in done.skipped:
        skipped = {"status": "impossible", "path": str(folder), "message": message}
        settings.emit("restore-index", skipped, f"impossible {message}")
    backup = done.generation.folder
    record = {"path": str(path), "backup": str(backup), "entries": done.entries}
    line = f"restored {path} from {backup}; applied {done.entries} later journal entries"
    settings.emit("restore-index", record, line)


@cli.command(
    "takedown",
    example="""\
neuromirror takedown dandi:000027 --reason "withdrawn by its authors"
neuromirror takedown dandi:000027 --undo""",
)
@cli.argument("dataset", help="A dataset, e.g. dandi:000027.")
@cli.option(
    "--reason TEXT",
    "Why the dataset is withdrawn, shown by commands and web pages instead of the dataset. "
    "Required, except with --undo.",
)
@cli.flag("--undo", "Reinstate a dataset that was taken down.")
@cli.settings_options
def takedown_command(settings: Settings, dataset: str, *, reason: str | None, undo: bool) -> None:
    """Withdraw a dataset: move it to STORE-withdrawn; only cached previews are deleted.

    All that the store has of it (repository, records, manifests, block digests) is moved to
    STORE-withdrawn, a folder beside the store that only you can read, and the index is rebuilt.
    Commands show the reason, and tombstones/ in the store records it. No sync visits the dataset
    until --undo. If the command is interrupted, run it again. "Withdraw a dataset" in the
    documentation explains what else to do.
    """
    from neuromirror.crawl import open_recorder
    from neuromirror.crawl.takedown import reinstate, take_down

    if undo == (reason is not None):
        raise ConfigurationError(
            "--undo takes no --reason"
            if undo
            else (
                f"{dataset}: a takedown needs a reason, which commands and web pages show "
                "instead of the dataset; add --reason TEXT"
            )
        )
    if ":" not in dataset or "@" in dataset:
        raise ConfigurationError(
            f"'{dataset}' is not the name of a dataset; write <mirror>:<id>, e.g. dandi:000027"
        )
    store = settings.store()
    mirrors = settings.mirrors()
    by, code = getpass.getuser(), 0
    with open_recorder(store, settings.index_path(store)) as recorder:
        done = (
            reinstate(store, recorder, dataset, by, mirrors)
            if undo
            else take_down(store, recorder, dataset, reason or "", by, mirrors)
        )
        for result in done:
            code = max(code, result.exit_code)
            record = {**to_builtins(result), "exit_code": result.exit_code}
            line = f"{result.status:<10} {result.dataset}  {result.message}"
            settings.emit("takedown", record, line)
    sys.exit(code)


@cli.command("holds", example="neuromirror holds")
@cli.settings_options
def holds_command(settings: Settings) -> None:
    """List suspicious updates that wait for approval with "neuromirror release".

    An update is held if the archive lists no files, if more are missing than [guards] in the mirror
    file allows, or if files changed that must never change. Check the archive, then approve the
    update, or wait until the archive is repaired.
    """
    with settings.index() as index:
        holds = list(index.crawl.open_holds())
    for hold in holds:
        settings.emit("holds", to_builtins(hold))
    settings.print_table(
        [[h.hold, h.dataset, h.upstream, h.reason, h.placed_at] for h in holds],
        ["HOLD", "DATASET", "VERSION", "REASON", "SINCE"],
    )
    if not holds:
        settings.print_text("no update is held")
    sys.exit(3 if holds else 0)


@cli.command("release", example="neuromirror release dandi:000027")
@cli.argument(
    "hold",
    metavar="DATASET | HOLD",
    help='The dataset, or the id in the column HOLD of "neuromirror holds" or its first '
    "characters.",
)
@cli.settings_options
def release_command(settings: Settings, hold: str) -> None:
    """Approve a held update; the next sync applies it.

    It is applied only if the list of files is still the same. A running service visits the dataset
    at once.
    """
    from neuromirror.service.scheduling import release_and_make_due

    store = settings.store()
    dataset = release_and_make_due(store, settings.index_path(store), hold)
    record = {"hold": hold, "dataset": dataset, "message": "released"}
    line = f"released; if no service runs on this store, run: neuromirror sync {dataset}"
    settings.emit("release", record, line)
