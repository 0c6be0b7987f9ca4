"""Housekeeping tasks of a service, run in time slices between visits.

Each task continues where its last slice ended; see :mod:`neuromirror.service.integrity`. A slice
ends soon after its time limit: one repository, one table or one response is never interrupted. A
task that finds damage raises an error that names the damage and the remedy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.config.sibling_files import load_siblings
from neuromirror.crawl import FailureLog, JournalRecorder, Mirror
from neuromirror.crawl.plan import describe_unexpected
from neuromirror.crawl.recorder import record_housekeeping
from neuromirror.index import Index, Schedule, TaskRow
from neuromirror.lab import audit
from neuromirror.lab.audit import AuditSettings
from neuromirror.model import NeuromirrorError
from neuromirror.net import is_local_name
from neuromirror.publish import publish, record_outcome, sibling_datasets
from neuromirror.service.backup import DEFAULT_GENERATIONS, back_up
from neuromirror.service.custody_tasks import run_keeps
from neuromirror.service.integrity import IntegrityState, check_integrity
from neuromirror.service.logs import log_event
from neuromirror.service.scheduling import jitter
from neuromirror.sources.volumes.urls import token_from_environment
from neuromirror.store import Store, run_housekeeping
from neuromirror.store.store import TaskState
from neuromirror.transfer.annex_branch import AnnexSettings

if TYPE_CHECKING:
    from neuromirror.service.metrics import Metrics

# --- tasks

HOUR, DAY = 3600.0, 86_400.0

_NAMED = 3
_LOOPBACK = ("127.0.0.1", "::1")


class HousekeepingError(NeuromirrorError):
    """A housekeeping task found damage or failed in part; the rest of its work is done.

    The failures are recorded with their datasets, or in :class:`IntegrityState`.
    """


class HousekeepingTask(Struct, frozen=True):
    """A recurring task: its name, its interval in seconds, and the function that runs it.

    ``run`` returns a one-line summary, or raises NeuromirrorError or OSError if the task fails.
    """

    name: str
    interval: float
    run: Callable[[], str]


class HousekeepingSettings(Struct, frozen=True):
    """Settings of the housekeeping tasks.

    ``seconds`` is the time after which a task stops and continues at its next turn.
    ``backup_folder`` receives the backups (None: no backups), of which the last
    ``backup_generations`` are kept. A location is probed again after ``audit_days`` (0: never),
    with ``audit_settings`` (None: see :func:`audit_settings_of`). Datasets are published to the
    siblings whose files are in ``siblings_folder`` (None: to none). Lock files are kept in vaults
    as ``keep.toml`` in ``vaults_folder`` says (None: none).
    """

    seconds: float = 60.0
    backup_folder: Path | None = None
    backup_generations: int = DEFAULT_GENERATIONS
    audit_days: float = 30.0
    audit_settings: AuditSettings | None = None
    siblings_folder: Path | None = None
    vaults_folder: Path | None = None


def housekeeping_tasks(
    store: Store,
    index_path: Path,
    recorder: JournalRecorder,
    schedule: Schedule,
    settings: HousekeepingSettings | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
    mirrors: Callable[[], Iterable[Mirror]] = tuple,
) -> list[HousekeepingTask]:
    """Return the housekeeping tasks of a store.

    Parameters
    ----------
    store, index_path, recorder, schedule
        The store, with its index, recorder and schedule.
    settings
        The settings; None for the defaults.
    is_stopping
        Ends a running slice early when it returns true.
    mirrors
        Returns the served mirrors, whose settings limit the requests of the audit.
    """
    settings = settings or HousekeepingSettings()
    log, until = FailureLog(recorder), (settings.seconds, is_stopping)
    tasks = {
        "housekeeping": (HOUR, partial(_housekeeping, store, log, *until)),
        "integrity": (HOUR, partial(_integrity, store, index_path, *until)),
    }
    if settings.backup_folder is not None:
        tasks["backup"] = (
            DAY,
            partial(_backup, store, index_path, settings.backup_folder, settings),
        )
    if settings.siblings_folder is not None:
        publish_changed = partial(
            _publish, store, index_path, log, settings.siblings_folder, *until
        )
        tasks["publish"] = (HOUR, publish_changed)
    if settings.vaults_folder is not None:
        keep = partial(run_keeps, store, index_path, settings.vaults_folder, *until)
        tasks["keep"] = (HOUR, keep)
    if settings.audit_days:
        tasks["audit"] = (
            HOUR / 4,
            partial(_audit, recorder, settings, store, mirrors, is_stopping),
        )
    return [HousekeepingTask(name, interval, run) for name, (interval, run) in tasks.items()]


class _RepackState(TaskState):
    """The repository that was checked last; empty at the end of a pass."""

    task = "housekeeping"
    alias: str = ""


def _housekeeping(
    store: Store, log: FailureLog, seconds: float, is_stopping: Callable[[], bool]
) -> str:
    """Repack the repositories that come next."""
    until = time.monotonic() + seconds
    state = _RepackState.load(store)
    aliases = [alias for alias, _ in store.repositories.aliases() if alias > state.alias]
    done, changed, freed, failed = 0, 0, 0, []
    for kept in run_housekeeping(store, aliases):
        record_housekeeping(log, kept)
        done, state.alias = done + 1, kept.alias
        changed += kept.status == "ok"
        freed += kept.bytes_before - kept.bytes_after
        if kept.status == "error":
            failed.append(kept.message)
        if is_stopping() or time.monotonic() >= until:
            break
    else:
        state.alias = ""
    state.save(store)
    summary = f"{done} repositories checked, {changed} changed, {max(0, freed):,} bytes freed"
    return _summary_or_error(summary if state.alias else f"{summary}; pass complete", failed)


def _integrity(
    store: Store, index_path: Path, seconds: float, is_stopping: Callable[[], bool]
) -> str:
    """Check the next items; earlier damage stays a failure until a check finds none."""
    count, unchecked = 0, []
    with closing(
        check_integrity(store, index_path, seconds=seconds, git_seconds=seconds)
    ) as results:
        for checked in results:
            count += checked.status == "ok"
            if checked.status == "impossible":
                unchecked.append(checked.message)
            if is_stopping():
                break
    known = IntegrityState.load(store)
    summary = f"{count} items intact"
    if unchecked:
        summary += f"; not checked: {'; '.join(unchecked[:_NAMED])}"
    elif not known.position.alias:
        summary += "; pass complete"
    return _summary_or_error(summary, known.messages)


def _backup(store: Store, index_path: Path, folder: Path, settings: HousekeepingSettings) -> str:
    made = back_up(store, index_path, folder, settings.backup_generations)
    return f"{made.folder.name}: {made.bytes:,} bytes"


def _publish(
    store: Store,
    index_path: Path,
    log: FailureLog,
    folder: Path,
    seconds: float,
    is_stopping: Callable[[], bool],
) -> str:
    """Publish changed datasets to each sibling whose file selects datasets."""
    until = time.monotonic() + seconds
    pushed, failed = 0, []
    with Index.open_readonly(index_path) as index:
        for sibling in load_siblings(folder).values():
            names = sibling_datasets(index, sibling.settings.datasets)
            with closing(publish(store, index, names, sibling)) as outcomes:
                for outcome in outcomes:
                    record_outcome(log, sibling, outcome)
                    pushed += outcome.status == "ok"
                    if outcome.failed:
                        failed.append(f"{outcome.path}: {outcome.message}")
                    if is_stopping() or time.monotonic() >= until:
                        break
    return _summary_or_error(f"{pushed} datasets pushed", failed)


def _audit(
    recorder: JournalRecorder,
    settings: HousekeepingSettings,
    store: Store,
    mirrors: Callable[[], Iterable[Mirror]],
    is_stopping: Callable[[], bool],
) -> str:
    """Probe the locations whose last probe is oldest."""
    until = time.monotonic() + settings.seconds
    checked, unavailable = 0, []
    audit_run = audit(
        recorder,
        older_than=timedelta(days=settings.audit_days),
        settings=settings.audit_settings or audit_settings_of(store, mirrors()),
        now=datetime.now(UTC),
        until=until,
    )
    # closing the audit records the probes
    with closing(audit_run) as findings:
        for finding in findings:
            checked += 1
            if finding.status == "error":
                unavailable.append(f"{finding.dataset} {finding.path}: {finding.message}")
            if is_stopping():
                break
    summary = f"{checked} locations probed, {len(unavailable)} without the bytes"
    return f"{summary}: {'; '.join(unavailable[:_NAMED])}" if unavailable else summary


def audit_settings_of(store: Store, mirrors: Iterable[Mirror] = ()) -> AuditSettings:
    """Return the default settings of an audit.

    The limits are the lowest of all mirrors' ``[net]``, since several mirrors may share a server.
    Private addresses are allowed if an archive has one, or if git's global configuration allows
    git-annex to use them.
    """
    usual = AuditSettings()
    connections, per_second = usual.connections, usual.per_second
    allowed = dict.fromkeys(AnnexSettings.of_user().allowed_addresses)
    for mirror in mirrors:
        net, options = mirror.settings.net, mirror.settings.options
        connections = min(connections, net.connections_per_host or connections)
        per_second = min(per_second, net.requests_per_second or per_second)
        for address in (options.get("api"), options.get("endpoint")):
            host = urlsplit(address).hostname if isinstance(address, str) else None
            if host and is_local_name(host):
                allowed |= dict.fromkeys(_LOOPBACK if host == "localhost" else (host,))
    return AuditSettings(connections, per_second, tuple(allowed), token_from_environment)


def _summary_or_error(summary: str, failed: list[str]) -> str:
    if not failed:
        return summary
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    raise HousekeepingError(f"{'; '.join(failed[:_NAMED])}{more}")


# --- the scheduler

HOUSEKEEPING_PREFIX = "housekeeping "
"""Prefix of the schedule's rows for housekeeping tasks; names of datasets contain no space."""


class HousekeepingScheduler(Struct):
    """Runs the housekeeping ``tasks`` that are due, one at a time.

    ``schedule`` has the time at which each is due next; ``observer`` is called for each finished
    one, and ``log`` records failures that a task does not record itself. No task starts once
    ``is_stopping`` returns true. ``clock`` returns POSIX seconds.
    """

    tasks: Sequence[HousekeepingTask]
    schedule: Schedule
    observer: Metrics
    log: FailureLog
    is_stopping: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.time

    def run_due(self) -> int:
        """Run the due tasks; return how many failed."""
        return sum(not self._run(task) for task in self.tasks if self._is_due(task))

    def _row(self, task: HousekeepingTask) -> TaskRow:
        name = HOUSEKEEPING_PREFIX + task.name
        return self.schedule.task(name) or TaskRow(name, spacing=task.interval)

    def _is_due(self, task: HousekeepingTask) -> bool:
        row, now = self._row(task), self.clock()
        # a wrong clock must not postpone a task by more than its interval
        soon = row.due is None or row.due <= now or row.due > now + 2 * task.interval
        return soon and not self.is_stopping()

    def _run(self, task: HousekeepingTask) -> bool:
        began = time.monotonic()
        message, done, failed = "", False, ""
        try:
            message, done = task.run(), True
        except HousekeepingError as error:
            message = str(error)
        except (NeuromirrorError, OSError) as error:
            message = failed = str(error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not stop the others
            message = failed = describe_unexpected(error)
        try:
            if failed:
                self.log.record_failure(task.name, failed)
            else:
                self.log.record_success(task.name)
        except (NeuromirrorError, OSError) as error:
            message, done = f"{message}; not recorded: {error}", False
        seconds, now, row = time.monotonic() - began, self.clock(), self._row(task)
        self.schedule.put(
            [
                replace(
                    row,
                    due=now + task.interval * jitter(row.name, int(now)),
                    spacing=task.interval,
                    failures=0 if done else row.failures + 1,
                    status="ok" if done else "failed",
                    ended=now,
                    seconds=seconds,
                    message=message,
                )
            ]
        )
        self.observer.housekeeping_finished(task.name, done, seconds)
        log_event(
            "housekeeping finished" if done else "housekeeping failed",
            message,
            level=logging.INFO if done else logging.ERROR,
            kind=task.name,
            seconds=seconds,
        )
        return done
