"""``neuromirror verify``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.common import (
    INTERRUPTED,
    HostMessages,
    NamedPath,
    Settings,
    printable,
    settings_options,
)
from neuromirror.model.display import format_bytes
from neuromirror.model.errors import ConfigurationError, NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.crawl import Recorder
    from neuromirror.lab.verify import Finding, Mode
    from neuromirror.model import Digest

_MAX_SHOWN = 20
"""Files that are not here, or not the mirror's, are named up to so many; --json names all."""


@click.command("verify")
@click.argument("target", metavar="LOCK|DIR", type=NamedPath())
@click.option("--remote", is_flag=True, help="Ask all places of all files; download nothing.")
@click.option("--full", is_flag=True, help="Fetch all files from their places; keep nothing.")
@click.option(
    "--in",
    "folder",
    metavar="DIR",
    type=NamedPath(),
    help="Where the datasets of LOCK were restored [default: beside it].",
)
@click.option("--allow-missing", is_flag=True, help="Content that is not here is no failure.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    help="Files at a time [default: one a processor; 8 where places are asked].",
)
@settings_options
def verify_command(
    settings: Settings,
    target: Path,
    *,
    remote: bool,
    full: bool,
    folder: Path | None,
    allow_missing: bool,
    jobs: int | None,
) -> None:
    """Compare bytes with what is pinned.

    LOCK is a file that "neuromirror pin" made: each of its datasets is compared with what it pins.
    DIR is the folder of a dataset, which is compared with its own commit. Commit, tree and state
    digest are computed again in every case. Where commits of your own stand on the mirror's, the
    mirror's files are compared with the mirror's commit, and those that you added are listed apart.

    Without an option all files are read here and hashed. With --remote every place of every file
    is asked for size, checksums and object version, and nothing is downloaded: what a server says
    is "claimed", not checked. With --full files are fetched from the best of their places that
    gives the right bytes, hashed, and not kept. Neither needs content here, and for a LOCK no
    dataset either: the manifest beside it is enough. What places answer goes into the index of the
    store, if there is one.

    Only what is not as it should be is named, and each dataset is summed up; --json has a record
    for each file and place. A file whose key holds no checksum is known by "size" at most, and
    never proved.

    Exit code: 0 all is as it should be, 1 something differs, is missing, or could not be asked,
    2 wrong usage, a LOCK that cannot be used, or a DIR that is no dataset.
    """
    from neuromirror.lab.verify import verify

    if remote and full:
        raise ConfigurationError("--remote and --full are two ways to verify; choose one")
    mode: Mode = "remote" if remote else "full" if full else "local"
    if not target.exists():
        raise ConfigurationError(f"there is no lock or dataset {target}")
    if folder is not None and target.is_dir():
        raise ConfigurationError(f"--in says where datasets of a lock are; {target} is a folder")
    with ExitStack() as stack:
        recorder = stack.enter_context(_recorder(settings)) if mode != "local" else None
        remote_options: dict[str, Any] = {}
        if mode != "local":
            from neuromirror.volume.tokens import token_from_environment

            remote_options = {"token": token_from_environment, "claims": _KnownDigests(recorder)}
        findings = verify(
            target, mode, within=folder, allow_missing=allow_missing, jobs=jobs, **remote_options
        )
        if recorder is not None:
            from neuromirror.transfer.url_health import record_health

            findings = record_health(findings, recorder, datetime.now(UTC))
        try:
            code = _report(settings, _with_progress(findings), mode, str(target))
        except KeyboardInterrupt:
            # not by way of the threads that wait for a server's answer
            click.echo("neuromirror: interrupted", err=True)
            sys.stdout.flush()
            os._exit(INTERRUPTED)
    sys.exit(code)


class _KnownDigests:
    """More checksums of a key's bytes, as far as the store's index has some."""

    def __init__(self, recorder: Recorder | None) -> None:
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
def _recorder(settings: Settings) -> Iterator[Recorder | None]:
    """What records answers in the store, if there is one that can be written."""
    from neuromirror.crawl import open_recorder
    from neuromirror.store import NotAStoreError

    try:
        store = settings.store()
    except NotAStoreError:
        if settings.store_folder != Settings().store_folder:
            raise
        yield None
        return
    with ExitStack() as stack:
        try:
            recorder = stack.enter_context(open_recorder(store, settings.index_path(store)))
        except (OSError, NeuromirrorError) as error:
            warning = f"neuromirror: what places answer is not recorded: {error}"
            click.echo(printable(warning), err=True)
            yield None
            return
        yield recorder


def _with_progress(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Passes findings on, and counts files on stderr where that is a terminal."""
    from tqdm import tqdm

    shape = "{desc}{n_fmt} [{elapsed}, {rate_fmt}]"
    with tqdm(
        disable=None, leave=False, file=sys.stderr, bar_format=shape, desc="verified ", unit=""
    ) as bar:
        for finding in findings:
            bar.update()
            yield finding


@dataclass(slots=True)
class _DatasetSummary:
    """What was found of one dataset, counted."""

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
        if finding.what == "place" and finding.health is not None:
            self.locations[finding.health.value] += 1
        self.missing += _is_absent(finding)
        self.local_changes += finding.what == "own"
        if finding.status != "ok":
            return
        if finding.path == ".":
            self.whole.add(finding.what)
        if finding.what == "place":
            self.stated["nothing" if finding.evidence is None else finding.evidence.value] += 1
        elif finding.what == "document":
            self.documents += 1
        elif finding.what == "file":
            counter = self.checked if finding.checked == "checked" else self.claimed
            counter["other" if finding.evidence is None else finding.evidence.value] += 1
            self.bytes += finding.size or 0

    @property
    def failed(self) -> int:
        return self.statuses["error"] + self.statuses["impossible"]


def _is_absent(finding: Finding) -> bool:
    from neuromirror.lab.verify import NOT_HERE

    return finding.what in ("file", "part") and finding.message.startswith(NOT_HERE)


def _report(settings: Settings, findings: Iterator[Finding], mode: Mode, target: str) -> int:
    """Prints what is not as it should be, sums up each dataset; gives the exit code."""
    code = 0
    summary: _DatasetSummary | None = None
    hosts = HostMessages("verify")
    for finding in findings:
        name = finding.dataset or target
        if summary is None or (summary.name, summary.version) != (name, finding.version):
            code = max(code, _print_summary(settings, summary, mode))
            summary = _DatasetSummary(name, finding.version)
        summary.add(finding)
        news = finding.failed and hosts.is_first(finding)
        line = _finding_line(finding) if news or finding.what == "own" else None
        if _is_absent(finding) and summary.missing > _MAX_SHOWN:
            line = None
        if finding.what == "own" and summary.local_changes > _MAX_SHOWN:
            line = None
        settings.emit("verify", finding.to_json(), line)
    if summary is None:
        settings.print_text(f"{target} pins no dataset")
    hosts.print_counts(settings)
    return max(code, _print_summary(settings, summary, mode))


def _finding_line(finding: Finding) -> str:
    if finding.what == "own":
        return f"{finding.what:<10} {finding.path}  {finding.message}"
    where = finding.host or (finding.path if finding.path != "." else finding.what)
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
        "what": "dataset",
        "status": "error" if failed else "ok",
        "path": ".",
        "dataset": summary.name,
        "version": summary.version,
        "mode": mode,
        "failed": failed,
        "not_here": summary.missing,
        "own": summary.local_changes,
        "documents": summary.documents,
        "files": {"checked": dict(summary.checked), "claimed": dict(summary.claimed)},
        "places": dict(summary.locations),
        "bytes": summary.bytes,
        "message": message,
    }
    settings.emit("verify", record, f"{record['status']:<10} {name}  {message}")
    return 1 if failed else 0


def _summary_text(summary: _DatasetSummary, mode: Mode) -> str:
    parts = []
    if summary.whole >= {"commit", "state"}:
        parts.append("commit and state digest hold")
    if summary.checked:
        breakdown = ", ".join(f"{count} by {label}" for label, count in summary.checked.items())
        how = "fetched and hashed" if mode == "full" else "hashed here"
        parts.append(
            f"{_count(summary.checked, 'file')} {how} ({breakdown}; {format_bytes(summary.bytes)})"
        )
    if summary.claimed:
        breakdown = ", ".join(f"{count} by {label}" for label, count in summary.claimed.items())
        parts.append(f"{_count(summary.claimed, 'file')} not proved ({breakdown})")
    if summary.locations:
        breakdown = ", ".join(f"{count} {label}" for label, count in summary.locations.items())
        what = "asked" if mode == "remote" else "gave no right bytes"
        parts.append(f"{_count(summary.locations, 'place')} {what}: {breakdown}")
    if summary.stated:
        breakdown = ", ".join(f"{count} by {label}" for label, count in summary.stated.items())
        parts.append(f"claimed by the servers, not checked ({breakdown})")
    if summary.missing:
        parts.append(f"{summary.missing} not here")
    if summary.local_changes:
        parts.append(
            f"{summary.local_changes} of the clone's own commits, not from the mirror and not "
            f"looked at"
        )
    if summary.failed:
        parts.append(f"{summary.failed} not as pinned, or not to be had")
    return "; ".join(parts) or "no files"


def _count(counts: Counter[str], what: str) -> str:
    count = counts.total()
    return f"1 {what}" if count == 1 else f"{count} {what}s"
