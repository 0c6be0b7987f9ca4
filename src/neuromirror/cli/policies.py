"""``neuromirror policies``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins
from msgspec.structs import asdict

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, exit_on_interrupt, settings_options
from neuromirror.cli.outcome_report import HostMessages, outcome_text
from neuromirror.cli.progress_line import ProgressLine
from neuromirror.cli.vault import load_configured_vaults, vaults_option
from neuromirror.model.display import count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.custody.policies import PolicyRun
    from neuromirror.custody.policy_status import PoliciesStatus


@command(
    "policies",
    example="""\
neuromirror policies --dry-run
neuromirror policies papers""",
)
@argument("names", nargs=-1, metavar="[POLICY]...", help="Names of policies to run [default: all].")
@vaults_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the size and the price of what would be copied, and stop.",
)
@settings_options
def policies_command(
    settings: Settings, names: tuple[str, ...], *, vaults: Path | None, dry_run: bool
) -> None:
    """Copy into vaults what the policies of a lab keep.

    Policies are [[keep]] tables in policies.toml in the folder of vaults (docs/howto/
    retention-plan.md). A service runs them every hour. Content that upstream may delete soon is
    copied first. What cannot be kept in time is an event, at least seven days before.

    Exit code: 0 all contents have the required copies, 1 some do not or a vault cannot be used, 2
    wrong configuration.
    """
    from neuromirror.config.policy_files import load_policies
    from neuromirror.crawl import open_recorder
    from neuromirror.custody.announcements import record_announcements
    from neuromirror.custody.keep_outcomes import KeepOptions
    from neuromirror.custody.policies import PolicyRun
    from neuromirror.custody.policy_status import PoliciesStatus
    from neuromirror.vault.opening import open_ledger

    configured = load_configured_vaults(vaults)
    policies = load_policies(configured.folder, configured.vaults)
    policies.find(names)
    store = settings.store()
    with ExitStack() as stack:
        index = stack.enter_context(settings.index())
        ledger = stack.enter_context(open_ledger(store))
        line = stack.enter_context(ProgressLine())
        run = stack.enter_context(
            PolicyRun(store, index, ledger, configured.vaults, policies, names, dry_run=dry_run)
        )
        line.show("reading what the policies keep")
        run.prepare()
        if dry_run:
            sys.exit(_print_plan(settings, run))
        hosts, done = HostMessages(), 0
        with exit_on_interrupt(stack):
            for outcome in run.copy(KeepOptions()):
                done += outcome.size or 0
                line.show_bytes(done, done)
                text = f"{outcome.status:<10} {outcome_text(outcome)}"
                is_shown = outcome.failed and hosts.is_first(outcome)
                with line.paused():
                    settings.emit("policies", outcome.to_json(), text if is_shown else None)
        found = run.finish()
        with open_recorder(store, settings.index_path(store)) as recorder:
            record_announcements(recorder, found)
        for one in found:
            record = {
                "kind": "shortage",
                "status": "error",
                **to_builtins(one),
                "message": one.message,
            }
            settings.emit("policies", record | {"horizon": str(one.horizon or "")}, one.message)
        hosts.print_counts("policies", settings)
        code = _print_status(settings, PoliciesStatus.load(store), names)
        code = code or int(any(one.problem for one in run.states.values()))
    sys.exit(code)


def _print_plan(settings: Settings, run: PolicyRun) -> int:
    """Print a dry run; return the exit code."""
    for name, complete in run.plan.complete.items():
        planned = [one for one in run.plan.copies if one.policy.name == name]
        short = {one.content.key for one in run.plan.shortages if one.policy == name}
        contents = complete + len({one.content.key for one in planned} | short)
        record = {
            **{"kind": "policy", "status": "ok", "policy": name, "complete": complete},
            "contents": contents,
            **{"planned": len(planned), "bytes": sum(one.content.size for one in planned)},
            **{"urgent": sum(one.is_urgent for one in planned), "short": len(short)},
            "problems": run.problems[name],
        }
        text = (
            f"{name}: {complete} of {count_of(contents, 'content')} have all copies, "
            f"{len(planned)} to make"
        )
        if short:
            text += f", {count_of(len(short), 'content')} will lack copies"
        settings.emit("policies", record, text)
    for name, cost in sorted(run.costs.items()):
        record = {"kind": "vault", "status": "ok", "vault": name, **to_builtins(cost)}
        text = f"{name}: {count_of(cost.contents, 'content')}, {format_bytes(cost.bytes)}"
        if cost.per_month or cost.once:
            text += f"; {cost.per_month:.2f} per month and {cost.once:.2f} once"
        settings.emit("policies", record, text)
    for (policy, reason), detail in _reasons(run).items():
        record = {"kind": "shortage", "status": "error", "policy": policy, "reason": reason}
        settings.emit("policies", record | {"message": detail}, f"{policy}: {detail}")
    problems = [text for some in run.problems.values() for text in some]
    problems += (f"{name}: {one.problem}" for name, one in run.states.items() if one.problem)
    for text in problems:
        settings.emit("policies", {"kind": "problem", "status": "error", "message": text}, text)
    return 1 if problems or run.plan.shortages else 0


def _reasons(run: PolicyRun) -> dict[tuple[str, str], str]:
    return {(one.policy, one.reason): one.detail for one in reversed(run.plan.shortages)}


def _print_status(settings: Settings, status: PoliciesStatus, names: tuple[str, ...]) -> int:
    """Print the result of each policy; return the exit code."""
    code = 0
    for name, one in status.policies.items():
        if names and name not in names:
            continue
        is_complete = not one.lacking and not one.problems
        code = code if is_complete else 1
        record = {"kind": "policy", "status": "ok" if is_complete else "error", "policy": name}
        text = f"{name}: {count_of(one.contents, 'content')}, {format_bytes(one.bytes)}"
        if one.lacking:
            text += f"; {one.lacking} lack copies ({format_bytes(one.lacking_bytes)})"
        settings.emit("policies", record | asdict(one), text)
        for problem in one.problems:
            settings.print_text(f"  {problem}")
    for name, problem in status.vaults.items():
        settings.print_text(f"{name}: {problem}")
    return code
