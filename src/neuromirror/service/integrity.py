"""Work on a whole store that is done a slice at a time, round after round.

How far a round has come is in ``<store>/neuromirror/tasks/<name>.json``. Without the file, or with
one that cannot be read, a round begins anew: nothing is lost by that but work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from neuromirror.index.backup import integrity_errors_by_table
from neuromirror.model import parse_json
from neuromirror.service.store_checks import CheckPosition, CheckResult, StoreChecker
from neuromirror.store import Store, write_atomically
from neuromirror.store.durable_files import make_folder

_FORMAT = 1
_INDEX_SHARE = 1 / 3
"""The share of a slice that the pages of the index may take."""


def load_progress(path: Path) -> dict[str, Any]:
    """What a chore wrote down; empty where there is nothing to read."""
    try:
        found = parse_json(path.read_bytes(), path.name)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == _FORMAT else {}


def save_progress(path: Path, progress: dict[str, Any]) -> None:
    """Writes down how far a chore has come."""
    make_folder(path.parent)
    content = json.dumps({"format": _FORMAT, **progress}, sort_keys=True).encode()
    write_atomically(path, content + b"\n", durable=False)


@dataclass(slots=True)
class IntegrityState:
    """What is known of a store's wholeness.

    ``mark`` is how far the round has come, ``table`` the table of the index that was looked at
    last; ``ended`` when the last round was over (ISO 8601, empty before the first). ``broken`` has
    by alias (or ``journal``, ``index``) what is broken, until a look finds it whole.
    """

    position: CheckPosition = field(default_factory=CheckPosition)
    table: str = ""
    finished_at: str = ""
    damage: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, store: Store) -> IntegrityState:
        """What earlier looks found."""
        progress = load_progress(store.task_state_path("integrity"))
        try:
            return cls(
                CheckPosition(str(progress["alias"]), int(progress["steps"])),
                str(progress["table"]),
                str(progress["ended"]),
                {str(name): list(map(str, found)) for name, found in progress["broken"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    def save(self, store: Store) -> None:
        """Writes it down."""
        alias, steps = self.position
        progress = {"alias": alias, "steps": steps, "table": self.table, "ended": self.finished_at}
        save_progress(store.task_state_path("integrity"), {**progress, "broken": self.damage})

    def record(self, checked: CheckResult) -> None:
        """Notes what is broken."""
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
    """Looks at a store and its index, and keeps in mind what is broken, until it is found whole.

    All of it; or what is behind the ``wanted`` aliases; or, for so many ``seconds``, what comes
    after where the last such look ended. Raises StoreBusyError where another look is under way.
    """
    began = time.monotonic()
    with (
        store.lock("integrity", "the look at the store's integrity"),
        _persistent_state(store) as state,
    ):
        checks = StoreChecker(store, index_path, git_seconds)
        for name in ("journal", "index"):
            state.damage.pop(name, None)
        # a step may take long: what went before it is known all the same
        for checked in checks.check_journal():
            state.record(checked)
            yield checked
        pages: Iterator[CheckResult] = iter(())
        if seconds is not None:
            pages = _check_next_tables(index_path, state, seconds * _INDEX_SHARE)
        elif selected is None:
            pages = checks.check_index_pages()
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
            gone = state.damage.keys() - {*checks.aliases(), "journal", "index"}
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
    """The pages of some tables of the index, those that come next."""
    if not index_path.exists():
        message = f"the index {index_path} is missing; run 'neuromirror rebuild-index'"
        yield CheckResult("index", "index", CheckPosition(), "error", message)
        return
    for table, wrong in integrity_errors_by_table(index_path, state.table, seconds):
        state.table = table
        if wrong is None:
            message = f"the table {table} takes longer; 'neuromirror fsck' looks at all of it"
            yield CheckResult("index", "index", CheckPosition(), "impossible", message)
            return
        if wrong:
            message = (
                f"the table {table} of the index {index_path} is damaged ({wrong[0]}); run "
                "'neuromirror rebuild-index': it is made again from the store, nothing is lost"
            )
            yield CheckResult("index", "index", CheckPosition(), "error", message)
    state.table = ""
