"""``neuromirror get``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from neuromirror.cli.common import HostMessages, NamedPath, Settings, settings_options
from neuromirror.model.display import format_bytes

if TYPE_CHECKING:
    from neuromirror.lab import Outcome, Tally

_REFRESH_SECONDS: Final = 0.1
"""Seconds between changes of the progress bar."""


@click.command("get")
@click.argument("paths", nargs=-1, type=NamedPath(), metavar="[PATH]...")
@click.option("-r", "--recursive", is_flag=True, help="The files of sub-datasets, too.")
@click.option(
    "-J",
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Files got at once [default: 32].",
)
@click.option(
    "--trust-config",
    is_flag=True,
    help="Obey the repository's own git configuration and hooks, which may run programs.",
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
    """Get the contents of files in a clone, many at a time.

    PATH is a file or folder of a cloned dataset, of this mirror or any other that git-annex looks
    after; without one it is the folder you are in. A path in a sub-dataset is got there; what is
    not installed, DataLad installs.

    Each file is fetched from the places that the dataset names, in turn, until one gives the bytes
    that its key stands for: they are hashed while they arrive, and wrong ones are not kept. What
    was had lies where git-annex would have put it, and git-annex knows. Files that are not on the
    web, or that the clone's settings leave to git-annex, git-annex gets. Large files that broke
    off go on where they were.

    A repository that was received as files, and not cloned, brings settings and hooks of whoever
    made it. One whose own configuration or hooks name programs that git-annex and DataLad did not
    set up is refused; your own configuration (git config --global) is trusted.

    Exit code: 0 all is there, 1 something could not be had (and why), 2 wrong usage, no clone, or a
    repository that is refused.
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
    """A bar of bytes on stderr, where that is a terminal."""
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
    proved = f"  {outcome.evidence}" if outcome.checked == "checked" and outcome.evidence else ""
    return f"{outcome.status:<10} {outcome.path}{size}{proved}"


def _summary(counted: Tally, received: int) -> str:
    fetched, here = counted.statuses["ok"], counted.statuses["notneeded"]
    failed = counted.statuses["error"] + counted.statuses["impossible"]
    parts = [f"{fetched} got, {format_bytes(received)}"] if fetched else []
    if here:
        parts.append(f"{here} here already")
    if failed:
        parts.append(f"{failed} not had")
    return ", ".join(parts) or "there is nothing to get"
