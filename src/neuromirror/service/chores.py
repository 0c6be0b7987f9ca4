"""What a service does beside its visits: a slice of each at a time, none for long.

Each chore goes on where its last slice ended; see :mod:`neuromirror.service.rounds`. A slice ends
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
from neuromirror.crawl.failures import record_kept
from neuromirror.index import Schedule
from neuromirror.lab import audit
from neuromirror.lab.audit import Asking
from neuromirror.lab.verify.asking import allowed_addresses
from neuromirror.model import NeuromirrorError
from neuromirror.net import is_local_name
from neuromirror.service.backup import KEPT, back_up
from neuromirror.service.rounds import Integrity, look, remember, remembered
from neuromirror.store import Store, keep_house
from neuromirror.volume.tokens import from_environment

HOUR, DAY = 3600.0, 86_400.0

_NAMED = 3
_LOOPBACK = ("127.0.0.1", "::1")


class ChoreFailed(NeuromirrorError):
    """Something that a chore looked at is broken, or could not be done; the rest of it was.

    What it was is on record: with the datasets that it is about, or as :class:`Integrity` has it.
    """


@dataclass(frozen=True, slots=True)
class Chore:
    """Work that is done again and again: its name, after how many seconds, and how.

    ``run`` gives a line that says what it did, or raises NeuromirrorError or OSError.
    """

    name: str
    every: float
    run: Callable[[], str]


@dataclass(frozen=True, slots=True)
class ChoreSettings:
    """How much of each: ``seconds`` a slice, ``backup`` the folder of copies (None: none).

    ``keep`` copies are kept. ``audit_days`` is after how long a place is asked again (0: none
    is), ``asking`` how servers are asked (None: see :func:`asking_of`).
    """

    seconds: float = 60.0
    backup: Path | None = None
    keep: int = KEPT
    audit_days: float = 30.0
    asking: Asking | None = None


def chores(
    store: Store,
    index_path: Path,
    recorder: Recorder,
    schedule: Schedule,
    settings: ChoreSettings | None = None,
    over: Callable[[], bool] = lambda: False,
    mirrors: Callable[[], Iterable[Mirror]] = tuple,
) -> list[Chore]:
    """The chores of a store; a slice under way ends early when the service is ``over``.

    ``mirrors`` gives those that are served now, which say how archives are to be asked.
    """
    settings = settings or ChoreSettings()
    log = FailureLog(recorder)
    found = [
        Chore("housekeeping", HOUR, lambda: _housekeeping(store, log, settings.seconds, over)),
        Chore("integrity", HOUR, lambda: _integrity(store, index_path, settings.seconds, over)),
    ]
    folder = settings.backup
    if folder is not None:
        found.append(Chore("backup", DAY, lambda: _backup(store, index_path, folder, settings)))
    if settings.audit_days:
        found.append(
            Chore(
                "audit",
                HOUR / 4,
                lambda: _audit(
                    recorder, settings, settings.asking or asking_of(store, mirrors()), over
                ),
            )
        )
    return found


def _housekeeping(store: Store, log: FailureLog, seconds: float, over: Callable[[], bool]) -> str:
    """Consolidates the repositories that come next."""
    until = time.monotonic() + seconds
    path = store.chore_path("housekeeping")
    after = str(remembered(path).get("alias", ""))
    aliases = [alias for alias, _ in store.aliases() if alias > after]
    done, changed, freed, failed = 0, 0, 0, []
    last = after
    for kept in keep_house(store, aliases):
        record_kept(log, kept)
        done, last = done + 1, kept.alias
        changed += kept.status == "ok"
        freed += kept.bytes_before - kept.bytes_after
        if kept.status == "error":
            failed.append(kept.message)
        if over() or time.monotonic() >= until:
            break
    else:
        last = ""
    remember(path, {"alias": last})
    words = f"{done} repositories looked at, {changed} changed, {max(0, freed):,} bytes less"
    return _told(words if last else f"{words}; the round is over", failed)


def _integrity(store: Store, index_path: Path, seconds: float, over: Callable[[], bool]) -> str:
    """Looks at what comes next; what was found broken earlier stays a failure until it is whole."""
    count, unseen = 0, []
    with closing(look(store, index_path, seconds=seconds, git_seconds=seconds)) as looking:
        for checked in looking:
            count += checked.status == "ok"
            if checked.status == "impossible":
                unseen.append(checked.message)
            if over():
                break
    known = Integrity.of(store)
    words = f"{count} things are whole"
    if unseen:
        words += f"; not looked at: {'; '.join(unseen[:_NAMED])}"
    elif not known.mark.alias:
        words += "; the round is over"
    return _told(words, [one for found in known.broken.values() for one in found])


def _backup(store: Store, index_path: Path, folder: Path, settings: ChoreSettings) -> str:
    made = back_up(store, index_path, folder, settings.keep)
    return f"{made.folder.name}: {made.bytes:,} bytes"


def _audit(
    recorder: Recorder, settings: ChoreSettings, how: Asking, over: Callable[[], bool]
) -> str:
    """Asks the places that were asked longest ago."""
    until = time.monotonic() + settings.seconds
    asked, dead = 0, []
    asking = audit(
        recorder,
        older_than=timedelta(days=settings.audit_days),
        asking=how,
        now=datetime.now(UTC),
        until=until,
    )
    # what was asked is recorded when it is closed
    with closing(asking) as findings:
        for finding in findings:
            asked += 1
            if finding.status == "error":
                dead.append(f"{finding.dataset} {finding.path}: {finding.message}")
            if over():
                break
    words = f"{asked} places asked, {len(dead)} of them do not have the bytes"
    return f"{words}: {'; '.join(dead[:_NAMED])}" if dead else words


def asking_of(store: Store, mirrors: Iterable[Mirror] = ()) -> Asking:
    """How servers are asked unless somebody says otherwise.

    No harder than any mirror's ``[net]`` allows, since several may lead to one server. Private
    addresses only where an archive is at one, or git's configuration of the store's folder lets
    git-annex ask it.
    """
    usual = Asking()
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
    return Asking(connections, per_second, tuple(allowed), from_environment)


def _told(words: str, failed: list[str]) -> str:
    if not failed:
        return words
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    raise ChoreFailed(f"{'; '.join(failed[:_NAMED])}{more}")
