"""Record in the journal what policies cannot keep in time."""

from __future__ import annotations

from collections.abc import Iterable

from neuromirror.crawl.recorder import Recorder
from neuromirror.custody.policies import Announcement
from neuromirror.index import DatasetWithdrawnError, Index, UnknownDatasetError, UnknownMirrorError
from neuromirror.model import EventRaised, current_timestamp

SHORTAGE = "shortage"
"""The kind of the events."""

_MAX_KEYS = 20


def record_announcements(recorder: Recorder, announcements: Iterable[Announcement]) -> None:
    """Record an event per announcement whose dataset is in the store.

    The ledger has the events of all datasets.

    Parameters
    ----------
    recorder
        The recorder of the store.
    announcements
        The announcements.
    """
    for one in announcements:
        if not recorder.ask(lambda index, name=one.dataset: _is_known(index, name)):  # type: ignore[misc]
            continue
        mirror, _, local_id = one.dataset.partition(":")
        data = {
            **{"policy": one.policy, "reason": one.reason, "contents": one.contents},
            **{
                "bytes": one.bytes,
                "horizon": one.horizon and one.horizon.isoformat("T", "seconds"),
            },
            "keys": list(one.keys[:_MAX_KEYS]),
        }
        recorder.record(
            EventRaised(mirror, local_id, SHORTAGE, one.message, current_timestamp(), data)
        )


def _is_known(index: Index, name: str) -> bool:
    try:
        index.dataset(name)
    except (UnknownDatasetError, UnknownMirrorError, DatasetWithdrawnError):
        return False
    return True
