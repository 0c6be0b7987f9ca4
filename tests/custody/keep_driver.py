"""Keeps contents of a server in a directory vault: ``python keep_driver.py FOLDER URL COUNT KILL``.

With KILL > 0 the process kills itself at that step: a file that is opened for writing, renamed,
removed or made read-only, or a folder that is created.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from neuromirror.config.vault_files import load_vault
from neuromirror.custody.keep import run_keep
from neuromirror.custody.keep_outcomes import KeepOptions
from neuromirror.custody.keep_plan import KeepItem
from neuromirror.index.ledger import Ledger
from neuromirror.vault.opening import open_vault
from support.vaults import key_of

_STEPS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.chmod"})


def content_of(number: int) -> bytes:
    """Return a content; every third one is too large for memory."""
    return b"%08d" % number * (100 if number % 3 else 100_000)


def items_at(url: str, count: int) -> list[KeepItem]:
    """Return the contents of a server."""
    contents = [content_of(number) for number in range(count)]
    return [
        KeepItem("demo:1", "1", f"{n}.bin", key_of(one), len(one), (f"{url}/{n}.bin",))
        for n, one in enumerate(contents)
    ]


def main() -> None:
    """Keep the contents; print the status of each."""
    folder, url, count, kill = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    step = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal step
        is_write = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if (event in _STEPS or is_write) and str(folder) in str(arguments[0]):
            step += 1
            if step == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    options = KeepOptions(jobs=2, allowed_hosts=frozenset({urlsplit(url).netloc}))
    if kill:
        sys.addaudithook(hook)
    with (
        closing(open_vault(load_vault(folder / "vaults" / "nas.toml"), None, create=True)) as vault,
        Ledger.open(folder / "custody.sqlite") as ledger,
    ):
        found = [one.status for one in run_keep(items_at(url, count), vault, ledger, options)]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
