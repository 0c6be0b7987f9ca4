"""Events of a dataset, each recorded once."""

from __future__ import annotations

from neuromirror.crawl.recorder import Recorder, list_known
from neuromirror.index import EventRow
from neuromirror.model import DatasetRef, EventRaised, current_timestamp

TOMBSTONE, RETURNED = "tombstone", "returned"


def record_event(
    recorder: Recorder, dataset: DatasetRef, kind: str, message: str, data: dict[str, object]
) -> bool:
    """Record an event, unless one with the same message exists; return whether it is new.

    Parameters
    ----------
    recorder
        The store's recorder.
    dataset
        The dataset of the event.
    kind, message, data
        As in :class:`~neuromirror.model.EventRaised`.
    """
    if any(one.message == message for one in _events(recorder, dataset, kind)):
        return False
    recorder.record(
        EventRaised(
            dataset.mirror, dataset.local_id, kind, message, current_timestamp(), dict(data)
        )
    )
    return True


def is_tombstoned(recorder: Recorder, dataset: DatasetRef) -> bool:
    """Return whether upstream removed the dataset and has not listed it again since."""
    events = [one for kind in (TOMBSTONE, RETURNED) for one in _events(recorder, dataset, kind)]
    return bool(events) and max(events, key=lambda one: one.id).kind == TOMBSTONE


def record_tombstone(recorder: Recorder, dataset: DatasetRef, message: str) -> None:
    """Record that upstream removed a dataset, unless its removal is already recorded.

    Parameters
    ----------
    recorder
        The store's recorder.
    dataset
        The dataset.
    message
        One sentence for the operator.
    """
    if not is_tombstoned(recorder, dataset):
        recorder.record(
            EventRaised(dataset.mirror, dataset.local_id, TOMBSTONE, message, current_timestamp())
        )


def record_return(recorder: Recorder, dataset: DatasetRef) -> None:
    """Record that upstream lists a removed dataset again.

    Nothing is recorded for a dataset that was not removed.
    """
    if is_tombstoned(recorder, dataset):
        message = f"{dataset.name} is listed upstream again"
        recorder.record(
            EventRaised(dataset.mirror, dataset.local_id, RETURNED, message, current_timestamp())
        )


def _events(recorder: Recorder, dataset: DatasetRef, kind: str) -> list[EventRow]:
    return list_known(recorder, lambda index: index.events(dataset.name, kind))
