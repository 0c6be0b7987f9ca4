"""Find the earlier states that upstream can list and the mirror lacks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from neuromirror.crawl.visit.snapshot import SpooledSnapshot
from neuromirror.crawl.visit.version_reader import VersionReader
from neuromirror.index import VersionRow
from neuromirror.model import DatasetRef, VersionRef
from neuromirror.sources import Listing, Source

_EARLIER_PREFIX = "at "


def is_earlier_state(upstream: str) -> bool:
    """Return whether upstream's name of a version is that of an earlier state, ``at <time>``."""
    return upstream.startswith(_EARLIER_PREFIX)


def list_earlier_states(
    source: Source, dataset: DatasetRef, last: VersionRow | None
) -> list[VersionRef]:
    """Return the states after ``last`` and before the current one, oldest first."""
    return source.history(dataset, None if last is None else datetime.fromisoformat(last.time))


def unseen_states(
    states: list[VersionRef],
    last: VersionRow,
    reader: VersionReader,
    same_files: Callable[[VersionRow, SpooledSnapshot, Path], bool],
) -> list[VersionRef]:
    """Return the states after the one that was observed last.

    Times alone do not show which state was observed, because the state after a deletion is younger
    than its newest file. So the states before the observation are compared by their files.
    """
    observed = datetime.fromisoformat(last.recorded_at)
    before = [one for one in states if one.time is not None and one.time <= observed]
    for number in range(len(before), 0, -1):
        same: list[bool] = []

        def compare(
            listing: Listing, snapshot: SpooledSnapshot, scratch: Path, same: list[bool] = same
        ) -> None:
            same.append(same_files(last, snapshot, scratch))

        reader.read(before[number - 1], compare, None)
        if all(same):
            return states[number:]
    return states
