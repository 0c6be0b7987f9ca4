"""The record of failing tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.results import Result, describe_error
from neuromirror.crawl.unexpected_errors import PluginSource
from neuromirror.index import FailureRow
from neuromirror.model import (
    NeuromirrorError,
    TaskFailed,
    TaskRecovered,
    current_timestamp,
    name_from_alias,
)
from neuromirror.net import redact
from neuromirror.store import HousekeepingResult, Store

LIST: Final = "list"
"""Reading a mirror's list, or the overview of one dataset that was never visited."""
PROBE: Final = "probe"
SUPERDATASETS: Final = "superdatasets"
PRIVATE: Final = "private"
"""Syncing a mirror's embargoed datasets."""
HOUSEKEEPING: Final = "housekeeping"
BACKUP: Final = "backup"
AUDIT: Final = "audit"
PUBLISH: Final = "publish"
"""Pushing datasets to a sibling."""

CONFIGURATION: Final = "configuration"
"""Reading a mirror file, or the folder of mirror files, while the service runs."""
WORKERS: Final = "workers"
SERVICE: Final = "service"
CATALOGUE: Final = "catalogue"
SERVICE_TASKS: Final = frozenset({CONFIGURATION, WORKERS, SERVICE, CATALOGUE})
"""Tasks of a running service; a new service starts with no failures of these on record."""

TOP_ALIAS: Final = "neuromirror"
"""The alias of the superdataset above those of all mirrors."""


class FailureLog:
    """Records which tasks fail and which failed tasks succeed again; thread-safe.

    A failure that is already recorded with the same message is not recorded again.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def record_failure(self, task: str, message: str, name: str = "") -> None:
        """Record that a task failed.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        message
            The reason of the failure.
        name
            The mirror or dataset; empty for the store.
        """
        known = self.open_failures(task, name)
        if all(one.message != message for one in known):
            self._recorder.record(TaskFailed(task, *_split(name), message, current_timestamp()))

    def record_success(self, task: str, name: str = "", *, with_datasets: bool = False) -> None:
        """Record that a task succeeded, if it failed before.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        name
            The mirror or dataset; empty for the whole store.
        with_datasets
            Whether the success of a mirror's task also counts for each of its datasets.
        """
        for one in self.open_failures(task, name, with_datasets=with_datasets):
            self._recorder.record(TaskRecovered(task, *_split(_name(one)), current_timestamp()))

    def open_failures(
        self, task: str, name: str = "", *, with_datasets: bool = False
    ) -> list[FailureRow]:
        """Return the recorded failures of a task.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        name
            The mirror or dataset; empty for the whole store.
        with_datasets
            Whether to include the failures of a mirror's datasets.

        Returns
        -------
        list of FailureRow
            The failures without a later success.
        """
        mirror, _ = _split(name)
        found = self._recorder.ask(lambda index: index.failed_tasks(task, mirror))
        if with_datasets and name == mirror:
            return found
        return [one for one in found if _name(one) == name]

    def forget_others(self, mirrors: Collection[str]) -> None:
        """Forget the failures of other mirrors, which have no mirror file.

        Parameters
        ----------
        mirrors
            The names of the mirrors whose failures are kept.
        """
        self._forget(lambda one: bool(one.mirror) and one.mirror not in mirrors)

    def forget_mirror(self, mirror: str) -> None:
        """Forget the failures of a mirror whose file was removed.

        Parameters
        ----------
        mirror
            The name of the mirror.
        """
        self._forget(lambda one: one.mirror == mirror)

    def forget(self, tasks: Collection[str]) -> None:
        """Forget the failures of tasks that are no longer run.

        Parameters
        ----------
        tasks
            The names of the tasks.
        """
        self._forget(lambda one: one.task in tasks)

    def _forget(self, is_over: Callable[[FailureRow], bool]) -> None:
        for one in self._recorder.ask(lambda index: index.failed_tasks()):
            if is_over(one):
                self._recorder.record(
                    TaskRecovered(one.task, *_split(_name(one)), current_timestamp())
                )

    @contextmanager
    def watch(self, task: str, name: str = "") -> Iterator[None]:
        """Record whether the block succeeds; exceptions are propagated even if recording fails.

        Invalid usage (exit code 2) is not recorded as a failure.

        Parameters
        ----------
        task
            The name of the task, as in :class:`~neuromirror.model.TaskFailed`.
        name
            The mirror or dataset; empty for the whole store.
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


def record_housekeeping(log: FailureLog, result: HousekeepingResult) -> None:
    """Record the result of one repository's housekeeping; a busy repository is not recorded."""
    if result.status == "error":
        log.record_failure(HOUSEKEEPING, result.message, name_from_alias(result.alias))
    elif result.status != "impossible":
        log.record_success(HOUSEKEEPING, name_from_alias(result.alias))


def run_step(
    task: str,
    name: str,
    store: Store,
    log: FailureLog,
    step: Callable[[], object],
    plugin: PluginSource | None = None,
) -> Iterator[Result]:
    """Call a function; record its failure and yield it as a result, so that the run can continue.

    Nothing is yielded if the function succeeds.

    Parameters
    ----------
    task
        The name of the task in the failure log.
    name
        The name in the result: a mirror, or the top superdataset.
    store
        The store, for messages about its disk.
    log
        Records failure or success.
    step
        The function.
    plugin
        The plugin that the function uses as the source, for messages about unexpected errors.
    """
    mirror = "" if name == TOP_ALIAS else name
    try:
        step()
    except Exception as error:  # noqa: BLE001 - recorded and returned as a result
        message = describe_error(error, store, plugin)
        yield Result(
            name, "error", message + _try_record_failure(log, task, message, mirror), "failed"
        )
        return
    try:
        log.record_success(task, mirror)
    except (NeuromirrorError, OSError) as error:
        yield Result(name, "error", describe_error(error, store), "failed")


def _try_record_failure(log: FailureLog, task: str, message: str, name: str) -> str:
    """Record a failure; return text to append to its message if that fails."""
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
