"""Syncs whose clock is wrong by a number of seconds.

The clock of a process cannot be set from outside, so ``datetime`` is replaced in each module that
asks for the current time, in a child process.
"""

import datetime
import inspect
import os
import sys
import time
from pathlib import Path

from support.forked_commands import call_in_child
from support.mirror_harness import MirrorHarness


def sync_with_shifted_clock(
    harness: MirrorHarness, seconds: float, zone: str = "UTC"
) -> datetime.datetime:
    """Sync a store; return the time that was used as the current one."""
    code, now = call_in_child(_sync, harness.mirrors, harness.folder, seconds, zone)
    assert code == 0
    return datetime.datetime.fromisoformat(now)


def _sync(mirrors: Path, folder: Path, seconds: float, zone: str) -> str:
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.model import current_timestamp
    from neuromirror.store import Store

    requests = parse_sync_requests([], load_mirrors(mirrors))  # imports the sources
    _shift_clock(seconds, zone)
    store = Store.open(folder, create=True)
    results = Sync(store, store.index_path).results(requests)
    assert [result for result in results if result.exit_code] == []
    return current_timestamp()


def _shift_clock(seconds: float, zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()
    unshifted, unshifted_ns = time.time, time.time_ns

    class ShiftedDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: unshifted() + seconds
    time.time_ns = lambda: unshifted_ns() + int(seconds * 1e9)
    for name, module in list(sys.modules.items()):
        # reading the source of each module takes long
        is_importer = getattr(module, "datetime", None) is datetime.datetime
        is_ours = name.startswith("neuromirror.") and is_importer
        if is_ours and "datetime.now(" in inspect.getsource(module):
            module.datetime = ShiftedDatetime  # type: ignore[attr-defined]
