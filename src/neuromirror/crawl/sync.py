"""A run over mirrors: plan, visit what is due, record, and say how each ended."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from neuromirror.crawl.mirrors import Mirror, find_mirror
from neuromirror.crawl.plan import Task, files_waiting, plan_one, vanished
from neuromirror.crawl.recorder import Recorder, recording
from neuromirror.crawl.times import now
from neuromirror.crawl.visit import Outcome, Visit
from neuromirror.index import Index, LastVisit, MirrorStatus
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    EventRaised,
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


@dataclass(frozen=True, slots=True)
class Result:
    """How one dataset (or mirror) fared, in DataLad's words.

    ``status`` is ok | notneeded | impossible | error; ``visit`` is full | partial | held |
    not_found | failed, or empty where no visit was made; ``versions`` are labels minted.
    """

    dataset: str
    status: str
    message: str
    visit: str = ""
    versions: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """What this result makes of the run's exit code: 0, 1, or 3 for held."""
        if self.visit == "held":
            return 3
        return 0 if self.status in ("ok", "notneeded") else 1


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked to sync: a mirror, and one of its datasets or all (None)."""

    mirror: Mirror
    local_id: str | None


def parse_requests(names: Sequence[str], mirrors: dict[str, Mirror]) -> list[Request]:
    """Requests for names such as ``dandi`` and ``dandi:000027``; all mirrors for no name.

    Raises ConfigurationError for an unknown mirror, wrong options of one that is asked for, or a
    malformed dataset name: all before anything is asked or written.
    """
    requests: dict[tuple[str, str | None], Request] = {}
    for mirror in () if names else mirrors.values():
        requests[mirror.name, None] = Request(mirror, None)
    for name in names:
        mirror_name, colon, local_id = name.partition(":")
        mirror = find_mirror(mirrors, mirror_name)
        if colon and not local_id:
            raise ConfigurationError(f"'{name}' names no dataset; write {mirror_name}:ID")
        if "@" in local_id:
            raise ConfigurationError(
                f"'{name}' names a version; sync takes datasets: {name.partition('@')[0]}"
            )
        request = Request(mirror, local_id or None)
        requests[mirror_name, request.local_id] = request
    for request in requests.values():
        source = request.mirror.open()
        if request.local_id is not None:
            _dataset(source, request.local_id)
    return list(requests.values())


def _dataset(source: Source, local_id: str) -> DatasetRef:
    try:
        return source.dataset(local_id)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


class Planner:
    """Turns requests into tasks, reading upstream's overview and the index."""

    def __init__(self, index: Index | None, *, deep: bool) -> None:
        self._index = index
        self._deep = deep

    def plan(self, request: Request, source: Source) -> tuple[list[Task], list[str]]:
        """Tasks, and local ids that vanished from the list; raises what the source raises.

        Raises ConfigurationError when the store knows the mirror's name for another archive.
        """
        self._check_archive(request.mirror, source)
        known = self._known(request.mirror.name)
        held = self._held()
        if request.local_id is not None:
            dataset = _dataset(source, request.local_id)
            try:
                hints = {request.local_id: source.hint(dataset)}
            except DatasetNotFound:
                if request.local_id in known:
                    return [], [request.local_id]
                raise
        else:
            hints = {hint.dataset.local_id: hint for hint in source.datasets()}
        tasks = [
            plan_one(hint, known.get(local_id), held, deep=self._deep)
            for local_id, hint in hints.items()
        ]
        gone = vanished(hints, known) if request.local_id is None else []
        return tasks, gone

    def _check_archive(self, mirror: Mirror, source: Source) -> None:
        """One name for two archives would mix their datasets: ids say nothing of the archive."""
        for one in () if self._index is None else self._index.mirror_status():
            if one.mirror == mirror.name and one.uri not in ("", source.uri):
                raise ConfigurationError(
                    f"{mirror.path} names the archive {source.uri}, but in this store the mirror "
                    f"'{mirror.name}' is of {one.uri}; give the file another name, or use another "
                    "--store"
                )

    def _known(self, mirror: str) -> dict[str, LastVisit]:
        return {} if self._index is None else self._index.hints(mirror)

    def _held(self) -> frozenset[str]:
        if self._index is None:
            return frozenset()
        return frozenset(one.dataset for one in self._index.open_holds())


def dry_run(requests: Sequence[Request], index: Index | None, *, deep: bool) -> Iterator[Result]:
    """What a sync would do, dataset by dataset; nothing is written anywhere."""
    planner = Planner(index, deep=deep)
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
    """One run. Iterate :meth:`results`; the number of datasets is in ``total`` once planned."""

    def __init__(self, store: Store, index_path: Path, *, deep: bool = False, jobs: int = 4):
        self._store = store
        self._index_path = index_path
        self._deep = deep
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
            yield Result(name, "error", _explain(error, self._store), "failed")

    def _mirror(self, request: Request, recorder: Recorder) -> Iterator[Result]:
        source = request.mirror.open()
        try:
            tasks, gone = recorder.ask(
                lambda index: Planner(index, deep=self._deep).plan(request, source)
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
        self.total += len(tasks) + len(gone)
        due = [task for task in tasks if task.action == "visit"]
        for task in tasks:
            if task.action == "held":
                yield Result(task.hint.dataset.name, "impossible", task.why, "held")
            elif task.action != "visit":
                yield Result(task.hint.dataset.name, "notneeded", task.why)
        yield from self._visit_all(due, source, request.mirror, recorder)
        for local_id in gone:
            yield self._vanished(source.dataset(local_id), source, recorder)
        yield from self._attempt(name, lambda: self._update_super(request.mirror, source, recorder))
        if request.local_id is None:
            yield from self._attempt(name, lambda: self._store.mark_checked(name))

    def _introduce(self, mirror: Mirror, source: Source, recorder: Recorder) -> None:
        seen = {one.mirror: (one.source, one.uri) for one in _mirrors(recorder)}
        kind = mirror.settings.source
        if seen.get(mirror.name) != (kind, source.uri):
            recorder.record(MirrorSeen(mirror.name, kind, source.uri, now()))

    def _visit_all(
        self, due: list[Task], source: Source, mirror: Mirror, recorder: Recorder
    ) -> Iterator[Result]:
        with ThreadPoolExecutor(max(1, min(self._jobs, len(due)))) as pool:
            running: dict[Future[Result], Task] = {
                pool.submit(self._visit, task, source, mirror, recorder): task for task in due
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

    def _visit(self, task: Task, source: Source, mirror: Mirror, recorder: Recorder) -> Result:
        hint, dataset = task.hint, task.hint.dataset
        started = now()
        visit = Visit(source, self._store, recorder, mirror.settings.guards, hint)
        try:
            with self._store.lock(dataset.dataset_id, dataset.name):
                outcome = visit.run(deep=self._deep)
        except (NeuromirrorError, OSError) as error:
            status = "partial" if visit.outcome.minted else "failed"
            message = _explain(error, self._store)
            result = Result(dataset.name, "error", message, status, tuple(visit.outcome.minted))
        else:
            result = _result(dataset, outcome)
        try:
            self._record_visit(task, started, result, visit.outcome.pending, recorder)
        except (NeuromirrorError, OSError) as error:
            return Result(dataset.name, "error", _explain(error, self._store), "failed")
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
            VisitEnded(
                visit=f"{started}-{dataset.dataset_id[:8]}",
                mirror=dataset.mirror,
                local_id=dataset.local_id,
                source_uri=dataset.source_uri,
                title=hint.title,
                started=started,
                ended=now(),
                status=result.visit,
                fingerprint=hint.fingerprint or "",
                pending=pending,
                message=result.message,
            )
        )

    def _vanished(self, dataset: DatasetRef, source: Source, recorder: Recorder) -> Result:
        """A dataset that is no longer listed: a tombstone, once upstream says so to our face."""
        started = now()
        try:
            hint = source.hint(dataset)
        except DatasetNotFound as error:
            message = "gone upstream; everything mirrored of it is kept"
            recorder.record(
                EventRaised(dataset.mirror, dataset.local_id, "tombstone", str(error), now()),
                VisitEnded(
                    visit=f"{started}-{dataset.dataset_id[:8]}",
                    mirror=dataset.mirror,
                    local_id=dataset.local_id,
                    source_uri=dataset.source_uri,
                    title="",
                    started=started,
                    ended=now(),
                    status="not_found",
                    fingerprint="",
                    pending=0,
                    message=message,
                ),
            )
            return Result(dataset.name, "error", message, "not_found")
        except (NeuromirrorError, OSError) as error:
            return Result(dataset.name, "error", _explain(error, self._store), "failed")
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


def _mirrors(recorder: Recorder) -> list[MirrorStatus]:
    return recorder.ask(lambda index: list(index.mirror_status()))


def _members(index: Index, mirror: str) -> list[Member]:
    members = []
    for row in index.datasets(mirror):
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


def _result(dataset: DatasetRef, outcome: Outcome) -> Result:
    versions = tuple(outcome.minted)
    notes = ""
    if outcome.left_out:
        notes += f"; {outcome.left_out} listed upstream but not mirrored"
    if outcome.pending:
        notes += f"; {files_waiting(outcome.pending, 'wait')} for a sha256"
    problems = "; ".join([*outcome.incidents, *outcome.held])
    if outcome.incidents:
        return Result(dataset.name, "error", problems, "partial", versions)
    if outcome.held:
        return Result(dataset.name, "impossible", problems, "held", versions)
    notes += "".join(f"; known incident: {one}" for one in outcome.known)
    if versions:
        return Result(dataset.name, "ok", f"new: {', '.join(versions)}{notes}", "full", versions)
    return Result(dataset.name, "notneeded", f"nothing new{notes}", "full")


def _explain(error: Exception, store: Store) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of the store {store.root} is full; free some space and run the sync again "
            "(what was published before is whole)"
        )
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename or store.root}"
    return str(error)


__all__ = [
    "Planner",
    "Request",
    "Result",
    "Sync",
    "dry_run",
    "parse_requests",
]
