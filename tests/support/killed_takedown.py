"""Takedowns and reinstatements that kill their process at the n-th visible step."""

import os
import signal
from pathlib import Path

from support.forked_commands import call_in_child

STEPS = ("rename", "replace", "unlink", "rmdir")


def kill_takedown(folder: Path, mirrors: Path, verb: str, name: str, steps: int) -> bool:
    """Take down (or reinstate) a dataset in a child process; return whether it was killed."""
    code, _ = call_in_child(_run, folder, mirrors, verb, name, steps)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _run(folder: Path, mirrors: Path, verb: str, name: str, steps: int) -> None:
    from neuromirror.crawl import load_mirrors, open_recorder
    from neuromirror.crawl.takedown import reinstate, take_down
    from neuromirror.store import Store

    left = steps

    def counted(real: object) -> object:
        def step(*args: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*args, **named)  # type: ignore[operator]

        return step

    for one in STEPS:
        setattr(os, one, counted(getattr(os, one)))
    store = Store.open(folder)
    with open_recorder(store, store.index_path) as recorder:
        declared = load_mirrors(mirrors)
        if verb == "down":
            list(take_down(store, recorder, name, "a test", "operator", declared))
        else:
            list(reinstate(store, recorder, name, "operator", declared))
