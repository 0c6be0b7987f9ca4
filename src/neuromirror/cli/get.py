"""``neuromirror get``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import HostMessages, NamedPath, Settings, settings_options
from neuromirror.model.display import format_bytes

if TYPE_CHECKING:
    from neuromirror.lab import Outcome, Tally

_REFRESH_SECONDS: Final = 0.1
"""Refresh interval of the progress bar, in seconds."""


@command(
    "get",
    example="""\
neuromirror get sub-01
neuromirror get -r -J 64 .""",
)
@argument(
    "paths",
    nargs=-1,
    type=NamedPath(),
    metavar="[PATH]...",
    help="Files or folders of a clone [default: the current folder].",
)
@click.option("-r", "--recursive", is_flag=True, help="Get the files of subdatasets too.")
@click.option(
    "-J",
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Number of files fetched in parallel [default: 32].",
)
@click.option(
    "--trust-config",
    is_flag=True,
    help="Trust the configuration and hooks of this repository, which may run programs.",
)
@settings_options
def get_command(
    settings: Settings,
    paths: tuple[Path, ...],
    jobs: int | None,
    *,
    recursive: bool,
    trust_config: bool,
) -> None:
    """Get the content of files in a clone.

    The clone can be of this mirror or of any other dataset of git-annex. A PATH in a subdataset is
    fetched there; DataLad installs missing subdatasets.

    The URLs of each file are tried in order until one delivers the content of its key. The content
    is hashed while it arrives, and wrong content is discarded. Downloaded files are stored and
    recorded as git-annex does it. git-annex itself gets files that have no usable URL, or that the
    settings of the clone reserve for it. Interrupted downloads of large files are resumed.

    A repository that was received as files, not cloned, contains the settings and hooks of its
    sender. It is refused if its own configuration or hooks run programs that git-annex and DataLad
    did not set up; your own configuration (git config --global) is trusted.

    Exit code: 0 all content is present, 1 a file could not be fetched (with the reason), 2 wrong
    usage, no clone, or a repository that is refused.
    """
    from neuromirror.lab import Tally
    from neuromirror.transfer import JOBS, get

    here = Path.cwd()
    chosen = [here / path for path in paths] or [here]
    counted = Tally()
    received = 0
    hosts = HostMessages("get")
    with _progress() as progress:
        outcomes = get(
            here,
            chosen,
            recursive=recursive,
            jobs=jobs or JOBS,
            trust_config=trust_config,
            progress=progress,
        )
        for outcome in outcomes:
            counted.add(outcome)
            received += (outcome.size or 0) * (outcome.status == "ok")
            shown = outcome.status != "notneeded" and hosts.is_first(outcome)
            settings.emit("get", outcome.to_json(), _outcome_line(outcome) if shown else None)
    hosts.print_counts(settings)
    settings.print_text(_summary(counted, received))
    sys.exit(counted.exit_code)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of bytes on stderr if that is a terminal."""
    from tqdm import tqdm

    with tqdm(
        *(),
        disable=None,
        leave=False,
        file=sys.stderr,
        unit="B",
        unit_scale=True,
        total=0,
        mininterval=_REFRESH_SECONDS,
    ) as bar:

        def progress(received: int, total: int) -> None:
            bar.total = total
            bar.update(received - bar.n)

        yield progress


def _outcome_line(outcome: Outcome) -> str:
    if outcome.failed:
        return f"{outcome.status:<10} {outcome.host or outcome.path}  {outcome.message}"
    size = "" if outcome.size is None else f"  {format_bytes(outcome.size)}"
    evidence = f"  {outcome.evidence}" if outcome.checked == "checked" and outcome.evidence else ""
    return f"{outcome.status:<10} {outcome.path}{size}{evidence}"


def _summary(counted: Tally, received: int) -> str:
    fetched, present = counted.statuses["ok"], counted.statuses["notneeded"]
    failed = counted.statuses["error"] + counted.statuses["impossible"]
    parts = [f"{fetched} fetched, {format_bytes(received)}"] if fetched else []
    if present:
        parts.append(f"{present} already present")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts) or "no files to get"
