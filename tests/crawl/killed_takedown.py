"""Take down (or reinstate) a dataset, and kill the process at the n-th visible step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from neuromirror.crawl import load_mirrors, open_recorder
from neuromirror.crawl.takedown import reinstate, take_down
from neuromirror.store import Store

STEPS = ("rename", "replace", "unlink", "rmdir")


def main(folder: str, mirrors: str, verb: str, name: str, steps: int) -> None:
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
    store = Store.open(Path(folder))
    with open_recorder(store, store.index_path) as recorder:
        declared = load_mirrors(Path(mirrors))
        if verb == "down":
            list(take_down(store, recorder, name, "a test", "operator", declared))
        else:
            list(reinstate(store, recorder, name, "operator", declared))
    sys.exit(7)


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
