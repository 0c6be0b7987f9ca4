"""``neuromirror keep``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.addresses import may_be_address, resolve_selection
from neuromirror.cli.commands import argument, command, globs_argument, jobs_option
from neuromirror.cli.common import Settings, exit_on_interrupt, settings_options
from neuromirror.cli.outcome_report import OutcomeReport
from neuromirror.cli.progress_line import ProgressLine
from neuromirror.cli.vault import load_configured_vaults, store_or_none, vaults_option
from neuromirror.model.display import count_of, format_bytes
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig
    from neuromirror.custody.contents import KeepContents
    from neuromirror.index import Index
    from neuromirror.index.ledger import Ledger
    from neuromirror.store import Store


def contents_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that select the contents of a lock file or a version."""
    globs = globs_argument("Files or folders, as for 'neuromirror pin --path' [default: all].")
    target = argument(
        "target",
        metavar="LOCK|VERSION|DATASET",
        help="A lock file, or a version in the store; a dataset means its latest version.",
    )
    return target(globs(function))


@command(
    "keep",
    example="""\
neuromirror keep datasets.lock --in nas
neuromirror keep dandi:000027 'sub-01/**/*.nwb' --in nas --in cloud
neuromirror keep dandi:000027 --in nas --dry-run""",
)
@contents_arguments
@click.option(
    "--in",
    "names",
    multiple=True,
    required=True,
    metavar="VAULT",
    help="The vault: the name of a file in the folder of vaults, without '.toml'. Repeatable.",
)
@vaults_option
@jobs_option("Number of files copied in parallel [default: 8].")
@click.option(
    "--limit-rate", metavar="SIZE", help="Bytes per second for all downloads, such as 10MB."
)
@click.option("--dry-run", is_flag=True, help="Print which files would be copied, and stop.")
@settings_options
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
    from neuromirror.custody.contents import check_privacy, name_in_lock, open_to_fill
    from neuromirror.custody.copies import JOBS, KeepOptions
    from neuromirror.custody.keep import keep
    from neuromirror.index.ledger import Wish
    from neuromirror.vault.errors import VaultError
    from neuromirror.vault.opening import open_ledger

    configured = load_configured_vaults(vaults)
    chosen = [configured.find(name) for name in dict.fromkeys(names)]
    rate = _parse_rate(limit_rate)
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
                report.add_finding(finding.to_json(), f"{finding.path}  {finding.message}")
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
                report.add_vault_error(str(error))
            report.print_summary(is_dry_run=dry_run)
            failed |= report.failures > 0
    sys.exit(1 if failed else 0)


@contextmanager
def selected_contents(
    settings: Settings, store: Store | None, target: str, globs: tuple[str, ...]
) -> Iterator[KeepContents]:
    """Provide the contents of a lock file or of a version, for the time of the block."""
    from neuromirror.custody.contents import contents_of_lock, contents_of_version
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


def _parse_rate(text: str | None) -> float | None:
    from neuromirror.cache import parse_size

    if text is None:
        return None
    try:
        return float(parse_size(text))
    except ValueError as error:
        raise ConfigurationError(f"--limit-rate: {error}") from None


def _plan(
    config: VaultConfig,
    store: Store | None,
    ledger: Ledger,
    report: _Report,
    contents: KeepContents,
) -> None:
    """Report what would be copied; the vault need not exist yet."""
    from neuromirror.custody.copies import item_outcome
    from neuromirror.vault.errors import VaultUnavailableError
    from neuromirror.vault.opening import open_vault

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

    def add_finding(self, record: dict[str, object], text: str) -> None:
        self.counts["error"] += 1
        self.settings.emit("keep", {**record, "action": "keep"}, f"error      {text}")

    def add_vault_error(self, message: str) -> None:
        from neuromirror.custody.copies import KeepOutcome

        vault = self.vault
        self.add(KeepOutcome("keep", "error", ".", message, host=vault, vault=vault))

    def print_summary(self, *, is_dry_run: bool) -> None:
        self.hosts.print_counts(self.action, self.settings)
        verb = "to copy" if is_dry_run else "copied"
        parts = [f"{count_of(self.counts['ok'], 'content')} {verb} ({format_bytes(self.bytes)})"]
        if known := self.counts["notneeded"]:
            parts.append(f"{known} in the vault before")
        if self.failures:
            parts.append(f"{count_of(self.failures, 'problem')}")
        record = {
            "kind": "summary",
            "status": "error" if self.failures else "ok",
            "vault": self.vault,
            "kept": 0 if is_dry_run else self.counts["ok"],
            "planned": self.counts["ok"] if is_dry_run else 0,
            "notneeded": known,
            "failed": self.failures,
            "bytes": self.bytes,
        }
        self.settings.emit("keep", record, f"{self.vault}: {'; '.join(parts)}")
