"""A service whose clock a test turns, over a store beside a demo archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crawl_place import Place
from service_office import Office, office_of

from neuromirror.crawl import Mirror, Result
from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError, Traffic
from neuromirror.service.engine import Service
from neuromirror.service.executors import threads
from neuromirror.service.leases import owner
from neuromirror.service.leftovers import Leftovers
from neuromirror.service.mirror_files import MirrorFiles

HOUR, DAY = 3600.0, 86400.0


class Clock:
    """Gives the time that a test says."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@dataclass
class Counted:
    """What a service told its metrics."""

    jobs: list[tuple[str, str, str]] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)

    def job_ended(self, kind: str, mirror: str, outcome: str, seconds: float) -> None:
        self.jobs.append((kind, mirror, outcome))

    def asked(self, mirror: str, traffic: Mapping[str, Traffic]) -> None:
        pass

    def chore_ended(self, name: str, ok: bool, seconds: float) -> None:
        pass

    def ticked(self, seconds: float) -> None:
        self.ticks.append(seconds)


class Held(Executor):
    """Keeps jobs until the test has them done, or ends them in another way."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, fn, args))
        return future

    @property
    def names(self) -> list[str]:
        return [args[1].lease.name for _, _, args in self.jobs]

    def take(self, name: str) -> tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]:
        return self.jobs.pop(self.names.index(name))

    def do(self, name: str) -> None:
        future, function, args = self.take(name)
        try:
            future.set_result(function(*args))
        except (NeuromirrorError, OSError) as error:
            future.set_exception(error)

    def fail(self, name: str, error: BaseException) -> None:
        self.take(name)[0].set_exception(error)


@dataclass
class Works:
    """A service, and what a test turns and looks at."""

    office: Office
    service: Service
    files: MirrorFiles
    clock: Clock
    counted: Counted
    results: list[Result]
    executor: Executor

    def row(self, name: str) -> TaskRow:
        found = self.office.schedule.task(name)
        assert found is not None, name
        return found

    def settle(self, seconds: float = 600) -> list[str]:
        """Ticks until nothing is under way or due; gives what was done, by kind and name."""
        before, until = len(self.counted.jobs), time.monotonic() + seconds
        self.service.woken.set()
        while self.service.tick() or not self.service.idle:
            assert time.monotonic() < until, "the service does not come to rest"
            self.service.woken.wait(0.05)
        return [kind for kind, *_ in self.counted.jobs[before:]]

    def settle_writing(self) -> None:
        """Lets the service write what it writes piece by piece, and begin nothing."""
        while self.service._writing:
            self.service._write_on(time.monotonic() + 1)

    def group(self) -> list[str]:
        done = []
        while self.service.group_at_once():
            done += self.settle()
        return done

    def heard(self) -> dict[str, Result]:
        found = {one.dataset: one for one in self.results}
        self.results.clear()
        return found


@contextmanager
def works_of(
    place: Place,
    *,
    executor: Executor | None = None,
    workers: int = 4,
    names: Sequence[str] = (),
    clock: Clock | None = None,
    check: Callable[[Mirror], None] = lambda mirror: None,
    start: bool = True,
) -> Iterator[Works]:
    clock, counted, results = clock or Clock(), Counted(), []
    name = owner("serve")
    with office_of(place) as office, threads(workers, grace=5) as pool:
        files = MirrorFiles(place.mirrors, names, check)
        service = Service(
            office.workplace(),
            files,
            office.schedule,
            office.recorder,
            executor or pool,
            workers=workers,
            owner=name,
            observer=counted,
            leftovers=Leftovers(place.store, office.schedule, name),
            heard=results.append,
            clock=clock,
        )
        if start:
            service.start()
        yield Works(office, service, files, clock, counted, results, executor or pool)


def write_mirror(folder: Path, name: str, content: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(content, "utf-8")
    return path
