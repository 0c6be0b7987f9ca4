"""How datasets and mirrors fared in a run, in words for people and programs."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

from neuromirror.crawl.outcome import Outcome
from neuromirror.crawl.plan import files_waiting
from neuromirror.crawl.requests import Request
from neuromirror.model import DatasetRef, NeuromirrorError, Traffic
from neuromirror.net import Unreachable, redact
from neuromirror.sources import DatasetNotFound, Estimate
from neuromirror.store import Store

_NAMED = 5
"""Parts that are not proven and named one by one."""
_BEGINNING, _END = 5000, 1000
"""Characters of a failure's message: it may quote upstream, and stays in the journal."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one dataset (or mirror) fared, in DataLad's words.

    ``status`` is ok | notneeded | impossible | error; ``visit`` is full | partial | held |
    waiting | not_found | failed, or empty where no visit was made; ``versions`` are labels minted,
    and ``traffic`` is what the visit asked of each host. ``estimate`` is what a first visit would
    take, in a dry run.
    """

    dataset: str
    status: str
    message: str
    visit: str = ""
    versions: tuple[str, ...] = ()
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    estimate: Estimate | None = None

    @property
    def exit_code(self) -> int:
        """What this result makes of the run's exit code: 0, 1, or 3 for held."""
        if self.visit == "held":
            return 3
        return 0 if self.status in ("ok", "notneeded") else 1


def result_of(dataset: DatasetRef, outcome: Outcome) -> Result:
    """How a visit fared that went to its end."""
    versions = tuple(outcome.minted)
    notes = ""
    if outcome.left_out:
        notes += f"; {outcome.left_out} listed upstream but not mirrored"
    if outcome.parts:
        states = "1 new state" if outcome.parts == 1 else f"{outcome.parts} new states"
        notes += f"; {states} of its Zarrs"
    writing = len(outcome.writing)
    if outcome.pending > writing:  # a Zarr that is being written has no checksum, either
        notes += f"; {files_waiting(outcome.pending - writing, 'wait')} for a checksum"
    if writing:
        zarrs = "1 Zarr is" if writing == 1 else f"{writing} Zarrs are"
        notes += f"; {zarrs} still being written upstream"
    if outcome.refused:
        objects = "1 object" if outcome.refused == 1 else f"{outcome.refused} objects"
        notes += f"; {objects} refused by the bucket, known by what it lists alone"
    if outcome.checked:
        notes += f"; compared: {outcome.checked}"
    unproven = outcome.unproven[:_NAMED]
    if len(outcome.unproven) > _NAMED:
        unproven.append(f"and {len(outcome.unproven) - _NAMED} more parts that are not proven")
    problems = "; ".join([*outcome.incidents, *outcome.held, *unproven])
    if outcome.incidents or (unproven and not outcome.held):
        return Result(dataset.name, "error", problems, "partial", versions)
    if outcome.held:
        return Result(dataset.name, "impossible", problems, "held", versions)
    notes += "".join(f"; known incident: {one}" for one in outcome.known)
    if outcome.waiting:
        return Result(dataset.name, "notneeded", outcome.waiting + notes, "waiting")
    if versions:
        return Result(dataset.name, "ok", f"new: {', '.join(versions)}{notes}", "full", versions)
    if outcome.parts:
        return Result(dataset.name, "ok", f"nothing new{notes}", "full")
    return Result(dataset.name, "notneeded", f"nothing new{notes}", "full")


def explain(error: Exception, store: Store) -> str:
    """What a failure means, in one line; of one that is very long the beginning and the end."""
    said = _explained(error, store)
    if len(said) <= _BEGINNING + _END:
        return said
    return f"{said[:_BEGINNING]} … {said[-_END:]}"


def _explained(error: Exception, store: Store) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk of the store {store.root} is full; free some space and run the sync again "
            "(what was published before is whole)"
        )
    if isinstance(error, FileNotFoundError) and error.filename == "git":
        return "git is not on PATH; install it, and run the sync again"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename or store.root}"
    if isinstance(error, NeuromirrorError):
        return str(error)
    # its text may hold anything, and goes into the journal
    return redact(f"unexpected {type(error).__name__}: {error}; please report this")


def unplanned(request: Request, error: Exception, message: str) -> Result:
    """How a request fares whose archive gave no list, or has no such dataset."""
    mirror, visit = request.mirror, "failed"
    if isinstance(error, DatasetNotFound):
        visit = "not_found"
        message = (
            f"{message.rstrip('.')}; check its id ('neuromirror sync {mirror.name} --dry-run' "
            "names all)"
        )
    elif isinstance(error, Unreachable):
        message = (
            f"{message.removesuffix('; try again')}; check the network and the address in "
            f"{mirror.path}, then run the sync again"
        )
    return Result(request.name, "error", message, visit)
