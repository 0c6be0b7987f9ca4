"""The last step before a state with parts is published: what it links to is mirrored first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from heapq import merge
from pathlib import Path

import msgspec

from neuromirror.crawl.links import Earlier, Link, is_link
from neuromirror.crawl.part_entries import (
    AT_ONCE,
    Failed,
    IsLasting,
    check_lasting,
    empty,
    is_pending,
    left_out,
    told,
)
from neuromirror.crawl.part_visits import Brought, PartVisits
from neuromirror.crawl.prove import InlinePart, PartsTaken, Proven, Spool
from neuromirror.model import (
    NamedException,
    NeuromirrorError,
    PlacedFile,
    dump_placed,
    load_placed,
    path_of_line,
)
from neuromirror.net import CountedPool
from neuromirror.sources import Part, PartUnavailable

_Result = Brought | NeuromirrorError


@dataclass(slots=True)
class Linked:
    """A state whose parts are all mirrored or left out, and what it took.

    ``minted`` counts new states of parts, ``past`` the earlier ones that upstream listed; ``moved``
    names the parts that are in another state by now than the listing says.
    """

    proven: Proven
    minted: int = 0
    past: int = 0
    incidents: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)


def link_parts(
    proven: Proven,
    visits: PartVisits,
    earlier: Earlier,
    scratch: Path,
    refused: IsLasting,
    *,
    every: bool,
) -> Linked:
    """Visits the parts of a state whose own state is unknown (or all), and links to them.

    One that upstream states to be unavailable, or is not what upstream states, or has ``refused``
    for long, keeps what stood in its place in the ``earlier`` state, and is left out where there
    was nothing. All are visited before PartsNotRead is raised for those that failed otherwise.
    """
    taken = proven.parts
    due = {path: part for path, part in taken.linked.items() if every or path in taken.unknown}
    linked = Linked(proven)
    if not due:
        return linked
    links: dict[bytes, Link] = {}
    gone: list[NamedException] = []
    failed: dict[bytes, tuple[Part, NeuromirrorError]] = {}
    for path, result in _visit(due, visits).items():
        if isinstance(result, NeuromirrorError):
            failed[path] = due[path], result
            continue
        linked.minted += result.minted
        linked.past += result.past
        if result.incident:
            linked.incidents.append(result.incident)
        if result.moved:
            linked.moved.append(result.moved)
        if result.link is None:
            gone.append(empty(due[path]))
        else:
            links[path] = result.link
    check_lasting(failed, refused)
    writing = _Writing(proven.spool, due, links, failed)
    spool = Spool(scratch / "linked.jsonl")
    with spool.path.open("wb", buffering=1 << 18) as file:
        for line in merge(writing.lines(), writing.kept_lines(earlier), key=path_of_line):
            file.write(line + b"\n")
    linked.proven = _state(proven, spool, writing, failed, gone, earlier.inline())
    return linked


def _visit(due: Mapping[bytes, Part], visits: PartVisits) -> dict[bytes, _Result]:
    with CountedPool(min(AT_ONCE, len(due)), thread_name_prefix="part") as pool:
        running: dict[bytes, Future[_Result]] = {
            path: pool.submit(_fare, visits, part) for path, part in due.items()
        }
        try:
            return {path: future.result() for path, future in running.items()}
        finally:
            for future in running.values():
                future.cancel()


def _fare(visits: PartVisits, part: Part) -> _Result:
    try:
        return visits.bring(part)
    except NeuromirrorError as error:
        return error


class _Writing:
    """The record lines of a state while links take their places in it.

    ``kept`` are the paths where what stood there before stays, ``files`` how many files that
    makes, ``newest`` the time of the newest thing that was put in.
    """

    def __init__(
        self,
        spool: Spool,
        due: Mapping[bytes, Part],
        links: Mapping[bytes, Link],
        failed: Iterable[bytes],
    ) -> None:
        self._spool = spool
        self._due = due
        self._links = links
        self._failed = list(failed)
        self.kept: set[bytes] = set()
        self.files = 0
        self.newest: datetime | None = None

    def lines(self) -> Iterator[bytes]:
        """Yields the state's lines, with the links that are known now."""
        for line in self._spool.lines():
            if is_link(line):
                placed = load_placed(line)
                path = placed.record.path
                link = self._links.get(path)
                if link is not None:
                    self._saw(link.time)
                    record = msgspec.structs.replace(placed.record, modified=link.time)
                    yield dump_placed(PlacedFile(placed.git_path, "", record, link.state))
                elif path not in self._due:
                    yield line
            else:
                yield line

    def kept_lines(self, earlier: Earlier) -> Iterator[bytes]:
        """Yields what stood in the earlier state where parts could not be proven."""
        for path, line in earlier.lines(self._failed) if self._failed else ():
            self.kept.add(path)
            placed = load_placed(line)
            self.files += placed.part is None
            self._saw(placed.record.modified)
            yield line

    def _saw(self, time: datetime | None) -> None:
        if time is not None and (self.newest is None or time > self.newest):
            self.newest = time


def _state(
    proven: Proven,
    spool: Spool,
    writing: _Writing,
    failed: Failed,
    gone: list[NamedException],
    before: Mapping[bytes, InlinePart],
) -> Proven:
    """The state as it was written."""
    header, taken = proven.header, proven.parts
    unproven = list(taken.unproven)
    for path, (part, error) in failed.items():
        kept = path in writing.kept
        if not kept:
            gone.append(left_out(part, error))
        if (kept or not isinstance(error, PartUnavailable)) and not is_pending(error):
            unproven.append(told(part, error, kept=kept))
    out = failed.keys() | {one.path for one in gone}
    newest = max(filter(None, (header.newest, writing.newest)), default=None)
    version = header.version
    if proven.untimed and newest is not None:
        version = replace(version, time=newest)
    exceptions = sorted([*header.exceptions, *gone], key=lambda one: (one.path, one.reason))
    return replace(
        proven,
        header=replace(header, version=version, exceptions=tuple(exceptions), newest=newest),
        spool=spool,
        files=proven.files + writing.files,
        parts=PartsTaken(
            linked={path: part for path, part in taken.linked.items() if path not in out},
            inline=(*taken.inline, *(before[path] for path in writing.kept if path in before)),
            unproven=tuple(unproven),
            incidents=taken.incidents,
            settled=taken.settled and not failed,
            pending=taken.pending.union(
                part.dataset.local_id for part, error in failed.values() if is_pending(error)
            ),
        ),
    )
