"""One mirror brought up to date in one store: plan, visit what is due, record."""

from __future__ import annotations

import gc
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from neuromirror.crawl.events import tell_returned, tell_vanished
from neuromirror.crawl.failures import LIST, PROBE, FailureLog, attempt
from neuromirror.crawl.mirrors import Mirror
from neuromirror.crawl.plan import RELEASED, Task, taken_down
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.requests import Planner, Request
from neuromirror.crawl.results import Result, explain, result_of, unplanned
from neuromirror.crawl.times import now
from neuromirror.crawl.visit import Visit
from neuromirror.index import Index, LastVisit, MirrorStatus
from neuromirror.model import (
    ConfigurationError,
    DatasetHint,
    DatasetRef,
    MirrorProbed,
    MirrorSeen,
    NeuromirrorError,
    VersionKind,
    VisitEnded,
    dump_traffic,
)
from neuromirror.net import TrafficCounter, counted
from neuromirror.sources import DatasetNotFound, Source
from neuromirror.store import Store

JOBS = 16
"""Datasets visited at a time by default: most of a visit is waiting for the archive."""

_SELDOM = 50_000
"""New objects after which Python looks for cycles of garbage among them."""


@dataclass(frozen=True, slots=True)
class How:
    """How a run visits: ``deep`` and ``history`` as :class:`~neuromirror.crawl.Sync` has them.

    ``jobs`` datasets are visited at a time.
    """

    deep: bool = False
    history: bool = False
    jobs: int = JOBS

    @property
    def regardless(self) -> str:
        """Why all datasets are to be visited, whether upstream's overview has moved or not."""
        if self.deep:
            return "deep visit"
        return "looking for earlier states" if self.history else ""


class NotNow(NeuromirrorError):
    """A dataset that must not be visited now, and nothing recorded of it; not a failure."""


Claim = Callable[[DatasetRef], AbstractContextManager[object]]
"""Keeps others from a dataset while the block runs; raises NotNow where they have it already."""


def _nobody_else(dataset: DatasetRef) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Rules:
    """What one store does differently with some datasets.

    ``moving`` are visited in any case; ``before`` is done before a visit, under the dataset's
    lock, and gives words to begin the result with (or raises NotNow); ``unavailable`` says how a
    dataset fares that cannot be read, given the reason, None to say nothing; ``passed_over`` tells
    datasets that this store has nothing to do with; ``claim`` is held while one is visited.
    """

    moving: Container[DatasetRef] = ()
    before: Callable[[DatasetRef], str] = lambda dataset: ""
    unavailable: Callable[[DatasetRef, str], Result | None] = lambda dataset, why: Result(
        dataset.name, "notneeded", why
    )
    passed_over: Callable[[DatasetRef], bool] = lambda dataset: False
    claim: Claim = _nobody_else


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Makes Python look for cycles of garbage seldom.

    A page of a list is some ten thousand objects, none of them in a cycle; to look at them all
    again and again took an eighth of the time of a first crawl.
    """
    before = gc.get_threshold()
    # 0 is never, which somebody has chosen
    gc.set_threshold(before[0] and max(before[0], _SELDOM), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class MirrorRun:
    """A run over one mirror, in one store; ``count`` is told of datasets as they are planned.

    ``traffic`` counts all that the run asks, of visits and beside them.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        source: Source,
        how: How,
        rules: Rules,
        count: Callable[[int], None],
        traffic: TrafficCounter,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._source = source
        self._how = how
        self._rules = rules
        self._count = count
        self._traffic = traffic
        self._log = FailureLog(recorder)

    def visit(self, request: Request) -> Iterator[Result]:
        """How the datasets of a request fare, and nothing is done for the mirror as a whole."""
        planned = yield from self._plan(request)
        if planned is None:
            return
        tasks, gone = planned
        self._count(len(tasks) + len(gone))
        yield from self._standing(tasks)
        due = [task for task in tasks if task.action == "visit"]
        yield from self._visit_all(due, request.mirror, [])
        yield from self._all_vanished(gone, request)

    def _plan(
        self, request: Request
    ) -> Generator[Result, None, tuple[list[Task], list[str]] | None]:
        def plan(index: Index) -> tuple[list[Task], list[str]]:
            with counted(self._traffic):
                planner = Planner(index, self._how.regardless, self._rules.moving)
                return planner.plan(request, self._source)

        try:
            tasks, gone = self._recorder.ask(plan)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - recorded, and a result
            yield self._unplanned(request, error)
            return None
        try:
            self._listed(request)
        except (NeuromirrorError, OSError) as error:
            yield Result(request.name, "error", explain(error, self._store), "failed")
            return None
        return [task for task in tasks if not self._rules.passed_over(task.hint.dataset)], gone

    def _listed(self, request: Request) -> None:
        """Record that the overview was read: of the mirror, or of one dataset."""
        if request.local_id is None:
            self._store.mark_checked(request.mirror.name)
        self._log.succeeded(LIST, request.name, with_datasets=request.local_id is None)

    def _unplanned(self, request: Request, error: Exception) -> Result:
        """Record that the overview could not be read, and return that as a result."""
        result = unplanned(request, error, explain(error, self._store))
        name = request.mirror.name
        try:
            last = None
            if request.local_id is not None:
                last = self._recorder.ask(lambda index: index.hints(name)).get(request.local_id)
            if last is not None and request.local_id is not None:
                dataset = self._source.dataset(request.local_id)
                self._record_result(dataset, now(), last, result, TrafficCounter())
            elif not isinstance(error, DatasetNotFound):
                # an id that upstream does not know is a mistyped one
                self._log.failed(LIST, result.message, request.name)
        except (NeuromirrorError, OSError) as failure:
            return replace(result, message=f"{result.message}; not recorded: {failure}")
        return result

    def results(
        self, request: Request, defer: Callable[[Task], None] | None = None
    ) -> Iterator[Result]:
        """How each dataset fared, as they end; those that are due are only told to ``defer``."""
        recorder, source = self._recorder, self._source
        planned = yield from self._plan(request)
        if planned is None:
            return
        tasks, gone = planned
        name = request.mirror.name
        failed = list(
            self._attempt(PROBE, name, lambda: self._introduce(request.mirror, source, recorder))
        )
        if failed:
            yield from failed
            return
        yield from self._attempt(PROBE, name, lambda: self._probe(request.mirror, source, recorder))
        self._count(len(tasks) + len(gone))
        yield from self._standing(tasks)
        due = [task for task in tasks if task.action == "visit"]
        if defer is not None:
            self._count(-len(due))
            for task in due:
                defer(task)
        else:
            past: list[int] = []
            yield from self._visit_all(due, request.mirror, past)
            if self._how.history and past and not any(past):
                said = "no earlier states: upstream keeps none, or they are all here"
                yield Result(name, "notneeded", said)
        yield from self._all_vanished(gone, request)

    def _attempt(self, task: str, name: str, step: Callable[[], object]) -> Iterator[Result]:
        return attempt(task, name, self._store, self._log, step)

    def _standing(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """How those datasets fare that are not to be visited."""
        for task in tasks:
            if task.action == "unavailable":
                yield from self._unavailable(task.hint.dataset, task.why, task.last)
            elif task.action == "held":
                yield Result(task.hint.dataset.name, "impossible", task.why, "held")
            elif task.action != "visit":
                yield Result(task.hint.dataset.name, "notneeded", task.why)

    def _all_vanished(self, gone: Iterable[str], request: Request) -> Iterator[Result]:
        known: Mapping[str, LastVisit] = {}
        if gone:
            known = self._recorder.ask(lambda index: index.hints(request.mirror.name))
        for local_id in gone:
            yield from self._vanished(self._source.dataset(local_id), known.get(local_id))

    def _unavailable(
        self, dataset: DatasetRef, why: str, last: LastVisit | None
    ) -> Iterator[Result]:
        """How a dataset fares that upstream itself says cannot be read, with its reason."""
        try:
            said = self._rules.unavailable(dataset, why)
            if said is not None and said.visit == "failed" and last is None:
                # of a dataset that was never visited nothing is known that could vanish
                self._log.failed(LIST, said.message, dataset.name)
            elif said is not None and said.visit == "failed":
                self._record_result(dataset, now(), last, said, TrafficCounter())
            elif last is not None and last.status in ("failed", "partial"):
                # what failed is over: upstream says why
                ended = Result(dataset.name, "notneeded", why, "unavailable")
                self._record_result(dataset, now(), last, ended, TrafficCounter())
        except (NeuromirrorError, OSError) as error:
            said = Result(dataset.name, "error", explain(error, self._store), "failed")
        if said is None:
            self._count(-1)
        else:
            yield said

    def _introduce(self, mirror: Mirror, source: Source, recorder: Recorder) -> None:
        seen = {one.mirror: (one.source, one.uri) for one in known_mirrors(recorder)}
        kind = mirror.settings.source
        if seen.get(mirror.name) != (kind, source.uri):
            recorder.record(MirrorSeen(mirror.name, kind, source.uri, now()))

    def _probe(self, mirror: Mirror, source: Source, recorder: Recorder) -> None:
        """Records what upstream allows, where that is not what it was."""
        with counted(self._traffic):
            found = dict(source.capabilities())
        if recorder.ask(lambda index: index.capabilities(mirror.name)) != found:
            recorder.record(MirrorProbed(mirror.name, found, now()))

    def _visit_all(self, due: list[Task], mirror: Mirror, past: list[int]) -> Iterator[Result]:
        """Visits datasets; ``past`` gets the number of earlier states that each has upstream."""
        jobs = max(1, min(self._how.jobs, len(due)))
        with _seldom_collected(), ThreadPoolExecutor(jobs) as pool:
            running: dict[Future[Result], Task] = {
                pool.submit(self._visit, task, mirror, past): task for task in due
            }
            try:
                for future in as_completed(running):
                    broken = future.exception()
                    if broken is None:
                        yield future.result()
                    elif isinstance(broken, KeyboardInterrupt | SystemExit):
                        raise broken
                    else:
                        # a defect of ours in one dataset must not stop the others
                        yield Result(
                            running[future].hint.dataset.name,
                            "error",
                            f"unexpected {type(broken).__name__}: {broken}; please report this",
                            "failed",
                        )
            finally:
                for future in running:
                    future.cancel()

    def _visit(self, task: Task, mirror: Mirror, past: list[int]) -> Result:
        own = TrafficCounter()
        with counted(self._traffic), counted(own):
            result = self._fare(task, mirror, past, own)
        return replace(result, traffic=own.hosts())

    def _fare(self, task: Task, mirror: Mirror, past: list[int], own: TrafficCounter) -> Result:
        """Visits a dataset; ``own`` counts what the visit asks."""
        source, recorder = self._source, self._recorder
        hint, dataset = task.hint, task.hint.dataset
        started, said = now(), ""
        visit = Visit(source, self._store, recorder, mirror.settings, hint)
        try:
            with (
                self._rules.claim(dataset),
                self._store.lock(dataset.dataset_id, dataset.name),
            ):
                stone = recorder.ask(lambda index: index.tombstone(dataset.name))
                if stone is not None:
                    # since the visit was planned
                    raise NotNow(taken_down(stone))
                said = self._rules.before(dataset)
                if task.last is not None and task.last.status == "not_found":
                    tell_returned(recorder, dataset)
                outcome = visit.run(
                    deep=self._how.deep,
                    history=self._how.history,
                    pending_only=task.pending_only,
                )
        except NotNow as error:
            return Result(dataset.name, "notneeded", str(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours must not stop the others
            status = "partial" if visit.outcome.minted else "failed"
            message = explain(error, self._store)
            result = Result(dataset.name, "error", message, status, tuple(visit.outcome.minted))
        else:
            past.append(outcome.past)
            result = result_of(dataset, outcome)
        if said:
            status = "ok" if result.status == "notneeded" else result.status
            result = replace(result, status=status, message=said + result.message)
        try:
            pending = max(visit.outcome.pending, len(visit.outcome.writing))
            self._record_visit(task, started, result, pending, own)
        except (NeuromirrorError, OSError) as error:
            return Result(dataset.name, "error", explain(error, self._store), "failed")
        return result

    def _record_visit(
        self,
        task: Task,
        started: str,
        result: Result,
        pending: int,
        own: TrafficCounter,
    ) -> None:
        """Records the visit, unless it says nothing that the last one did not."""
        hint, last, dataset = task.hint, task.last, task.hint.dataset
        if (
            last is not None
            and task.why != RELEASED
            and result.status == "notneeded"
            and (last.status, last.fingerprint, last.pending)
            == (result.visit, hint.fingerprint or "", pending)
        ):
            return
        self._recorder.record(
            _ended(
                dataset,
                started,
                result.visit,
                result.message,
                title=hint.title,
                fingerprint=hint.fingerprint or "",
                pending=pending,
                own=own,
            )
        )

    def _vanished(self, dataset: DatasetRef, last: LastVisit | None) -> Iterator[Result]:
        """A dataset that is no longer listed: a tombstone, once upstream says so to our face."""
        started, own = now(), TrafficCounter()
        try:
            hint = self._hint(dataset, own)
        except DatasetNotFound as error:
            message = "gone upstream; everything mirrored of it is kept"
            status = "error"
            if error.owner_may_delete and not self._has_published(dataset):
                message = f"a draft that its owner may delete is {message}"
                status = "ok"
            try:
                tell_vanished(self._recorder, dataset, str(error))
                if last is None or last.status != "not_found":
                    ended = _ended(dataset, started, "not_found", message, own=own)
                    self._recorder.record(ended)
            except (NeuromirrorError, OSError) as failure:
                message, status = explain(failure, self._store), "error"
            yield Result(dataset.name, status, message, "not_found", traffic=own.hosts())
        except Exception as error:  # noqa: BLE001 - recorded, and a result
            yield self._vanished_failed(dataset, started, last, explain(error, self._store), own)
        else:
            if hint.unavailable is not None:
                yield from self._unavailable(dataset, hint.unavailable, last)
                return
            message = "not in upstream's list, yet it answers; try again"
            yield self._vanished_failed(dataset, started, last, message, own)

    def _has_published(self, dataset: DatasetRef) -> bool:
        """Whether the store has a version of a dataset that upstream published."""
        kind, name = VersionKind.PUBLISHED.value, dataset.name
        return self._recorder.ask(lambda index: index.last_version(name, kind)) is not None

    def _vanished_failed(
        self,
        dataset: DatasetRef,
        started: str,
        last: LastVisit | None,
        message: str,
        own: TrafficCounter,
    ) -> Result:
        """Record that it is not known what became of a dataset, and return that as a result."""
        result = Result(dataset.name, "error", message, "failed", traffic=own.hosts())
        try:
            self._record_result(dataset, started, last, result, own)
        except (NeuromirrorError, OSError) as error:
            return replace(result, message=f"{message}; not recorded: {error}")
        return result

    def _record_result(
        self,
        dataset: DatasetRef,
        started: str,
        last: LastVisit | None,
        result: Result,
        own: TrafficCounter,
    ) -> None:
        """Record a result as a visit that learned nothing about the dataset's content.

        Nothing is written where the last visit ended in the same way.
        """
        if last is not None and last.status == result.visit:
            name = dataset.name
            before = self._recorder.ask(lambda index: next(index.visits(name, limit=1)))
            if before.message == result.message:
                return
        self._recorder.record(
            _ended(
                dataset,
                started,
                result.visit,
                result.message,
                fingerprint="" if last is None else last.fingerprint,
                pending=0 if last is None else last.pending,
                own=own,
            )
        )

    def _hint(self, dataset: DatasetRef, own: TrafficCounter) -> DatasetHint:
        with counted(self._traffic), counted(own):
            return self._source.hint(dataset)


def _ended(
    dataset: DatasetRef,
    started: str,
    status: str,
    message: str,
    *,
    title: str = "",
    fingerprint: str = "",
    pending: int = 0,
    own: TrafficCounter,
) -> VisitEnded:
    return VisitEnded(
        visit=f"{started}-{dataset.dataset_id[:8]}",
        mirror=dataset.mirror,
        local_id=dataset.local_id,
        source_uri=dataset.source_uri,
        title=title,
        started=started,
        ended=now(),
        status=status,
        fingerprint=fingerprint,
        pending=pending,
        message=message,
        traffic=dump_traffic(own.hosts()),
    )


def known_mirrors(recorder: Recorder) -> list[MirrorStatus]:
    """The mirrors that a store knows."""
    return recorder.ask(lambda index: list(index.mirror_status()))
