"""A sync, or a run of the service, whose clock is wrong by a number of seconds.

Usage: shifted_sync.py SECONDS MIRRORS STORE [serve]. The clock of a single process cannot be set
from outside, so ``datetime`` is replaced in each module that asks for the current time.
"""

from __future__ import annotations

import datetime
import inspect
import sys
import time
from pathlib import Path

_SECONDS = float(sys.argv[1])
_time, _time_ns = time.time, time.time_ns


class ShiftedDatetime(datetime.datetime):
    """A datetime class with a shifted ``now``."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=_SECONDS)


def main() -> None:
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.model import current_timestamp
    from neuromirror.service import serve
    from neuromirror.store import Store

    store = Store.open(Path(sys.argv[3]), create=True)
    loaded = load_mirrors(Path(sys.argv[2]))
    requests = parse_sync_requests([], loaded)  # imports the sources
    time.time = lambda: _time() + _SECONDS
    time.time_ns = lambda: _time_ns() + int(_SECONDS * 1e9)
    for name, module in list(sys.modules.items()):
        if name.startswith("neuromirror.") and "datetime.now(" in inspect.getsource(module):
            module.datetime = ShiftedDatetime  # type: ignore[attr-defined]

    assert serve.__name__ in sys.modules
    if sys.argv[4:] == ["serve"]:
        from neuromirror.cli import main as command

        options = ["--mirrors", sys.argv[2], "--store", sys.argv[3]]
        command([*options, "serve", "--once", "--executor", "threads"])
    results = list(Sync(store, store.index_path).results(requests))
    bad = [one for one in results if one.exit_code]
    if bad:
        sys.exit(f"failed: {bad}")
    sys.stdout.write(current_timestamp())


if __name__ == "__main__":
    main()
