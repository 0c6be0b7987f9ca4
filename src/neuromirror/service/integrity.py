"""Integrity checks of a whole store, done in time slices.

Without a saved state, a pass starts from the beginning; only time is lost.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from msgspec import field

from neuromirror.index.backup import integrity_errors_by_table
from neuromirror.service.store_checks import (
    START_POSITION,
    CheckPosition,
    CheckResult,
    StoreChecker,
)
from neuromirror.store import Store
from neuromirror.store.task_states import TaskState

_INDEX_SHARE = 1 / 3
"""Share of a time slice for the pages of the index."""
_DIGESTS_SHARE = 1 / 6
"""Share of a time slice for block digests."""


class IntegrityState(TaskState):
    """The result of the integrity checks of a store so far, saved from one time slice to the next.

    ``position`` is the progress of the current pass, ``table`` the index table checked last,
    ``digests`` the file with block digests checked last, ``finished_at`` the end of the last
    complete pass (ISO 8601, empty before the first). ``damage`` holds messages by alias (or
    ``journal``, ``index``, ``block-digests``) until a check finds no damage.
    """

    task = "integrity"
    position: CheckPosition = START_POSITION
    table: str = ""
    digests: str = ""
    finished_at: str = ""
    damage: dict[str, list[str]] = field(default_factory=dict)

    @property
    def messages(self) -> list[str]:
        """The messages about the damage of all subjects."""
        return [one for found in self.damage.values() for one in found]

    def record(self, checked: CheckResult) -> None:
        """Add a failed check to the known damage."""
        name = checked.position.alias or checked.subject
        if checked.status == "error":
            self.damage.setdefault(name, []).append(f"{checked.name}: {checked.message}")


def check_integrity(
    store: Store,
    index_path: Path,
    selected: Collection[str] | None = None,
    seconds: float | None = None,
    git_seconds: float | None = None,
) -> Generator[CheckResult, None, None]:
    """Check a store and its index, and record the damage until a later check finds none.

    Parameters
    ----------
    store, index_path
        The store and its index.
    selected
        Check the datasets with these aliases only.
    seconds
        Stop after this time, and continue at this position the next time.
    git_seconds
        Time limit of ``git fsck`` per repository.

    Yields
    ------
    CheckResult
        One result per checked item.

    Raises
    ------
    StoreBusyError
        If another integrity check is running.
    """
    began = time.monotonic()
    with (
        store.lock("integrity", "the integrity check of the store"),
        _persistent_state(store) as state,
    ):
        checks = StoreChecker(store, index_path, git_seconds)
        subjects = ["journal"]
        if seconds is not None or selected is None:  # those of one dataset leave out the rest
            subjects += ["index", *["block-digests"] * (not seconds or not state.digests)]
        for name in subjects:
            state.damage.pop(name, None)
        # a step may take long: record each result before the next step
        for checked in checks.check_journal():
            state.record(checked)
            yield checked
        pages: Iterator[CheckResult] = iter(())
        if seconds is not None:
            pages = chain(
                _check_next_tables(index_path, state, seconds * _INDEX_SHARE),
                _check_next_digests(checks, state, seconds * _DIGESTS_SHARE),
            )
        elif selected is None:
            pages = chain(checks.check_index_pages(), checks.check_block_digests())
        after = state.position if seconds is not None else CheckPosition()
        last = after.alias if after.steps else ""
        for checked in chain(pages, checks.check_repositories(selected, after)):
            alias = checked.position.alias
            if alias != last:
                state.damage.pop(alias, None)
                last = alias
            if selected is None and alias:
                state.position = checked.position
            state.record(checked)
            yield checked
            if seconds is not None and time.monotonic() - began >= seconds:
                return
        if selected is None:
            state.position, state.finished_at = (
                CheckPosition(),
                datetime.now(UTC).isoformat(timespec="seconds"),
            )
            gone = state.damage.keys() - {*checks.aliases(), "journal", "index", "block-digests"}
            for name in gone:
                del state.damage[name]


@contextmanager
def _persistent_state(store: Store) -> Iterator[IntegrityState]:
    state = IntegrityState.load(store)
    try:
        yield state
    finally:
        state.save(store)


def _check_next_tables(
    index_path: Path, state: IntegrityState, seconds: float
) -> Iterator[CheckResult]:
    """Check the pages of the index tables that come next."""
    if not index_path.exists():
        message = f"the index {index_path} is missing; run 'neuromirror rebuild-index'"
        yield CheckResult("index", "index", CheckPosition(), "error", message)
        return
    for table, wrong in integrity_errors_by_table(index_path, state.table, seconds):
        state.table = table
        if wrong is None:
            message = (
                f"the table {table} takes too long for this check; run 'neuromirror fsck' to "
                "check all tables"
            )
            yield CheckResult("index", "index", CheckPosition(), "impossible", message)
            return
        if wrong:
            message = (
                f"the table {table} of the index {index_path} is damaged ({wrong[0]}); run "
                "'neuromirror rebuild-index', which rebuilds the index from the store without loss"
            )
            yield CheckResult("index", "index", CheckPosition(), "error", message)
    state.table = ""


def _check_next_digests(
    checks: StoreChecker, state: IntegrityState, seconds: float
) -> Iterator[CheckResult]:
    """Check the files with block digests that come next."""
    until = time.monotonic() + seconds
    for checked in checks.check_block_digests(state.digests):
        state.digests = checked.name
        yield checked
        if time.monotonic() >= until:
            return
    state.digests = ""
