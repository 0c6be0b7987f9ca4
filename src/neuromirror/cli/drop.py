"""``neuromirror drop``."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.cli.keep import contents_arguments, selected_contents
from neuromirror.cli.vault import load_configured_vaults, store_or_none, vaults_option
from neuromirror.model.display import count_of, format_bytes
from neuromirror.model.errors import ConfigurationError, NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig
    from neuromirror.custody.copies import KeepOutcome
    from neuromirror.index.ledger import Ledger
    from neuromirror.model import DatasetRef
    from neuromirror.store import Store
    from neuromirror.vault.protocol import Vault

_MAX_SHOWN = 20
_LOCK_WAIT: Final = 60.0
"""Seconds to wait for another removal."""


@command(
    "drop",
    example="""\
neuromirror drop dandi:000027@0.210831.2033 --in nas
neuromirror drop dandi:000027@0.210831.2033 --in nas --confirm 3f2a9c01b7de""",
)
@contents_arguments
@click.option("--in", "name", required=True, metavar="VAULT", help="The vault.")
@vaults_option
@click.option("--confirm", metavar="ID", help="Remove the copies that were listed with this id.")
@settings_options
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
    from neuromirror.custody.contents import contents_of_withdrawn
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
            one.id
            for one in ledger.wishes.all(vault.uuid)
            if one.kind == "version" and one.what.partition("@")[0] == target
        )
    names = {("version", target), ("lock", str(Path(target).absolute()))}
    return frozenset(
        one.id
        for one in ledger.wishes.all(vault.uuid)
        if (one.kind, one.what) in names and one.globs == globs
    )


def _show(settings: Settings, outcome: KeepOutcome, counts: Counter[str]) -> None:
    counts[outcome.status] += 1
    is_shown = outcome.status != "notneeded" and counts[outcome.status] <= _MAX_SHOWN
    text = f"{outcome.status:<10} {outcome.path}  {outcome.message}"
    settings.emit("drop", outcome.to_json(), text if is_shown else None)
