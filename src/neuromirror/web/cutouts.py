"""Cutouts and previews of volumes, read from upstream on request.

The service is public, so everything is bounded: concurrent cutouts and downloads, time per cutout,
size of the preview cache. Requests to archives carry no token, so that only public data is shown.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, TypeVar

from msgspec import Struct

from neuromirror.index import VersionRow
from neuromirror.net import NetError, RequestLimits, RequestTimeoutError
from neuromirror.store import Store
from neuromirror.stream.errors import CopyUnreadableError
from neuromirror.volume import (
    BlockUnavailableError,
    Cutout,
    MiddlePlane,
    MissingExtraError,
    OutputFile,
    UndecodableBlockError,
    UnreadableVolumeError,
    VersionFiles,
    VolumeDescription,
    describe,
    encode_png,
    open_version_files,
    read_voxels,
    to_display,
)
from neuromirror.web.async_index import RecentResults, SharedResults, UnavailableError

MAX_CONCURRENT: Final = 2
"""Maximum number of concurrent cutouts, and of concurrent previews."""
MAX_SENDING: Final = 8
"""Maximum number of cutouts that are being sent."""

_MAX_QUEUED_PICTURES: Final = 8
"""Maximum number of queued previews."""
_SECONDS: Final = 60.0
_GRACE: Final = 5.0
"""Additional seconds before a request stops waiting for its thread."""
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
"""Maximum size of the preview cache."""
_FAILURE_SECONDS: Final = 60.0
"""Seconds before a failed preview is tried again."""
_MAX_DESCRIPTIONS: Final = 256
_REQUIRED_PACKAGES: Final = ("numpy", "tifffile")

T = TypeVar("T")


class Picture(Struct, frozen=True):
    """A plane as a PNG, with a caption about its rendering."""

    png: bytes
    caption: str


class CutoutService:
    """Reads cutouts and previews of volumes for the pages of a store; for one event loop.

    Nothing is requested from upstream unless ``is_allowed``. ``seconds`` is the time limit of one
    cutout, ``cache_bytes`` the size of the preview cache.
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
        self._seconds = seconds
        self.is_allowed = is_allowed
        self._threads = ThreadPoolExecutor(2 * MAX_CONCURRENT, thread_name_prefix="cutouts")
        self._cutouts_in_progress = self._cutouts_being_sent = 0
        self._drawing_slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._descriptions: RecentResults[tuple[str, str], VolumeDescription]
        self._descriptions = RecentResults(_MAX_DESCRIPTIONS)
        self._pictures: SharedResults[str, Picture] = SharedResults(
            cache_bytes,
            lambda picture: len(picture.png),
            failure_seconds=_FAILURE_SECONDS,
            max_pending=MAX_CONCURRENT + _MAX_QUEUED_PICTURES,
            busy="too many previews are in progress; try again in half a minute",
        )

    @property
    def missing_package(self) -> str:
        """Name of a missing required package; empty if all are installed."""
        return next((name for name in _REQUIRED_PACKAGES if find_spec(name) is None), "")

    @property
    def is_possible(self) -> bool:
        """Whether voxels can be read at all; see :meth:`check_possible`."""
        return self.is_allowed and not self.missing_package

    def describe(self, row: VersionRow) -> VolumeDescription:
        """Describe a version as a volume from its git files; raises NotAVolumeError."""
        name = row.name, row.commit
        found = self._descriptions.get(name)
        if found is None:
            with self._files(row) as files:
                found = describe(files, row)
            self._descriptions.put(name, found)
        return found

    # --- cutouts

    async def cut(self, row: VersionRow, cutout: Cutout, kind: OutputFile) -> BinaryIO:
        """Return a cutout as an unlinked open file; raises :class:`UnavailableError`.

        The caller occupies one of the sending slots until it calls :meth:`finish_sending`.
        """
        self.check_possible()
        if self._cutouts_in_progress >= MAX_CONCURRENT or self._cutouts_being_sent >= MAX_SENDING:
            raise UnavailableError(
                "too many cutouts are in progress; try again in half a minute", 503
            )

        opened: list[VersionFiles] = []
        cancelled = threading.Event()

        def make() -> BinaryIO:
            with self._files(row) as files:
                opened.append(files)
                if cancelled.is_set():
                    files.close()
                voxels = read_voxels(files, cutout)
            with TemporaryDirectory(prefix="neuromirror-") as folder:
                path = Path(folder) / "cutout"
                kind.write(path, voxels)
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
        """Release the sending slot of a cutout."""
        self._cutouts_being_sent -= 1

    # --- previews

    def cached_picture(self, commit: str) -> Picture | UnavailableError | None:
        """Return the cached preview of a commit, or its recent failure."""
        return self._pictures.known(commit)

    async def picture(self, row: VersionRow, of: VolumeDescription, middle: MiddlePlane) -> Picture:
        """Return the preview of a version; raises :class:`UnavailableError`."""
        self.check_possible()

        def draw() -> Picture:
            with self._files(row) as files:
                plane = read_voxels(files, middle.cutout)[0, :: middle.step, :: middle.step]
            pixels, caption = to_display(plane, labels=of.volume.labels)
            return Picture(b"".join(encode_png(pixels)), caption)

        async def make() -> Picture:
            await self._drawing_slots.acquire()
            return await self._run(draw, self._drawing_slots.release)

        return await self._pictures.get(row.commit, make)

    # --- both

    def check_possible(self) -> None:
        """Raise :class:`UnavailableError` if voxels cannot be read at all."""
        if not self.is_allowed:
            raise UnavailableError(
                "cutouts are disabled in this catalogue; export the region from a clone", 403
            )
        if self.missing_package:
            raise UnavailableError(
                "this catalogue cannot read voxels, because an optional package is not installed; "
                "export the region from a clone",
                501,
            )

    async def _run(self, work: Callable[[], T], ended: Callable[[], None]) -> T:
        """Run ``work`` in a thread and return its result; call ``ended`` when it is done."""

        def end(done: asyncio.Future[T]) -> None:
            ended()
            if not done.cancelled():
                done.exception()  # retrieved, because the request may be gone

        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(end)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._seconds + _GRACE)
        except TimeoutError as error:
            raise _timeout_error(self._seconds) from error
        except BlockUnavailableError as error:
            raise _public_error(error, self._seconds) from error
        except (MissingExtraError, UnreadableVolumeError) as error:
            raise UnavailableError(str(error), 501) from error
        except OSError as error:
            raise _no_space_error() from error

    @contextmanager
    def _files(self, row: VersionRow) -> Iterator[VersionFiles]:
        files = open_version_files(
            self._store, row, has_credentials=False, limits=_LIMITS, seconds=self._seconds
        )
        try:
            yield files
        finally:
            files.close()


def _no_space_error() -> UnavailableError:
    return UnavailableError(
        "the catalogue has too little disk space at present; try again later", 503
    )


def _timeout_error(seconds: float) -> UnavailableError:
    return UnavailableError(
        f"the archive took longer than {seconds:.0f} seconds, the limit of this page; request a "
        "smaller box, or export a clone with 'neuromirror export'",
        504,
    )


def _public_error(error: BlockUnavailableError, seconds: float) -> UnavailableError:
    """Return a public error for an unavailable block; the original may contain local paths."""
    if isinstance(error.__cause__, OSError):
        return _no_space_error()
    block = f"block {error.block} is unavailable"
    if error.closed:
        return _timeout_error(seconds)
    if isinstance(error, UndecodableBlockError):
        return UnavailableError(f"block {error.block} cannot be read: {error.why}", 501)
    network_errors = [cause for cause in error.causes if isinstance(cause, NetError)]
    statuses = [one.status for one in network_errors if one.status is not None]
    if any(status in (401, 403) for status in statuses):
        return UnavailableError(
            f"{block}: the archive requires a token, which this page does not use; export a "
            "clone with 'neuromirror export' and your own token",
            403,
        )
    if any(status in (429, 503) for status in statuses):
        return UnavailableError(
            f"{block}: the archive is busy (HTTP {statuses[0]}); try again in a minute", 503
        )
    if any(isinstance(one, RequestTimeoutError) for one in network_errors) or 504 in statuses:
        return UnavailableError(
            f"{block}: the archive did not respond in time; try again later", 504
        )
    if statuses:
        return UnavailableError(f"{block}: HTTP {statuses[0]} from the archive", 502)
    if network_errors:
        return UnavailableError(f"{block}: the archive cannot be reached; try again later", 502)
    if error.causes and all(isinstance(cause, CopyUnreadableError) for cause in error.causes):
        return UnavailableError(
            f"{block}: its copy in a vault is damaged or cannot be read; the operator of this "
            "catalogue can run 'neuromirror vault check --full'",
            502,
        )
    return UnavailableError(
        f"{block}: the archive now returns other content than that of this version, or this page "
        "may not request its location",
        502,
    )
