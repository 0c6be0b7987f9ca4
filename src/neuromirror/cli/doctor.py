"""``neuromirror doctor``."""

from __future__ import annotations

import sys

import click

from neuromirror.cli.common import Settings, settings_options


@click.command("doctor")
@click.option("--offline", is_flag=True, help="Ask no archive.")
@click.option(
    "--archives",
    is_flag=True,
    help="Check each archive of which the store has a report again, and compare.",
)
@settings_options
def doctor_command(settings: Settings, *, offline: bool, archives: bool) -> None:
    """Look whether this machine has all that mirroring takes.

    Programs (git, git-annex and what it finds on PATH), SQLite, room and rights of the store, its
    format, the index and its place in the journal, open files, the mirror files, and of each
    archive whether it answers one small request; by these answers, the clock. Each is a line: ok,
    warning or error, and what to do. Where "neuromirror check-archive" left a report, its age and
    its broken rules are shown; --archives checks these archives again (at most 200 requests each)
    and names every rule that changed.

    Exit code: 0 nothing is wrong (there may be warnings), 1 something is.
    """
    from neuromirror.service.doctor import run_doctor_checks

    worst = 0
    for one in run_doctor_checks(
        settings.mirrors_folder,
        settings.store_folder,
        settings.index_file,
        offline=offline,
        archives=archives,
    ):
        failed = one.level == "error"
        worst = max(worst, int(failed))
        record = {
            "what": one.subject,
            "level": one.level,
            "status": "error" if failed else "ok",
            "message": one.message,
        }
        settings.emit("doctor", record, f"{one.level:<8} {one.subject:<12} {one.message}")
    sys.exit(worst)
