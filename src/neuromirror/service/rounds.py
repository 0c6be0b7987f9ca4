"""Work on a whole store that is done a slice at a time, round after round.

How far a round has come is in ``<store>/neuromirror/chores/<name>.json``. Without the file, or with
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

from neuromirror.index.backup import flaws_by_table
from neuromirror.model import parse_json
from neuromirror.service.checks import Checked, Checks, Mark
from neuromirror.store import Store, write_atomically
from neuromirror.store.disk import make_folder

_FORMAT = 1
_OF_INDEX = 1 / 3
"""The share of a slice that the pages of the index may take."""


def remembered(path: Path) -> dict[str, Any]:
    """What a chore wrote down; empty where there is nothing to read."""
    try:
        found = parse_json(path.read_bytes(), path.name)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == _FORMAT else {}


def remember(path: Path, told: dict[str, Any]) -> None:
    """Writes down how far a chore has come."""
    make_folder(path.parent)
    content = json.dumps({"format": _FORMAT, **told}, sort_keys=True).encode()
    write_atomically(path, content + b"\n", lasting=False)


@dataclass(slots=True)
class Integrity:
    """What is known of a store's wholeness.

    ``mark`` is how far the round has come, ``table`` the table of the index that was looked at
    last; ``ended`` when the last round was over (ISO 8601, empty before the first). ``broken`` has
    by alias (or ``journal``, ``index``) what is broken, until a look finds it whole.
    """

    mark: Mark = field(default_factory=Mark)
    table: str = ""
    ended: str = ""
    broken: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> Integrity:
        """What earlier looks found."""
        told = remembered(store.chore_path("integrity"))
        try:
            return cls(
                Mark(str(told["alias"]), int(told["steps"])),
                str(told["table"]),
                str(told["ended"]),
                {str(name): list(map(str, found)) for name, found in told["broken"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    def save(self, store: Store) -> None:
        """Writes it down."""
        alias, steps = self.mark
        told = {"alias": alias, "steps": steps, "table": self.table, "ended": self.ended}
        remember(store.chore_path("integrity"), {**told, "broken": self.broken})

    def take(self, checked: Checked) -> None:
        """Notes what is broken."""
        name = checked.mark.alias or checked.what
        if checked.status == "error":
            self.broken.setdefault(name, []).append(f"{checked.name}: {checked.message}")


def look(
    store: Store,
    index_path: Path,
    wanted: Collection[str] | None = None,
    seconds: float | None = None,
    git_seconds: float | None = None,
) -> Generator[Checked, None, None]:
    """Looks at a store and its index, and keeps in mind what is broken, until it is found whole.

    All of it; or what is behind the ``wanted`` aliases; or, for so many ``seconds``, what comes
    after where the last such look ended. Raises StoreBusy where another look is under way.
    """
    began = time.monotonic()
    with store.lock("integrity", "the look at the store's integrity"), _kept(store) as known:
        checks = Checks(store, index_path, git_seconds)
        for name in ("journal", "index"):
            known.broken.pop(name, None)
        # a step may take long: what went before it is known all the same
        for checked in checks.read_journal():
            known.take(checked)
            yield checked
        pages: Iterator[Checked] = iter(())
        if seconds is not None:
            pages = _some_pages(index_path, known, seconds * _OF_INDEX)
        elif wanted is None:
            pages = checks.index_pages()
        after = known.mark if seconds is not None else Mark()
        last = after.alias if after.steps else ""
        for checked in chain(pages, checks.repositories(wanted, after)):
            alias = checked.mark.alias
            if alias != last:
                known.broken.pop(alias, None)
                last = alias
            if wanted is None and alias:
                known.mark = checked.mark
            known.take(checked)
            yield checked
            if seconds is not None and time.monotonic() - began >= seconds:
                return
        if wanted is None:
            known.mark, known.ended = Mark(), datetime.now(UTC).isoformat(timespec="seconds")
            gone = known.broken.keys() - {*checks.aliases(), "journal", "index"}
            for name in gone:
                del known.broken[name]


@contextmanager
def _kept(store: Store) -> Iterator[Integrity]:
    known = Integrity.of(store)
    try:
        yield known
    finally:
        known.save(store)


def _some_pages(index_path: Path, known: Integrity, seconds: float) -> Iterator[Checked]:
    """The pages of some tables of the index, those that come next."""
    if not index_path.exists():
        message = f"the index {index_path} is missing; run 'neuromirror rebuild-index'"
        yield Checked("index", "index", Mark(), "error", message)
        return
    for table, wrong in flaws_by_table(index_path, known.table, seconds):
        known.table = table
        if wrong is None:
            message = f"the table {table} takes longer; 'neuromirror fsck' looks at all of it"
            yield Checked("index", "index", Mark(), "impossible", message)
            return
        if wrong:
            message = (
                f"the table {table} of the index {index_path} is damaged ({wrong[0]}); run "
                "'neuromirror rebuild-index': it is made again from the store, nothing is lost"
            )
            yield Checked("index", "index", Mark(), "error", message)
    known.table = ""
