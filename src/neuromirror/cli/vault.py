"""``neuromirror vault``, and the options of all commands that use vaults."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, path_from_environment, settings_options
from neuromirror.model.display import count_of, format_bytes
from neuromirror.model.errors import ConfigurationError, NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig
    from neuromirror.index.ledger import LedgerVault
    from neuromirror.store import Store


def vaults_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option ``--vaults``."""
    return click.option(
        "--vaults",
        type=NamedPath(),
        metavar="DIR",
        help="Folder with the files of your vaults (NAME.toml, one per vault) "
        "[default: $NEUROMIRROR_VAULTS, else ./vaults].",
    )(command)


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
        from neuromirror.config.vault_files import find_vault

        return find_vault(self.vaults, name, self.folder)


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


@command(
    "vault",
    example="""\
neuromirror vault
neuromirror vault show nas
neuromirror vault check nas --full
neuromirror vault import nas /data/dandi""",
)
@argument(
    "action",
    type=click.Choice(["list", "show", "check", "import"]),
    metavar="[list|show|check|import]",
    default="list",
    help="list: print the vaults (default); show: print one; check: compare it with the ledger; "
    "import: store files that you have already.",
)
@argument("name", required=False, metavar="[VAULT]", help="For all others than list: the vault.")
@argument(
    "folder",
    type=NamedPath(),
    required=False,
    metavar="[DIR]",
    help="For import: a folder with files.",
)
@vaults_option
@click.option("--full", is_flag=True, help="For check: read and hash every byte of the vault.")
@settings_options
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
        totals = {one.uuid: one for one in ledger.vaults()}
    rows, failed = [], False
    for config in chosen:
        record, total = _describe(config, store, totals)
        failed |= record["status"] == "error"
        problem = str(record["message"])
        settings.emit("vault", record, f"{config.name}: {problem}" if problem else None)
        rows.append(
            (
                *(config.name, config.settings.kind),
                *(str(total.copies if total else 0), format_bytes(total.bytes if total else 0)),
                str((total.damaged + total.missing) if total else 0),
                _time(total.oldest_check if total else None),
            )
        )
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
        **{"file": str(config.path), "title": config.title},
    }
    try:
        with closing(open_vault(config, store)) as vault:
            vault.check_access()
            record |= {
                "uuid": vault.uuid,
                "location": (vault.remote_config() or {}).get("location"),
            }
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
    from neuromirror.cli.progress_line import ProgressLine
    from neuromirror.custody.vault_check import check_vault
    from neuromirror.vault.opening import open_ledger, open_vault

    with ExitStack() as stack:
        store = store_or_none(settings)
        vault = stack.enter_context(closing(open_vault(config, store)))
        ledger = stack.enter_context(open_ledger(store))
        line = stack.enter_context(ProgressLine())
        counts = {"ok": 0, "error": 0}
        size = 0
        for one in check_vault(vault, ledger, full=full):
            counts["error" if one.failed else "ok"] += 1
            size += 0 if one.failed else one.size or 0
            line.show_bytes(size, size)
            with line.paused():
                text = f"{one.status:<10} {one.key}  {one.message}" if one.failed else None
                settings.emit("vault", one.to_json(), text)
    record = {
        **{"kind": "summary", "status": "error" if counts["error"] else "ok"},
        **{"vault": config.name, "contents": counts["ok"], "bytes": size},
        "failed": counts["error"],
    }
    problems = f"; {count_of(counts['error'], 'problem')}" if counts["error"] else ""
    settings.emit(
        "vault", record, f"{count_of(counts['ok'], 'content')}, {format_bytes(size)}{problems}"
    )
    return 1 if counts["error"] else 0


def _import(settings: Settings, config: VaultConfig, folder: Path) -> int:
    from neuromirror.cli.progress_line import ProgressLine
    from neuromirror.custody.contents import contents_of_store, open_to_fill, publish_copies
    from neuromirror.custody.vault_import import adopt_files, find_files
    from neuromirror.vault.opening import open_ledger

    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder")
    store = settings.store()
    counts = {"ok": 0, "error": 0}
    size = 0
    with ExitStack() as stack:
        line = stack.enter_context(ProgressLine())
        line.show(f"listing {folder}")
        files = find_files(folder)
        with settings.index() as index:
            contents = contents_of_store(index, {one.size for one in files})
        ledger = stack.enter_context(open_ledger(store))
        vault = stack.enter_context(closing(open_to_fill(config, store, ledger)))
        try:
            for one in adopt_files(files, folder, contents.items, vault, ledger, line.show_bytes):
                counts["error" if one.failed else "ok"] += 1
                size += 0 if one.failed else one.size or 0
                with line.paused():
                    text = f"{one.status:<10} {one.path}  {one.message}" if one.failed else None
                    settings.emit("vault", one.to_json(), text)
        finally:
            # all copies in the ledger, including those that an interrupted import did not publish
            kept = contents.items.keys() - set(ledger.missing(vault.uuid, list(contents.items)))
            publish_copies(store, contents, vault, kept)
    record = {
        **{"kind": "summary", "status": "error" if counts["error"] else "ok"},
        **{"vault": config.name, "files": len(files), "contents": counts["ok"], "bytes": size},
        "failed": counts["error"],
    }
    text = (
        f"{count_of(counts['ok'], 'content')} stored, {format_bytes(size)}, found in "
        f"{count_of(len(files), 'file')}"
    )
    settings.emit("vault", record, text)
    return 1 if counts["error"] else 0


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
