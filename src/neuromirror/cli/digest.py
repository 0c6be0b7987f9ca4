"""``neuromirror digest``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.addresses import may_be_address, resolve_selection
from neuromirror.cli.commands import argument, command, globs_argument, jobs_option
from neuromirror.cli.common import Settings, exit_on_interrupt, settings_options
from neuromirror.cli.outcome_report import OutcomeReport
from neuromirror.cli.progress_line import ProgressLine
from neuromirror.cli.verify import open_results
from neuromirror.model.errors import ConfigurationError, count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.transfer.annex_objects import BlockDigestsRecorder
    from neuromirror.transfer.verified_repository import Item


@command(
    "digest",
    example="""\
neuromirror digest dandi:000027@0.210831.2033
neuromirror digest datasets.lock 'sub-01/**/*.nwb'
neuromirror digest ./clone --piece-size 256KiB""",
)
@argument(
    "target",
    metavar="VERSION|LOCK|DIR",
    help="A version in the store, a lock file, or the folder of a clone, whose content is read.",
)
@globs_argument("Files or folders, as for 'neuromirror pin --path' [default: all].")
@click.option(
    "--piece-size",
    metavar="SIZE",
    help="Size of a piece, a power of two from 16KiB to 64MiB. With small pieces, reading small "
    "parts transfers less, but the block digests are larger [default: 1MiB, 4MiB for files over "
    "4 GiB].",
)
@jobs_option("Number of files read in parallel [default: 8; for DIR the number of processors].")
@click.option("--dry-run", is_flag=True, help="Print which files would be read, and stop.")
@settings_options
def digest_command(
    settings: Settings,
    target: str,
    globs: tuple[str, ...],
    *,
    piece_size: str | None,
    jobs: int | None,
    dry_run: bool,
) -> None:
    """Record block digests of files, to verify parts of a file without the rest.

    Each file is read once, hashed completely and compared with the checksum in its key; the content
    is not kept. Block digests of files in the index are written to the store, all others to your
    own data folder. "neuromirror pin --streamable" copies them beside a lock file. "neuromirror
    verify --full" and "neuromirror get" also record them.
    """
    from neuromirror.lab.digest import check_piece_size
    from neuromirror.transfer.annex_objects import BlockDigestsRecorder

    size = None if piece_size is None else check_piece_size(piece_size)
    with ExitStack() as stack:
        store, journal = stack.enter_context(open_results(settings))
        line = stack.enter_context(ProgressLine())
        report = _Report("digest", settings, line)
        digests = stack.enter_context(BlockDigestsRecorder(store, journal, size, report.show_bytes))
        with exit_on_interrupt(stack):
            if Path(target).is_dir():
                _digest_clone(report, Path(target), globs, digests, jobs, dry_run=dry_run)
            else:
                _digest_remote(report, target, globs, digests, jobs, dry_run=dry_run)
    report.print_summary(is_dry_run=dry_run)
    sys.exit(1 if report.failures else 0)


def _digest_clone(
    report: _Report,
    folder: Path,
    globs: tuple[str, ...],
    digests: BlockDigestsRecorder,
    jobs: int | None,
    *,
    dry_run: bool,
) -> None:
    from neuromirror.lab.digest import digest_clone

    if dry_run:
        raise ConfigurationError("--dry-run is for versions and lock files; leave it out")
    for outcome in digest_clone(folder, globs, digests, jobs=jobs or os.cpu_count() or 1):
        report.add(outcome)


def _digest_remote(
    report: _Report,
    target: str,
    globs: tuple[str, ...],
    digests: BlockDigestsRecorder,
    jobs: int | None,
    *,
    dry_run: bool,
) -> None:
    from neuromirror.lab.digest import JOBS, plan_digests, planned_outcome, run_digests
    from neuromirror.sources.volumes.tokens import token_from_environment

    with _selected_files(report.settings, target, globs) as (files, folder):
        plan = plan_digests(files, folder, digests)
    report.small, report.total = plan.small, plan.bytes
    for outcome in plan.known:
        report.add(outcome)
    if dry_run:
        for dataset, version, file in plan.files:
            report.add(planned_outcome(dataset, version, file))
        return
    for outcome in run_digests(plan, digests, jobs=jobs or JOBS, token=token_from_environment):
        report.add(outcome)


@contextmanager
def _selected_files(
    settings: Settings, target: str, globs: tuple[str, ...]
) -> Iterator[tuple[Iterator[tuple[str, str, Item]], Path]]:
    """Provide the files of a lock file or of a version, and the folder with the git configuration.

    A file has its dataset and label; a finding about the records or the manifest may replace it.
    """
    from neuromirror.lab.digest import files_of_lock, files_of_version
    from neuromirror.lab.lockfile import load_lock

    path = Path(target)
    if path.is_file() or not may_be_address(target):
        lock = load_lock(path)
        yield files_of_lock(lock, globs), lock.path.absolute().parent
        return
    with settings.index(target) as index:
        row, globs = resolve_selection(settings, index, target, globs)
        store = settings.store()
        yield files_of_version(store, index, row, globs), store.root


class _Report(OutcomeReport):
    """Prints outcomes, and counts them."""

    small: int = 0

    def show_bytes(self, done: int) -> None:
        self.line.show_bytes(done, max(done, self.total))

    def print_summary(self, *, is_dry_run: bool) -> None:
        self.hosts.print_counts(self.action, self.settings)
        verb = "to read" if is_dry_run else "read and digested"
        parts = [f"{count_of(self.counts['ok'], 'file')} {verb} ({format_bytes(self.bytes)})"]
        if known := self.counts["notneeded"]:
            parts.append(f"{count_of(known, 'file')} not read: recorded, not needed or not here")
        if self.small:
            parts.append(f"{count_of(self.small, 'file')} of one piece: nothing to record")
        if self.failures:
            parts.append(f"{count_of(self.failures, 'problem')}")
        record = {
            "kind": "summary",
            "status": "error" if self.failures else "ok",
            "digested": 0 if is_dry_run else self.counts["ok"],
            "planned": self.counts["ok"] if is_dry_run else 0,
            "notneeded": self.counts["notneeded"],
            "small": self.small,
            "failed": self.failures,
            "bytes": self.bytes,
        }
        self.settings.emit("digest", record, "; ".join(parts))
