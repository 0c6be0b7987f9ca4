"""Syncs that are killed at a step of a move to the public store."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from support.forked_commands import call_in_child
from support.killed_sync import STEPS, opens_for_writing


def kill_move(mirrors: Path, public: Path, private: Path, step: int) -> bool:
    """Begin a sync in another process, and kill it at a step on disk of the move.

    Returns whether it was killed: a move may have fewer steps.
    """
    code, _ = call_in_child(_sync, mirrors, public, private, step)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _sync(mirrors: Path, public: Path, private: Path, kill_at: int) -> None:
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.crawl.embargo import PrivateStore
    from neuromirror.store import Store

    moving = threading.Event()
    count = 0
    move_to_public = PrivateStore.move_to_public

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not moving.is_set():
            return
        if event in STEPS or (event == "open" and opens_for_writing(arguments)):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched(*arguments: Any) -> None:
        moving.set()
        move_to_public(*arguments)
        moving.clear()

    PrivateStore.move_to_public = watched  # type: ignore[method-assign]
    sys.addaudithook(hook)
    store = Store.open(public)
    run = Sync(store, store.index_path, jobs=1, private=private)
    results = run.results(parse_sync_requests([], load_mirrors(mirrors)))
    assert [result for result in results if result.exit_code] == []
