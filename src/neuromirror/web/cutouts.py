"""Voxels that are had from upstream while somebody waits: few at a time, and for a short while.

Anybody may ask, so that all of it is bounded: how many cut-outs are made at once and how many are
on their way to somebody, how long one may take, how many pictures are kept. Hosts are asked without
any token: what is shown is what anybody may have of upstream.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, TypeVar

from neuromirror.index import VersionRow
from neuromirror.model import NeuromirrorError
from neuromirror.net import Limits, NetError, TimedOut
from neuromirror.store import Store
from neuromirror.volume import (
    BlockMissing,
    Cutout,
    DescribedVolume,
    ExtraMissing,
    FileKind,
    Middle,
    NotReadable,
    VersionFiles,
    describe,
    files_of,
    nobody,
    png,
    shown,
    voxels,
)

MOST_AT_ONCE: Final = 2
"""Cut-outs that are made at a time; as many pictures beside them."""
MOST_SENT: Final = 8
"""Cut-outs that are on their way to somebody."""

_WAITING: Final = 8
"""Pictures that wait for their turn."""
_SECONDS: Final = 60.0
_GRACE: Final = 5.0
"""Seconds beyond, after which nobody waits for a thread that has not ended yet."""
_LIMITS: Final = Limits(
    attempts=2,
    wait=0.5,
    wait_max=2.0,
    retry_after_max=5.0,
    connect=10.0,
    read=20.0,
    total=60.0,
    per_host=4,
)
_PICTURES: Final = 32_000_000
"""Bytes of pictures that are kept."""
_FAILURES: Final = 256
_REMEMBERED: Final = 60.0
"""Seconds for which upstream is not asked again for a picture that could not be had."""
_DESCRIBED: Final = 256
_NEEDED: Final = ("numpy", "tifffile")

T = TypeVar("T")


class CutoutFailed(NeuromirrorError):
    """A cut-out, or a picture, that cannot be had now; ``status`` is HTTP's word for why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Picture:
    """A plane as a PNG, and in words what was done to its voxels."""

    png: bytes
    words: str


class Cutouts:
    """What is read from upstream for the pages of a store; used in one event loop.

    ``allowed`` False: nothing is asked of anybody. ``seconds`` is how long one may take,
    ``kept`` the bytes of pictures that are kept.
    """

    def __init__(
        self,
        store: Store,
        *,
        allowed: bool = True,
        seconds: float = _SECONDS,
        kept: int = _PICTURES,
    ) -> None:
        self._store = store
        self._seconds, self._most_kept = seconds, kept
        self.allowed = allowed
        self._threads = ThreadPoolExecutor(2 * MOST_AT_ONCE, thread_name_prefix="cutouts")
        self._making = self._sending = self._drawing = 0
        self._turn = asyncio.Semaphore(MOST_AT_ONCE)
        self._described: OrderedDict[tuple[str, str], DescribedVolume] = OrderedDict()
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._failures: OrderedDict[str, tuple[float, CutoutFailed]] = OrderedDict()
        self._awaited: dict[str, asyncio.Future[Picture]] = {}

    @property
    def lacking(self) -> str:
        """The package without which no voxel is read; empty where all are there."""
        return next((name for name in _NEEDED if find_spec(name) is None), "")

    def described(self, row: VersionRow) -> DescribedVolume:
        """What a version is as a volume; reads git. Raises NotAVolume."""
        name = row.name, row.commit
        found = self._described.get(name)
        if found is None:
            with self._files(row) as files:
                found = self._described[name] = describe(files, row)
            while len(self._described) > _DESCRIBED:
                self._described.popitem(last=False)
        return found

    # --- cut-outs

    async def cut(self, row: VersionRow, asked: Cutout, kind: FileKind) -> BinaryIO:
        """The file of a cut-out, which has no name any more; raises :class:`CutoutFailed`.

        Whoever gets it holds a place among those that are sent, until :meth:`sent` is called.
        """
        self.check_possible()
        if self._making >= MOST_AT_ONCE or self._sending >= MOST_SENT:
            raise CutoutFailed(
                f"{MOST_AT_ONCE} cut-outs are made at a time, and others are under way; try again"
                " in half a minute",
                503,
            )

        opened: list[VersionFiles] = []
        gone = threading.Event()

        def make() -> BinaryIO:
            with self._files(row) as files:
                opened.append(files)
                if gone.is_set():
                    files.close()
                found = voxels(files, asked)
            with TemporaryDirectory(prefix="neuromirror-") as folder:
                path = Path(folder) / "cutout"
                kind.write(path, found)
                return path.open("rb")

        def ended() -> None:
            self._making -= 1

        self._making += 1
        try:
            made = await self._run(make, ended)
        except asyncio.CancelledError:
            # the client closed the connection
            gone.set()
            for files in opened:
                asyncio.get_running_loop().run_in_executor(None, files.close)
            raise
        self._sending += 1
        return made

    def sent(self) -> None:
        """Says that a cut-out is no longer on its way."""
        self._sending -= 1

    # --- pictures

    def known(self, commit: str) -> Picture | CutoutFailed | None:
        """The picture of a commit that was made, or why it could not be a moment ago."""
        at, failure = self._failures.get(commit, (0.0, None))
        if failure is not None and time.monotonic() - at < _REMEMBERED:
            return failure
        return self._pictures.get(commit)

    async def picture(self, row: VersionRow, of: DescribedVolume, middle: Middle) -> Picture:
        """The picture of a version; raises :class:`CutoutFailed`."""
        self.check_possible()
        known = self.known(row.commit)
        if isinstance(known, CutoutFailed):
            raise known
        if known is not None:
            self._pictures.move_to_end(row.commit)
            return known
        waited = self._awaited.get(row.commit)
        if waited is None:
            waited = asyncio.ensure_future(self._drawn(row, of, middle))
            self._awaited[row.commit] = waited
            waited.add_done_callback(lambda done: self._keep(row.commit, done))
        return await asyncio.shield(waited)

    async def _drawn(self, row: VersionRow, of: DescribedVolume, middle: Middle) -> Picture:
        if self._drawing >= MOST_AT_ONCE + _WAITING:
            raise CutoutFailed("many pictures are being made; look again in half a minute", 503)

        def draw() -> Picture:
            with self._files(row) as files:
                plane = voxels(files, middle.cutout)[0, :: middle.step, :: middle.step]
            pixels, words = shown(plane, labels=of.volume.labels)
            return Picture(b"".join(png(pixels)), words)

        self._drawing += 1
        try:
            await self._turn.acquire()
            return await self._run(draw, self._turn.release)
        finally:
            self._drawing -= 1

    def _keep(self, commit: str, done: asyncio.Future[Picture]) -> None:
        del self._awaited[commit]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._failures.pop(commit, None)
            self._pictures[commit] = done.result()
            while sum(len(one.png) for one in self._pictures.values()) > self._most_kept:
                self._pictures.popitem(last=False)
        elif isinstance(error, CutoutFailed):
            self._failures[commit] = time.monotonic(), error
            while len(self._failures) > _FAILURES:
                self._failures.popitem(last=False)

    # --- both

    def check_possible(self) -> None:
        """Raises :class:`CutoutFailed` where no voxel can be read at all."""
        if not self.allowed:
            raise CutoutFailed("this catalogue asks nobody for voxels (--no-cutouts)", 403)
        if self.lacking:
            raise CutoutFailed(
                f"this catalogue cannot read voxels: it needs {self.lacking}, which its operator"
                " gets with pip install 'neuromirror[volumes]'",
                501,
            )

    async def _run(self, work: Callable[[], T], ended: Callable[[], None]) -> T:
        """What ``work`` gives in a thread; ``ended`` is called when that has ended."""

        def end(done: asyncio.Future[T]) -> None:
            ended()
            if not done.cancelled():
                done.exception()  # nobody may be waiting for it any more

        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(end)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._seconds + _GRACE)
        except TimeoutError as error:
            raise _late(self._seconds) from error
        except BlockMissing as error:
            raise _told(error, self._seconds) from error
        except (ExtraMissing, NotReadable) as error:
            raise CutoutFailed(str(error), 501) from error
        except OSError as error:
            raise _no_room() from error

    @contextmanager
    def _files(self, row: VersionRow) -> Iterator[VersionFiles]:
        files = files_of(self._store, row, token=nobody, limits=_LIMITS, seconds=self._seconds)
        try:
            yield files
        finally:
            files.close()


def _no_room() -> CutoutFailed:
    return CutoutFailed("this catalogue has no room for it just now; try again later", 503)


def _late(seconds: float) -> CutoutFailed:
    return CutoutFailed(
        f"upstream took longer than the {seconds:.0f} seconds that a page waits; ask for less, or"
        " use 'neuromirror export', which waits",
        504,
    )


def _told(error: BlockMissing, seconds: float) -> CutoutFailed:
    """Why a block cannot be had, for anybody's eyes: the error itself may name files here."""
    if isinstance(error.__cause__, OSError):
        return _no_room()
    block = f"block {error.block} cannot be had"
    if error.closed:
        return _late(seconds)
    asked = [one for one in error.causes if isinstance(one, NetError)]
    statuses = [one.status for one in asked if one.status is not None]
    if any(status in (401, 403) for status in statuses):
        return CutoutFailed(
            f"{block}: upstream gives it only to those who have a token, and this page shows none."
            " With a token of your own, 'neuromirror export' gets it",
            403,
        )
    if any(status in (429, 503) for status in statuses):
        return CutoutFailed(
            f"{block}: upstream is busy ({statuses[0]}); try again in a minute", 503
        )
    if any(isinstance(one, TimedOut) for one in asked) or 504 in statuses:
        return CutoutFailed(f"{block}: upstream did not answer in time; try again later", 504)
    if statuses:
        return CutoutFailed(f"{block}: upstream answered {statuses[0]}", 502)
    if asked:
        return CutoutFailed(f"{block}: upstream cannot be reached; try again later", 502)
    return CutoutFailed(
        f"{block} as this version has it: what upstream gives now was refused, since it is not what"
        " was mirrored, or no place of it may be asked",
        502,
    )
