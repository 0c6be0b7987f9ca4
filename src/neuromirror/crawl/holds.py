"""Listings that wait for an operator, and how they are let through."""

from __future__ import annotations

import getpass
import hashlib

from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.times import now
from neuromirror.index import HoldRow, UnknownDataset, UnknownMirror
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
)


class Holds:
    """The holds on one dataset's listings; ``upstream`` is upstream's word for the version."""

    def __init__(self, recorder: Recorder, dataset: DatasetRef) -> None:
        self._recorder = recorder
        self._dataset = dataset

    def released(self, upstream: str, state: str) -> bool:
        """Whether an operator let this very listing through."""
        name = self._dataset.name
        return (upstream, state) in self._recorder.ask(lambda index: index.released_states(name))

    def place(self, upstream: str, state: str, reason: str, removed: int, before: int) -> str:
        """Holds a listing, in the place of another one of the version; gives the hold's id."""
        dataset = self._dataset
        hold = hashlib.sha256(f"{dataset.name} {upstream} {state}".encode()).hexdigest()[:8]
        if hold not in {one.hold for one in self._open()}:
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
                    at=now(),
                )
            )
        return hold

    def lapse(self, upstream: str) -> None:
        """Ends the hold on a version: upstream is back within the guards."""
        for one in self._open():
            if one.upstream == upstream:
                self._recorder.record(HoldLapsed(one.hold, now()))

    def _open(self) -> list[HoldRow]:
        name = self._dataset.name
        try:
            return self._recorder.ask(lambda index: list(index.open_holds(name)))
        except (UnknownDataset, UnknownMirror):
            return []


def release(recorder: Recorder, hold: str) -> str:
    """Releases an open hold by its id (or a prefix of it); gives the dataset's name.

    The next sync accepts just the listing that was held. Raises ConfigurationError for an id
    that names no open hold, or several.
    """
    found = recorder.ask(lambda index: list(index.open_holds()))
    matching = [one for one in found if one.hold.startswith(hold)]
    if len(matching) != 1:
        known = ", ".join(one.hold for one in found) or "none"
        raise ConfigurationError(
            f"'{hold}' names {len(matching) or 'no'} open hold{'s' * (len(matching) > 1)}; "
            f"open are: {known}"
        )
    (one,) = matching
    recorder.record(HoldReleased(one.hold, getpass.getuser(), now()))
    return one.dataset
