"""What the parts of a listing become in the dataset: folders of files, or links to datasets.

A small part is read at once, with a listing and a proof of its own, the first few while the
listing that names them still comes; one that is as it was in the state before is copied from there
without any request. Of the others the state is looked up, and left open where the store lacks it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from shutil import rmtree

import msgspec

from neuromirror.annex import fits
from neuromirror.crawl.knowledge import Knowledge
from neuromirror.crawl.links import (
    Earlier,
    Link,
    has_odd_name,
    is_link,
    known_row,
    link_to,
    unknown_link,
)
from neuromirror.crawl.mirrors import ZarrLimits
from neuromirror.crawl.prove import InlinePart, PartsTaken, Proven, Settled, prove
from neuromirror.crawl.recorder import Recorder
from neuromirror.index import Index
from neuromirror.model import (
    NamedException,
    NeuromirrorError,
    load_placed,
    text,
)
from neuromirror.net import CountedPool, Forbidden
from neuromirror.sources import (
    ListingNotProven,
    Part,
    PartContradicted,
    PartRefused,
    PartUnavailable,
)

AT_ONCE = 4
"""Parts of one dataset that are read at a time."""

_LOOKED_UP = 500
_NAMED = 3
NOT_PROVEN = "zarr-not-proven"
REFUSED = "zarr-refused"
EMPTY = "zarr-empty"
PENDING = "pending"

_REFUSALS = (PartRefused, Forbidden)

IsLasting = Callable[[str], bool]
"""Records that a URL is refused; returns whether it has been for a day or longer."""

_Read = tuple[Part, Path, "Future[Proven | NeuromirrorError]"]
"""A part, the folder of its files, and what it is once it was read."""

Failed = Mapping[bytes, tuple[Part, NeuromirrorError]]
"""Parts that could not be read and why, by path."""


class PartsNotRead(NeuromirrorError):
    """Parts that could not be read for a reason that may pass; the state is not published."""


def empty(part: Part) -> NamedException:
    """What stands for a part with nothing in it, which git cannot hold."""
    return NamedException(part.path, EMPTY, "the Zarr holds no files", part.size)


def check_lasting(failed: Failed, refused: IsLasting) -> None:
    """Raise PartsNotRead unless each part failed for a reason that is known to last.

    That is one that upstream's own statements give, or a refusal that ``refused``, called with the
    part's URI, says has lasted. Only then may a state be published without the part, or with its
    earlier state: upstream has, or had, no such state otherwise.
    """
    passing = [
        (part, error)
        for part, error in failed.values()
        if not isinstance(error, PartUnavailable | PartContradicted)
        and not (isinstance(error, _REFUSALS) and refused(part.dataset.source_uri))
    ]
    if not passing:
        return
    named = [f"{text(one.path)} ({one.dataset.name}): {error}" for one, error in passing[:_NAMED]]
    if len(passing) > _NAMED:
        named.append(f"and {len(passing) - _NAMED} more")
    raise PartsNotRead(
        f"{'; '.join(named)}; nothing of this state was published, and the next sync tries again"
    )


def left_out(part: Part, error: NeuromirrorError) -> NamedException:
    """What stands for a part that could not be read, and was not there before."""
    if isinstance(error, _REFUSALS):
        detail = "the archive or its bucket refuses the Zarr, and no embargo is stated"
        return NamedException(part.path, REFUSED, detail, part.size)
    if not isinstance(error, PartUnavailable):
        detail = "its files are not what the archive says the Zarr is"
        return NamedException(part.path, NOT_PROVEN, detail, part.size)
    if is_pending(error):
        detail = "its files are still being written: the archive has no checksum of it"
    else:
        detail = f"the archive does not let everybody read the Zarr ({error.reason})"
    return NamedException(part.path, error.reason, detail, part.size)


def is_pending(error: NeuromirrorError) -> bool:
    """Whether a part is one that the archive says is still being written."""
    return isinstance(error, PartUnavailable) and error.reason == PENDING


def told(part: Part, error: NeuromirrorError, *, kept: bool) -> str:
    """What people are told of a part that could not be read."""
    what = "its earlier state is kept" if kept else "it is left out"
    return f"{text(part.path)} ({part.dataset.name}) is not proven, and {what}: {error}"


def contradicts(error: NeuromirrorError) -> bool:
    """Whether a failure says that a part is not what upstream says it is."""
    return isinstance(error, PartContradicted)


def no_longer(part: Part, error: NeuromirrorError) -> str:
    """What people are told of a part that upstream has lost while it says that it is the same."""
    return (
        f"{part.dataset.name} no longer has the files that give its checksum "
        f"{part.version.upstream}, of which it is mirrored: {error}"
    )


class _Pages:
    """A place for pages that nobody will go on with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self) -> Path:
        """The folder, made when it is first asked for."""
        self._folder.mkdir(exist_ok=True)
        return self._folder


class ListedParts:
    """Decides about the parts of one listing (a prove.PartEntries).

    ``earlier`` is the state before; ``again`` says that all is to be read from upstream, whether
    it has changed or not.
    """

    def __init__(
        self,
        recorder: Recorder,
        limits: ZarrLimits,
        earlier: Earlier,
        refused: IsLasting,
        *,
        again: bool,
    ) -> None:
        self._recorder = recorder
        self._limits = limits
        self._earlier = earlier
        self._refused = refused
        self._again = again
        self._linked: dict[bytes, Part] = {}
        self._unknown: set[bytes] = set()
        self._inline: list[InlinePart] = []
        self._unproven: list[str] = []
        self._incidents: list[str] = []
        self._settled = True
        self._pending: set[str] = set()
        self._pool = CountedPool(AT_ONCE, thread_name_prefix="part")
        self._numbers = count()
        self._begun: deque[_Read] = deque()

    @cached_property
    def _before(self) -> dict[bytes, InlinePart]:
        """The inline parts of the state before."""
        return self._earlier.inline()

    def begin(self, part: Part, scratch: Path) -> None:
        """Start to read a part that has to be read; only the first few, as each takes a folder."""
        claimed = part.version.claimed
        if (
            len(self._begun) < 2 * AT_ONCE
            and claimed is not None
            and claimed.files
            and self._is_small(claimed.files)
            and not self._is_copied(part)
        ):
            self._begun.append(self._start(part, scratch))

    def close(self) -> None:
        """Stop reading parts; return once nothing is written any more."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def taken(self) -> PartsTaken:
        """What became of them, after the last one."""
        return PartsTaken(
            self._linked,
            frozenset(self._unknown),
            tuple(self._inline),
            tuple(self._unproven),
            tuple(self._incidents),
            self._settled,
            frozenset(self._pending),
        )

    def settle(self, parts: Sequence[Part], scratch: Path) -> Iterator[Settled]:
        """Yields what stands for the parts in the dataset; raises PartsNotRead."""
        before = self._before
        large: list[Part] = []
        fresh: list[Part] = []
        same: dict[bytes, Part] = {}
        for part in parts:
            claimed = part.version.claimed
            if claimed is not None and not claimed.files:
                yield empty(part)
            elif claimed is None or not self._is_small(claimed.files):
                large.append(part)
            elif self._is_copied(part):
                same[part.path] = part
            else:
                fresh.append(part)
        yield from self._copied(same, before)
        fresh += same.values()
        failed: dict[bytes, tuple[Part, NeuromirrorError]] = {}
        for part, found in self._read(fresh, scratch):
            if isinstance(found, NeuromirrorError):
                failed[part.path] = part, found
            elif self._is_small(found.files):
                yield from self._files(part, found)
            else:
                # it has grown since it was counted
                large.append(part)
        check_lasting(failed, self._refused)
        yield from self._kept(failed, before)
        yield from self._links(large)

    def _is_small(self, files: int) -> bool:
        limits = self._limits
        return files < limits.inline_parts and files <= min(limits.inline, limits.manifest)

    def _is_copied(self, part: Part) -> bool:
        """Whether a small part is copied from the state before."""
        return not self._again and _can_be_copied(part, self._before.get(part.path))

    # --- small parts

    def _copied(
        self, same: dict[bytes, Part], before: dict[bytes, InlinePart]
    ) -> Iterator[Settled]:
        """Yields the files of parts that are as they were; takes those parts out of ``same``."""
        path: bytes | None = None
        lines: list[bytes] = []
        for one, line in self._earlier.lines(same) if same else ():
            if one != path:
                yield from self._whole(path, lines, same, before)
                path, lines = one, []
            lines.append(line)
        yield from self._whole(path, lines, same, before)

    def _whole(
        self,
        path: bytes | None,
        lines: list[bytes],
        same: dict[bytes, Part],
        before: dict[bytes, InlinePart],
    ) -> Iterator[Settled]:
        if path is None or path not in same or len(lines) != before[path].files:
            return  # not what was remembered: it is read
        del same[path]
        self._inline.append(before[path])
        yield from map(_as_it_was, lines)

    def _start(self, part: Part, scratch: Path) -> _Read:
        folder = scratch / f"inline-{next(self._numbers)}"
        return part, folder, self._pool.submit(self._read_one, part, folder)

    def _read(
        self, parts: Iterable[Part], scratch: Path
    ) -> Iterator[tuple[Part, Proven | NeuromirrorError]]:
        """Read parts side by side, first those that were begun.

        Each one's files are there until the next is requested.
        """
        reads = self._begun
        begun = {id(part) for part, _, _ in reads}
        left = (part for part in parts if id(part) not in begun)
        while True:
            for part in islice(left, 2 * AT_ONCE - len(reads)):
                reads.append(self._start(part, scratch))
            if not reads:
                break
            part, folder, future = reads.popleft()
            yield part, future.result()
            rmtree(folder)
        self.close()

    def _read_one(self, part: Part, folder: Path) -> Proven | NeuromirrorError:
        folder.mkdir()
        try:
            with self._recorder.reader() as index:
                listing = part.listing(Knowledge(index, _Pages(folder / "pages")))
                found = prove(listing, folder)
            if found.header.documents:
                raise ListingNotProven(f"{part.dataset.name}: a folder cannot hold documents")
        except NeuromirrorError as error:
            return error
        return found

    def _files(self, part: Part, found: Proven) -> Iterator[Settled]:
        header = found.header
        if found.empty:
            yield empty(part)
            return
        start = part.path + b"/"
        size = 0
        for placed in found.spool.placed():
            record = placed.record
            size += record.size or 0
            yield msgspec.structs.replace(record, path=start + record.path)
        for one in header.exceptions:
            yield NamedException(start + one.path, one.reason, one.detail, one.size)
        self._inline.append(
            InlinePart(
                part.path,
                part.dataset.local_id,
                header.version.upstream,
                found.files,
                len(header.exceptions),
                header.newest,
                part.dataset.source_uri,
                size,
            )
        )

    def _kept(
        self,
        failed: Failed,
        before: dict[bytes, InlinePart],
    ) -> Iterator[Settled]:
        """Yields, for the parts that could not be read, what stood there before."""
        kept: set[bytes] = set()
        for path, line in self._earlier.lines(failed) if failed else ():
            kept.add(path)
            yield _as_it_was(line)
        for path, (part, error) in failed.items():
            self._settled = False
            if path not in kept:
                yield left_out(part, error)
            elif path in before:
                self._inline.append(before[path])
            if is_pending(error):
                self._pending.add(part.dataset.local_id)
            elif _is_as_before(part, before.get(path)) and contradicts(error):
                self._incidents.append(no_longer(part, error))
            elif path in kept or not isinstance(error, PartUnavailable):
                self._unproven.append(told(part, error, kept=path in kept))

    # --- parts that are datasets of their own

    def _links(self, parts: Iterable[Part]) -> Iterator[Settled]:
        left = iter(parts)
        while some := list(islice(left, _LOOKED_UP)):
            found = self._recorder.ask(partial(_states, parts=some))
            for part, link in zip(some, found, strict=True):
                placed = unknown_link(part) if link is None else link.at(part)
                if not fits(placed.git_path):
                    detail = "its path is longer than file systems hold"
                    yield NamedException(part.path, "path-too-long", detail, part.size)
                    continue
                self._linked[part.path] = part
                if link is None:
                    self._unknown.add(part.path)
                yield placed


def _states(index: Index, parts: Iterable[Part]) -> list[Link | None]:
    rows = [known_row(index, part.version) for part in parts]
    return [None if row is None else link_to(index, row) for row in rows]


def _is_as_before(part: Part, before: InlinePart | None) -> bool:
    return before is not None and (before.local_id, before.upstream) == (
        part.dataset.local_id,
        part.version.upstream,
    )


def _can_be_copied(part: Part, before: InlinePart | None) -> bool:
    # what is left out is not in the records
    return _is_as_before(part, before) and before is not None and not before.exceptions


def _as_it_was(line: bytes) -> Settled:
    """What a line of the state before is in the new one, where odd names may get other places."""
    if is_link(line):
        return load_placed(line)
    return load_placed(line).record if has_odd_name(line) else line
