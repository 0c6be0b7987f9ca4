"""Find the pins of a lock file that have a newer version in the index."""

from __future__ import annotations

from collections.abc import Iterator

from neuromirror.index import (
    Index,
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
    VersionRow,
)
from neuromirror.lab.lockfile import Lock, Pin
from neuromirror.transfer.outcomes import Outcome, Status

_DRAFT = "draft"


def find_outdated(lock: Lock, index: Index) -> Iterator[Outcome]:
    """Compare each pin with the newest version of its dataset.

    A pin of a draft is compared with the newest state of the draft, any other with the newest
    published version (with the newest observed one if nothing is published).

    Parameters
    ----------
    lock
        The lock file.
    index
        The index with the newest versions.

    Yields
    ------
    Outcome
        Status ``ok`` if there is a newer version, ``notneeded`` if not, ``impossible`` if the index
        lacks the dataset or the pinned version.
    """
    for pin in lock.datasets:
        try:
            newest = index.resolve(pin.name, _DRAFT if pin.requested == _DRAFT else "latest")
            pinned = index.resolve(pin.name, pin.commit)
        except (UnknownMirrorError, UnknownDatasetError, UnknownVersionError) as error:
            yield _outcome(pin, "impossible", str(error))
            continue
        if newest.seq <= pinned.seq:
            yield _outcome(pin, "notneeded", f"{pin.resolved.version} is the newest")
        else:
            yield _outcome(pin, "ok", _message(pinned, newest), newest)


def _message(pinned: VersionRow, newest: VersionRow) -> str:
    what = "other files" if newest.state != pinned.state else "the same files"
    if newest.state == pinned.state and newest.metadata != pinned.metadata:
        what += ", other metadata"
    when = f"from {newest.time}" if newest.upstream_time else f"observed {newest.recorded_at}"
    return f"{pinned.label} is pinned, {newest.label} {when} is newer: {what}"


def _outcome(pin: Pin, status: Status, message: str, newest: VersionRow | None = None) -> Outcome:
    return Outcome(
        "outdated",
        status,
        pin.name,
        message,
        dataset=pin.name,
        version=pin.resolved.version if newest is None else newest.label,
    )
