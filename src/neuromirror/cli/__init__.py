"""The command line. ``neuromirror --help`` imports none of the heavy packages."""

from __future__ import annotations

import click

from neuromirror import __version__
from neuromirror.cli.audit import audit_command
from neuromirror.cli.backup import backup_command, fsck_command, restore_index_command
from neuromirror.cli.browse import (
    events_command,
    files_command,
    find_command,
    list_command,
    versions_command,
)
from neuromirror.cli.catalogue import catalogue_command
from neuromirror.cli.check_archive import check_archive_command
from neuromirror.cli.cite import cite_command
from neuromirror.cli.common import Commands, Settings, settings_options
from neuromirror.cli.demo import demo_command
from neuromirror.cli.diff import diff_command
from neuromirror.cli.doctor import doctor_command
from neuromirror.cli.export import export_command
from neuromirror.cli.get import get_command
from neuromirror.cli.housekeeping import housekeeping_command
from neuromirror.cli.pin import outdated_command, pin_command
from neuromirror.cli.repair import repair_command
from neuromirror.cli.reproduce import reproduce_command
from neuromirror.cli.restore import restore_command
from neuromirror.cli.serve import serve_command
from neuromirror.cli.show import show_command
from neuromirror.cli.status import check_config_command, rebuild_index_command, status_command
from neuromirror.cli.sync import holds_command, release_command, sync_command
from neuromirror.cli.takedown import takedown_command
from neuromirror.cli.verify import verify_command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="neuromirror")
@settings_options
def main(settings: Settings) -> None:
    """Mirror neuroscience archives as versioned, bit-reproducible DataLad datasets.

    A dataset is named <mirror>:<id> (dandi:000027), a version <dataset>@<label>
    (dandi:000027@0.210831.2033, dandi:000027@draft).

    Exit codes: 0 done, 1 something failed or did not verify, 2 wrong usage or configuration,
    3 held for approval.
    """


for _command in (
    sync_command,
    serve_command,
    catalogue_command,
    list_command,
    versions_command,
    show_command,
    files_command,
    find_command,
    pin_command,
    outdated_command,
    restore_command,
    get_command,
    export_command,
    diff_command,
    verify_command,
    cite_command,
    reproduce_command,
    status_command,
    holds_command,
    release_command,
    events_command,
    check_config_command,
    check_archive_command,
    doctor_command,
    rebuild_index_command,
    housekeeping_command,
    audit_command,
    fsck_command,
    repair_command,
    backup_command,
    restore_index_command,
    takedown_command,
    demo_command,
):
    main.add_command(_command)

__all__ = ["main"]
