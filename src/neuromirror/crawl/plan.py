"""Which datasets a run must visit, found with the fewest requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neuromirror.index import LastVisit, Tombstone
from neuromirror.model import DatasetHint

RELEASED = "released"
"""Why a dataset is to be visited on which a hold was released since its last visit."""


@dataclass(frozen=True, slots=True)
class DatasetTask:
    """A dataset and what the run is to do with it.

    ``action`` is visit | skip | held | unavailable; ``why`` says it in words; ``last`` is how
    the last visit ended, None before the first. ``pending_only`` says that a visit is due only
    because upstream had yet to complete something when the last one was made.
    """

    hint: DatasetHint
    action: str
    reason: str
    last_visit: LastVisit | None = None
    pending_only: bool = False


def plan_dataset(
    hint: DatasetHint,
    last: LastVisit | None,
    held: frozenset[str],
    visit_all_reason: str = "",
    *,
    released: frozenset[str] = frozenset(),
    in_private_store: bool = False,
) -> DatasetTask:
    """What to do with one dataset.

    ``held`` names datasets that wait for an operator, ``released`` those that do no longer and were
    not visited since; ``regardless`` says why a dataset is to be
    visited whatever upstream's overview says, empty where that decides; ``moving`` that it is to
    come over from the private store.
    """
    action, reason = _choose_action(hint, last, held, visit_all_reason)
    pending_only = action == "skip" and last is not None and last.pending > 0
    if pending_only and last is not None:
        action, reason = "visit", f"{pending_files_text(last.pending, 'waited')} for a checksum"
    if last is not None and hint.unavailable is None and hint.dataset.name in released:
        action, reason, pending_only = "visit", RELEASED, False
    if in_private_store and hint.unavailable is None:
        action, reason, pending_only = "visit", "opened upstream", False
    return DatasetTask(hint, action, reason, last, pending_only)


def _choose_action(
    hint: DatasetHint, last: LastVisit | None, held: frozenset[str], visit_all_reason: str
) -> tuple[str, str]:
    if hint.unavailable is not None:
        return "unavailable", hint.unavailable
    if last is None:
        return "visit", "new"
    if visit_all_reason:
        return "visit", visit_all_reason
    if last.status == "waiting":
        return "visit", "waited to settle"
    if hint.fingerprint is None:
        return "visit", "only a visit can tell"
    if last.fingerprint != hint.fingerprint:
        return "visit", "changed upstream"
    if last.status == "held":
        if hint.dataset.name in held:
            return "held", "held for approval; see 'neuromirror holds'"
        return "visit", RELEASED
    if last.status != "full":
        return "visit", f"last visit: {last.status}"
    return "skip", "unchanged"


def takedown_message(tombstone: Tombstone) -> str:
    """What is said of a dataset that the operator took down."""
    return f"taken down on {tombstone.at[:10]}: {tombstone.reason}"


def pending_files_text(count: int, verb: str) -> str:
    """``1 file waits``, ``2 files wait``, ``2 files waited``."""
    if count == 1:
        return f"1 file {'waits' if verb == 'wait' else verb}"
    return f"{count} files {verb}"


def vanished_datasets(
    hints: Mapping[str, DatasetHint], known: Mapping[str, LastVisit]
) -> list[str]:
    """Local ids that were visited once and are not in the archive's list any more."""
    return sorted(
        local_id
        for local_id, last in known.items()
        if local_id not in hints and last.status != "not_found"
    )
