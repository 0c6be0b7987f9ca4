"""A run over mirrors, and what such a run would do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from neuromirror.crawl.failures import PRIVATE, SUPERDATASETS, TOP_ALIAS, FailureLog, attempt
from neuromirror.crawl.mirror_run import (
    JOBS,
    Claim,
    How,
    MirrorRun,
    NotNow,
    Rules,
    known_mirrors,
)
from neuromirror.crawl.mirrors import Mirror
from neuromirror.crawl.plan import Task
from neuromirror.crawl.private import (
    EMBARGOED,
    NotOpenToAll,
    PrivateSide,
    check_public,
    closed_again,
    concealed,
    not_readable,
    private_view,
)
from neuromirror.crawl.recorder import Recorder, recording
from neuromirror.crawl.requests import Planner, Request
from neuromirror.crawl.results import Result, unplanned
from neuromirror.crawl.supers import SuperDatasets
from neuromirror.index import Index
from neuromirror.model import ConfigurationError, DatasetRef, NeuromirrorError, Traffic
from neuromirror.net import TrafficCounter
from neuromirror.sources import Source
from neuromirror.store import Store
from neuromirror.store.private import refuse_private


def dry_run(
    requests: Sequence[Request],
    index: Index | None,
    *,
    deep: bool,
    history: bool = False,
    private: PrivateSide | None = None,
) -> Iterator[Result]:
    """What a sync would do, dataset by dataset; nothing is written anywhere."""
    how = How(deep, history)
    for request in requests:
        source = request.mirror.open()
        held: Container[DatasetRef] = ()
        if private is not None:
            held = private.holds(request.mirror.name)
        view = private_view(source)
        planner = Planner(index, how.regardless, held)
        waiting = yield from _would_do(request, source, planner, concealing=False)
        if view is not None and private is not None and (request.local_id is None or waiting):
            with private.reading() as own:
                planner = Planner(own, how.regardless)
                yield from _would_do(request, view, planner, concealing=True)


def _would_do(
    request: Request, source: Source, planner: Planner, *, concealing: bool
) -> Generator[Result, None, bool]:
    """Yields what would be done with each dataset; gives whether one is under embargo."""
    start, embargo = f"{EMBARGOED}: " if concealing else "", False
    try:
        tasks, gone = planner.plan(request, source)
    except ConfigurationError:
        raise
    except NeuromirrorError as error:
        said = unplanned(request, error, str(error))
        yield replace(said, message=f"{start}no list") if concealing else said
        return embargo
    for task in tasks:
        name = task.hint.dataset.name
        if task.action == "visit":
            yield _with_estimate(
                Result(name, "ok", f"{start}would visit: {task.why}"), task, source
            )
        elif task.action == "held":
            yield Result(name, "impossible", f"{start}{task.why}", "held")
        elif task.action != "unavailable" or not concealing:
            yield Result(name, "notneeded", f"{start}{task.why}")
        embargo |= task.why == EMBARGOED
    for local_id in gone:
        name = f"{request.mirror.name}:{local_id}"
        yield Result(name, "ok", f"{start}would check: no longer listed")
    return embargo


def _with_estimate(would: Result, task: Task, source: Source) -> Result:
    """What a first visit would take, where the source can say so beforehand."""
    if task.last is not None:
        return would
    try:
        return replace(would, estimate=source.estimate(task.hint.dataset))
    except NeuromirrorError as error:
        return replace(would, status="error", message=str(error))


class Sync:
    """One run. Iterate :meth:`results`; the number of datasets is in ``total`` once planned.

    What was asked of each mirror's hosts so far is in :meth:`traffic`, but for what is private.
    ``deep`` visits datasets whatever upstream's overview says; ``history`` does too, and mints
    earlier states that upstream can still list. ``private`` is the folder of the private store,
    for mirrors that keep what is under embargo, and for what was opened since. ``claim`` keeps
    other programs from a dataset while it is visited; ``recorder`` is used instead of one that is
    opened for the run. ``declared`` are the names of all mirrors that have a file: failures of
    others that never gave a list are forgotten.
    """

    def __init__(
        self,
        store: Store,
        index_path: Path,
        *,
        deep: bool = False,
        history: bool = False,
        jobs: int = JOBS,
        private: Path | None = None,
        claim: Claim | None = None,
        recorder: Recorder | None = None,
        declared: Collection[str] | None = None,
    ) -> None:
        self._declared = declared
        self._store = store
        self._index_path = index_path
        self._claim = claim
        self._recorder = recorder
        self._how = How(deep, history, jobs)
        self._private = PrivateSide(private, store)
        self._counters: dict[str, TrafficCounter] = {}
        self.total = 0
        self.finished = 0
        self._visiting: set[str] = set()

    @property
    def visiting(self) -> list[str]:
        """The names of the datasets that are being visited, but for those under embargo."""
        return sorted(self._visiting)

    def traffic(self) -> dict[str, dict[str, Traffic]]:
        """What was asked of each host, by mirror: for visits, and for all that goes before them.

        The private store's part is not in it; its own visits tell.
        """
        return {name: counter.hosts() for name, counter in self._counters.items()}

    def results(self, requests: Sequence[Request]) -> Iterator[Result]:
        """How each dataset fared, as they end; datasets do not wait for each other.

        Raises ConfigurationError before anything is asked or written.
        """
        sources = self._opened(requests)
        with self._recording() as recorder:
            log = FailureLog(recorder)
            if self._declared is not None:
                log.forget_others(
                    {*self._declared, *(one.mirror for one in known_mirrors(recorder))}
                )
            failed: set[str] = set()
            mirrors: dict[str, tuple[Mirror, Source]] = {}
            for request, source in zip(requests, sources, strict=True):
                name = request.mirror.name
                mirrors[name] = request.mirror, source
                for result in self._mirror(request, source, recorder):
                    self.finished += ":" in result.dataset
                    if _is_failure(result):
                        failed.add(name)
                    yield result
            supers = SuperDatasets(self._store, recorder)
            for name, (mirror, source) in mirrors.items():
                step = partial(supers.update, mirror, source, failed=name in failed)
                for result in attempt(SUPERDATASETS, name, self._store, log, step):
                    failed.add(name)
                    yield result
            yield from attempt(
                *(SUPERDATASETS, TOP_ALIAS, self._store, log),
                partial(supers.update_top, failed=bool(failed)),
            )

    def survey(self, mirror: Mirror, due: Callable[[Task], None]) -> Iterator[Result]:
        """Do what a run over a mirror does before visits; ``due`` is called for those to be made.

        What is under embargo is visited, if it is to be: the private store has one run at a time.
        Superdatasets are left to :meth:`regroup`.
        """
        request = Request(mirror, None)
        (source,) = self._opened([request])
        with self._recording() as recorder:
            yield from self._mirror(request, source, recorder, due)

    def visit(self, request: Request) -> Iterator[Result]:
        """How one dataset fares; nothing is done for its mirror as a whole."""
        (source,) = self._opened([request])
        with self._recording() as recorder:
            run = self._public_run(request, source, recorder, {})
            yield from run.visit(request)

    def regroup(self, mirror: Mirror, *, wait: bool = True) -> Iterator[Result]:
        """Bring a mirror's superdatasets to the latest versions.

        ``wait`` says whether they wait for visits that failed. The private store has no part in
        it, so that neither its folder nor a token is needed.
        """
        refuse_private(self._store.root)
        source = mirror.open()
        self._store.protect_repositories()
        with self._recording() as recorder:
            supers = SuperDatasets(self._store, recorder)
            step = partial(supers.update, mirror, source, failed=False, wait=wait)
            log = FailureLog(recorder)
            yield from attempt(SUPERDATASETS, mirror.name, self._store, log, step)

    def regroup_top(self, *, wait: bool = True) -> Iterator[Result]:
        """Bring the superdataset above all mirrors to those of the mirrors; as :meth:`regroup`."""
        self._opened([])
        with self._recording() as recorder:
            step = partial(SuperDatasets(self._store, recorder).update_top, failed=False, wait=wait)
            yield from attempt(SUPERDATASETS, TOP_ALIAS, self._store, FailureLog(recorder), step)

    def _opened(self, requests: Sequence[Request]) -> list[Source]:
        refuse_private(self._store.root)
        sources = [request.mirror.open() for request in requests]
        self._private.check(sources)
        self._store.protect_repositories()
        return sources

    def _recording(self) -> AbstractContextManager[Recorder]:
        if self._recorder is not None:
            return nullcontext(self._recorder)
        return recording(self._store, self._index_path)

    def _mirror(
        self,
        request: Request,
        source: Source,
        recorder: Recorder,
        defer: Callable[[Task], None] | None = None,
    ) -> Iterator[Result]:
        """The public store's part first: what was opened leaves the private one by it."""
        view = private_view(source)
        waiting: dict[str, Result] = {}
        run = self._public_run(request, source, recorder, waiting)
        yield from run.results(request, defer)
        if view is not None and (request.local_id is None or waiting):
            failed = ""
            for result in self._keep_private(request, view):
                waiting.pop(result.dataset, None)
                if result.exit_code == 1:
                    failed = "embargoed datasets fail; the private store's status names them"
                yield result
            log, name = FailureLog(recorder), request.mirror.name
            if failed:
                # no name and no path: this store may be public
                log.failed(PRIVATE, failed, name)
            elif request.local_id is None:
                log.succeeded(PRIVATE, name)
        self._count(len(waiting))
        yield from waiting.values()

    def _public_run(
        self,
        request: Request,
        source: Source,
        recorder: Recorder,
        waiting: dict[str, Result],
    ) -> MirrorRun:
        """The public store's run; ``waiting`` gets what the private store may say more of."""
        view = private_view(source)
        held = self._private.holds(request.mirror.name)

        def unavailable(dataset: DatasetRef, why: str) -> Result | None:
            again = closed_again(self._store, dataset, recorder) if why == EMBARGOED else None
            said = again or Result(dataset.name, "notneeded", why)
            if again is None and why == EMBARGOED and view is not None:
                waiting[dataset.name] = said
                return None
            return said

        def before(dataset: DatasetRef) -> str:
            try:
                if dataset not in held:
                    check_public(source, dataset)
                    return ""
                self._private.bring_over(dataset, source, recorder)
            except NotOpenToAll as error:
                raise NotNow(str(error)) from error
            return "opened upstream, and moved here from the private store; "

        rules = Rules(held, before, unavailable)
        rules = replace(rules, claim=self._watched(self._claim or rules.claim))
        traffic = self._counters.setdefault(request.mirror.name, TrafficCounter())
        return MirrorRun(self._store, recorder, source, self._how, rules, self._count, traffic)

    def _keep_private(self, request: Request, view: Source) -> Iterator[Result]:
        """The private store's part, of which no more is told than may be known."""
        rules = Rules(
            unavailable=not_readable,
            # an incident, which must not begin a second history
            passed_over=lambda dataset: self._store.repository(dataset).exists(),
        )
        try:
            with self._private.open() as (store, recorder):
                store.protect_repositories()
                untold = TrafficCounter()  # the number of requests tells that of files
                run = MirrorRun(store, recorder, view, self._how, rules, self._count, untold)
                failed = False
                for result in run.results(request):
                    failed = failed or _is_failure(result)
                    yield concealed(result, store, recorder)
                supers = SuperDatasets(store, recorder)
                step = partial(supers.update, request.mirror, view, failed=failed)
                log, name = FailureLog(recorder), request.mirror.name
                for result in attempt(SUPERDATASETS, name, store, log, step):
                    yield concealed(result, store, recorder)
        except ConfigurationError:
            raise
        except (NeuromirrorError, OSError) as error:
            yield Result(request.mirror.name, "error", f"{EMBARGOED}: {error}", "failed")

    def _watched(self, claim: Claim) -> Claim:
        """A claim that also notes which datasets are being visited."""

        @contextmanager
        def watched(dataset: DatasetRef) -> Iterator[None]:
            with claim(dataset):
                self._visiting.add(dataset.name)
                try:
                    yield
                finally:
                    self._visiting.discard(dataset.name)

        return watched

    def _count(self, more: int) -> None:
        self.total += more


def _is_failure(result: Result) -> bool:
    """Return whether a dataset or mirror could not be visited, or not wholly."""
    return result.status == "error" and result.visit in ("failed", "partial")
