"""The service process: setup, clock and shutdown.

APScheduler is used as a clock only; all persistent state is in the schedule.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct, field

from neuromirror.crawl import FailureLog, Mirror, PrivateStore, Result, open_recorder
from neuromirror.crawl.recorder import SERVICE, lease_owner
from neuromirror.index import Schedule
from neuromirror.model import NeuromirrorError
from neuromirror.service.dask_cluster import DaskExecutor
from neuromirror.service.engine import SUPERDATASET_WAIT, MirrorFiles, Service
from neuromirror.service.executors import (
    JOB_MEMORY,
    JOB_SECONDS,
    ProcessExecutor,
    ThreadExecutor,
    job_context,
)
from neuromirror.service.health import HealthServer, Heartbeat, Readiness, SystemdNotifier
from neuromirror.service.housekeeping import (
    HousekeepingScheduler,
    HousekeepingSettings,
    housekeeping_tasks,
)
from neuromirror.service.logs import Secrets, log_event, logging_to
from neuromirror.service.servers import bound_address, format_address, open_listener
from neuromirror.service.writer import Writer
from neuromirror.store import Store, StoreBusyError

if TYPE_CHECKING:
    from neuromirror.service.metrics import Metrics

_TURN = 1.0
"""Seconds between two passes of the loop unless a finished job wakes it."""

_RELOAD, _HOUSEKEEPING, _STATUS, _CATALOGUE = 10, 60, 60, 5
_HANG_SECONDS = 120.0
"""Seconds without a pass after which the loop is considered hung."""

_STEP = 0.2
"""Seconds between two checks of the main thread for a signal."""

_STOP_TIMEOUT = 20.0
"""Seconds that running jobs have to finish when the service stops …"""

_EXIT_TIMEOUT = 28.0
"""… and that the whole shutdown may take."""


_CATALOGUE_EXIT: Final = 8.0
"""Seconds that requests to the catalogue have to finish when the service stops."""

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from neuromirror.cli import main; main(prog_name='neuromirror')"
)
"""The catalogue uses the module search path of this process."""


class ServiceRunningError(NeuromirrorError):
    """Another service already runs on the store."""


class ServeOptions(Struct, frozen=True):
    """Options of a service.

    Attributes
    ----------
    workers
        Maximum number of jobs at a time.
    executor
        ``processes`` or ``threads``.
    scheduler
        The address of a Dask scheduler to use instead; None for none.
    visit_seconds, worker_memory
        Limits of one job, in seconds and bytes.
    private
        The folder of the private store; None without one.
    metrics
        Host and port for health checks and metrics; None disables them.
    catalogue
        Host and port of the catalogue, whose other settings are in the environment; None disables
        it.
    log_json
        Whether log lines are JSON.
    housekeeping
        Settings of the housekeeping tasks.
    """

    workers: int = 4
    executor: str = "processes"
    scheduler: str | None = None
    visit_seconds: float = JOB_SECONDS
    worker_memory: int = JOB_MEMORY
    private: Path | None = None
    metrics: tuple[str, int] | None = None
    catalogue: tuple[str, int] | None = None
    log_json: bool = False
    housekeeping: HousekeepingSettings = field(default_factory=HousekeepingSettings)


def open_mirror_files(
    folder: Path, names: Sequence[str], store: Store, private: Path | None
) -> MirrorFiles:
    """Return the mirrors to serve: those named, or all in the folder of mirror files.

    Raises ConfigurationError if a mirror file is invalid, or a mirror needs a private store and it
    is missing.
    """
    side = PrivateStore(private, store)

    def check(mirror: Mirror) -> None:
        side.check_sources([mirror.open()])

    return MirrorFiles(folder, names, check)


class StopSignal:
    """Handles SIGTERM and SIGINT: the first stops the service, the second exits at once.

    Use it in the main thread. The signal handler only sets a number, because the interrupted
    thread may hold any lock that a longer handler would need.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals during the block."""
        before = [
            (one, signal.signal(one, self._handle)) for one in (signal.SIGTERM, signal.SIGINT)
        ]
        try:
            yield
        finally:
            for one, was in before:
                signal.signal(one, was)

    def _handle(self, number: int, frame: object) -> None:
        if self.signal_number:
            # workers exit with the process, and leases expire
            os._exit(128 + number)
        self.signal_number = number

    def is_received(self) -> bool:
        """Whether a signal was received."""
        return self.signal_number != 0

    def wait(self) -> None:
        """Wait for a signal.

        It polls, because the system may deliver a signal to any thread, and Python runs the handler
        when the main thread executes next.
        """
        while not self.signal_number:
            time.sleep(_STEP)


class _RunningService(Struct, frozen=True):
    """A service and the objects that it uses."""

    service: Service
    metrics: Metrics
    schedule: Schedule
    readiness: Readiness
    housekeeping: HousekeepingScheduler
    housekeeping_lock: threading.Lock
    log: FailureLog


@contextmanager
def _sole_service(store: Store) -> Iterator[None]:
    try:
        # 'neuromirror status' holds it for an instant
        with store.lock("service", "the service", wait=1.0):
            yield
    except StoreBusyError as error:
        raise ServiceRunningError(
            f"another 'neuromirror serve' is running on the store {store.root}; stop it first "
            "('neuromirror sync' can run beside a service)"
        ) from error


@contextmanager
def _open_service(
    store: Store,
    index_path: Path,
    files: MirrorFiles,
    options: ServeOptions,
    stop: StopSignal,
    on_result: Callable[[Result], None],
    group_wait: float = SUPERDATASET_WAIT,
) -> Iterator[_RunningService]:
    """Set up a service.

    Raises
    ------
    ServiceRunningError
        If another service runs on the store.
    ConfigurationError
        If an option cannot be used.
    SchedulerUnavailableError
        If the Dask scheduler cannot be reached.
    """
    from neuromirror.service.metrics import Metrics

    with ExitStack() as stack:
        stack.enter_context(_sole_service(store))
        recorder = stack.enter_context(open_recorder(store, index_path))
        schedule = stack.enter_context(Schedule.open(store.schedule_path))
        metrics = Metrics(store, index_path, schedule, files.mirrors)
        remote = options.scheduler is not None
        context = job_context(store, index_path, options.private, remote=remote)
        housekeeping_lock = threading.Lock()
        # a running housekeeping task uses all of the above
        stack.callback(housekeeping_lock.acquire)
        writer = stack.enter_context(closing(Writer(recorder, schedule)))
        executor = stack.enter_context(_executor(options, writer))
        name = lease_owner("serve")
        readiness = Readiness(store, index_path, schedule)
        service = Service(
            context,
            files,
            schedule,
            recorder,
            executor,
            workers=options.workers,
            owner=name,
            observer=metrics,
            on_result=on_result,
            problems=readiness.local_problems,
            superdataset_wait=group_wait,
        )
        tasks = housekeeping_tasks(
            store,
            index_path,
            recorder,
            schedule,
            options.housekeeping,
            is_stopping=stop.is_received,
            mirrors=files.served_mirrors,
        )
        log = FailureLog(recorder)
        housekeeping = HousekeepingScheduler(tasks, schedule, metrics, log, stop.is_received)
        yield _RunningService(
            service, metrics, schedule, readiness, housekeeping, housekeeping_lock, log
        )


def _executor(options: ServeOptions, writer: Writer) -> Executor:
    """Return the executor; when it is left, running jobs have had their time."""
    limits = (options.visit_seconds, options.worker_memory)
    if options.scheduler is not None:
        return DaskExecutor(options.scheduler, writer, *limits)
    if options.executor == "threads":
        return ThreadExecutor(options.workers, writer)
    return ProcessExecutor(options.workers, writer, *limits)


# --- continuous


def serve(store: Store, index_path: Path, files: MirrorFiles, options: ServeOptions) -> None:
    """Run the service: keep mirrors current until a signal stops the process.

    Errors are raised only while the service starts; later ones are logged.

    Parameters
    ----------
    store, index_path
        The store and its index.
    files
        The mirrors to serve, from :func:`open_mirror_files`.
    options
        The options of the service.
    """
    stop = StopSignal()
    with (
        stop.handled(),
        logging_to(as_json=options.log_json, mirrors=files.mirrors),
        _open_service(store, index_path, files, options, stop, lambda result: None) as running,
        ExitStack() as stack,
    ):
        heartbeat = Heartbeat(_HANG_SECONDS)
        if options.metrics is not None:
            server = HealthServer(
                options.metrics,
                heartbeat=heartbeat,
                problems=running.readiness.problems,
                metrics=running.metrics.page,
            )
            stack.enter_context(server)
            log_event("health server started", f"http://{format_address(server.address)}/healthz")
        watched: list[CatalogueProcess] = []
        if options.catalogue is not None:
            arguments = ["--store", str(store.root), "--index", str(index_path), "catalogue"]
            arguments += ["--log-json"] * options.log_json
            process = CatalogueProcess(options.catalogue, arguments, Secrets(files.mirrors))
            watched.append(stack.enter_context(process))
        notifier = SystemdNotifier.from_environment()
        running.service.start()
        loop = _ServiceLoop(running, heartbeat, stop)
        stack.enter_context(notifier.feed_watchdog(heartbeat))
        with _clock(loop, notifier, running, watched):
            names = ", ".join(sorted(files.mirrors))
            log_event("started", f"store {store.root}, mirrors {names}, {options.workers} workers")
            notifier.ready(f"{len(files.mirrors)} mirrors")
            stop.wait()
            notifier.stopping()
            running.readiness.stop()
            for process in watched:
                process.stop()
            guard = _exit_timer(0)
        log_event(
            "stopping",
            f"{signal.Signals(stop.signal_number).name}; running jobs have {_STOP_TIMEOUT:.0f} s",
        )
        left = loop.stop(_STOP_TIMEOUT)
    if not left:
        guard.cancel()


class CatalogueProcess:
    """``neuromirror catalogue`` in a process of its own, which is started again when it has ended.

    So it cannot slow down the service, and knows no secret. The service has the listening socket:
    during a restart the address stays bound, and clients wait. Raises ConfigurationError if the
    address cannot be bound.
    """

    def __init__(
        self, address: tuple[str, int], arguments: Sequence[str], secrets: Secrets
    ) -> None:
        self._listener = open_listener(address, "the catalogue")
        self._arguments = arguments
        self._secrets = secrets
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._process is not None:
            try:
                self._process.wait(_CATALOGUE_EXIT)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)

    def keep_running(self) -> None:
        """Start the process unless it is running."""
        with self._lock:
            process = self._process
            if self._is_stopping or (process is not None and process.poll() is None):
                return
            if process is not None:
                message = f"with code {process.returncode}; it is started again"
                log_event("catalogue exited", message, level=logging.ERROR)
            number = self._listener.fileno()
            secrets = self._secrets.names()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _PROGRAM, json.dumps(sys.path)),
                    *(*self._arguments, "--listener", str(number), "--service", str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                # the stdout of the service is for programs
                stdout=2,
                env={name: value for name, value in os.environ.items() if name not in secrets},
                pass_fds=[number],
                # Ctrl-C goes to the service, which stops this process
                start_new_session=True,
            )
            log_event(
                "catalogue started", f"http://{format_address(bound_address(self._listener))}"
            )

    def stop(self) -> None:
        """Close the listening socket and terminate the process, without waiting for its exit."""
        with self._lock:
            self._is_stopping = True
            self._listener.close()
            if self._process is not None:
                self._process.terminate()


def _exit_timer(code: int) -> threading.Timer:
    """Start a timer that exits if a housekeeping task or a job in a thread hangs.

    Leases have been released by then, and all writes are atomic.
    """
    guard = threading.Timer(_EXIT_TIMEOUT, os._exit, [code])
    guard.daemon = True
    guard.start()
    return guard


class _ServiceLoop:
    """Runs the ticks of the service, one at a time."""

    def __init__(self, running: _RunningService, heartbeat: Heartbeat, stop: StopSignal) -> None:
        self._service = running.service
        self._log = running.log
        self._heartbeat = heartbeat
        self._stop = stop
        self._lock = threading.Lock()
        self._error = ""
        self._is_recorded = True

    def turn(self) -> None:
        """Tick now and after each finished job, until shortly before the next pass."""
        until = time.monotonic() + 0.8 * _TURN
        while True:
            with self._lock:
                self._tick()
            left = until - time.monotonic()
            if self._stop.is_received() or left <= 0 or not self._service.wakeup.wait(left):
                return

    def reload_mirror_files(self) -> None:
        """Reload changed mirror files; what cannot be recorded now is recorded the next time."""
        with self._lock, suppress(NeuromirrorError, OSError):
            self._service.reload_mirror_files()

    def stop(self, timeout: float) -> list[str]:
        """Wait for running jobs; release the leases of the others and return their names."""
        until = time.monotonic() + timeout
        with self._lock:
            self._service.close()
            while not self._service.is_idle and time.monotonic() < until:
                self._tick()
                self._service.wakeup.wait(0.1)
            left = self._service.abandon()
        log_event("stopped", f"interrupted: {', '.join(left)}" if left else "all jobs finished")
        return left

    def _tick(self) -> None:
        """Tick; log an error such as a full disk once, and retry at the next pass."""
        error = ""
        try:
            self._service.tick()
        except (NeuromirrorError, OSError) as raised:
            error = str(raised)
        if error != self._error:
            self._error, self._is_recorded = error, False
            if error:
                log_event("service error", error, level=logging.ERROR)
        if not self._is_recorded:
            self._record_error()
        self._heartbeat.beat()

    def _record_error(self) -> None:
        """Record the error of the loop, or its end; retried at the next pass if that fails."""
        with suppress(NeuromirrorError, OSError):
            if self._error:
                self._log.record_failure(SERVICE, self._error)
            else:
                self._log.record_success(SERVICE)
            self._is_recorded = True


@contextmanager
def _clock(
    loop: _ServiceLoop,
    notifier: SystemdNotifier,
    running: _RunningService,
    watched: Sequence[CatalogueProcess],
) -> Iterator[None]:
    """Run the periodic functions of the service during the block."""
    from apscheduler.executors.pool import ThreadPoolExecutor  # type: ignore[import-untyped]
    from apscheduler.jobstores.memory import MemoryJobStore  # type: ignore[import-untyped]
    from apscheduler.schedulers.background import BackgroundScheduler  # type: ignore[import-untyped]

    # it warns of each skipped pass, which is normal while the last one is running
    logging.getLogger("apscheduler").setLevel(logging.ERROR)

    def run_housekeeping() -> None:
        with running.housekeeping_lock:
            running.housekeeping.run_due()

    def status() -> None:
        waiting = sum(running.schedule.waiting(time.time()).values())
        notifier.status(f"{running.service.running_count} running jobs, {waiting} tasks due")

    clock = BackgroundScheduler(
        timezone="UTC",
        jobstores={"default": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(4)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    for name, job, seconds in (
        *(("catalogue", process.keep_running, _CATALOGUE) for process in watched),
        ("tick", loop.turn, _TURN),
        ("mirror files", loop.reload_mirror_files, _RELOAD),
        ("housekeeping", run_housekeeping, _HOUSEKEEPING),
        ("status", status, _STATUS),
    ):
        clock.add_job(job, "interval", seconds=seconds, id=name)
    for name in ("tick", *["catalogue"] * len(watched)):
        clock.modify_job(name, next_run_time=datetime.now(UTC))
    clock.start()
    try:
        yield
    finally:
        clock.shutdown(wait=False)


# --- once, for cron


def serve_once(
    store: Store,
    index_path: Path,
    files: MirrorFiles,
    options: ServeOptions,
    on_result: Callable[[Result], None],
) -> int:
    """Run everything that is due now, housekeeping included, and return the exit code.

    Parameters
    ----------
    store, index_path, files, options
        As for :func:`serve`.
    on_result
        Receives the result of each dataset.

    Returns
    -------
    int
        0; 1 if a housekeeping task failed; 128 plus the number of a signal that stopped it.
    """
    stop = StopSignal()
    logged = logging_to(as_json=True, mirrors=files.mirrors) if options.log_json else _unlogged()
    # superdatasets are updated at the end, however long it takes
    opened = _open_service(store, index_path, files, options, stop, on_result, math.inf)
    with stop.handled(), logged, opened as running:
        service = running.service
        service.start()
        while not stop.is_received():
            if service.tick() or not service.is_idle:
                service.wakeup.wait(0.2)
            elif service.pause_reason:
                raise NeuromirrorError(service.pause_reason)
            elif not service.make_superdatasets_due():
                break
        failed = running.housekeeping.run_due()
        guard = _exit_timer(128 + stop.signal_number) if stop.is_received() else None
        left = _ServiceLoop(running, Heartbeat(_HANG_SECONDS), stop).stop(_STOP_TIMEOUT)
    if guard is not None:
        if not left:
            guard.cancel()
        return 128 + stop.signal_number
    return 1 if failed else 0


@contextmanager
def _unlogged() -> Iterator[None]:
    """Log nothing, since results are printed."""
    logger, nowhere = logging.getLogger("neuromirror"), logging.NullHandler()
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)
