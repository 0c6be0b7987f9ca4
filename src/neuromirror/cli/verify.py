"""``neuromirror verify``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct, field

from neuromirror.cli.addresses import DEFAULT_LOCK, refuse_address
from neuromirror.cli.commands import argument, command, jobs_option
from neuromirror.cli.common import NamedPath, Settings, exit_on_interrupt, settings_options
from neuromirror.cli.outcome_report import HostMessages
from neuromirror.model.errors import ConfigurationError, count_of, format_bytes

if TYPE_CHECKING:
    from neuromirror.crawl import JournalRecorder
    from neuromirror.lab.verify import Mode
    from neuromirror.model import Digest
    from neuromirror.store import Store
    from neuromirror.transfer.outcomes import Finding

_MAX_SHOWN = 20
"""Maximum number of missing files and of local changes in text output; --json prints all."""


@command(
    "verify",
    example="""\
neuromirror verify datasets.lock --in data
neuromirror verify --remote ./clone""",
)
@argument(
    "target",
    metavar="[LOCK|DIR]",
    type=NamedPath(),
    required=False,
    help="A lock file or its folder, or the folder of a clone "
    "[default: datasets.lock if it exists, else .].",
)
@click.option(
    "--remote",
    is_flag=True,
    help="Ask the servers of all files for sizes and checksums, without downloads.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Download all files again, hash them and discard the downloads; your copies stay.",
)
@click.option(
    "--in",
    "folder",
    metavar="DIR",
    type=NamedPath(),
    help="Folder given to 'restore --into' [default: the folder of LOCK].",
)
@click.option("--allow-missing", is_flag=True, help="Do not count missing content as a failure.")
@jobs_option("Number of files checked in parallel [default: number of processors; 8 for URLs].")
@settings_options
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
            from neuromirror.sources.volumes.tokens import token_from_environment
            from neuromirror.transfer.annex_objects import BlockDigestsRecorder

            store, recorder = stack.enter_context(open_results(settings))
            remote_options = {"token": token_from_environment, "claims": _KnownDigests(recorder)}
            if mode == "full":
                digests = stack.enter_context(BlockDigestsRecorder(store, recorder))
                remote_options["digests"] = digests
        findings = verify(
            target, mode, within=folder, allow_missing=allow_missing, jobs=jobs, **remote_options
        )
        if recorder is not None:
            from neuromirror.transfer.url_health import record_health

            findings = record_health(findings, recorder, datetime.now(UTC))
        with exit_on_interrupt(stack, advice=""):
            try:
                code = _report(settings, _with_progress(findings), mode, str(target))
            except NotADatasetError as error:
                suggestions = nearby_datasets(target)
                raise ConfigurationError(str(error), suggestions=suggestions) from error
    sys.exit(code)


class _KnownDigests:
    """Looks up further checksums of a key in the index of the store."""

    def __init__(self, recorder: JournalRecorder | None) -> None:
        self._recorder = recorder

    def __call__(self, key: str) -> tuple[Digest, ...]:
        from neuromirror.index import Index, MalformedQueryError

        if self._recorder is None:
            return ()

        def digests(index: Index) -> tuple[Digest, ...]:
            try:
                found = next(index.find(key), None)
            except MalformedQueryError:
                return ()
            return () if found is None else found.digests

        return self._recorder.ask(digests)


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


def _with_progress(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings; show their number on stderr if that is a terminal."""
    from tqdm import tqdm

    shape = "{desc}{n_fmt} [{elapsed}, {rate_fmt}]"
    with tqdm(
        disable=None, leave=False, file=sys.stderr, bar_format=shape, desc="verified ", unit=""
    ) as bar:
        for finding in findings:
            bar.update()
            yield finding


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


def _report(settings: Settings, findings: Iterator[Finding], mode: Mode, target: str) -> int:
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
        is_new = finding.failed and hosts.is_first(finding)
        line = _finding_line(finding) if is_new or finding.kind == "local" else None
        if _is_absent(finding) and summary.missing > _MAX_SHOWN:
            line = None
        if finding.kind == "local" and summary.local_changes > _MAX_SHOWN:
            line = None
        settings.emit("verify", finding.to_json(), line)
    if summary is None:
        settings.print_text(f"{target}: the lock file has no pins")
    hosts.print_counts("verify", settings)
    return max(code, _print_summary(settings, summary, mode))


def _finding_line(finding: Finding) -> str:
    if finding.kind == "local":
        return f"{finding.kind:<10} {finding.path}  {finding.message}"
    where = finding.host or (finding.path if finding.path != "." else finding.kind)
    location = f" ({finding.url})" if _needs_url(finding) else ""
    return f"{finding.status:<10} {where}  {finding.message}{location}"


def _needs_url(finding: Finding) -> bool:
    url = finding.url
    return url is not None and finding.host is None and url not in finding.message


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
    parts = []
    if summary.whole >= {"commit", "state"}:
        parts.append("commit and state digest verified")
    if summary.checked:
        breakdown = ", ".join(f"{count} by {label}" for label, count in summary.checked.items())
        how = "downloaded and hashed" if mode == "full" else "hashed"
        files = count_of(summary.checked.total(), "file")
        parts.append(f"{files} {how} ({breakdown}; {format_bytes(summary.bytes)})")
    if summary.claimed:
        breakdown = ", ".join(f"{count} by {label}" for label, count in summary.claimed.items())
        parts.append(f"{count_of(summary.claimed.total(), 'file')} without checksum ({breakdown})")
    if summary.locations:
        breakdown = ", ".join(f"{count} {label}" for label, count in summary.locations.items())
        what = "checked" if mode == "remote" else "without the right content"
        parts.append(f"{count_of(summary.locations.total(), 'URL')} {what}: {breakdown}")
    if summary.stated:
        breakdown = ", ".join(f"{count} by {label}" for label, count in summary.stated.items())
        parts.append(f"evidence claimed by the servers ({breakdown})")
    if summary.missing:
        parts.append(f"{summary.missing} missing")
    if summary.local_changes:
        parts.append(
            f"{summary.local_changes} local changes, from commits of the clone, not checked"
        )
    if summary.failed:
        parts.append(f"{summary.failed} differ from the pin or are unavailable")
    return "; ".join(parts) or "no files"
