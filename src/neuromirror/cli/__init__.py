"""The command line. ``neuromirror --help`` imports none of the heavy packages."""

from __future__ import annotations

import os
import sysconfig

import click

from neuromirror import __version__
from neuromirror.cli.audit import audit_command
from neuromirror.cli.backup import backup_command, restore_index_command
from neuromirror.cli.cache import cache_command
from neuromirror.cli.catalogue import catalogue_command
from neuromirror.cli.check_archive import check_archive_command
from neuromirror.cli.cite import cite_command
from neuromirror.cli.clone import clone_command
from neuromirror.cli.commands import CommandGroup
from neuromirror.cli.common import Settings, settings_options
from neuromirror.cli.config import check_config_command
from neuromirror.cli.datasets import events_command, list_command, versions_command
from neuromirror.cli.demo import demo_command
from neuromirror.cli.diff import diff_command
from neuromirror.cli.digest import digest_command
from neuromirror.cli.doctor import doctor_command
from neuromirror.cli.drill import drill_command
from neuromirror.cli.drop import drop_command
from neuromirror.cli.export import export_command
from neuromirror.cli.export_lock import export_lock_command
from neuromirror.cli.files import files_command
from neuromirror.cli.find import find_command
from neuromirror.cli.fsck import fsck_command
from neuromirror.cli.get import get_command
from neuromirror.cli.holds import holds_command, release_command
from neuromirror.cli.housekeeping import housekeeping_command
from neuromirror.cli.keep import keep_command
from neuromirror.cli.mirrors import mirrors_command
from neuromirror.cli.pin import outdated_command, pin_command
from neuromirror.cli.policies import policies_command
from neuromirror.cli.publish import publish_command
from neuromirror.cli.rebuild_index import rebuild_index_command
from neuromirror.cli.repair import repair_command
from neuromirror.cli.reproduce import reproduce_command
from neuromirror.cli.restore import restore_command
from neuromirror.cli.search import search_command
from neuromirror.cli.serve import serve_command
from neuromirror.cli.show import show_command
from neuromirror.cli.status import status_command
from neuromirror.cli.sync import sync_command
from neuromirror.cli.takedown import takedown_command
from neuromirror.cli.vault import vault_command
from neuromirror.cli.verify import verify_command
from neuromirror.cli.watch import watch_command


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="neuromirror")
@settings_options
def main(settings: Settings) -> None:
    """Mirror neuroscience archives as versioned, bit-reproducible DataLad datasets.

    The store holds git repositories with metadata and checksums. File content stays at the archive
    until "neuromirror get" or "datalad get" downloads it.

    A dataset is named <mirror>:<id> (dandi:000027), a version <dataset>@<label>
    (dandi:000027@0.210831.2033, dandi:000027@draft).

    A state is the exact set of files of a version: their paths, sizes and checksums. The state
    digest is the checksum of that list. An observed version is content to which the archive
    assigned no version: a draft, or a bucket.

    Exit codes: 0 success, 1 something failed or was not found (diff --exit-code: the versions
    differ), 2 wrong usage or configuration, 3 an update is held for approval, 4 a pin is outdated
    (outdated --exit-code) or there is news (watch --exit-code).
    """


main.add_section(
    "Mirror",
    [
        demo_command,
        mirrors_command,
        check_config_command,
        check_archive_command,
        sync_command,
        status_command,
        events_command,
        holds_command,
        release_command,
    ],
)
main.add_section(
    "Explore",
    [
        list_command,
        search_command,
        versions_command,
        show_command,
        files_command,
        find_command,
        diff_command,
        catalogue_command,
    ],
)
main.add_section(
    "Pin and restore",
    [
        pin_command,
        cite_command,
        restore_command,
        verify_command,
        outdated_command,
        watch_command,
        export_lock_command,
        reproduce_command,
    ],
)
main.add_section(
    "Data", [clone_command, get_command, cache_command, digest_command, export_command]
)
main.add_section(
    "Keep", [keep_command, policies_command, vault_command, drill_command, drop_command]
)
main.add_section(
    "Operate",
    [
        serve_command,
        doctor_command,
        audit_command,
        fsck_command,
        repair_command,
        housekeeping_command,
        publish_command,
        backup_command,
        restore_index_command,
        rebuild_index_command,
        takedown_command,
    ],
)


def run() -> None:
    """Run the program, with the folder of its environment's programs first on ``PATH``.

    Otherwise git-annex and the programs that it starts would not be found in an environment that is
    not activated (pipx, uvx).
    """
    programs = sysconfig.get_path("scripts")
    path = os.environ.get("PATH", os.defpath)
    if programs not in path.split(os.pathsep):
        os.environ["PATH"] = f"{programs}{os.pathsep}{path}"
    main(prog_name="neuromirror")


__all__ = ["main", "run"]
