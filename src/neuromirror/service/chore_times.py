"""The chores of a service, each at its time, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from neuromirror.crawl import FailureLog
from neuromirror.index import Schedule, TaskRow
from neuromirror.model import NeuromirrorError
from neuromirror.net import redact
from neuromirror.service.chores import Chore, ChoreFailed
from neuromirror.service.errands import Observer
from neuromirror.service.logs import tell
from neuromirror.service.policy import spread

CHORE = "chore "
"""What the names of chores' tasks begin with; no dataset's name does."""


class ChoreTimes:
    """Runs chores that are due; when each is due next is in the schedule.

    ``log`` records the failures that a chore itself does not record; ``over`` tells that the
    service ends, and that no other chore is to be begun.
    """

    def __init__(
        self,
        chores: Sequence[Chore],
        schedule: Schedule,
        observer: Observer,
        log: FailureLog,
        over: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chores = chores
        self._schedule = schedule
        self._observer = observer
        self._log = log
        self._over = over
        self._clock = clock

    def run_due(self) -> int:
        """Runs what is due; gives the number of chores that failed."""
        return sum(not self._run(one) for one in self._chores if self._is_due(one))

    def _row(self, chore: Chore) -> TaskRow:
        name = CHORE + chore.name
        return self._schedule.task(name) or TaskRow(name, spacing=chore.every)

    def _is_due(self, chore: Chore) -> bool:
        row, now = self._row(chore), self._clock()
        # a clock that was ahead must not put a chore off for longer than it ever is
        soon = row.due is None or row.due <= now or row.due > now + 2 * chore.every
        return soon and not self._over()

    def _done(self, chore: Chore) -> tuple[str, bool]:
        """Run a chore; return its message, and whether it succeeded."""
        failed = ""
        try:
            message, done = chore.run(), True
        except ChoreFailed as error:
            message, done = str(error), False
        except (NeuromirrorError, OSError) as error:
            message, done, failed = str(error), False, str(error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not stop the others
            failed = redact(f"unexpected {type(error).__name__}: {error}; please report this")
            message, done = failed, False
        try:
            if failed:
                self._log.failed(chore.name, failed)
            else:
                self._log.succeeded(chore.name)
        except (NeuromirrorError, OSError) as error:
            return f"{message}; not recorded: {error}", False
        return message, done

    def _run(self, chore: Chore) -> bool:
        began = time.monotonic()
        message, done = self._done(chore)
        seconds, now, row = time.monotonic() - began, self._clock(), self._row(chore)
        self._schedule.put(
            [
                replace(
                    row,
                    due=now + chore.every * spread(row.name, int(now)),
                    spacing=chore.every,
                    failures=0 if done else row.failures + 1,
                    status="ok" if done else "failed",
                    ended=now,
                    seconds=seconds,
                    message=message,
                )
            ]
        )
        self._observer.chore_ended(chore.name, done, seconds)
        tell(
            "chore done" if done else "chore failed",
            message,
            level=logging.INFO if done else logging.ERROR,
            kind=chore.name,
            seconds=seconds,
        )
        return done
