"""Commands that restore and check content: restore, verify, digest and audit."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct, field

from neuromirror.cli import commands as cli
from neuromirror.cli.addresses import (
    DEFAULT_LOCK,
    may_be_address,
    refuse_address,
    resolve_selection,
)
from neuromirror.cli.common import (
    HostMessages,
    NamedPath,
    OutcomeReport,
    ProgressLine,
    Settings,
    exit_on_interrupt,
    printable,
    progress_bar,
    step_line,
)
from neuromirror.model.errors import ConfigurationError, count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.crawl import JournalRecorder
    from neuromirror.lab.digest import DigestOutcome
    from neuromirror.lab.verify import Mode
    from neuromirror.model import Digest
    from neuromirror.store import Store
    from neuromirror.transfer.outcomes import Finding
    from neuromirror.transfer.verified_repository import Item


@cli.command("restore", example="neuromirror restore datasets.lock --into data")
@cli.argument(
    "lock",
    type=NamedPath(),
    default=DEFAULT_LOCK,
    metavar="[LOCK]",
    help='A lock file written by "neuromirror pin", or its folder [default: datasets.lock].',
)
@cli.path_option(
    "--into DIR", "Folder for the datasets, required; it is created if it does not exist."
)
@cli.repeatable(
    "--clone clones URL", "Additional URL to clone from, as for 'neuromirror pin --clone'."
)
@cli.repeatable(
    "--copies LOCATION",
    "Vault with copies of the content, in addition to those that the lock file names: its "
    "folder, the URL of its folder, or s3://BUCKET/PREFIX.",
)
@cli.flag(
    "--copies-only",
    "Use only vaults and the files beside the lock file: neither upstream nor the mirror.",
)
@cli.flag(
    "--offline",
    "Send no request: restore the repositories from the store or the files beside the lock "
    "file, without file content.",
)
@cli.jobs_option("Number of files fetched in parallel [default: 32].", most=None)
@cli.settings_options
def restore_command(
    settings: Settings,
    lock: Path,
    into: Path | None,
    clones: tuple[str, ...],
    copies: tuple[str, ...],
    jobs: int | None,
    *,
    copies_only: bool,
    offline: bool,
) -> None:
    """Restore the datasets of a lock file, with their content.

    Each dataset becomes DIR/<mirror>--<id>, a DataLad dataset at the pinned commit, from the first
    of these that has it: the store, the clone URLs of the lock file, those of --clone, the bundle,
    the manifest alone. Commit, tree and state digest are checked. Content that upstream no longer
    has comes from the vaults that the lock file names, from your own ($NEUROMIRROR_VAULTS, else
    ./vaults without endpoints), and from --copies. With --offline the content is neither fetched
    nor checked. Existing files are kept: run the command again to continue after a failure.
    """
    from neuromirror.lab import Tally
    from neuromirror.lab.lockfile import load_lock, parse_location
    from neuromirror.lab.restore import restore
    from neuromirror.transfer import JOBS
    from neuromirror.vault.own_vaults import own_vaults

    refuse_address(lock, "a lock file", "pin")
    found = load_lock(lock / DEFAULT_LOCK if lock.is_dir() else lock)
    if into is None:
        raise ConfigurationError(
            "--into is missing: name a folder for the datasets, for example --into data"
        )
    store = settings.store_if_any()
    own = own_vaults()
    vaults = [*(parse_location(copy) for copy in copies), *own.addresses]
    counted = Tally()
    hosts = HostMessages()
    with step_line("restoring") as progress:
        for outcome in restore(
            found,
            into,
            store,
            clones=clones,
            offline=offline,
            vaults=vaults,
            copies_only=copies_only,
            jobs=jobs or JOBS,
            progress=progress,
        ):
            counted.add(outcome)
            is_new = outcome.failed and hosts.is_first(outcome)
            shown = is_new or outcome.action == "restore"
            line = f"{outcome.status:<10} {outcome.path}  {outcome.message}" if shown else None
            settings.emit(outcome.action, outcome.to_json(), line)
    hosts.print_counts("get", settings)
    for message in own.unused if counted.exit_code else ():
        click.echo(printable(f"neuromirror: {message}"), err=True)
    sys.exit(counted.exit_code)


_MAX_SHOWN = 20
"""Maximum number of missing files and of local changes in text output; --json prints all."""


@cli.command(
    "verify",
    example="""\
neuromirror verify datasets.lock --in data
neuromirror verify --remote ./clone""",
)
@cli.argument(
    "target",
    metavar="[LOCK|DIR]",
    type=NamedPath(),
    required=False,
    help="A lock file or its folder, or the folder of a clone "
    "[default: datasets.lock if it exists, else .].",
)
@cli.flag("--remote", "Ask the servers of all files for sizes and checksums, without downloads.")
@cli.flag(
    "--full", "Download all files again, hash them and discard the downloads; your copies stay."
)
@cli.path_option(
    "--in folder DIR",
    "Folder given to 'restore --into' [default: the folder of LOCK, or the one in it that has the "
    "dataset].",
)
@cli.flag("--allow-missing", "Do not count missing content as a failure.")
@cli.jobs_option("Number of files checked in parallel [default: number of processors; 8 for URLs].")
@cli.settings_options
def verify_command(
    settings: Settings,
    target: Path | None,
    *,
    remote: bool,
    full: bool,
    folder: Path | None,
    allow_missing: bool,
    jobs: int | None,
) -> None:
    """Hash local files and compare them with a lock file or commit; missing content is a failure.

    Each dataset of a lock file is compared with its pin, the dataset in DIR with its own commit (or
    the mirror's, if commits of your own follow it). Commit, tree and state digest are always
    computed again. A folder without a git repository is compared with the manifest beside the lock
    file. A file whose key has no checksum can be compared by its size only.

    By default all files are read and hashed. --remote asks every URL for size, checksums and object
    version, which are "claimed", and downloads nothing. --full downloads each file from the first
    URL that delivers the right content, hashes it, and keeps nothing. Both need only the lock file
    and its manifest, and record the replies in the index, if there is a store.
    """
    from neuromirror.lab.lockfile import nearby_datasets, similar_paths
    from neuromirror.lab.verify import verify
    from neuromirror.transfer.verified_repository import NotADatasetError

    if remote and full:
        raise ConfigurationError("--remote and --full cannot be used together; use one of them")
    if target is None:
        target = DEFAULT_LOCK if DEFAULT_LOCK.is_file() else Path()
    elif (target / DEFAULT_LOCK).is_file() and not (target / ".git").exists():
        target = target / DEFAULT_LOCK
    mode: Mode = "remote" if remote else "full" if full else "local"
    if not target.exists():
        refuse_address(target, "a lock file or the folder of a clone", "clone", "pin")
        raise ConfigurationError(
            f"{target}: no such file or folder; specify a lock file or the folder of a clone",
            suggestions=similar_paths(target),
        )
    if folder is not None and target.is_dir():
        raise ConfigurationError(
            f"--in is for lock files, but {target} is a folder; leave out --in"
        )
    with ExitStack() as stack:
        recorder = None
        remote_options: dict[str, Any] = {}
        if mode != "local":
            from neuromirror.sources.volumes.urls import token_from_environment
            from neuromirror.transfer.annex_objects import BlockDigestsRecorder

            store, recorder = stack.enter_context(open_results(settings))
            remote_options = {
                "token": token_from_environment,
                "claims": partial(_known_digests, recorder),
            }
            if mode == "full":
                digests = stack.enter_context(BlockDigestsRecorder(store, recorder))
                remote_options["digests"] = digests
        findings = verify(
            *(target, mode),
            within=folder,
            allow_missing=allow_missing,
            jobs=jobs,
            store=settings.store_if_any(),
            **remote_options,
        )
        if recorder is not None:
            from neuromirror.transfer.url_health import record_health

            findings = record_health(findings, recorder, datetime.now(UTC))
        with exit_on_interrupt(stack, advice=""):
            try:
                shape = "{desc}{n_fmt} [{elapsed}, {rate_fmt}]"
                shown = progress_bar(findings, bar_format=shape, desc="verified ", unit="")
                code = _report(settings, shown, mode, str(target))
            except NotADatasetError as error:
                suggestions = nearby_datasets(target)
                raise ConfigurationError(str(error), suggestions=suggestions) from error
    sys.exit(code)


def _known_digests(recorder: JournalRecorder | None, key: str) -> tuple[Digest, ...]:
    """Look up further checksums of a key in the index of the store."""
    from neuromirror.index import MalformedQueryError

    if recorder is None:
        return ()
    with suppress(MalformedQueryError):
        found = recorder.ask(lambda index: next(index.files.find(key), None))
        return () if found is None else found.digests
    return ()


@contextmanager
def open_results(settings: Settings) -> Iterator[tuple[Store | None, JournalRecorder | None]]:
    """Open the store, and a recorder for results; each is None if it is missing or unwritable."""
    from neuromirror.store import NotAStoreError

    try:
        store = settings.store()
    except NotAStoreError:
        if settings.given_store is not None and settings.store_folder != Path("store"):
            raise
        yield None, None
        return
    with settings.recorder(store, "the results are") as recorder:
        yield store, recorder


class _DatasetSummary(Struct):
    """Counts of the findings in one dataset."""

    name: str
    version: str | None
    statuses: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    claimed: Counter[str] = field(default_factory=Counter)
    locations: Counter[str] = field(default_factory=Counter)
    stated: Counter[str] = field(default_factory=Counter)
    whole: set[str] = field(default_factory=set)
    documents: int = 0
    bytes: int = 0
    missing: int = 0
    local_changes: int = 0

    def add(self, finding: Finding) -> None:
        self.statuses[finding.status] += 1
        if finding.kind == "url" and finding.health is not None:
            self.locations[finding.health.value] += 1
        self.missing += _is_absent(finding)
        self.local_changes += finding.kind == "local"
        if finding.status != "ok":
            return
        if finding.path == ".":
            self.whole.add(finding.kind)
        if finding.kind == "url":
            self.stated["nothing" if finding.evidence is None else finding.evidence.value] += 1
        elif finding.kind == "document":
            self.documents += 1
        elif finding.kind == "file":
            counter = self.checked if finding.checked == "checked" else self.claimed
            counter["other" if finding.evidence is None else finding.evidence.value] += 1
            self.bytes += finding.size or 0

    @property
    def failed(self) -> int:
        return self.statuses["error"] + self.statuses["impossible"]


def _is_absent(finding: Finding) -> bool:
    from neuromirror.transfer.outcomes import NOT_HERE

    return finding.kind in ("file", "subdataset") and finding.message.startswith(NOT_HERE)


def _report(settings: Settings, findings: Iterable[Finding], mode: Mode, target: str) -> int:
    """Print the problems and a summary of each dataset; return the exit code."""
    code = 0
    summary: _DatasetSummary | None = None
    hosts = HostMessages()
    for finding in findings:
        name = finding.dataset or target
        if summary is None or (summary.name, summary.version) != (name, finding.version):
            code = max(code, _print_summary(settings, summary, mode))
            summary = _DatasetSummary(name, finding.version)
        summary.add(finding)
        is_shown = (finding.failed and hosts.is_first(finding)) or finding.kind == "local"
        if (_is_absent(finding) and summary.missing > _MAX_SHOWN) or (
            finding.kind == "local" and summary.local_changes > _MAX_SHOWN
        ):
            is_shown = False
        settings.emit("verify", finding.to_json(), _finding_line(finding) if is_shown else None)
    if summary is None:
        settings.print_text(f"{target}: the lock file has no pins")
    hosts.print_counts("verify", settings)
    return max(code, _print_summary(settings, summary, mode))


def _finding_line(finding: Finding) -> str:
    if finding.kind == "local":
        return f"{finding.kind:<10} {finding.path}  {finding.message}"
    where = finding.host or (finding.path if finding.path != "." else finding.kind)
    url = finding.url
    needs_url = url is not None and finding.host is None and url not in finding.message
    return f"{finding.status:<10} {where}  {finding.message}" + (f" ({url})" if needs_url else "")


def _print_summary(settings: Settings, summary: _DatasetSummary | None, mode: Mode) -> int:
    if summary is None:
        return 0
    failed = summary.failed
    name = summary.name if summary.version is None else f"{summary.name}@{summary.version}"
    message = _summary_text(summary, mode)
    record = {
        "kind": "dataset",
        "status": "error" if failed else "ok",
        "path": ".",
        "dataset": summary.name,
        "version": summary.version,
        "mode": mode,
        "failed": failed,
        "missing": summary.missing,
        "local_changes": summary.local_changes,
        "documents": summary.documents,
        "files": {"checked": dict(summary.checked), "claimed": dict(summary.claimed)},
        "location_health": dict(summary.locations),
        "bytes": summary.bytes,
        "message": message,
    }
    settings.emit("verify", record, f"{record['status']:<10} {name}  {message}")
    return 1 if failed else 0


def _summary_text(summary: _DatasetSummary, mode: Mode) -> str:
    def by(counts: Counter[str]) -> str:
        return ", ".join(f"{count} by {label}" for label, count in counts.items())

    how = "downloaded and hashed" if mode == "full" else "hashed"
    files = count_of(summary.checked.total(), "file")
    unchecked = count_of(summary.claimed.total(), "file")
    urls = count_of(summary.locations.total(), "URL")
    what = "checked" if mode == "remote" else "without the right content"
    health = ", ".join(f"{count} {label}" for label, count in summary.locations.items())
    parts = {
        "commit and state digest verified": summary.whole >= {"commit", "state"},
        f"{files} {how} ({by(summary.checked)}; {format_bytes(summary.bytes)})": summary.checked,
        f"{unchecked} without checksum ({by(summary.claimed)})": summary.claimed,
        f"{urls} {what}: {health}": summary.locations,
        f"evidence claimed by the servers ({by(summary.stated)})": summary.stated,
        f"{summary.missing} missing": summary.missing,
        f"{summary.local_changes} local changes, from commits of the clone, not checked": (
            summary.local_changes
        ),
        f"{summary.failed} differ from the pin or are unavailable": summary.failed,
    }
    return "; ".join(text for text, applies in parts.items() if applies) or "no files"


@cli.command(
    "digest",
    example="""\
neuromirror digest dandi:000027@0.210831.2033
neuromirror digest datasets.lock 'sub-01/**/*.nwb'
neuromirror digest ./clone --piece-size 256KiB""",
)
@cli.argument(
    "target",
    metavar="VERSION|LOCK|DIR",
    help="A version in the store, a lock file, or the folder of a clone, whose content is read.",
)
@cli.globs_argument("Files or folders, as for 'neuromirror pin --path' [default: all].")
@cli.option(
    "--piece-size SIZE",
    "Size of a piece, a power of two from 16KiB to 64MiB. With small pieces, reading small "
    "parts transfers less, but the block digests are larger [default: 1MiB, 4MiB for files over "
    "4 GiB].",
)
@cli.jobs_option("Number of files read in parallel [default: 8; for DIR the number of processors].")
@cli.flag("--dry-run", "Print which files would be read, and stop.")
@cli.settings_options
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
    from neuromirror.lab.digest import (
        JOBS,
        check_piece_size,
        digest_clone,
        plan_digests,
        planned_outcome,
        run_digests,
    )
    from neuromirror.sources.volumes.urls import token_from_environment
    from neuromirror.transfer.annex_objects import BlockDigestsRecorder

    size = None if piece_size is None else check_piece_size(piece_size)
    with ExitStack() as stack:
        store, journal = stack.enter_context(open_results(settings))
        line = stack.enter_context(ProgressLine())
        report = _Report("digest", settings, line)
        digests = stack.enter_context(BlockDigestsRecorder(store, journal, size, report.show_bytes))
        with exit_on_interrupt(stack):
            outcomes: Iterable[DigestOutcome]
            if not Path(target).is_dir():
                with _selected_files(settings, target, globs) as files:
                    plan = plan_digests(files, digests)
                report.small, report.total = plan.small, plan.bytes
                options: dict[str, Any] = {"jobs": jobs or JOBS, "token": token_from_environment}
                planned = (planned_outcome(*file) for file in plan.files)
                done = planned if dry_run else run_digests(plan, digests, **options)
                outcomes = chain(plan.known, done)
            elif dry_run:
                raise ConfigurationError("--dry-run is for versions and lock files; leave it out")
            else:
                count = jobs or os.cpu_count() or 1
                outcomes = digest_clone(Path(target), globs, digests, jobs=count)
            for outcome in outcomes:
                report.add(outcome)
    report.print_summary(is_dry_run=dry_run)
    sys.exit(1 if report.failures else 0)


@contextmanager
def _selected_files(
    settings: Settings, target: str, globs: tuple[str, ...]
) -> Iterator[Iterator[tuple[str, str, Item]]]:
    """Provide the files of a lock file or of a version.

    A file has its dataset and label; a finding about the records or the manifest may replace it.
    """
    from neuromirror.lab.digest import files_of_lock, files_of_version
    from neuromirror.lab.lockfile import load_lock

    path = Path(target)
    if path.is_file() or not may_be_address(target):
        lock = load_lock(path)
        yield files_of_lock(lock, globs)
        return
    with settings.index(target) as index:
        row, globs = resolve_selection(settings, index, target, globs)
        store = settings.store()
        yield files_of_version(store, index, row, globs)


class _Report(OutcomeReport):
    """Prints outcomes, and counts them."""

    small: int = 0

    def show_bytes(self, done: int) -> None:
        self.line.show_bytes(done, max(done, self.total))

    def print_summary(self, *, is_dry_run: bool) -> None:
        verb, others = "to read" if is_dry_run else "read and digested", []
        if known := self.counts["notneeded"]:
            others.append(f"{count_of(known, 'file')} not read: recorded, not needed or not here")
        if self.small:
            others.append(f"{count_of(self.small, 'file')} of one piece: nothing to record")
        text = f"{count_of(self.counts['ok'], 'file')} {verb}"
        self.print_totals("digested", text, others, is_dry_run=is_dry_run, small=self.small)


@cli.command("audit", example="neuromirror audit dandi --budget 5000")
@cli.many(
    "names",
    "[MIRROR | DATASET]...",
    "Mirrors (dandi) or datasets (dandi:000027) to choose URLs from [default: all].",
)
@cli.option(
    "--budget N",
    "Maximum number of URLs to check; the next run checks the next ones.",
    type=click.IntRange(min=1),
    default=1000,
)
@cli.option(
    "--older-than DAYS",
    "Check only URLs that have not been checked for this many days.",
    type=click.FloatRange(min=0),
    default=30,
)
@cli.settings_options
def audit_command(
    settings: Settings, names: tuple[str, ...], *, budget: int, older_than: float
) -> None:
    """Check that the URLs of files still have the recorded content.

    Nothing is downloaded: size, checksum and object version are requested, those with the oldest
    check first, at most ten per second and server. 'neuromirror vault check' checks vaults.
    """
    from datetime import timedelta

    from neuromirror.config.mirror_files import load_known_mirrors
    from neuromirror.crawl import FailureLog, open_recorder
    from neuromirror.crawl.recorder import AUDIT
    from neuromirror.lab.audit import audit
    from neuromirror.service.housekeeping import audit_settings_of

    store = settings.store()
    # a given folder is optional here; the files have the request limits of their archives
    mirrors = load_known_mirrors(settings.mirrors_folder).values()
    counts: Counter[str] = Counter()
    failed = named = 0
    hosts = HostMessages()
    with (
        open_recorder(store, settings.index_path(store)) as recorder,
        FailureLog(recorder).watch(AUDIT),
    ):
        asking = audit(
            recorder,
            names or ("",),
            budget=budget,
            older_than=timedelta(days=older_than),
            settings=audit_settings_of(store, mirrors),
            now=datetime.now(UTC),
        )
        with closing(asking) as findings:
            for finding in progress_bar(findings, total=budget, unit=" URLs"):
                counts[finding.health.value if finding.health else "unknown"] += 1
                failed += finding.failed
                is_shown = finding.failed and hosts.is_first(finding)
                if finding.host is None:
                    line = f"{finding.dataset} {finding.path}  {finding.message} ({finding.url})"
                    named += is_shown
                    is_shown = is_shown and named <= _MAX_SHOWN
                else:
                    line = f"{finding.host}  {finding.message}"
                line = f"{finding.status:<10} {line}"
                settings.emit("audit", finding.to_json(), line if is_shown else None)
    hosts.print_counts("audit", settings)
    if named > _MAX_SHOWN:
        settings.print_text(f"… and {named - _MAX_SHOWN} more (--json lists all)")
    summary = ", ".join(f"{count} {health}" for health, count in sorted(counts.items()))
    settings.print_text(f"{counts.total()} URLs checked" + (f": {summary}" if summary else ""))
    sys.exit(1 if failed else 0)
