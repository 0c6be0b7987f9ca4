"""The command line, which imports a command when it is run, and heavy packages where used."""

from __future__ import annotations

import os
import sysconfig

import click

from neuromirror import __version__
from neuromirror.cli.commands import CommandGroup, settings_options
from neuromirror.cli.common import Settings

_SECTIONS = {
    "Mirror": "demo mirrors check-config sync status events holds release",
    "Explore": "list search versions show files find diff catalogue",
    "Pin and restore": "pin cite restore verify outdated export-lock reproduce",
    "Data": "clone get cache digest export",
    "Keep": "keep vault drill drop",
    "Operate": "serve doctor audit fsck repair housekeeping publish backup restore-index"
    " rebuild-index takedown",
}


@click.group(
    cls=CommandGroup, sections=_SECTIONS, context_settings={"help_option_names": ["-h", "--help"]}
)
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
    (outdated --exit-code).
    """


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
