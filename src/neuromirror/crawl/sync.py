"""Sync mirrors, or report what a sync would do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Generator, Iterator, Sequence
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
from neuromirror.crawl.failure_log import PRIVATE, SUPERDATASETS, TOP_ALIAS, FailureLog, run_step
from neuromirror.crawl.leases import LeaseManager
from neuromirror.crawl.mirror_run import MirrorRun, mirror_statuses
from neuromirror.crawl.plan import DatasetTask
from neuromirror.crawl.planner import Planner, SyncRequest
from neuromirror.crawl.recorder import Recorder, open_recorder
from neuromirror.crawl.results import Result, unplanned_result
from neuromirror.crawl.run_options import (
    DEFAULT_JOBS,
    RunOptions,
    VisitPolicy,
    VisitSkippedError,
)
from neuromirror.crawl.superdatasets import SuperdatasetWriter
from neuromirror.crawl.unexpected_errors import find_plugin
from neuromirror.index import Index
from neuromirror.model import ConfigurationError, DatasetRef, NeuromirrorError, Traffic
from neuromirror.net import TrafficCounter
from neuromirror.sources import EMBARGOED, Source
from neuromirror.store import Store
from neuromirror.store.private_store import require_public_store


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
