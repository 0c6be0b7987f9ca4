"""A faulty archive never makes a reader return wrong bytes: faults at random, seeded."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pytest

from neuromirror import stream
from neuromirror.net import RequestLimits
from neuromirror.stream import StreamError, Transport
from neuromirror.stream.fsspec_file_system import NeuromirrorFileSystem
from support.range_server import RangeHandler, RangeRequest, RangeServer, ServedTree

PIECE = 16 << 10
PIECES = 1_000
SEED = 22
LIMITS = RequestLimits(attempts=1, wait=0.01, wait_max=0.01, connect=1.0, read=0.2)

# pieces of different bytes, of which few are in memory twice
CONTENT = random.Random(SEED).randbytes(PIECE * PIECES + 4321)
NEWER = CONTENT[: PIECE * 7] + CONTENT[PIECE * 7 + 1 :]

Fault = Callable[[RangeHandler, RangeRequest, random.Random], None]


def corrupted(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    body = bytearray(CONTENT[request.start : request.stop])
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    handler.send_body(request, bytes(body), len(CONTENT))


def truncated(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    handler.send_truncated(CONTENT, request, chance.randrange(request.stop - request.start))


def short(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    count = chance.randrange(request.stop - request.start)
    handler.send_range(CONTENT[: request.start + count], request)


def newer(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    handler.send_range(NEWER, request)


def delayed(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    handler.web.stopped.wait(60)
    handler.close_connection = True


def stalled(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    """Send a part of the range, and then nothing."""
    handler.send_truncated(CONTENT, request, chance.randrange(request.stop - request.start))
    handler.web.stopped.wait(60)


def shifted(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    body = CONTENT[request.start + 1 : request.stop + 1]
    handler.send_body(request, body, len(CONTENT))


def another_range(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    start = chance.randrange(len(CONTENT) - 1)
    handler.send_range(CONTENT, RangeRequest(request.path, start, start + 100))


def web_page(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    handler.reply(200, b"<html>please log in</html>")


def error(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    handler.reply(chance.choice([403, 404, 410, 416, 429, 500, 503]), b"no")


def disconnected(handler: RangeHandler, request: RangeRequest, chance: random.Random) -> None:
    handler.close_connection = True


FAULTS: tuple[Fault, ...] = (
    *(corrupted, truncated, short, newer, delayed, stalled),
    *(shifted, another_range, web_page, error, disconnected),
)


@dataclass
class Trial:
    """A fault of one piece at one location, and what a reader got."""

    number: int
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(SEED * 1_000_000 + self.number)
        self.fault = FAULTS[self.number % len(FAULTS)]
        self.piece = self.chance.randrange(PIECES)
        self.is_permanent = self.chance.random() < 0.7
        self.has_other_location = self.chance.random() < 0.4
        self.struck = 0
        self.lock = threading.Lock()

    def ranges(self) -> list[tuple[int, int]]:
        """Return ranges near the piece and elsewhere, one of which reads the piece."""
        at = self.piece * PIECE + self.chance.randrange(PIECE)
        near = max(0, at - self.chance.randrange(8 * PIECE))
        there = near, at + 1 + self.chance.randrange(4 * PIECE)
        starts = [self.chance.randrange(len(CONTENT)) for _ in range(2)]
        return [*((start, start + self.chance.randrange(2 * PIECE)) for start in starts), there]

    def strikes(self, request: RangeRequest) -> bool:
        """Return whether a request for the piece gets the faulty reply."""
        if not request.start < (self.piece + 1) * PIECE or request.stop <= self.piece * PIECE:
            return False
        with self.lock:
            self.struck += 1
            return self.is_permanent or self.struck == 1


def read_file(tree: ServedTree, ranges: list[tuple[int, int]]) -> list[bytes]:
    with stream.open(tree, "x.bin", limits=LIMITS) as opened:
        found = []
        for start, stop in ranges:
            opened.seek(start)
            found.append(opened.read(stop - start))
        return found


class _ServedFileSystem(NeuromirrorFileSystem):
    def __init__(self, tree: ServedTree) -> None:
        super().__init__(skip_instance_cache=True)
        self._opened.trees["served:1@1"] = tree, Transport(tree.access, limits=LIMITS)


def read_file_system(tree: ServedTree, ranges: list[tuple[int, int]]) -> list[bytes]:
    files = _ServedFileSystem(tree)
    starts, stops = zip(*ranges, strict=True)
    try:
        paths = ["served:1@1/x.bin"] * len(ranges)
        return [*files.cat_ranges(paths, starts, stops, on_error="raise")]
    finally:
        files._opened.trees["served:1@1"][1].close()


READERS: Final = (read_file, read_file_system)
TRIALS = 8 * len(READERS) * len(FAULTS)


@pytest.mark.slow
def test_faults_of_one_piece_in_a_thousand_never_return_wrong_bytes() -> None:
    trials = {f"/{number}": Trial(number) for number in range(TRIALS)}

    def fault(handler: RangeHandler, request: RangeRequest) -> bool:
        trial = trials.get(request.path)
        if trial is None or not trial.strikes(request):
            return False
        trial.fault(handler, request, trial.chance)
        return True

    contents = dict.fromkeys([*trials, "/good"], CONTENT)
    template = ServedTree()
    template.add("x.bin", CONTENT, piece_size=PIECE)
    with RangeServer(contents, fault) as web:

        def run(trial: Trial) -> str:
            others = (f"{web.url}/good",) if trial.has_other_location else ()
            tree = ServedTree(digests=template.digests)
            tree.add("x.bin", b"", f"{web.url}/{trial.number}", *others, like=template)
            ranges = trial.ranges()
            read = READERS[trial.number // len(FAULTS) % len(READERS)]
            try:
                found = read(tree, ranges)
            except StreamError:
                return "error"
            assert found == [CONTENT[start:stop] for start, stop in ranges], trial.number
            return "right"

        with ThreadPoolExecutor(16) as pool:
            outcomes = [*pool.map(run, trials.values())]
    assert all(trial.struck for trial in trials.values())
    pairs = [*zip(trials.values(), outcomes, strict=True)]
    for fault_of in FAULTS:
        statuses = [
            outcome
            for trial, outcome in pairs
            if trial.fault is fault_of and trial.is_permanent and not trial.has_other_location
        ]
        assert len(statuses) > 3
        # the bytes before an interruption, and those that did not change, are right
        if fault_of not in (newer, truncated, stalled):
            assert statuses.count("error") > 0.9 * len(statuses), fault_of
    # a busy machine may make the other location time out, too
    others = [outcome for trial, outcome in pairs if trial.has_other_location]
    assert others.count("right") > 0.9 * len(others)
