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
    """Return whether upstream's name of a version means an earlier state of a bucket.

    Such a name is ``at <time>``.
    """
    return upstream.startswith(_EARLIER_PREFIX)


def list_earlier_states(
    source: Source, dataset: DatasetRef, last: VersionRow | None
) -> list[VersionRef]:
    """Return the states that upstream had after ``last`` and before the current one, oldest first.

    ``source`` lists the versions of ``dataset``; ``last`` is the last mirrored version, None for
    all earlier states. The archive must keep old versions of its objects.
    """
    return source.history(dataset, None if last is None else datetime.fromisoformat(last.time))


def unseen_states(
    states: list[VersionRef],
    last: VersionRow,
    reader: VersionReader,
    same_files: Callable[[VersionRow, SpooledSnapshot, Path], bool],
) -> list[VersionRef]:
    """Return those of the listed earlier states that are newer than the version observed last.

    Times alone do not show which state was observed, because a deletion gives a state no newer
    time. So the states before the time of the observation are listed, the newest first, until one
    has the same files as the version.

    Parameters
    ----------
    states
        Earlier states, oldest first.
    last
        The version observed last.
    reader
        Reads the listing of a state.
    same_files
        Returns whether a version and a snapshot have the same files; the path is a scratch folder.
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
