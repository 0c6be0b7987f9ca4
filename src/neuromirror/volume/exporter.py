"""Write a region of a volume to files, block by block.

Blocks are read in slabs of the volume's chunks along z. After each slab its voxels and the state
are synced to disk, so that an interrupted export resumes with the next slab and keeps finished
files.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from neuromirror.model import parse_json
from neuromirror.net import results_in_order
from neuromirror.sources.volumes.urls import Box
from neuromirror.store import SafeFolder, file_lock, refuse_symlinks, write_atomically
from neuromirror.store.durable_files import fsync_path
from neuromirror.volume.array import OpenVolume, open_volume
from neuromirror.volume.errors import BlockUnavailableError, ExportFailedError, ExportRefusedError
from neuromirror.volume.geometry import (
    LAYOUTS,
    Layout,
    Region,
    TargetFile,
    boxes_by_block,
    containing_block,
    format_box,
    sample_index,
    split_range,
    targets_in_range,
    validate_box,
)

FORMATS: Final = tuple(LAYOUTS)
"""The export formats."""

Progress = Callable[[int, int], None]
"""Called with the bytes of voxels done, and the total."""

_MAX_CONCURRENT: Final = 2
"""Number of blocks fetched and written concurrently."""

_NEW_SUFFIX: Final = ".new"
"""The suffix of a draft while it is created."""

_DISK_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)


class ExportResult(Struct, frozen=True):
    """The result of an export.

    Attributes
    ----------
    version
        The exported version, or the folder of the clone.
    state
        A state digest or commit, which identifies the bytes.
    level
        The name of the level.
    box
        Ranges along x, y, z in upstream's voxels of ``level``.
    time
        Upstream's time sample; None without a time axis.
    format
        A name in :data:`FORMATS`.
    folder
        The target.
    paths
        All files of the export, in ``folder``.
    unchanged
        Number of files that existed before.
    bytes
        Size of the voxels in bytes.
    """

    version: str
    state: str
    level: str
    box: Box
    time: int | None
    format: str
    folder: Path
    paths: tuple[str, ...]
    unchanged: int
    bytes: int


def export(
    path_or_version: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    box: Box | None = None,
    level: int | str = 0,
    format: str = "tiff",
    time: int | None = None,
    store: str | os.PathLike[str] | None = None,
    index: str | os.PathLike[str] | None = None,
    progress: Progress = lambda done, whole: None,
) -> ExportResult:
    """Write a region of a volume to a folder.

    The same region of the same state gives the same bytes, if the state has checksums. Files
    finished by an earlier run are kept. Memory use is a few blocks.

    Parameters
    ----------
    path_or_version, level, store, index
        As for :func:`neuromirror.volume.open`.
    folder : path
        The target, created if necessary.
    box : Box, optional
        Ranges along x, y, z in upstream's voxels of the level; the whole level by default.
    format : str
        One of :data:`FORMATS`: ``tiff`` (one file per z-slice, named like ndpull's), ``zarr``
        or ``npy``.
    time : int, optional
        Upstream's time sample, required if there is a time axis.
    progress : callable
        Called with the bytes of voxels done, and the total.

    Returns
    -------
    ExportResult
        The written files, and the number of files that were kept.

    Raises
    ------
    ExportRefusedError, OutsideVolumeError, ExportFailedError, BlockUnavailableError
        If the export is not possible. The errors of :func:`neuromirror.volume.open` are raised too.
    """
    if format not in LAYOUTS:
        raise ExportRefusedError(f"'{format}' is not a format; choose one of {', '.join(FORMATS)}")
    volume = open_volume(path_or_version, level, store=store, index=index)
    with closing(volume.files):
        where = volume.version
        checked = validate_box(volume.volume, box, where)
        sample = sample_index(volume.volume, time, where)
        region = Region(volume, checked, time)
        layout = LAYOUTS[format](region)
        target = Path(folder)
        with _explain_write_errors(target):
            opened_target = SafeFolder.open_path(target, create=True)
        with opened_target as safe, file_lock(target / LOCK, f"the folder {target}", folder=safe):
            safe.refuse_symlink(STATE)
            state = ExportState.read(target, _identity(region, format))
            unchanged = _Exporter(volume, region, layout, sample, state, progress).run()
        return ExportResult(
            *(volume.version, volume.state, volume.level.name, checked, time, format, target),
            paths=tuple(_paths(layout)),
            unchanged=unchanged,
            bytes=region.bytes,
        )


class _Exporter:
    def __init__(
        self,
        volume: OpenVolume,
        region: Region,
        layout: Layout,
        sample: int | None,
        state: ExportState,
        progress: Progress,
    ) -> None:
        self._volume = volume
        self._region = region
        self._layout = layout
        self._sample = () if sample is None else (sample,)
        self._state = state
        self._folder = state.folder
        self._progress = progress
        self._done = 0
        self._offsets: dict[str, int] = {}

    def run(self) -> int:
        """Write the missing files; return the number of files that existed."""
        self._refuse_symlinks()
        before = {path for path in _paths(self._layout) if self._state.is_finished(path)}
        self._refuse_foreign_files()
        if not self._state.is_saved:
            with _explain_write_errors(self._folder):
                self._state.write()
        due = tuple(target for target in self._layout.targets if target.path not in before)
        self._forget_lost_slabs(due)
        _, _, zs = self._region.box
        level = self._volume.level
        for slab in split_range(*zs, level.start[2], level.chunk[2]):
            here = list(targets_in_range(due, slab))
            if here and slab not in self._state.slabs:
                self._write_slab(slab, here)
            else:
                self._report_progress((slab[1] - slab[0]) * self._region.plane_bytes)
            self._flush(slab, here)
        for document in self._layout.documents:
            if document.path.decode() not in before:
                self._publish_document(document.path.decode(), document.content)
        return len(before)

    def _refuse_symlinks(self) -> None:
        """Refuse to write, rename or resume through symlinks in the folder."""
        for path in _paths(self._layout):
            draft = Path(path).with_name(self._draft(path).name)
            refuse_symlinks(self._folder, path, str(draft), f"{draft}{_NEW_SUFFIX}")

    def _refuse_foreign_files(self) -> None:
        """Refuse to overwrite files that do not belong to this export."""
        for path in _paths(self._layout):
            if path not in self._state.finished and os.path.lexists(self._folder / path):
                raise ExportRefusedError(
                    f"{self._folder / path} exists and does not belong to this export; choose "
                    f"another"
                    " folder, or remove it"
                )

    def _forget_lost_slabs(self, due: tuple[TargetFile, ...]) -> None:
        """Forget slabs whose draft or finished file is missing."""
        for target in due:
            self._state.finished.pop(target.path, None)
            if not self._draft(target.path).exists():
                gone = [slab for slab in self._state.slabs if _overlaps(slab, target.box[2])]
                self._state.slabs.difference_update(gone)

    def _write_slab(self, slab: tuple[int, int], here: list[TargetFile]) -> None:
        for target in here:
            if target.path not in self._offsets:
                self._offsets[target.path] = self._make_draft(target)
        boxes = boxes_by_block(self._volume.level, (*self._region.box[:2], slab))
        copy = partial(self._copy, here)
        with ThreadPoolExecutor(_MAX_CONCURRENT, "neuromirror-export") as pool:
            try:
                for voxel_bytes in results_in_order(pool, _MAX_CONCURRENT + 1, copy, boxes):
                    self._report_progress(voxel_bytes)
            except BaseException:
                # unfinished blocks are cancelled
                pool.shutdown(wait=False, cancel_futures=True)
                self._volume.files.close()
                raise

    def _copy(self, here: list[TargetFile], box: Box) -> int:
        """Write the block that contains a box to the drafts; return the bytes of the box's voxels.

        They are written while they arrive, and the block is verified after its last byte. After an
        error, the drafts are written again before they can become files of the export.
        """
        volume, level = self._volume.volume, self._volume.level
        (x, y, z), ((x0, _), (y0, _), (z0, _)) = containing_block(level, box)
        path = "/".join([level.name, "c", *map(str, (*self._sample, z, y, x))])
        wide, high, deep = level.chunk
        found = [target for target in here if overlap(target.box, box) is not None]

        def put(rows: Box, voxels: memoryview) -> None:
            for target in found:
                if overlap(target.box, rows) is not None:
                    self._put(target, rows, voxels)

        whole = (x0, x0 + wide), (y0, y0 + high), (z0, z0 + deep)
        rows = _RowSplitter(whole, volume.item_size, put)
        self._volume.files.copy(path, rows.feed)
        size = volume.chunk_bytes(level)
        if rows.size != size:
            why = f"it has {rows.size} bytes, not {size}, as every block of this level"
            raise BlockUnavailableError(path, self._volume.files.where, why)
        return math.prod(stop - start for start, stop in box) * volume.item_size

    # --- files

    def _draft(self, path: str) -> Path:
        target = self._folder / path
        return target.with_name(f".{target.name}.part")

    def _make_draft(self, target: TargetFile) -> int:
        """Create the draft of a file; return the offset of its first voxel.

        An existing draft is reused only if a slab of it was synced to disk.
        """
        draft = self._draft(target.path)
        fresh = draft.with_name(f"{draft.name}{_NEW_SUFFIX}")
        with _explain_write_errors(draft):
            draft.parent.mkdir(parents=True, exist_ok=True)
            offset = target.make(fresh)
            if draft.exists() and any(_overlaps(slab, target.box[2]) for slab in self._state.slabs):
                fresh.unlink()
            else:
                fresh.replace(draft)
        return offset

    def _put(self, target: TargetFile, box: Box, voxels: memoryview) -> None:
        draft = self._draft(target.path)
        with _explain_write_errors(draft):
            handle = os.open(draft, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                item = self._volume.volume.item_size
                write_box(handle, self._offsets[target.path], target, box, voxels, item)
            finally:
                os.close(handle)

    def _flush(self, slab: tuple[int, int], here: list[TargetFile]) -> None:
        """Sync a slab to disk, write the state, and move finished files to their names.

        The state comes first, because files that it does not list count as foreign.
        """
        if not here:
            return
        whole = [target.path for target in here if target.box[2][1] <= slab[1]]
        for target in here:
            with _explain_write_errors(self._draft(target.path)):
                fsync_path(self._draft(target.path))
        self._state.slabs.add(slab)
        self._publish(whole)

    def _publish(self, paths: Sequence[str]) -> None:
        """Move synced files to their names."""
        for path in paths:
            self._state.finish(path, self._draft(path))
        with _explain_write_errors(self._folder):
            self._state.write()
            for path in paths:
                self._draft(path).replace(self._folder / path)
            for folder in {(self._folder / path).parent for path in paths}:
                fsync_path(folder)

    def _publish_document(self, path: str, content: bytes) -> None:
        draft = self._draft(path)
        with _explain_write_errors(draft):
            draft.write_bytes(content)
            fsync_path(draft)
        self._publish([path])

    def _report_progress(self, count: int) -> None:
        """Add the bytes of finished voxels to the progress."""
        self._done += count
        self._progress(self._done, self._region.bytes)


class _RowSplitter:
    """Splits the bytes of a block into boxes of whole rows; ``size`` is the number of bytes.

    Bytes beyond the end of the block are counted, but not passed on.
    """

    def __init__(
        self, block: Box, item_size: int, put_box: Callable[[Box, memoryview], None]
    ) -> None:
        (x0, x1), (y0, y1), (z0, z1) = block
        self._block = block
        self._row = (x1 - x0) * item_size
        self._block_bytes = self._row * (y1 - y0) * (z1 - z0)
        self._put_box = put_box
        self._rest = b""
        self.size = 0

    def feed(self, offset: int, piece: memoryview) -> None:
        """Take the bytes at ``offset``, which follow the previous ones or are the first."""
        if offset == 0:
            self._rest = b""
        first = (offset - len(self._rest)) // self._row
        self.size = offset + len(piece)
        piece = piece[: max(0, self._block_bytes - offset)]
        joined = memoryview(self._rest + piece) if self._rest else piece
        rows = len(joined) // self._row
        at = 0
        for box, count in row_boxes(self._block, first, rows):
            self._put_box(box, joined[at : at + count * self._row])
            at += count * self._row
        self._rest = bytes(joined[at:])


def _paths(layout: Layout) -> Iterator[str]:
    yield from (target.path for target in layout.targets)
    yield from (document.path.decode() for document in layout.documents)


def _overlaps(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _identity(region: Region, format: str) -> dict[str, Any]:
    volume = region.volume
    return {
        "source": volume.source,
        "state": volume.state,
        "level": volume.level.name,
        "box": format_box(region.box),
        "time": region.time,
        "format": format,
    }


@contextmanager
def _explain_write_errors(path: Path) -> Iterator[None]:
    """Raise ExportFailedError with the path and advice."""
    try:
        yield
    except OSError as error:
        advice = "fix the cause"
        if error.errno in _DISK_FULL_ERRNOS:
            advice = "free some space"
        raise ExportFailedError(
            f"{path} cannot be written: {error.strerror or error}; {advice} and run the export"
            " again, which resumes it"
        ) from error


# --- the state of an export, in a small file next to its results


STATE: Final = ".neuromirror-export.json"
LOCK: Final = ".neuromirror-export.lock"

_FORMAT: Final = 1


class ExportState(Struct):
    """The progress of an export, from which an interrupted export continues.

    Attributes
    ----------
    export : dict
        Everything on which the bytes of the files depend; another export must not continue.
    finished : dict
        Finished files with size and modification time (ns), which show later changes.
    slabs : set of (int, int)
        Ranges along z whose voxels are in all their files, finished or not.
    """

    folder: Path
    export: dict[str, Any]
    finished: dict[str, list[int]] = field(default_factory=dict)
    slabs: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path, export: dict[str, Any]) -> ExportState:
        """Return the state of this export in a folder.

        Raises ExportRefusedError if the folder has another export.
        """
        path = folder / STATE
        try:
            document = parse_json(path.read_bytes(), path.name)
        except FileNotFoundError:
            return cls(folder, export)
        except ValueError:
            document = None
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ExportRefusedError(f"{path} cannot be read; choose another folder, or remove it")
        if document["export"] != export:
            differences = ", ".join(
                f"{name} {document['export'].get(name)}"
                for name, value in export.items()
                if document["export"].get(name) != value
            )
            raise ExportRefusedError(
                f"{folder} has another export ({differences}); choose another folder, or empty "
                "this one"
            )
        slabs = {(start, stop) for start, stop in document["slabs"]}
        return cls(folder, export, document["finished"], slabs)

    def write(self) -> None:
        """Write the state; what it describes must have been synced to disk."""
        document = {
            "format": _FORMAT,
            "export": self.export,
            "finished": self.finished,
            "slabs": sorted(self.slabs),
        }
        content = json.dumps(document, indent=1, sort_keys=True).encode()
        write_atomically(self.folder / STATE, content + b"\n")

    @property
    def is_saved(self) -> bool:
        """Whether the folder has a state."""
        return (self.folder / STATE).exists()

    def finish(self, path: str, draft: Path) -> None:
        """Record a file that only needs to be renamed."""
        self.finished[path] = _size_and_mtime(draft)

    def is_finished(self, path: str) -> bool:
        """Return whether a file is present and unchanged since it was finished."""
        known = self.finished.get(path)
        try:
            return known is not None and _size_and_mtime(self.folder / path) == known
        except FileNotFoundError:
            return False


def _size_and_mtime(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


# --- write voxels to their positions in files that store them in C order


def overlap(one: Box, other: Box) -> Box | None:
    """Return the intersection of two boxes; None if it is empty."""
    xs, ys, zs = ((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return (xs, ys, zs) if all(start < stop for start, stop in (xs, ys, zs)) else None


def write_box(
    handle: int, offset: int, target: TargetFile, box: Box, voxels: memoryview, item_size: int
) -> None:
    """Write the voxels of a box to a file of an export, as far as the file covers them.

    Raises OSError if the file cannot be written.

    Parameters
    ----------
    handle
        The file descriptor of the open file.
    offset
        The position of the file's first voxel in bytes.
    target
        The region that the file covers, and the shape of its array.
    box
        The ranges of the voxels along x, y, z.
    voxels
        The bytes of the voxels in C order (z, y, x).
    item_size
        Bytes per voxel.
    """
    common = overlap(target.box, box)
    if common is None:
        return
    (x0, x1), (y0, y1), (z0, z1) = common
    (bx, bx1), (by, by1), (bz, _) = box
    _, high, wide = target.shape
    tall, broad = by1 - by, bx1 - bx
    (tx, _), (ty, _), (tz, _) = target.box
    # rows as wide as the file's are contiguous in both
    rows = y1 - y0 if x1 - x0 == wide == broad else 1
    length = rows * (x1 - x0) * item_size
    for z in range(z0, z1):
        for y in range(y0, y1, rows):
            taken = (((z - bz) * tall + y - by) * broad + x0 - bx) * item_size
            placed = (((z - tz) * high + y - ty) * wide + x0 - tx) * item_size
            _write(handle, voxels[taken : taken + length], offset + placed)


def row_boxes(block: Box, first: int, rows: int) -> Iterator[tuple[Box, int]]:
    """Divide consecutive rows of a block into boxes; yield each with its number of rows.

    Rows run along x and are numbered in C order from the start of the block. A box contains all
    rows of one or more planes, or some rows of one plane.

    Parameters
    ----------
    block
        The block.
    first
        The number of the first row.
    rows
        The number of rows.
    """
    xs, (y0, y1), (z0, _) = block
    high = y1 - y0
    stop = first + rows
    while first < stop:
        z, y = divmod(first, high)
        planes = (stop - first) // high if y == 0 else 0
        taken = planes * high or min(high - y, stop - first)
        ys = (y0, y1) if planes else (y0 + y, y0 + y + taken)
        yield (xs, ys, (z0 + z, z0 + z + max(planes, 1))), taken
        first += taken


def _write(handle: int, left: memoryview, at: int) -> None:
    while left:
        done = os.pwrite(handle, left, at)
        left, at = left[done:], at + done
