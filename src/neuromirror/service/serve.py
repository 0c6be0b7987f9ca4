"""A service as a process: what it needs around it, its clock, and how it ends.

APScheduler is the clock and nothing else: all that it must not forget is in the schedule.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neuromirror.crawl import FailureLog, Mirror, PrivateSide, Result, recording
from neuromirror.crawl.failures import SERVICE
from neuromirror.index import Schedule
from neuromirror.model import NeuromirrorError
from neuromirror.service.catalogue import CatalogueOptions, KeptCatalogue
from neuromirror.service.chore_times import ChoreTimes
from neuromirror.service.chores import ChoreSettings, chores
from neuromirror.service.desk import Desk
from neuromirror.service.engine import GROUP_WAIT, Service
from neuromirror.service.executors import (
    MEMORY,
    SECONDS,
    dask,
    desk_host,
    processes,
    threads,
    workplace,
)
from neuromirror.service.health import HealthServer, Pulse, Readiness
from neuromirror.service.leases import owner
from neuromirror.service.leftovers import Leftovers
from neuromirror.service.listening import shown_address
from neuromirror.service.logs import Secrets, logging_to, tell
from neuromirror.service.mirror_files import MirrorFiles
from neuromirror.service.notify import Notifier
from neuromirror.store import Store, StoreBusy

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from neuromirror.service.metrics import Metrics

_TURN = 1.0
"""Seconds between two turns of the loop where nothing wakes it."""

_REREAD, _CHORES, _STATUS = 10, 60, 60
_HANGS = 120.0
"""Seconds after which a loop that does not turn hangs."""

_STEP = 0.2
"""Seconds after which the main thread looks whether it was told to end."""

_PATIENCE = 20.0
"""Seconds that jobs under way have when the service is to end …"""

_LAST = 28.0
"""… and that all of it may take."""


class ServiceRuns(NeuromirrorError):
    """A store has a service already."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a service works.

    ``workers`` jobs are done at a time, each for ``visit_seconds`` and with ``worker_memory`` bytes
    at most; ``executor`` is processes | threads, ``scheduler`` the address of a Dask scheduler that
    is used instead. ``private`` is the private store's folder; ``metrics`` where health and
    figures are served, ``catalogue`` how pages are, None: nowhere.
    """

    workers: int = 4
    executor: str = "processes"
    scheduler: str | None = None
    visit_seconds: float = SECONDS
    worker_memory: int = MEMORY
    private: Path | None = None
    metrics: tuple[str, int] | None = None
    catalogue: CatalogueOptions | None = None
    log_json: bool = False
    chores: ChoreSettings = field(default_factory=ChoreSettings)


def mirror_files(
    folder: Path, names: Sequence[str], store: Store, private: Path | None
) -> MirrorFiles:
    """The mirrors to be served; raises ConfigurationError."""
    side = PrivateSide(private, store)

    def check(mirror: Mirror) -> None:
        side.check([mirror.open()])

    return MirrorFiles(folder, names, check)


class Stop:
    """Whether the process was told to end: SIGTERM or SIGINT; the second time it ends at once.

    To be used in the main thread, as a context. What the signal's handler does is to set a number:
    it may run while the thread that it interrupts holds the lock of whatever else it would use.
    """

    def __init__(self) -> None:
        self.by = 0

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Signals are heeded in the block."""
        before = [(one, signal.signal(one, self._tell)) for one in (signal.SIGTERM, signal.SIGINT)]
        try:
            yield
        finally:
            for one, was in before:
                signal.signal(one, was)

    def _tell(self, number: int, frame: object) -> None:
        if self.by:
            # workers end with the process, and leases by themselves
            os._exit(128 + number)
        self.by = number

    def told(self) -> bool:
        """Whether it was."""
        return self.by != 0

    def wait(self) -> None:
        """Until it is.

        In short steps: the system may give a signal to any thread, and Python heeds it when the
        main thread does something next.
        """
        while not self.by:
            time.sleep(_STEP)


@dataclass(frozen=True, slots=True)
class _Office:
    """A service and what there is around it."""

    service: Service
    metrics: Metrics
    schedule: Schedule
    chores: ChoreTimes
    chore: threading.Lock
    log: FailureLog


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    try:
        with store.lock("service", "the service"):
            yield
    except StoreBusy as error:
        raise ServiceRuns(
            f"another 'neuromirror serve' works on the store {store.root}, and one writes for all; "
            "stop that one first ('neuromirror sync' can be used beside it)"
        ) from error


@contextmanager
def _office(
    store: Store,
    index_path: Path,
    files: MirrorFiles,
    options: ServeOptions,
    stop: Stop,
    heard: Callable[[Result], None],
    group_wait: float = GROUP_WAIT,
) -> Iterator[_Office]:
    """Raises ServiceRuns, ConfigurationError, NoScheduler."""
    from neuromirror.service.metrics import Metrics

    with ExitStack() as stack:
        stack.enter_context(_alone(store))
        recorder = stack.enter_context(recording(store, index_path))
        schedule = stack.enter_context(Schedule.open(store.schedule_path))
        metrics = Metrics(store, index_path, schedule, files.mirrors)
        desk = stack.enter_context(Desk(recorder, schedule, desk_host(options.scheduler)))
        place = workplace(store, index_path, options.private, desk.address)
        chore = threading.Lock()
        # a chore that is at it uses all of the above
        stack.callback(chore.acquire)
        executor = stack.enter_context(_executor(options))
        name = owner("serve")
        service = Service(
            place,
            files,
            schedule,
            recorder,
            executor,
            workers=options.workers,
            owner=name,
            observer=metrics,
            leftovers=Leftovers(store, schedule, name),
            heard=heard,
            group_wait=group_wait,
        )
        work = chores(
            store,
            index_path,
            recorder,
            schedule,
            options.chores,
            over=stop.told,
            mirrors=files.served,
        )
        log = FailureLog(recorder)
        times = ChoreTimes(work, schedule, metrics, log, stop.told)
        yield _Office(service, metrics, schedule, times, chore, log)


def _executor(options: ServeOptions) -> AbstractContextManager[Executor]:
    """Jobs that are still under way when it is left had their time before."""
    if options.scheduler is not None:
        return dask(options.scheduler, options.visit_seconds, options.worker_memory, grace=0)
    if options.executor == "threads":
        return threads(options.workers, grace=0)
    return processes(options.workers, options.visit_seconds, options.worker_memory, grace=0)


# --- for months


def serve(store: Store, index_path: Path, files: MirrorFiles, options: ServeOptions) -> None:
    """Keeps mirrors current until the process is told to end. Raises before it begins only."""
    stop = Stop()
    with (
        stop.heeded(),
        logging_to(as_json=options.log_json, mirrors=files.mirrors),
        _office(store, index_path, files, options, stop, lambda result: None) as office,
        ExitStack() as stack,
    ):
        pulse, readiness = Pulse(_HANGS), Readiness(store, index_path, office.schedule)
        catalogue = None
        if options.catalogue is not None:
            catalogue = _catalogue(store, index_path, options, options.catalogue, office, files)
            stack.enter_context(catalogue)
        if options.metrics is not None:
            server = HealthServer(
                options.metrics,
                pulse=pulse,
                problems=readiness.problems,
                metrics=office.metrics.page,
                remarks=list if catalogue is None else catalogue.remarks,
            )
            stack.enter_context(server)
            tell("health", f"http://{shown_address(server.address)}/healthz")
        notifier = Notifier.of_environment()
        office.service.start()
        loop = _Loop(office, pulse, stop)
        stack.enter_context(notifier.watching(pulse))
        with _clock(loop, notifier, office):
            names = ", ".join(sorted(files.mirrors))
            tell("started", f"store {store.root}, mirrors {names}, {options.workers} workers")
            notifier.ready(f"{len(files.mirrors)} mirrors")
            stop.wait()
            notifier.stopping()
            readiness.stop()
            if catalogue is not None:
                catalogue.stop()
            guard = _guard(0)
        tell("stopping", f"{signal.Signals(stop.by).name}; jobs have {_PATIENCE:.0f} s")
        left = loop.end(_PATIENCE)
    if not left:
        guard.cancel()


def _catalogue(
    store: Store,
    index_path: Path,
    options: ServeOptions,
    shown: CatalogueOptions,
    office: _Office,
    files: MirrorFiles,
) -> KeptCatalogue:
    """The catalogue of a store, not started yet; raises ConfigurationError."""
    command = ["--store", str(store.root), "--index", str(index_path), "catalogue"]
    command += ["--address", shown.address, "--title", shown.title]
    command += [] if shown.cutouts else ["--no-cutouts"]
    command += [word for limit in shown.limits for word in ("--limit", limit)]
    command += [word for proxy in shown.proxies for word in ("--trusted-proxy", proxy)]
    command += ["--sql"] if shown.sql else []
    command += ["--log-json"] if options.log_json else []
    kept = KeptCatalogue(
        shown.listen,
        command,
        # pages need no token
        withheld=Secrets(files.mirrors).names,
        ended=office.metrics.catalogue_ended,
        log=office.log,
    )
    office.metrics.of_catalogue(lambda: kept.up, lambda: dict(kept.refused))
    return kept


def _guard(code: int) -> threading.Timer:
    """Ends the process when its time is over, whatever hangs: a chore, or a job in a thread.

    Leases were given back by then, and nothing is ever half written.
    """
    guard = threading.Timer(_LAST, os._exit, [code])
    guard.daemon = True
    guard.start()
    return guard


class _Loop:
    """Turns the service, in one thread at a time."""

    def __init__(self, office: _Office, pulse: Pulse, stop: Stop) -> None:
        self._service = office.service
        self._log = office.log
        self._pulse = pulse
        self._stop = stop
        self._lock = threading.Lock()
        self._trouble = self._recorded = ""

    def turn(self) -> None:
        """Ticks, and again as soon as a job is over, for about as long as to the next turn."""
        until = time.monotonic() + 0.8 * _TURN
        while True:
            with self._lock:
                self._do(self._service.tick)
            left = until - time.monotonic()
            if self._stop.told() or left <= 0 or not self._service.woken.wait(left):
                return

    def reread(self) -> None:
        """Looks at the mirror files."""
        with self._lock:
            self._do(self._service.reread)

    def end(self, patience: float) -> list[str]:
        """Lets what is under way come to its end; gives what does not, whose leases are over."""
        until = time.monotonic() + patience
        with self._lock:
            self._service.close()
            while not self._service.idle and time.monotonic() < until:
                self._do(self._service.tick)
                self._service.woken.wait(0.1)
            left = self._service.abandon()
        tell("stopped", f"left under way: {', '.join(left)}" if left else "nothing was left")
        return left

    def _do(self, what: Callable[[], object]) -> None:
        """A full disk, an index that is away: it is told once, and tried again."""
        try:
            what()
        except (NeuromirrorError, OSError) as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                tell("trouble", self._trouble, level=logging.ERROR)
        else:
            self._trouble = ""
        if self._trouble != self._recorded:
            self._record_trouble()
        self._pulse.beat()

    def _record_trouble(self) -> None:
        """Record what keeps the loop from working, or that nothing does any more.

        On a full disk that cannot be done; the next turn tries again.
        """
        with suppress(NeuromirrorError, OSError):
            if self._trouble:
                self._log.failed(SERVICE, self._trouble)
            else:
                self._log.succeeded(SERVICE)
            self._recorded = self._trouble


@contextmanager
def _clock(loop: _Loop, notifier: Notifier, office: _Office) -> Iterator[None]:
    """Runs the service's jobs at their times while the block lasts."""
    from apscheduler.executors.pool import ThreadPoolExecutor  # type: ignore[import-untyped]
    from apscheduler.jobstores.memory import MemoryJobStore  # type: ignore[import-untyped]
    from apscheduler.schedulers.background import (  # type: ignore[import-untyped]
        BackgroundScheduler,
    )

    # it warns of each turn that is left out because the last one is not over, as it is meant to be
    logging.getLogger("apscheduler").setLevel(logging.ERROR)

    def chores() -> None:
        with office.chore:
            office.chores.run_due()

    def status() -> None:
        waiting = sum(office.schedule.waiting(time.time()).values())
        notifier.status(f"{office.service.under_way} jobs under way, {waiting} tasks due")

    clock = BackgroundScheduler(
        timezone="UTC",
        jobstores={"default": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(4)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    for name, job, seconds in (
        ("turn", loop.turn, _TURN),
        ("mirror files", loop.reread, _REREAD),
        ("chores", chores, _CHORES),
        ("status", status, _STATUS),
    ):
        clock.add_job(job, "interval", seconds=seconds, id=name)
    clock.start()
    try:
        yield
    finally:
        clock.shutdown(wait=False)


# --- for cron


def serve_once(
    store: Store,
    index_path: Path,
    files: MirrorFiles,
    options: ServeOptions,
    heard: Callable[[Result], None],
) -> int:
    """Does what is due now, chores too, and tells ``heard`` how each dataset fared.

    Gives 0, 1 where a chore failed, or 128 and the number of the signal that ended it.
    """
    stop = Stop()
    logged = logging_to(as_json=True, mirrors=files.mirrors) if options.log_json else _unlogged()
    # superdatasets are written at the end, however long it takes
    opened = _office(store, index_path, files, options, stop, heard, math.inf)
    with stop.heeded(), logged, opened as office:
        service = office.service
        service.start()
        while not stop.told():
            if service.tick() or not service.idle:
                service.woken.wait(0.2)
            elif service.broken:
                raise NeuromirrorError(service.broken)
            elif not service.group_at_once():
                break
        failed = office.chores.run_due()
        guard = _guard(128 + stop.by) if stop.told() else None
        left = _Loop(office, Pulse(_HANGS), stop).end(_PATIENCE)
    if guard is not None:
        if not left:
            guard.cancel()
        return 128 + stop.by
    return 1 if failed else 0


@contextmanager
def _unlogged() -> Iterator[None]:
    """Results are printed instead."""
    logger, nowhere = logging.getLogger("neuromirror"), logging.NullHandler()
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)
