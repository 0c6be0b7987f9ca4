"""The commands for vaults: keep, check, import, drill and drop copies of content."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct
from msgspec.structs import asdict

from neuromirror.cli import commands as cli
from neuromirror.cli.addresses import may_be_address, resolve_selection
from neuromirror.cli.common import (
    NamedPath,
    OutcomeReport,
    ProgressLine,
    Settings,
    exit_on_interrupt,
    path_from_environment,
    size_of_option,
)
from neuromirror.model.errors import ConfigurationError, NeuromirrorError, count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig
    from neuromirror.custody.copies import KeepContents, KeepOutcome
    from neuromirror.index import Index
    from neuromirror.index.ledger import Ledger, LedgerVault
    from neuromirror.model import DatasetRef
    from neuromirror.store import Store
    from neuromirror.vault.protocol import Vault

_MAX_SHOWN: Final = 20
_LOCK_WAIT: Final = 60.0
"""Seconds to wait for another removal."""


vaults_option: Final = cli.path_option(
    "--vaults DIR",
    "Folder with the files of your vaults (NAME.toml, one per vault) "
    "[default: $NEUROMIRROR_VAULTS, else ./vaults].",
)
"""The option ``--vaults``."""


class ConfiguredVaults(Struct, frozen=True):
    """The vaults of a folder.

    Attributes
    ----------
    folder
        The folder.
    vaults
        The vaults by name.
    """

    folder: Path
    vaults: dict[str, VaultConfig]

    def find(self, name: str) -> VaultConfig:
        """Return the vault with a name; raises ConfigurationError for another name."""
        if name in self.vaults:
            return self.vaults[name]
        known = f"known: {', '.join(sorted(self.vaults))}"
        if not self.vaults:
            known = f"there is none in {self.folder}"
        raise ConfigurationError(
            f"unknown vault '{name}'; {known}. Create {self.folder / name}.toml, for example:"
            '\n    kind = "directory"\n    path = "/archive/vault"'
        )


def load_configured_vaults(folder: Path | None) -> ConfiguredVaults:
    """Load the vaults of the given folder, else of the one in the environment, else the local ones.

    Raises
    ------
    ConfigurationError
        A file is invalid, the given folder is missing, or a file in the local folder could use
        credentials or programs.
    """
    from neuromirror.config.vault_files import load_vaults, refuse_unsafe_vaults
    from neuromirror.vault.own_vaults import LOCAL_VAULTS

    given = folder or path_from_environment("NEUROMIRROR_VAULTS")
    found = given or LOCAL_VAULTS
    vaults = load_vaults(found, required=given is not None)
    if given is None:
        refuse_unsafe_vaults(vaults, found)
    return ConfiguredVaults(found, vaults)


def store_or_none(settings: Settings) -> Store | None:
    """Open the store; None if there is none and none was named."""
    from neuromirror.store import NotAStoreError

    try:
        return settings.store()
    except NotAStoreError:
        if settings.given_store is not None:
            raise
        return None


@cli.command(
    "vault",
    example="""\
neuromirror vault
neuromirror vault show nas
neuromirror vault check nas --full
neuromirror vault import nas /data/dandi""",
)
@cli.argument(
    "action",
    type=click.Choice(["list", "show", "check", "import"]),
    metavar="[list|show|check|import]",
    default="list",
    help="list: print the vaults (default); show: print one; check: compare it with the ledger; "
    "import: store files that you have already.",
)
@cli.argument(
    "name", required=False, metavar="[VAULT]", help="For all others than list: the vault."
)
@cli.argument(
    "folder",
    type=NamedPath(),
    required=False,
    metavar="[DIR]",
    help="For import: a folder with files.",
)
@vaults_option
@cli.flag("--full", "For check: read and hash every byte of the vault.")
@cli.settings_options
def vault_command(
    settings: Settings,
    action: str,
    name: str | None,
    folder: Path | None,
    *,
    vaults: Path | None,
    full: bool,
) -> None:
    """List, show, check or fill vaults: places where you hold copies of content.

    check corrects the ledger: contents that are gone do not count any more, and those that are not
    recorded are read and recorded; --full reads all. import looks in DIR, a folder of downloads or
    a clone, for contents of the datasets in the store that the vault lacks, by size and digest.
    """
    if (action == "list") != (name is None):
        raise ConfigurationError(
            f"name the vault: neuromirror vault {action} VAULT"
            if name is None
            else "'list' takes no name; write: neuromirror vault show VAULT"
        )
    if full and action != "check":
        raise ConfigurationError("--full is for check")
    if (action == "import") != (folder is not None):
        raise ConfigurationError(
            f"'{action}' takes no folder"
            if folder is not None
            else f"name the folder with the files: neuromirror vault import {name} DIR"
        )
    configured = load_configured_vaults(vaults)
    if name is not None and action == "check":
        sys.exit(_check(settings, configured.find(name), full=full))
    if name is not None and folder is not None:
        sys.exit(_import(settings, configured.find(name), folder))
    chosen = [configured.find(name)] if name else list(configured.vaults.values())
    if not chosen:
        settings.print_text(
            f"There is no vault in {configured.folder}: see docs/reference/vaults.md."
        )
    sys.exit(_list(settings, chosen, is_detailed=name is not None))


def _list(settings: Settings, chosen: list[VaultConfig], *, is_detailed: bool) -> int:
    from neuromirror.vault.opening import open_ledger

    store = store_or_none(settings)
    with open_ledger(store) as ledger:
        totals = {vault.uuid: vault for vault in ledger.vaults()}
    rows, failed = [], False
    for config in chosen:
        record, total = _describe(config, store, totals)
        failed |= record["status"] == "error"
        problem = str(record["message"])
        settings.emit("vault", record, f"{config.name}: {problem}" if problem else None)
        cells = ["0", format_bytes(0), "0", ""]
        if total is not None:
            since = (
                ""
                if total.oldest_check is None
                else f"{datetime.fromtimestamp(total.oldest_check, UTC):%Y-%m-%d %H:%M}"
            )
            lost = str(total.damaged + total.missing)
            cells = [str(total.copies), format_bytes(total.bytes), lost, since]
        rows.append([config.name, config.settings.kind, *cells])
    settings.print_table(
        rows, ("vault", "kind", "contents", "size", "lost", "checked since"), ("contents", "lost")
    )
    if is_detailed and not settings.json:
        for field, value in record.items():
            if field in ("uuid", "locations", "location"):
                settings.print_text(f"{field}: {value}")
    return 1 if failed else 0


def _describe(
    config: VaultConfig, store: Store | None, totals: dict[str, LedgerVault]
) -> tuple[dict[str, Any], LedgerVault | None]:
    """Return the record of a vault for ``--json``, and its totals in the ledger."""
    from neuromirror.vault.opening import open_vault

    record: dict[str, Any] = {
        **{"status": "ok", "message": "", "vault": config.name, "kind": config.settings.kind},
        **{"file": str(config.path), "title": config.settings.title or config.name},
    }
    try:
        with closing(open_vault(config, store)) as vault:
            vault.check_access()
            location = (vault.remote_config() or {}).get("location")
            record |= {"uuid": vault.uuid, "location": location}
    except NeuromirrorError as error:
        known = [one for one in totals.values() if one.name == config.name]
        return record | {"status": "error", "message": str(error)}, known[0] if known else None
    total = totals.get(record["uuid"])
    if total is not None:
        record |= {
            **{"contents": total.copies, "bytes": total.bytes},
            **{"damaged": total.damaged, "missing": total.missing},
            **{"checked": total.checked, "oldest_check": total.oldest_check},
        }
    return record, total


def _check(settings: Settings, config: VaultConfig, *, full: bool) -> int:
    from neuromirror.custody.vaults import check_vault
    from neuromirror.vault.opening import open_ledger, open_vault

    with ExitStack() as stack:
        store = store_or_none(settings)
        vault = stack.enter_context(closing(open_vault(config, store)))
        ledger = stack.enter_context(open_ledger(store))
        line = stack.enter_context(ProgressLine())
        tally = _Tally(settings, line)
        for outcome in check_vault(vault, ledger, full=full):
            tally.add(outcome, outcome.key)
            line.show_bytes(tally.bytes, tally.bytes)
    problems = f"; {count_of(tally.failed, 'problem')}" if tally.failed else ""
    text = f"{count_of(tally.contents, 'content')}, {format_bytes(tally.bytes)}{problems}"
    return tally.finish(config.name, text)


def _import(settings: Settings, config: VaultConfig, folder: Path) -> int:
    from neuromirror.custody.copies import contents_of_store, open_to_fill, publish_copies
    from neuromirror.custody.vaults import adopt_files, find_files
    from neuromirror.vault.opening import open_ledger

    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder")
    store = settings.store()
    with ExitStack() as stack:
        line = stack.enter_context(ProgressLine())
        line.show(f"listing {folder}")
        files = find_files(folder)
        with settings.index() as index:
            contents = contents_of_store(index, {file.size for file in files})
        ledger = stack.enter_context(open_ledger(store))
        vault = stack.enter_context(closing(open_to_fill(config, store, ledger)))
        tally = _Tally(settings, line)
        try:
            for one in adopt_files(files, folder, contents.items, vault, ledger, line.show_bytes):
                tally.add(one, one.path)
        finally:
            # all copies in the ledger, including those that an interrupted import did not publish
            kept = contents.items.keys() - set(ledger.missing(vault.uuid, list(contents.items)))
            publish_copies(store, contents, vault, kept)
    text = f"{count_of(tally.contents, 'content')} stored, {format_bytes(tally.bytes)}, found in "
    return tally.finish(config.name, text + count_of(len(files), "file"), files=len(files))


class _Tally(Struct):
    """The outcomes of a check or an import: failures are printed, and all are counted."""

    settings: Settings
    line: ProgressLine
    contents: int = 0
    failed: int = 0
    bytes: int = 0

    def add(self, outcome: KeepOutcome, name: str | None) -> None:
        if outcome.failed:
            self.failed += 1
        else:
            self.contents += 1
            self.bytes += outcome.size or 0
        with self.line.paused():
            text = f"{outcome.status:<10} {name}  {outcome.message}" if outcome.failed else None
            self.settings.emit("vault", outcome.to_json(), text)

    def finish(self, vault: str, text: str, **more: object) -> int:
        """Print the summary; return the exit code."""
        status = "error" if self.failed else "ok"
        record = {"kind": "summary", "status": status, "vault": vault, **more}
        record |= {"contents": self.contents, "bytes": self.bytes, "failed": self.failed}
        self.settings.emit("vault", record, text)
        return 1 if self.failed else 0


def contents_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that select the contents of a lock file or a version."""
    globs = cli.globs_argument("Files or folders, as for 'neuromirror pin --path' [default: all].")
    target = cli.argument(
        "target",
        metavar="LOCK|VERSION|DATASET",
        help="A lock file, or a version in the store; a dataset means its latest version.",
    )
    return target(globs(function))


@cli.command(
    "keep",
    example="""\
neuromirror keep datasets.lock --in nas
neuromirror keep dandi:000027 'sub-01/**/*.nwb' --in nas --in cloud
neuromirror keep dandi:000027 --in nas --dry-run""",
)
@contents_arguments
@cli.repeatable(
    "--in names VAULT",
    "The vault: the name of a file in the folder of vaults, without '.toml'. Repeatable.",
    required=True,
)
@vaults_option
@cli.jobs_option("Number of files copied in parallel [default: 8].")
@cli.option("--limit-rate SIZE", "Bytes per second for all downloads, such as 10MB.")
@cli.flag("--dry-run", "Print which files would be copied, and stop.")
@cli.settings_options
def keep_command(
    settings: Settings,
    target: str,
    globs: tuple[str, ...],
    *,
    names: tuple[str, ...],
    vaults: Path | None,
    jobs: int | None,
    limit_rate: str | None,
    dry_run: bool,
) -> None:
    """Copy content into a vault, verified on the way in.

    A vault is a folder or a bucket of S3, described in a file NAME.toml in the folder of vaults
    (docs/reference/vaults.md). What it has is not downloaded; what upstream does not provide is
    copied from the other vaults. An interrupted run can be repeated. Clones of the mirror find the
    copies, and so does LOCK, for vaults with a URL.
    """
    from neuromirror.custody.copies import (
        JOBS,
        KeepOptions,
        KeepOutcome,
        check_privacy,
        name_in_lock,
        open_to_fill,
    )
    from neuromirror.custody.keep import keep
    from neuromirror.index.ledger import Wish
    from neuromirror.vault.opening import open_ledger
    from neuromirror.vault.protocol import VaultError

    configured = load_configured_vaults(vaults)
    chosen = [configured.find(name) for name in dict.fromkeys(names)]
    rate = None if limit_rate is None else float(size_of_option("--limit-rate", limit_rate))
    with ExitStack() as stack:
        store = store_or_none(settings)
        contents = stack.enter_context(selected_contents(settings, store, target, globs))
        line = stack.enter_context(ProgressLine())
        ledger = stack.enter_context(open_ledger(store))
        failed = False
        for config in chosen:
            check_privacy(store, config)
            report = _Report("keep", settings, line, contents.bytes, vault=config.name)
            for finding in contents.findings:
                report.counts["error"] += 1
                text = f"error      {finding.path}  {finding.message}"
                settings.emit("keep", {**finding.to_json(), "action": "keep"}, text)
            try:
                if dry_run:
                    _plan(config, store, ledger, report, contents)
                else:
                    vault = stack.enter_context(closing(open_to_fill(config, store, ledger)))
                    is_lock = Path(target).is_file()
                    what = str(Path(target).absolute()) if is_lock else target
                    wish = Wish("lock" if is_lock else "version", what, vault.uuid, globs)
                    options = KeepOptions(
                        jobs=jobs or JOBS,
                        allowed_hosts=contents.allowed_hosts,
                        with_credentials=contents.are_public(store),
                        bytes_per_second=rate,
                        report_bytes=report.show_bytes,
                    )
                    others = list(configured.vaults.values())
                    outcomes = keep(wish, contents, vault, others, store, ledger, options)
                    kept: set[str] = set()
                    with exit_on_interrupt(stack):
                        try:
                            with closing(outcomes):
                                for outcome in outcomes:
                                    report.add(outcome)
                                    if not outcome.failed and outcome.key is not None:
                                        kept.add(outcome.key)
                        finally:
                            if is_lock and kept:
                                name_in_lock(Path(target), contents, vault, kept)
            except VaultError as error:
                name = config.name
                report.add(KeepOutcome("keep", "error", ".", str(error), host=name, vault=name))
            report.print_summary(is_dry_run=dry_run)
            failed |= report.failures > 0
    sys.exit(1 if failed else 0)


@contextmanager
def selected_contents(
    settings: Settings, store: Store | None, target: str, globs: tuple[str, ...]
) -> Iterator[KeepContents]:
    """Provide the contents of a lock file or of a version, for the time of the block."""
    from neuromirror.custody.copies import contents_of_lock, contents_of_version
    from neuromirror.lab.lockfile import load_lock

    with ExitStack() as stack:
        if Path(target).is_file() or not may_be_address(target):
            index: Index | None = None
            if store is not None and settings.index_path(store).is_file():
                index = stack.enter_context(settings.index())
            yield contents_of_lock(load_lock(Path(target)), globs, store, index)
            return
        index = stack.enter_context(settings.index(target))
        row, globs = resolve_selection(settings, index, target, globs)
        yield contents_of_version(settings.store(), index, row, globs)


def _plan(
    config: VaultConfig,
    store: Store | None,
    ledger: Ledger,
    report: _Report,
    contents: KeepContents,
) -> None:
    """Report what would be copied; the vault need not exist yet."""
    from neuromirror.custody.copies import item_outcome
    from neuromirror.vault.opening import open_vault
    from neuromirror.vault.protocol import VaultUnavailableError

    uuid = None
    try:
        with closing(open_vault(config, store)) as vault:
            uuid = vault.uuid
    except VaultUnavailableError as error:
        click.echo(f"neuromirror: warning: {error}", err=True)
    items = contents.items
    lacking = set(items if uuid is None else ledger.missing(uuid, list(items)))
    for key, item in items.items():
        if key in lacking:
            report.add(item_outcome(config.name, item, "ok", "would be copied"))
        else:
            report.add(item_outcome(config.name, item, "notneeded", "in the vault"))


class _Report(OutcomeReport):
    """Prints the outcomes for one vault, and counts them."""

    vault: str = ""
    received: int = 0

    def show_bytes(self, count: int) -> None:
        self.received += count
        self.line.show_bytes(self.received, max(self.received, self.total))

    def print_summary(self, *, is_dry_run: bool) -> None:
        verb = "to copy" if is_dry_run else "copied"
        text = f"{self.vault}: {count_of(self.counts['ok'], 'content')} {verb}"
        known = self.counts["notneeded"]
        others = [f"{known} in the vault before"] if known else []
        self.print_totals("kept", text, others, is_dry_run=is_dry_run, vault=self.vault)


@cli.command("drill", example="neuromirror drill datasets.lock --in nas")
@cli.argument("lock", type=NamedPath(), metavar="LOCK", help="A lock file.")
@cli.repeatable(
    "--in names VAULT", "Use only this vault [default: all vaults together]. Repeatable."
)
@vaults_option
@cli.path_option(
    "--scratch DIR", "Folder for the restored files, which are removed [default: the system's]."
)
@cli.settings_options
def drill_command(
    settings: Settings,
    lock: Path,
    *,
    names: tuple[str, ...],
    vaults: Path | None,
    scratch: Path | None,
) -> None:
    """Restore a lock file from vaults alone, and verify every file; keep nothing.

    The content comes from the vaults, in a process that cannot reach upstream or the store: without
    a network if all vaults are folders of this machine and it permits that, else with a check of
    each connection. "neuromirror status" shows the result; run it from cron.
    """
    from neuromirror.custody.drill import record_drill, run_drill
    from neuromirror.lab.lockfile import load_lock

    configured = load_configured_vaults(vaults)
    chosen = {name: configured.find(name) for name in names} or configured.vaults
    if not chosen:
        configured.find("NAME")
    load_lock(lock)  # wrong usage is not recorded as a failed drill
    store = store_or_none(settings)
    result = run_drill(lock, chosen, store, scratch=scratch)
    if store is not None:
        record_drill(store, lock, result)
    record = {"status": "ok" if result.ok else "error", "lock": str(lock), **asdict(result)}
    text = f"{'ok' if result.ok else 'error':<10} {lock}  {result.message}"
    settings.emit("drill", record, text)
    for problem in result.problems:
        settings.print_text(f"  {problem}")
    sys.exit(0 if result.ok else 1)


@cli.command(
    "drop",
    example="""\
neuromirror drop dandi:000027@0.210831.2033 --in nas
neuromirror drop dandi:000027@0.210831.2033 --in nas --confirm 3f2a9c01b7de""",
)
@contents_arguments
@cli.option("--in name VAULT", "The vault.", required=True)
@vaults_option
@cli.option("--confirm ID", "Remove the copies that were listed with this id.")
@cli.settings_options
def drop_command(
    settings: Settings,
    target: str,
    globs: tuple[str, ...],
    *,
    name: str,
    vaults: Path | None,
    confirm: str | None,
) -> None:
    """List the copies that can be removed from a vault; with --confirm, remove them.

    A copy can be removed if no [[keep]] of a service and no other "neuromirror keep" requires it in
    this vault, and if another vault, which is asked, has the content now. Of a withdrawn DATASET,
    also the last copies can be removed. With --confirm exactly the listed copies are removed.
    """
    from neuromirror.custody.copies import contents_of_withdrawn
    from neuromirror.custody.drop import DropRules, plan_drop, run_drop
    from neuromirror.index import DatasetWithdrawnError
    from neuromirror.store import file_lock
    from neuromirror.vault.opening import open_ledger, open_vault

    configured = load_configured_vaults(vaults)
    config = configured.find(name)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        store = store_or_none(settings)
        ledger = stack.enter_context(open_ledger(store))
        index = None
        if store is not None and settings.index_path(store).is_file():
            index = stack.enter_context(settings.index())
        vault = stack.enter_context(closing(open_vault(config, store)))
        try:
            contents = stack.enter_context(selected_contents(settings, store, target, globs))
            withdrawn: dict[DatasetRef, set[str]] = {}
        except DatasetWithdrawnError as error:
            if globs or "@" in target:
                raise ConfigurationError(
                    f"{error}; name the dataset without a version and globs to remove its copies"
                ) from None
            contents = contents_of_withdrawn(settings.store(), target, vault.uuid)
            withdrawn = contents.datasets
        if confirm is not None:
            # two removals at the same time could each count the copies that the other one removes
            path = ledger.path.with_name("drop.lock")
            stack.enter_context(file_lock(path, "the removal of copies", _LOCK_WAIT))
        others = _open_others(stack, configured.vaults, config, store)
        released = _wishes_of_target(ledger, vault, target, None if withdrawn else globs)
        rules = DropRules(released, withdrawn)
        items = list(contents.items.values())
        plan = plan_drop(items, vault, others, ledger, index, rules)
        for outcome in plan.refused:
            _show(settings, outcome, counts)
        if confirm is None:
            for item in plan.items[:_MAX_SHOWN]:
                settings.print_text(f"to remove  {item.path}")
            text = f"{count_of(len(plan.items), 'content')} can be removed from {name}"
            text += f" ({format_bytes(plan.bytes)})"
            record = {
                **{"kind": "plan", "status": "ok", "vault": name, "id": plan.id},
                **{"contents": len(plan.items), "bytes": plan.bytes},
                "keys": [one.key for one in plan.items],
            }
            hint = f"; add --confirm {plan.id} to remove them" if plan.items else ""
            settings.emit("drop", record, text + hint)
        else:
            for outcome in run_drop(plan, ledger, store, index, confirm):
                _show(settings, outcome, counts)
            if not counts["error"] + counts["impossible"]:
                for number in released:
                    ledger.wishes.remove(number)
            settings.print_text(f"{counts['ok']} removed from {name}")
    sys.exit(1 if counts["error"] + counts["impossible"] else 0)


def _open_others(
    stack: ExitStack, vaults: dict[str, VaultConfig], config: VaultConfig, store: Store | None
) -> list[Vault]:
    """Open the other vaults; those that cannot be used do not count."""
    from neuromirror.vault.opening import open_vault

    found = []
    for other in vaults.values():
        if other.name == config.name:
            continue
        try:
            vault = stack.enter_context(closing(open_vault(other, store)))
            vault.check_access()
            found.append(vault)
        except NeuromirrorError as error:
            click.echo(f"neuromirror: warning: {error}", err=True)
    return found


def _wishes_of_target(
    ledger: Ledger, vault: Vault, target: str, globs: tuple[str, ...] | None
) -> frozenset[int]:
    """Return the numbers of the wishes that ``neuromirror keep`` recorded for a target.

    Without globs, of all versions of a dataset.
    """
    if globs is None:
        return frozenset(
            wish.id
            for wish in ledger.wishes.all(vault.uuid)
            if wish.kind == "version" and wish.what.partition("@")[0] == target
        )
    names = {("version", target), ("lock", str(Path(target).absolute()))}
    return frozenset(
        wish.id
        for wish in ledger.wishes.all(vault.uuid)
        if (wish.kind, wish.what) in names and wish.globs == globs
    )


def _show(settings: Settings, outcome: KeepOutcome, counts: Counter[str]) -> None:
    counts[outcome.status] += 1
    is_shown = outcome.status != "notneeded" and counts[outcome.status] <= _MAX_SHOWN
    text = f"{outcome.status:<10} {outcome.path}  {outcome.message}"
    settings.emit("drop", outcome.to_json(), text if is_shown else None)
