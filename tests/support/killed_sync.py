"""Syncs that count their steps on disk, and kill themselves at one of them.

Usage: killed_sync.py MIRRORS STORE [STEP [STORE STEP]…]. Without a step, prints the number of steps
of a complete sync. With steps, each sync runs in a child process; prints whether all were killed.
Steps are events of Python's audit hooks: files opened for writing, renames, links, removals,
truncations and started programs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    return int(_run_program(mirrors, store))


def kill_syncs(mirrors: Path, steps: Mapping[Path, int]) -> None:
    """Begin a sync of each store in another process, and kill it at a step."""
    arguments = [one for store, step in steps.items() for one in (store, step)]
    assert json.loads(_run_program(mirrors, *arguments)) is True


def _run_program(mirrors: Path, *arguments: object) -> str:
    command = [sys.executable, __file__, str(mirrors), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    from neuromirror.crawl import load_mirrors, parse_sync_requests

    mirrors, arguments = Path(sys.argv[1]), sys.argv[2:]
    if len(arguments) == 1:
        sys.stdout.write(json.dumps(_sync(mirrors, Path(arguments[0]), -1)))
        return
    parse_sync_requests([], load_mirrors(mirrors))  # imports the sources, once for all children
    killed = []
    for store, step in zip(arguments[::2], arguments[1::2], strict=True):
        child = os.fork()
        if not child:
            _sync(mirrors, Path(store), int(step))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed.append(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
    sys.stdout.write(json.dumps(all(killed)))


def _sync(mirrors: Path, folder: Path, kill_at: int) -> int:
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.store import Store

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
    loaded = load_mirrors(mirrors)
    bad = [one for one in run.results(parse_sync_requests([], loaded)) if one.exit_code]
    if bad:
        sys.exit(f"failed: {bad}")
    return count


def opens_for_writing(arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event ``open`` with these arguments can change the file."""
    mode = arguments[1]
    flags = arguments[2] if len(arguments) > 2 else 0
    return (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or bool(
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    )


if __name__ == "__main__":
    main()
