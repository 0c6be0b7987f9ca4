"""Syncs that count their steps on disk, and kill themselves at one of them.

Steps are events of Python's audit hooks: files opened for writing, renames, links, removals,
truncations and started programs.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.forked_commands import call_in_child

STEPS = (
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.truncate",
    "os.mkdir",
    "subprocess.Popen",
    "fcntl.flock",
)


def count_steps(mirrors: Path, store: Path) -> int:
    """Sync a store in another process; return the number of its steps."""
    code, steps = call_in_child(_sync, mirrors, store, -1)
    assert code == 0
    assert isinstance(steps, int)
    return steps


def kill_syncs(mirrors: Path, steps: Mapping[Path, int]) -> None:
    """Begin a sync of each store in another process, and kill it at a step."""
    for store, step in steps.items():
        code, _ = call_in_child(_sync, mirrors, store, step)
        assert code == -signal.SIGKILL


def _sync(mirrors: Path, folder: Path, kill_at: int) -> int:
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.store import Store

    requests = parse_sync_requests([], load_mirrors(mirrors))  # imports the sources
    count = 0
    lock = threading.Lock()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in STEPS or (event == "open" and opens_for_writing(arguments)):
            with lock:
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    store = Store.open(folder, create=True)
    run = Sync(store, store.index_path, jobs=1)
    assert [result for result in run.results(requests) if result.exit_code] == []
    return count


def opens_for_writing(arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event ``open`` with these arguments can change the file."""
    mode = arguments[1]
    flags = arguments[2] if len(arguments) > 2 else 0
    return (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or bool(
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    )
