"""Scheduler for the housekeeping tasks of a service, which run one at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from neuromirror.crawl import FailureLog
from neuromirror.crawl.plan import describe_unexpected
from neuromirror.index import Schedule, TaskRow
from neuromirror.model import NeuromirrorError
from neuromirror.service.housekeeping_tasks import HousekeepingError, HousekeepingTask
from neuromirror.service.logs import log_event
from neuromirror.service.running_jobs import ServiceObserver
from neuromirror.service.scheduling_policy import jitter

HOUSEKEEPING_PREFIX = "housekeeping "
"""Prefix of the schedule's rows for housekeeping tasks; names of datasets contain no space."""


class HousekeepingScheduler:
    """Runs the housekeeping tasks that are due, one at a time.

    Parameters
    ----------
    tasks
        The tasks.
    schedule
        Has the time at which each task is due next.
    observer
        Is called for each finished task.
    log
        Records failures that a task does not record itself.
    is_stopping
        No task starts once it returns true.
    clock
        Returns POSIX seconds.
    """

    def __init__(
        self,
        tasks: Sequence[HousekeepingTask],
        schedule: Schedule,
        observer: ServiceObserver,
        log: FailureLog,
        is_stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tasks = tasks
        self._schedule = schedule
        self._observer = observer
        self._log = log
        self._is_stopping = is_stopping
        self._clock = clock

    def run_due(self) -> int:
        """Run the due tasks; return how many failed."""
        return sum(not self._run(one) for one in self._tasks if self._is_due(one))

    def _row(self, task: HousekeepingTask) -> TaskRow:
        name = HOUSEKEEPING_PREFIX + task.name
        return self._schedule.task(name) or TaskRow(name, spacing=task.interval)

    def _is_due(self, task: HousekeepingTask) -> bool:
        row, now = self._row(task), self._clock()
        # a wrong clock must not postpone a task by more than its interval
        soon = row.due is None or row.due <= now or row.due > now + 2 * task.interval
        return soon and not self._is_stopping()

    def _run_and_record(self, task: HousekeepingTask) -> tuple[str, bool]:
        """Run a task; return its message, and whether it succeeded."""
        failed = ""
        try:
            message, done = task.run(), True
        except HousekeepingError as error:
            message, done = str(error), False
        except (NeuromirrorError, OSError) as error:
            message, done, failed = str(error), False, str(error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not stop the others
            failed = describe_unexpected(error)
            message, done = failed, False
        try:
            if failed:
                self._log.record_failure(task.name, failed)
            else:
                self._log.record_success(task.name)
        except (NeuromirrorError, OSError) as error:
            return f"{message}; not recorded: {error}", False
        return message, done

    def _run(self, task: HousekeepingTask) -> bool:
        began = time.monotonic()
        message, done = self._run_and_record(task)
        seconds, now, row = time.monotonic() - began, self._clock(), self._row(task)
        self._schedule.put(
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
        self._observer.housekeeping_finished(task.name, done, seconds)
        log_event(
            "housekeeping finished" if done else "housekeeping failed",
            message,
            level=logging.INFO if done else logging.ERROR,
            kind=task.name,
            seconds=seconds,
        )
        return done
