"""Syncs that are killed at a step of a move, each followed by a complete sync.

Usage: killed_move.py MIRRORS PUBLIC PRIVATE EVERY. The stores are copied for each run; in each
run a sync is killed EVERY steps on disk later. Prints one JSON object per run: the step, whether
the sync was killed, and the state of both stores after the kill and after the sync that followed.
A separate process, because only a process with one thread may fork.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from killed_sync import STEPS, opens_for_writing

from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
from neuromirror.crawl.embargo import PrivateStore
from neuromirror.store import Store


def main() -> None:
    mirrors, public, private = map(Path, sys.argv[1:4])
    every, step, killed = int(sys.argv[4]), 1, True
    copies = {name: folder.with_name(f"{folder.name}-copy") for name, folder in
             {"public": public, "private": private}.items()}  # fmt: skip
    while killed:
        for folder, copy in ((public, copies["public"]), (private, copies["private"])):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy, symlinks=True)
        killed = _in_child(mirrors, copies, step)
        after = {name: _store_state(copy) for name, copy in copies.items()}
        if _in_child(mirrors, copies, 0):
            sys.exit("killed unexpectedly")
        ended = {name: _store_state(copy) for name, copy in copies.items()}
        record = {"step": step, "killed": killed, "after": after, "ended": ended}
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()
        step += every


def _in_child(mirrors: Path, copies: dict[str, Path], kill_at: int) -> bool:
    child = os.fork()
    if not child:
        try:
            _sync(mirrors, copies, kill_at)
        except BaseException as error:  # noqa: BLE001 - the child must not run the parent's code
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    if os.WEXITSTATUS(status):
        sys.exit("a sync failed")
    return False


def _sync(mirrors: Path, copies: dict[str, Path], kill_at: int) -> None:
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
    store = Store.open(copies["public"])
    run = Sync(store, store.index_path, jobs=1, private=copies["private"])
    bad = [
        one for one in run.results(parse_sync_requests([], load_mirrors(mirrors))) if one.exit_code
    ]
    if bad:
        sys.exit(f"failed: {bad}")


def _store_state(folder: Path) -> dict[str, Any]:
    """Return the versions in the journal and the refs, by dataset."""
    store = Store.open(folder)
    versions: dict[str, list[str]] = {}
    for _, entry in store.read_entries(0):
        if hasattr(entry, "commit"):
            versions.setdefault(f"{entry.mirror}:{entry.local_id}", []).append(entry.commit)
    refs = {
        alias: repository.refs()
        for alias, repository in store.aliases()
        if "--" in alias  # a superdataset may be outdated after a kill
    }
    return {"versions": versions, "refs": refs}


if __name__ == "__main__":
    main()
