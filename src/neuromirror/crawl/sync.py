"""Run over mirrors: plan the visits of each, make them, and record how they ended.

Embargoed datasets have a run of their own, with credentials and into the private store.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Container, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from msgspec import Struct, field
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
    OPENED,
    RELEASED,
    DatasetTask,
    PluginSource,
    Result,
    SyncRequest,
    Visit,
    describe_error,
    describe_unexpected,
    failed_result,
    find_plugin,
    plan,
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
    Claim,
    FailureLog,
    Recorder,
    VisitSkippedError,
    ended_visit,
    open_recorder,
)
from neuromirror.crawl.superdatasets import update_superdatasets, update_top_superdataset
from neuromirror.crawl.visit import visit_dataset
from neuromirror.index import CrawlIndex, Index, LastVisit, MirrorStatus
from neuromirror.model import (
    ConfigurationError,
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

DEFAULT_JOBS = 16
"""Default number of concurrent visits: most of a visit is waiting for the archive."""

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


class MirrorRun(Struct, frozen=True):
    """One mirror in one store, which each step of a run takes.

    Attributes
    ----------
    store, recorder
        The store with its recorder.
    mirror, source
        The mirror and its source.
    is_private
        Whether the store is the private one, and the source has credentials.
    private
        In the public store: the source of the embargoed datasets, with credentials; None if they
        are skipped.
    traffic
        Counts all requests, in visits and outside them.
    embargoed
        In the public store: the results of embargoed datasets that the private store's run may
        replace.
    """

    store: Store
    recorder: Recorder
    mirror: Mirror
    source: Source
    is_private: bool = False
    private: Source | None = None
    traffic: TrafficCounter = field(default_factory=TrafficCounter)
    embargoed: dict[str, Result] = field(default_factory=dict)

    @property
    def plugin(self) -> PluginSource | None:
        """The plugin of the source; None for one of neuromirror's own sources."""
        return find_plugin(self.mirror.settings.source, self.source)

    def describe(self, error: Exception) -> str:
        """Return an error as one line for a message."""
        return describe_error(error, self.store, self.plugin)

    def step(self, task: str, step: Callable[[], object]) -> Iterator[Result]:
        """Call a function; see :func:`_run_step`."""
        name = self.mirror.name
        return _run_step(task, name, self.store, self.recorder, step, self.plugin)

    def update_superdatasets(self, *, failed: bool, wait: bool = True) -> Iterator[Result]:
        """Update the mirror's superdatasets; yield the failure if it fails."""
        names = self.store, self.recorder, self.mirror, self.source
        return self.step(
            SUPERDATASETS, partial(update_superdatasets, *names, failed=failed, wait=wait)
        )


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
        leases: Claim | None = None,
        recorder: Recorder | None = None,
        declared_mirrors: Collection[str] | None = None,
    ) -> None:
        self._declared_mirrors = declared_mirrors
        self._store = store
        self._index_path = index_path
        self._leases = leases
        self._recorder = recorder
        self._deep = deep
        self._history = history
        self._jobs = jobs
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
        """Yield the result of each dataset as it finishes; those of the private store come last.

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
            if self._declared_mirrors is not None:
                kept = {"", *self._declared_mirrors}
                kept |= {status.mirror for status in mirror_statuses(recorder)}
                FailureLog(recorder).forget(lambda row: row.mirror not in kept)
            failed: set[str] = set()
            runs = [
                self._public_run(request.mirror, source, recorder)
                for request, source in zip(requests, sources, strict=True)
            ]
            for request, run in zip(requests, runs, strict=True):
                for result in self._sync_mirror(run, request):
                    if _is_failure(result):
                        failed.add(run.mirror.name)
                    yield self._count(result)
            for name, run in {run.mirror.name: run for run in runs}.items():
                for result in run.update_superdatasets(failed=name in failed):
                    failed.add(name)
                    yield result
            yield from self._update_top(recorder, failed=bool(failed))
            for request, run in zip(requests, runs, strict=True):
                yield from map(self._count, self._sync_private(run, request))

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
            run = self._public_run(mirror, source, recorder)
            yield from self._sync_mirror(run, request, due)
            yield from self._sync_private(run, request)

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
            run = self._public_run(request.mirror, source, recorder)
            planned = self._plan(run, request) if _has_public_part(run) else ([], [])
            if isinstance(planned, Result):
                yield planned
            else:
                yield from self._visit_all(run, *planned)

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
        self._store.repositories.protect()
        with self._open_recorder() as recorder:
            run = MirrorRun(self._store, recorder, mirror, source)
            yield from run.update_superdatasets(failed=False, wait=wait)

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
            yield from self._update_top(recorder, failed=False, wait=wait)

    def _update_top(
        self, recorder: Recorder, *, failed: bool, wait: bool = True
    ) -> Iterator[Result]:
        step = partial(update_top_superdataset, self._store, recorder, failed=failed, wait=wait)
        return _run_step(SUPERDATASETS, TOP_ALIAS, self._store, recorder, step)

    def _open_sources(self, requests: Sequence[SyncRequest]) -> list[Source]:
        require_public_store(self._store.root)
        sources = [request.mirror.open() for request in requests]
        self._private.check_sources(sources)
        self._store.repositories.protect()
        return sources

    def _open_recorder(self) -> AbstractContextManager[Recorder]:
        if self._recorder is not None:
            return nullcontext(self._recorder)
        return open_recorder(self._store, self._index_path)

    def _public_run(self, mirror: Mirror, source: Source, recorder: Recorder) -> MirrorRun:
        traffic = self._counters.setdefault(mirror.name, TrafficCounter())
        private = private_source(source)
        return MirrorRun(self._store, recorder, mirror, source, private=private, traffic=traffic)

    def _count(self, result: Result) -> Result:
        self.finished += ":" in result.dataset
        return result

    # --- a mirror

    def _sync_private(self, public: MirrorRun, request: SyncRequest) -> Iterator[Result]:
        """Sync the private store with the embargoed datasets of a request.

        The results have no confidential details, and the public store records only whether it
        failed.
        """
        source, waiting, name = public.private, public.embargoed, public.mirror.name
        is_whole = request.local_id is None
        if source is not None and (is_whole or waiting or is_private_only(public.source)):
            log, failed = FailureLog(public.recorder), False
            for result in self._sync_private_store(public.mirror, source, request):
                waiting.pop(result.dataset, None)
                failed |= result.exit_code == 1
                yield result
            if failed:
                # names neither a dataset nor a path, because this store may be public
                message = "embargoed datasets fail; the private store's status names them"
                log.record_failure(PRIVATE, message, name)
            elif is_whole:
                log.record_success(PRIVATE, name)
        self.total += len(waiting)
        yield from waiting.values()

    def _sync_private_store(
        self, mirror: Mirror, source: Source, request: SyncRequest
    ) -> Iterator[Result]:
        try:
            with self._private.open() as (store, recorder):
                store.repositories.protect()
                run = MirrorRun(store, recorder, mirror, source, is_private=True)
                failed = False
                for result in self._sync_mirror(run, request):
                    failed |= _is_failure(result)
                    yield conceal_result(result, store, recorder)
                for result in run.update_superdatasets(failed=failed):
                    yield conceal_result(result, store, recorder)
        except ConfigurationError:
            raise
        except (NeuromirrorError, OSError) as error:
            yield Result(mirror.name, "error", f"{EMBARGOED}: {error}", "failed")

    def _sync_mirror(
        self, run: MirrorRun, request: SyncRequest, due: Callable[[DatasetTask], None] | None = None
    ) -> Iterator[Result]:
        """Yield the results as datasets finish; pass due tasks to ``due`` instead, if given."""
        if not run.is_private and not _has_public_part(run):
            return
        planned = self._plan(run, request)
        if isinstance(planned, Result):
            yield planned
            return
        failures = [*run.step(PROBE, partial(_record_mirror, run))]
        yield from failures
        if failures:
            return
        yield from run.step(PROBE, partial(_record_capabilities, run))
        tasks, vanished_ids = planned
        if due is not None:
            for task in tasks:
                if task.action == "visit":
                    due(task)
            tasks = [task for task in tasks if task.action != "visit"]
        yield from self._visit_all(run, tasks, vanished_ids)

    # --- plan

    def _plan(
        self, run: MirrorRun, request: SyncRequest
    ) -> tuple[list[DatasetTask], list[str]] | Result:
        """Return the tasks and the ids of vanished datasets, or the failure to read the list."""
        opened: Container[DatasetRef] = ()
        if not run.is_private:
            opened = self._private.datasets_of(run.mirror.name)
        options = {"deep": self._deep, "history": self._history}

        def ask(index: CrawlIndex) -> tuple[list[DatasetTask], list[str]]:
            with count_traffic(run.traffic):
                return plan(request, run.source, index, opened, **options)

        try:
            tasks, vanished_ids = run.recorder.ask(ask)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded and returned as a result
            return _record_unplanned(run, request, error)
        if run.is_private:
            # a public dataset that is embargoed later is an incident, not a private dataset
            tasks = [
                task
                for task in tasks
                if not self._store.repositories.of(task.hint.dataset).exists()
            ]
        try:
            if request.local_id is None:
                available = [task for task in tasks if task.action in ("visit", "skip", "held")]
                run.store.mark_listed(run.mirror.name, len(available))
            log, is_whole = FailureLog(run.recorder), request.local_id is None
            log.record_success(LIST, request.name, with_datasets=is_whole)
        except (NeuromirrorError, OSError) as error:
            return failed_result(request.name, error, run.describe(error))
        return tasks, vanished_ids

    # --- visit

    def _visit_all(
        self, run: MirrorRun, tasks: Sequence[DatasetTask], vanished_ids: Sequence[str]
    ) -> Iterator[Result]:
        """Yield the results of all tasks, and of the datasets that the archive no longer lists."""
        self.total += len(tasks) + len(vanished_ids)
        due: list[DatasetTask] = []
        for task in tasks:
            dataset, last = task.hint.dataset, task.last_visit
            if task.action == "visit":
                due.append(task)
            elif task.action == "unavailable":
                yield from self._report_unavailable(run, dataset, task.reason, last)
            elif task.action == "refused":
                yield _record_failed(run, dataset, last, task.reason)
            elif task.action == "held":
                yield Result(dataset.name, "impossible", task.reason, "held")
            else:
                yield Result(dataset.name, "notneeded", task.reason)
        earlier_state_counts: list[int] = []
        with _infrequent_gc(), ThreadPoolExecutor(max(1, min(self._jobs, len(due)))) as pool:
            running: dict[Future[Result], Visit] = {}
            for task in due:
                names = run.source, run.store, run.recorder, run.mirror.settings
                visit = Visit(*names, task.hint.dataset, self._deep, self._history)
                running[pool.submit(self._visit, run, task, visit)] = visit
            try:
                for future in as_completed(running):
                    visit, failure = running[future], future.exception()
                    if isinstance(failure, KeyboardInterrupt | SystemExit):
                        raise failure
                    if failure is not None:
                        # an internal error in one dataset must not stop the others
                        message = describe_unexpected(failure, run.plugin)
                        yield Result(visit.dataset.name, "error", message, "failed")
                        continue
                    if future.result().visit not in ("", "failed"):
                        earlier_state_counts.append(visit.outcome.earlier_state_count)
                    yield future.result()
            finally:
                for future in running:
                    future.cancel()
        if self._history and earlier_state_counts and not any(earlier_state_counts):
            message = "no earlier states: upstream keeps none, or all are mirrored already"
            yield Result(run.mirror.name, "notneeded", message)
        known = run.recorder.ask(lambda index: index.crawl.last_visits(run.mirror.name))
        for local_id in vanished_ids:
            yield from self._check_vanished(run, local_id, known.get(local_id))

    def _visit(self, run: MirrorRun, task: DatasetTask, visit: Visit) -> Result:
        """Visit a dataset, record how the visit ended, and return that as a result."""
        dataset, outcome, traffic = visit.dataset, visit.outcome, TrafficCounter()
        started, prefix = current_timestamp(), ""
        with count_traffic(run.traffic), count_traffic(traffic):
            try:
                with self._claim(run, dataset), run.store.lock(dataset.dataset_id, dataset.name):
                    prefix = self._prepare(run, task)
                    visit_dataset(visit, pending_only=task.pending_only)
            except VisitSkippedError as error:
                return Result(dataset.name, "notneeded", str(error), traffic=traffic.hosts())
            except Exception as error:  # noqa: BLE001 - must not stop the visits of other datasets
                status = "partial" if outcome.new_labels else "failed"
                result = failed_result(dataset.name, error, run.describe(error), status)
                labels = tuple(outcome.new_labels)
                result = replace(result, versions=labels, cause=public_cause(error))
            else:
                result = result_from_outcome(dataset, outcome)
        if prefix:
            status = "ok" if result.status == "notneeded" else result.status
            result = replace(result, status=status, message=prefix + result.message)
        pending = max(outcome.pending_files, len(outcome.unfinished_components))
        try:
            _record_visit(run, task, started, result, pending, traffic)
        except (NeuromirrorError, OSError) as error:
            result = failed_result(dataset.name, error, run.describe(error))
        return replace(result, traffic=traffic.hosts())

    @contextmanager
    def _claim(self, run: MirrorRun, dataset: DatasetRef) -> Iterator[None]:
        """Hold the dataset's lease, and show that it is being visited; not in the private store."""
        if run.is_private:
            yield
            return
        with nullcontext() if self._leases is None else self._leases(dataset):
            self._active_datasets.add(dataset.name)
            try:
                yield
            finally:
                self._active_datasets.discard(dataset.name)

    def _prepare(self, run: MirrorRun, task: DatasetTask) -> str:
        """Move a dataset that was opened to the public store; return the start of the message.

        Raises VisitSkippedError if it must not be visited now. The caller holds the dataset's lock.
        """
        dataset, recorder, message = task.hint.dataset, run.recorder, ""
        tombstone = recorder.ask(lambda index: index.datasets.tombstone(dataset.name))
        if tombstone is not None:
            # taken down after the visit was planned
            raise VisitSkippedError(takedown_message(tombstone))
        try:
            if run.is_private:
                pass
            elif task.reason == OPENED:
                self._private.move_to_public(dataset, run.source, recorder)
                message = "opened upstream and moved here from the private store; "
            else:
                check_public(run.source, dataset)
        except NotPublicError as error:
            raise VisitSkippedError(str(error)) from error
        if task.last_visit is not None and task.last_visit.status == "not_found":
            record_return(recorder, dataset)
        return message

    def _report_unavailable(
        self, run: MirrorRun, dataset: DatasetRef, reason: str, last: LastVisit | None
    ) -> Iterator[Result]:
        """Yield the result of a dataset that cannot be read, for a reason stated upstream."""
        try:
            if run.is_private:
                result = unreadable_result(dataset, reason)
            else:
                result = Result(dataset.name, "notneeded", reason)
                if reason == EMBARGOED:
                    incident = embargo_incident(run.store, dataset, run.recorder)
                    if incident is None and run.private is not None:
                        run.embargoed[dataset.name] = result
                        result = None
                    result = incident or result
            if result is not None and result.visit == "failed" and last is None:
                # a dataset that was never visited has no visit to compare with
                FailureLog(run.recorder).record_failure(LIST, result.message, dataset.name)
            elif result is not None and result.visit == "failed":
                _record_result(run, dataset, last, result)
            elif last is not None and last.status in ("failed", "partial"):
                # the failure is resolved: upstream states the reason
                ended = Result(dataset.name, "notneeded", reason, "unavailable")
                _record_result(run, dataset, last, ended)
        except (NeuromirrorError, OSError) as error:
            result = failed_result(dataset.name, error, run.describe(error))
        if result is None:
            self.total -= 1
        else:
            yield result

    def _check_vanished(
        self, run: MirrorRun, local_id: str, last: LastVisit | None
    ) -> Iterator[Result]:
        """Check a dataset that is no longer listed; record a tombstone if it does not exist."""
        recorder, started, traffic = run.recorder, current_timestamp(), TrafficCounter()
        dataset, message = recorder.ask(partial(resolve_vanished, run.source, local_id))
        if not message:
            try:
                with count_traffic(run.traffic), count_traffic(traffic):
                    hint = run.source.hint(dataset)
            except DatasetNotFoundError as error:
                yield _record_tombstone(run, dataset, last, error, started, traffic)
                return
            except Exception as error:  # noqa: BLE001 - recorded and returned as a result
                message = run.describe(error)
            else:
                if hint.unavailable is not None:
                    yield from self._report_unavailable(run, dataset, hint.unavailable, last)
                    return
                message = "missing in the archive's list, but still available; try again"
        yield _record_failed(run, dataset, last, message, started, traffic)


def _has_public_part(run: MirrorRun) -> bool:
    """Return whether the public store has, or may get, anything of a mirror.

    The URI of an archive that needs credentials names a bucket, and is not recorded there.
    """
    return not is_private_only(run.source) or any(
        status.mirror == run.mirror.name and status.uri for status in mirror_statuses(run.recorder)
    )


def _is_failure(result: Result) -> bool:
    """Return whether a visit failed or is incomplete."""
    return result.status == "error" and result.visit in ("failed", "partial")


def mirror_statuses(recorder: Recorder) -> list[MirrorStatus]:
    """Return the status of each mirror in the index."""
    return recorder.ask(lambda index: list(index.crawl.mirrors()))


# --- record


def _record_mirror(run: MirrorRun) -> None:
    name, kind, uri = run.mirror.name, run.mirror.settings.source, run.source.uri
    seen = {one.mirror: (one.source, one.uri) for one in mirror_statuses(run.recorder)}
    if seen.get(name) != (kind, uri):
        run.recorder.record(MirrorSeen(name, kind, uri, current_timestamp()))


def _record_capabilities(run: MirrorRun) -> None:
    """Record the archive's capabilities if they changed."""
    name = run.mirror.name
    with count_traffic(run.traffic):
        capabilities = dict(run.source.capabilities())
    if run.recorder.ask(lambda index: index.crawl.capabilities(name)) != capabilities:
        run.recorder.record(MirrorProbed(name, capabilities, current_timestamp()))


def _run_step(
    task: str,
    name: str,
    store: Store,
    recorder: Recorder,
    step: Callable[[], object],
    plugin: PluginSource | None = None,
) -> Iterator[Result]:
    """Call a function; record its failure and yield it as a result, so that the run can continue.

    Nothing is yielded if the function succeeds.
    """
    log, logged = FailureLog(recorder), "" if name == TOP_ALIAS else name
    try:
        step()
    except Exception as error:  # noqa: BLE001 - recorded and returned as a result
        message = describe_error(error, store, plugin)
        result = failed_result(name, error, message)
        yield _recorded(result, partial(log.record_failure, task, message, logged))
        return
    try:
        log.record_success(task, logged)
    except (NeuromirrorError, OSError) as error:
        yield failed_result(name, error, describe_error(error, store))


def _record_unplanned(run: MirrorRun, request: SyncRequest, error: Exception) -> Result:
    """Record that the overview could not be read, and return that as a result."""
    result = unplanned_result(request, error, run.describe(error))
    result = replace(result, cause=public_cause(error))
    name, local_id = run.mirror.name, request.local_id

    def record() -> None:
        last = run.recorder.ask(lambda index: index.crawl.last_visits(name)).get(local_id or "")
        if last is not None and local_id is not None:
            _record_result(run, run.source.dataset(local_id), last, result)
        elif not isinstance(error, DatasetNotFoundError):
            # an unknown id is probably a typing error
            FailureLog(run.recorder).record_failure(LIST, result.message, request.name)

    return _recorded(result, record)


def _record_failed(
    run: MirrorRun,
    dataset: DatasetRef,
    last: LastVisit | None,
    message: str,
    started: str = "",
    traffic: TrafficCounter | None = None,
) -> Result:
    """Record that a dataset could not be visited or checked, and return that as a result."""
    hosts = {} if traffic is None else traffic.hosts()
    result = Result(dataset.name, "error", message, "failed", traffic=hosts)
    return _recorded(result, partial(_record_result, run, dataset, last, result, started, traffic))


def _recorded(result: Result, record: Callable[[], object]) -> Result:
    """Return a failure after recording it; its message says if that fails, too."""
    try:
        record()
    except (NeuromirrorError, OSError) as error:
        return replace(result, message=f"{result.message}; not recorded: {error}")
    return result


def _record_tombstone(
    run: MirrorRun,
    dataset: DatasetRef,
    last: LastVisit | None,
    error: DatasetNotFoundError,
    started: str,
    traffic: TrafficCounter,
) -> Result:
    """Record that upstream removed a dataset, and return that as a result."""
    name, kind = dataset.name, VersionKind.PUBLISHED.value
    message, status = "no longer exists upstream; the mirrored copy is kept", "error"
    is_draft = run.recorder.ask(lambda index: index.versions.last(name, kind)) is None
    if error.owner_may_delete and is_draft:
        message, status = f"a draft, which its owner may delete, {message}", "ok"
    try:
        record_tombstone(run.recorder, dataset, str(error))
        if last is None or last.status != "not_found":
            run.recorder.record(ended_visit(dataset, started, "not_found", message, traffic))
    except (NeuromirrorError, OSError) as failure:
        message, status = run.describe(failure), "error"
    return Result(name, status, message, "not_found", traffic=traffic.hosts())


def _record_visit(
    run: MirrorRun,
    task: DatasetTask,
    started: str,
    result: Result,
    pending: int,
    traffic: TrafficCounter,
) -> None:
    """Record a visit, unless it found no change and ended like the last one."""
    hint, last, fingerprint = task.hint, task.last_visit, task.hint.fingerprint or ""
    if (
        last is not None
        and task.reason != RELEASED
        and result.status == "notneeded"
        and (last.status, last.fingerprint, last.pending) == (result.visit, fingerprint, pending)
    ):
        return
    names = hint.title, fingerprint, pending
    run.recorder.record(
        ended_visit(hint.dataset, started, result.visit, result.message, traffic, *names)
    )


def _record_result(
    run: MirrorRun,
    dataset: DatasetRef,
    last: LastVisit | None,
    result: Result,
    started: str = "",
    traffic: TrafficCounter | None = None,
) -> None:
    """Record a result as a visit that learned nothing about the dataset's content.

    Nothing is recorded if the last visit ended in the same way. By default, the visit started
    now and made no requests.
    """
    if last is not None and last.status == result.visit:
        before = run.recorder.ask(lambda index: next(index.crawl.visits(dataset.name, limit=1)))
        if before.message == result.message:
            return
    known = ("", "", 0) if last is None else ("", last.fingerprint, last.pending)
    started = started or current_timestamp()
    run.recorder.record(
        ended_visit(dataset, started, result.visit, result.message, traffic, *known)
    )


# --- dry run


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
    options = {"deep": deep, "history": history}
    for request in requests:
        source = request.mirror.open()
        opened = () if private is None else private.datasets_of(request.mirror.name)
        waiting = yield from _dry_run_mirror(request, source, index, opened, **options)
        view = private_source(source)
        if view is not None and private is not None and (request.local_id is None or waiting):
            with private.open_index() as own:
                yield from _dry_run_mirror(request, view, own, None, **options)


def _dry_run_mirror(
    request: SyncRequest,
    source: Source,
    index: Index | None,
    opened: Container[DatasetRef] | None,
    **options: bool,
) -> Generator[Result, None, bool]:
    """Yield the planned action for each dataset; return whether one is embargoed.

    In the private store, for which nothing is ``opened``, the results name no cause.
    """
    start = f"{EMBARGOED}: " if opened is None else ""
    try:
        tasks, vanished_ids = plan(request, source, index, opened or (), **options)
    except ConfigurationError:
        raise
    except NeuromirrorError as error:
        result = unplanned_result(request, error, str(error))
        yield replace(result, message=f"{start}no list") if start else result
        return False
    for task in tasks:
        name = task.hint.dataset.name
        if task.action == "visit":
            result = Result(name, "ok", f"{start}would visit: {task.reason}")
            yield result if task.last_visit else _with_estimate(result, task, source)
        elif task.action == "refused":
            yield Result(name, "error", f"{start}{task.reason}", "failed")
        elif task.action == "held":
            yield Result(name, "impossible", f"{start}{task.reason}", "held")
        elif task.action != "unavailable" or not start:
            yield Result(name, "notneeded", f"{start}{task.reason}")
    for local_id in vanished_ids:
        assert index is not None
        dataset, refusal = resolve_vanished(source, local_id, index)
        message = refusal or "would be checked: the archive no longer lists it"
        status, visit = ("error", "failed") if refusal else ("ok", "")
        yield Result(dataset.name, status, f"{start}{message}", visit)
    return any(task.reason == EMBARGOED for task in tasks)


def _with_estimate(result: Result, task: DatasetTask, source: Source) -> Result:
    """Add the size of a first visit, if the source can estimate it."""
    try:
        return replace(result, estimate=source.estimate(task.hint.dataset))
    except NeuromirrorError as error:
        return replace(result, status="error", message=str(error))
