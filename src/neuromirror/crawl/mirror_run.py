"""Bring one mirror up to date in one store: plan, visit what is due, record."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial

from msgspec.structs import replace

from neuromirror.config.mirror_files import Mirror
from neuromirror.crawl.dataset_visit import DatasetVisit
from neuromirror.crawl.failure_log import LIST, PROBE, FailureLog, run_step
from neuromirror.crawl.guards.events import record_return, record_tombstone
from neuromirror.crawl.plan import DatasetTask, takedown_message
from neuromirror.crawl.planner import Planner, SyncRequest, resolve_vanished
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.results import (
    Result,
    describe_error,
    public_cause,
    result_from_outcome,
    unplanned_result,
)
from neuromirror.crawl.run_options import RunOptions, VisitPolicy, VisitSkippedError
from neuromirror.crawl.unexpected_errors import PluginSource, describe_unexpected
from neuromirror.crawl.visit_log import VisitLog
from neuromirror.index import CrawlIndex, LastVisit, MirrorStatus
from neuromirror.model import (
    ConfigurationError,
    DatasetHint,
    DatasetRef,
    MirrorProbed,
    MirrorSeen,
    NeuromirrorError,
    VersionKind,
    current_timestamp,
)
from neuromirror.net import TrafficCounter, count_traffic
from neuromirror.sources import DatasetNotFoundError, Source
from neuromirror.store import Store

_GC_THRESHOLD = 50_000
"""Allocations between runs of the cyclic garbage collector."""


@contextmanager
def _infrequent_gc() -> Iterator[None]:
    """Run the cyclic garbage collector less often during the block.

    A page of a listing is about ten thousand objects without cycles; scanning them repeatedly took
    an eighth of the time of a first crawl.
    """
    before = gc.get_threshold()
    # a threshold of 0 means that the collector is disabled: keep it
    gc.set_threshold(before[0] and max(before[0], _GC_THRESHOLD), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class MirrorRun:
    """A run over one mirror in one store: plans the visits, makes them and records their results.

    Parameters
    ----------
    store, recorder, source
        The store with its recorder, and the mirror's source.
    options
        The options of the run.
    policy
        How datasets are treated that belong in another store.
    add_to_total
        Called with the number of datasets as they are planned.
    traffic
        Counts all requests of the run, in visits and outside them.
    plugin
        The plugin of the source; None for one of neuromirror's own sources.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        source: Source,
        options: RunOptions,
        policy: VisitPolicy,
        add_to_total: Callable[[int], None],
        traffic: TrafficCounter,
        plugin: PluginSource | None,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._source = source
        self._options = options
        self._policy = policy
        self._add_to_total = add_to_total
        self._traffic = traffic
        self._plugin = plugin
        self._log = FailureLog(recorder)
        self._visit_log = VisitLog(recorder)

    def visit(self, request: SyncRequest) -> Iterator[Result]:
        """Visit the datasets of a request, without the steps for the mirror as a whole."""
        planned = yield from self._plan(request)
        if planned is None:
            return
        tasks, vanished_ids = planned
        self._add_to_total(len(tasks) + len(vanished_ids))
        yield from self._unvisited_results(tasks)
        due = [task for task in tasks if task.action == "visit"]
        yield from self._visit_all(due, request.mirror, [])
        yield from self._check_all_vanished(vanished_ids, request)

    def _plan(
        self, request: SyncRequest
    ) -> Generator[Result, None, tuple[list[DatasetTask], list[str]] | None]:
        def plan(index: CrawlIndex) -> tuple[list[DatasetTask], list[str]]:
            with count_traffic(self._traffic):
                planner = Planner(
                    index, self._options.visit_all_reason, self._policy.in_private_store
                )
                return planner.plan(request, self._source)

        try:
            tasks, vanished_ids = self._recorder.ask(plan)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded and returned as a result
            yield self._record_unplanned(request, error)
            return None
        try:
            self._record_overview(request)
        except (NeuromirrorError, OSError) as error:
            yield Result(request.name, "error", self._describe(error), "failed")
            return None
        return [
            task for task in tasks if not self._policy.is_excluded(task.hint.dataset)
        ], vanished_ids

    def _record_overview(self, request: SyncRequest) -> None:
        """Record that the overview of the mirror or of one dataset was read."""
        if request.local_id is None:
            self._store.mark_listed(request.mirror.name)
        self._log.record_success(LIST, request.name, with_datasets=request.local_id is None)

    def _record_unplanned(self, request: SyncRequest, error: Exception) -> Result:
        """Record that the overview could not be read, and return that as a result."""
        result = unplanned_result(request, error, self._describe(error))
        result = replace(result, cause=public_cause(error))
        name = request.mirror.name
        try:
            last_visits = self._recorder.ask(lambda index: index.last_visits(name))
            last = last_visits.get(request.local_id or "")
            if last is not None and request.local_id is not None:
                dataset = self._source.dataset(request.local_id)
                self._visit_log.record_result(dataset, last, result)
            elif not isinstance(error, DatasetNotFoundError):
                # an unknown id is probably a typing error
                self._log.record_failure(LIST, result.message, request.name)
        except (NeuromirrorError, OSError) as failure:
            return replace(result, message=f"{result.message}; not recorded: {failure}")
        return result

    def results(
        self, request: SyncRequest, defer: Callable[[DatasetTask], None] | None = None
    ) -> Iterator[Result]:
        """Yield the results as datasets finish; pass due tasks to ``defer`` instead, if given."""
        planned = yield from self._plan(request)
        if planned is None:
            return
        tasks, vanished_ids = planned
        name = request.mirror.name
        failed = list(self._run_step(PROBE, name, lambda: self._record_mirror(request.mirror)))
        if failed:
            yield from failed
            return
        yield from self._run_step(PROBE, name, lambda: self._record_capabilities(name))
        self._add_to_total(len(tasks) + len(vanished_ids))
        yield from self._unvisited_results(tasks)
        due = [task for task in tasks if task.action == "visit"]
        if defer is not None:
            self._add_to_total(-len(due))
            for task in due:
                defer(task)
        else:
            earlier_state_counts: list[int] = []
            yield from self._visit_all(due, request.mirror, earlier_state_counts)
            if self._options.history and earlier_state_counts and not any(earlier_state_counts):
                message = "no earlier states: upstream keeps none, or all are mirrored already"
                yield Result(name, "notneeded", message)
        yield from self._check_all_vanished(vanished_ids, request)

    def _run_step(self, task: str, name: str, step: Callable[[], object]) -> Iterator[Result]:
        return run_step(task, name, self._store, self._log, step, self._plugin)

    def _describe(self, error: Exception) -> str:
        """Return an error as one line for a message."""
        return describe_error(error, self._store, self._plugin)

    def _unvisited_results(self, tasks: Iterable[DatasetTask]) -> Iterator[Result]:
        """Yield the results of datasets that are not visited."""
        for task in tasks:
            if task.action == "unavailable":
                yield from self._report_unavailable(task.hint.dataset, task.reason, task.last_visit)
            elif task.action == "refused":
                yield self._record_failed(task.hint.dataset, task.last_visit, task.reason)
            elif task.action == "held":
                yield Result(task.hint.dataset.name, "impossible", task.reason, "held")
            elif task.action != "visit":
                yield Result(task.hint.dataset.name, "notneeded", task.reason)

    def _check_all_vanished(
        self, vanished_ids: Iterable[str], request: SyncRequest
    ) -> Iterator[Result]:
        known: Mapping[str, LastVisit] = {}
        if vanished_ids:
            known = self._recorder.ask(lambda index: index.last_visits(request.mirror.name))
        for local_id in vanished_ids:
            dataset, refusal = self._recorder.ask(partial(resolve_vanished, self._source, local_id))
            last = known.get(local_id)
            if refusal:
                yield self._record_failed(dataset, last, refusal)
            else:
                yield from self._check_vanished(dataset, last)

    def _report_unavailable(
        self, dataset: DatasetRef, reason: str, last: LastVisit | None
    ) -> Iterator[Result]:
        """Yield the result of a dataset that cannot be read, for a reason stated upstream."""
        try:
            result = self._policy.unavailable_result(dataset, reason)
            if result is not None and result.visit == "failed" and last is None:
                # a dataset that was never visited has no visit to compare with
                self._log.record_failure(LIST, result.message, dataset.name)
            elif result is not None and result.visit == "failed":
                self._visit_log.record_result(dataset, last, result)
            elif last is not None and last.status in ("failed", "partial"):
                # the failure is resolved: upstream states the reason
                ended = Result(dataset.name, "notneeded", reason, "unavailable")
                self._visit_log.record_result(dataset, last, ended)
        except (NeuromirrorError, OSError) as error:
            result = Result(dataset.name, "error", self._describe(error), "failed")
        if result is None:
            self._add_to_total(-1)
        else:
            yield result

    def _record_mirror(self, mirror: Mirror) -> None:
        seen = {one.mirror: (one.source, one.uri) for one in mirror_statuses(self._recorder)}
        kind, uri = mirror.settings.source, self._source.uri
        if seen.get(mirror.name) != (kind, uri):
            self._recorder.record(MirrorSeen(mirror.name, kind, uri, current_timestamp()))

    def _record_capabilities(self, mirror: str) -> None:
        """Record the archive's capabilities if they changed."""
        with count_traffic(self._traffic):
            found = dict(self._source.capabilities())
        if self._recorder.ask(lambda index: index.capabilities(mirror)) != found:
            self._recorder.record(MirrorProbed(mirror, found, current_timestamp()))

    def _visit_all(
        self, due: list[DatasetTask], mirror: Mirror, earlier_state_counts: list[int]
    ) -> Iterator[Result]:
        """Visit datasets concurrently.

        The number of earlier states that each has upstream is appended to ``earlier_state_counts``.
        """
        jobs = max(1, min(self._options.jobs, len(due)))
        with _infrequent_gc(), ThreadPoolExecutor(jobs) as pool:
            running: dict[Future[Result], DatasetTask] = {
                pool.submit(self._visit_and_count, task, mirror, earlier_state_counts): task
                for task in due
            }
            try:
                for future in as_completed(running):
                    failure = future.exception()
                    if failure is None:
                        yield future.result()
                    elif isinstance(failure, KeyboardInterrupt | SystemExit):
                        raise failure
                    else:
                        # an internal error in one dataset must not stop the others
                        yield Result(
                            running[future].hint.dataset.name,
                            "error",
                            describe_unexpected(failure, self._plugin),
                            "failed",
                        )
            finally:
                for future in running:
                    future.cancel()

    def _visit_and_count(
        self, task: DatasetTask, mirror: Mirror, earlier_state_counts: list[int]
    ) -> Result:
        visit_traffic = TrafficCounter()
        with count_traffic(self._traffic), count_traffic(visit_traffic):
            result = self._visit_dataset(task, mirror, earlier_state_counts, visit_traffic)
        return replace(result, traffic=visit_traffic.hosts())

    def _visit_dataset(
        self,
        task: DatasetTask,
        mirror: Mirror,
        earlier_state_counts: list[int],
        visit_traffic: TrafficCounter,
    ) -> Result:
        """Visit a dataset; ``visit_traffic`` counts the requests of the visit."""
        source, recorder = self._source, self._recorder
        hint, dataset = task.hint, task.hint.dataset
        started, prefix = current_timestamp(), ""
        visit = DatasetVisit(source, self._store, recorder, mirror.settings, hint)
        try:
            with (
                self._policy.claim(dataset),
                self._store.lock(dataset.dataset_id, dataset.name),
            ):
                tombstone = recorder.ask(lambda index: index.tombstone(dataset.name))
                if tombstone is not None:
                    # taken down after the visit was planned
                    raise VisitSkippedError(takedown_message(tombstone))
                prefix = self._policy.prepare(dataset)
                if task.last_visit is not None and task.last_visit.status == "not_found":
                    record_return(recorder, dataset)
                outcome = visit.run(
                    deep=self._options.deep,
                    history=self._options.history,
                    pending_only=task.pending_only,
                )
        except VisitSkippedError as error:
            return Result(dataset.name, "notneeded", str(error))
        except Exception as error:  # noqa: BLE001 - must not stop the visits of other datasets
            status = "partial" if visit.outcome.new_labels else "failed"
            message = self._describe(error)
            result = Result(dataset.name, "error", message, status, tuple(visit.outcome.new_labels))
            result = replace(result, cause=public_cause(error))
        else:
            earlier_state_counts.append(outcome.earlier_state_count)
            result = result_from_outcome(dataset, outcome)
            result = replace(result, refused_count=outcome.refused_count)
        if prefix:
            status = "ok" if result.status == "notneeded" else result.status
            result = replace(result, status=status, message=prefix + result.message)
        try:
            pending = max(visit.outcome.pending_files, len(visit.outcome.unfinished_components))
            self._visit_log.record_visit(task, started, result, pending, visit_traffic)
        except (NeuromirrorError, OSError) as error:
            return Result(dataset.name, "error", self._describe(error), "failed")
        return result

    def _check_vanished(self, dataset: DatasetRef, last: LastVisit | None) -> Iterator[Result]:
        """Check a dataset that is no longer listed; record a tombstone if it does not exist."""
        started, visit_traffic = current_timestamp(), TrafficCounter()
        try:
            hint = self._hint(dataset, visit_traffic)
        except DatasetNotFoundError as error:
            message = "no longer exists upstream; the mirrored copy is kept"
            status = "error"
            if error.owner_may_delete and not self._has_published(dataset):
                message = f"a draft, which its owner may delete, {message}"
                status = "ok"
            try:
                record_tombstone(self._recorder, dataset, str(error))
                if last is None or last.status != "not_found":
                    self._visit_log.record_tombstone_visit(dataset, started, message, visit_traffic)
            except (NeuromirrorError, OSError) as failure:
                message, status = self._describe(failure), "error"
            yield Result(dataset.name, status, message, "not_found", traffic=visit_traffic.hosts())
        except Exception as error:  # noqa: BLE001 - recorded and returned as a result
            message = self._describe(error)
            yield self._record_failed(dataset, last, message, started, visit_traffic)
        else:
            if hint.unavailable is not None:
                yield from self._report_unavailable(dataset, hint.unavailable, last)
                return
            message = "missing in the archive's list, but still available; try again"
            yield self._record_failed(dataset, last, message, started, visit_traffic)

    def _has_published(self, dataset: DatasetRef) -> bool:
        """Return whether the store has a version that upstream published."""
        kind, name = VersionKind.PUBLISHED.value, dataset.name
        return self._recorder.ask(lambda index: index.last_version(name, kind)) is not None

    def _record_failed(
        self,
        dataset: DatasetRef,
        last: LastVisit | None,
        message: str,
        started: str | None = None,
        visit_traffic: TrafficCounter | None = None,
    ) -> Result:
        """Record that a dataset could not be visited or checked, and return that as a result."""
        traffic = {} if visit_traffic is None else visit_traffic.hosts()
        result = Result(dataset.name, "error", message, "failed", traffic=traffic)
        try:
            self._visit_log.record_result(dataset, last, result, started, visit_traffic)
        except (NeuromirrorError, OSError) as error:
            return replace(result, message=f"{message}; not recorded: {error}")
        return result

    def _hint(self, dataset: DatasetRef, visit_traffic: TrafficCounter) -> DatasetHint:
        with count_traffic(self._traffic), count_traffic(visit_traffic):
            return self._source.hint(dataset)


def mirror_statuses(recorder: Recorder) -> list[MirrorStatus]:
    """Return the status of each mirror in the index."""
    return recorder.ask(lambda index: list(index.mirror_status()))
