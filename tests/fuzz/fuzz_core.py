"""Fuzz targets: one per parser of foreign bytes, and the bounds that each input must keep.

A target takes bytes and returns nothing. It may raise what its parser documents, and nothing else;
where another implementation of the same format exists, the target compares the two and raises
:class:`DisagreementError`. ``scripts/fuzz`` runs targets for minutes, the test suite for seconds.
"""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FINDINGS = FOLDER / "findings"
CORPUS = FOLDER / "corpus"
SEEDS: dict[str, Any] = json.loads((FOLDER / "seeds.json").read_text("utf-8"))
"""Valid documents of archives, commits and Zarrs, by name."""
MAX_INPUT_BYTES = 1 << 16
"""Bytes of an input."""
MAX_SECONDS = 2.0
"""CPU time that one input may take."""
MAX_MEGABYTES = 64
"""Memory by which the process may grow for one input."""


class DisagreementError(AssertionError):
    """Two parsers of one format disagree, or a value does not survive a round trip."""


def check_agreement(condition: bool, *details: object) -> None:
    """Raise Disagreement unless a condition holds."""
    if not condition:
        raise DisagreementError(", ".join(repr(detail)[:300] for detail in details))


@dataclass(frozen=True)
class Target:
    """A parser under test.

    ``kind`` names the mutator that knows the format (see ``fuzz_mutate``), ``declared`` are the
    exceptions that may come out, ``seeds`` returns valid inputs. ``slow`` says that one execution
    takes milliseconds (a process, a socket), so that a short run makes fewer.
    """

    name: str
    run: Callable[[bytes], None]
    declared_errors: tuple[type[BaseException], ...]
    seeds: Callable[[], Sequence[bytes]]
    kind: str
    is_slow: bool = False

    def corpus(self) -> list[bytes]:
        """Return the seeds, the stored corpus and all past findings of the target."""
        stored = [
            path.read_bytes()
            for folder in (CORPUS, FINDINGS)
            for path in sorted((folder / self.name).glob("*"))
        ]
        return [*self.seeds(), *stored]

    def accepts(self, data: bytes) -> bool:
        """Run the target; return whether it raised none of its declared exceptions."""
        try:
            self.run(data)
        except self.declared_errors:
            return False
        return True


TARGETS: dict[str, Target] = {}


def target(
    name: str,
    *declared: type[BaseException],
    seeds: Callable[[], Sequence[bytes]],
    kind: str = "bytes",
    slow: bool = False,
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function as a target."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[name] = Target(name, run, declared, seeds, kind, slow)
        return run

    return register


@dataclass(frozen=True)
class Finding:
    """An input that a parser does not handle, with the reason and a signature of the finding."""

    target: str
    data: bytes
    reason: str
    signature: str
    details: str = field(compare=False, default="")


def execute(one: Target, data: bytes) -> Finding | None:
    """Run a target on an input within its bounds.

    Too much time or memory counts only when it shows twice: the first run may load a library.
    """
    finding = _execute_once(one, data)
    if finding is not None and finding.reason in ("time", "memory"):
        return _execute_once(one, data)
    return finding


def _execute_once(one: Target, data: bytes) -> Finding | None:
    memory = Memory()
    started = time.process_time()
    try:
        one.run(data)
    except one.declared_errors:
        pass
    except Exception as error:  # noqa: BLE001 - every other exception is what is looked for
        raised_at = signature(error)
        return Finding(one.name, data, type(error).__name__, raised_at, traceback.format_exc())
    spent, grown = time.process_time() - started, memory.grown()
    if spent > MAX_SECONDS:
        return Finding(one.name, data, "time", "time", f"{spent:.1f} s of CPU time")
    if grown > MAX_MEGABYTES << 20:
        return Finding(one.name, data, "memory", "memory", f"{grown >> 20} MiB more memory")
    return None


def signature(error: BaseException) -> str:
    """Return the type of an exception and where in the project it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/neuromirror/" in frame.filename]
    frame = ours[-1] if ours else frames[-1]
    return f"{type(error).__name__} {Path(frame.filename).name} {frame.name}"


class Memory:
    """The peak memory of the process since this object was created; 0 without Linux."""

    _RESET = "5"

    def __init__(self) -> None:
        self._before = 0
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write(self._RESET)
            self._before = _field("VmRSS")
        except OSError:
            self._before = -1

    def grown(self) -> int:
        """Return the bytes by which the peak exceeds what was used at first."""
        return 0 if self._before < 0 else max(0, _field("VmHWM") - self._before)


def _field(name: str) -> int:
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(name.encode()):
                return int(line.split()[1]) << 10
    return 0


def minimise(one: Target, finding: Finding, seconds: float = 10.0) -> Finding:
    """Return a smaller input with the same signature, found by leaving pieces out."""
    best, until = finding, time.monotonic() + seconds
    size = max(1, len(best.data) // 2)
    while size and time.monotonic() < until:
        at, shrunk = 0, False
        while at < len(best.data) and time.monotonic() < until:
            smaller = best.data[:at] + best.data[at + size :]
            found = _execute_once(one, smaller)
            if found is not None and found.signature == finding.signature:
                best, shrunk = found, True
            else:
                at += size
        if not shrunk or size > len(best.data):
            size //= 2
    return best


def fixed_seeds(*found: Any) -> Callable[[], Sequence[bytes]]:
    """Return a ``seeds`` function for fixed inputs: bytes, or text as UTF-8."""
    made = [one if isinstance(one, bytes) else str(one).encode() for one in found]
    return lambda: made
