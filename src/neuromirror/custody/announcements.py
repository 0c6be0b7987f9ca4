"""What policies cannot keep in time, and its record in the journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from neuromirror.crawl.recorder import Recorder
from neuromirror.custody.policy_plan import MissingCopies
from neuromirror.custody.policy_status import ShortageReason
from neuromirror.index import DatasetWithdrawnError, Index, UnknownDatasetError, UnknownMirrorError
from neuromirror.model import EventRaised, current_timestamp

SHORTAGE = "shortage"
"""The kind of the events."""

_MAX_KEYS = 20


class Announcement(Struct, frozen=True):
    """Contents of a dataset that a policy cannot keep in time, announced for the first time.

    Attributes
    ----------
    policy, dataset
        The policy and the dataset.
    reason, detail
        Why.
    contents, bytes
        Number and size of the contents.
    horizon
        The earliest time at which upstream may delete one of them; None if no time is known.
    keys
        Their annex keys.
    """

    policy: str
    dataset: str
    reason: ShortageReason
    detail: str
    contents: int
    bytes: int
    horizon: datetime | None
    keys: tuple[str, ...]

    @property
    def message(self) -> str:
        """The announcement as text."""
        when = "at any time" if self.horizon is None else f"from {self.horizon:%Y-%m-%d} on"
        return (
            f"policy {self.policy} lacks copies of {self.contents} contents ({self.bytes} bytes), "
            f"which upstream may delete {when}: {self.detail}"
        )


def group_announcements(policy: str, missing: Sequence[MissingCopies]) -> list[Announcement]:
    """Return one announcement per dataset and reason.

    Parameters
    ----------
    policy
        The name of the policy.
    missing
        The contents that lack copies.

    Returns
    -------
    list of Announcement
        The announcements.
    """
    groups: dict[tuple[str, ShortageReason], list[MissingCopies]] = {}
    for one in missing:
        groups.setdefault((one.content.dataset, one.reason), []).append(one)
    return [
        Announcement(
            *(policy, dataset, reason, some[0].detail, len(some)),
            bytes=sum(one.content.size for one in some),
            horizon=min((one.content.horizon for one in some if one.content.horizon), default=None),
            keys=tuple(one.content.key for one in some),
        )
        for (dataset, reason), some in groups.items()
    ]


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
