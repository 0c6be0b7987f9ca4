"""Sync mirrors, or report what a sync would do."""

from __future__ import annotations

import gc
from collections.abc import (
    Callable,
    Collection,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from neuromirror.config.mirror_files import Mirror
from neuromirror.crawl.embargo import (
    NotPublicError,
    PrivateStore,
    check_public,
    conceal_result,
    embargo_incident,
    is_private_only,
    private_source,
    unreadable_result,
)
from neuromirror.crawl.guards import record_return, record_tombstone
from neuromirror.crawl.plan import (
    DEFAULT_JOBS,
    DatasetTask,
    Planner,
    PluginSource,
    Result,
    RunOptions,
    SyncRequest,
    VisitPolicy,
    VisitSkippedError,
    describe_error,
    describe_unexpected,
    failed_result,
    find_plugin,
    public_cause,
    resolve_vanished,
    result_from_outcome,
    takedown_message,
    unplanned_result,
)
from neuromirror.crawl.recorder import (
    LIST,
    PRIVATE,
    PROBE,
    SUPERDATASETS,
    TOP_ALIAS,
    FailureLog,
    LeaseManager,
    Recorder,
    VisitLog,
    open_recorder,
    run_step,
)
from neuromirror.crawl.superdatasets import SuperdatasetWriter
from neuromirror.crawl.visit import DatasetVisit
from neuromirror.index import CrawlIndex, Index, LastVisit, MirrorStatus
from neuromirror.model import (
    ConfigurationError,
    DatasetHint,
    DatasetRef,
    MirrorProbed,
    MirrorSeen,
    NeuromirrorError,
    Traffic,
    VersionKind,
    current_timestamp,
)
from neuromirror.net import TrafficCounter, count_traffic
from neuromirror.sources import EMBARGOED, DatasetNotFoundError, Source
from neuromirror.store import Store
from neuromirror.store.private_store import require_public_store

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
            tasks = [task for task in tasks if not self._policy.is_excluded(task.hint.dataset)]
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded and returned as a result
            yield self._record_unplanned(request, error)
            return None
        try:
            self._record_overview(request, tasks)
        except (NeuromirrorError, OSError) as error:
            yield failed_result(request.name, error, self._describe(error))
            return None
        return tasks, vanished_ids

    def _record_overview(self, request: SyncRequest, tasks: Sequence[DatasetTask]) -> None:
        """Record that the overview of the mirror or of one dataset was read."""
        if request.local_id is None:
            available = [task for task in tasks if task.action in ("visit", "skip", "held")]
            self._store.mark_listed(request.mirror.name, len(available))
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
            result = failed_result(dataset.name, error, self._describe(error))
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
            result = failed_result(
                dataset.name,
                error,
                self._describe(error),
                status,
                versions=tuple(visit.outcome.new_labels),
                cause=public_cause(error),
            )
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
            return failed_result(dataset.name, error, self._describe(error))
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


def dry_run(
    requests: Sequence[SyncRequest],
    index: Index | None,
    *,
    deep: bool,
    history: bool = False,
    private: PrivateStore | None = None,
) -> Iterator[Result]:
    """Yield the planned action for each dataset; nothing is written.

    Parameters
    ----------
    requests
        The requested mirrors and datasets, from :func:`parse_sync_requests`.
    index
        The index; None if the store does not exist yet.
    deep
        Whether to visit datasets that the overview lists as unchanged.
    history
        Whether to visit earlier states that the archive still lists.
    private
        The private store, or None.

    Yields
    ------
    Result
        The expected result for a dataset.
    """
    options = RunOptions(deep, history)
    for request in requests:
        source = request.mirror.open()
        private_datasets: Container[DatasetRef] = ()
        if private is not None:
            private_datasets = private.datasets_of(request.mirror.name)
        view = private_source(source)
        planner = Planner(index, options.visit_all_reason, private_datasets)
        waiting = yield from _dry_run_request(request, source, planner, concealing=False)
        if view is not None and private is not None and (request.local_id is None or waiting):
            with private.open_index() as own:
                planner = Planner(own, options.visit_all_reason)
                yield from _dry_run_request(request, view, planner, concealing=True)


def _dry_run_request(
    request: SyncRequest, source: Source, planner: Planner, *, concealing: bool
) -> Generator[Result, None, bool]:
    """Yield the planned action for each dataset; return whether one is embargoed."""
    start, embargo = f"{EMBARGOED}: " if concealing else "", False
    try:
        tasks, vanished_ids = planner.plan(request, source)
    except ConfigurationError:
        raise
    except NeuromirrorError as error:
        result = unplanned_result(request, error, str(error))
        yield replace(result, message=f"{start}no list") if concealing else result
        return embargo
    for task in tasks:
        name = task.hint.dataset.name
        if task.action == "visit":
            yield _with_estimate(
                Result(name, "ok", f"{start}would visit: {task.reason}"), task, source
            )
        elif task.action == "refused":
            yield Result(name, "error", f"{start}{task.reason}", "failed")
        elif task.action == "held":
            yield Result(name, "impossible", f"{start}{task.reason}", "held")
        elif task.action != "unavailable" or not concealing:
            yield Result(name, "notneeded", f"{start}{task.reason}")
        embargo |= task.reason == EMBARGOED
    for local_id in vanished_ids:
        dataset, refusal = planner.resolve_vanished(source, local_id)
        if refusal:
            yield Result(dataset.name, "error", f"{start}{refusal}", "failed")
        else:
            message = f"{start}would be checked: the archive no longer lists it"
            yield Result(dataset.name, "ok", message)
    return embargo


def _with_estimate(result: Result, task: DatasetTask, source: Source) -> Result:
    """Add the size of a first visit, if the source can estimate it."""
    if task.last_visit is not None:
        return result
    try:
        return replace(result, estimate=source.estimate(task.hint.dataset))
    except NeuromirrorError as error:
        return replace(result, status="error", message=str(error))


class Sync:
    """A run over mirrors.

    Iterate :meth:`results`; ``total`` is the number of datasets planned so far and ``finished`` of
    those with a result.

    Parameters
    ----------
    store
        The public store.
    index_path
        The store's index.
    deep
        Visit all datasets, and do not trust upstream's own version names and checksums.
    history
        Visit all datasets, and also publish the earlier states that upstream can still list.
    jobs
        The number of concurrent visits.
    private
        The folder of the private store, for mirrors that keep embargoed datasets.
    leases
        Keep other processes from a dataset while it is visited; None if no service uses the store,
        or if the caller holds the leases.
    recorder
        The recorder to use; None to open one for the run.
    declared_mirrors
        The names of all mirrors with a mirror file; failures of others are forgotten.
    """

    def __init__(
        self,
        store: Store,
        index_path: Path,
        *,
        deep: bool = False,
        history: bool = False,
        jobs: int = DEFAULT_JOBS,
        private: Path | None = None,
        leases: LeaseManager | None = None,
        recorder: Recorder | None = None,
        declared_mirrors: Collection[str] | None = None,
    ) -> None:
        self._declared_mirrors = declared_mirrors
        self._store = store
        self._index_path = index_path
        self._leases = leases
        self._recorder = recorder
        self._options = RunOptions(deep, history, jobs)
        self._private = PrivateStore(private, store)
        self._counters: dict[str, TrafficCounter] = {}
        self.total = 0
        self.finished = 0
        self._active_datasets: set[str] = set()

    @property
    def active_datasets(self) -> list[str]:
        """The names of the datasets that are being visited, without embargoed ones."""
        return sorted(self._active_datasets)

    def traffic(self) -> dict[str, dict[str, Traffic]]:
        """Return the traffic by mirror and host, in visits and outside them.

        The traffic of the private store's visits is not included; those visits record it.

        Returns
        -------
        dict
            Name of the mirror → host → :class:`~neuromirror.model.Traffic`.
        """
        return {name: counter.hosts() for name, counter in self._counters.items()}

    def results(self, requests: Sequence[SyncRequest]) -> Iterator[Result]:
        """Yield the result of each dataset as it finishes.

        Parameters
        ----------
        requests
            The mirrors to sync, and the datasets of each.

        Yields
        ------
        Result
            The result of a dataset, or the error of a step for a mirror as a whole.

        Raises
        ------
        ConfigurationError
            Before any request is made and before anything is written.
        """
        sources = self._open_sources(requests)
        with self._open_recorder() as recorder:
            log = FailureLog(recorder)
            if self._declared_mirrors is not None:
                log.forget_others(
                    {*self._declared_mirrors, *(one.mirror for one in mirror_statuses(recorder))}
                )
            failed: set[str] = set()
            mirrors: dict[str, tuple[Mirror, Source]] = {}
            for request, source in zip(requests, sources, strict=True):
                name = request.mirror.name
                mirrors[name] = request.mirror, source
                for result in self._sync_mirror(request, source, recorder):
                    self.finished += ":" in result.dataset
                    if _is_failure(result):
                        failed.add(name)
                    yield result
            supers = SuperdatasetWriter(self._store, recorder)
            for name, (mirror, source) in mirrors.items():
                step = partial(supers.update, mirror, source, failed=name in failed)
                plugin = find_plugin(mirror.settings.source, source)
                for result in run_step(SUPERDATASETS, name, self._store, log, step, plugin):
                    failed.add(name)
                    yield result
            yield from run_step(
                *(SUPERDATASETS, TOP_ALIAS, self._store, log),
                partial(supers.update_top, failed=bool(failed)),
            )

    def survey(self, mirror: Mirror, due: Callable[[DatasetTask], None]) -> Iterator[Result]:
        """Do the steps of a run that come before visits.

        Embargoed datasets are visited here, because the private store has one run at a time.
        Superdatasets are left to :meth:`update_superdatasets`.

        Parameters
        ----------
        mirror
            The mirror.
        due
            Called with the task of each due visit.

        Yields
        ------
        Result
            The result of an embargoed dataset, or the error of a step.
        """
        request = SyncRequest(mirror, None)
        (source,) = self._open_sources([request])
        with self._open_recorder() as recorder:
            yield from self._sync_mirror(request, source, recorder, due)

    def visit(self, request: SyncRequest) -> Iterator[Result]:
        """Visit one dataset, without the steps for its mirror as a whole.

        Parameters
        ----------
        request
            The mirror and the dataset.

        Yields
        ------
        Result
            The result of the dataset; none if all of it is under embargo.
        """
        (source,) = self._open_sources([request])
        with self._open_recorder() as recorder:
            if self._has_public_part(request, source, recorder):
                run = self._public_run(request, source, recorder, {})
                yield from run.visit(request)

    def update_superdatasets(self, mirror: Mirror, *, wait: bool = True) -> Iterator[Result]:
        """Update a mirror's superdatasets to the latest versions.

        The private store is not used, so that neither its folder nor a token is needed.

        Parameters
        ----------
        mirror
            The mirror.
        wait
            Whether to postpone the update after failed visits.

        Yields
        ------
        Result
            The error of an update that failed.
        """
        require_public_store(self._store.root)
        source = mirror.open()
        self._store.protect_repositories()
        with self._open_recorder() as recorder:
            supers = SuperdatasetWriter(self._store, recorder)
            step = partial(supers.update, mirror, source, failed=False, wait=wait)
            log = FailureLog(recorder)
            plugin = find_plugin(mirror.settings.source, source)
            yield from run_step(SUPERDATASETS, mirror.name, self._store, log, step, plugin)

    def update_top_superdataset(self, *, wait: bool = True) -> Iterator[Result]:
        """Update the superdataset above all mirrors.

        Parameters
        ----------
        wait
            Whether to postpone the update after failed visits.

        Yields
        ------
        Result
            The error of an update that failed.
        """
        self._open_sources([])
        with self._open_recorder() as recorder:
            step = partial(
                SuperdatasetWriter(self._store, recorder).update_top, failed=False, wait=wait
            )
            yield from run_step(SUPERDATASETS, TOP_ALIAS, self._store, FailureLog(recorder), step)

    def _open_sources(self, requests: Sequence[SyncRequest]) -> list[Source]:
        require_public_store(self._store.root)
        sources = [request.mirror.open() for request in requests]
        self._private.check_sources(sources)
        self._store.protect_repositories()
        return sources

    def _open_recorder(self) -> AbstractContextManager[Recorder]:
        if self._recorder is not None:
            return nullcontext(self._recorder)
        return open_recorder(self._store, self._index_path)

    def _sync_mirror(
        self,
        request: SyncRequest,
        source: Source,
        recorder: Recorder,
        defer: Callable[[DatasetTask], None] | None = None,
    ) -> Iterator[Result]:
        """Sync the public store first: that moves opened datasets out of the private one."""
        view = private_source(source)
        waiting: dict[str, Result] = {}
        if self._has_public_part(request, source, recorder):
            run = self._public_run(request, source, recorder, waiting)
            yield from run.results(request, defer)
        is_requested = request.local_id is None or waiting or is_private_only(source)
        if view is not None and is_requested:
            failed = ""
            for result in self._sync_private(request, view):
                waiting.pop(result.dataset, None)
                if result.exit_code == 1:
                    failed = "embargoed datasets fail; the private store's status names them"
                yield result
            log, name = FailureLog(recorder), request.mirror.name
            if failed:
                # names neither a dataset nor a path, because this store may be public
                log.record_failure(PRIVATE, failed, name)
            elif request.local_id is None:
                log.record_success(PRIVATE, name)
        self._add_to_total(len(waiting))
        yield from waiting.values()

    def _has_public_part(self, request: SyncRequest, source: Source, recorder: Recorder) -> bool:
        """Return whether the public store has, or may get, anything of a mirror.

        The URI of an archive that needs credentials names a bucket, and is not recorded there.
        """
        name = request.mirror.name
        return not is_private_only(source) or any(
            one.mirror == name and one.uri for one in mirror_statuses(recorder)
        )

    def _public_run(
        self,
        request: SyncRequest,
        source: Source,
        recorder: Recorder,
        waiting: dict[str, Result],
    ) -> MirrorRun:
        """Return the public store's run.

        ``waiting`` gets the results that the private store's run may replace.
        """
        view = private_source(source)
        private_datasets = self._private.datasets_of(request.mirror.name)

        def unavailable_result(dataset: DatasetRef, reason: str) -> Result | None:
            incident = (
                embargo_incident(self._store, dataset, recorder) if reason == EMBARGOED else None
            )
            result = incident or Result(dataset.name, "notneeded", reason)
            if incident is None and reason == EMBARGOED and view is not None:
                waiting[dataset.name] = result
                return None
            return result

        def prepare(dataset: DatasetRef) -> str:
            try:
                if dataset not in private_datasets:
                    check_public(source, dataset)
                    return ""
                self._private.move_to_public(dataset, source, recorder)
            except NotPublicError as error:
                raise VisitSkippedError(str(error)) from error
            return "opened upstream and moved here from the private store; "

        policy = VisitPolicy(private_datasets, prepare, unavailable_result, claim=self._claim)
        traffic = self._counters.setdefault(request.mirror.name, TrafficCounter())
        return MirrorRun(
            self._store,
            recorder,
            source,
            self._options,
            policy,
            self._add_to_total,
            traffic,
            find_plugin(request.mirror.settings.source, source),
        )

    def _sync_private(self, request: SyncRequest, view: Source) -> Iterator[Result]:
        """Sync the private store and yield its results without confidential details."""
        policy = VisitPolicy(
            unavailable_result=unreadable_result,
            # a public dataset that is embargoed later is an incident, not a private dataset
            is_excluded=lambda dataset: self._store.repository(dataset).exists(),
        )
        try:
            with self._private.open() as (store, recorder):
                store.protect_repositories()
                private_traffic = TrafficCounter()  # confidential: it reveals the number of files
                plugin = find_plugin(request.mirror.settings.source, view)
                run = MirrorRun(
                    store,
                    recorder,
                    view,
                    self._options,
                    policy,
                    self._add_to_total,
                    private_traffic,
                    plugin,
                )
                failed = False
                for result in run.results(request):
                    failed = failed or _is_failure(result)
                    yield conceal_result(result, store, recorder)
                supers = SuperdatasetWriter(store, recorder)
                step = partial(supers.update, request.mirror, view, failed=failed)
                log, name = FailureLog(recorder), request.mirror.name
                for result in run_step(SUPERDATASETS, name, store, log, step, plugin):
                    yield conceal_result(result, store, recorder)
        except ConfigurationError:
            raise
        except (NeuromirrorError, OSError) as error:
            yield Result(request.mirror.name, "error", f"{EMBARGOED}: {error}", "failed")

    @contextmanager
    def _claim(self, dataset: DatasetRef) -> Iterator[None]:
        """Hold the dataset's lease, and record that it is being visited."""
        with nullcontext() if self._leases is None else self._leases.claim(dataset):
            self._active_datasets.add(dataset.name)
            try:
                yield
            finally:
                self._active_datasets.discard(dataset.name)

    def _add_to_total(self, more: int) -> None:
        self.total += more


def _is_failure(result: Result) -> bool:
    """Return whether a visit failed or is incomplete."""
    return result.status == "error" and result.visit in ("failed", "partial")
