"""A run over mirrors: plan, visit what is due, record, and say how each ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import datetime
from pathlib import Path

from neuromirror.crawl.events import tell_returned, tell_vanished
from neuromirror.crawl.mirrors import Mirror
from neuromirror.crawl.plan import Task
from neuromirror.crawl.recorder import Recorder, recording
from neuromirror.crawl.requests import Planner, Request
from neuromirror.crawl.results import Result, explain, result_of
from neuromirror.crawl.times import now
from neuromirror.crawl.visit import Visit
from neuromirror.index import Index, LastVisit, MirrorStatus
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    MirrorProbed,
    MirrorSeen,
    NeuromirrorError,
    VersionKind,
    VisitEnded,
)
from neuromirror.net import Unreachable
from neuromirror.sources import DatasetNotFound, Source
from neuromirror.store import Member, Store, update_superdataset

TOP_URI = "neuromirror:mirrors"
"""The source URI of the super-dataset above all mirrors: the same in every store."""

TOP_ALIAS = "neuromirror"


def dry_run(
    requests: Sequence[Request], index: Index | None, *, deep: bool, history: bool = False
) -> Iterator[Result]:
    """What a sync would do, dataset by dataset; nothing is written anywhere."""
    planner = Planner(index, _regardless(deep, history))
    for request in requests:
        try:
            tasks, gone = planner.plan(request, request.mirror.open())
        except ConfigurationError:
            raise
        except NeuromirrorError as error:
            yield _unplanned(request, error)
            continue
        for task in tasks:
            name = task.hint.dataset.name
            if task.action == "visit":
                yield Result(name, "ok", f"would visit: {task.why}")
            elif task.action == "held":
                yield Result(name, "impossible", task.why, "held")
            else:
                yield Result(name, "notneeded", task.why)
        for local_id in gone:
            yield Result(f"{request.mirror.name}:{local_id}", "ok", "would check: no longer listed")


def _regardless(deep: bool, history: bool) -> str:
    """Why all datasets are to be visited, whether upstream's overview has moved or not."""
    if deep:
        return "deep visit"
    return "looking for earlier states" if history else ""


def _unplanned(request: Request, error: NeuromirrorError) -> Result:
    """How a request fares whose archive gave no list, or has no such dataset."""
    mirror = request.mirror
    message, visit = str(error), "failed"
    if isinstance(error, DatasetNotFound):
        visit = "not_found"
        message = (
            f"{message.rstrip('.')}; check its id ('neuromirror sync {mirror.name} --dry-run' "
            "names all)"
        )
    elif isinstance(error, Unreachable):
        message = (
            f"{message.removesuffix('; try again')}; check the network and the address in "
            f"{mirror.path}, then run the sync again"
        )
    return Result(_name(request), "error", message, visit)


def _name(request: Request) -> str:
    name = request.mirror.name
    return name if request.local_id is None else f"{name}:{request.local_id}"


class Sync:
    """One run. Iterate :meth:`results`; the number of datasets is in ``total`` once planned.

    ``deep`` visits datasets whatever upstream's overview says; ``history`` does too, and mints
    earlier states that upstream can still list.
    """

    def __init__(
        self,
        store: Store,
        index_path: Path,
        *,
        deep: bool = False,
        history: bool = False,
        jobs: int = 4,
    ) -> None:
        self._store = store
        self._index_path = index_path
        self._deep = deep
        self._history = history
        self._jobs = jobs
        self.total = 0

    def results(self, requests: Sequence[Request]) -> Iterator[Result]:
        """How each dataset fared, as they end; datasets do not wait for each other."""
        with recording(self._store, self._index_path) as recorder:
            for request in requests:
                yield from self._mirror(request, recorder)
            yield from self._attempt(TOP_ALIAS, lambda: self._update_top(recorder))

    def _attempt(self, name: str, step: Callable[[], object]) -> Iterator[Result]:
        """Does a step of the run; a failure is a result, and the run goes on."""
        try:
            step()
        except (NeuromirrorError, OSError) as error:
            yield Result(name, "error", explain(error, self._store), "failed")

    def _mirror(self, request: Request, recorder: Recorder) -> Iterator[Result]:
        source = request.mirror.open()
        regardless = _regardless(self._deep, self._history)
        try:
            tasks, gone = recorder.ask(
                lambda index: Planner(index, regardless).plan(request, source)
            )
        except ConfigurationError:
            raise
        except NeuromirrorError as error:
            yield _unplanned(request, error)
            return
        name = request.mirror.name
        failed = list(
            self._attempt(name, lambda: self._introduce(request.mirror, source, recorder))
        )
        if failed:
            yield from failed
            return
        yield from self._attempt(name, lambda: self._probe(request.mirror, source, recorder))
        self.total += len(tasks) + len(gone)
        due = [task for task in tasks if task.action == "visit"]
        for task in tasks:
            if task.action == "held":
                yield Result(task.hint.dataset.name, "impossible", task.why, "held")
            elif task.action != "visit":
                yield Result(task.hint.dataset.name, "notneeded", task.why)
        past: list[int] = []
        yield from self._visit_all(due, source, request.mirror, recorder, past)
        if self._history and past and not any(past):
            yield Result(
                name, "notneeded", "no earlier states: upstream keeps none, or they are all here"
            )
        known = recorder.ask(lambda index: index.hints(name)) if gone else {}
        for local_id in gone:
            last = known.get(local_id)
            yield self._vanished(source.dataset(local_id), last, source, recorder)
        yield from self._attempt(name, lambda: self._update_super(request.mirror, source, recorder))
        if request.local_id is None:
            yield from self._attempt(name, lambda: self._store.mark_checked(name))

    def _introduce(self, mirror: Mirror, source: Source, recorder: Recorder) -> None:
        seen = {one.mirror: (one.source, one.uri) for one in _mirrors(recorder)}
        kind = mirror.settings.source
        if seen.get(mirror.name) != (kind, source.uri):
            recorder.record(MirrorSeen(mirror.name, kind, source.uri, now()))

    def _probe(self, mirror: Mirror, source: Source, recorder: Recorder) -> None:
        """Records what upstream allows, where that is not what it was."""
        found = dict(source.capabilities())
        if recorder.ask(lambda index: index.capabilities(mirror.name)) != found:
            recorder.record(MirrorProbed(mirror.name, found, now()))

    def _visit_all(
        self,
        due: list[Task],
        source: Source,
        mirror: Mirror,
        recorder: Recorder,
        past: list[int],
    ) -> Iterator[Result]:
        """Visits datasets; ``past`` gets the number of earlier states that each has upstream."""
        with ThreadPoolExecutor(max(1, min(self._jobs, len(due)))) as pool:
            running: dict[Future[Result], Task] = {
                pool.submit(self._visit, task, source, mirror, recorder, past): task for task in due
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

    def _visit(
        self, task: Task, source: Source, mirror: Mirror, recorder: Recorder, past: list[int]
    ) -> Result:
        hint, dataset = task.hint, task.hint.dataset
        started = now()
        visit = Visit(source, self._store, recorder, mirror.settings, hint)
        try:
            with self._store.lock(dataset.dataset_id, dataset.name):
                if task.last is not None and task.last.status == "not_found":
                    tell_returned(recorder, dataset)
                outcome = visit.run(deep=self._deep, history=self._history)
        except (NeuromirrorError, OSError) as error:
            status = "partial" if visit.outcome.minted else "failed"
            message = explain(error, self._store)
            result = Result(dataset.name, "error", message, status, tuple(visit.outcome.minted))
        else:
            past.append(outcome.past)
            result = result_of(dataset, outcome)
        try:
            self._record_visit(task, started, result, visit.outcome.pending, recorder)
        except (NeuromirrorError, OSError) as error:
            return Result(dataset.name, "error", explain(error, self._store), "failed")
        return result

    def _record_visit(
        self, task: Task, started: str, result: Result, pending: int, recorder: Recorder
    ) -> None:
        """Records the visit, unless it says nothing that the last one did not."""
        hint, last, dataset = task.hint, task.last, task.hint.dataset
        if (
            last is not None
            and result.status == "notneeded"
            and (last.status, last.fingerprint, last.pending)
            == (result.visit, hint.fingerprint or "", pending)
        ):
            return
        recorder.record(
            _ended(
                dataset,
                started,
                result.visit,
                result.message,
                title=hint.title,
                fingerprint=hint.fingerprint or "",
                pending=pending,
            )
        )

    def _vanished(
        self, dataset: DatasetRef, last: LastVisit | None, source: Source, recorder: Recorder
    ) -> Result:
        """A dataset that is no longer listed: a tombstone, once upstream says so to our face."""
        started = now()
        try:
            hint = source.hint(dataset)
        except DatasetNotFound as error:
            message = "gone upstream; everything mirrored of it is kept"
            try:
                tell_vanished(recorder, dataset, str(error))
                if last is None or last.status != "not_found":
                    ended = _ended(dataset, started, "not_found", message)
                    recorder.record(ended)
            except (NeuromirrorError, OSError) as failure:
                message = explain(failure, self._store)
            return Result(dataset.name, "error", message, "not_found")
        except (NeuromirrorError, OSError) as error:
            return Result(dataset.name, "error", explain(error, self._store), "failed")
        if hint.unavailable is not None:
            return Result(
                dataset.name, "notneeded", f"{hint.unavailable}; what is mirrored is kept"
            )
        return Result(
            dataset.name, "error", "not in upstream's list, yet it answers; try again", "failed"
        )

    def _update_super(self, mirror: Mirror, source: Source, recorder: Recorder) -> None:
        members = recorder.ask(lambda index: _members(index, mirror.name))
        if members:
            update_superdataset(self._store, mirror.superdataset(source.uri), mirror.name, members)

    def _update_top(self, recorder: Recorder) -> None:
        members = []
        for row in _mirrors(recorder):
            dataset = DatasetRef(row.mirror, "", row.uri)
            commit = self._store.repository(dataset).main()
            if commit is not None:
                members.append(Member(row.mirror, dataset, *commit, url=f"../{row.mirror}"))
        if members:
            update_superdataset(self._store, DatasetRef(TOP_ALIAS, "", TOP_URI), TOP_ALIAS, members)


def _ended(
    dataset: DatasetRef,
    started: str,
    status: str,
    message: str,
    *,
    title: str = "",
    fingerprint: str = "",
    pending: int = 0,
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
    )


def _mirrors(recorder: Recorder) -> list[MirrorStatus]:
    return recorder.ask(lambda index: list(index.mirror_status()))


def _members(index: Index, mirror: str) -> list[Member]:
    members = []
    for row in index.datasets(mirror):
        if row.within:
            continue  # it is a part of another one, and found there
        last = index.last_version(row.name, VersionKind.OBSERVED.value) or index.last_version(
            row.name, VersionKind.PUBLISHED.value
        )
        if last is not None:
            dataset = DatasetRef(mirror, row.local_id, row.source_uri)
            date = int(datetime.fromisoformat(last.time).timestamp())
            members.append(
                Member(row.local_id, dataset, last.commit, date, url=f"../{dataset.alias}")
            )
    return members
