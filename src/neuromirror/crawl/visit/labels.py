"""Labels of states that upstream does not name."""

from __future__ import annotations

from datetime import datetime

from neuromirror.crawl.visit.snapshot import SpooledSnapshot
from neuromirror.model import metadata_digest, state_label, time_label
from neuromirror.store import TAG_PREFIX


def component_label(snapshot: SpooledSnapshot, state: str, _refs: dict[str, str]) -> str:
    """Return the label of a component's state, independent of other labels.

    It is the UTC time of the newest object and the first eight digits of the state digest.
    """
    digits = state.removeprefix("sha256:")[:8]
    moment, documents = _upstream_time(snapshot), snapshot.header.documents
    if moment is not None:
        return f"{time_label(moment)}-{digits}"
    # without a time, only this distinguishes states that differ just in their documents
    metadata = f"-{metadata_digest(documents).removeprefix('sha256:')[:8]}" if documents else ""
    return f"{state_label(state)}{metadata}"


def _upstream_time(snapshot: SpooledSnapshot) -> datetime | None:
    """Return upstream's time of a state; None if it has none."""
    return snapshot.header.newest or snapshot.header.version.time


def free_label(snapshot: SpooledSnapshot, state: str, refs: dict[str, str]) -> str:
    """Return an unused label: the UTC time of the newest object, or ``state-<digits>``.

    The first eight digits of the state digest are appended to a time that is in use.
    """
    moment = _upstream_time(snapshot)
    label = state_label(state)
    if moment is not None:
        label = time_label(moment)
        if TAG_PREFIX + label in refs:
            label = f"{label}-{state.removeprefix('sha256:')[:8]}"
    if TAG_PREFIX + label not in refs:
        return label
    candidate, number = label, 2
    while TAG_PREFIX + candidate in refs:
        candidate, number = f"{label}-{number}", number + 1
    return candidate
