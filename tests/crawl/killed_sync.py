"""A sync that counts its steps on disk and kills itself at one of them.

Usage: killed_sync.py MIRRORS STORE [STEP]. Steps are events of Python's audit hooks: files opened
for writing, renames, links, removals, truncations and started programs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
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


def main() -> None:
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.store import Store

    mirrors, folder, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    kill_at = int(step) if step else -1
    count = 0
    lock = threading.Lock()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in STEPS or (event == "open" and _writes(arguments)):
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
    sys.stdout.write(json.dumps(count))


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode = arguments[1]
    flags = arguments[2] if len(arguments) > 2 else 0
    return (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or bool(
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    )


if __name__ == "__main__":
    main()
