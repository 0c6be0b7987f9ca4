"""``neuromirror doctor``."""

from __future__ import annotations

import sys

import click

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options


@command("doctor", example="neuromirror doctor --offline")
@click.option("--offline", is_flag=True, help="Send no request to an archive.")
@click.option(
    "--archives",
    is_flag=True,
    help="Repeat check-archive for archives with a saved report; print what changed.",
)
@settings_options
def doctor_command(settings: Settings, *, offline: bool, archives: bool) -> None:
    """Check this machine, the store and the archives.

    The checks cover git, git-annex and the programs it uses, SQLite, the free space and permissions
    of the store, the format of the store, whether the index is up to date with the journal (the
    store's log of all changes), the limit on open files, the mirror files, one small request to
    each archive, and the clock, compared with the archives' replies. Each check is a line: ok,
    warning or error, with the remedy. If "neuromirror check-archive" saved a report, its age and
    the broken rules are shown; --archives repeats these checks (at most 200 requests per archive)
    and prints every rule that changed.

    Exit code: 0 no error (there may be warnings), 1 errors.
    """
    from neuromirror.service.doctor import run_doctor_checks

    code, folder = 0, settings.mirrors_folder
    for one in run_doctor_checks(
        settings.given_mirrors or (folder if folder.exists() else None),
        settings.store_folder,
        settings.index_file,
        offline=offline,
        archives=archives,
    ):
        failed = one.level == "error"
        code = max(code, int(failed))
        record = {
            "check": one.subject,
            "level": one.level,
            "status": "error" if failed else "ok",
            "message": one.message,
        }
        settings.emit("doctor", record, f"{one.level:<8} {one.subject:<12} {one.message}")
    sys.exit(code)
