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
from neuromirror.net import NetError, RequestLimits, RequestTimeoutError
from neuromirror.store import Store
from neuromirror.volume import (
    BlockUnavailableError,
    Cutout,
    MiddlePlane,
    MissingExtraError,
    OutputFile,
    UnreadableVolumeError,
    VersionFiles,
    VolumeDescription,
    describe,
    encode_png,
    no_token,
    open_version_files,
    read_voxels,
    to_display,
)

MAX_CONCURRENT: Final = 2
"""Cut-outs that are made at a time; as many pictures beside them."""
MAX_SENDING: Final = 8
"""Cut-outs that are on their way to somebody."""

_MAX_QUEUED_PICTURES: Final = 8
"""Pictures that wait for their turn."""
_SECONDS: Final = 60.0
_GRACE: Final = 5.0
"""Seconds beyond, after which nobody waits for a thread that has not ended yet."""
_LIMITS: Final = RequestLimits(
    attempts=2,
    wait=0.5,
    wait_max=2.0,
    retry_after_max=5.0,
    connect=10.0,
    read=20.0,
    total=60.0,
    per_host=4,
)
_PICTURE_CACHE_BYTES: Final = 32_000_000
"""Bytes of pictures that are kept."""
_MAX_FAILURES: Final = 256
_FAILURE_SECONDS: Final = 60.0
"""Seconds for which upstream is not asked again for a picture that could not be had."""
_MAX_DESCRIPTIONS: Final = 256
_REQUIRED_PACKAGES: Final = ("numpy", "tifffile")

T = TypeVar("T")


class CutoutFailedError(NeuromirrorError):
    """A cut-out, or a picture, that cannot be had now; ``status`` is HTTP's word for why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Picture:
    """A plane as a PNG, and in words what was done to its voxels."""

    png: bytes
    caption: str


class CutoutService:
    """What is read from upstream for the pages of a store; used in one event loop.

    ``allowed`` False: nothing is asked of anybody. ``seconds`` is how long one may take,
    ``kept`` the bytes of pictures that are kept.
    """

    def __init__(
        self,
        store: Store,
        *,
        is_allowed: bool = True,
        seconds: float = _SECONDS,
        cache_bytes: int = _PICTURE_CACHE_BYTES,
    ) -> None:
        self._store = store
        self._seconds, self._cache_bytes = seconds, cache_bytes
        self.is_allowed = is_allowed
        self._threads = ThreadPoolExecutor(2 * MAX_CONCURRENT, thread_name_prefix="cutouts")
        self._cutouts_in_progress = self._cutouts_being_sent = self._pictures_in_progress = 0
        self._drawing_slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._descriptions: OrderedDict[tuple[str, str], VolumeDescription] = OrderedDict()
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._failures: OrderedDict[str, tuple[float, CutoutFailedError]] = OrderedDict()
        self._pending_pictures: dict[str, asyncio.Future[Picture]] = {}

    @property
    def missing_package(self) -> str:
        """The package without which no voxel is read; empty where all are there."""
        return next((name for name in _REQUIRED_PACKAGES if find_spec(name) is None), "")

    def describe(self, row: VersionRow) -> VolumeDescription:
        """What a version is as a volume; reads git. Raises NotAVolumeError."""
        name = row.name, row.commit
        found = self._descriptions.get(name)
        if found is None:
            with self._files(row) as files:
                found = self._descriptions[name] = describe(files, row)
            while len(self._descriptions) > _MAX_DESCRIPTIONS:
                self._descriptions.popitem(last=False)
        return found

    # --- cut-outs

    async def cut(self, row: VersionRow, cutout: Cutout, kind: OutputFile) -> BinaryIO:
        """The file of a cut-out, which has no name any more; raises :class:`CutoutFailedError`.

        Whoever gets it holds a place among those that are sent, until :meth:`sent` is called.
        """
        self.check_possible()
        if self._cutouts_in_progress >= MAX_CONCURRENT or self._cutouts_being_sent >= MAX_SENDING:
            raise CutoutFailedError(
                f"{MAX_CONCURRENT} cut-outs are made at a time, and others are under way; try again"
                " in half a minute",
                503,
            )

        opened: list[VersionFiles] = []
        cancelled = threading.Event()

        def make() -> BinaryIO:
            with self._files(row) as files:
                opened.append(files)
                if cancelled.is_set():
                    files.close()
                found = read_voxels(files, cutout)
            with TemporaryDirectory(prefix="neuromirror-") as folder:
                path = Path(folder) / "cutout"
                kind.write(path, found)
                return path.open("rb")

        def ended() -> None:
            self._cutouts_in_progress -= 1

        self._cutouts_in_progress += 1
        try:
            made = await self._run(make, ended)
        except asyncio.CancelledError:
            # the client closed the connection
            cancelled.set()
            for files in opened:
                asyncio.get_running_loop().run_in_executor(None, files.close)
            raise
        self._cutouts_being_sent += 1
        return made

    def finish_sending(self) -> None:
        """Says that a cut-out is no longer on its way."""
        self._cutouts_being_sent -= 1

    # --- pictures

    def cached_picture(self, commit: str) -> Picture | CutoutFailedError | None:
        """The picture of a commit that was made, or why it could not be a moment ago."""
        at, failure = self._failures.get(commit, (0.0, None))
        if failure is not None and time.monotonic() - at < _FAILURE_SECONDS:
            return failure
        return self._pictures.get(commit)

    async def picture(self, row: VersionRow, of: VolumeDescription, middle: MiddlePlane) -> Picture:
        """The picture of a version; raises :class:`CutoutFailedError`."""
        self.check_possible()
        cached_picture = self.cached_picture(row.commit)
        if isinstance(cached_picture, CutoutFailedError):
            raise cached_picture
        if cached_picture is not None:
            self._pictures.move_to_end(row.commit)
            return cached_picture
        waited = self._pending_pictures.get(row.commit)
        if waited is None:
            waited = asyncio.ensure_future(self._draw_picture(row, of, middle))
            self._pending_pictures[row.commit] = waited
            waited.add_done_callback(lambda done: self._cache_result(row.commit, done))
        return await asyncio.shield(waited)

    async def _draw_picture(
        self, row: VersionRow, of: VolumeDescription, middle: MiddlePlane
    ) -> Picture:
        if self._pictures_in_progress >= MAX_CONCURRENT + _MAX_QUEUED_PICTURES:
            raise CutoutFailedError(
                "many pictures are being made; look again in half a minute", 503
            )

        def draw() -> Picture:
            with self._files(row) as files:
                plane = read_voxels(files, middle.cutout)[0, :: middle.step, :: middle.step]
            pixels, caption = to_display(plane, labels=of.volume.labels)
            return Picture(b"".join(encode_png(pixels)), caption)

        self._pictures_in_progress += 1
        try:
            await self._drawing_slots.acquire()
            return await self._run(draw, self._drawing_slots.release)
        finally:
            self._pictures_in_progress -= 1

    def _cache_result(self, commit: str, done: asyncio.Future[Picture]) -> None:
        del self._pending_pictures[commit]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._failures.pop(commit, None)
            self._pictures[commit] = done.result()
            while sum(len(one.png) for one in self._pictures.values()) > self._cache_bytes:
                self._pictures.popitem(last=False)
        elif isinstance(error, CutoutFailedError):
            self._failures[commit] = time.monotonic(), error
            while len(self._failures) > _MAX_FAILURES:
                self._failures.popitem(last=False)

    # --- both

    def check_possible(self) -> None:
        """Raises :class:`CutoutFailedError` where no voxel can be read at all."""
        if not self.is_allowed:
            raise CutoutFailedError("this catalogue asks nobody for voxels (--no-cutouts)", 403)
        if self.missing_package:
            raise CutoutFailedError(
                f"this catalogue cannot read voxels: it needs {self.missing_package}, which its "
                f"operator"
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
            raise _timeout_error(self._seconds) from error
        except BlockUnavailableError as error:
            raise _public_error(error, self._seconds) from error
        except (MissingExtraError, UnreadableVolumeError) as error:
            raise CutoutFailedError(str(error), 501) from error
        except OSError as error:
            raise _no_space_error() from error

    @contextmanager
    def _files(self, row: VersionRow) -> Iterator[VersionFiles]:
        files = open_version_files(
            self._store, row, token=no_token, limits=_LIMITS, seconds=self._seconds
        )
        try:
            yield files
        finally:
            files.close()


def _no_space_error() -> CutoutFailedError:
    return CutoutFailedError("this catalogue has no room for it just now; try again later", 503)


def _timeout_error(seconds: float) -> CutoutFailedError:
    return CutoutFailedError(
        f"upstream took longer than the {seconds:.0f} seconds that a page waits; ask for less, or"
        " use 'neuromirror export', which waits",
        504,
    )


def _public_error(error: BlockUnavailableError, seconds: float) -> CutoutFailedError:
    """Why a block cannot be had, for anybody's eyes: the error itself may name files here."""
    if isinstance(error.__cause__, OSError):
        return _no_space_error()
    block = f"block {error.block} cannot be had"
    if error.closed:
        return _timeout_error(seconds)
    network_errors = [one for one in error.causes if isinstance(one, NetError)]
    statuses = [one.status for one in network_errors if one.status is not None]
    if any(status in (401, 403) for status in statuses):
        return CutoutFailedError(
            f"{block}: upstream gives it only to those who have a token, and this page shows none."
            " With a token of your own, 'neuromirror export' gets it",
            403,
        )
    if any(status in (429, 503) for status in statuses):
        return CutoutFailedError(
            f"{block}: upstream is busy ({statuses[0]}); try again in a minute", 503
        )
    if any(isinstance(one, RequestTimeoutError) for one in network_errors) or 504 in statuses:
        return CutoutFailedError(f"{block}: upstream did not answer in time; try again later", 504)
    if statuses:
        return CutoutFailedError(f"{block}: upstream answered {statuses[0]}", 502)
    if network_errors:
        return CutoutFailedError(f"{block}: upstream cannot be reached; try again later", 502)
    return CutoutFailedError(
        f"{block} as this version has it: what upstream gives now was refused, since it is not what"
        " was mirrored, or no place of it may be asked",
        502,
    )
