"""Labels of states that upstream does not name."""

from __future__ import annotations

from datetime import datetime

from neuromirror.crawl.visit.snapshot import SpooledSnapshot
from neuromirror.model import metadata_digest, state_label, time_label
from neuromirror.store import TAG_PREFIX


def component_label(snapshot: SpooledSnapshot, state: str, _refs: dict[str, str]) -> str:
    """Return the label of a component's state: the UTC time of its newest object, and eight digits.

    The digits are the first ones of the state digest. Without a time the label is
    ``state-<digits>``, and has eight digits of the metadata digest too. Unlike :func:`free_label`
    it does not depend on the labels in use, so ``_refs`` is ignored.
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
    """Return an unused label for a state: the UTC time of its newest object, or ``state-<digits>``.

    ``<digits>`` are the first eight of the state digest, for a state without a time. They are also
    appended to a time that is in use. ``refs`` are the refs of the repository.
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
