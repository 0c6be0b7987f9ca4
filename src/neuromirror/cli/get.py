"""``neuromirror get``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from neuromirror.cli.addresses import may_be_address
from neuromirror.cli.commands import argument, command, jobs_option
from neuromirror.cli.common import NamedPath, Settings, printable, settings_options
from neuromirror.cli.outcome_report import HostMessages, outcome_text
from neuromirror.cli.progress_line import ProgressLine
from neuromirror.model.errors import ConfigurationError, UnknownAddressError, format_bytes

if TYPE_CHECKING:
    from neuromirror.lab import Outcome, Tally

_MAX_SHOWN: Final = 20
"""Maximum number of files with the same message in text output; --json prints all."""


@command(
    "get",
    example="""\
neuromirror get sub-01
neuromirror get -r -J 64 .
neuromirror get dandi://dandi/000027@draft/sub-RAT123/ --into rats""",
)
@argument(
    "paths",
    nargs=-1,
    type=NamedPath(path_type=str),
    metavar="[PATH | ADDRESS]...",
    help="Files or folders of a clone [default: the current folder], or the address of a version.",
)
@click.option("-r", "--recursive", is_flag=True, help="Get the files of subdatasets too.")
@jobs_option("Number of files fetched in parallel [default: 32].", "-J", most=256)
@click.option(
    "--into",
    "output",
    type=NamedPath(),
    metavar="DIR",
    help="For an ADDRESS: folder for the files [default: the last part of the id of the dataset].",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="For an ADDRESS: replace existing files with different content [default: an error].",
)
@click.option(
    "--trust-config",
    is_flag=True,
    help="Trust the configuration and hooks of this repository, which may run programs.",
)
@settings_options
def get_command(
    settings: Settings,
    paths: tuple[str, ...],
    jobs: int | None,
    output: Path | None,
    *,
    recursive: bool,
    overwrite: bool,
    trust_config: bool,
) -> None:
    """Get the content of files in a clone, or the files of a version without a clone.

    A PATH that does not exist and is an address (a name, identifier, DOI or URL) names a version,
    which is mirrored first if the store lacks it. Its files are put into a folder as plain files.
    Existing files are hashed and kept; those with different content are errors, or replaced with
    --overwrite.

    The clone can be of any git-annex dataset. The URLs of each file are tried in order; wrong
    content is discarded. Files are stored and recorded as by git-annex, which itself gets those
    without a usable URL. Interrupted downloads of large files are resumed. A repository that was
    received as files, not cloned, is refused if its configuration or hooks run programs.
    """
    from neuromirror.transfer import JOBS, get

    here = Path.cwd()
    is_outside = not _is_in_repository(here) and not any(map(os.path.lexists, paths))
    needs_address = output is not None or overwrite
    addresses = [
        text
        for text in paths
        if not os.path.lexists(text)
        and (
            needs_address
            or ((may_be_address(text) or is_outside) and not _is_below_folder_of_clone(text))
        )
    ]
    if addresses and len(addresses) == len(paths):
        from neuromirror.cli.clone import get_address

        try:
            codes = [
                get_address(settings, text, output, jobs, overwrite=overwrite) for text in addresses
            ]
        except UnknownAddressError as error:
            if needs_address or may_be_address(addresses[0]):
                raise
            # it may have been the path of a file in a clone
            raise UnknownAddressError(
                f"{here} is not inside a clone of a dataset, and {error.problem}", error.suggestions
            ) from error
        sys.exit(max(codes))
    if addresses and not needs_address:
        raise ConfigurationError(
            f"{addresses[0]} does not exist and looks like an address; "
            "use either addresses or paths of a clone"
        )
    if needs_address:
        option = "--overwrite" if output is None else "--into"
        raise ConfigurationError(
            f"{option} is for addresses; paths of a clone are fetched in place"
        )
    chosen = [here / path for path in paths] or [here]
    start = here
    if not _is_in_repository(here):
        # a path can lead into a clone from outside
        start = chosen[0] if chosen[0].is_dir() else chosen[0].parent
    with ProgressLine() as line:
        code = print_outcomes(
            settings,
            "get",
            lambda progress: get(
                start,
                chosen,
                recursive=recursive,
                jobs=jobs or JOBS,
                trust_config=trust_config,
                progress=progress,
            ),
            line,
        )
    sys.exit(code)


def _is_below_folder_of_clone(text: str) -> bool:
    """Return whether a missing path is below a folder of a clone, such as a missing subdataset."""
    folder = next(one for one in Path(text).parents if one.exists())
    return folder != Path() and _is_in_repository(folder.absolute())


def _is_in_repository(folder: Path) -> bool:
    return any((one / ".git").exists() for one in (folder, *folder.parents))


def print_outcomes(
    settings: Settings,
    action: str,
    outcomes: Callable[[Callable[[int, int], None]], Iterator[Outcome]],
    line: ProgressLine,
) -> int:
    """Print the outcomes of files, with their progress; return the exit code."""
    from neuromirror.lab import Tally
    from neuromirror.transfer.clone_get import IN_GIT

    counted = Tally()
    received = in_git = 0
    hosts = HostMessages()
    same: Counter[str] = Counter()
    for outcome in outcomes(line.show_bytes):
        counted.add(outcome)
        received += (outcome.size or 0) * (outcome.status == "ok")
        in_git += outcome.message == IN_GIT
        shown = outcome.status != "notneeded" and hosts.is_first(outcome)
        if outcome.failed and outcome.host is None:
            same[outcome.message] += 1
            shown = same[outcome.message] <= _MAX_SHOWN
        record = {**outcome.to_json(), "action": action}
        with line.paused():
            settings.emit(action, record, _outcome_line(outcome) if shown else None)
    line.close()
    hosts.print_counts(action, settings)
    for message, count in same.items():
        if count > _MAX_SHOWN:
            more = f"error      {count - _MAX_SHOWN} more files  {message}"
            click.echo(printable(more), err=True)
    settings.print_text(_summary(counted, received, in_git))
    return counted.exit_code


def _outcome_line(outcome: Outcome) -> str:
    if outcome.failed:
        return f"{outcome.status:<10} {outcome_text(outcome)}"
    size = "" if outcome.size is None else f"  {format_bytes(outcome.size)}"
    evidence = f"  {outcome.evidence}" if outcome.checked == "checked" and outcome.evidence else ""
    return f"{outcome.status:<10} {outcome.path}{size}{evidence}"


def _summary(counted: Tally, received: int, in_git: int) -> str:
    fetched, present = counted.statuses["ok"], counted.statuses["notneeded"] - in_git
    failed = counted.statuses["error"] + counted.statuses["impossible"]
    parts = [f"{fetched} fetched, {format_bytes(received)}"] if fetched else []
    if present:
        parts.append(f"{present} already present")
    if in_git:
        parts.append(f"{in_git} already present, in git")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts) or "no annexed files to get; files in git are in each clone"
