"""The heart of a service: tick by tick it writes down what is over, and begins what is due.

Everything that must outlive it is in the schedule. A job that was under way when the service died
is still due, and is done again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from datetime import UTC, datetime

from neuromirror.crawl import FailureLog, Mirror, Recorder, Result
from neuromirror.crawl.failures import CONFIGURATION, OF_THE_SERVICE, WORKERS
from neuromirror.index import Schedule, TaskRow
from neuromirror.model import DatasetHint, DatasetRef, NeuromirrorError
from neuromirror.service.books import GROUP, Books
from neuromirror.service.errands import Errand, Fared, Observer, fared
from neuromirror.service.jobs import TOP, Job, Place, do
from neuromirror.service.leases import SECONDS, Lease
from neuromirror.service.leftovers import Leftovers
from neuromirror.service.logs import tell
from neuromirror.service.mirror_files import MirrorFiles

_RENEWED = SECONDS / 3
_STEPS = 0.05
"""Seconds of a tick in which what may be much is written, piece by piece."""

_SET_BACK = 30.0
"""Seconds by which a clock must go back to have been set back; less is a correction."""

_MENDED = 600.0
"""Seconds between two looks at all rows of the schedule."""

_CONNECTIONS = 16
"""Requests at one host at a time where a mirror's file says nothing, as a session has it."""

_PAUSE = 30.0
"""Seconds in which nothing is begun after workers could not be had."""


GROUP_WAIT = 3600.0
"""Seconds that superdatasets wait for the visits that are in progress or due."""


class Service:
    """Keeps the mirrors of ``files`` current, ``workers`` jobs at a time.

    ``owner`` is its name in leases; ``heard`` is told how each dataset fared; ``clock`` gives POSIX
    seconds. Superdatasets are written from the final states of a round: once nothing of their
    mirrors is in progress or due, or after ``group_wait`` seconds. :meth:`tick` is for one thread
    at a time; the caller holds the lock of the store's one service.
    """

    def __init__(
        self,
        place: Place,
        files: MirrorFiles,
        schedule: Schedule,
        recorder: Recorder,
        executor: Executor,
        *,
        workers: int,
        owner: str,
        observer: Observer,
        leftovers: Leftovers,
        heard: Callable[[Result], None] = lambda result: None,
        clock: Callable[[], float] = time.time,
        group_wait: float = GROUP_WAIT,
    ) -> None:
        self._place = place
        self._files = files
        self._schedule = schedule
        self._books = Books(schedule, recorder)
        self._log = FailureLog(recorder)
        self._executor = executor
        self._workers = workers
        self._owner = owner
        self._observer = observer
        self._leftovers = leftovers
        self._heard = heard
        self._clock = clock
        self._group_wait = group_wait
        self._busy: dict[str, Errand] = {}
        self._over: deque[Errand] = deque()
        self._writing: deque[Iterator[None]] = deque()
        self._unknown: set[str] = set()
        self._last = clock()
        self._renewed = self._looked = self._mended = time.monotonic()
        self._paused = 0.0
        self._closed = False
        self.broken = ""
        self._workerless = False
        self._wrong: dict[str, str] = {}
        self._right: set[str] = set()
        self.woken = threading.Event()

    # --- what comes from outside

    def start(self) -> None:
        """Takes the schedule over from the service before, and its mirrors."""
        now = self._clock()
        self._log.forget(OF_THE_SERVICE)
        for name in self._leftovers.end_of_the_dead(now):
            tell("lease ended", "its owner is dead", dataset=name)
        for mirror in self._files.served():
            self._books.introduce(mirror, now)
        self._books.make_released_due(now)
        self._sort_mirrors()
        self._writing.append(self._books.mend(self._files.served(), now))

    def reread(self) -> None:
        """Looks whether mirror files were changed; what is wrong is told, and nothing else done."""
        found = self._files.reread()
        for message in found.wrong.values():
            tell("mirror file wrong", message, level=logging.ERROR)
        self._wrong |= found.wrong
        self._right = (self._right | {*found.right, *found.gone}) - found.wrong.keys()
        for name in found.gone:
            tell("mirror gone", "its file is gone: it is not looked at any more", mirror=name)
        now = self._clock()
        for name in found.changed:
            tell("mirror changed", "its file says something new: its list is read", mirror=name)
            self._books.changed(self._files.mirrors[name], now)
        if found.gone or found.changed:
            self._sort_mirrors()
            self._writing.append(self._books.mend(self._files.served(), now))
            self.woken.set()
        for name in found.gone:
            self._log.forget_mirror(name)
        self._record_files()

    def _record_files(self) -> None:
        """Record which mirror files are wrong; what cannot be recorded now is tried again."""
        for name in list(self._right):
            self._log.succeeded(CONFIGURATION, name)
            self._wrong.pop(name, None)
            self._right.discard(name)
        for name, message in self._wrong.items():
            self._log.failed(CONFIGURATION, message, name)

    def close(self) -> None:
        """From now on nothing is begun; what is under way is still written down."""
        self._closed = True

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor to be written."""
        return not (self._busy or self._over or self._writing)

    @property
    def under_way(self) -> int:
        """How many jobs are under way."""
        return len(self._busy)

    def group_at_once(self) -> bool:
        """Makes due what waits for more to come of a mirror; gives whether anything does."""
        now = self._clock()
        late = self._groups(TOP)
        self._schedule.put(replace(one, due=now) for one in late)
        return bool(late)

    def abandon(self) -> list[str]:
        """Gives back the leases of all that is under way, and gives its names; it stays due."""
        left = list(self._busy.values())
        for errand in left:
            errand.future.cancel()
            self._schedule.give_back(errand.job.lease.name, errand.job.lease.token)
        self._busy.clear()
        self._over.clear()
        self._writing.clear()
        return sorted(errand.row.name for errand in left)

    # --- the tick

    def tick(self) -> int:
        """Takes what is over and begins what is due; gives the number of jobs begun."""
        began = time.monotonic()
        self.woken.clear()
        now = self._now()
        try:
            while self._over:
                self._take(now)
            self._write_on(began + _STEPS)
            self._watch_over_leases(now, began)
            if self.broken and began >= self._paused:
                self.broken = ""
            return 0 if self._closed else self._begin_due(now)
        finally:
            self._observer.ticked(time.monotonic() - began)

    def _now(self) -> float:
        now, last = self._clock(), self._last
        if now < last - _SET_BACK:
            tell("clock set back", f"by {last - now:.0f} s", level=logging.WARNING)
            self._books.set_back(last - now)
            for errand in self._busy.values():
                errand.since -= last - now
            self._renewed = -SECONDS
        self._last = now
        return now

    def _watch_over_leases(self, now: float, instant: float) -> None:
        """Renews ours; looks now and then for those that nobody will ever give back."""
        if instant - self._renewed >= _RENEWED:
            self._renewed = instant
            tokens = [(one.job.lease.name, one.job.lease.token) for one in self._busy.values()]
            self._schedule.renew(tokens, now, SECONDS)
        if instant - self._looked >= SECONDS:
            self._looked = instant
            for name in self._leftovers.end_of_the_future(now):
                tell("lease ended", "it was of a clock that was ahead", dataset=name)
        if instant - self._mended >= _MENDED:
            self._mended = instant
            self._writing.append(self._books.mend(self._files.served(), now))

    def _write_on(self, until: float) -> None:
        """Takes a step at least, so that it comes to an end whatever else there is to do."""
        while self._writing:
            try:
                next(self._writing[0])
            except StopIteration:
                self._writing.popleft()
            if time.monotonic() >= until:
                return

    # --- what is over

    def _take(self, now: float) -> None:
        errand = self._over.popleft()
        try:
            how = fared(errand)
            if self._busy.get(errand.row.name) is not errand:
                return
            lease = errand.job.lease
            if how.dropped or not self._schedule.holds(lease.name, lease.token):
                tell("lease lost", "somebody else has the work", dataset=lease.name)
                self._end(errand)
            elif errand.job.kind == "list":
                self._writing.append(self._list_ended(errand, how, now))
            else:
                self._ended(errand, how, now)
                self._end(errand)
        except BaseException:
            # what cannot be written now (a disk is full) is written later, the others before it
            self._over.append(errand)
            raise
        for result in how.results:
            self._heard(result)
        if how.broken:
            self._heard(Result(errand.row.name, "error", how.broken, "failed"))

    def _end(self, errand: Errand) -> None:
        self._schedule.give_back(errand.job.lease.name, errand.job.lease.token)
        self._busy.pop(errand.row.name, None)

    def _ended(self, errand: Errand, how: Fared, now: float) -> None:
        if errand.job.kind == "group":
            if errand.mirror != TOP.name:
                self._to_be_grouped(TOP.name, now)
            outcome = self._books.group_ended(errand, how, now)
            self._tell(errand, how, outcome, "grouped")
            return
        outcome = self._books.visit_ended(errand, how, now)
        self._tell(errand, how, outcome, "visited", self._books.visit_id(errand))
        if any(one.versions or one.status == "ok" for one in how.results):
            self._to_be_grouped(errand.mirror, now)

    def _to_be_grouped(self, name: str, now: float) -> None:
        self._books.to_be_grouped(name, now)
        group = self._busy.get(GROUP + name)
        if group is not None:
            group.again = True

    def _list_ended(self, errand: Errand, how: Fared, now: float) -> Iterator[None]:
        try:
            yield from self._books.list_ended(errand, how, self._busy, now)
            self._to_be_grouped(errand.mirror, now)
        finally:
            self._end(errand)
        failed = bool(how.broken) or any(one.dataset == errand.mirror for one in how.problems)
        outcome = "failed" if failed else "changed" if how.due else "unchanged"
        self._tell(errand, how, outcome, "listed", f"{len(how.due)} to be visited")

    def _tell(self, errand: Errand, how: Fared, outcome: str, event: str, visit: str = "") -> None:
        seconds = self._last - errand.since
        kind = errand.job.kind
        self._observer.job_ended(kind, errand.mirror, outcome, seconds)
        for one in how.results:
            self._observer.asked(errand.mirror, one.traffic)
        told = [*how.results] if kind == "visit" else how.problems
        message = how.broken or "; ".join(one.message for one in told)
        tell(
            event,
            message,
            level=logging.WARNING if outcome == "failed" else logging.INFO,
            mirror=errand.mirror,
            dataset=errand.row.name if kind == "visit" else "",
            visit=visit,
            kind=kind,
            outcome=outcome,
            seconds=seconds,
        )

    # --- what is due

    def _begin_due(self, now: float) -> int:
        begun = 0
        for mirror in self._files.served():
            begun += self._begin_named(mirror.name, mirror, "list", now)
        while more := self._begin_visits(now):
            begun += more
        # last, so that none begins before the visits that are due
        for mirror in (*self._files.served(), TOP):
            begun += self._begin_named(GROUP + mirror.name, mirror, "group", now)
        return begun

    def _begin_named(self, name: str, mirror: Mirror, kind: str, now: float) -> int:
        if name in self._busy or not self._free():
            return 0
        row = self._schedule.task(name)
        if row is None or row.due is None or row.due > now:
            return 0
        if kind == "group" and now - row.due < self._group_wait and self._is_at_work(mirror, now):
            return 0
        return self._begin(row, mirror, kind, now)

    def _is_at_work(self, mirror: Mirror, now: float) -> bool:
        """Whether anything that a mirror's superdatasets hold is in progress or due.

        For the superdataset above all mirrors, anything of any mirror.
        """
        if mirror is TOP:
            names = {one.name for one in self._files.served()}
            if self._groups():
                return True
        else:
            names = {mirror.name}
        if any(one.mirror in names for one in self._busy.values()):
            return True
        return not names.isdisjoint(self._schedule.waiting(now))

    def _groups(self, *more: Mirror) -> list[TaskRow]:
        """Return the group tasks, of mirrors and of ``more``, that are pending and did not fail."""
        rows = [self._schedule.task(GROUP + one.name) for one in (*self._files.served(), *more)]
        return [one for one in rows if one is not None and one.due is not None and not one.failures]

    def _begin_visits(self, now: float) -> int:
        """Begins visits, the longest due first; what is left may be of mirrors that have enough."""
        visits = Counter(one.mirror for one in self._busy.values() if one.job.kind == "visit")
        mirrors = self._files.mirrors
        most = {name: one.settings.schedule.workers for name, one in mirrors.items()}
        without = self._unknown | {name for name in most if visits[name] >= most[name]}
        if not self._free() or without.issuperset(most):
            return 0
        # the rows of mirrors themselves may be among them
        limit = self._free() + len(mirrors)
        deep = [(row.deep_due, row) for row in self._schedule.deep_due(now, limit, without)]
        due = [(row.due, row) for row in self._schedule.due(now, limit, without)]
        begun = 0
        for _, row in sorted(deep + due, key=lambda one: one[0] or 0.0):
            mirror = mirrors.get(row.mirror)
            if mirror is None or not row.local_id or row.name in self._busy or not self._free():
                continue
            is_deep = row.deep_due is not None and row.deep_due <= now and self._deep_is_free()
            is_due = row.due is not None and row.due <= now
            if (is_deep or is_due) and visits[row.mirror] < most[row.mirror]:
                more = self._begin(row, mirror, "visit", now, deep=is_deep)
                visits[row.mirror] += more
                begun += more
        return begun

    def _free(self) -> int:
        """Places for jobs; none while workers cannot be had."""
        return 0 if self.broken else max(0, self._workers - len(self._busy))

    def _deep_is_free(self) -> bool:
        """Deep visits, which cost the most, are a quarter of the jobs at the most."""
        return sum(one.job.deep for one in self._busy.values()) < max(1, self._workers // 4)

    def _begin(
        self, row: TaskRow, mirror: Mirror, kind: str, now: float, *, deep: bool = False
    ) -> int:
        """Gives a job to the executor; gives 1, or 0 where somebody else is at it already."""
        token = self._schedule.claim(row.name, self._owner, now, SECONDS)
        if token is None:
            return 0
        lease = Lease(row.name, token)
        job = Job(kind, lease, self._slowed(mirror), row.local_id or None, _hint(row), deep)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            future = self._executor.submit(do, self._place, job)
        except (NeuromirrorError, OSError, RuntimeError) as error:
            # that no worker can be had is no fault of the dataset's
            self._schedule.give_back(lease.name, lease.token)
            self.broken, self._workerless = f"no worker can be had: {error}", True
            self._paused = time.monotonic() + _PAUSE
            tell("no workers", self.broken, level=logging.ERROR)
            self._log.failed(WORKERS, self.broken)
            return 0
        if self._workerless:
            self._workerless = False
            self._log.succeeded(WORKERS)
        errand = self._busy[row.name] = Errand(row, job, now, began, future)
        future.add_done_callback(lambda _: self._done(errand))
        return 1

    def _done(self, errand: Errand) -> None:
        """Called in whatever thread a job ends in."""
        self._over.append(errand)
        self.woken.set()

    def _slowed(self, mirror: Mirror) -> Mirror:
        """The mirror for one of several jobs at a time: together they keep the limits of its file.

        Each has connections of its own, and knows nothing of the others.
        """
        settings = mirror.settings
        jobs = min(settings.schedule.workers, self._workers)
        if jobs == 1:
            return mirror
        most, pace = settings.net.connections_per_host, settings.net.requests_per_second
        if most is None:
            asked = settings.options.get("connections", 0)
            most = max(_CONNECTIONS, 2 * asked if isinstance(asked, int) else 0)
        net: dict[str, object] = {"connections_per_host": max(1, most // jobs)}
        if pace is not None:
            net["requests_per_second"] = pace / jobs
        slowed = settings.model_copy(update={"net": settings.net.model_copy(update=net)})
        return replace(mirror, settings=slowed)

    def _sort_mirrors(self) -> None:
        """Tasks of mirrors that are not served, and chores, are left where they are."""
        self._unknown = {row.mirror for row in self._schedule.tasks()} - set(self._files.mirrors)
        self._unknown.add("")


def _hint(row: TaskRow) -> DatasetHint | None:
    """What the overview said of a dataset; None to ask again, where the schedule has not all."""
    if not row.local_id or (row.fingerprint is not None and not row.title):
        return None
    dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
    return DatasetHint(dataset, row.fingerprint, row.title)
