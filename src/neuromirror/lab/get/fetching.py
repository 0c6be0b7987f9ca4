"""One content fetched: from the first of its places that gives the right bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from neuromirror.lab.get.checks import Check, LearningCheck, check_for
from neuromirror.lab.get.objects import Busy, NoSpace, ObjectStore, write_all
from neuromirror.lab.hosts import host_at_fault, host_of
from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    BrokenOff,
    HostCircuitBreaker,
    HttpError,
    Lane,
    NetError,
    OpenBody,
    TimedOut,
    Unreachable,
    UnsafeAddress,
    clean_url,
)

SMALL: Final = 1 << 19
"""Contents of at most so many bytes are held in memory until they are checked."""

_BLOCK: Final = 1 << 20
_TRIES: Final = 3
"""How often in turn one place may break off without a byte more."""

_RESTARTS: Final = 2
_PATIENCE: Final = 300.0
_SLOWEST: Final = 1 << 14
"""Bytes a second below which a server is taken to hang."""

_LOOKED_AT: Final = 1 << 26
"""Bytes of a content of unknown size after which the free space is looked at again."""


class WrongBytes(NeuromirrorError):
    """What a place gives is not the key's content."""


class Stopped(NeuromirrorError):
    """The run was broken off."""


@dataclass(frozen=True, slots=True)
class Task:
    """A content to fetch, of ``size`` bytes where that is known; ``urls`` are its places in order.

    ``equivalent`` are the keys recorded for a VURL key.
    """

    key: str
    size: int | None
    urls: Sequence[str]
    equivalent: Sequence[str] = ()

    def check(self) -> Check:
        """A new check; the key's backend must be one that is known."""
        found = check_for(self.key, self.equivalent)
        assert found is not None
        return found


@dataclass(slots=True)
class Fetched:
    """What came of a task: ``check`` is what the content was proved by, None where it was not had.

    ``url`` is the place that gave it. ``faults`` say of each place why it did not, ``refused``
    that one was not asked because of its address; ``hosts`` are those of the faults that are about
    a host, None of the others.
    """

    task: Task
    check: Check | None = None
    url: str | None = None
    faults: list[str] = field(default_factory=list)
    refused: bool = False
    hosts: set[str | None] = field(default_factory=set)

    @property
    def host(self) -> str | None:
        """The hosts that all faults are about, whatever file they were asked for; else None."""
        named = sorted(one for one in self.hosts if one is not None)
        return ", ".join(named) if named and None not in self.hosts else None

    @property
    def learnt(self) -> str | None:
        """The key to record for a VURL key."""
        return self.check.learnt() if isinstance(self.check, LearningCheck) else None


class Fetcher:
    """Fetches one content after the other; for one thread.

    ``headers`` go along with each request. ``arrived(key, bytes)`` is told what has come of a
    large content, less than nothing where it was of no use; ``intend(key)`` is called before a
    content is put in its place. ``pause`` is the wait in seconds after a place broke off.
    """

    def __init__(
        self,
        lane: Lane,
        store: ObjectStore,
        breaker: HostCircuitBreaker,
        *,
        headers: Mapping[str, str],
        stop: threading.Event,
        arrived: Callable[[str, int], None],
        intend: Callable[[str], None],
        pause: float,
    ) -> None:
        self._lane = lane
        self._store = store
        self._breaker = breaker
        self._headers = headers
        self._stop = stop
        self._arrived = arrived
        self._intend = intend
        self._pause = pause

    def fetch(self, task: Task) -> Fetched:
        """Fetches a content; what goes wrong is told in what comes back."""
        found = Fetched(task)
        try:
            if task.size is not None and task.size <= SMALL:
                self._small(task, task.size, found)
            else:
                self._large(task, found)
        except (NoSpace, Busy, Stopped) as error:
            found.faults.append(str(error))
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else "the clone"
            found.faults.append(f"{where} cannot be written: {error.strerror}")
        return found

    def _small(self, task: Task, size: int, found: Fetched) -> None:
        with self._store.room_for(size):
            for url in task.urls:
                try:
                    content, check = self._whole(url, task, size)
                except (NetError, WrongBytes) as error:
                    self._blame(found, url, error)
                    continue
                self._look()
                self._intend(task.key)
                self._store.put(task.key, content)
                found.check, found.url = check, url
                return

    def _whole(self, url: str, task: Task, size: int) -> tuple[memoryview, Check]:
        """A small content, good until the lane is used again."""
        tries = _TRIES
        while True:
            begun = False
            check = task.check()
            content = memoryview(b"")
            parts = bytearray()
            try:
                with self._body(url, 0, _PATIENCE) as body:
                    begun = True
                    _compare(size, body.start, body.length)
                    for piece in body.pieces:
                        _take(check, piece)
                        if len(piece) == size:
                            content = piece
                            break
                        parts += piece
            except (BrokenOff, TimedOut):
                tries -= 1
                if not begun or not tries:
                    raise
                self._rest()
                continue
            if fault := check.fault():
                raise WrongBytes(fault)
            return content or memoryview(parts), check

    def _large(self, task: Task, found: Fetched) -> None:
        with self._store.partial(task.key) as file:
            there = os.fstat(file).st_size
            with self._store.room_for(task.size, there):
                growth = _Growth(task, file, self._arrived)
                growth.take_what_is_there(self._look)
                for url in task.urls:
                    try:
                        self._grow(url, growth)
                    except (NetError, WrongBytes) as error:
                        self._blame(found, url, error)
                        continue
                    self._look()
                    self._intend(task.key)
                    self._store.keep(task.key, file)
                    found.check, found.url = growth.check, url
                    return
                if not growth.check.seen or not growth.check.hashes:
                    self._store.drop(task.key)

    def _grow(self, url: str, growth: _Growth) -> None:
        """Lets a content grow to its end; raises NetError or WrongBytes."""
        idle = restarts = 0
        while True:
            if growth.is_full and growth.check.fault() is None:
                return
            if growth.is_full or not growth.check.hashes:
                growth.restart()
            had = growth.check.seen
            begun = False
            try:
                with self._body(url, had, growth.patience()) as body:
                    begun = True
                    growth.begin_at(body.start)
                    _compare(growth.task.size, body.start, body.length)
                    for piece in body.pieces:
                        self._look()
                        growth.take(piece)
                        if growth.task.size is None and growth.check.seen % _LOOKED_AT < len(piece):
                            self._store.look_for_room()
                fault = growth.check.fault()
            except (BrokenOff, TimedOut):
                kept = growth.check.hashes and growth.check.seen > had
                idle = 0 if kept else idle + 1
                if not begun or idle == _TRIES:
                    raise
                self._rest()
                continue
            except HttpError as error:
                if error.status != 416 or not had:
                    raise
                fault = "its end is elsewhere"
            if fault is None:
                return
            growth.restart()
            # what was there already may be what is wrong with the whole
            restarts += 1
            if not had or restarts > _RESTARTS:
                raise WrongBytes(fault)

    @contextmanager
    def _body(self, url: str, start: int, total: float | None) -> Iterator[OpenBody]:
        """The body at an address; the circuit breaker learns whether its host answers."""
        self._breaker.check(url)
        begun = False
        try:
            with self._lane.body(url, start=start, headers=self._headers, total=total) as body:
                begun = True
                self._breaker.record_success(url)
                yield body
        except Unreachable:
            if not begun:
                self._breaker.record_failure(url)
            raise

    def _look(self) -> None:
        if self._stop.is_set():
            raise Stopped("the run was broken off")

    def _rest(self) -> None:
        self._stop.wait(self._pause)
        self._look()

    def _blame(self, found: Fetched, url: str, error: NeuromirrorError) -> None:
        found.hosts.add(host_at_fault(error, url))
        if isinstance(error, UnsafeAddress) and not error.never:
            found.refused = True
            found.faults.append(
                f"{host_of(error.url or url)} is not asked, since it is on this machine or a "
                "private network: git config annex.security.allowed-ip-addresses has to allow it"
            )
        elif isinstance(error, NetError):
            found.faults.append(str(error))
        else:
            found.faults.append(f"{shown(url)}: {error}")


class _Growth:
    """A large content that grows in a file, checked as it grows."""

    def __init__(self, task: Task, file: int, arrived: Callable[[str, int], None]) -> None:
        self.task = task
        self.check = task.check()
        self._file = file
        self._arrived = arrived
        self._told = 0

    @property
    def is_full(self) -> bool:
        return self.task.size is not None and self.check.seen >= self.task.size

    def patience(self) -> float | None:
        """Seconds that the rest may take."""
        if self.task.size is None:
            return None
        return _PATIENCE + (self.task.size - self.check.seen) / _SLOWEST

    def take_what_is_there(self, look: Callable[[], None]) -> None:
        """Hashes what an earlier attempt left, from its start; nobody is trusted to have done so.

        What could not be found to be wrong is not taken.
        """
        if not self.check.hashes:
            self.restart()
            return
        os.lseek(self._file, 0, os.SEEK_SET)
        while block := os.read(self._file, _BLOCK):
            look()
            self.check.update(block)
            self._tell(len(block))
        if self.task.size is not None and self.check.seen > self.task.size:
            self.restart()

    def begin_at(self, start: int) -> None:
        """Makes ready for bytes from ``start`` on, which is where the file ends, or 0."""
        if start != self.check.seen:
            if start:
                raise WrongBytes("it sent another part of the file than was asked for")
            self.restart()

    def restart(self) -> None:
        """Forgets all that came."""
        if self._told:
            self._arrived(self.task.key, -self._told)
            self._told = 0
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self.check = self.task.check()

    def take(self, piece: memoryview) -> None:
        """The next bytes."""
        try:
            _take(self.check, piece)
        except WrongBytes:
            self.restart()
            raise
        write_all(self._file, piece)
        self._tell(len(piece))

    def _tell(self, more: int) -> None:
        self._told += more
        self._arrived(self.task.key, more)


def _compare(size: int | None, start: int, length: int | None) -> None:
    if size is not None and length is not None and start + length != size:
        raise WrongBytes(f"it has {start + length} bytes, not {size}")


def _take(check: Check, piece: memoryview) -> None:
    check.update(piece)
    if check.size is not None and check.seen > check.size:
        raise WrongBytes(f"it has more than {check.size} bytes")


def shown(url: str) -> str:
    """An address as it may be shown."""
    try:
        return clean_url(url)
    except ValueError:
        return "<an address that is no URL>"
