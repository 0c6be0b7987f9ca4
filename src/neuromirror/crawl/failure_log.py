"""Tasks that fail, on record until they succeed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.results import Result, describe_error
from neuromirror.crawl.timestamps import current_timestamp
from neuromirror.index import FailureRow
from neuromirror.model import NeuromirrorError, TaskFailed, TaskRecovered
from neuromirror.net import redact
from neuromirror.store import HousekeepingResult, Store

LIST: Final = "list"
"""Reading a mirror's list, or the overview of one dataset that was never visited."""
PROBE: Final = "probe"
SUPERDATASETS: Final = "superdatasets"
PRIVATE: Final = "private"
"""A mirror's embargoed datasets."""
HOUSEKEEPING: Final = "housekeeping"
BACKUP: Final = "backup"
AUDIT: Final = "audit"

CONFIGURATION: Final = "configuration"
"""Reading a mirror's file, or the folder of them, while the service runs."""
WORKERS: Final = "workers"
SERVICE: Final = "service"
CATALOGUE: Final = "catalogue"
SERVICE_TASKS: Final = frozenset({CONFIGURATION, WORKERS, SERVICE, CATALOGUE})
"""Tasks of a running service: a new one starts without failures of these."""

TOP_ALIAS: Final = "neuromirror"
"""The alias of the superdataset above those of all mirrors."""


class FailureLog:
    """Records which tasks fail, and which of those succeed again; nothing where neither is news.

    For many threads, as the recorder is.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def record_failure(self, task: str, message: str, name: str = "") -> None:
        """Record that a task failed; ``name`` is a mirror's or a dataset's, empty for the store."""
        known = self.open_failures(task, name)
        if all(one.message != message for one in known):
            self._recorder.record(TaskFailed(task, *_split(name), message, current_timestamp()))

    def record_success(self, task: str, name: str = "", *, with_datasets: bool = False) -> None:
        """Record that a task succeeded, if it had failed.

        ``with_datasets``: the success of a mirror's task is one for each of its datasets.
        """
        for one in self.open_failures(task, name, with_datasets=with_datasets):
            self._recorder.record(TaskRecovered(task, *_split(_name(one)), current_timestamp()))

    def open_failures(
        self, task: str, name: str = "", *, with_datasets: bool = False
    ) -> list[FailureRow]:
        """Return the failures of a task on record."""
        found = self._recorder.ask(lambda index: index.failed_tasks())
        return [
            one
            for one in found
            if one.task == task
            and (_name(one) == name or (with_datasets and name and one.mirror == name))
        ]

    def forget_others(self, mirrors: Collection[str]) -> None:
        """Forget the failures of mirrors that are not among ``mirrors``: no file declares them."""
        self._forget(lambda one: bool(one.mirror) and one.mirror not in mirrors)

    def forget_mirror(self, mirror: str) -> None:
        """Forget the failures of a mirror: its file is gone."""
        self._forget(lambda one: one.mirror == mirror)

    def forget(self, tasks: Collection[str]) -> None:
        """Forget the failures of tasks that are not done any more."""
        self._forget(lambda one: one.task in tasks)

    def _forget(self, is_over: Callable[[FailureRow], bool]) -> None:
        for one in self._recorder.ask(lambda index: index.failed_tasks()):
            if is_over(one):
                self._recorder.record(
                    TaskRecovered(one.task, *_split(_name(one)), current_timestamp())
                )

    @contextmanager
    def watch(self, task: str, name: str = "") -> Iterator[None]:
        """Record how the block ends; what it raises is raised, even where it cannot be recorded.

        Wrong usage (exit code 2) is no failure of the task.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, NeuromirrorError) and error.exit_code == 2:
                raise
            with suppress(NeuromirrorError, OSError):
                self.record_failure(task, redact(str(error)), name)
            raise
        self.record_success(task, name)


def name_from_alias(alias: str) -> str:
    """Return the dataset that has an alias; a mirror where it is of a superdataset."""
    return alias.replace("--", ":", 1).replace("--", "/")


def record_housekeeping(log: FailureLog, result: HousekeepingResult) -> None:
    """Record how the housekeeping of one repository ended; nothing where it was in use."""
    if result.status == "error":
        log.record_failure(HOUSEKEEPING, result.message, name_from_alias(result.alias))
    elif result.status != "impossible":
        log.record_success(HOUSEKEEPING, name_from_alias(result.alias))


def run_step(
    task: str, name: str, store: Store, log: FailureLog, step: Callable[[], object]
) -> Iterator[Result]:
    """Do a step of a run; a failure is recorded and a result, and the run goes on.

    ``name`` is what the result is called by: a mirror, or the superdataset above all of them.
    """
    mirror = "" if name == TOP_ALIAS else name
    try:
        step()
    except Exception as error:  # noqa: BLE001 - recorded, and a result
        message = describe_error(error, store)
        yield Result(
            name, "error", message + _try_record_failure(log, task, message, mirror), "failed"
        )
        return
    try:
        log.record_success(task, mirror)
    except (NeuromirrorError, OSError) as error:
        yield Result(name, "error", describe_error(error, store), "failed")


def _try_record_failure(log: FailureLog, task: str, message: str, name: str) -> str:
    """Record a failure; return what to add to its message where that cannot be done."""
    try:
        log.record_failure(task, message, name)
    except (NeuromirrorError, OSError) as error:
        return f"; not recorded: {error}"
    return ""


def _name(row: FailureRow) -> str:
    return row.dataset or row.mirror


def _split(name: str) -> tuple[str, str]:
    mirror, _, local_id = name.partition(":")
    return mirror, local_id
