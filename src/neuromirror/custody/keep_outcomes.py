"""Options and outcomes of copying contents into vaults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.custody.keep_plan import KeepItem
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import CheckMethod
from neuromirror.transfer.outcomes import Outcome, Status

JOBS: Final = 8
"""Default number of concurrent copies."""


def _never() -> bool:
    return False


class KeepOutcome(Outcome, frozen=True):
    """The outcome of ``keep`` for one content, or for the rest of a run.

    Attributes
    ----------
    vault
        The name of the vault.
    method
        How the copy was verified.
    """

    vault: str | None = None
    method: CheckMethod | None = None


class KeepOptions(Struct, frozen=True):
    """The options of a run.

    Attributes
    ----------
    jobs
        Number of concurrent downloads; of copies that the vault makes itself, four times as many.
    allowed_hosts
        Hosts of archives, with their ports, that may be accessed whatever their addresses are.
    with_credentials
        Whether credentials may be used for a vault that others may read: only if all contents are
        those of a public store. For a private vault, they are always used.
    bytes_per_second
        Limit for downloads; None for no limit.
    until
        When to stop, as :func:`time.monotonic`; None for no limit.
    is_stopping
        Returns whether to stop.
    report_bytes
        Called with the number of bytes that were received.
    """

    jobs: int = JOBS
    allowed_hosts: frozenset[str] = frozenset()
    with_credentials: bool = False
    bytes_per_second: float | None = None
    until: float | None = None
    is_stopping: Callable[[], bool] = _never
    report_bytes: Callable[[int], None] = field(default=lambda count: None)

    @property
    def is_over(self) -> bool:
        """Whether to stop now."""
        return (self.until is not None and time.monotonic() >= self.until) or self.is_stopping()


def item_outcome(
    name: str, item: KeepItem, status: Status, message: str, action: str = "keep"
) -> KeepOutcome:
    """Return the outcome for a content.

    Parameters
    ----------
    name
        The name of the vault.
    item
        The content.
    status, message
        The result.
    action
        What was done.

    Returns
    -------
    KeepOutcome
        The outcome.
    """
    return KeepOutcome(
        *(action, status, item.path, message, item.dataset, item.version),
        key=item.key,
        size=item.size,
        vault=name,
    )


def copy_outcome(
    action: str,
    name: str,
    key: str,
    size: int | None,
    status: Status,
    message: str,
    method: CheckMethod | None = None,
) -> KeepOutcome:
    """Return the outcome for a copy, of which no file is known.

    Parameters
    ----------
    action
        What was done.
    name
        The name of the vault.
    key, size
        The annex key, and the size in bytes.
    status, message
        The result.
    method
        How the copy was verified; None if it was not.

    Returns
    -------
    KeepOutcome
        The outcome.
    """
    found = KeepItem("", "", ".", key, size, ())
    outcome = item_outcome(name, found, status, message, action)
    return replace(outcome, dataset=None, version=None, method=method)


def planned_outcomes(
    items: Iterable[KeepItem], name: str, uuid: str | None, ledger: Ledger
) -> Iterator[KeepOutcome]:
    """Yield the outcomes that a dry run reports; nothing is changed.

    Parameters
    ----------
    items
        The contents.
    name, uuid
        The vault; the UUID is None if it does not exist yet.
    ledger
        The ledger.

    Yields
    ------
    KeepOutcome
        One per content: ``ok`` if it would be copied, ``notneeded`` if it is recorded.
    """
    chosen = {one.key: one for one in items}
    lacking = set(chosen if uuid is None else ledger.missing(uuid, list(chosen)))
    for key, item in chosen.items():
        if key in lacking:
            yield item_outcome(name, item, "ok", "would be copied")
        else:
            yield item_outcome(name, item, "notneeded", "in the vault")
