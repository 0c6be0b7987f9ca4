"""What a service does beside its visits: a slice of each at a time, none for long.

Each chore goes on where its last slice ended; see :mod:`neuromirror.service.integrity`. A slice
ends
soon after its time is over: one repository, one table or one answer of a server is not cut short.
Should a chore find something broken, it raises, and says what and what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from neuromirror.crawl import FailureLog, Mirror, Recorder
from neuromirror.crawl.failure_log import record_housekeeping
from neuromirror.index import Schedule
from neuromirror.lab import audit
from neuromirror.lab.audit import AuditSettings
from neuromirror.model import NeuromirrorError
from neuromirror.net import is_local_name
from neuromirror.service.backup import DEFAULT_GENERATIONS, back_up
from neuromirror.service.integrity import (
    IntegrityState,
    check_integrity,
    load_progress,
    save_progress,
)
from neuromirror.store import Store, run_housekeeping
from neuromirror.transfer.url_sessions import allowed_addresses
from neuromirror.volume.tokens import token_from_environment

HOUR, DAY = 3600.0, 86_400.0

_NAMED = 3
_LOOPBACK = ("127.0.0.1", "::1")


class HousekeepingError(NeuromirrorError):
    """Something that a chore looked at is broken, or could not be done; the rest of it was.

    What it was is on record: with the datasets that it is about, or as :class:`IntegrityState` has
    it.
    """


@dataclass(frozen=True, slots=True)
class HousekeepingTask:
    """Work that is done again and again: its name, after how many seconds, and how.

    ``run`` gives a line that says what it did, or raises NeuromirrorError or OSError.
    """

    name: str
    interval: float
    run: Callable[[], str]


@dataclass(frozen=True, slots=True)
class HousekeepingSettings:
    """How much of each: ``seconds`` a slice, ``backup`` the folder of copies (None: none).

    ``keep`` copies are kept. ``audit_days`` is after how long a place is asked again (0: none
    is), ``asking`` how servers are asked (None: see :func:`audit_settings_of`).
    """

    seconds: float = 60.0
    backup_folder: Path | None = None
    backup_generations: int = DEFAULT_GENERATIONS
    audit_days: float = 30.0
    audit_settings: AuditSettings | None = None


def housekeeping_tasks(
    store: Store,
    index_path: Path,
    recorder: Recorder,
    schedule: Schedule,
    settings: HousekeepingSettings | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
    mirrors: Callable[[], Iterable[Mirror]] = tuple,
) -> list[HousekeepingTask]:
    """The chores of a store; a slice under way ends early when the service is ``over``.

    ``mirrors`` gives those that are served now, which say how archives are to be asked.
    """
    settings = settings or HousekeepingSettings()
    log = FailureLog(recorder)
    found = [
        HousekeepingTask(
            "housekeeping", HOUR, lambda: _housekeeping(store, log, settings.seconds, is_stopping)
        ),
        HousekeepingTask(
            "integrity", HOUR, lambda: _integrity(store, index_path, settings.seconds, is_stopping)
        ),
    ]
    folder = settings.backup_folder
    if folder is not None:
        found.append(
            HousekeepingTask("backup", DAY, lambda: _backup(store, index_path, folder, settings))
        )
    if settings.audit_days:
        found.append(
            HousekeepingTask(
                "audit",
                HOUR / 4,
                lambda: _audit(
                    recorder,
                    settings,
                    settings.audit_settings or audit_settings_of(store, mirrors()),
                    is_stopping,
                ),
            )
        )
    return found


def _housekeeping(
    store: Store, log: FailureLog, seconds: float, is_stopping: Callable[[], bool]
) -> str:
    """Consolidates the repositories that come next."""
    until = time.monotonic() + seconds
    path = store.task_state_path("housekeeping")
    after = str(load_progress(path).get("alias", ""))
    aliases = [alias for alias, _ in store.aliases() if alias > after]
    done, changed, freed, failed = 0, 0, 0, []
    last = after
    for kept in run_housekeeping(store, aliases):
        record_housekeeping(log, kept)
        done, last = done + 1, kept.alias
        changed += kept.status == "ok"
        freed += kept.bytes_before - kept.bytes_after
        if kept.status == "error":
            failed.append(kept.message)
        if is_stopping() or time.monotonic() >= until:
            break
    else:
        last = ""
    save_progress(path, {"alias": last})
    summary = f"{done} repositories looked at, {changed} changed, {max(0, freed):,} bytes less"
    return _summary_or_error(summary if last else f"{summary}; the round is over", failed)


def _integrity(
    store: Store, index_path: Path, seconds: float, is_stopping: Callable[[], bool]
) -> str:
    """Looks at what comes next; what was found broken earlier stays a failure until it is whole."""
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
    summary = f"{count} things are whole"
    if unchecked:
        summary += f"; not looked at: {'; '.join(unchecked[:_NAMED])}"
    elif not known.position.alias:
        summary += "; the round is over"
    return _summary_or_error(summary, [one for found in known.damage.values() for one in found])


def _backup(store: Store, index_path: Path, folder: Path, settings: HousekeepingSettings) -> str:
    made = back_up(store, index_path, folder, settings.backup_generations)
    return f"{made.folder.name}: {made.bytes:,} bytes"


def _audit(
    recorder: Recorder,
    settings: HousekeepingSettings,
    audit_settings: AuditSettings,
    is_stopping: Callable[[], bool],
) -> str:
    """Asks the places that were asked longest ago."""
    until = time.monotonic() + settings.seconds
    checked, unavailable = 0, []
    audit_run = audit(
        recorder,
        older_than=timedelta(days=settings.audit_days),
        settings=audit_settings,
        now=datetime.now(UTC),
        until=until,
    )
    # what was asked is recorded when it is closed
    with closing(audit_run) as findings:
        for finding in findings:
            checked += 1
            if finding.status == "error":
                unavailable.append(f"{finding.dataset} {finding.path}: {finding.message}")
            if is_stopping():
                break
    summary = f"{checked} places asked, {len(unavailable)} of them do not have the bytes"
    return f"{summary}: {'; '.join(unavailable[:_NAMED])}" if unavailable else summary


def audit_settings_of(store: Store, mirrors: Iterable[Mirror] = ()) -> AuditSettings:
    """How servers are asked unless somebody says otherwise.

    No harder than any mirror's ``[net]`` allows, since several may lead to one server. Private
    addresses only where an archive is at one, or git's configuration of the store's folder lets
    git-annex ask it.
    """
    usual = AuditSettings()
    connections, per_second = usual.connections, usual.per_second
    allowed = dict.fromkeys(allowed_addresses(store.root))
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
