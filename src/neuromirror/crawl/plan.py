"""Decide which datasets a run has to visit, with as few requests as possible."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from neuromirror.index import LastVisit, Tombstone
from neuromirror.model import DatasetHint

RELEASED = "released"
"""Reason for a visit: a hold on the dataset was released since its last visit."""


class DatasetTask(Struct, frozen=True):
    """A dataset and what the run does with it.

    Attributes
    ----------
    hint
        The dataset's entry in the overview, which is the archive's list of its datasets.
    action
        ``visit``, ``skip``, ``held``, ``unavailable`` or ``refused``.
    reason
        The reason for the action, as text for people.
    last_visit
        How the last visit ended; None before the first visit.
    pending_only
        Whether the visit is due only because items were pending upstream at the last visit.
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
    """Decide whether a run visits one dataset, and why.

    Parameters
    ----------
    hint
        The dataset's entry in the archive's overview.
    last
        The last visit; None before the first visit.
    held
        Names of datasets with an open hold.
    visit_all_reason
        Why datasets are visited even if the overview reports no change; empty if they are not.
    released
        Names of datasets with a hold that was released and not visited since.
    in_private_store
        Whether the private store has the dataset, so that it has to be moved to the public one.

    Returns
    -------
    DatasetTask
        The action and its reason.
    """
    action, reason = _choose_action(hint, last, held, visit_all_reason)
    pending_only = action == "skip" and last is not None and last.pending > 0
    if pending_only and last is not None:
        action, reason = "visit", pending_files_text(last.pending)
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
        return "visit", "still changing at the last visit"
    if hint.fingerprint is None:
        return "visit", "only a visit can detect changes"
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
    """Return the message for a dataset that the operator took down."""
    return f"taken down on {tombstone.at[:10]}: {tombstone.reason}"


def pending_files_text(count: int) -> str:
    """Return ``1 file without checksum yet`` or ``<count> files without checksum yet``."""
    return f"{'1 file' if count == 1 else f'{count} files'} without checksum yet"


def vanished_datasets(
    hints: Mapping[str, DatasetHint], known: Mapping[str, LastVisit]
) -> list[str]:
    """Return the local ids that were visited before and that the archive no longer lists.

    Parameters
    ----------
    hints
        The entries of the archive's overview, by local id.
    known
        The last visits that the index has, by local id.
    """
    return sorted(
        local_id
        for local_id, last in known.items()
        if local_id not in hints and last.status != "not_found"
    )
