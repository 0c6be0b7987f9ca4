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
from neuromirror.lab.lockfile import Lock
from neuromirror.transfer.outcomes import Outcome

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
        ``newer`` is whether there is a newer version, which ``version`` names. The status is
        ``impossible``, and ``newer`` None, if the index lacks the dataset or the pinned version.
    """
    for pin in lock.datasets:
        try:
            newest = index.resolve(pin.name, _DRAFT if pin.requested == _DRAFT else "latest")
            pinned = index.resolve(pin.name, pin.commit)
        except (UnknownMirrorError, UnknownDatasetError, UnknownVersionError) as error:
            label = pin.resolved.version
            yield Outcome("outdated", "impossible", pin.name, str(error), pin.name, label)
            continue
        if newest.seq <= pinned.seq:
            message, label, newer = f"{pinned.label} is the newest", pinned.label, False
        else:
            message, label, newer = _message(pinned, newest), newest.label, True
        yield Outcome("outdated", "ok", pin.name, message, pin.name, label, newer=newer)


def _message(pinned: VersionRow, newest: VersionRow) -> str:
    what = "other files" if newest.state != pinned.state else "the same files"
    if newest.state == pinned.state and newest.metadata != pinned.metadata:
        what += ", different metadata"
    when = f"from {newest.time}" if newest.upstream_time else f"observed {newest.recorded_at}"
    return f"{pinned.label} is pinned, {newest.label} {when} is newer: {what}"
