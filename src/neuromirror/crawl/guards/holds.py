"""Held listings, and their release by an operator."""

from __future__ import annotations

import getpass
import hashlib

from neuromirror.crawl.recorder import Recorder, list_known
from neuromirror.index import HoldRow
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    current_timestamp,
)


class DatasetHolds:
    """The holds on the listings of one dataset.

    In its methods ``upstream`` is upstream's name of the version, and ``state`` the state digest of
    the listing.
    """

    def __init__(self, recorder: Recorder, dataset: DatasetRef) -> None:
        self._recorder = recorder
        self._dataset = dataset

    def is_released(self, upstream: str, state: str) -> bool:
        """Return whether an operator released this listing, identified by its state digest."""
        name = self._dataset.name
        return (upstream, state) in self._recorder.ask(lambda index: index.released_states(name))

    def create(self, upstream: str, state: str, reason: str, removed: int, before: int) -> str:
        """Hold a listing; return the id of the hold. Another hold on the version lapses."""
        dataset = self._dataset
        hold = hashlib.sha256(f"{dataset.name} {upstream} {state}".encode()).hexdigest()[:8]
        if hold not in {one.hold for one in self._open_holds()}:
            self.lapse(upstream)
            self._recorder.record(
                HoldPlaced(
                    hold=hold,
                    mirror=dataset.mirror,
                    local_id=dataset.local_id,
                    upstream=upstream,
                    state=state,
                    reason=reason,
                    removed=removed,
                    before=before,
                    at=current_timestamp(),
                )
            )
        return hold

    def lapse(self, upstream: str) -> None:
        """End the hold on a version: the listing passes the guards again."""
        for one in self._open_holds():
            if one.upstream == upstream:
                self._recorder.record(HoldLapsed(one.hold, current_timestamp()))

    def _open_holds(self) -> list[HoldRow]:
        return list_known(self._recorder, lambda index: index.open_holds(self._dataset.name))


def release_hold(recorder: Recorder, hold: str) -> str:
    """Release an open hold, so that the next sync accepts the held listing and no other.

    Parameters
    ----------
    recorder
        The store's recorder.
    hold
        The id of the hold, or a prefix of it.

    Returns
    -------
    str
        The name of the dataset.

    Raises
    ------
    ConfigurationError
        If the id matches no open hold, or several.
    """
    found = recorder.ask(lambda index: list(index.open_holds()))
    matching = [one for one in found if one.hold.startswith(hold)]
    if len(matching) != 1:
        ids = ", ".join(one.hold for one in matching or found)
        held = f"the ids of the held updates are {ids}" if ids else "no update is held"
        raise ConfigurationError(
            f"several held updates have an id that starts with '{hold}': {ids}; write more of it"
            if matching
            else f"no held update has an id that starts with '{hold}'; {held}"
        )
    (one,) = matching
    recorder.record(HoldReleased(one.hold, getpass.getuser(), current_timestamp()))
    return one.dataset
